"""B4: how exact the quantiles of a sample are, and what they cost, against a sketch of all positions.

Activations are those of one layer of EfficientNet-lite0 (blocks.2, its real weights) on pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Way:
    """A way to take quantiles: seconds an image, and each unit's rank errors by level."""

    seconds: float
    errors: dict[float, np.ndarray]


def run(context: Context) -> Result:
    n, batch = (192, 16) if context.quick else (768, 16)
    with studied.scratch() as folder, torch.inference_mode():
        dataset = studied.pictures(n, 256, context.seed, Path(folder))
        backend = studied.backend(studied.LITE0, context.device, batch)
        kept = _maps(backend, dataset, batch)
    ways = {
        f"{samples} positions an image": _sampled(kept, dataset, batch, samples, context.device)
        for samples in (1, 4, 16)
    }
    sketch = ways["sketch, r = 4096, all positions"] = _sketched(kept, n, context.device)
    error = float(np.median(sketch.errors[0.99]))
    context.check("the sketch's median rank error at 0.99 is below 2e-3", error < 2e-3)
    used = "16 positions an image" if n < 1000 else "4 positions an image"
    return Result(
        _metrics(
            ways[used],
            sketch.seconds / ways["4 positions an image"].seconds,
            _share_of_all_layers(backend, dataset, batch),
        ),
        tables=[_table(f"{LAYER}, {n} images: |rank error| median / 95 %", ways)],
        notes=[f"A sweep over {n} images takes {used}, over 2,048 and more it takes 4."],
    )


def _metrics(used: Way, sketch_ratio: float, share: float) -> list[Metric]:
    bound = (
        "a small piece of work for each of 49 layers and the first touch of the reservoir's memory; the "
        "2,048 images that fill the reservoir are all that a sweep of any size samples"
    )
    sampling = "4 positions of all 21,008 units / forward, while every image is sampled"
    return [
        Metric("median rank error at 0.99", float(np.median(used.errors[0.99])), "", "<= 0.001"),
        Metric(sampling, share, "x", "<= 0.01", bound),
        Metric("sketch / 4 positions, time", sketch_ratio, "x", ">= 400"),
    ]


def _table(title: str, ways: dict[str, Way]) -> Table:
    rows = tuple(
        (
            name,
            round(way.seconds * 1000, 4),
            *(f"{np.median(error):.1e} / {np.percentile(error, 95):.1e}" for error in way.errors.values()),
        )
        for name, way in ways.items()
    )
    return Table(title, ("way", "ms an image", *map(str, LEVELS)), rows)


def _maps(backend: VisionBackend, dataset: ArrayDataset, batch: int) -> list[torch.Tensor]:
    """Return the layer's activation maps of all images, a tensor (batch, units, H, W) a batch."""
    kept: list[torch.Tensor] = []
    for start in range(0, len(dataset), batch):
        pixels = [dataset.load(index).pixels for index in range(start, start + batch)]
        backend.forward(pixels, {Readout(LAYER): lambda maps: kept.append(maps.clone())})
    return kept


def _exact(kept: list[torch.Tensor]) -> np.ndarray:
    """Return every activation, (positions of all images, units)."""
    return np.concatenate([maps.permute(0, 2, 3, 1).flatten(0, 2).cpu().numpy() for maps in kept])


def _sampled(kept: list[torch.Tensor], dataset: ArrayDataset, batch: int, samples: int, device: str) -> Way:
    n, n_units, n_positions = len(dataset), kept[0].shape[1], kept[0].shape[2] * kept[0].shape[3]
    plan = SweepPlan(dataset, np.arange(n), (Readout(LAYER),), step=batch, rows=n * samples)
    accumulator = ReadoutAccumulator(n_units, 15, n * samples, device)

    def fill() -> None:
        for place, maps in enumerate(kept):
            draw = plan.draw(np.arange(place * batch, (place + 1) * batch), n_positions)
            accumulator.sample(draw.target, draw.of(maps))

    seconds = timed(fill) / n
    estimates, exact = accumulator.quantiles(LEVELS), _exact(kept)
    return Way(seconds, {q: studied.rank_error(exact, estimates[:, i], q) for i, q in enumerate(LEVELS)})


def _sketched(kept: list[torch.Tensor], n: int, device: str) -> Way:
    sketch = studied.QuantileSketch(kept[0].shape[1], 4096, device)

    def fill() -> None:
        for maps in kept:
            sketch.add(maps.permute(0, 2, 3, 1).flatten(0, 2))

    seconds, exact = timed(fill) / n, _exact(kept)
    return Way(seconds, {q: studied.rank_error(exact, sketch.quantile(q).cpu().numpy(), q) for q in LEVELS})


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
