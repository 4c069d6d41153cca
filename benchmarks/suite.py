"""The benchmarks, in the order in which they run and are reported."""

SUITE = (
    "benchmarks.late_binding",
    "benchmarks.rpc_ceiling",
    "benchmarks.pixels_in",
    "benchmarks.dedup",
    "benchmarks.generate",
    "benchmarks.makespan",
    "benchmarks.agent_cost",
    "benchmarks.responsive",
)
