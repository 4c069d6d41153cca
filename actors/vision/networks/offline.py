"""A check, before anything is started, that a network's weights are cached or can be downloaded.

Only what surely fails is refused: nothing from the host was ever downloaded here, and it does not answer.
Whether a cache holds a certain network is checked when it is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from actors import hub
from actors.errors import UsageError
from actors.packaged import PACKAGED
from actors.vision.networks.names import model_and_module
from actors.vision.networks.sources import NO_WEIGHTS
from actors.vision.networks.zoo import parse
from actors.vision.settings import VisionSettings

_TORCHVISION_HOST = "https://download.pytorch.org"


def check_weights(
    name: str,
    settings: VisionSettings,
    *,
    reachable: Callable[[str], bool] = hub.reachable,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Check that a published network may be cached, or that its host answers.

    Raises:
        UsageError: Naming the host and the ways out.
    """
    address = parse(name)
    given = address.checkpoint is not None or settings.checkpoint is not None
    if address.source in ("hf", "hf-hub"):  # their configuration is fetched, too
        model = model_and_module(address.name)[0].partition("@")[0]
        if hub.local_folder(model) is None:
            _check(name, _hub_files(f"models--{model.replace('/', '--')}"), _hub_host(), reachable)
        return
    if given or not settings.pretrained or address.name in PACKAGED:
        return
    if address.source == "torchvision":
        _check(name, _torch_files(environ), _TORCHVISION_HOST, reachable)
    elif address.source in ("timm", "open_clip") and not address.name.startswith(hub.OPEN_CLIP_FOLDERS):
        _check(name, _hub_files("models--*") or _torch_files(environ), _hub_host(), reachable)


def _check(name: str, kept: bool, host: str, reachable: Callable[[str], bool]) -> None:
    if not kept and (not host or not reachable(host)):
        reason = f"{host} does not answer" if host else "HF_HUB_OFFLINE is set"
        raise UsageError(f"the weights of {name} are not on this machine, and {reason}.", NO_WEIGHTS)


def _hub_host() -> str:
    """Return the hub's address, "" where it must not be asked."""
    from huggingface_hub import constants

    return "" if constants.HF_HUB_OFFLINE else constants.ENDPOINT


def _hub_files(pattern: str) -> bool:
    from huggingface_hub import constants

    return any(Path(constants.HF_HUB_CACHE).glob(pattern))


def _torch_files(environ: Mapping[str, str]) -> bool:
    """Return whether torch's cache holds any weights: its folder is found without importing torch."""
    cache = Path(environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    home = Path(environ.get("TORCH_HOME") or cache).expanduser()
    return any((home / "hub" / "checkpoints").glob("*"))
