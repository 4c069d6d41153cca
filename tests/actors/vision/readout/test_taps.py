"""Any module of any network can be read, at no more than the price of the pass down to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from actors.errors import BackendError
from actors.vision.readout.containers import part, tensors_in
from actors.vision.readout.recording import scores_of
from actors.vision.readout.tap import spatial_max
from actors.vision.readout.taps import TappedModule
from tests.actors.vision import tiny_networks as networks


def tapped(module: nn.Module, size: tuple[int, int], prefix: int | None = None) -> TappedModule:
    with torch.inference_mode():
        return TappedModule(
            module, torch.zeros(2, 3, *size), prefix=None if prefix is None else ("",) * prefix
        )


def images(n: int, size: tuple[int, int], seed: int = 1) -> torch.Tensor:
    return torch.randn((n, 3, *size), generator=torch.Generator().manual_seed(seed))


def raw_outputs(module: nn.Module, batch: torch.Tensor) -> dict[str, Any]:
    """Return a copy of each module's last output, taken before anything changes it in place."""
    outputs: dict[str, Any] = {}
    handles = []
    for name, child in module.named_modules():

        def keep(_module: Any, _inputs: Any, output: Any, name: str = name or "output") -> None:
            outputs[name] = output.clone() if isinstance(output, torch.Tensor) else output

        handles.append(child.register_forward_hook(keep))
    with torch.inference_mode():
        module(batch)
    for handle in handles:
        handle.remove()
    return outputs


def read(
    tap: TappedModule, batch: torch.Tensor, *layers: str, wanted: list[str] | None = None
) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}

    def keep(layer: str) -> Any:
        def take(maps: torch.Tensor) -> None:
            found[layer] = maps.clone()

        return take

    with torch.inference_mode():
        tap.run(batch, {layer: keep(layer) for layer in layers}, wanted)
    return found


NETWORKS = {
    "conv": (networks.tiny_conv, (18, 12)),
    "vit": (networks.tiny_vit, (24, 16)),
    "vit with registers": (lambda: networks.tiny_vit(reg_tokens=3), (24, 16)),
    "vit without class token": (lambda: networks.tiny_vit(class_token=False, global_pool="avg"), (24, 16)),
    "swin": (networks.tiny_swin, (32, 32)),
    "convnext": (networks.tiny_convnext, (64, 96)),
    "resnet": (networks.tiny_resnet, (64, 32)),
}


@pytest.fixture(params=sorted(NETWORKS))
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, tuple[int, int]]:
    build, size = NETWORKS[request.param]
    return build(), size


def test_every_listed_layer_yields_the_values_of_its_module(
    network: tuple[nn.Module, tuple[int, int]],
) -> None:
    module, size = network
    tap = tapped(module, size)
    batch = images(3, size)
    raw = raw_outputs(module, batch)
    for layer in tap.layers():
        maps = read(tap, batch, layer.name)[layer.name]
        assert maps.shape == (3, layer.n_units, *(layer.shape or (1, 1))), layer
        positions = layer.shape[0] * layer.shape[1] if layer.shape else 1
        flat = raw[layer.name].flatten()
        if layer.kind != "tokens":
            assert flat.numel() == maps.numel(), layer
            assert torch.equal(flat.sort().values, maps.flatten().sort().values), layer
        else:
            patches = raw[layer.name][:, -positions:]
            expected = patches.reshape(3, *layer.shape, layer.n_units).permute(0, 3, 1, 2)
            assert torch.equal(maps, expected), layer


def test_reading_all_layers_at_once_equals_reading_each_alone(
    network: tuple[nn.Module, tuple[int, int]],
) -> None:
    module, size = network
    tap = tapped(module, size)
    batch = images(2, size)
    names = [layer.name for layer in tap.layers()]
    together = read(tap, batch, *names)
    for name in names:
        assert torch.equal(together[name], read(tap, batch, name)[name]), name


def test_units_are_on_the_axis_of_channels_in_maps_of_either_layout() -> None:
    layers = {layer.name: layer for layer in tapped(networks.tiny_swin(), (32, 32)).layers()}
    assert (layers["patch_embed"].n_units, layers["patch_embed"].shape) == (6, (8, 8))
    assert layers["layers.0.blocks.0.mlp.fc1"].n_units == 24
    assert layers["layers.1.blocks.0"].n_units == 12
    first = {layer.name: layer for layer in tapped(networks.tiny_convnext(), (64, 96)).layers()}
    assert (first["stem.1"].n_units, first["stem.1"].shape) == (4, (16, 24))
    assert first["stages.1.blocks.0.mlp.fc1"].n_units == 24


@pytest.mark.parametrize(
    ("options", "prefix"),
    [({}, 1), ({"reg_tokens": 3}, 4), ({"class_token": False, "global_pool": "avg"}, 0)],
)
def test_prefix_tokens_are_dropped_whether_declared_or_not(options: dict[str, Any], prefix: int) -> None:
    module = networks.tiny_vit(**options)
    for declared in (None, prefix):
        tap = tapped(module, (24, 16), declared).taps["blocks.1.mlp.fc1"]
        assert tap.layout.prefix == prefix
        assert tap.info.shape == (6, 4)


def test_an_in_place_activation_does_not_change_what_was_read_before_it() -> None:
    tap = tapped(networks.tiny_conv(), (18, 12))
    found = read(tap, images(3, (18, 12)), "stem", "act")
    assert found["stem"].min() < 0
    assert torch.equal(found["stem"].relu(), found["act"])


def test_the_pass_stops_at_the_deepest_layer_asked() -> None:
    module = networks.tiny_conv()
    tap = tapped(module, (18, 12))
    ran: list[str] = []
    for name, child in module.named_children():
        child.register_forward_pre_hook(lambda _module, _inputs, name=name: ran.append(name))
    read(tap, images(2, (18, 12)), "branch", "stem")
    assert ran == ["stem", "act", "branch"]


def test_hooks_are_gone_after_a_pass_that_fails() -> None:
    module = networks.tiny_conv()
    tap = tapped(module, (18, 12))

    def fail(_maps: torch.Tensor) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"), torch.inference_mode():
        tap.run(images(1, (18, 12)), {"deep": fail})
    assert all(not child._forward_hooks for child in module.modules())


def test_the_first_tensor_with_a_row_per_image_is_taken_from_whatever_holds_it() -> None:
    """Tuples, dictionaries, objects, these in each other, and sequences whose second axis is the batch."""
    tap = tapped(networks.seeded(networks.Outputs), (6, 10))
    layers = {layer.name: layer for layer in tap.layers()}
    assert layers["pair"].n_units == layers["named"].n_units == 4
    assert (layers["output"].kind, layers["output"].n_units) == ("vector", 4)
    batch = images(3, (6, 10))
    found = read(tap, batch, "conv", "pair", "named", "nested[parts][1][maps]", "sequence")
    assert torch.equal(found["pair"], found["conv"] * 2)
    assert torch.equal(found["named"], found["pair"] + 1)
    assert torch.equal(found["nested[parts][1][maps]"], found["named"] * 3)
    assert torch.equal(found["sequence"], found["named"] * 3)
    assert "one per image" in tap.unreadable["nested"]


class _Attributes:
    """Holds its tensor as an attribute, and also answers to an index."""

    def __init__(self, maps: torch.Tensor) -> None:
        self.maps = maps

    def __getitem__(self, place: int) -> torch.Tensor:
        return (self.maps,)[place]


def test_outer_tensors_come_before_those_within_and_attributes_are_read_as_such() -> None:
    inner, outer = torch.zeros(2, 3, 4, 4), torch.zeros(2, 5)
    found = list(tensors_in(([inner, inner], _Attributes(inner), outer)))
    assert [path for path, _ in found] == [(2,), (0, 0), (0, 1), (1, "maps")]
    assert part(([inner], _Attributes(inner)), (1, "maps")) is inner


def test_a_module_that_returns_no_tensor_is_unreadable_and_says_why() -> None:
    tap = tapped(networks.seeded(networks.Outputs), (6, 10))
    assert "str" in tap.unreadable["odd"]


def test_a_module_called_twice_is_read_at_its_last_call() -> None:
    module = networks.seeded(networks.Outputs)
    tap = tapped(module, (6, 10))
    batch = images(3, (6, 10))
    found = read(tap, batch, "named", "again")
    with torch.inference_mode():
        assert torch.allclose(found["again"], module.again(module.again(3 * found["named"])), atol=1e-6)  # type: ignore[operator]


def test_rows_that_need_no_more_leave_the_pass_and_change_nothing() -> None:
    module = networks.tiny_resnet()
    tap = tapped(module, (64, 32))
    batch = images(5, (64, 32))
    sizes: list[int] = []
    module.layer3.register_forward_pre_hook(lambda _module, inputs: sizes.append(len(inputs[0])))  # type: ignore[union-attr]
    wanted = ["layer4", "layer3", "layer3", "layer1", "layer1.0.conv1"]
    found = read(tap, batch, "layer4", "layer3", "layer1", "layer1.0.conv1", wanted=wanted)
    sizes.clear()
    found = read(tap, batch, "layer4", "layer3", "layer1", "layer1.0.conv1", wanted=wanted)
    assert sizes == [3]
    assert [len(found[name]) for name in ("layer1.0.conv1", "layer1", "layer3", "layer4")] == [5, 4, 3, 1]
    alone = read(tap, batch, "layer4", "layer3", "layer1", "layer1.0.conv1")
    for name, maps in found.items():
        assert torch.allclose(maps, alone[name][: len(maps)], atol=1e-5), name


def test_a_layer_inside_a_residual_branch_is_not_narrowed_before_its_block_ends() -> None:
    tap = tapped(networks.tiny_conv(), (18, 12))
    with torch.inference_mode():
        assert not tap._can_narrow("branch")
        assert tap._can_narrow("deep")
        assert not tapped(networks.tiny_resnet(), (64, 32))._can_narrow("layer1.0.conv1")


def test_an_auxiliary_head_is_read_for_all_images() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            stem = self.stem(x)
            return self.head(stem), self.other(stem)

    tap, batch = tapped(TwoHeads(), (9, 7)), images(3, (9, 7))
    alone = read(tap, batch, "head", "other")
    with torch.inference_mode():
        assert tap._can_narrow("head")
    found = read(tap, batch, "head", "other", wanted=["other", "head", "head"])
    assert [len(found[name]) for name in ("head", "other")] == [3, 3]
    for name, maps in found.items():
        assert torch.allclose(maps, alone[name], atol=1e-6), name


def test_a_network_that_fails_on_its_input_size_says_so() -> None:
    with pytest.raises(BackendError, match="shape"):
        tapped(networks.tiny_vit(), (30, 16))


@pytest.mark.parametrize("shape", [(3, 4, 5, 2), (2, 7, 1, 1), (2, 3, 1, 6)])
def test_the_spatial_maximum_is_the_same_in_every_memory_layout(shape: tuple[int, ...]) -> None:
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = maps.amax((2, 3))
    for layout in (maps, maps.contiguous(memory_format=torch.channels_last), maps.half().float()[:, :, :, :]):
        assert torch.allclose(spatial_max(layout), expected, atol=1e-2)
    assert torch.equal(spatial_max(maps.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)), expected)


@pytest.mark.parametrize(
    ("tail", "n_classes", "expected"),
    [
        ([], 4, "softmax"),
        ([nn.LogSoftmax(1)], 4, "softmax"),
        ([nn.Softmax(1)], 4, "probabilities"),
        ([nn.Softmax(1)], 2, "probabilities"),
        ([nn.Sigmoid()], 4, "probabilities"),
        ([nn.Sigmoid(), nn.Identity()], 4, "probabilities"),
        ([], 1, "sigmoid"),
        ([nn.Sigmoid()], 1, "probabilities"),
    ],
)
def test_the_kind_of_output_is_inferred_from_its_values(
    tail: list[nn.Module], n_classes: int, expected: str
) -> None:
    torch.manual_seed(3)
    body = [nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, n_classes)]
    taps = tapped(nn.Sequential(*body, *tail), (7, 9)).taps
    assert taps["output"].info.scores == expected


def test_probabilities_that_no_module_made_are_known_by_their_sum() -> None:
    logits = torch.randn((3, 1000), generator=torch.Generator().manual_seed(1))
    assert scores_of(logits.softmax(1)) == "probabilities"
    assert scores_of(logits.softmax(1).half()) == "probabilities"
    assert scores_of(logits.bfloat16().softmax(1)) == "probabilities"
    assert scores_of(logits) == "softmax"


class _OneNumber(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).mean((1, 2, 3))


def test_a_network_that_returns_one_number_an_image_has_one_unit() -> None:
    module, batch = _OneNumber().eval(), images(4, (7, 9))
    tap = tapped(module, (7, 9))
    assert (tap.taps["output"].info.kind, tap.taps["output"].info.n_units) == ("vector", 1)
    with torch.inference_mode():
        expected = module(batch)
    assert torch.equal(read(tap, batch, "output")["output"][:, 0, 0, 0], expected)


def test_one_number_a_pixel_is_the_map_of_one_unit() -> None:
    """What networks for depth return, (N, h, w), is no sequence of h tokens of w units."""
    conv = nn.Conv2d(3, 1, 3, padding=1)
    module, batch = nn.Sequential(conv, nn.Flatten(1, 2)).eval(), images(2, (7, 9))
    info = tapped(module, (7, 9)).taps["output"].info
    assert (info.kind, info.n_units, info.shape) == ("map", 1, (7, 9))
    with torch.inference_mode():
        assert torch.equal(read(tapped(module, (7, 9)), batch, "output")["output"], conv(batch))


class _Unsteady(nn.Module):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.what, self.calls = what, 0
        self.norm = nn.BatchNorm2d(4, track_running_stats=what != "a normalization over the batch")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        maps = self.norm(self.conv(images))
        match self.what:
            case "dropout":
                maps = nn.functional.dropout(maps, training=True)
            case "a memory":
                maps = maps * self.calls
        return maps.amax((2, 3))


@pytest.mark.parametrize("what", ["nothing", "dropout", "a normalization over the batch", "a memory"])
def test_batch_dependent_and_random_activations_are_detected(what: str) -> None:
    torch.manual_seed(0)
    with torch.inference_mode():
        assert tapped(_Unsteady(what).eval(), (9, 11)).is_batch_invariant() is (what == "nothing")


class _Returns(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)).argmax(1)


class _Holds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sparse, self.sign, self.fourier, self.last = _Sparse(), _Sign(), _Fourier(), _Returns()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.fourier(self.sign(self.sparse(images).to_dense()).float()).abs())


class _Sparse(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.to_sparse()


class _Sign(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images > 0


class _Fourier(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft2(images)


def test_values_that_are_no_dense_real_numbers_are_named_as_the_reason() -> None:
    found = tapped(_Holds(), (8, 8))
    assert not found.taps
    assert {name: reason.rpartition("(")[2] for name, reason in found.unreadable.items()} == {
        "sparse": "torch.float32)",
        "sign": "torch.bool)",
        "fourier": "torch.complex64)",
        "last": "torch.int64)",
        "output": "torch.int64)",
    }
