"""Any module is made ready: without the wrappers of training, in its own layout of memory, with its own
channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from actors.errors import BackendError, UsageError
from actors.images import Image
from actors.vision.backend import VisionBackend
from actors.vision.networks.detectors import DetectionScores
from actors.vision.networks.network import convert, freeze, wrap
from actors.vision.readout.units import OUTPUT, Readout
from tests.actors.vision import tiny_networks as networks
from tests.actors.vision.test_backend import photos, results, settings, want


def body(n_in: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(n_in, 6, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4)
    )


@pytest.mark.parametrize(
    "wrapped",
    [
        nn.DataParallel,
        lambda module: nn.DataParallel(nn.DataParallel(module)),
        torch.optim.swa_utils.AveragedModel,
    ],
    ids=["once", "twice", "averaged weights"],
)
def test_wrappers_of_training_are_taken_off(wrapped: Any) -> None:
    """Layers go by their own names, and each gives all of a batch."""
    assert [name for name, _ in freeze(wrapped(body())).named_children()] == ["0", "1", "2", "3", "4"]


@pytest.mark.exhaustive  # the compiler takes seconds to import
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_networks_are_unwrapped_on_either_side_of_data_parallel() -> None:
    """What was compiled before or after it was divided among devices is read as it was before both."""
    for wrapped in (torch.compile(nn.DataParallel(body())), nn.DataParallel(torch.compile(body()))):
        assert [name for name, _ in freeze(wrapped).named_children()] == ["0", "1", "2", "3", "4"]


def test_a_part_that_is_divided_among_devices_is_unwrapped_too() -> None:
    """A backbone in DataParallel inside a plain network is read as the backbone itself."""
    outer = nn.Sequential(nn.DataParallel(nn.Conv2d(3, 6, 5)), nn.ReLU())
    assert isinstance(freeze(outer)[0], nn.Conv2d)


def test_distributed_training_is_unwrapped(tmp_path: Path) -> None:
    """What DistributedDataParallel holds is the network."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        inner = body()
        assert freeze(nn.parallel.DistributedDataParallel(inner)) is inner
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_complex_numbers_stay_complex_in_every_precision(dtype: torch.dtype) -> None:
    """Rotary tables keep their imaginary part; whole numbers and truth values keep their kind."""
    module = nn.Conv2d(3, 4, 3)
    table = torch.polar(torch.ones(4), torch.arange(4.0))
    module.register_buffer("table", table)
    module.register_buffer("steps", torch.arange(3))
    convert(module, "cpu", dtype, channels_last=True)
    assert module.weight.dtype == dtype
    assert module.table.is_complex()  # type: ignore[operator]
    assert torch.allclose(module.table.to(table.dtype), table)  # type: ignore[operator]
    assert module.steps.dtype == torch.int64  # type: ignore[union-attr]


class _Flattens(nn.Module):
    """LeNet's, AlexNet's and much course code: a map flattened with `view`."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.how = nn.Conv2d(3, 6, 5), nn.Linear(6 * 14 * 8, 4), how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(x))
        match self.how:
            case "rows":
                x = x.view(x.size(0), -1)
            case "numbers":
                x = x.view(-1, 6 * 14 * 8)
            case "tokens":
                x = x.view(len(x), 6, 14 * 8).transpose(1, 2).reshape(len(x), -1)
            case "reshape":
                x = x.reshape(len(x), -1)
        scores: torch.Tensor = self.head(x)
        return scores


@pytest.mark.parametrize("how", ["rows", "numbers", "tokens", "reshape"])
async def test_a_network_that_flattens_with_view_is_run_in_the_plain_layout(how: str) -> None:
    """Its values are those that it has outside; a network that works in the faster layout stays there."""
    module = _Flattens(how).eval()
    backend = VisionBackend(wrap(module, size=(18, 12)), settings())
    (image,) = photos(1)
    (result,) = await results(backend, want(image, Readout(OUTPUT, "logit"), None, maps=False))
    batch = backend.network.preprocess.batch([image.pixels]).contiguous()
    with torch.inference_mode():
        expected = module(batch)[0]
    # Sums of 672 products, in another order at most.
    tolerance = 672 * torch.finfo(torch.float32).eps * float(expected.abs().max() + 1)
    assert result.readings[0].activations == pytest.approx(expected.numpy(), abs=tolerance)
    weights_last = module.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert weights_last is (how in ("tokens", "reshape"))
    await backend.close()


async def test_a_network_of_one_channel_is_shown_luminance() -> None:
    """A module of one input channel needs no word about it; red, green and blue weigh as in ITU-R 601."""
    backend = VisionBackend(wrap(body(1), size=16), settings())
    assert backend.network.preprocess.channels == "L"
    pixels = np.zeros((16, 16, 3), np.uint8) + np.array([200, 100, 50], np.uint8)
    given = backend.batch([pixels])
    gray = (0.299 * 200 + 0.587 * 100 + 0.114 * 50) / 255
    assert given.shape == (1, 1, 16, 16)
    assert float(given[0, 0, 0, 0]) == pytest.approx((gray - 0.449) / 0.226, abs=1e-2)
    (result,) = await results(backend, want(Image.from_pixels(pixels), Readout("0"), (1,)))
    assert result.readings[0].maps[1].shape == (12, 12)
    await backend.close()


class _ByName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = body()

    def forward(self, mask: torch.Tensor | None = None, *, pixel_values: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.inner(pixel_values)
        return scores if mask is None else scores * mask


class _View(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(x.size(0), -1)


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(16 * 16, 4)),
        lambda: nn.Sequential(nn.Conv2d(1, 6, 5), _View()),
        _ByName,
    ],
    ids=["gray pixels in a row", "a gray map flattened by view", "an argument by name"],
)
async def test_a_network_is_given_its_images_in_the_form_that_it_takes(build: Any) -> None:
    """Its values are those that it has outside."""
    torch.manual_seed(0)
    module = build().eval()
    backend = VisionBackend(wrap(module, size=16), settings())
    (image,) = photos(1)
    (result,) = await results(backend, want(image, Readout(OUTPUT, "logit"), None, maps=False))
    batch = backend.batch([image.pixels])
    with torch.inference_mode():
        expected = module(pixel_values=batch) if build is _ByName else module(batch)
    np.testing.assert_allclose(result.readings[0].activations, expected[0], rtol=1e-4, atol=1e-5)
    await backend.close()


def test_a_network_of_a_single_image_says_so() -> None:
    """Code that folds the batch into the features works for its author's one image alone."""
    module = nn.Sequential(nn.Flatten(0), nn.Linear(3 * 16 * 16, 4))
    with pytest.raises(BackendError, match="takes one image at a time"):
        VisionBackend(wrap(module, size=16), settings())


@pytest.mark.parametrize("module", [nn.LazyConv2d(4, 3), nn.Conv2d(3, 4, 3, device="meta")])
def test_weights_without_values_are_refused(module: nn.Module) -> None:
    """Lazy modules that were never run, and modules built on no device."""
    with pytest.raises(UsageError, match="has no values for 'weight'"):
        wrap(module)


@pytest.mark.parametrize("n_channels", [2, 4, 13])
def test_channels_that_images_do_not_have_are_refused_in_one_sentence(n_channels: int) -> None:
    """Both numbers are said, and how to say what the channels are."""
    with pytest.raises(UsageError, match=f"takes images of {n_channels} channels, and is given 3") as caught:
        VisionBackend(wrap(body(n_channels), size=16, name="satellite"), settings())
    assert "channels=" in caught.value.fix


async def test_a_factory_says_what_each_channel_is() -> None:
    """Blue first, and a channel that images do not have, which is 0 to the network."""
    network = wrap(body(4), size=16, channels="BGR0", mean=(0.5,) * 4, std=(0.5,) * 4)
    backend = VisionBackend(network, settings())
    given = backend.batch([np.zeros((16, 16, 3), np.uint8) + np.array([255, 0, 51], np.uint8)])
    assert given[0, :, 3, 3].tolist() == pytest.approx([-0.6, -1.0, 1.0, 0.0], abs=1e-6)
    await backend.close()


@pytest.mark.parametrize(
    "options", [{"channels": "RGBX"}, {"channels": "L", "mean": (0.5, 0.5, 0.5)}, {"mean": (0.5, 0.5)}]
)
def test_channels_that_do_not_fit_are_refused(options: dict[str, Any]) -> None:
    """Unknown letters, and another number of means than of channels."""
    with pytest.raises(UsageError, match="channels"):
        wrap(body(), **options)


@pytest.mark.parametrize("size", [(32, 32), (48, 24), (16, 64)])
async def test_tokens_of_images_at_their_own_size_lie_where_they_are(size: tuple[int, int]) -> None:
    """A transformer of any input size, at sizes that it was not recorded with."""
    module = networks.tiny_vit(img_size=(32, 32), patch_size=8, dynamic_img_size=True)
    backend = VisionBackend(wrap(module, size=None), settings())
    image = photos(1, shape=size)[0]
    (result,) = await results(backend, want(image, Readout("blocks.1"), (3,)))
    with torch.inference_mode():
        expected = module.forward_intermediates(backend.batch([image.pixels]))[1][-1][0, 3]
    assert result.readings[0].maps[3].shape == (size[0] // 8, size[1] // 8)
    assert np.allclose(result.readings[0].maps[3], expected, atol=2**-10 * float(expected.abs().max()))
    await backend.close()


async def test_a_unit_without_places_has_its_activation_and_no_map() -> None:
    """What is kept of it is one number, as of a vector's unit."""
    module = networks.tiny_vit(img_size=32, depth=1)
    module.pos_drop = _Pooled()
    backend = VisionBackend(wrap(module, size=32), settings())
    (layer,) = [each for each in backend.layers() if each.name == "pos_drop"]
    assert (layer.kind, layer.shape) == ("tokens", ())
    (result,) = await results(backend, want(photos(1)[0], Readout("pos_drop"), (3,)))
    assert result.readings[0].maps[3].tolist() == [
        [pytest.approx(result.readings[0].activations[0], rel=1e-3)]
    ]
    await backend.close()


class _Pooled(nn.Module):
    """Mixes every token with all others."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft(tokens[:, 1:], dim=1).real


class _Answers(nn.Module):
    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: torch.Tensor) -> Any:
        return self.answer


BOXES = torch.zeros(2, 3, 4)
CONFIDENCE = torch.tensor([[0.5, 0.9, 0.2], [0.0, 0.4, 1.0]])[:, :, None]
CLASSES = torch.tensor([[[0.8, 0.1], [0.3, 0.6], [1.0, 0.9]], [[0.5, 0.5], [0.5, 0.25], [0.1, 0.2]]])
LISTS = [
    {"boxes": torch.zeros(3, 4), "labels": torch.tensor([1, 0, 1]), "scores": torch.tensor([0.3, 0.4, 0.7])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)},
]
LOGITS = torch.tensor([[[2.0, -1.0], [0.0, 1.0]], [[-3.0, 0.5], [1.0, 1.0]]])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (LISTS, [[0.4, 0.7], [0.0, 0.0]]),
        (torch.cat([BOXES, CLASSES], 2), CLASSES.amax(1)),
        (torch.cat([BOXES, CLASSES], 2).transpose(1, 2), CLASSES.amax(1)),
        ((torch.cat([BOXES, CONFIDENCE, CLASSES], 2), ["heads"]), (CONFIDENCE * CLASSES).amax(1)),
        ({"logits": LOGITS, "pred_boxes": BOXES}, LOGITS.sigmoid().amax(1)),
        (
            {"pred_logits": torch.cat([LOGITS, LOGITS[:, :, :1]], 2)},
            torch.cat([LOGITS, LOGITS[:, :, :1]], 2).softmax(-1)[..., :2].amax(1),
        ),
    ],
    ids=["lists", "boxes and classes", "classes first", "with objectness", "queries", "queries or no object"],
)
def test_a_detectors_units_are_its_classes_best_scores(answer: Any, expected: Any) -> None:
    """Lists of boxes, grids of boxes and queries all become one score a class."""
    found = DetectionScores(_Answers(answer), 2)(torch.zeros(2, 3, 8, 8))
    assert torch.allclose(found, torch.as_tensor(expected))


@pytest.mark.parametrize(
    "answer",
    [
        torch.zeros(2, 3, 9),
        {"logits": torch.zeros(2, 3, 9)},
        [{**LISTS[0], "labels": torch.tensor([5, 0, 1])}],
        "boxes",
    ],
)
def test_a_detectors_answer_that_does_not_fit_its_classes_is_refused(answer: Any) -> None:
    """Another number of classes, a label beyond them, an answer of no known form."""
    with pytest.raises(UsageError):
        DetectionScores(_Answers(answer), 2)(torch.zeros(2, 3, 8, 8))


async def test_a_detector_of_torchvision_is_studied_by_its_scores() -> None:
    """Without a word about it its output is refused with the way to go; with it, each class is a unit."""
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    torch.manual_seed(0)
    module = ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=5, score_thresh=0.0
    )
    bare = VisionBackend(wrap(module, size=64), settings())
    assert "wrap(module, detects=N)" in bare.describe()["unreadable"][OUTPUT]
    backend = VisionBackend(wrap(module, size=64, detects=5), settings())
    (image,) = photos(1)
    (result,) = await results(backend, want(image, Readout(OUTPUT, "probability"), None, maps=False))
    with torch.inference_mode():
        (boxes,) = module(backend.batch([image.pixels]))
    best = [
        float(boxes["scores"][boxes["labels"] == each].amax()) if (boxes["labels"] == each).any() else 0.0
        for each in range(5)
    ]
    assert result.readings[0].activations.tolist() == pytest.approx(best, abs=1e-5)
    await backend.close()
    await bare.close()


async def test_a_detector_of_transformers_is_studied_by_its_scores() -> None:
    """YOLOS gives queries with one more class for no object."""
    transformers = pytest.importorskip("transformers")
    config = transformers.YolosConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=20,
        image_size=[32, 32],
        patch_size=8,
        num_detection_tokens=5,
        num_labels=3,
    )
    module = networks.seeded(lambda: transformers.YolosForObjectDetection(config))
    backend = VisionBackend(wrap(module, size=32, detects=3, class_names=["a", "b", "c"]), settings())
    (image,) = photos(1)
    (result,) = await results(backend, want(image, Readout(OUTPUT, "probability"), None, maps=False))
    with torch.inference_mode():
        expected = module(backend.batch([image.pixels])).logits.softmax(-1)[0, :, :3].amax(0)
    assert result.readings[0].activations.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    await backend.close()
