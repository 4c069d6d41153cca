"""Units: how the scalars of a network are named, and how each kind is read off a layer's output.

All units that are read in the same way at the same layer form a *readout*: one pass yields them all, and
the stimulus bank keeps them together. A further kind of unit is one function given to `register_kind`.

Shapes: N images; C channels of a layer; U units of a readout; h x w positions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from actors.errors import UsageError
from actors.vision.readout.base import LayerInfo, Unit
from actors.vision.readout.places import split_place

if TYPE_CHECKING:
    import numpy as np
    import torch

    from actors.vision.dictionaries.dictionary import Dictionary

_FEW = 20
"""Classes at most that an error lists in full."""
_MOST_DIGITS = 18
"""Digits of a unit's number at most."""

OUTPUT = "output"
"""The layer of the network's own output: class logits, for a classifier."""
CLASS_KINDS = ("logit", "probability")
"""Kinds of units that are classes of the network."""


@dataclass(frozen=True, slots=True)
class Readout:
    """All units of one kind at one layer, or a part of one; `source` is the file of directions or the
    dictionary.
    """

    layer: str
    kind: str = "channel"
    source: str = ""

    @classmethod
    def of(cls, unit: Unit) -> Readout:
        return cls(unit.layer, unit.kind, unit.source)

    def unit(self, index: int) -> Unit:
        return Unit(self.layer, index, self.kind, self.source)


@dataclass(frozen=True)
class UnitReader:
    """How a readout is computed: `read` maps a layer's output (N, C, h, w) to its units (N, U, h, w).

    `read` None means that the units are the channels themselves. `digest` identifies the file's content.
    `edit` gives a unit other values; None if `read` is None, or if a unit cannot be edited.
    """

    n_units: int
    read: Callable[[torch.Tensor], torch.Tensor] | None = None
    digest: str = ""
    edit: EditUnit | None = None

    def units(self, maps: torch.Tensor) -> torch.Tensor:
        """Return the units (N, U, h, w) of maps (N, C, h, w)."""
        return maps if self.read is None else self.read(maps)


EditUnit = Callable[
    ["torch.Tensor", int, Callable[["torch.Tensor"], "torch.Tensor"]], tuple[int | slice, "torch.Tensor"]
]
"""Takes an image's maps (C, h, w), a unit's index, and the function from its values, float32 (h, w), to new
ones. Returns the channels that change, and their new values.
"""

ReaderFactory = Callable[[Readout, LayerInfo], UnitReader]
"""Returns the reader of a readout at its layer; raises UsageError if the layer or the file does not fit."""

_READER_FACTORIES: dict[str, ReaderFactory] = {}


def register_kind(name: str, kind: ReaderFactory) -> None:
    """Add a kind of unit; in every process that loads the network (a `python:` factory is a good place)."""
    _READER_FACTORIES[name] = kind


def reader(readout: Readout, layer: LayerInfo) -> UnitReader:
    """Return the reader of `readout` at `layer`.

    Raises:
        UsageError: If there is no such kind, or its file does not fit the layer.
    """
    try:
        kind = _READER_FACTORIES[readout.kind]
    except KeyError:
        raise UsageError(
            f"there is no kind of unit {readout.kind!r}.", f"The kinds are {', '.join(_READER_FACTORIES)}."
        ) from None
    return kind(readout, layer)


def _channels(readout: Readout, layer: LayerInfo) -> UnitReader:
    return UnitReader(layer.n_units)


def _logits(readout: Readout, layer: LayerInfo) -> UnitReader:
    # A network that returns maps has its classes' logits at every position: they are units like any other.
    if split_place(layer.name)[0] != OUTPUT:
        _require_classifier(readout, layer)
    return UnitReader(layer.n_units)


def _probabilities(readout: Readout, layer: LayerInfo) -> UnitReader:
    _require_classifier(readout, layer)
    match layer.scores:
        case "probabilities":
            return UnitReader(layer.n_units, lambda given: given.float(), "given")
        case "sigmoid":
            return UnitReader(layer.n_units, lambda logits: logits.float().sigmoid(), "sigmoid")
        case _:
            return UnitReader(layer.n_units, lambda logits: logits.float().softmax(1))


def _require_classifier(readout: Readout, layer: LayerInfo) -> None:
    if layer.kind != "vector":
        raise UsageError(
            f"a {readout.kind} needs a vector of class scores, but {layer.name!r} is a {layer.kind}.",
            f"Use the layer {OUTPUT!r} of a classifier; if that is a {layer.kind}, give a unit's number.",
        )


def _directions(readout: Readout, layer: LayerInfo) -> UnitReader:
    """Inner product of each position with saved vectors, as they are (not normalized)."""
    import torch

    vectors = torch.from_numpy(load_vectors(readout.source))
    if vectors.shape[1] != layer.n_units:
        raise UsageError(
            f"{readout.source} holds vectors of length {vectors.shape[1]}, "
            f"but layer {layer.name!r} has {layer.n_units} channels."
        )

    def read(maps: torch.Tensor) -> torch.Tensor:
        return torch.einsum("nchw,kc->nkhw", maps.float(), vectors.to(maps.device))

    def edit(
        maps: torch.Tensor, index: int, change: Callable[[torch.Tensor], torch.Tensor]
    ) -> tuple[slice, torch.Tensor]:
        x, v = maps.float(), vectors[index].to(maps.device)
        if not v.any():
            raise UsageError(f"row {index} of {readout.source} is all zeros: nothing can be moved along it.")
        values = torch.einsum("chw,c->hw", x, v)
        # Along the vector itself: nothing orthogonal to it changes, and <v, x> becomes what is wanted.
        step = (change(values) - values) / v.square().sum()
        return slice(None), x + step * v[:, None, None]

    return UnitReader(len(vectors), read, _file_digest(readout.source), edit)


def load_vectors(path: str) -> np.ndarray:
    """Return float32 (K, C) from a .npy file of (C,) or (K, C), or the one tensor of a .safetensors file."""
    import numpy as np

    file = _existing(path)
    if file.suffix == ".npy":
        try:
            vectors = np.load(file, allow_pickle=False)
        except ValueError as error:
            raise UsageError(f"{path} is not a readable .npy file: {error}") from error
    elif file.suffix == ".safetensors":
        tensors = _safetensors(file)
        if len(tensors) != 1:
            raise UsageError(f"{path} must hold one tensor of directions, it holds {sorted(tensors)}")
        vectors = next(iter(tensors.values())).float().numpy()
    else:
        raise UsageError(f"directions are read from .npy or .safetensors, got {path}")
    vectors = np.atleast_2d(np.asarray(vectors, dtype=np.float32))
    if vectors.ndim != 2:
        raise UsageError(f"{path} must hold a vector (C,) or rows (K, C), got shape {vectors.shape}")
    return vectors


def _latents(readout: Readout, layer: LayerInfo) -> UnitReader:
    """Codes of a dictionary (sparse autoencoder) at each position."""
    from actors.vision.dictionaries.formats import load
    from actors.vision.readout.trained import check_place

    dictionary, digest = load(readout.source)
    check_place(dictionary, readout.source, layer)
    if dictionary.width != layer.n_units:
        hook = f" (trained at {dictionary.hook!r})" if dictionary.hook else ""
        raise UsageError(
            f"the dictionary {readout.source}{hook} reads {dictionary.width} channels, "
            f"but layer {layer.name!r} has {layer.n_units}.",
            "Name the layer that it was trained at.",
        )
    copies: dict[torch.device, Dictionary] = {}

    def on(device: torch.device) -> Dictionary:
        if device not in copies:
            copies[device] = dictionary.on(device)
        return copies[device]

    def read(maps: torch.Tensor) -> torch.Tensor:
        return on(maps.device).encode(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def edit(
        maps: torch.Tensor, index: int, change: Callable[[torch.Tensor], torch.Tensor]
    ) -> tuple[slice, torch.Tensor]:
        x = maps.permute(1, 2, 0).float()
        codes = on(maps.device).encode(x, [index])[..., 0]
        # The step of one latent, not the reconstruction: what the dictionary leaves out stays as it is.
        return slice(None), (x + dictionary.step(x, index, change(codes) - codes)).permute(2, 0, 1)

    return UnitReader(dictionary.n_latents, read, digest, edit)


def _existing(path: str) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise UsageError(f"there is no file {path!r} to read units from.")
    return file


def _safetensors(file: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise UsageError(f"{file} is not a readable safetensors file: {error}") from error


def _file_digest(path: str) -> str:
    return hashlib.blake2b(Path(path).expanduser().read_bytes(), digest_size=8).hexdigest()


for _name, _kind in (
    ("channel", _channels),
    ("logit", _logits),
    ("probability", _probabilities),
    ("direction", _directions),
    ("latent", _latents),
):
    register_kind(_name, _kind)


def parse_unit(layer_text: str, unit_text: str, class_names: Sequence[str] = ()) -> Unit:
    """Return the unit that a command line names.

    `42` is a channel of the layer, and a class logit where the layer is "output"; there a class may also
    be named. `logit:tench`, `probability:0` (the layer is then "output" whatever was said);
    `direction:FILE[:ROW]`, `latent:PATH:INDEX` (a file or a folder).

    Raises:
        UsageError: If the text has none of these forms, or names no class or more than one.
    """
    layer, place = split_place(layer_text)
    layer_text, of_output = place.of(layer), layer == OUTPUT
    head, colon, rest = unit_text.partition(":")
    if colon and head in _READER_FACTORIES:
        kind = head
    else:
        kind, rest = ("logit" if of_output else "channel"), unit_text
    if kind in CLASS_KINDS:
        scores = layer_text if of_output else OUTPUT
        return Unit(scores, class_index(rest, class_names), kind)
    if kind == "channel":
        return Unit(layer_text, _index(rest, unit_text), kind)
    source, _, row = rest.rpartition(":")
    if (not source and kind == "direction") or (not row.isdecimal() and kind == "direction"):
        source, row = rest, "0"
    if not source:
        raise UsageError(f"a {kind} is written {kind}:PATH:INDEX, got {unit_text!r}")
    return Unit(layer_text, _index(row, unit_text), kind, source)


def parse_readout(text: str) -> Unit:
    """Return the first unit of those that `LAYER`, `LAYER:latent:PATH` or `LAYER:direction:FILE` names.

    Raises:
        UsageError: If the text has none of these forms.
    """
    layer, _, kind = text.partition(":")
    return parse_unit(layer, f"{kind}:0" if kind else "0")


def _index(text: str, whole: str) -> int:
    if not _is_number(text):
        kinds = ", ".join(f"{kind}:..." for kind in _READER_FACTORIES if kind != "channel")
        raise UsageError(f"a unit is a number from 0, or one of {kinds}; got {whole!r}")
    return int(text)


def _is_number(text: str) -> bool:
    """Return whether a text is a whole number from 0, not longer than any unit's."""
    text = text.strip()
    return text.isdecimal() and len(text) <= _MOST_DIGITS


def class_index(text: str, class_names: Sequence[str]) -> int:
    """Return the index of a class given by number or by any of its comma-separated names.

    Raises:
        UsageError: If no class or several have that name; the nearest names are listed.
    """
    import difflib

    text = text.strip()
    if _is_number(text):
        return int(text)
    by_name: dict[str, list[int]] = {}
    for index, names in enumerate(class_names):
        for name in {names, *names.split(",")}:
            by_name.setdefault(name.strip().casefold(), []).append(index)
    matches = by_name.get(text.casefold(), [])
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UsageError(f"several classes are called {text!r}: give one of the numbers {matches}.")
    near = difflib.get_close_matches(text.casefold(), by_name, n=5, cutoff=0.5)
    if 0 < len(class_names) <= _FEW:
        hint = f"The classes are {', '.join(class_names)}."
    elif near:
        hint = f"The nearest are {', '.join(near)}."
    else:
        hint = (
            "Give the class by its number." if class_names else "The network names no classes: give a number."
        )
    raise UsageError(f"no class is called {text!r}.", hint)
