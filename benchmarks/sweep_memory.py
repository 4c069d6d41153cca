"""B3: what a sweep keeps in memory, by the size of the data set (activations are drawn, no network runs)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from actors.vision.readout.units import Readout
from actors.vision.sweep.accumulators import ReadoutAccumulator, SweepPlan
from benchmarks import studied
from benchmarks.harness import Context, Curve, Metric, Result

ID = "B3"
TITLE = "A sweep's memory by the size of the data set"

N_UNITS, POSITIONS = 64, 49


class _Drawn:
    """A data set that is only counted."""

    name = fingerprint = "drawn"

    def __init__(self, n: int) -> None:
        self._n = n

    def __len__(self) -> int:
        return self._n

    def load(self, index: int) -> Any:
        raise NotImplementedError

    def provenance(self, index: int) -> Any:
        raise NotImplementedError


def run(context: Context) -> Result:
    sizes = (2_048, 8_000) if context.quick else (1_000, 10_000, 100_000)
    ours, keeps_all, sketched = [], [], []
    generator = torch.Generator().manual_seed(context.seed)
    for n in sizes:
        plan = SweepPlan(_Drawn(n), np.arange(n), (Readout("drawn"),), step=250)
        samples = plan.samples(POSITIONS)
        slots = plan.slots(samples)
        accumulator = ReadoutAccumulator(N_UNITS, plan.k, int((slots >= 0).sum()) * samples)
        sketch = studied.QuantileSketch(N_UNITS, 4096, "cpu")
        best = torch.full((N_UNITS,), float("-inf"))
        for start, stop in plan.steps():
            maps = torch.randn((stop - start, N_UNITS, POSITIONS), generator=generator)
            chosen = np.flatnonzero(slots[start:stop] >= 0)
            if len(chosen):
                where = torch.from_numpy(plan.positions(start, stop, samples, POSITIONS)[chosen])
                rows = torch.from_numpy(slots[start:stop][chosen, None] * samples + np.arange(samples))
                values = maps[torch.from_numpy(chosen)[:, None], :, where]
                accumulator.sample(rows.flatten(), values.flatten(0, 1))
            maxima = maps.amax(2)
            best = torch.maximum(best, maxima.amax(0))
            accumulator.add(maxima, torch.arange(start, stop))
            if n <= 10_000:
                sketch.add(maps.permute(0, 2, 1).flatten(0, 1))
        context.check(
            f"best image of each unit over {n} images",
            bool(np.array_equal(accumulator.top()[0][:, 0], best.numpy())),
        )
        ours.append((float(n), accumulator.state_bytes() / N_UNITS))
        keeps_all.append((float(n), 4.0 * n))
        if n <= 10_000:
            sketched.append((float(n), sketch.state_bytes() / N_UNITS))
    largest = max(value for _, value in ours)
    return Result(
        [
            Metric("bytes a unit", largest, "B", "<= 18000"),
            Metric("largest data set / the one before", ours[-1][1] / ours[-2][1], "x", "<= 1.01"),
            Metric("sketch of all positions / ours", sketched[-1][1] / largest, "x", ">= 5"),
        ],
        curves=[
            Curve(
                "Bytes a unit by images",
                "images",
                "bytes",
                {"ours": ours, "keep every maximum": keeps_all, "sketch, r = 4096": sketched},
            )
        ],
    )
