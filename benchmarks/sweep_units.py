"""B2: what a sweep costs by the number of units that are asked for: flat, as one pass yields them all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from actors.vision.sweep.accumulators import SweepPlan
from benchmarks import studied
from benchmarks.harness import Context, Curve, Metric, Result, interleave, median_ratio, timed
from benchmarks.sweep_all_units import OurSweep

ID = "B2"
TITLE = "A sweep's cost by the number of units"


def run(context: Context) -> Result:
    batch, rounds, per_round = 16, 3 if context.quick else 7, 2
    with studied.scratch() as name, torch.inference_mode():
        folder = Path(name)
        n = batch * per_round * (rounds + 1)
        dataset = studied.pictures(n, 256, context.seed, folder)
        backend = studied.backend(studied.LITE0, context.device, batch)
        every = studied.convolutions(backend)
        # All have the last convolution, so that every pass goes equally deep.
        sets = {1: every[-1:], 5: every[-5:], 15: every[-15:], len(every): every}
        pixels = [dataset.load(index).pixels for index in range(n)]
        batches = [pixels[start : start + batch] for start in range(0, n, batch)]
        peers: dict[str, Callable[[], float]] = {}
        n_units: dict[str, int] = {}
        for n_layers, readouts in sets.items():
            own = folder / str(n_layers)
            own.mkdir()
            sweep = OurSweep(backend, SweepPlan(dataset, np.arange(2048), tuple(readouts), step=batch), own)
            label = str(n_layers)
            n_units[label] = sum(backend.n_units(readout) for readout in readouts)
            peers[label] = _peer(sweep, batches, per_round, context.device)
        for warm in peers.values():
            warm()
        measured = interleave(peers, rounds)
    most, least = str(len(every)), "1"
    points = [(float(n_units[label]), float(np.median(times)) * 1000) for label, times in measured.items()]
    ratio = median_ratio(measured[most], measured[least])
    return Result(
        [Metric("all convolutions / the last one alone", ratio, "x", "<= 1.18", "memory speed: see B1")],
        curves=[
            Curve(
                "Milliseconds an image by units",
                "units",
                "ms",
                {"measured": points, "flat": [(x, points[0][1]) for x, _ in points]},
                ideal="flat",
                log_y=False,
            )
        ],
        notes=["Units come by layers: the fewest that share a pass are those of one layer (320)."],
    )


def _peer(
    sweep: OurSweep, batches: list[list[np.ndarray]], per_round: int, device: str
) -> Callable[[], float]:
    place = 0

    def measure() -> float:
        nonlocal place
        some = [batches[(place + i) % len(batches)] for i in range(per_round)]
        place += per_round

        def go() -> None:
            for each in some:
                sweep.step(each)
            studied.synchronize(device)

        return timed(go) / (per_round * len(batches[0]))

    return measure
