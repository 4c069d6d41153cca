"""What `carriers.json` holds: for each bias, what the units of a layer do to the class in the context and in
ordinary ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeInt, TypeAdapter, ValidationError

from agents.evidence.role import Interval
from agents.records.run_files import RecordError, damaged
from agents.records.store import Store

KEY = "carriers.json"
VERSION = 1


@dataclass(frozen=True, slots=True)
class UnitShare:
    """What a unit adds to the class in the context less what it adds in ordinary ones, in log odds of its
    probability.

    `interval` is Welch's at 95%, `q` the smallest false-discovery rate over the layer's units at which it
    would be claimed, and `sure` that it is, at 5%. `difference` is that of the mean probabilities, context
    less ordinary, with the unit at zero.
    """

    index: NonNegativeInt
    effect: float
    interval: Interval
    q: float
    sure: bool
    difference: float


@dataclass(frozen=True, slots=True)
class BiasCarriers:
    """A bias and the units that were ablated on all its images, those with the largest effects first.

    `difference` is that of the mean probabilities on these images, context less ordinary: units whose effect
    has its sign carry the bias, the others counteract it. `units` are those of the layer, `floor` the largest
    change of passes that change nothing, in log odds. With fewer than three images on a side, `shares` is
    empty.
    """

    class_name: str
    context: str
    source: Literal["generated", "real"]
    inside: NonNegativeInt
    ordinary: NonNegativeInt
    difference: float
    units: NonNegativeInt
    floor: float
    passes: NonNegativeInt
    shares: list[UnitShare]

    @property
    def carriers(self) -> list[UnitShare]:
        """The units that surely carry the bias."""
        return [each for each in self.shares if each.sure and each.effect * self.difference > 0]

    @property
    def counteracting(self) -> list[UnitShare]:
        """The units that surely counteract it."""
        return [each for each in self.shares if each.sure and each.effect * self.difference < 0]


@dataclass(frozen=True, slots=True)
class CarrierSection:
    """The biases of an audit of the classes `audited`, and what the units of `layer` do to them."""

    layer: str
    audited: list[str]
    found: list[BiasCarriers]
    version: int = field(default=VERSION, kw_only=True)


_SECTION = TypeAdapter(CarrierSection)


def read(store: Store) -> CarrierSection | None:
    """Return what a run says of carriers, None if nothing.

    Raises:
        RecordError: If the record is damaged, or of another version.
    """
    record = store.read_object(KEY)
    if record is None:
        return None
    try:
        section = _SECTION.validate_python(record)
    except ValidationError as error:
        raise damaged(Path(KEY), error) from error
    if section.version != VERSION:
        raise RecordError(f"{KEY} is of another version.", "Remove it, and repeat the command.")
    return section


def is_done(store: Store, layer: str, audited: Sequence[str]) -> bool:
    """Return whether the units of a layer were looked at for these classes; a damaged record counts as
    none.
    """
    try:
        section = read(store)
    except RecordError:
        return False
    return section is not None and section.layer == layer and set(section.audited) == set(audited)
