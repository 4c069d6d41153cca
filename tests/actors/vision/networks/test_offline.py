"""A network that cannot be had here is refused before anything is started, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.errors import UsageError
from actors.vision.networks.offline import check_weights
from actors.vision.settings import VisionSettings
from tests.fake_hub import set_constants

ONLINE = VisionSettings()


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Caches of a new machine; the hub's client reads its place once, when it is imported."""
    set_constants(monkeypatch, HF_HUB_CACHE=str(tmp_path / "hub"), HF_HUB_OFFLINE=False)
    return {"TORCH_HOME": str(tmp_path / "torch")}


@pytest.mark.parametrize(
    "name", ["resnet50", "torchvision:resnet18", "hf:owner/name", "hf-hub:timm/resnet18.a1_in1k"]
)
def test_a_new_machine_without_a_connection_is_refused_at_once(name: str, empty: dict[str, str]) -> None:
    asked: list[str] = []
    with pytest.raises(UsageError, match=r"not on this machine, and https://.* does not answer") as refused:
        check_weights(name, ONLINE, reachable=lambda url: bool(asked.append(url)), environ=empty)
    assert "vision: {pretrained: false}" in refused.value.fix
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tf_efficientnet_lite0", ONLINE),
        ("resnet50", VisionSettings(pretrained=False)),
        ("resnet50", VisionSettings(checkpoint=Path("own.pth"))),
        ("resnet50@own.pth", ONLINE),
        ("python:net.py:build", ONLINE),
        ("concept-net", ONLINE),
    ],
)
def test_local_networks_ask_no_host(name: str, settings: VisionSettings, empty: dict[str, str]) -> None:
    asked: list[str] = []
    check_weights(name, settings, reachable=lambda url: bool(asked.append(url)), environ=empty)
    assert asked == []


def test_cached_weights_are_left_to_the_loader(tmp_path: Path, empty: dict[str, str]) -> None:
    """Only the loader knows under which name a cache keeps what it needs."""
    (tmp_path / "hub" / "models--owner--name").mkdir(parents=True)
    check_weights("hf:owner/name", ONLINE, reachable=lambda _: False, environ=empty)
    check_weights("resnet50", ONLINE, reachable=lambda _: False, environ=empty)
    with pytest.raises(UsageError, match="not on this machine"):
        check_weights("hf:owner/other", ONLINE, reachable=lambda _: False, environ=empty)
