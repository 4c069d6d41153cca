"""Where the positions of an output lie in the image is found out from the network, and admitted where it
cannot be.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from actors.vision.readout.gray_codes import PositionEvidence, gray_code_images, gray_codes
from actors.vision.readout.taps import TappedModule
from tests.actors.vision.readout.test_taps import images, read, tapped

H, W, UNITS = 6, 8, 20
SIZE = (24, 32)


class Patches(nn.Module):
    """Patches of 4 x 4 as tokens (N, 48, 20), in some order, then slightly mixed over the whole image."""

    def __init__(self, order: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.conv, self.order, self.mix = nn.Conv2d(3, UNITS, 4, 4), _Call(order), _Mixed()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.order(self.conv(x).flatten(2).transpose(1, 2))
        mixed: torch.Tensor = self.mix(tokens)
        return mixed.flatten(1, -2).mean(1)


class _Call(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class _Mixed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.5 * x.flatten(1, -2).mean(1).view(len(x), *[1] * (x.ndim - 2), -1)


def grid(tokens: torch.Tensor) -> torch.Tensor:
    return tokens.unflatten(1, (H, W))


def windows(tokens: torch.Tensor) -> torch.Tensor:
    """Return (N, 4 windows, 12 tokens, C)."""
    return grid(tokens).unflatten(2, (2, 4)).unflatten(1, (2, 3)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def unrolled(tokens: torch.Tensor) -> torch.Tensor:
    """Return the tokens as Hiera has them: first all in the top left of their 2 x 2, and so on."""
    across = tokens.unflatten(1, (-1, W)).unflatten(2, (4, 2))
    return across.unflatten(1, (-1, 2)).permute(0, 2, 4, 1, 3, 5).flatten(1, 4)


def with_extra(front: int, middle: int, back: int) -> Callable[[torch.Tensor], torch.Tensor]:
    def add(tokens: torch.Tensor) -> torch.Tensor:
        extra = torch.full((len(tokens), 1, UNITS), 0.3)
        half = tokens.shape[1] // 2
        parts = [
            extra.expand(-1, front, -1),
            tokens[:, :half],
            extra.expand(-1, middle, -1),
            tokens[:, half:],
        ]
        return torch.cat([*parts, extra.expand(-1, back, -1)], 1)

    return add


SHUFFLE = torch.randperm(H * W, generator=torch.Generator().manual_seed(2))

ORDERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "raster": lambda tokens: tokens,
    "a grid, units last": grid,
    "columns": lambda tokens: grid(tokens).transpose(1, 2).flatten(1, 2),
    "from below": lambda tokens: tokens.flip(1),
    "windows": windows,
    "windows in one sequence": lambda tokens: windows(tokens).flatten(1, 2),
    "unrolled": unrolled,
    "shuffled": lambda tokens: tokens[:, SHUFFLE],
    "two tokens before": with_extra(2, 0, 0),
    "a class token in the middle": with_extra(0, 1, 0),
    "a class token before, detection tokens behind": with_extra(1, 0, 5),
}


@pytest.mark.parametrize("name", ORDERS)
def test_positions_are_put_where_they_lie_whatever_their_order(name: str) -> None:
    """A layer in any fixed order of patches reads as the map of the convolution that made them."""
    tap, batch = tapped(Patches(ORDERS[name]), SIZE), images(3, SIZE)
    found = read(tap, batch, "conv", "order", "mix")
    assert torch.equal(found["order"], found["conv"])
    assert found["mix"].shape == found["conv"].shape
    assert tap.taps["mix"].info.shape == (H, W)
    aside = found["mix"] - found["conv"]
    # The mean that was added is one number for each image and unit.
    assert torch.allclose(aside, aside[:, :, :1, :1].expand_as(aside), atol=1e-6)


class _Latents(nn.Module):
    """48 latents that attend to all patches: as many as there are patches, and none has a place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.query = nn.Parameter(torch.randn(H * W, UNITS))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return (self.query @ tokens.transpose(1, 2) / UNITS).softmax(-1) @ tokens


class _Shuffled(nn.Module):
    """Another order in every pass, as masked autoencoders have."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens[:, torch.randperm(tokens.shape[1])]


def after_tokens(order: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """Return the patches with a module before `order` that gives them as they are: their number alone tells
    nothing.
    """
    return Patches(nn.Sequential(nn.Dropout(0.0), _Call(order)))


@pytest.mark.parametrize("build", [Patches, after_tokens])
@pytest.mark.parametrize(
    "order",
    [
        _Latents(),
        _Shuffled(),
        lambda tokens: tokens[:, :45],
        lambda tokens: tokens.unflatten(1, (2, 24)).mean(1),
        lambda tokens: grid(tokens).mean(2).repeat_interleave(6, 1),
    ],
    ids=["latents", "another order each time", "a part of the patches", "means of far patches", "strips"],
)
def test_maxima_are_right_and_no_places_are_claimed_where_they_are_not_known(
    order: Callable[[torch.Tensor], torch.Tensor],
    build: Callable[[Callable[[torch.Tensor], torch.Tensor]], nn.Module],
) -> None:
    """A layer whose positions are no places of the image has values, and neither a grid nor a map of them."""
    tap, batch = tapped(build(order), SIZE), images(3, SIZE)
    info = tap.taps["order"].info
    assert (info.kind, info.n_units, info.shape) == ("tokens", UNITS, ())
    assert not tap.is_placed("order", 48, SIZE)
    found = read(tap, batch, "conv", "order")
    with torch.inference_mode():
        given = order(found["conv"].flatten(2).transpose(1, 2))
    assert torch.equal(found["order"].amax((2, 3)), given.amax(1))


def test_units_are_found_on_the_first_axis_of_a_sequence_that_has_them_there() -> None:
    """(N, C, T), as flattened maps are, is read as C units and not as T."""
    tap = tapped(Patches(lambda tokens: tokens.transpose(1, 2)), SIZE)
    assert (tap.taps["order"].info.n_units, tap.taps["order"].info.shape) == (UNITS, (H, W))


class _Attention(nn.Module):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.conv, self.inner, self.what = nn.Conv2d(3, UNITS, 4, 4), nn.Identity(), what
        self.weights, self.heads = _Call(lambda x: x), _Call(lambda x: x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.inner(self.conv(x).flatten(2).transpose(1, 2))
        heads = self.heads(tokens.unflatten(2, (5, 4)).transpose(1, 2))
        weights = self.weights((heads @ heads.transpose(2, 3)).softmax(-1))
        return (weights @ heads).mean((1, 2))


@pytest.mark.parametrize("layer", ["weights", "heads"])
def test_attention_weights_are_no_map(layer: str) -> None:
    """Weights between tokens and the parts of heads are refused with a reason, whatever module holds them."""
    tap = tapped(_Attention(layer), SIZE)
    assert layer not in tap.taps
    assert tap.unreadable[layer]


class _Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pyramid, self.never = nn.Conv2d(3, 4, 3), _Pyramid(), nn.Linear(2, 2)
        self.blocks = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.pyramid(x)["coarse"].mean((2, 3))


class _Pyramid(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"fine": x, "coarse": nn.functional.avg_pool2d(x, 2)}


def test_each_tensor_of_a_module_that_gives_several_can_be_read() -> None:
    """The first goes by the module's name, the others by their place or key."""
    tap, batch = tapped(_Several(), SIZE), images(2, SIZE)
    assert tap.taps["pyramid[coarse]"].info.shape == (11, 15)
    found = read(tap, batch, "pyramid", "pyramid[coarse]", "blocks.1")
    assert torch.equal(found["pyramid"], found["blocks.1"])
    assert torch.equal(found["pyramid[coarse]"], nn.functional.avg_pool2d(found["pyramid"], 2))


def test_a_list_of_modules_names_its_parts_and_a_module_that_never_runs_says_so() -> None:
    """Both have nothing to read; each is refused for its own reason."""
    tap = tapped(_Several(), SIZE)
    assert "'blocks.1'" in tap.unreadable["blocks"]
    assert "not called" in tap.unreadable["never"]


@pytest.mark.parametrize("size", [(24, 32), (16, 48), (40, 8)])
def test_the_grid_of_tokens_follows_the_size_of_the_images(size: tuple[int, int]) -> None:
    """A network of any input size that was recorded at one size is laid out right at others."""
    tap, batch = tapped(Patches(with_extra(1, 0, 0)), SIZE), images(2, size)
    found = read(tap, batch, "conv", "order")
    assert torch.equal(found["order"], found["conv"])
    assert tap.is_placed("order", found["order"][0, 0].numel(), size)


def test_another_order_than_raster_is_not_guessed_at_another_size() -> None:
    """Windows or curves may be laid otherwise there: values alone are given."""
    tap, batch = tapped(Patches(unrolled), SIZE), images(2, (16, 32))
    found = read(tap, batch, "conv", "order")
    assert found["order"].shape[2] == 1
    assert torch.equal(found["order"].amax((2, 3)), found["conv"].amax((2, 3)))
    assert not tap.is_placed("order", 32, (16, 32))


def test_coded_images_spell_every_cell_once() -> None:
    """Read back from the pixels themselves, the gray_codes give the cells in raster order."""
    like = torch.zeros(2, 3, 24, 32)
    pixels = gray_code_images((H, W), like)
    cells = nn.functional.unfold(pixels, 4, stride=4).transpose(1, 2)
    evidence = PositionEvidence.of(cells, gray_codes((H, W)))
    order = evidence.order()
    assert order is not None
    assert order.tolist() == list(range(H * W))
    assert evidence.margin == pytest.approx(1.0)


def test_a_network_that_fails_on_the_coded_images_is_read_without_places() -> None:
    """What is shown to find places is a batch of another size than two, which a network may not take."""

    def only_two(tokens: torch.Tensor) -> torch.Tensor:
        if len(tokens) > 3:
            raise ValueError("two at most")
        return tokens

    with torch.inference_mode():
        tap = TappedModule(Patches(only_two), torch.zeros(2, 3, *SIZE))
    assert tap.taps["order"].info.shape == ()
