"""Networks of others, built and saved by their own libraries, give here what they give there.

The libraries' own forward pass and preprocessing are the oracle.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from actors.errors import UsageError
from actors.vision.networks.network import Network
from actors.vision.networks.zoo import check_name, load_network, parse
from tests.actors.vision import tiny_networks as networks
from tests.actors.vision.networks.test_preprocess import photo
from tests.fake_hub import FakeHub, point_at, set_constants

transformers = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "image_size": 24,
    "patch_size": 4,
}
TEXT: dict[str, Any] = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 9,
    "vocab_size": 30,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
SMALL = {"height": 24, "width": 24}


def save(model: Any, processor: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return folder


def built(kind: Any, config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return kind(config).eval()


def clip() -> tuple[Any, Any]:
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=SIZES, projection_dim=7)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=SMALL)
    return built(transformers.CLIPModel, config), processor


def siglip() -> tuple[Any, Any]:
    config = transformers.SiglipConfig(text_config=TEXT | {"max_position_embeddings": 8}, vision_config=SIZES)
    return built(transformers.SiglipModel, config), transformers.SiglipImageProcessor(size=SMALL)


def llava() -> tuple[Any, Any]:
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**SIZES),
        text_config=transformers.LlamaConfig(**TEXT, num_key_value_heads=2),
        image_token_index=29,
    )
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 24}, crop_size=SMALL)
    return built(transformers.LlavaForConditionalGeneration, config), processor


def siglip2() -> tuple[Any, Any]:
    sizes = {key: value for key, value in SIZES.items() if key != "image_size"}
    config = transformers.Siglip2VisionConfig(**sizes, num_patches=36)
    processor = transformers.Siglip2ImageProcessor(patch_size=4, max_num_patches=36)
    return built(transformers.Siglip2VisionModel, config), processor


def run(network: Network, images: list[np.ndarray]) -> Any:
    batch = network.preprocess.batch(images)
    with torch.inference_mode():
        return (network.feed or network.module)(batch)


@pytest.mark.parametrize(
    ("build", "module", "tower"),
    [
        (clip, "", "vision_model"),
        (clip, "#vision_model", "vision_model"),
        (siglip, "", "vision_model"),
        (llava, "", "model.vision_tower"),
        (llava, "#vision_tower", "model.vision_tower"),
        (llava, "#model.vision_tower", "model.vision_tower"),
    ],
)
def test_a_vision_tower_gives_what_it_gives_inside_its_model(
    build: Callable[[], tuple[Any, Any]], module: str, tower: str, tmp_path: Path
) -> None:
    whole, processor = build()
    network = load_network(f"hf:{save(whole, processor, tmp_path)}{module}")
    images = [photo(40, 60), photo(50, 30)]
    inputs = processor(images=[PIL.Image.fromarray(each) for each in images], return_tensors="pt")
    assert torch.allclose(
        network.preprocess.batch(images),
        inputs["pixel_values"],
        atol=1.01 / 255 / min(network.preprocess.std),
    )
    with torch.inference_mode():
        theirs = whole.get_submodule(tower)(pixel_values=network.preprocess.batch(images))
    assert torch.allclose(run(network, images)[0], theirs[0], atol=1e-5)
    assert network.class_names == ()


def test_the_patches_of_siglip_2_are_those_of_its_processor(tmp_path: Path) -> None:
    model, processor = siglip2()
    network = load_network(f"hf:{save(model, processor, tmp_path)}")
    images = [photo(24, 24), photo(24, 24, seed=1)]
    inputs = processor(images=[PIL.Image.fromarray(each) for each in images], return_tensors="pt")
    with torch.inference_mode():
        theirs = model(**inputs).last_hidden_state
    assert network.preprocess.size == (24, 24)
    assert torch.allclose(run(network, images)[0], theirs, atol=1e-5)


def test_a_tower_whose_inputs_do_not_follow_from_images_is_refused_in_a_sentence(tmp_path: Path) -> None:
    vision = {"depth": 1, "embed_dim": 8, "num_heads": 2, "hidden_size": 8, "patch_size": 4}
    rope = {"type": "mrope", "mrope_section": [1, 1]}
    config = transformers.Qwen2VLConfig(
        vision_config=vision,
        text_config=TEXT | {"num_key_value_heads": 2, "rope_scaling": rope},
        image_token_id=27,
        video_token_id=28,
        vision_start_token_id=25,
        vision_end_token_id=26,
    )
    folder = save(built(transformers.Qwen2VLForConditionalGeneration, config), None, tmp_path)
    with pytest.raises(UsageError, match=r"takes hidden_states, grid_thw, and not images alone.*factory"):
        load_network(f"hf:{folder}#visual")
    with pytest.raises(UsageError, match="takes more than images"):
        load_network(f"hf:{folder}")
    with pytest.raises(UsageError, match=r"has no module 'vision_towr'.*nearest"):
        load_network(f"hf:{folder}#vision_towr")


def test_a_path_that_several_modules_have_is_refused_with_them(tmp_path: Path) -> None:
    folder = save(*clip(), tmp_path)
    with pytest.raises(
        UsageError, match=r"several modules 'encoder'.*text_model.encoder or vision_model.encoder"
    ):
        load_network(f"hf:{folder}#encoder")


def test_a_tower_without_weights_is_built_alone_with_the_weights_of_a_file(tmp_path: Path) -> None:
    whole, processor = llava()
    folder = save(whole, processor, tmp_path)
    network = load_network(f"hf:{folder}#vision_tower@{folder / 'model.safetensors'}")
    theirs = whole.get_submodule("model.vision_tower").state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in network.module.state_dict().items())


def test_images_of_a_detector_get_inputs_of_its_usual_size() -> None:
    from actors.vision.networks.transformers_models import _preprocess

    processor = transformers.DetrImageProcessor(size={"shortest_edge": 32, "longest_edge": 64})
    assert _preprocess(processor, None, "detector").size == (32, 32)
    assert _preprocess(processor, (32, 48), "detector").size == (32, 48)


def timm_wrapper(folder: Path) -> Any:
    labels = dict(enumerate(["ant", "bee", "cat"]))
    config = transformers.TimmWrapperConfig(
        architecture="resnet10t",
        id2label=labels,
        label2id={value: key for key, value in labels.items()},
        pretrained_cfg={
            "input_size": [3, 64, 64],
            "crop_pct": 0.9,
            "interpolation": "bicubic",
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
        },
    )
    model = built(transformers.TimmWrapperForImageClassification, config)
    save(model, None, folder)
    return model


def test_a_network_of_timm_saved_by_transformers_keeps_its_own_preprocessing(tmp_path: Path) -> None:
    model = timm_wrapper(tmp_path)
    network = load_network(f"hf:{tmp_path}")
    image = photo(90, 70)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    theirs = processor(PIL.Image.fromarray(image))["pixel_values"]
    assert (network.preprocess.batch([image]) - theirs).abs().max() <= 2.01 / 255 / 0.5
    assert network.class_names == ("ant", "bee", "cat")
    with torch.inference_mode():
        expected = model(network.preprocess.batch([image])).logits
    assert torch.allclose(run(network, [image]).logits, expected, atol=1e-5)


def test_a_network_that_timm_saved_comes_from_a_folder_or_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm
    from timm.models import save_for_hf

    model = networks.seeded(lambda: timm.create_model("resnet10t", num_classes=3))
    config = {"num_classes": 3, "label_names": ["ant", "bee", "cat"]}
    save_for_hf(model, tmp_path / "saved", model_config=config)
    network = load_network(f"hf-hub:{tmp_path / 'saved'}")
    assert torch.equal(network.module.state_dict()["fc.bias"], model.state_dict()["fc.bias"])
    assert network.class_names == ("ant", "bee", "cat")
    assert network.preprocess.size == (176, 176)
    with FakeHub({"owner/name": tmp_path / "saved"}) as server:
        set_constants(monkeypatch, HF_HUB_OFFLINE=False)
        point_at(server.url, tmp_path / "cache", monkeypatch)
        fetched = load_network("hf-hub:owner/name")
    assert fetched.fingerprint("float32") == network.fingerprint("float32")
    assert fetched.name == "hf-hub:owner/name"


@pytest.mark.parametrize("names", [{0: "LABEL_0", 1: "LABEL_1"}, None])
def test_placeholders_of_transformers_are_no_class_names(names: Any, tmp_path: Path) -> None:
    config = transformers.ViTConfig(**SIZES, **({"id2label": names} if names else {}))
    save(built(transformers.ViTForImageClassification, config), None, tmp_path)
    assert load_network(f"hf:{tmp_path}").class_names == ()


SQUARE, LARGER = {"height": 32, "width": 32}, {"height": 40, "width": 40}
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "CLIP": ("CLIP", {"size": {"shortest_edge": 40}, "crop_size": SQUARE}),
    "ViT": ("ViT", {"size": SQUARE}),
    "BEiT": ("Beit", {"size": LARGER, "crop_size": SQUARE, "do_center_crop": True}),
    "DINOv2": ("Bit", {"size": {"shortest_edge": 36}, "crop_size": SQUARE}),
    "DINOv3": ("DINOv3ViT", {"size": SQUARE}),
    "SigLIP": ("Siglip", {"size": SQUARE}),
    "ConvNeXt": ("ConvNext", {"size": {"shortest_edge": 32}, "crop_pct": 0.875}),
    "LeViT": ("Levit", {"size": {"shortest_edge": 32}, "crop_size": SQUARE}),
    "PoolFormer": ("PoolFormer", {"size": {"shortest_edge": 32}, "crop_size": SQUARE}),
    "MobileViT": ("MobileViT", {"size": {"shortest_edge": 36}, "crop_size": SQUARE}),
    "MobileNetV1": ("MobileNetV1", {"size": {"shortest_edge": 36}, "crop_size": SQUARE}),
    "EfficientNet": ("EfficientNet", {"size": SQUARE, "include_top": True}),
    "Segformer": ("Segformer", {"size": {"height": 32, "width": 48}}),
    "SAM": ("Sam", {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}}),
    "without normalizing": ("ViT", {"size": SQUARE, "do_normalize": False}),
    "without rescaling": ("ViT", {"size": SQUARE, "do_rescale": False, "do_normalize": False}),
}
"""The class of an image processor, less `ImageProcessor`, and its options, by what it prepares images for."""


def processor_of(kind: str) -> Any:
    name, options = PROCESSORS[kind]
    return getattr(transformers, f"{name}ImageProcessor")(**options)


@pytest.mark.parametrize("kind", PROCESSORS)
def test_images_are_prepared_as_the_processor_prepares_them(kind: str) -> None:
    """Within one gray level of rounding in resizing, of any aspect, and at the same place."""
    from actors.vision.networks.transformers_models import _preprocess

    processor = processor_of(kind)
    ours = _preprocess(processor, None, kind)
    for image in (photo(70, 91), photo(131, 60), photo(64, 64)):
        theirs = processor(images=PIL.Image.fromarray(image), return_tensors="pt")["pixel_values"][0]
        gray_level = 1 / 255 / torch.tensor(ours.std).view(3, 1, 1)
        difference = (ours.batch([image])[0] - theirs).abs() / gray_level
        assert difference.max() <= 1.1 if kind != "SAM" else difference.mean() < 1.1


def open_clip_folder(folder: Path) -> Any:
    open_clip = pytest.importorskip("open_clip")
    folder.mkdir()
    config = {
        "embed_dim": 7,
        "vision_cfg": {"image_size": 24, "layers": 2, "width": 16, "head_width": 8, "patch_size": 4},
        "text_cfg": {"context_length": 6, "vocab_size": 30, "width": 8, "heads": 2, "layers": 1},
    }
    from safetensors.torch import save_file

    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"resize_mode": "shortest"}})
    )
    model = networks.seeded(partial(open_clip.model.CLIP, **config))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return model


def test_a_tower_of_open_clip_gives_what_its_model_gives(tmp_path: Path) -> None:
    model = open_clip_folder(tmp_path / "saved")
    import open_clip

    network = load_network(f"open_clip:local-dir:{tmp_path / 'saved'}")
    _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'saved'}")
    image = photo(50, 71)
    theirs = transform(PIL.Image.fromarray(image))
    assert (network.preprocess.batch([image])[0] - theirs).abs().max() <= 2.01 / 255 / min(
        network.preprocess.std
    )
    with torch.inference_mode():
        expected = model.encode_image(network.preprocess.batch([image]))
    assert torch.allclose(run(network, [image]), expected, rtol=1e-4, atol=1e-4)


def test_open_clip_says_which_weights_there_are_and_which_architectures() -> None:
    pytest.importorskip("open_clip")
    with pytest.raises(UsageError, match=r"does not say which weights.*ViT-B-32:TAG with one of openai"):
        load_network("open_clip:ViT-B-32")
    with pytest.raises(UsageError, match=r"no network 'ViT-B-33'.*nearest are ViT-B-32"):
        check_name("open_clip:ViT-B-33")


@pytest.mark.parametrize("source", ["resnet10t", "torchvision:squeezenet1_1", "hf:{vit}"])
def test_a_network_is_built_with_the_classes_of_its_checkpoint(source: str, tmp_path: Path) -> None:
    config = transformers.ViTConfig(**SIZES)
    save(built(transformers.ViTForImageClassification, config), None, tmp_path / "vit")
    source = source.format(vit=tmp_path / "vit")
    own = load_network(source, pretrained=False).module
    state = own.state_dict()
    n_own = next(reversed(state.values())).shape[0]
    for name, value in state.items():
        if value.ndim and value.shape[0] == n_own:
            state[name] = torch.ones(5, *value.shape[1:])
    torch.save({"state_dict": {f"model.{k}": v for k, v in state.items()}}, tmp_path / "five.ckpt")
    network = load_network(f"{source}@{tmp_path / 'five.ckpt'}")
    assert next(reversed(network.module.state_dict().values())).shape[0] == 5
    assert network.class_names == ()
    assert "built with its 5 classes" in network.weights


def test_a_factory_with_another_head_is_refused_with_both_numbers(tmp_path: Path) -> None:
    state = networks.tiny_conv().state_dict()
    torch.save(state | {"head.weight": torch.ones(9, 7), "head.bias": torch.ones(9)}, tmp_path / "nine.pth")
    with pytest.raises(UsageError, match=r"a head of 9 classes, and the network one of 4.*factory"):
        load_network(f"python:tests.actors.vision.tiny_networks:tiny_conv@{tmp_path / 'nine.pth'}")


def test_class_names_that_are_given_take_the_place_of_the_sources() -> None:
    names = [f"kind {letter}" for letter in "abcd"]
    network = load_network("python:tests.actors.vision.tiny_networks:tiny_conv", class_names=names)
    assert network.class_names == tuple(names)


@pytest.mark.parametrize(
    ("name", "asked", "checkpoint"),
    [
        ("resnet18@{0}/me@corp/w.pth", "resnet18", "{0}/me@corp/w.pth"),
        ("timm:resnet18@{0}/me@corp/w.pth", "timm:resnet18", "{0}/me@corp/w.pth"),
        ("resnet18@nowhere/me@corp/w.pth", "resnet18", "nowhere/me@corp/w.pth"),
        ("resnet18@no_suffix", "resnet18", "no_suffix"),
        ("python:{0}/me@corp/net.py:build", "python:{0}/me@corp/net.py:build", None),
        (
            "python:{0}/me@corp/net.py:build@{0}/me@corp/w.pth",
            "python:{0}/me@corp/net.py:build",
            "{0}/me@corp/w.pth",
        ),
        (
            "python:me@corp/net.py:build@nowhere.index.json",
            "python:me@corp/net.py:build",
            "nowhere.index.json",
        ),
        ("hf:{0}/me@corp/vit", "hf:{0}/me@corp/vit", None),
        ("hf:{0}/me@corp/vit#tower@{0}/me@corp/w.pth", "hf:{0}/me@corp/vit#tower", "{0}/me@corp/w.pth"),
        ("hf-hub:timm/resnet18.a1_in1k@main", "hf-hub:timm/resnet18.a1_in1k@main", None),
        ("open_clip:ViT-B-32@{0}/me@corp/no_suffix", "open_clip:ViT-B-32", "{0}/me@corp/no_suffix"),
    ],
)
def test_an_at_sign_in_a_path_is_no_checkpoint(
    name: str, asked: str, checkpoint: str | None, tmp_path: Path
) -> None:
    folder = tmp_path / "me@corp"
    (folder / "vit").mkdir(parents=True)
    for file in ("w.pth", "no_suffix", "net.py"):
        (folder / file).touch()
    address = parse(name.format(tmp_path))
    assert address.asked == asked.format(tmp_path)
    assert address.checkpoint == (None if checkpoint is None else Path(checkpoint.format(tmp_path)))
