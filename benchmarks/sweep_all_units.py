"""B1: exemplars of every convolutional unit in one pass, against a bare forward pass and the peers' ways.

Images are decoded and at the size of the networks' resize, so that no peer pays for either. A round is some
batches through each peer in turn; our accumulators go on from round to round, as in a real sweep.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.vision.backend import VisionBackend
from actors.vision.readout.requests import SweepStep
from actors.vision.readout.taps import spatial_max
from actors.vision.readout.units import Readout
from actors.vision.settings import VisionSettings
from actors.vision.sweep.accumulators import SweepPlan
from actors.vision.sweep.device import SweepDevice, _Sweep
from benchmarks import studied
from benchmarks.harness import Context, Metric, Result, Table, interleave, median_ratio, timed

ID = "B1"
TITLE = "Exemplars of all units in one pass"


class OurSweep:
    """The replica's own code, fed batch after batch."""

    def __init__(self, backend: VisionBackend, plan: SweepPlan, folder: Path, compile: bool = False) -> None:
        self.plan, self.folder = plan, folder
        plan.save(folder)
        self.device = SweepDevice(backend, VisionSettings(compile=compile))
        self.sweep = _Sweep(plan, folder, "", time.monotonic() + 1e9)
        self._steps = iter(plan.steps())

    def step(self, pixels: list[np.ndarray]) -> None:
        start, stop = next(self._steps)
        self.device._add(self.sweep, SweepStep(str(self.folder), start, stop), pixels)


def run(context: Context) -> Result:
    with studied.scratch() as folder, torch.inference_mode():
        lite0, tables = _lite0(context, Path(folder))
        resnet = _resnet(context, Path(folder))
    return Result([*lite0, *resnet], tables=tables)


def _lite0(context: Context, folder: Path) -> tuple[list[Metric], list[Table]]:
    batch, rounds = 16, 3 if context.quick else 7
    per_round = 2 if context.quick else 4
    n = batch * per_round * (rounds + 1)
    dataset = studied.pictures(n, 256, context.seed, folder)
    backend = studied.backend(studied.LITE0, context.device, batch)
    readouts = studied.convolutions(backend)
    # As many images as a sweep of 2,048 would have: the reservoir takes four positions of each.
    plan = SweepPlan(dataset, np.arange(2048), tuple(readouts), k=15, step=batch)
    ours, graph = OurSweep(backend, plan, folder), OurSweep(backend, plan, folder, compile=True)
    pixels = [dataset.load(index).pixels for index in range(n)]
    module, preprocess = backend.network.module, backend.network.preprocess
    batches = [pixels[start : start + batch] for start in range(0, n, batch)]
    every_maximum: dict[Readout, list[torch.Tensor]] = {readout: [] for readout in readouts}
    layers = [readouts[4], readouts[20]]
    milan = {r: studied.LayerTally(backend.n_units(r), 15, context.device) for r in layers}
    places = dict.fromkeys(
        ("bare", "ours", "ours, compiled", "hooks", *(f"milan {r.layer}" for r in layers)), 0
    )

    def peer(name: str, work: Callable[[list[np.ndarray]], None]) -> Callable[[], float]:
        def measure() -> float:
            some = batches[places[name] : places[name] + per_round]
            places[name] = (places[name] + per_round) % (len(batches) - per_round + 1)

            def go() -> None:
                for each in some:
                    work(each)
                studied.synchronize(context.device)

            return timed(go) / (per_round * batch)

        return measure

    def bare(some: list[np.ndarray]) -> None:
        module(preprocess.batch(some, context.device))

    def hooks(some: list[np.ndarray]) -> None:
        def keep(readout: Readout) -> Callable[[torch.Tensor], None]:
            return lambda maps: every_maximum[readout].append(maps.amax((2, 3)).cpu())

        backend.forward(some, {readout: keep(readout) for readout in readouts})

    def one_layer(readout: Readout) -> Callable[[list[np.ndarray]], None]:
        def work(some: list[np.ndarray]) -> None:
            batch_ = preprocess.batch(some, context.device)
            found: list[torch.Tensor] = []
            layer = dict(module.named_modules())[readout.layer]
            handle = layer.register_forward_hook(lambda _m, _i, output: found.append(output))
            module(batch_)
            handle.remove()
            milan[readout].add(found[0])

        return work

    peers = {
        "bare": peer("bare", bare),
        "ours": peer("ours", ours.step),
        "ours, compiled": peer("ours, compiled", graph.step),
        "hooks": peer("hooks", hooks),
        **{f"milan {r.layer}": peer(f"milan {r.layer}", one_layer(r)) for r in layers},
    }
    for warm in (bare, hooks):
        warm(batches[0])
    every_maximum = {readout: [] for readout in readouts}
    compiling = timed(lambda: OurSweep(backend, plan, folder, compile=True).step(batches[0]))
    measured = interleave(peers, rounds)
    for name, sweep in (("eager", ours), ("compiled", graph)):
        _gate(context, backend, name, sweep, batches, rounds * per_round)
    shape = {layer.name: layer for layer in backend.layers()}
    activations = {r: shape[r.layer].n_units * int(np.prod(shape[r.layer].shape)) for r in readouts}
    bare_s = float(np.median(measured["bare"]))
    per_activation = np.mean(
        [(float(np.median(measured[f"milan {r.layer}"])) - bare_s) / activations[r] for r in layers]
    )
    milan_s = len(readouts) * bare_s + per_activation * sum(activations.values())
    ours_s = float(np.median(measured["ours"]))
    finish = timed(lambda: [accumulator.quantiles() for accumulator in ours.sweep.part.accumulators.values()])
    n_units = sum(backend.n_units(readout) for readout in readouts)
    bound = "reading 6.7 M activations an image once, at memory speed, outside the fused convolutions"
    metrics = [
        Metric("units", n_units),
        Metric(
            "lite0, all units / bare forward",
            median_ratio(measured["ours"], measured["bare"]),
            "x",
            "<= 1.15",
            bound,
        ),
        Metric(
            "lite0, all units, compiled / bare forward, eager",
            median_ratio(measured["ours, compiled"], measured["bare"]),
            "x",
            "<= 0.98",
        ),
        Metric("compiling", compiling, "s once a sweep"),
        Metric(
            "lite0, hooks that keep every maximum / bare",
            median_ratio(measured["hooks"], measured["bare"]),
            "x",
        ),
        Metric("a pass a layer with a sketch of all positions / ours", float(milan_s / ours_s), "x", ">= 70"),
        Metric("quantiles at the end", finish, "s once a sweep"),
    ]
    rows = tuple((name, round(1000 * float(np.median(times)), 2)) for name, times in measured.items())
    extra = (("a pass a layer, all 49 (from two layers, by activations)", round(1000 * milan_s, 1)),)
    return metrics, [Table("EfficientNet-lite0, milliseconds an image", ("peer", "ms"), rows + extra)]


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
    module, preprocess = backend.network.module, backend.network.preprocess
    turn = dict.fromkeys(("bare", "ours"), 0)

    def measure(name: str, work: Callable[[list[np.ndarray]], object]) -> Callable[[], float]:
        def go() -> float:
            some = batches[turn[name] % len(batches)]
            turn[name] += 1

            def once() -> None:
                work(some)
                studied.synchronize(context.device)

            return timed(once)

        return go

    module(preprocess.batch(batches[0], context.device))
    measured = interleave(
        {
            "bare": measure("bare", lambda some: module(preprocess.batch(some, context.device))),
            "ours": measure("ours", ours.step),
        },
        rounds,
    )
    ratio = median_ratio(measured["ours"], measured["bare"])
    return [Metric("ResNet-152, five layers / bare forward", ratio, "x", "<= 1.03")]
