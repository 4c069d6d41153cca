"""What `maia edit --to` gives units in place of their own values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from actors.errors import UsageError
from actors.grouping import all_of
from actors.images import Image
from actors.vision.client import PoolVisionClient
from actors.vision.readout.base import ImageDataset, Unit, UnitResponse
from actors.vision.readout.edits import Edit
from actors.vision.readout.units import Readout
from experiments.audit.real_images import EditsOf

DONORS = 32
"""Images whose values are put into others."""
FORMS = "zero, mean, resample, a number, scale:FACTOR, add:NUMBER or clamp:LOW,HIGH"

ValueKind = Literal["set", "mean", "resample", "scale", "add", "clamp"]


@dataclass(frozen=True, slots=True)
class NewValue:
    """What units are given, from their value a at a position.

    `set`: `amount`. `scale`: `amount` times a. `add`: a + `amount`. `clamp`: a brought into [`amount`,
    `upper`]. `mean`: the mean of the unit's map over the data set. `resample`: what the unit has at the same
    position of another image, drawn for each image.
    """

    kind: ValueKind
    amount: float = 0.0
    upper: float = np.inf

    @classmethod
    def of(cls, text: str) -> NewValue:
        """Return what a command line means by one of `FORMS`.

        Raises:
            UsageError: If it is of another form.
        """
        kind, colon, numbers = text.partition(":")
        match kind, colon:
            case (("mean" | "resample"), ""):
                return cls(kind)
            case (("scale" | "add"), ":"):
                return cls(kind, _number(numbers, text))
            case "clamp", ":":
                low, comma, high = numbers.partition(",")
                if comma and (bounds := cls(kind, _number(low, text), _number(high, text))).in_order:
                    return bounds
                raise _refusal(text, "clamp:LOW,HIGH has two numbers, the lower one first.")
        return cls("set", number_of(text))

    @property
    def in_order(self) -> bool:
        return self.amount <= self.upper

    async def planned(
        self, vision: PoolVisionClient, dataset: ImageDataset, units: Sequence[Unit], seed: int
    ) -> PlannedEdits:
        """Return the edits of each image. An image's donor depends on `seed` and the image alone, and is the
        same for all units.

        Raises:
            UsageError: If the positions of a layer are not known, so that there is no mean or donor.
            SampleError: If no image of the data set could be read.
        """
        if self.kind == "resample":
            return PlannedEdits(units, await _resampled(vision, dataset, units, seed), {})
        values = dict.fromkeys(units, self.amount)
        if self.kind == "mean":
            values = {unit: await vision.map_mean(unit, dataset) for unit in units}
        how = "set" if self.kind == "mean" else self.kind
        same = tuple(Edit(Readout.of(unit), unit.index, how, values[unit], self.upper) for unit in units)
        return PlannedEdits(units, lambda _image: same, values if how == "set" else {})


@dataclass(frozen=True, slots=True)
class PlannedEdits:
    """The edits of units on each image, and the value of each; no values where they depend on the image."""

    units: Sequence[Unit]
    of: EditsOf
    values: Mapping[Unit, float]


def number_of(text: str, forms: str = FORMS) -> float:
    """Return the value that a command sets units to, "zero" or a number.

    Raises:
        UsageError: If it is neither; `forms` are those that the option takes.
    """
    return 0.0 if text == "zero" else _number(text, text, forms)


def _number(text: str, whole: str, forms: str = FORMS) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not abs(value) <= float(np.finfo(np.float32).max):
        raise _refusal(whole, f"The forms are {forms}.")
    return value


def _refusal(text: str, fix: str) -> UsageError:
    return UsageError(f"{text!r} is no value that units can be given.", fix)


async def _resampled(
    vision: PoolVisionClient, dataset: ImageDataset, units: Sequence[Unit], seed: int
) -> EditsOf:
    """Return edits that put in what the units have on a donor: one of `DONORS` images, never the image."""
    for layer in {unit.layer for unit in units}:
        info = vision.known.info(layer)
        if info.kind != "vector" and not info.shape:
            raise UsageError(
                f"the positions of {layer!r} are not known, so another image's values cannot be put in.",
                "Use --to mean or a number, or units of another layer.",
            )
    donors = list(dict.fromkeys(await vision.drawn(dataset, DONORS)))
    responses = await all_of(vision.measure(unit, donors) for unit in units)
    edits = [_given(units, of_donor) for of_donor in zip(*responses, strict=True)]

    def of(image: Image) -> tuple[Edit, ...]:
        others = [place for place, donor in enumerate(donors) if donor != image]
        if not others:
            raise UsageError(
                f"{dataset.name!r} has no other image to take values from.", "Use --to mean or a number."
            )
        draw = np.random.default_rng((seed, int(image.id[:8], 16)))
        return edits[others[int(draw.integers(len(others)))]]

    return of


def _given(units: Sequence[Unit], responses: Sequence[UnitResponse]) -> tuple[Edit, ...]:
    return tuple(
        Edit.replaced_by(Readout.of(unit), unit.index, response.map)
        for unit, response in zip(units, responses, strict=True)
    )
