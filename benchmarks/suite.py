"""The benchmarks, in the order in which they run and are reported."""

SUITE = (
    "benchmarks.sweep_all_units",
    "benchmarks.sweep_units",
    "benchmarks.sweep_memory",
    "benchmarks.quantile_rank",
    "benchmarks.late_binding",
    "benchmarks.rpc_ceiling",
    "benchmarks.pixels_in",
    "benchmarks.dedup",
    "benchmarks.depth_mix",
    "benchmarks.end_to_end",
    "benchmarks.generate",
    "benchmarks.makespan",
    "benchmarks.agent_cost",
    "benchmarks.responsive",
    "benchmarks.nodes",
    "benchmarks.fault",
    "benchmarks.hostile",
    "benchmarks.first_error",
    "benchmarks.interventions",
)
