"""A sweep's compiled pass finds what the plain one finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from actors.errors import BackendError
from actors.images import Image
from actors.vision.backend import VisionBackend
from actors.vision.networks.network import Network
from actors.vision.readout.requests import SweepStep
from actors.vision.readout.units import OUTPUT, Readout
from actors.vision.sweep.accumulators import SweepPart, SweepPlan
from actors.vision.sweep.compiled import CompiledPass
from actors.vision.sweep.device import SweepDevice
from tests.actors.vision.sweep.test_accumulators import Numbered
from tests.actors.vision.test_backend import is_white, network, settings
from tests.actors.vision.tiny_networks import tiny_conv, tiny_vit

# torch's own compiler imports what torch itself has deprecated.
pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")]


@pytest.fixture(autouse=True)
def with_vector_instructions() -> None:
    """The code that torch's compiler writes needs them: without, torch 2.13's own headers do not compile."""
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("torch.compile writes no code that compiles for ATEN_CPU_CAPABILITY=default")


async def swept(studied: Network, plan: SweepPlan, folder: Path, compile: bool) -> SweepPart:
    """Run a whole sweep on one device, in `folder`; return its only part."""
    plan.save(folder)
    chosen = settings(compile=compile)
    backend = VisionBackend(studied, chosen)
    device = SweepDevice(backend, chosen, clock=lambda: 0.0)  # compiling may outlast the time between parts
    try:
        for start, stop in plan.steps():
            await device.step(SweepStep(str(folder), start, stop, flush=stop == len(plan.indices)))
    finally:
        device.close()
        await backend.close()
    return the_part(folder)


def folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def the_part(folder: Path) -> SweepPart:
    (part,) = folder.glob("part-*.npz")
    return SweepPart.load(part)


@pytest.mark.parametrize("build", [tiny_conv, lambda: tiny_vit(depth=1)], ids=["maps", "tokens"])
async def test_a_compiled_sweep_finds_what_the_plain_one_finds(
    build: Callable[[], nn.Module], tmp_path: Path
) -> None:
    studied = network(build(), size=(24, 16))
    probe = VisionBackend(studied, settings())
    layers = [layer.name for layer in probe.layers()]
    await probe.close()
    readouts = tuple(Readout(name) for name in (layers[0], layers[len(layers) // 2], layers[-1]))
    # 21 images in steps of 8 leave a short step, a corrupt one a gap, and few rows an image without samples.
    plan = SweepPlan(Numbered(21, frozenset({9})), np.arange(21), readouts, k=5, step=8, rows=48)
    plain = await swept(studied, plan, folder(tmp_path, "plain"), compile=False)
    graph = await swept(studied, plan, folder(tmp_path, "graph"), compile=True)
    assert graph.skipped.keys() == plain.skipped.keys() == {9}
    for readout in readouts:
        ours, theirs = graph.accumulators[readout], plain.accumulators[readout]
        assert ours.n_images == theirs.n_images == 20
        deviation = np.sqrt(theirs.m2.numpy() / 20)
        assert (np.abs(ours.top()[0] - theirs.top()[0]) <= 1e-4 * deviation[:, None] + 1e-6).all()
        assert (ours.top()[1] == theirs.top()[1]).mean() > 0.99
        assert np.allclose(ours.map_mean(), theirs.map_mean(), rtol=1e-4, atol=1e-6)
        assert np.array_equal(ours.filled, theirs.filled)
        assert np.allclose(ours.quantiles(), theirs.quantiles(), atol=2e-3)
    assert graph.done == plain.done == {0, 8, 16}


class WithoutWhite(nn.Module):
    """Returns a batch without its white images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[~is_white(x)]


class WhiteFifth(Numbered):
    fingerprint = "white fifth"

    def load(self, index: int) -> Image:
        return Image.from_pixels(np.full((6, 6, 3), 250, np.uint8)) if index == 5 else super().load(index)


async def test_an_image_that_changes_the_outputs_shape_is_skipped_and_gives_no_other_its_values(
    tmp_path: Path,
) -> None:
    """Both passes check shapes alike; further changes of shape are in the backend's tests."""
    studied = network(nn.Sequential(WithoutWhite(), nn.ReLU()), size=(6, 6))
    readouts = Readout("0"), Readout(OUTPUT, "logit")
    plan = SweepPlan(WhiteFifth(11), np.arange(11), readouts, k=10, step=4, rows=48)
    plain = await swept(studied, plan, folder(tmp_path, "plain"), compile=False)
    graph = await swept(studied, plan, folder(tmp_path, "graph"), compile=True)
    assert graph.skipped.keys() == plain.skipped.keys() == {5}
    for part in (graph, plain):
        assert part.skipped[5].startswith("the network fails on it: OutputChangedError: ")
    for readout in readouts:
        ours, theirs = graph.accumulators[readout], plain.accumulators[readout]
        assert ours.n_images == theirs.n_images == 10
        assert np.allclose(ours.top()[0], theirs.top()[0], atol=1e-6)
        assert np.array_equal(ours.top()[1], theirs.top()[1])


async def test_a_module_that_is_called_several_times_counts_at_its_last_call(tmp_path: Path) -> None:
    """Of an earlier one it may be asked for other rows than a batch has."""

    class CalledTwice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            halves = self.seen(torch.cat([x, x.flip(3)])).unflatten(0, (2, -1)).mean(0)
            scores: torch.Tensor = halves + self.seen(x)
            return scores

    torch.manual_seed(0)
    studied = network(CalledTwice(), size=(6, 6))
    plan = SweepPlan(Numbered(8), np.arange(8), (Readout("seen"),), k=8, step=4, rows=48)
    plain = await swept(studied, plan, folder(tmp_path, "plain"), compile=False)
    graph = await swept(studied, plan, folder(tmp_path, "graph"), compile=True)
    ours, theirs = graph.accumulators[Readout("seen")], plain.accumulators[Readout("seen")]
    assert ours.n_images == theirs.n_images == 8
    assert np.allclose(ours.top()[0], theirs.top()[0], atol=1e-5)
    assert np.array_equal(ours.top()[1], theirs.top()[1])


async def test_a_failed_compilation_says_what_to_do() -> None:
    backend = VisionBackend(network(), settings())

    class Unwilling(CompiledPass):
        def _trace(self, batch: object, flat: object) -> list[object]:  # type: ignore[override]
            raise RuntimeError("no compiler was found")

    compiled = Unwilling(backend._tapped, [])
    with pytest.raises(BackendError, match=r"no compiler was found"):
        await backend.on_device(compiled, backend.batch([np.zeros((32, 32, 3), np.uint8)] * 2), {})
    await backend.close()
