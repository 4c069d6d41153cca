"""What is read of networks that others wrote is what their own library says that their layers give."""

from __future__ import annotations

import pytest

from benchmarks import networks
from benchmarks.architectures import ARCHITECTURES

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries', about themselves

QUICK = [
    "byobnet",
    "convnext",
    "cspnext",
    "cpubone",
    "edgenext",
    "efficientformer_v2",
    "efficientnet",
    "efficientvim",
    "efficientvit_mit",
    "efficientvit_msra",
    "fasternet",
    "ghostnet",
    "inception_next",
    "lcnetv2",
    "levit",
    "mambaout",
    "maxxvit",
    "mobilenetv3",
    "mobilevit",
    "nfnet",
    "pvt_v2",
    "repghost",
    "resnet",
    "shvit",
    "starnet",
    "swiftformer",
    "vision_transformer",
    "vision_transformer_relpos",
]
"""A spread of families whose smallest network is small; all others are `slow`."""

QUICK_TRANSFORMERS = [
    "clip",
    "dinov2",
    "dinov3 vit",
    "group vit",
    "hiera",
    "levit",
    "pixtral",
    "resnet",
    "siglip2",
    "swin",
    "vit",
    "vit mae",
    "yolos",
]
"""Kinds of token orders and of refusals; all others are `slow`."""


def _is_as_the_page_says(row: str, library: str, family: str, findings: list[networks.Finding]) -> None:
    assert [each for each in findings if each.verdict == "different"] == []
    assert all(each.why for each in findings if each.verdict == "refused")
    assert row == networks.rows()[library, family], "run `python -m benchmarks.networks`"


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=() if family in QUICK else pytest.mark.exhaustive)
        for family in sorted(networks.SMALLEST)
    ],
)
def test_features_of_timm_are_read_as_timm_gives_them(family: str) -> None:
    """Each is equal, or read without places, or refused with a reason; none is silently another."""
    findings = networks.timm_findings(networks.SMALLEST[family])
    _is_as_the_page_says(networks.row("timm", family, findings), "timm", family, findings)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK_TRANSFORMERS else pytest.mark.exhaustive)
        for name in sorted(ARCHITECTURES)
    ],
)
def test_blocks_of_transformers_are_read_as_their_hidden_states(name: str) -> None:
    """The same of every encoder block; an architecture that takes more than images is refused as a whole."""
    pytest.importorskip("transformers")
    findings = networks.transformers_findings(name)
    _is_as_the_page_says(networks.row("transformers", name, findings), "transformers", name, findings)


def test_the_page_has_a_row_for_every_family_and_architecture() -> None:
    """The table of docs/networks.md leaves out none."""
    families = {("timm", family) for family in networks.SMALLEST}
    assert set(networks.rows()) == families | {("transformers", name) for name in ARCHITECTURES}


@pytest.mark.exhaustive
def test_every_family_of_timm_is_compared() -> None:
    """A family that timm adds is added here."""
    assert set(networks.timm_families()) == set(networks.SMALLEST)
