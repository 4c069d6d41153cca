"""A cache of the layers and classes of networks, so that a mistyped layer or class is reported at once.

The key is the name under which the network was loaded. Only networks whose layers follow from the library
that registers them, at its version and that of this program, are cached: a person's own code may build
another network today.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from actors.errors import UsageError
from actors.files import replacing
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
            UsageError: If there is none of that name; the nearest are listed.
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
        """Check the layer and unit of a command line, as far as possible without the network.

        Raises:
            UsageError: If there is no such layer, class or number.
        """
        parsed = parse_unit(layer, unit, self.class_names)
        name = self.layer(parsed.layer)
        if parsed.kind in ("channel", "logit", "probability"):
            self.check_index(parsed, self.layers[name])


def save_known(folder: Path, asked: str, network: KnownNetwork, settings: VisionSettings) -> None:
    """Cache the layers and classes of the network named `asked`; an unwritable folder is ignored."""
    path = _path(folder, asked, settings)
    # The layers and classes of these sources are the same with any weights.
    network = replace(network, name=network.name.removesuffix(RANDOM))
    if path is None or load_known(folder, asked, settings) == network:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(json.dumps(asdict(network), ensure_ascii=False).encode())


def load_known(folder: Path, asked: str, settings: VisionSettings) -> KnownNetwork | None:
    """Return the cached layers and classes of a network, None if there are none or they may be outdated."""
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
