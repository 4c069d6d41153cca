"""Networks by name.

    resnet50, timm:resnet50.a1_in1k         timm, the default
    hf-hub:timm/resnet50.a1_in1k            timm, from the hub or a folder that timm saved
    torchvision:resnet18                    torchvision.models
    hf:facebook/dinov2-small, hf:FOLDER     transformers, from the hub or saved by save_pretrained
    hf:OWNER/NAME#vision_tower              a module inside, such as the vision tower of a larger model
    open_clip:ViT-B-32:laion2b_s34b_b79k    the vision tower of a model of open_clip
    python:package.module:factory           a user's own, a module or what `wrap` makes of it
    python:path/to/file.py:factory
    NAME@FILE                               any of them with a checkpoint of one's own

The sources' own code is in `sources` and `transformers_models`. Preprocessing and class names come from the
source's configuration.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from actors.errors import UsageError
from actors.vision.networks import checkpoints, sources
from actors.vision.networks.names import CHECKS, model_and_module
from actors.vision.networks.network import Network
from actors.vision.networks.transformers_models import from_transformers
from actors.vision.networks.weight_fit import OtherHeadError


class NetworkSource(Protocol):
    """Loads a network by its own name, with its source's weights or with random ones.

    `n_classes` gives it a head of so many classes in place of its own; UsageError where that cannot be.
    """

    def __call__(self, name: str, pretrained: bool, n_classes: int | None = None, /) -> Network: ...


SOURCES: Mapping[str, NetworkSource] = {
    "timm": sources.from_timm,
    "hf-hub": sources.from_timm_hub,
    "torchvision": sources.from_torchvision,
    "hf": from_transformers,
    "open_clip": sources.from_open_clip,
    "python": sources.from_python,
}
"""How a name under each prefix is loaded."""

RANDOM = " (random weights)"
"""What the name of a network with random weights ends with."""

MODEL_ALIASES: Mapping[str, str] = {
    "resnet152": "timm:resnet152.tv_in1k",
    "dino_vits8": "timm:vit_small_patch8_224.dino",
    "clip-RN50": "timm:resnet50_clip.openai",
    "concept-net": "python:actors.embedded.concept_net.concept_net:build_network",
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


@dataclass(frozen=True)
class Address:
    """A parsed network name: its source, its name there, and the file with its weights.

    `asked` is the name without the file.
    """

    asked: str
    source: str
    name: str
    checkpoint: Path | None


def load_network(
    name: str,
    *,
    pretrained: bool = True,
    checkpoint: Path | None = None,
    class_names: Sequence[str] = (),
) -> Network:
    """Load the network that `name` points to, in evaluation mode, on the CPU.

    `pretrained` False gives random weights (seeded, and said in the name). `checkpoint`, or `@FILE` in the
    name, gives the weights of a file; the source's own are then not fetched, and where the file has another
    number of classes the network is built with that. `class_names` take the place of the source's.

    Raises:
        UsageError: If there is no such network (the nearest names are listed), its weights cannot be had,
            or the checkpoint does not fit.
    """
    address = parse(name)
    checkpoint = address.checkpoint or checkpoint
    aliases = LAYER_ALIASES.get(address.asked, {})
    if checkpoint is None:
        network = SOURCES[address.source](address.name, pretrained)
        label = address.asked + (RANDOM if network.weights == "random" else "")
    else:
        network = _with_checkpoint(address, checkpoints.read(checkpoint))
        label = f"{address.asked}@{checkpoint.name}"
    return replace(
        network,
        name=label,
        aliases={**aliases, **network.aliases},
        class_names=tuple(class_names) or network.class_names,
    )


def _with_checkpoint(address: Address, stored: checkpoints.Checkpoint) -> Network:
    """Build the network with random weights and load the file's, with as many classes as the file has."""
    build = SOURCES[address.source]
    network = build(address.name, False)
    try:
        loaded = stored.load_into(network.module)
    except OtherHeadError as error:
        try:
            network = build(address.name, False, error.n_classes)
        except Exception:  # whatever a source raises that knows nothing of classes
            raise error from None
        loaded = stored.load_into(network.module)
        loaded = replace(loaded, notes=(*loaded.notes, f"built with its {error.n_classes} classes"))
    notes = f" ({'; '.join(loaded.notes)})" if loaded.notes else ""
    names = (loaded.class_names or network.class_names) if loaded.classifies else ()
    return replace(network, weights=f"checkpoint {stored.path}{notes}", class_names=names)


def check_name(name: str) -> None:
    """Check a network's name without importing a library.

    Raises:
        UsageError: If no source has such a network, or a file that the name gives is missing.
    """
    address = parse(name)
    CHECKS[address.source](address.name)
    if address.checkpoint is not None and not address.checkpoint.is_file():
        raise checkpoints.missing(address.checkpoint)


def parse(name: str) -> Address:
    """Parse a network's name.

    Raises:
        UsageError: If there is no such source.
    """
    asked, checkpoint = _cut(name)
    full = MODEL_ALIASES.get(asked, asked)
    source, colon, rest = full.partition(":")
    if not colon:
        source, rest = "timm", full
    if source not in SOURCES or not rest:
        raise UsageError(
            f"there is no source of networks {source!r} (in {name!r}).",
            f"Write one of {', '.join(f'{known}:NAME' for known in SOURCES)}, "
            f"or a timm name alone{_near(asked)}.",
        )
    return Address(asked, source, rest, checkpoint)


def local_parts(name: str) -> list[str]:
    """Return what loading a network would run or read of this machine, in words; nothing for published
    networks.

    Raises:
        UsageError: If there is no such source.
    """
    address = parse(name)
    parts = []
    if address.source == "python" and address.asked not in MODEL_ALIASES:
        parts.append(f"the code {address.name.rpartition(':')[0] or address.name}, which would be run")
    if address.source in ("hf", "hf-hub", "open_clip"):
        place, _ = model_and_module(address.name)
        if place.startswith(("local-dir:", ".", "/", "~")) or Path(place).expanduser().exists():
            parts.append(f"the folder {place}")
    return parts if address.checkpoint is None else [*parts, f"the weights {address.checkpoint}"]


_FACTORY = re.compile(r":[^\W\d]\w*$")
"""The end of a name of a Python factory: the function."""


def _cut(name: str) -> tuple[str, Path | None]:
    """Return a name without its checkpoint, and the checkpoint.

    Folders may be called `me@company`. An `@` counts that an existing file follows, the last of several;
    else, before what ends as weights do, the last one, or the first in names of libraries, which have none. A
    folder or file that is there under the whole name has no checkpoint.
    """
    source, colon, rest = name.partition(":")
    plain = not colon or source in ("timm", "torchvision")
    cuts = [at for at, sign in enumerate(name) if sign == "@"]
    files = [at for at in cuts if Path(name[at + 1 :]).expanduser().is_file()]
    if not cuts or (not files and rest and Path(rest).expanduser().exists()):
        return name, None
    if files:
        cut = files[-1]
    elif plain:
        cut = cuts[0]
    elif name.endswith(checkpoints.SUFFIXES):
        # Of a factory the checkpoint begins behind its name, whatever the folders of either are called.
        behind = [at for at in cuts if source == "python" and _FACTORY.search(name[:at].partition(":")[2])]
        cut = behind[0] if behind else cuts[-1]
    else:
        return name, None
    path = name[cut + 1 :]
    return name[:cut], Path(path).expanduser() if path else None


def _near(name: str) -> str:
    near = difflib.get_close_matches(name, [*MODEL_ALIASES], n=3)
    return f"; the nearest are {', '.join(near)}" if near else ""
