"""B1: exemplars of every convolutional unit in one pass, against a bare forward pass and the peers' ways.

Images are decoded and at the size of the networks' resize, so that no peer pays for either. A round is some
batches through each peer in turn; our accumulators go on from round to round, as in a real sweep.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.vision.backend import VisionBackend
from actors.vision.readout.requests import SweepStep
from actors.vision.readout.tap import spatial_max
from actors.vision.readout.units import Readout
from actors.vision.settings import VisionSettings
from actors.vision.sweep.accumulators import SweepPlan
from actors.vision.sweep.device import SweepDevice, _Sweep
from actors.vision.sweep.pass_choice import PassChoice
from benchmarks import studied
from benchmarks.harness import Context, Metric, Result, Table, interleave, median_ratio, timed

ID = "B1"
TITLE = "Exemplars of all units in one pass"


class OurSweep:
    """The replica's own code, fed batch after batch."""

    def __init__(self, backend: VisionBackend, plan: SweepPlan, folder: Path, compile: bool = False) -> None:
        self.plan, self.folder, self.preprocess = plan, folder, backend.network.preprocess
        self.digest = plan.save(folder)
        self.device = SweepDevice(backend, VisionSettings())
        choice = PassChoice("always" if compile else "never", folder / "compiled.json")
        self.sweep = _Sweep(plan, folder, "", time.monotonic() + 1e9, choice)
        self._steps = iter(plan.steps())

    def step(self, pixels: list[np.ndarray]) -> None:
        start, stop = next(self._steps)
        seen = [self.preprocess.pixels([image]) for image in pixels]
        self.device._add(self.sweep, SweepStep(str(self.folder), self.digest, start, stop), seen)


def run(context: Context) -> Result:
    with studied.scratch() as folder, torch.inference_mode():
        lite0, tables = _lite0(context, Path(folder))
        resnet = _resnet(context, Path(folder))
    return Result([*lite0, *resnet], tables=tables)


Batch = list[np.ndarray]
BARE, OURS, COMPILED, HOOKS = "bare", "ours", "ours, compiled", "hooks"


class Lite0:
    """The network with its data set, and one sweep of ours in each of two ways."""

    def __init__(self, context: Context, folder: Path, n_batches: int) -> None:
        self.context, self.folder, batch = context, folder, 16
        dataset = studied.pictures(batch * n_batches, 256, context.seed, folder)
        self.backend = studied.backend(studied.LITE0, context.device, batch)
        self.readouts = studied.convolutions(self.backend)
        # As many images as a sweep of 2,048 would have: the reservoir takes four positions of each.
        self.plan = SweepPlan(dataset, np.arange(2048), tuple(self.readouts), k=15, step=batch)
        self.eager, self.compiled = self.sweep(), self.sweep(compile=True)
        pixels = [dataset.load(index).pixels for index in range(len(dataset))]
        self.batches = [pixels[start : start + batch] for start in range(0, len(pixels), batch)]
        self.layers = [self.readouts[4], self.readouts[20]]
        self._maxima: dict[Readout, list[torch.Tensor]] = {readout: [] for readout in self.readouts}
        self._tallies = {
            r: studied.LayerTally(self.backend.n_units(r), 15, context.device) for r in self.layers
        }

    def sweep(self, compile: bool = False) -> OurSweep:
        return OurSweep(self.backend, self.plan, self.folder, compile)

    def works(self) -> dict[str, Callable[[Batch], None]]:
        """Return what each peer does with a batch."""
        return {
            BARE: self._bare,
            OURS: self.eager.step,
            COMPILED: self.compiled.step,
            HOOKS: self._keep_maxima,
            **{_milan(layer): functools.partial(self._one_layer, layer) for layer in self.layers},
        }

    def warm(self) -> None:
        self._bare(self.batches[0])
        self._keep_maxima(self.batches[0])
        self._maxima = {readout: [] for readout in self.readouts}

    def _preprocessed(self, batch: Batch) -> torch.Tensor:
        return self.backend.network.preprocess.batch(batch, self.context.device)

    def _bare(self, batch: Batch) -> None:
        self.backend.network.module(self._preprocessed(batch))

    def _keep_maxima(self, batch: Batch) -> None:
        def keep(readout: Readout) -> Callable[[torch.Tensor], None]:
            return lambda maps: self._maxima[readout].append(maps.amax((2, 3)).cpu())

        self.backend.forward(batch, {readout: keep(readout) for readout in self.readouts})

    def _one_layer(self, readout: Readout, batch: Batch) -> None:
        module, images = self.backend.network.module, self._preprocessed(batch)
        outputs: list[torch.Tensor] = []
        layer = dict(module.named_modules())[readout.layer]
        handle = layer.register_forward_hook(lambda _m, _i, output: outputs.append(output))
        module(images)
        handle.remove()
        self._tallies[readout].add(outputs[0])


def _milan(layer: Readout) -> str:
    return f"milan {layer.layer}"


def _in_turn(
    work: Callable[[Batch], object], batches: list[Batch], per_round: int, device: str
) -> Callable[[], float]:
    """Return what measures the seconds an image of `work` on the next `per_round` batches."""
    place = 0

    def measure() -> float:
        nonlocal place
        some = batches[place : place + per_round]
        place = (place + per_round) % (len(batches) - per_round + 1)

        def go() -> None:
            for batch in some:
                work(batch)
            studied.synchronize(device)

        return timed(go) / sum(map(len, some))

    return measure


def _lite0(context: Context, folder: Path) -> tuple[list[Metric], list[Table]]:
    rounds = 3 if context.quick else 7
    per_round = 2 if context.quick else 4
    lite0 = Lite0(context, folder, per_round * (rounds + 1))
    peers = {
        name: _in_turn(work, lite0.batches, per_round, context.device) for name, work in lite0.works().items()
    }
    lite0.warm()
    compiling = timed(lambda: lite0.sweep(compile=True).step(lite0.batches[0]))
    measured = interleave(peers, rounds)
    for name, sweep in (("eager", lite0.eager), ("compiled", lite0.compiled)):
        _gate(context, lite0.backend, name, sweep, lite0.batches, rounds * per_round)
    medians = {name: float(np.median(times)) for name, times in measured.items()}
    milan_s = _milan_seconds(lite0, medians)
    accumulators = lite0.eager.sweep.part.accumulators.values()
    finish = timed(lambda: [accumulator.quantiles() for accumulator in accumulators])
    bound = "reading 6.7 M activations an image once, at memory speed, outside the fused convolutions"
    ratios = {name: median_ratio(measured[name], measured[BARE]) for name in (OURS, COMPILED, HOOKS)}
    metrics = [
        Metric("units", sum(lite0.backend.n_units(readout) for readout in lite0.readouts)),
        Metric("lite0, all units / bare forward", ratios[OURS], "x", "<= 1.15", bound),
        Metric("lite0, all units, compiled / bare forward, eager", ratios[COMPILED], "x", "<= 0.98"),
        Metric("compiling", compiling, "s once a sweep"),
        Metric("lite0, hooks that keep every maximum / bare", ratios[HOOKS], "x"),
        Metric("a pass a layer with a sketch of all positions / ours", milan_s / medians[OURS], "x", ">= 70"),
        Metric("quantiles at the end", finish, "s once a sweep"),
    ]
    rows = tuple((name, round(1000 * seconds, 2)) for name, seconds in medians.items())
    extra = (("a pass a layer, all 49 (from two layers, by activations)", round(1000 * milan_s, 1)),)
    return metrics, [Table("EfficientNet-lite0, milliseconds an image", ("peer", "ms"), rows + extra)]


def _milan_seconds(lite0: Lite0, medians: dict[str, float]) -> float:
    """Return the seconds an image of a pass a layer, for all layers: from two of them, by activations."""
    shapes = {layer.name: layer for layer in lite0.backend.layers()}
    activations = {r: shapes[r.layer].n_units * int(np.prod(shapes[r.layer].shape)) for r in lite0.readouts}
    per_activation = np.mean(
        [(medians[_milan(layer)] - medians[BARE]) / activations[layer] for layer in lite0.layers]
    )
    return float(len(lite0.readouts) * medians[BARE] + per_activation * sum(activations.values()))


def _gate(
    context: Context, backend: VisionBackend, name: str, ours: OurSweep, batches: list[Any], n_steps: int
) -> None:
    """The accumulators hold what brute force finds in the same images, the eager ones exactly."""
    readout = ours.plan.readouts[30]
    found: list[torch.Tensor] = []
    for some in batches[:n_steps]:
        backend.forward(some, {readout: lambda maps: found.append(spatial_max(maps).cpu())})
    values = torch.cat(found).numpy()
    order = np.stack(
        [np.lexsort((np.arange(len(values)), -values[:, u]))[:15] for u in range(values.shape[1])]
    )
    found_values, found_order = ours.sweep.part.accumulators[readout].top()
    if name == "eager":
        context.check("eager: top 15 equal brute force", bool((found_order == order).all()))
        return
    drift = np.abs(found_values - np.take_along_axis(values.T, order, axis=1)).max(1) / values.std(0)
    context.check("compiled: top 15 within 1e-4 of a unit's deviation", bool((drift <= 1e-4).all()))
    context.check("compiled: top 15 are the same images", bool((found_order == order).all()))


def _resnet(context: Context, folder: Path) -> list[Metric]:
    batch, rounds = 4, 3 if context.quick else 5
    n = batch * (rounds + 1)
    # Random weights: the time of a pass does not depend on them.
    backend = studied.backend("resnet152", context.device, batch, pretrained=False)
    readouts = tuple(Readout(layer) for layer in studied.RESNET152_LAYERS)
    size = backend.network.preprocess.resize or (256, 256)
    dataset = studied.pictures(n, size[0], context.seed, folder)
    ours = OurSweep(backend, SweepPlan(dataset, np.arange(2048), readouts, k=15, step=batch), folder)
    batches = [[dataset.load(start + i).pixels for i in range(batch)] for start in range(0, n, batch)]

    def bare(batch: Batch) -> None:
        backend.network.module(backend.network.preprocess.batch(batch, context.device))

    bare(batches[0])
    works: dict[str, Callable[[Batch], None]] = {BARE: bare, OURS: ours.step}
    peers = {name: _in_turn(work, batches, 1, context.device) for name, work in works.items()}
    measured = interleave(peers, rounds)
    ratio = median_ratio(measured[OURS], measured[BARE])
    return [Metric("ResNet-152, five layers / bare forward", ratio, "x", "<= 1.03")]
