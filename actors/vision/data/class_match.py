"""Matches a data set's classes with a network's: by name, never by index.

A name matches if it is one of a class's names (ImageNet joins several by commas), regardless of case,
underscores and numbering. The WordNet numbers of ImageNet's folders and ImageNet's synonyms match as well.
"""

from __future__ import annotations

import asyncio
import difflib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from actors.errors import UsageError
from actors.vision.data import class_names as files
from actors.vision.data.labels import ColumnSettings, labels_of
from actors.vision.readout.base import ImageDataset
from actors.vision.readout.units import class_index

How = Literal["as assigned", "name", "WordNet number", "ImageNet synonym", ""]

_SYNSET = re.compile(r"n\d{8}")
_NUMBERING = re.compile(r"^(?:n\d{8}[-_. ]+|\d+[-_.]+)(?=\D)")
_PAIRS = re.compile(r",(?=[^,=]+=)")


@dataclass(frozen=True)
class Match:
    """A data set's class and the index of the network's; None without a match, `near` are then the nearest
    names.
    """

    name: str
    index: int | None = None
    how: How = ""
    near: tuple[str, ...] = ()


def match_classes(
    names: Sequence[str], class_names: Sequence[str], assigned: Mapping[str, str] | None = None
) -> list[Match]:
    """Return the network's class of each of the data set's, in order.

    `assigned` are the network's classes, by name or number, of those that a person has matched.

    Raises:
        UsageError: If `assigned` names a class that one of the two does not have.
    """
    assigned = assigned or {}
    if unknown := [name for name in assigned if name not in names]:
        raise UsageError(
            f"the data set has no class {unknown[0]!r}.",
            f"Its classes: {', '.join(names[:20])}. Correct --label-names.",
        )
    by_name = _by_name(class_names)
    return [
        Match(name, _assigned_index(assigned[name], class_names), "as assigned")
        if name in assigned
        else _match(name, class_names, by_name)
        for name in names
    ]


class ImageClasses:
    """The classes of a data set's images as a network numbers them, as far as their names match.

    Labels are read when they are first asked for, once.
    """

    def __init__(self, dataset: ImageDataset, columns: ColumnSettings, class_names: Sequence[str]) -> None:
        self._dataset, self._columns, self._class_names = dataset, columns, class_names
        self._reading = asyncio.Lock()
        self._classes: np.ndarray | None = None

    async def __call__(self, indices: Sequence[int]) -> list[int | None]:
        """Return the network's class of each image, None where there is none, or it is unknown."""
        async with self._reading:
            if self._classes is None:
                self._classes = await asyncio.to_thread(self._read)
        return [int(self._classes[index]) if self._classes[index] >= 0 else None for index in indices]

    def _read(self) -> np.ndarray:
        """Return the class of each image, int64 (n,), -1 where it is unknown."""
        unknown = np.full(len(self._dataset), -1)
        if not self._class_names:
            return unknown
        try:
            labels = labels_of(self._dataset, self._columns)
        except UsageError:  # a data set without labels
            return unknown
        matches = match_classes(labels.classes, self._class_names)
        of_level = np.array([-1 if match.index is None else match.index for match in matches] + [-1])
        return np.asarray(of_level[labels.label.values])  # an unknown label is -1: the last


def read_pairs(text: str) -> dict[str, str]:
    """Return the pairs of `0=landbird,1=waterbird`, or the names in a file for the labels 0, 1, 2 and so on.

    Raises:
        UsageError: If it is neither.
    """
    if "=" not in text:
        return {str(number): name for number, name in enumerate(files.read(Path(text)))}
    pairs = [part.partition("=") for part in _PAIRS.split(text)]
    if any(not label.strip() or not name.strip() for label, _, name in pairs):
        raise UsageError(
            f"labels are named as LABEL=CLASS,LABEL=CLASS or by a file of names, got {text!r}.",
            "Correct --label-names.",
        )
    return {label.strip(): name.strip() for label, _, name in pairs}


def plain(name: str) -> str:
    """Return a name as it is compared: small letters, single spaces, without numbering."""
    return " ".join(re.split(r"[\s_\-]+", _NUMBERING.sub("", name.strip()).casefold())).strip()


def _assigned_index(text: str, class_names: Sequence[str]) -> int:
    index = class_index(text, class_names)
    if not 0 <= index < len(class_names):
        raise UsageError(
            f"the network's classes are numbered 0 to {len(class_names) - 1}, got {index}.",
            "Correct --label-names.",
        )
    return index


def _by_name(class_names: Sequence[str]) -> dict[str, set[int]]:
    by_name: dict[str, set[int]] = {}
    for index, names in enumerate(class_names):
        for name in (names, *names.split(",")):
            by_name.setdefault(plain(name), set()).add(index)
    return by_name


def _match(name: str, class_names: Sequence[str], by_name: Mapping[str, set[int]]) -> Match:
    synset = _SYNSET.match(name)
    if synset and (index := _of_synset(synset[0], class_names)) is not None:
        return Match(name, index, "WordNet number")
    if len(indices := by_name.get(plain(name), set())) == 1:
        return Match(name, next(iter(indices)), "name")
    others = {index for synonym in _synonyms(name) for index in by_name.get(synonym, ())}
    if not indices and len(others) == 1:
        return Match(name, others.pop(), "ImageNet synonym")
    near = difflib.get_close_matches(plain(name), by_name, n=3, cutoff=0.6)
    return Match(
        name, near=tuple(f"{index} ({class_names[index]})" for index in sorted(indices)) or tuple(near)
    )


def _of_synset(number: str, class_names: Sequence[str]) -> int | None:
    """Return the place of a synset among ImageNet's thousand, if the network's class there has its name."""
    order, lemmas = _imagenet()
    index = order.get(number)
    if index is None or len(class_names) != len(order):
        return None
    own = {plain(name) for name in class_names[index].split(",")}
    return index if own & set(lemmas[number]) else None


def _synonyms(name: str) -> set[str]:
    """Return the other names that ImageNet has for a thing; a WordNet number is one of its names."""
    _, lemmas = _imagenet()
    if (synset := _SYNSET.match(name)) and synset[0] in lemmas:
        return set(lemmas[synset[0]])
    known = plain(name)
    return {other for names in lemmas.values() if known in names for other in names}


@lru_cache(maxsize=1)
def _imagenet() -> tuple[dict[str, int], dict[str, tuple[str, ...]]]:
    """Return the indices and the names of ImageNet's thousand synsets from timm's tables, if it is there."""
    spec = importlib.util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        return {}, {}
    folder = Path(spec.submodule_search_locations[0]) / "data" / "_info"
    try:
        order = (folder / "imagenet_synsets.txt").read_text(encoding="utf-8").split()
        lines = (folder / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}, {}
    wanted = {number: index for index, number in enumerate(order)}
    pairs = (line.partition("\t") for line in lines)
    lemmas = {
        number: tuple(plain(name) for name in names.split(","))
        for number, _, names in pairs
        if number in wanted
    }
    return wanted, lemmas
