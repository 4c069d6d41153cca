"""A sweep's compiled pass finds what the plain one finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from actors.errors import BackendError
from actors.vision.backend import VisionBackend
from actors.vision.compiled import CompiledPass
from actors.vision.network import Network
from actors.vision.requests import SweepStep
from actors.vision.sweep import Partial, SweepPlan
from actors.vision.sweep_device import SweepDevice
from actors.vision.units import Readout
from tests.actors.vision.networks import tiny_conv, tiny_vit
from tests.actors.vision.test_backend import network, settings
from tests.actors.vision.test_sweep import Numbered

# torch's own compiler imports what torch itself has deprecated.
pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")]


async def swept(studied: Network, plan: SweepPlan, folder: Path, compile: bool) -> Partial:
    """Run a whole sweep on one device, in `folder`; return its only part."""
    plan.save(folder)
    chosen = settings(compile=compile)
    backend = VisionBackend(studied, chosen)
    device = SweepDevice(backend, chosen)
    try:
        for start, stop in plan.steps():
            await device.step(SweepStep(str(folder), start, stop, hand_over=stop == len(plan.indices)))
    finally:
        device.close()
        await backend.close()
    return the_part(folder)


def folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def the_part(folder: Path) -> Partial:
    (part,) = folder.glob("part-*.npz")
    return Partial.load(part)


@pytest.mark.parametrize("build", [tiny_conv, tiny_vit])
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
        ours, theirs = graph.tallies[readout], plain.tallies[readout]
        assert ours.n_images == theirs.n_images == 20
        deviation = np.sqrt(theirs.m2.numpy() / 20)
        assert (np.abs(ours.top()[0] - theirs.top()[0]) <= 1e-4 * deviation[:, None] + 1e-6).all()
        assert (ours.top()[1] == theirs.top()[1]).mean() > 0.99
        assert np.array_equal(ours.filled, theirs.filled)
        assert np.allclose(ours.quantiles(), theirs.quantiles(), atol=2e-3)
    assert graph.done == plain.done == {0, 8, 16}


async def test_what_cannot_be_compiled_is_said_with_the_way_out() -> None:
    backend = VisionBackend(network(), settings())

    class Unwilling(CompiledPass):
        def _trace(self, batch: object, flat: object) -> list[object]:  # type: ignore[override]
            raise RuntimeError("no compiler was found")

    compiled = Unwilling(backend._tapped, [])
    with pytest.raises(BackendError, match=r"no compiler was found"):
        await backend.on_device(compiled, backend.batch([np.zeros((32, 32, 3), np.uint8)] * 2), {})
    await backend.close()
