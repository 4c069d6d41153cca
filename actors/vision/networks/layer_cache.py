"""A cache of the layers and classes of networks, so that a mistyped layer or class is reported at once.

The key is the name under which the network was loaded. Only networks whose layers follow from the library
that registers them, at its version and that of this program, are cached: a person's own code may build
another network today.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import TypeAdapter

from actors.errors import UsageError
from actors.files import replacing
from actors.vision.networks.zoo import RANDOM, parse
from actors.vision.readout.base import LayerInfo, Unit
from actors.vision.readout.places import Place, split_place
from actors.vision.readout.units import parse_unit
from actors.vision.settings import VisionSettings

_LIBRARIES = {"timm": "timm", "torchvision": "torchvision"}
"""The sources whose names always stand for the same layers, and the package that registers them."""


@dataclass(frozen=True)
class KnownNetwork:
    """`unreadable` are the reasons by layer, `aliases` other names of layers."""

    name: str
    layers: Mapping[str, LayerInfo]
    aliases: Mapping[str, str]
    unreadable: Mapping[str, str]
    class_names: Sequence[str]

    def layer(self, text: str) -> str:
        """Return the own name of a layer, or of a part of one (`places`).

        Raises:
            UsageError: If there is none of that name; the nearest are listed.
        """
        return self.info(text).name

    def info(self, text: str) -> LayerInfo:
        """Return a layer, or a part of one, by any of its names.

        Raises:
            UsageError: If there is none of that name; the nearest are listed.
        """
        name, place = self.aliases.get(text, text), Place()
        if name not in self.layers:
            layer, place = split_place(text)
            name = self.aliases.get(layer, layer)
        if name in self.layers:
            return self.layers[name].at(place)
        if name in self.unreadable:
            raise UsageError(f"layer {name!r} of {self.name} cannot be read: {self.unreadable[name]}.")
        layer, _, word = name.rpartition("@")
        if layer in self.layers:
            places = ", ".join(f"@{each}" for each in self.layers[layer].places.words())
            hint = f"There are {layer} and {places}." if places else f"There is {layer} alone."
            raise UsageError(f"{self.name} has no layer {text!r}: {word!r} is no place of a layer.", hint)
        near = difflib.get_close_matches(name, [*self.layers, *self.aliases], n=5, cutoff=0.4)
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
        info = self.info(parsed.layer)
        if parsed.kind in ("channel", "logit", "probability"):
            self.check_index(parsed, info.n_units)


_NETWORK = TypeAdapter(KnownNetwork)


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
            file.write(_NETWORK.dump_json(network))


def load_known(folder: Path, asked: str, settings: VisionSettings) -> KnownNetwork | None:
    """Return the cached layers and classes of a network, None if there are none or they may be outdated."""
    path = _path(folder, asked, settings)
    try:
        return None if path is None else _NETWORK.validate_json(path.read_bytes())
    except (OSError, ValueError):
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
