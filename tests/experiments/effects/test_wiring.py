"""Planted circuits are found with the effects of their formulas, and what hides itself is found together."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from actors.errors import UsageError
from actors.images import Image, Provenance
from actors.serving.pool import LocalPool
from actors.vision.backend import VisionBackend
from actors.vision.client import PoolVisionClient
from actors.vision.data.held_out import HeldOutShare
from actors.vision.networks.network import wrap
from actors.vision.readout.base import Unit
from actors.vision.settings import VisionSettings
from agents.records.store import Store
from experiments.effects.wiring import Wiring, WiringRequest, ends_of, lines, tables, wire
from experiments.setup.console import Console
from experiments.setup.selection import Selection
from experiments.studies.ablation import MOST
from tests.actors.vision.test_backend import ONE_THREAD
from tests.experiments.effects.test_edited_network import run_command


class Noise:
    """Forty images of noise, each with a tint of its own."""

    name, fingerprint = "noise", "noise"

    def __len__(self) -> int:
        return 40

    def load(self, index: int) -> Image:
        rng = np.random.default_rng(index)
        tint = rng.integers(0, 120, 3)
        return Image.from_pixels((rng.integers(0, 136, (8, 8, 3)) + tint).astype(np.uint8))

    def provenance(self, index: int) -> Provenance:
        return Provenance("dataset", self.name, str(index))


class Middle(nn.Module):
    """Sums, an AND of 2 and 3, an OR of 4 and its copy 5, what passes 6 and 7 on, a dead unit, and a wide
    sum.
    """

    def __init__(self, wide: torch.Tensor) -> None:
        super().__init__()
        self.wide = nn.Parameter(wide)

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        wide = torch.einsum("nchw,c->nhw", a, self.wide).relu()
        both, either = torch.minimum(a[:, 2], a[:, 3]), torch.maximum(a[:, 4], a[:, 5])
        linear = 2 * a[:, 0] - a[:, 1]
        return torch.stack([linear, both, either, a[:, 6], 0 * a[:, 0], a[:, 7], wide], 1)


class Late(nn.Module):
    def forward(self, m: torch.Tensor) -> torch.Tensor:
        return torch.stack([m[:, 3] - 0.5 * m[:, 0], m[:, 1], m[:, 2], (m[:, 5] - 1).relu()], 1)


class Circuit(nn.Module):
    """Of `n` units of `see`, the first eight are wired to one of `middle` each; all to its last, a few
    strongly.
    """

    def __init__(self, n: int = 120) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        convolution = nn.Conv2d(3, n, 8, stride=8)
        with torch.no_grad():
            convolution.weight.copy_(torch.randn(convolution.weight.shape, generator=generator) / 12)
            convolution.weight[5] = convolution.weight[4]
            convolution.bias.fill_(4.0)  # type: ignore[union-attr]
        self.see = nn.Sequential(convolution, nn.ReLU())
        self.side = nn.Conv2d(3, 2, 8, stride=8)
        self.middle = Middle(torch.randn(n, generator=generator).abs() ** 3 / n)
        self.late, self.head = Late(), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        side = self.side(x)[:, :, 0, 0]
        logits: torch.Tensor = self.head(self.late(self.middle(self.see(x)))[:, :, 0, 0]) + side
        return logits


@pytest.fixture
def backend() -> VisionBackend:
    network = wrap(Circuit().eval(), name="circuit", size=8, class_names=("ant", "bee"))
    return VisionBackend(network, VisionSettings(placement=ONE_THREAD, device="cpu", batch=64))


@pytest.fixture
async def vision(backend: VisionBackend, tmp_path: Path) -> AsyncIterator[PoolVisionClient]:
    pool: LocalPool[object, object] = LocalPool(backend)
    async with pool:
        yield await PoolVisionClient.connect(pool, tmp_path / "cache", HeldOutShare(0))


async def wiring(vision: PoolVisionClient, folder: Path, layer: str, unit: str, **more: object) -> Wiring:
    given = {"before": None, "after": None, "value": "zero", "exact": True, "k": K, "out": folder, **more}
    request = WiringRequest("circuit", layer, unit, selection=Selection(), **given)  # type: ignore[arg-type]
    ends = await ends_of(vision, request)
    return await wire(Console(quiet=True), request, vision, Noise(), ends, Store.open(folder))


def sure(side: object) -> dict[int, float]:
    return {edge.index: edge.effect for edge in side.edges if edge.sure}  # type: ignore[attr-defined]


K = 6


async def on_exemplars(vision: PoolVisionClient, unit: Unit, layer: str) -> np.ndarray:
    """Return the means of a layer's units, (U,), on the exemplars of a unit."""
    (exemplars,) = await vision.exemplars([unit], Noise(), K)
    images = [Noise().load(int(index)) for index in exemplars.indices]
    count = next(info.n_units for info in await vision.layers() if info.name == layer)
    table = await vision.activations([Unit(layer, index) for index in range(count)], images)
    means: np.ndarray = table.mean(1)
    return means


async def test_the_drivers_of_sums_and_conjunctions_are_exactly_those_planted(
    vision: PoolVisionClient, tmp_path: Path
) -> None:
    for unit, weights in (("0", {0: 2.0, 1: -1.0}), ("3", {6: 1.0}), ("5", {7: 1.0})):
        found = (await wiring(vision, tmp_path / unit, "middle", unit, before="see")).drivers
        means = await on_exemplars(vision, Unit("middle", int(unit)), "see")
        assert sure(found) == pytest.approx(
            {index: weight * means[index] for index, weight in weights.items()}, rel=1e-4
        )
        assert found is not None
        assert found.together == pytest.approx(found.whole, rel=1e-4)
        assert found.redundant == []
    both = await wiring(vision, tmp_path / "1", "middle", "1", before="see")
    # Without either there is nothing left.
    assert sure(both.drivers) == pytest.approx({2: both.activation, 3: both.activation}, rel=1e-4)


@pytest.mark.slow
async def test_units_that_each_suffice_change_nothing_alone_and_are_found_together(
    vision: PoolVisionClient, tmp_path: Path
) -> None:
    found = await wiring(vision, tmp_path / "run", "middle", "2", before="see")
    assert found.drivers is not None
    assert (sure(found.drivers), found.drivers.together) == ({}, 0.0)
    assert found.drivers.whole == pytest.approx(found.activation)
    assert found.drivers.redundant == [4, 5]
    assert "units 4, 5 change it only together" in "\n".join(lines(found))


async def test_what_a_unit_drives_is_exactly_what_lies_behind_it(
    vision: PoolVisionClient, tmp_path: Path
) -> None:
    through = await wiring(vision, tmp_path / "a", "see", "7", after="late")
    means = await on_exemplars(vision, Unit("see", 7), "late")
    assert sure(through.driven) == pytest.approx({3: means[3]}, rel=1e-4)
    assert sure((await wiring(vision, tmp_path / "b", "see", "4", after="late")).driven) == {}
    linear = await wiring(vision, tmp_path / "c", "middle", "0", before="see", after="late")
    assert sure(linear.driven) == pytest.approx({0: -0.5 * linear.activation}, rel=1e-4)
    assert len(tables(linear)) == 2
    outputs = (await wiring(vision, tmp_path / "d", "late", "1", after="output")).driven
    assert outputs is not None
    assert {edge.name for edge in outputs.edges} == {"ant", "bee"}


async def test_units_are_set_to_their_mean_or_a_number_if_so_asked(
    vision: PoolVisionClient, tmp_path: Path
) -> None:
    means = await on_exemplars(vision, Unit("middle", 3), "see")
    images = [Noise().load(index) for index in range(40)]
    usual = float((await vision.activations([Unit("see", 6)], images)).mean())
    for value, expected in (("mean", means[6] - usual), ("1.5", means[6] - 1.5)):
        found = await wiring(vision, tmp_path / value, "middle", "3", before="see", after="late", value=value)
        assert sure(found.drivers) == pytest.approx({6: expected}, rel=1e-2)  # maps are float16
        assert sure(found.driven)[0] > 0


async def test_latents_drive_a_unit_and_those_that_are_silent_need_no_pass(
    vision: PoolVisionClient, tmp_path: Path
) -> None:
    """Each latent is what one unit has above 4, so that about half of them are silent on an image."""
    n = 120
    tensors = {
        "W_enc": torch.eye(n),
        "b_enc": torch.full((n,), -4.0),
        "W_dec": torch.eye(n),
        "b_dec": torch.zeros(n),
    }
    save_file(tensors, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(
        f'{{"architecture": "standard", "d_in": {n}, "d_sae": {n}, "dtype": "float32", '
        '"apply_b_dec_to_input": true, "normalize_activations": "none", "reshape_activations": "none", '
        '"metadata": {"sae_lens_version": "6.54.12", "model_name": "x", "hook_name": "see"}}'
    )
    name = f"see:latent:{tmp_path}"
    found = (await wiring(vision, tmp_path / "run", "middle", "3", before=name)).drivers
    means = await on_exemplars(vision, Unit("middle", 3), "see")
    assert sure(found) == pytest.approx({6: means[6] - 4}, rel=1e-3)
    assert found is not None
    assert found.passes < 0.8 * n * K
    assert found.whole is None


async def test_the_screen_keeps_the_strong_drivers_at_half_the_passes(
    vision: PoolVisionClient, tmp_path: Path
) -> None:
    exact = (await wiring(vision, tmp_path / "exact", "middle", "6", before="see", k=15)).drivers
    fast = await wiring(vision, tmp_path / "fast", "middle", "6", before="see", k=15, exact=False)
    assert exact is not None
    assert fast.drivers is not None
    assert fast.screened
    assert (exact.passes, fast.drivers.passes) == (120 * 15, 120 * 3 + MOST * 12)
    few = (await wiring(vision, tmp_path / "few", "middle", "6", before="see", k=3, exact=False)).drivers
    assert few is not None
    assert (len(few.edges), few.passes) == (MOST, 120 * 3)
    strong = dict(sorted(sure(exact).items(), key=lambda pair: -abs(pair[1]))[:40])
    kept = sure(fast.drivers)
    assert sum(index in kept for index in strong) >= 0.95 * len(strong)
    assert all(kept[index] == pytest.approx(strong[index], rel=1e-4) for index in strong if index in kept)


async def test_ablations_that_are_kept_are_read_and_the_others_made(
    vision: PoolVisionClient, backend: VisionBackend, tmp_path: Path
) -> None:
    first = await wiring(vision, tmp_path / "run", "middle", "3", before="see")
    files = sorted((tmp_path / "run" / "drivers").glob("*.json"))
    assert len(files) == K
    files[0].unlink()
    files[1].write_text("{damaged")
    passed = backend.forwards
    assert await wiring(vision, tmp_path / "run", "middle", "3", before="see") == first
    assert backend.forwards - passed < 3 * 120


@pytest.mark.parametrize(
    ("layer", "unit", "more", "message"),
    [
        ("middle", "0", {"before": "late"}, "must lie before middle"),
        ("middle", "0", {"before": "middle"}, "must lie before middle"),
        ("middle", "0", {"after": "see"}, "must lie behind middle"),
        ("middle", "0", {"before": "side"}, "branches of their own"),
        ("side", "0", {"after": "late"}, "branches of their own"),
        ("middle", "0", {"before": "nothing"}, "no layer"),
        ("middle", "4", {"before": "see"}, "the same on every image"),
        ("output", "ant", {"after": "output"}, "must lie behind output"),
    ],
)
async def test_ends_that_cannot_be_wired_are_refused_in_a_sentence(
    vision: PoolVisionClient, tmp_path: Path, layer: str, unit: str, more: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        await wiring(vision, tmp_path / "run", layer, unit, **more)


NETWORK = """
from tests.experiments.effects.test_wiring import Circuit


def circuit():
    network = Circuit(12).eval()
    network.preprocessing = {"size": 8}
    return network
"""


@pytest.mark.slow
def test_the_command_writes_what_it_found(  # type: ignore[no-untyped-def]
    config_file, capsys, tmp_path: Path
) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    arguments = (f"python:{tmp_path / 'net.py'}:circuit", "middle", "0", "--config", str(config_file()))
    code, _, err = run_command(capsys, "wiring", *arguments)
    assert (code, "--from LAYER" in err) == (2, True)
    run = tmp_path / "run"
    code, out, err = run_command(
        capsys, "wiring", *arguments, "--from", "see", "--to", "late", "--out", str(run), "--json"
    )
    assert code == 0, err
    found = json.loads(out)
    assert found == json.loads((run / "wiring.json").read_text())
    assert [edge["index"] for edge in found["drivers"]["edges"] if edge["sure"]] == [0, 1]
    assert [edge["index"] for edge in found["driven"]["edges"] if edge["sure"]] == [0]
