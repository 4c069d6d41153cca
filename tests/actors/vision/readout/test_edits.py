"""Interventions have the effect that is known in closed form, in their own row, and leave nothing behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from actors.errors import BackendError, UsageError
from actors.images import Image
from actors.settings import Placement
from actors.vision.backend import VisionBackend
from actors.vision.networks.network import wrap
from actors.vision.readout.edits import Edit, Where
from actors.vision.readout.requests import Ask, VisionRequest
from actors.vision.readout.units import OUTPUT, Readout
from actors.vision.settings import VisionSettings
from tests.actors.vision import tiny_networks as networks

SCORES = Readout(OUTPUT, "logit")


class Planted(nn.Module):
    """Three detectors of the mean red, green and blue, and classes that are known functions of them."""

    def __init__(self, classes: list[list[float]]) -> None:
        super().__init__()
        self.detect = nn.Conv2d(3, 4, 1, bias=False)
        self.head = nn.Linear(4, len(classes), bias=False)
        with torch.no_grad():
            # The fourth detector is a copy of the first.
            self.detect.weight.copy_(torch.cat([torch.eye(3), torch.eye(3)[:1]])[:, :, None, None])
            self.head.weight.copy_(torch.tensor(classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.detect(x).relu().mean((2, 3)))
        return out


def backend_of(module: nn.Module, **options: Any) -> VisionBackend:
    settings = VisionSettings(placement=Placement(threads=1), device="cpu", **options)
    return VisionBackend(
        wrap(module.eval(), name="known", size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1)), settings
    )


@pytest.fixture
async def planted() -> AsyncIterator[VisionBackend]:
    # Red; red and its copy, either of which is enough of half; blue without red.
    made = backend_of(Planted([[1, 0, 0, 0], [0.5, 0, 0, 0.5], [-1, 0, 1, 0]]))
    yield made
    await made.close()


def flat(red: int, green: int, blue: int) -> Image:
    return Image.from_pixels(np.full((8, 8, 3), (red, green, blue), np.uint8))


def noise(n: int, side: int = 8) -> list[Image]:
    rng = np.random.default_rng(5)
    return [Image.from_pixels(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(n)]


async def scores(
    backend: VisionBackend, *rows: tuple[Image, tuple[Edit, ...]], readout: Readout = SCORES
) -> np.ndarray:
    """Return what units of a readout are in one batch of edited images, float32 (rows, units)."""
    answers = await backend.run([VisionRequest(image, (Ask(readout, None),), edits) for image, edits in rows])
    assert not [answer for answer in answers if isinstance(answer, Exception)], answers
    return np.stack([answer.reading(readout).activations for answer in answers])  # type: ignore[union-attr]


def edit(index: int, how: Any, amount: float = 0.0, layer: str = "detect", **more: Any) -> Edit:
    return Edit(Readout(layer), index, how, amount, **more)


async def test_effects_are_those_of_the_formula(planted: VisionBackend) -> None:
    """The output is linear in each detector's mean: the effect is weight times change."""
    image = flat(204, 102, 51)
    red, green, blue = (np.float32(value) / 255 for value in (204, 102, 51))
    rows = await scores(
        planted,
        (image, ()),
        (image, (edit(0, "set", 0.0),)),
        (image, (edit(0, "scale", 0.5),)),
        (image, (edit(2, "add", 0.25),)),
        (image, (edit(0, "clamp", 0.0, upper=0.1),)),
        (image, (edit(0, "set", 0.0), edit(3, "set", 0.0))),
        (image, (edit(1, "set", 9.0),)),
    )
    expected = [
        [red, red, blue - red],
        [0, red / 2, blue],
        [red / 2, red * 3 / 4, blue - red / 2],
        [red, red, blue + 0.25 - red],
        [0.1, red / 2 + 0.05, blue - 0.1],
        [0, 0, blue],
        [red, red, blue - red],
    ]
    np.testing.assert_allclose(rows, expected, rtol=4 * np.finfo(np.float32).eps, atol=1e-6)
    assert green > 0


async def test_an_edit_that_changes_nothing_gives_the_clean_row_to_the_bit(planted: VisionBackend) -> None:
    image = noise(1)[0]
    rows = await scores(
        planted, (image, ()), (image, (edit(0, "scale", 1.0),)), (image, (edit(0, "add", 0.0),))
    )
    assert (rows == rows[0]).all()


@pytest.mark.parametrize(
    ("make", "layer"),
    [("tiny_conv", "deep"), ("tiny_vit", "blocks.0"), ("tiny_swin", "layers.0"), ("tiny_resnet", "layer2")],
)
async def test_a_batch_of_different_edits_equals_single_passes(make: str, layer: str) -> None:
    """On maps, tokens with a class token, windows, and maps whose units come last."""
    module = getattr(networks, make)()
    size = (24, 16) if make == "tiny_vit" else (32, 32)
    backend = VisionBackend(
        wrap(module, name=make, size=size),
        VisionSettings(placement=Placement(threads=1), device="cpu"),
    )
    images = noise(3, 32)
    readout = Readout(OUTPUT)
    edits = [
        (),
        (edit(0, "set", 2.0, layer),),
        (edit(1, "scale", -2.0, layer),),
        (edit(2, "add", 3.0, layer, where=Where(box=(0.0, 0.0, 0.5, 0.5))),),
        (edit(0, "set", 1.0, layer), edit(1, "set", 1.0, layer)),
        (edit(3, "scale", 0.0, layer, where=Where(share=0.5)),),
    ]
    rows = [(image, each) for image in images for each in edits]
    together = await scores(backend, *rows, readout=readout)
    alone = np.concatenate([await scores(backend, row, readout=readout) for row in rows])
    scale = np.abs(alone).max()
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5 * scale)
    changed = np.abs(together.reshape(3, 6, -1) - together.reshape(3, 6, -1)[:, :1]).max((0, 2))
    assert (changed[1:] > 1e-4 * scale).all(), "each edit reaches the output"
    await backend.close()


async def test_a_unit_is_read_after_its_own_layers_edit_and_other_units_stay(planted: VisionBackend) -> None:
    image = noise(1)[0]
    clean, edited = await scores(
        planted, (image, ()), (image, (edit(1, "set", 7.0),)), readout=Readout("detect")
    )
    assert edited[1] == 7.0
    assert (np.delete(edited, 1) == np.delete(clean, 1)).all()


async def test_a_direction_is_moved_along_itself(tmp_path: Path) -> None:
    """Its inner product becomes what was wanted, and nothing orthogonal to it changes."""
    backend = backend_of(Planted([[1, 0, 0, 0]]))
    np.save(tmp_path / "v.npy", np.array([[3, 4, 0, 0], [-4, 3, 0, 0]], np.float32))
    readout = Readout("detect", "direction", str(tmp_path / "v.npy"))
    image = flat(204, 102, 51)
    clean, edited = await scores(
        backend, (image, ()), (image, (Edit(readout, 0, "set", 10.0),)), readout=readout
    )
    assert edited[0] == pytest.approx(10.0, rel=1e-6)
    assert edited[1] == pytest.approx(clean[1], rel=1e-5)
    await backend.close()


async def test_a_control_is_as_long_at_each_position_and_goes_another_way(planted: VisionBackend) -> None:
    """The same step for the same seed, of whatever kind the unit is."""
    image, layer = noise(1)[0], Readout("detect")
    ablated = edit(0, "set", 0.0)
    maps = []
    for edits in ((), (ablated,), (ablated.control(1),), (ablated.control(1),), (ablated.control(2),)):
        request = VisionRequest(image, (Ask(layer, (0, 1, 2, 3), maps=True),), edits)
        (answer,) = await planted.run([request])
        maps.append(np.stack(list(answer.reading(layer).maps.values())).astype(float))  # type: ignore[union-attr]
    own, first, again, other = (each - maps[0] for each in maps[1:])
    lengths = [np.linalg.norm(step, axis=0) for step in (own, first, other)]
    half = np.finfo(np.float16).eps * np.abs(maps).max() * 2  # maps come in half precision
    np.testing.assert_allclose(lengths[1:], [lengths[0]] * 2, atol=4 * half)
    assert (first == again).all()
    assert not np.allclose(first, other, atol=0.01)
    placed = lengths[0] > 0.5
    directions = first[:, placed] / lengths[0][placed]
    assert directions.std(axis=1).max() < 4 * half, "the same direction at all positions"


async def test_a_latent_is_set_and_what_its_dictionary_leaves_out_stays(tmp_path: Path) -> None:
    """A tied dictionary with orthogonal unit rows re-encodes to what was set; others change nothing."""
    torch.manual_seed(0)
    rows = torch.linalg.qr(torch.randn(4, 4)).Q[:3].contiguous()
    save_file(
        {"W_enc": rows.T.contiguous(), "b_enc": torch.zeros(3), "W_dec": rows, "b_dec": torch.zeros(4)},
        tmp_path / "sae_weights.safetensors",
    )
    (tmp_path / "cfg.json").write_text(
        '{"architecture": "standard", "d_in": 4, "d_sae": 3, "dtype": "float32", '
        '"apply_b_dec_to_input": true, "normalize_activations": "none", "reshape_activations": "none", '
        '"metadata": {"sae_lens_version": "6.0.0"}}'
    )
    backend = backend_of(Planted([[1, 0, 0, 0]]))
    readout = Readout("detect", "latent", str(tmp_path))
    image = flat(204, 102, 51)
    set_to = (Edit(readout, 1, "set", 5.0),)
    clean, edited = await scores(backend, (image, ()), (image, set_to), readout=readout)
    assert edited[1] == pytest.approx(5.0, rel=1e-5)
    np.testing.assert_allclose(np.delete(edited, 1), np.delete(clean, 1), atol=1e-6)
    kept, placebo = await scores(
        backend, (image, ()), (image, (set_to[0].placebo,)), readout=Readout("detect")
    )
    assert (kept == placebo).all(), "the error of the dictionary is part of the output"
    await backend.close()


async def test_zero_in_front_of_a_normalization_is_not_its_mean() -> None:
    """What an edit before BatchNorm leaves is beta - gamma mu / sigma."""

    class Normalized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 2, 1)
            self.norm = nn.BatchNorm2d(2)
            nn.init.constant_(self.norm.weight, 2.0)
            nn.init.constant_(self.norm.bias, 0.5)
            self.norm.running_mean.fill_(3.0)  # type: ignore[union-attr]
            self.norm.running_var.fill_(4.0)  # type: ignore[union-attr]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.norm(self.first(x)).mean((2, 3))
            return out

    backend = backend_of(Normalized())
    (zeroed,) = await scores(backend, (noise(1)[0], (edit(0, "set", 0.0, "first"),)), readout=Readout(OUTPUT))
    assert zeroed[0] == pytest.approx(0.5 - 2.0 * 3.0 / np.sqrt(4.0 + 1e-5), rel=1e-6)
    await backend.close()


def test_a_share_of_a_map_without_positive_values_is_taken_from_its_least() -> None:
    values = torch.tensor([[-4.0, -3.0], [-2.5, -2.0]])
    assert Where(share=0.5).mask(values).tolist() == [[False, True], [True, True]]
    assert Where(share=0.5).mask(values + 4).tolist() == [[False, True], [True, True]]
    assert Where(share=0.9).mask(torch.tensor([[-4.0, 1.0]])).tolist() == [[False, True]]


async def test_another_images_values_are_put_in_position_by_position(planted: VisionBackend) -> None:
    """The detector is linear: with all its values the image scores as the donor does."""
    image, donor = noise(2)
    pixels = donor.pixels.astype(np.float32) / 255
    patch = Edit.replaced_by(Readout("detect"), 0, pixels[:, :, 0])
    rows = await scores(planted, (image, (patch,)), (donor, ()))
    assert rows[0, 0] == pytest.approx(rows[1, 0], rel=1e-5)
    (refused,) = await planted.run(
        [
            VisionRequest(
                image, (Ask(SCORES, None),), (Edit.replaced_by(Readout("detect"), 0, pixels[:4, :4, 0]),)
            )
        ]
    )
    assert isinstance(refused, UsageError)
    assert "4x4 positions, and the layer has 8x8" in str(refused)


async def test_edited_values_are_not_remembered_as_the_images_own(planted: VisionBackend) -> None:
    image = noise(1)[0]
    ask = (Ask(Readout("detect"), (0,), maps=True),)
    await planted.run([VisionRequest(image, ask, (edit(0, "set", 99.0),))])
    assert planted.lookup(VisionRequest(image, ask)) is None
    assert planted.lookup(VisionRequest(image, ask, (edit(0, "set", 99.0),))) is None
    (clean,) = await planted.run([VisionRequest(image, ask)])
    assert clean.readings[0].activations[0] <= 1.0  # type: ignore[union-attr]
    assert planted.key(VisionRequest(image, ask)) != planted.key(VisionRequest(image, ask, (edit(0, "set"),)))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (Edit(SCORES, 0, "set"), "nothing is computed from it"),
        (Edit(Readout("detect"), 4, "set"), "numbered 0 to 3"),
        (Edit(Readout("head"), 0, "set"), "has no effect on 'detect'"),
        (Edit(Readout("nowhere"), 0, "set"), "has no layer 'nowhere'"),
        (Edit(Readout("head"), 0, "set", where=Where(box=(0, 0, 0.5, 0.5))), "no known places"),
    ],
)
async def test_an_edit_that_cannot_be_made_is_refused_by_name(
    planted: VisionBackend, made: Edit, message: str
) -> None:
    (refused,) = await planted.run([VisionRequest(noise(1)[0], (Ask(Readout("detect"), None),), (made,))])
    assert isinstance(refused, UsageError)
    assert message in str(refused)


async def test_after_a_pass_that_fails_no_hook_is_left(planted: VisionBackend) -> None:
    image = noise(1)[0]
    broken = Edit.replaced_by(Readout("detect"), 0, np.zeros((2, 2), np.float32))
    await planted.run([VisionRequest(image, (Ask(SCORES, None),), (broken,))])
    modules = planted.network.module.modules()
    assert not [module for module in modules if module._forward_hooks or module._forward_pre_hooks]


async def test_a_module_that_is_called_twice_is_refused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 3, 1), nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.act(self.conv(self.act(x))).mean((2, 3))
            return out

    backend = backend_of(Twice())
    (refused,) = await backend.run(
        [VisionRequest(noise(1)[0], (Ask(Readout(OUTPUT), None),), (edit(0, "set", layer="act"),))]
    )
    assert isinstance(refused, UsageError | BackendError)
    assert "called 2 times" in str(refused)
    await backend.close()


async def test_an_edit_of_an_in_place_module_reaches_a_caller_that_drops_what_it_returns() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            values = self.conv(x)
            self.act(values)
            out: torch.Tensor = values.mean((2, 3))
            return out

    backend = backend_of(networks.seeded(Dropping))
    image = noise(1)[0]
    clean, edited = await scores(
        backend, (image, ()), (image, (edit(1, "set", 7.0, "act"),)), readout=Readout(OUTPUT)
    )
    assert edited[1] == pytest.approx(7.0)
    assert (np.delete(edited, 1) == np.delete(clean, 1)).all()
    await backend.close()


@pytest.mark.parametrize("layer", ["pair", "named", "nested[parts][1][maps]", "sequence"])
async def test_a_tensor_among_others_is_edited_in_its_place(layer: str) -> None:
    """Modules may return tuples and dictionaries; what else they hold is passed on as it was."""
    backend = backend_of(networks.seeded(networks.Outputs))
    image = noise(1)[0]
    readout = Readout(OUTPUT)
    clean, edited, both = await scores(
        backend,
        (image, ()),
        (image, (edit(0, "add", 1.0, layer),)),
        (image, (edit(0, "add", 2.0, layer),)),
        readout=readout,
    )
    assert np.abs(edited - clean).max() > 1e-3
    # Behind it all is linear.
    np.testing.assert_allclose(both - clean, 2 * (edited - clean), rtol=1e-4, atol=1e-6)
    await backend.close()


async def test_rows_that_share_an_image_share_the_pass_up_to_their_edits() -> None:
    """Three edits and a clean reading of each of two images, one more clean image: the stem sees three
    images.
    """
    module = networks.tiny_conv()
    backend = VisionBackend(
        wrap(module, name="tiny", size=(18, 12)), VisionSettings(placement=Placement(threads=1), device="cpu")
    )
    images = noise(3, 32)
    rows = [
        (image, each)
        for image in images[:2]
        for each in (
            (),
            (edit(0, "set", 2.0, "deep"),),
            (edit(1, "set", 2.0, "deep"),),
            (edit(2, "add", 1.0, "deep"),),
        )
    ]
    rows.append((images[2], ()))
    seen: list[tuple[str, int]] = []
    handles = [
        getattr(module, name).register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.append((name, len(output)))
        )
        for name in ("stem", "deep", "head")
    ]
    together = await scores(backend, *rows, readout=Readout(OUTPUT))
    if backend.network.module is module:  # not a copy of another precision
        assert dict(seen)["stem"] == 3
    for handle in handles:
        handle.remove()
    alone = np.concatenate([await scores(backend, row, readout=Readout(OUTPUT)) for row in rows])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5 * np.abs(alone).max())
    assert backend.forwards >= len(rows), "each row counts, whatever it shares"
    await backend.close()


async def test_readings_before_and_after_the_edits_are_the_images_own(planted: VisionBackend) -> None:
    """A clean row that asks for an early layer, beside edited rows of its image, gets its own values, maps
    too.
    """
    image, other = noise(2)
    early = Ask(Readout("detect"), (0, 1), maps=True)
    late = Ask(SCORES, None)
    requests = [
        VisionRequest(image, (early, late)),
        VisionRequest(image, (late,), (edit(0, "set", 0.0),)),
        VisionRequest(other, (early,)),
        VisionRequest(other, (late,), (edit(0, "set", 0.0),)),
    ]
    answers = await planted.run(requests)
    fresh = backend_of(planted.network.module)
    for request, answer in zip(requests, answers, strict=True):
        (alone,) = await fresh.run([request])
        for ask in request.asks:
            one, two = answer.reading(ask.readout), alone.reading(ask.readout)  # type: ignore[union-attr]
            np.testing.assert_allclose(one.activations, two.activations, rtol=1e-6, atol=1e-6)
            for index in one.maps:
                np.testing.assert_allclose(one.maps[index], two.maps[index], rtol=1e-3, atol=1e-3)
    await fresh.close()


@pytest.mark.parametrize("branch", ["image", "stem"])
async def test_a_second_head_that_branches_before_an_edit_keeps_to_its_own_rows(branch: str) -> None:
    """It runs last, from the image or from the first layer: as many rows as images would be taken for it."""

    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
            self.head, self.second = nn.Linear(4, 3), nn.Linear(3 if branch == "image" else 4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            early = self.stem(x)
            out: torch.Tensor = self.head(self.body(early).relu().mean((2, 3)))
            self.second((x if branch == "image" else early).mean((2, 3)))
            return out

    backend = backend_of(networks.seeded(TwoHeads))
    ask = (Ask(Readout("second"), None), Ask(Readout(OUTPUT), None))
    one, other = noise(2)
    requests = [
        VisionRequest(one, ask, (edit(0, "set", 2.0, "body"),)),
        VisionRequest(one, ask[1:], (edit(1, "set", 2.0, "body"),)),
        VisionRequest(one, (Ask(Readout("body"), None),)),
        VisionRequest(other, ask, (edit(2, "set", 2.0, "body"),)),
    ]
    answers = await backend.run(requests)
    for request, answer in zip(requests, answers, strict=True):
        (alone,) = await backend_of(backend.network.module).run([request])
        for each in request.asks:
            one_way, other_way = answer.reading(each.readout), alone.reading(each.readout)  # type: ignore[union-attr]
            np.testing.assert_allclose(one_way.activations, other_way.activations, rtol=1e-5, atol=1e-6)
    await backend.close()


async def test_a_class_tokens_unit_is_kept_read_and_edited_apart_from_the_patches() -> None:
    """Its map is one value, its bank entry its own, and editing it leaves its layer's patches equal."""
    backend = VisionBackend(
        wrap(networks.tiny_vit(), name="vit", size=(24, 16)),
        VisionSettings(placement=Placement(threads=1), device="cpu"),
    )
    image = noise(1, 32)[0]
    cls, patches = Readout("blocks.0@cls"), Readout("blocks.0")
    ask = tuple(Ask(readout, (2,), maps=True) for readout in (cls, patches))
    clean, edited = await backend.run(
        [VisionRequest(image, ask), VisionRequest(image, ask, (Edit(cls, 2, "set", 9.0),))]
    )
    for answer in (clean, edited):
        assert not isinstance(answer, Exception), answer
    assert clean.reading(cls).maps[2].shape == (1, 1)  # type: ignore[union-attr]
    assert clean.reading(patches).maps[2].shape == (6, 4)  # type: ignore[union-attr]
    assert edited.reading(cls).activations[2] == 9.0  # type: ignore[union-attr]
    same = [answer.reading(patches).activations for answer in (clean, edited)]  # type: ignore[union-attr]
    np.testing.assert_array_equal(*same)
    known = [backend.lookup(VisionRequest(image, (Ask(readout, (2,)),))) for readout in (cls, patches)]
    assert known[0].readings[0].activations != known[1].readings[0].activations  # type: ignore[union-attr]
    assert backend.n_units(Readout("blocks.0.attn@head1")) == 4
    await backend.close()


def behind_activations(first: nn.Module, then: nn.Module) -> nn.Module:
    """Return a network of eight units whose outputs are the channels' means behind both modules."""
    module = nn.Sequential(nn.Conv2d(3, 8, 1), first, then, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        nn.init.normal_(module[0].weight)  # type: ignore[arg-type]
        nn.init.constant_(module[0].bias, 2.0)  # type: ignore[arg-type]
        if isinstance(first, nn.BatchNorm2d):
            first.running_mean.normal_()  # type: ignore[union-attr]
            nn.init.uniform_(first.weight, 0.5, 2.0)
    return module


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (nn.Identity(), nn.ReLU(inplace=True)),
        (nn.BatchNorm2d(8), nn.ReLU()),
        (nn.BatchNorm2d(8), nn.GELU()),
        (nn.Dropout(), nn.Identity()),
    ],
)
async def test_a_control_is_as_long_behind_what_follows_the_layer_value_by_value(
    first: nn.Module, then: nn.Module
) -> None:
    """An activation would cut off most of a random change of what it is given."""
    backend = backend_of(behind_activations(first, then))
    image, ablated = flat(204, 102, 51), edit(2, "set", 0.0, "0")
    rows = await scores(
        backend,
        (image, ()),
        (image, (ablated,)),
        *((image, (ablated.control(seed),)) for seed in range(5)),
        readout=Readout(OUTPUT),
    )
    steps = rows[1:] - rows[0]
    assert np.count_nonzero(np.abs(steps[0]) > 1e-6) == 1
    lengths = np.linalg.norm(steps, axis=1)
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-4)
    assert (np.abs(steps[1:]) > 1e-6).sum() > 30, "of eight units each"
    await backend.close()


async def test_a_control_goes_back_where_the_units_own_change_does(planted: VisionBackend) -> None:
    """A step along one direction is rotated, so that what adds up over positions does so here, too."""
    image = noise(1)[0]
    moved = edit(0, "set", 0.5)
    rows = await scores(
        planted, (image, ()), (image, (moved,)), (image, (moved.control(3),)), readout=Readout("detect@mean")
    )
    own, control = np.linalg.norm(rows[1:] - rows[0], axis=1)
    assert control == pytest.approx(own, rel=1e-3)
