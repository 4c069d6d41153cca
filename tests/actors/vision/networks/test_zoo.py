"""Networks are found by name in every source, with their own preprocessing, or refused with a way out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors import hub
from actors.errors import UsageError
from actors.vision.networks.network import wrap
from actors.vision.networks.zoo import check_name, load_network
from tests.actors.vision import tiny_networks as networks


def test_lite0_has_its_imagenet_weights_and_knows_a_daisy_and_a_palace() -> None:
    from sklearn.datasets import load_sample_images

    network = load_network("tf_efficientnet_lite0")
    assert network.weights == "pretrained"
    assert network.preprocess.mean == network.preprocess.std == (0.5, 0.5, 0.5)
    with torch.inference_mode():
        scores = network.module(network.preprocess.batch(load_sample_images().images))
    assert [network.class_names[index] for index in scores.argmax(1)] == ["palace", "daisy"]


def test_timm_gives_preprocessing_prefix_tokens_and_class_names() -> None:
    network = load_network("timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k", pretrained=False)
    assert network.preprocess.resize == (248, 248)
    assert network.prefix == ("cls",)
    assert len(network.class_names) == 1000
    assert network.weights == "random"
    assert "random weights" in network.name


def test_random_weights_are_the_same_every_time_and_leave_the_generator_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = load_network("resnet10t", pretrained=False)
    assert torch.equal(before, torch.get_rng_state())
    assert first.fingerprint("float32") == load_network("resnet10t", pretrained=False).fingerprint("float32")


def test_the_fingerprint_tells_weights_preprocessing_and_dtype_apart() -> None:
    base = wrap(networks.tiny_conv(), size=(18, 12))
    other = networks.tiny_conv()
    with torch.no_grad():
        other.head.bias[0] += 1e-3
    prints = {
        base.fingerprint("float32"),
        base.fingerprint("bfloat16"),
        wrap(networks.tiny_conv(), size=(18, 12), mean=(0, 0, 0)).fingerprint("float32"),
        wrap(other, size=(18, 12)).fingerprint("float32"),
    }
    assert len(prints) == 4
    assert wrap(networks.tiny_conv(), size=(18, 12)).fingerprint("float32") in prints


@pytest.mark.parametrize(
    ("alias", "layers"),
    [
        ("dino_vits8", {"mlp5": "blocks.5.mlp.fc1"}),
        ("clip-RN50", {"layer1": "stages.0", "res4": "stages.3", "conv1": "stem.conv1"}),
    ],
)
def test_the_papers_names_stand_for_modules_that_exist(alias: str, layers: dict[str, str]) -> None:
    network = load_network(alias, pretrained=False)
    modules = dict(network.module.named_modules())
    for name, layer in layers.items():
        assert network.aliases[name] == layer
        assert layer in modules
    assert set(network.aliases.values()) <= set(modules)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet151", "resnet152"),
        ("resnet50.a1_in2k", "resnet50.a1_in1k"),
        ("torchvision:resnat18", "resnet18"),
        ("keras:vgg", "timm:NAME"),
        ("python:no_such_package:build", "no module"),
        ("python:tests.actors.vision.tiny_networks:tiny_konv", "tiny_conv"),
        ("python:tests", "package.module:factory"),
        ("python:no/such/file.py:build", "no file"),
        ("hf:./no/such/folder", "does not exist"),
        ("resnet10t@no/such/file.safetensors", "no checkpoint"),
        ("timm:", "source"),
    ],
)
def test_a_name_that_points_nowhere_is_answered_with_a_way_out(name: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_network(name)
    assert words in str(caught.value)


def test_weights_that_cannot_be_fetched_are_answered_with_what_to_do() -> None:
    with pytest.raises(hub.HubUnreachableError, match="pretrained: false"):
        load_network("resnet10t")


def test_a_torchvision_network_with_a_checkpoint(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    made = load_network("torchvision:resnet18", pretrained=False)
    state = {
        name: tensor + 1 if tensor.is_floating_point() else tensor
        for name, tensor in made.module.state_dict().items()
    }
    save_file(state, tmp_path / "own.safetensors")
    torch.save(
        {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "own.pth"
    )
    for file in ("own.safetensors", "own.pth"):
        loaded = load_network(f"torchvision:resnet18@{tmp_path / file}")
        assert torch.equal(loaded.module.fc.bias, made.module.fc.bias + 1)  # type: ignore[union-attr, operator]
        assert loaded.preprocess.resize == (256, 256)
        assert loaded.preprocess.interpolation == "bilinear"
        assert len(loaded.class_names) == 1000
        assert loaded.name == f"torchvision:resnet18@{file}"
        assert "checkpoint" in loaded.weights


def test_a_checkpoint_of_another_network_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    torch.save(networks.tiny_conv().state_dict(), tmp_path / "other.pth")
    with pytest.raises(UsageError, match="missing"):
        load_network(f"resnet10t@{tmp_path / 'other.pth'}")
    (tmp_path / "bad.pth").write_bytes(b"nothing")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    for file in ("bad.pth", "bad.safetensors"):
        with pytest.raises(UsageError, match=r"no file of torch or safetensors"):
            load_network(f"resnet10t@{tmp_path / file}")


def test_a_factory_imports_from_its_folder_and_makes_the_same_weights_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path / "restores the path at the end")
    (tmp_path / "parts_of_it.py").write_text("import torch\nhead = lambda: torch.nn.Conv2d(3, 4, 2)\n")
    (tmp_path / "whole.py").write_text("from parts_of_it import head\n\n\ndef build():\n    return head()\n")
    one, other = (load_network(f"python:{tmp_path / 'whole.py'}:build").module for _ in range(2))
    assert torch.equal(next(one.parameters()), next(other.parameters()))
    del sys.modules["network_whole"], sys.modules["parts_of_it"]


def test_a_python_factory_from_a_package_or_a_file(tmp_path: Path) -> None:
    network = load_network("python:tests.actors.vision.tiny_networks:tiny_conv")
    assert isinstance(network.module, networks.TinyConv)
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom actors.vision.networks.network import wrap\n"
        "def build():\n    return wrap(torch.nn.Conv2d(3, 4, 2), name='mine', size=9)\n"
        "def wrong():\n    return 3\n"
    )
    assert load_network(f"python:{tmp_path / 'mine.py'}:build").preprocess.size == (9, 9)
    with pytest.raises(UsageError, match="returned int, which is no network"):
        load_network(f"python:{tmp_path / 'mine.py'}:wrong")
    del sys.modules["network_mine"]


class TestTransformers:
    """Tiny models of the real classes, saved by save_pretrained and loaded back."""

    @pytest.fixture
    def tiny(self, tmp_path: Path) -> Any:
        transformers = pytest.importorskip("transformers")
        sizes: dict[str, Any] = {
            "hidden_size": 12,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 20,
            "image_size": 24,
            "patch_size": 4,
        }

        def save(kind: str) -> Path:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                if kind == "vit":
                    labels = {0: "ant", 1: "bee", 2: "cat"}
                    config = transformers.ViTConfig(
                        **sizes, id2label=labels, label2id={v: k for k, v in labels.items()}
                    )
                    model = transformers.ViTForImageClassification(config)
                    processor = transformers.ViTImageProcessor(size={"height": 24, "width": 24})
                elif kind == "clip":
                    text = {
                        "hidden_size": 8,
                        "num_hidden_layers": 1,
                        "num_attention_heads": 2,
                        "intermediate_size": 9,
                        "vocab_size": 30,
                        "bos_token_id": 0,
                        "eos_token_id": 1,
                        "pad_token_id": 1,
                    }
                    config = transformers.CLIPConfig(text_config=text, vision_config=sizes, projection_dim=7)
                    model = transformers.CLIPModel(config)
                    processor = transformers.CLIPImageProcessor(
                        size={"shortest_edge": 28}, crop_size={"height": 24, "width": 24}
                    )
                elif kind == "siglip":
                    config = transformers.SiglipVisionConfig(**sizes)
                    model = transformers.SiglipVisionModel(config)
                    processor = transformers.SiglipImageProcessor(size={"height": 24, "width": 24})
                else:
                    config = transformers.ConvNextConfig(
                        hidden_sizes=[4, 6, 8, 10], depths=[1, 1, 1, 1], image_size=64
                    )
                    model = transformers.ConvNextModel(config)
                    processor = None
            folder = tmp_path / kind
            model.save_pretrained(folder)
            if processor is not None:
                processor.save_pretrained(folder)
            return folder

        return save

    @pytest.mark.parametrize(
        ("kind", "layer", "n_units"),
        [
            ("vit", "vit.layers.1.mlp.fc1", 20),
            ("clip", "encoder.layers.1.mlp.fc1", 20),
            ("siglip", "encoder.layers.1.mlp.fc1", 20),
        ],
    )
    def test_a_saved_model_is_loaded_back_and_its_tokens_form_a_grid(
        self, tiny: Any, kind: str, layer: str, n_units: int
    ) -> None:
        from actors.vision.readout.taps import TappedModule

        network = load_network(f"hf:{tiny(kind)}")
        assert network.preprocess.size == (24, 24)
        with torch.inference_mode():
            tapped = TappedModule(network.module, torch.zeros(2, 3, 24, 24), network.feed)
        names = [name for name in tapped.taps if name.endswith("1.mlp.fc1")]
        assert len(names) == 1
        info = tapped.taps[names[0]].info
        assert (info.n_units, info.shape) == (n_units, (6, 6))
        assert tapped.taps[names[0]].layout.prefix == (0 if kind == "siglip" else 1)

    def test_a_classifier_brings_its_class_names(self, tiny: Any) -> None:
        assert load_network(f"hf:{tiny('vit')}").class_names == ("ant", "bee", "cat")

    def test_the_processor_decides_on_resizing_and_colors(self, tiny: Any) -> None:
        clip = load_network(f"hf:{tiny('clip')}").preprocess
        assert (clip.resize, clip.fit, clip.interpolation) == ((28, 28), "cover", "bicubic")
        assert clip.mean[0] == pytest.approx(0.48145466)
        siglip = load_network(f"hf:{tiny('siglip')}").preprocess
        assert (siglip.fit, siglip.mean) == ("squash", (0.5, 0.5, 0.5))

    def test_preprocessing_is_as_the_processors_own(self, tiny: Any) -> None:
        import transformers

        folder = tiny("clip")
        image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        import PIL.Image

        processor = transformers.CLIPImageProcessor.from_pretrained(folder)
        theirs = processor(PIL.Image.fromarray(image), return_tensors="pt")["pixel_values"]
        ours = load_network(f"hf:{folder}").preprocess.batch([image])
        assert (ours - theirs).abs().max() < 0.05

    def test_a_model_without_a_processor_or_head_still_loads(self, tiny: Any) -> None:
        network = load_network(f"hf:{tiny('convnext')}")
        assert network.class_names == ()
        assert network.preprocess.size == (64, 64)

    def test_random_weights_and_checkpoints_work_here_too(self, tiny: Any) -> None:
        folder = tiny("siglip")
        trained = load_network(f"hf:{folder}")
        random = load_network(f"hf:{folder}", pretrained=False)
        assert trained.fingerprint("float32") != random.fingerprint("float32")
        again = load_network(f"hf:{folder}@{folder / 'model.safetensors'}")
        assert again.fingerprint("float32") == trained.fingerprint("float32")


def test_a_factorys_error_is_reported_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "faulty.py"
    file.write_text(
        "import sys\n\ndef build():\n    return {}['weights']\n\ndef leave():\n    sys.exit('bye')\n"
    )
    with pytest.raises(UsageError, match="KeyError: 'weights'") as raised:
        load_network(f"python:{file}:build")
    assert raised.value.fix == f"See line 4 of {file}: return {{}}['weights']"
    with pytest.raises(UsageError, match="SystemExit: bye"):
        load_network(f"python:{file}:leave")


def test_networks_that_give_probabilities_have_another_fingerprint_than_those_with_logits() -> None:
    module = networks.tiny_conv()
    prints = {
        wrap(module, scores=scores).fingerprint("float32")
        for scores in (None, "softmax", "sigmoid", "probabilities")
    }
    assert len(prints) == 3


def test_a_word_that_says_nothing_of_the_output_is_refused() -> None:
    with pytest.raises(UsageError, match="softmax, sigmoid, probabilities, got 'logits'"):
        wrap(networks.tiny_conv(), scores="logits")  # type: ignore[arg-type]


@pytest.mark.parametrize("class_names", [[1, 2, 3], {0: "dog"}, "dog"])
def test_class_names_that_are_no_list_of_texts_are_refused(class_names: Any) -> None:
    with pytest.raises(UsageError, match="a list of texts in the order of the output"):
        wrap(networks.tiny_conv(), class_names=class_names)


def test_a_missing_checkpoint_is_named_whatever_its_folder_is_called(tmp_path: Path) -> None:
    """The path begins behind the factory's name, also where a folder has an `@`."""
    code = tmp_path / "net.py"
    code.write_text("def build(): ...")
    with pytest.raises(UsageError, match=r"weights@corp.*none\.pth"):
        check_name(f"python:{code}:build@{tmp_path}/weights@corp/none.pth")
