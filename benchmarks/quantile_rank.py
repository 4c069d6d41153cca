"""B4: how exact the quantiles of a sample are, and what they cost, against a sketch of all positions.

Activations are those of one layer of EfficientNet-lite0 (blocks.2, its real weights) on pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from actors.vision.backend import VisionBackend
from actors.vision.data.datasets import ArrayDataset
from actors.vision.readout.units import Readout
from actors.vision.sweep.accumulators import Draw, ReadoutAccumulator, SweepPlan
from benchmarks import studied
from benchmarks.harness import Context, Metric, Result, Table, timed

ID = "B4"
TITLE = "Quantiles from random positions"

LEVELS = (0.9, 0.99, 0.995, 0.999)
LAYER = "blocks.2"


def run(context: Context) -> Result:
    n, batch = (192, 16) if context.quick else (768, 16)
    with studied.scratch() as folder, torch.inference_mode():
        dataset = studied.pictures(n, 256, context.seed, Path(folder))
        backend = studied.backend(studied.LITE0, context.device, batch)
        readout = Readout(LAYER)
        kept: list[torch.Tensor] = []
        for start in range(0, n, batch):
            pixels = [dataset.load(index).pixels for index in range(start, start + batch)]
            backend.forward(pixels, {readout: lambda maps: kept.append(maps.clone())})
    n_positions = kept[0].shape[2] * kept[0].shape[3]
    n_units = kept[0].shape[1]
    exact = np.concatenate([maps.permute(0, 2, 3, 1).reshape(-1, n_units).cpu().numpy() for maps in kept])
    errors: dict[str, dict[float, np.ndarray]] = {}
    seconds: dict[str, float] = {}
    for samples in (1, 4, 16):
        plan = SweepPlan(dataset, np.arange(n), (readout,), step=batch, rows=n * samples)
        accumulator = ReadoutAccumulator(n_units, 15, n * samples, context.device)

        def fill(
            samples: int = samples, plan: SweepPlan = plan, accumulator: ReadoutAccumulator = accumulator
        ) -> None:
            for place, maps in enumerate(kept):
                draw = plan.draw(np.arange(place * batch, (place + 1) * batch), n_positions)
                accumulator.sample(draw.target, draw.of(maps))

        label = f"{samples} positions an image"
        seconds[label] = timed(fill) / n
        found = accumulator.quantiles(LEVELS)
        errors[label] = {q: studied.rank_error(exact, found[:, i], q) for i, q in enumerate(LEVELS)}
    sketch = studied.QuantileSketch(n_units, 4096, context.device)

    def sketch_all() -> None:
        for maps in kept:
            sketch.add(maps.permute(0, 2, 3, 1).flatten(0, 2))

    label = "sketch, r = 4096, all positions"
    seconds[label] = timed(sketch_all) / n
    errors[label] = {q: studied.rank_error(exact, sketch.quantile(q).cpu().numpy(), q) for q in LEVELS}
    context.check(
        "the sketch's median rank error at 0.99 is below 2e-3", bool(np.median(errors[label][0.99]) < 2e-3)
    )
    ours_share = _share_of_all_layers(backend, dataset, batch)
    rows = tuple(
        (
            name,
            round(seconds[name] * 1000, 4),
            *(f"{np.median(error):.1e} / {np.percentile(error, 95):.1e}" for error in errors[name].values()),
        )
        for name in errors
    )
    used = "16 positions an image" if n < 1000 else "4 positions an image"
    return Result(
        [
            Metric("median rank error at 0.99", float(np.median(errors[used][0.99])), "", "<= 0.001"),
            Metric(
                "4 positions of all 21,008 units / forward, while every image is sampled",
                ours_share,
                "x",
                "<= 0.01",
                "a small piece of work for each of 49 layers and the first touch of the reservoir's memory; the "
                "2,048 images that fill the reservoir are all that a sweep of any size samples",
            ),
            Metric(
                "sketch / 4 positions, time", seconds[label] / seconds["4 positions an image"], "x", ">= 400"
            ),
        ],
        tables=[
            Table(
                f"{LAYER}, {n} images: |rank error| median / 95 %",
                ("way", "ms an image", *map(str, LEVELS)),
                rows,
            )
        ],
        notes=[f"A sweep over {n} images takes {used}, over 2,048 and more it takes 4."],
    )


@torch.inference_mode()
def _share_of_all_layers(backend: VisionBackend, dataset: ArrayDataset, batch: int) -> float:
    """Return the time of taking 4 positions of all convolutions over that of the pass they are taken in."""
    readouts = studied.convolutions(backend)
    plan = SweepPlan(dataset, np.arange(2048), tuple(readouts), step=batch)
    accumulators = {
        readout: ReadoutAccumulator(backend.n_units(readout), 15, 4 * 2048, backend.device)
        for readout in readouts
    }
    shares = []
    for start in range(0, 5 * batch, batch):
        pixels = [dataset.load(index).pixels for index in range(start, start + batch)]
        draws: dict[int, Draw] = {}
        spent = 0.0

        def take(
            readout: Readout, start: int = start, draws: dict[int, Draw] = draws
        ) -> Callable[[torch.Tensor], None]:
            def read(units: torch.Tensor) -> None:
                nonlocal spent

                def sample() -> None:
                    n_positions = units.shape[2] * units.shape[3]
                    if n_positions not in draws:
                        draws[n_positions] = plan.draw(np.arange(start, start + batch), n_positions)
                    accumulators[readout].sample(draws[n_positions].target, draws[n_positions].of(units))

                spent += timed(sample)

            return read

        reads = {readout: take(readout) for readout in readouts}
        whole = timed(lambda pixels=pixels, reads=reads: backend.forward(pixels, reads))  # type: ignore[misc]
        shares.append(spent / (whole - spent))
    return float(np.median(shares[1:]))
