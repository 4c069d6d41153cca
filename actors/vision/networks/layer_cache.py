"""What a network was found to hold when it was last loaded, so that a mistyped layer or class is told at
once.

A network is known by the name that it is asked for. Only names are remembered whose layers follow from the
library that registers them, at its present version and that of this program, which reads them: what a
person's own code builds may be another network today.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from actors.errors import UsageError
from actors.vision.networks.zoo import RANDOM, parse
from actors.vision.readout.base import Unit
from actors.vision.readout.units import parse_unit
from actors.vision.settings import VisionSettings

_LIBRARIES = {"timm": "timm", "torchvision": "torchvision"}
"""The sources whose names always stand for the same layers, and the package that registers them."""


@dataclass(frozen=True)
class KnownNetwork:
    """`layers` are the units by layer, `unreadable` the reasons by layer, `aliases` other names of layers."""

    name: str
    layers: Mapping[str, int]
    aliases: Mapping[str, str]
    unreadable: Mapping[str, str]
    class_names: Sequence[str]

    def layer(self, text: str) -> str:
        """Return a layer's own name.

        Raises:
            UsageError: If there is none of that name; the nearest are told.
        """
        name = self.aliases.get(text, text)
        if name in self.layers:
            return name
        if name in self.unreadable:
            raise UsageError(f"layer {text!r} of {self.name} cannot be read: {self.unreadable[name]}.")
        near = difflib.get_close_matches(text, [*self.layers, *self.aliases], n=5, cutoff=0.4)
        hint = f"The nearest are {', '.join(near)}." if near else "List them with `maia layers`."
        raise UsageError(f"{self.name} has no layer {text!r}.", hint)

    def check_index(self, unit: Unit, n_units: int) -> None:
        """Raise UsageError if the unit's number is none of `n_units`."""
        if not 0 <= unit.index < n_units:
            raise UsageError(
                f"units of {unit.layer!r} of {self.name} are numbered 0 to {n_units - 1}, got {unit.index}."
            )

    def check(self, layer: str, unit: str) -> None:
        """Refuse a layer or unit in a command line's words, as far as can be told without the network.

        Raises:
            UsageError: If there is no such layer, class or number.
        """
        parsed = parse_unit(layer, unit, self.class_names)
        name = self.layer(parsed.layer)
        if parsed.kind in ("channel", "logit", "probability"):
            self.check_index(parsed, self.layers[name])


def remember(folder: Path, asked: str, network: KnownNetwork, settings: VisionSettings) -> None:
    """Keep in the cache what the network `asked` for holds; a folder that cannot be written costs only time."""
    path = _path(folder, asked, settings)
    # The layers and classes of these sources are the same with any weights.
    network = replace(network, name=network.name.removesuffix(RANDOM))
    if path is None or recall(folder, asked, settings) == network:
        return
    draft = path.with_name(f".{os.urandom(8).hex()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(asdict(network), ensure_ascii=False), encoding="utf-8")
        draft.replace(path)
    except OSError:
        return


def recall(folder: Path, asked: str, settings: VisionSettings) -> KnownNetwork | None:
    """Return what is known of a network, None if it was never loaded or may have changed."""
    path = _path(folder, asked, settings)
    try:
        return None if path is None else KnownNetwork(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _path(folder: Path, asked: str, settings: VisionSettings) -> Path | None:
    address = parse(asked)
    library = _LIBRARIES.get(address.source)
    if library is None:
        return None
    about = [asked, *settings.class_names]
    try:
        if (checkpoint := address.checkpoint or settings.checkpoint) is not None:
            # Its head may have another number of classes, and names for them.
            facts = checkpoint.stat()
            about.append(f"{checkpoint.absolute()} {facts.st_size} {facts.st_mtime_ns}")
        about += [f"{library} {version(library)}", f"maia {version('maia')}"]
    except (PackageNotFoundError, OSError):
        return None
    digest = hashlib.blake2b("|".join(about).encode(), digest_size=12).hexdigest()
    return folder / "networks" / f"{digest}.json"
