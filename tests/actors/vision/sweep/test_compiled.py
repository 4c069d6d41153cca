"""A sweep's compiled pass finds what the plain one finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from actors.images import Image
from actors.vision.backend import VisionBackend
from actors.vision.networks.network import Network
from actors.vision.readout.requests import PassNotice, SweepAck, SweepStep
from actors.vision.readout.units import OUTPUT, Readout
from actors.vision.settings import Compile
from actors.vision.sweep.accumulators import SweepPart, SweepPlan
from actors.vision.sweep.compiled import CompiledPass, CompileError, ReducedReadout
from actors.vision.sweep.device import SweepDevice
from actors.vision.sweep.pass_choice import CompileRecord, PassChoice
from tests.actors.vision.sweep.test_accumulators import Numbered
from tests.actors.vision.test_backend import is_white, network, settings
from tests.actors.vision.tiny_networks import tiny_conv, tiny_vit

# torch's own compiler imports what torch itself has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


@pytest.fixture(autouse=True)
def with_vector_instructions() -> None:
    """The code that torch's compiler writes needs them: without, torch 2.13's own headers do not compile."""
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("torch.compile writes no code that compiles for ATEN_CPU_CAPABILITY=default")


async def swept(
    studied: Network,
    plan: SweepPlan,
    folder: Path,
    compile: Compile,
    backend: type[VisionBackend] = VisionBackend,
    notices: list[PassNotice] | None = None,
) -> SweepPart:
    """Run a whole sweep on one device, in `folder`; return its only part."""
    digest = plan.save(folder)
    chosen = settings(compile=compile)
    model = backend(studied, chosen)
    device = SweepDevice(model, chosen, clock=lambda: 0.0)  # compiling may outlast the time between parts
    try:
        for start, stop in plan.steps():
            ack = await device.step(
                SweepStep(str(folder), digest, start, stop, flush=stop == len(plan.indices))
            )
            assert isinstance(ack, SweepAck)
            if notices is not None:
                notices += ack.notices
    finally:
        device.close()
        await model.close()
    return the_part(folder)


def folder(parent: Path, name: str) -> Path:
    """Make the folder of a sweep, below that of a data set in that of a network."""
    (parent / "dataset" / name).mkdir(parents=True)
    return parent / "dataset" / name


def the_part(folder: Path) -> SweepPart:
    (part,) = folder.glob("part-*.npz")
    return SweepPart.load(part)


@pytest.mark.slow
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
    plain = await swept(studied, plan, folder(tmp_path, "plain"), compile="never")
    graph = await swept(studied, plan, folder(tmp_path, "graph"), compile="always")
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


@pytest.mark.slow
async def test_an_image_that_changes_the_outputs_shape_is_skipped_and_gives_no_other_its_values(
    tmp_path: Path,
) -> None:
    """Both passes check shapes alike; further changes of shape are in the backend's tests."""
    studied = network(nn.Sequential(WithoutWhite(), nn.ReLU()), size=(6, 6))
    readouts = Readout("0"), Readout(OUTPUT, "logit")
    plan = SweepPlan(WhiteFifth(11), np.arange(11), readouts, k=10, step=4, rows=48)
    plain = await swept(studied, plan, folder(tmp_path, "plain"), compile="never")
    graph = await swept(studied, plan, folder(tmp_path, "graph"), compile="always")
    assert graph.skipped.keys() == plain.skipped.keys() == {5}
    for part in (graph, plain):
        assert part.skipped[5].startswith("the network fails on it: OutputChangedError: ")
    for readout in readouts:
        ours, theirs = graph.accumulators[readout], plain.accumulators[readout]
        assert ours.n_images == theirs.n_images == 10
        assert np.allclose(ours.top()[0], theirs.top()[0], atol=1e-6)
        assert np.array_equal(ours.top()[1], theirs.top()[1])


@pytest.mark.slow
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
    plain = await swept(studied, plan, folder(tmp_path, "plain"), compile="never")
    graph = await swept(studied, plan, folder(tmp_path, "graph"), compile="always")
    ours, theirs = graph.accumulators[Readout("seen")], plain.accumulators[Readout("seen")]
    assert ours.n_images == theirs.n_images == 8
    assert np.allclose(ours.top()[0], theirs.top()[0], atol=1e-5)
    assert np.array_equal(ours.top()[1], theirs.top()[1])


def test_torch_runs_no_code_from_a_folder_that_others_can_write_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with pytest.raises(CompileError, match="other users can write"):
        CompiledPass(cast(Any, None), [])


class Unwilling(CompiledPass):
    def _trace(self, batch: object, flat: object) -> list[object]:  # type: ignore[override]
        raise RuntimeError("no compiler was found")


class Wrong(CompiledPass):
    """Gives the values of other images."""

    def __call__(self, batch: torch.Tensor, flat: dict[int, torch.Tensor]) -> list[ReducedReadout]:
        return self._trace(batch + 1, flat)


@pytest.mark.parametrize(("broken", "why"), [(Unwilling, "no compiler was found"), (Wrong, "other values")])
async def test_a_sweep_that_cannot_be_compiled_goes_on_and_says_so_once(
    broken: type[CompiledPass], why: str, tmp_path: Path
) -> None:
    class Failing(VisionBackend):
        def compiled(self, readouts: Sequence[Readout]) -> CompiledPass:
            return broken(self._tapped, [(each.layer, self.readers.reader(each)) for each in readouts])

    torch.manual_seed(0)
    studied = network(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), size=(6, 6))
    plan = SweepPlan(Numbered(9), np.arange(9), (Readout("0"),), k=3, step=4, rows=48)
    plain = await swept(studied, plan, folder(tmp_path, "plain"), compile="never")
    notices: list[PassNotice] = []
    tried = await swept(
        studied, plan, folder(tmp_path, "tried"), compile="always", backend=Failing, notices=notices
    )
    assert [notice.kind for notice in notices] == ["failed"]
    assert why in notices[0].text
    ours, theirs = tried.accumulators[Readout("0")], plain.accumulators[Readout("0")]
    assert np.array_equal(ours.top()[0], theirs.top()[0])
    assert_recorded(tmp_path, why)


def assert_recorded(network: Path, why: str) -> None:
    (path,) = network.glob("compiled-*.json")
    record = CompileRecord.read(path)
    assert record is not None
    assert why in record.failure


def after_passes(choice: PassChoice, seconds: float, n_left: int) -> PassChoice:
    """Let a choice see four passes of ten images, and decide."""
    for _ in range(4):
        choice.took(seconds, 10)
    choice.decide(n_left)
    return choice


def test_passes_are_compiled_where_that_saves_more_than_it_takes(tmp_path: Path) -> None:
    """By an assumption at first, then by what was measured; and undone where it saves nothing."""
    path = tmp_path / "compiled.json"
    assert not after_passes(PassChoice("auto", path), 0.1, 1_000).compiled
    assert not after_passes(PassChoice("never", path), 0.1, 10**9).compiled
    choice = after_passes(PassChoice("auto", path), 0.1, 1_000_000)
    assert choice.compiled
    (notice,) = choice.take_notices()
    assert "1,000,000 images" in notice.text
    choice.took(20.0, 10)  # the first compiles
    after_passes(choice, 0.05, 0)
    assert CompileRecord.read(path) == CompileRecord(compile_s=20.0, ratio=0.5)
    assert after_passes(PassChoice("auto", path), 0.1, 10_000).compiled
    assert not after_passes(PassChoice("auto", path), 0.1, 1_000).compiled
    slower = after_passes(PassChoice("auto", path), 0.1, 10_000)
    after_passes(slower, 0.11, 0)
    assert not slower.compiled
    assert [each.kind for each in slower.take_notices()] == ["compiled", "not worth it"]
    assert not after_passes(PassChoice("auto", path), 0.1, 10**9).compiled
    path.write_text("damaged")
    assert after_passes(PassChoice("auto", path), 0.1, 1_000_000).compiled
