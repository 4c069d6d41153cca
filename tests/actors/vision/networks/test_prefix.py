"""The tokens before the patches are those that a network's library declares."""

from __future__ import annotations

import pytest
import timm
import torch
import transformers

from actors.errors import UsageError
from actors.vision.networks.network import wrap
from actors.vision.networks.prefix import declared_prefix

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("vit_tiny_patch16_224", ("cls",)),
        ("vit_small_patch14_reg4_dinov2", ("cls", *(f"register{i}" for i in range(4)))),
        ("vit_small_patch16_dinov3", ("cls", *(f"register{i}" for i in range(4)))),
        ("naflexvit_base_patch16_gap", tuple(f"register{i}" for i in range(4))),
        ("deit_tiny_distilled_patch16_224", ("cls", "")),
        ("vit_base_patch16_siglip_224", ()),
        ("swin_tiny_patch4_window7_224", None),
    ],
)
def test_of_timm(name: str, prefix: tuple[str, ...] | None) -> None:
    with torch.device("meta"):
        assert declared_prefix(timm.create_model(name)) == prefix


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        ("ViT", ("cls",)),
        ("Dinov2WithRegisters", ("cls", *(f"register{i}" for i in range(4)))),
        ("DINOv3ViT", ("cls", *(f"register{i}" for i in range(4)))),
        ("CLIPVision", ("cls",)),
        ("SiglipVision", None),
    ],
)
def test_of_transformers(kind: str, prefix: tuple[str, ...] | None) -> None:
    extra = {"num_register_tokens": 4} if kind == "DINOv3ViT" else {}
    config = getattr(transformers, f"{kind}Config")(**SMALL, **extra)
    with torch.device("meta"):
        assert declared_prefix(getattr(transformers, f"{kind}Model")(config)) == prefix


def test_a_classifier_of_transformers_holds_them_in_its_encoder() -> None:
    with torch.device("meta"):
        model = transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**SMALL))
    assert declared_prefix(model) == ("cls",)


@pytest.mark.parametrize(
    ("given", "prefix"),
    [(None, None), (2, ("", "")), (["cls", "register0"], ("cls", "register0")), (["", "cls"], ("", "cls"))],
)
def test_a_network_of_ones_own_names_them_or_counts_them(given: object, prefix: object) -> None:
    module = torch.nn.Conv2d(3, 2, 1)
    assert wrap(module, prefix_tokens=given).prefix == prefix  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    "given", ["cls", ["class"], ["register1"], ["cls", "cls"], ["register0", "cls", "register1"]]
)
def test_names_that_are_none_are_refused(given: object) -> None:
    with pytest.raises(UsageError, match="prefix_tokens names the tokens before the patches"):
        wrap(torch.nn.Conv2d(3, 2, 1), prefix_tokens=given)  # type: ignore[typeddict-item]
