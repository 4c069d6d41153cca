"""The classes that an audit is about, and the names by which their images are asked for."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Sequence

from actors.errors import UsageError
from actors.vision.networks.layer_cache import KnownNetwork
from actors.vision.readout.units import class_index
from agents.records.work import WorkItem
from experiments.audit.real_images import MatchedClass
from experiments.studies.unit_selection import choose

_NUMBERS = re.compile(r"\s*(all|sample:\d+|\d+|\d+-\d+)\s*")


def names_of(plan: Sequence[WorkItem]) -> dict[str, str]:
    """Return each item's class by a name that no other item has: what it is drawn by, with its index where
    that repeats.

    ImageNet has a crane that flies and a crane that lifts.
    """
    times = Counter(item.survey_arguments["class_name"] for item in plan)
    return {
        item.unit: name if times[name] == 1 else f"{name} ({item.name.rpartition(':')[2]})"
        for item in plan
        for name in [item.survey_arguments["class_name"]]
    }


OF_DATA = "data"
"""Stands for the classes that the data set has."""


def classes_of(
    asked: str, seed: int, network: KnownNetwork, size: int, of_data: Sequence[MatchedClass] = ()
) -> dict[int, str]:
    """Return the classes that are asked for, of `size` in all, each with the name that images of it are asked
    for by.

    `of_data` are those of the data set, which `OF_DATA` stands for.

    Raises:
        UsageError: If there is no such class, or one has no name.
    """
    names = network.class_names
    if not names:
        raise UsageError(
            f"{network.name} does not name its classes, so that no images of them can be asked for.",
            "Give them in a file with --class-names, or as class_names of its factory (docs/own-network.md).",
        )
    if asked.strip() != OF_DATA:
        return {index: drawable(index, names) for index in choose_classes(asked, names, size, seed)}
    matched = sorted({match.index for match in of_data if match.index is not None})
    if not matched:
        raise UsageError(
            f"no class of the data set has the name of a class of {network.name}: "
            f"{', '.join(match.name for match in of_data[:20]) or 'it has none'}.",
            "Name them with --label-names LABEL=CLASS, or give --classes by name.",
        )
    return {index: drawable(index, names) for index in matched}


def choose_classes(text: str, names: Sequence[str], size: int, seed: int) -> list[int]:
    """Return the classes that `text` names, in order: one class's whole name, or by commas what `choose`
    takes and names.

    Raises:
        UsageError: If there is no such class.
    """
    if not text.strip().isdecimal():
        with contextlib.suppress(UsageError):
            return [class_index(text, names)]
    chosen: set[int] = set()
    for part in text.split(","):
        if not _NUMBERS.fullmatch(part):
            chosen.add(class_index(part, names))
            continue
        highest = max((int(number) for number in re.findall(r"\d+", part)), default=0)
        if highest >= size and "sample" not in part:
            raise UsageError(
                f"the classes are numbered 0 to {size - 1}, got {part.strip()!r}.", "Correct --classes."
            )
        chosen.update(choose(part, size, seed))
    return sorted(chosen)


def check_classes(text: str) -> None:
    """Refuse what can name no class of any network.

    Raises:
        UsageError: If a part between commas is empty, or a range or a sample has nothing in it.
    """
    for part in map(str.strip, text.split(",")):
        low, dash, high = part.partition("-")
        backwards = dash and low.isdecimal() and high.isdecimal() and int(low) > int(high)
        if not part or backwards or re.fullmatch(r"sample:0*", part):
            raise UsageError(
                f"classes are written all, NAME, 281-285, 3,17 or sample:20, got {part!r}.",
                "Correct --classes.",
            )


def drawable(index: int, names: Sequence[str]) -> str:
    """Return the first of a class's names, which image makers are asked for; ImageNet joins several by
    commas.

    Raises:
        UsageError: If the network does not name the class.
    """
    name = names[index].split(",")[0].strip() if index < len(names) else ""
    if not name:
        raise UsageError(
            f"class {index} has no name, so that no images of it can be asked for.",
            "Name it in the network's class_names, or leave it out of --classes.",
        )
    return name
