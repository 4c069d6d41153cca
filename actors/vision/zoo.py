"""Networks by name: where a name points, and what is said when it points nowhere.

    resnet50, timm:resnet50.a1_in1k       timm, the default
    torchvision:resnet18                  torchvision.models
    hf:facebook/dinov2-small, hf:FOLDER   transformers, from the hub or saved by save_pretrained
    python:package.module:factory         a user's own, a module or what `wrap` makes of it
    python:path/to/file.py:factory
    NAME@FILE                             any of them with a state dict of one's own

The sources' own code is in `sources`. Preprocessing and class names come from the source's configuration.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.errors import UsageError
from actors.vision import sources
from actors.vision.names import CHECKS
from actors.vision.network import Network

if TYPE_CHECKING:
    import torch

SOURCES: dict[str, Callable[[str, bool], Network]] = {
    "timm": sources.from_timm,
    "torchvision": sources.from_torchvision,
    "hf": sources.from_transformers,
    "python": sources.from_python,
}
"""How a name under each prefix is loaded, with its source's weights or with random ones."""

MODEL_ALIASES: Mapping[str, str] = {
    "resnet152": "timm:resnet152.tv_in1k",
    "dino_vits8": "timm:vit_small_patch8_224.dino",
    "clip-RN50": "timm:resnet50_clip.openai",
    "concept-net": "python:actors.scenes.concept_net:build_network",
}
"""Names that readers of the paper use, and the embedded network with known units."""

_RESNET = {f"res{stage}": f"layer{stage}" for stage in range(1, 5)}
LAYER_ALIASES: Mapping[str, Mapping[str, str]] = {
    "resnet152": _RESNET,
    "dino_vits8": {f"mlp{block}": f"blocks.{block}.mlp.fc1" for block in range(12)},
    "clip-RN50": {"conv1": "stem.conv1"}
    | {f"{prefix}{stage}": f"stages.{stage - 1}" for prefix in ("layer", "res") for stage in range(1, 5)},
}
"""The paper's layer names by model alias; what a module is called already needs none."""


def load_network(name: str, *, pretrained: bool = True, checkpoint: Path | None = None) -> Network:
    """Load the network that `name` points to, in evaluation mode, on the CPU.

    `pretrained` False gives random weights (seeded, and said in the name). `checkpoint`, or `@FILE` in the
    name, gives the weights of a file; the source's own are then not fetched.

    Raises:
        UsageError: If there is no such network (the nearest names are told), its weights cannot be had,
            or the checkpoint does not fit.
    """
    asked, path, prefix, rest = _parse(name)
    checkpoint = path or checkpoint
    network = SOURCES[prefix](rest, pretrained and checkpoint is None)
    weights = network.weights
    if checkpoint is not None:
        load_checkpoint(network.module, checkpoint)
        weights = f"checkpoint {checkpoint}"
    label = asked
    if checkpoint is not None:
        label += f"@{checkpoint.name}"
    elif weights == "random":
        label += " (random weights)"
    aliases = {**LAYER_ALIASES.get(asked, {}), **network.aliases}
    return sources.renamed(network, name=label, weights=weights, aliases=aliases)


def check_name(name: str) -> None:
    """Refuse at once, without a library, what `load_network` would surely refuse later.

    Raises:
        UsageError: If no source has such a network, or a file that the name gives is missing.
    """
    _, checkpoint, prefix, rest = _parse(name)
    CHECKS[prefix](rest)
    if checkpoint is not None and not checkpoint.expanduser().is_file():
        raise _no_checkpoint(checkpoint)


def source_of(name: str) -> str:
    """Return the source that a network's name points to, such as "timm".

    Raises:
        UsageError: If there is no such source.
    """
    return _parse(name)[2]


def local_parts(name: str) -> list[str]:
    """Return what loading a network would run or read of this machine, in words; nothing for published networks.

    Raises:
        UsageError: If there is no such source.
    """
    asked, checkpoint, prefix, rest = _parse(name)
    found = []
    if asked not in MODEL_ALIASES and prefix not in ("timm", "torchvision", "hf"):
        found.append(f"the code {rest.rpartition(':')[0] or rest}, which would be run")
    if prefix == "hf" and (Path(rest).expanduser().exists() or rest.startswith((".", "/", "~"))):
        found.append(f"the folder {rest}")
    return found if checkpoint is None else [*found, f"the weights {checkpoint}"]


def _parse(name: str) -> tuple[str, Path | None, str, str]:
    """Return the name without its checkpoint, the checkpoint, the source's prefix, and the source's own name."""
    asked, _, path = name.partition("@")
    full = MODEL_ALIASES.get(asked, asked)
    prefix, colon, rest = full.partition(":")
    if not colon:
        prefix, rest = "timm", full
    if prefix not in SOURCES or not rest:
        raise UsageError(
            f"there is no source of networks {prefix!r} (in {name!r}).",
            f"Write one of {', '.join(f'{source}:NAME' for source in SOURCES)}, or a timm name alone{_near(asked)}.",
        )
    return asked, Path(path) if path else None, prefix, rest


def load_checkpoint(module: torch.nn.Module, path: Path) -> None:
    """Load the state dict in `path` (.safetensors, .pt, .pth, .bin) strictly into `module`.

    Dictionaries that hold it as `state_dict` or `model`, and the prefixes of data-parallel
    training and of compiled modules, are understood.

    Raises:
        UsageError: If the file is missing, damaged, or made for another network.
    """
    state = _read_state(path.expanduser())
    for key in ("state_dict", "model", "model_state_dict"):
        inner = state.get(key)
        if isinstance(inner, Mapping):
            state = dict(inner)
            break
    for wrapping in ("module.", "_orig_mod.", "module."):
        if state and all(name.startswith(wrapping) for name in state):
            state = {name.removeprefix(wrapping): tensor for name, tensor in state.items()}
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    wrong = [
        f"{name} {tuple(state[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if missing or unexpected or wrong:
        parts = [
            f"{len(names)} {what} ({', '.join(names[:3])}{' ...' if len(names) > 3 else ''})"
            for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
            if names
        ]
        raise UsageError(
            f"the checkpoint {path} was made for another network: tensors {', '.join(parts)}.",
            "Give the network that it was saved from.",
        )
    module.load_state_dict(state, strict=False)


def _read_state(path: Path) -> dict[str, Any]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise _no_checkpoint(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UsageError(f"the checkpoint {path} is damaged: {error}") from error
    except Exception as error:  # damaged pickles and archives raise anything
        raise UsageError(
            f"the checkpoint {path} cannot be read: {type(error).__name__}: {str(error)[:200]}",
            "Save a plain state dict of tensors, best as .safetensors.",
        ) from error
    if not isinstance(state, dict):
        raise UsageError(f"the checkpoint {path} holds a {type(state).__name__}, not a state dict.")
    return state


def _no_checkpoint(path: Path) -> UsageError:
    return UsageError(f"there is no checkpoint {str(path)!r}.")


def _near(name: str) -> str:
    near = difflib.get_close_matches(name, [*MODEL_ALIASES], n=3)
    return f"; the nearest are {', '.join(near)}" if near else ""
