"""Interventions on the unit under study: it gets another value inside the network, and outputs are compared.

Clean, edited and placebo rows go to the network together, so that those of many agents share batches. A
placebo gives the unit its own value; what it changes is the noise of the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from actors.errors import UsageError
from actors.images import Image
from actors.vision.client import PoolVisionClient
from actors.vision.readout.base import ImageDataset, Unit
from actors.vision.readout.edits import EVERYWHERE, Edit, Where
from actors.vision.readout.places import split_place
from actors.vision.readout.requests import Ask, VisionRequest, VisionResult
from actors.vision.readout.units import OUTPUT, Readout, class_index, parse_unit
from tools.sandbox.child.effects import KINDS, MOST_ASKED, Effects, ImageEffect, OutputChange

ABLATIONS = ("zero", "mean", "resample")
DONORS = 5
"""Images whose values are put in, one after the other, by ablation with resampling."""
_MOST = 5
"""Outputs that are listed in either direction."""
_PLACEBOS = 2
"""Images of a call that pass with the unit given its own value."""
NOTHING_BEHIND = "nothing is computed from what is measured here, so it cannot be given another value."
_BOXES = "A box is top, left, bottom, right as fractions of the image's sides, such as (0, 0, 0.5, 1)."
_PROBABILITIES = Readout(OUTPUT, "probability")


class InterventionError(UsageError):
    """An intervention cannot be made as asked; the words do not say which unit is studied."""


@dataclass(frozen=True, slots=True)
class Intervention:
    """Another value for the unit: `value` a number, (low, high) of `clamp`, or one of `ABLATIONS`.

    A box of `where` is in fractions of the image, not of the part that the network sees.
    """

    kind: str
    value: float | tuple[float, float] | str
    where: Where = EVERYWHERE

    @classmethod
    def of(cls, kind: str, value: Any, where: Any) -> Intervention:
        """Return the intervention that is meant: `value` None (of `ablate`), a text, a number or two; `where`
        None, a share in 0..1 of the unit's largest value in the image, or the four numbers of a box.

        Raises:
            InterventionError: If the value or the place does not fit.
        """
        match kind, value:
            case "ablate", None:
                value = "zero"
            case "ablate", str() if value in ABLATIONS:
                pass
            case "ablate", _:
                raise InterventionError(f"ablate takes {', '.join(map(repr, ABLATIONS))}, got {value!r}.")
            case "clamp", (low, high) if float(low) <= float(high):
                value = (float(low), float(high))
            case "clamp", _:
                raise InterventionError(f"clamp takes two numbers, low and high, got {value!r}.")
            case (("scale" | "add" | "set"), (int() | float())):
                value = float(value)
            case (("scale" | "add" | "set"), _):
                raise InterventionError(f"{kind} takes a number, got {value!r}.")
            case _:
                raise InterventionError(f"the kinds are {', '.join(KINDS)}, got {kind!r}.")
        if not isinstance(value, str) and np.abs(value).max() > np.finfo(np.float32).max:
            raise InterventionError(f"{value} is more than single precision holds.")
        return cls(kind, value, _where(where))

    @property
    def donors(self) -> int:
        """Passes of each image: one, or one for each donor."""
        return DONORS if self.value == "resample" else 1

    def __str__(self) -> str:
        match self.value:
            case str():
                change = "ablate by resampling" if self.value == "resample" else f"ablate to {self.value}"
            case (low, high):
                change = f"clamp to {low:g}..{high:g}"
            case _:
                change = f"{self.kind} {self.value:g}"
        if self.where.share is not None:
            return f"{change} where it reaches {self.where.share:.0%} of its largest value"
        if self.where.box is not None:
            return f"{change} in the box {', '.join(f'{side:g}' for side in self.where.box)}"
        return f"{change} everywhere"


def _where(where: Any) -> Where:
    try:
        match where:
            case None:
                return EVERYWHERE
            case int() | float():
                return Where(share=float(where))
            case (top, left, bottom, right):
                return Where(box=(float(top), float(left), float(bottom), float(right)))
    except UsageError as error:
        raise InterventionError(error.message, error.fix) from error
    raise InterventionError(f"a place is None, a share or a box, got {where!r}.", _BOXES)


@dataclass(frozen=True, slots=True)
class _ComparedOutputs:
    """What is compared: all units of `readout`, and what `names` calls them. `centered`: over all of them."""

    readout: Readout
    names: Sequence[str]
    n: int
    centered: bool
    probable: bool

    def name(self, index: int) -> str:
        return self.names[index] if index < len(self.names) else f"output {index}"

    def values(self, results: Sequence[VisionResult]) -> np.ndarray:
        """Return the values, float64 (n,), in the mean over results."""
        values = np.mean([result.reading(self.readout).activations for result in results], 0, np.float64)
        return np.asarray(values - values.mean() if self.centered else values)

    def probabilities(self, results: Sequence[VisionResult]) -> np.ndarray | None:
        if not self.probable:
            return None
        table = [result.reading(_PROBABILITIES).activations for result in results]
        return np.asarray(np.mean(table, 0, np.float64))


@dataclass(frozen=True, slots=True)
class _Asked:
    """Classes and units that were asked for by name."""

    classes: tuple[int, ...]
    units: tuple[Unit, ...]


@dataclass(frozen=True, slots=True)
class _PassPair:
    """One image's results without and with the intervention: several where donors are resampled."""

    image: Image
    clean: VisionResult
    edited: Sequence[VisionResult]


class UnitInterventions:
    """Intervenes on one unit of a network; means and donors come from images that are not held out."""

    def __init__(self, client: PoolVisionClient, unit: Unit, dataset: ImageDataset) -> None:
        self._client, self._unit, self._dataset = client, unit, dataset

    async def effects(
        self,
        images: Sequence[Image],
        intervention: Intervention,
        asked: Sequence[str] = (),
        *,
        name_units: bool = True,
        agent: str = "",
    ) -> Effects:
        """Return what an intervention does to images.

        `asked`: classes by name or number; with `name_units` also units as `LAYER:UNIT`, whose activations
        are compared.

        Raises:
            InterventionError: If the unit is an output, no class has a name that was asked for, or what comes
                out is not finite.
            UsageError: If the network cannot be edited there. These words name layers.
        """
        unit = await self._client.unit(self._unit)
        if unit.layer == OUTPUT:
            raise InterventionError(NOTHING_BEHIND)
        outputs = await self._outputs()
        wanted = await self._wanted(asked, outputs, name_units)
        asks = _asks(unit, outputs, wanted)
        edits = await self._edits(unit, images, intervention, agent)
        controls = list(dict.fromkeys(images))[:_PLACEBOS]
        placebo = (Edit(Readout.of(unit), unit.index, "scale", 1.0),)
        rows = [VisionRequest(image, asks) for image in images]
        rows += [VisionRequest(image, asks, placebo) for image in controls]
        for image, some in zip(images, edits, strict=True):
            rows += [VisionRequest(image, asks, (edit,)) for edit in some]
        results = iter(await self._client.passes(rows, agent=agent))
        clean = dict(zip(range(len(images)), results, strict=False))
        placebos = [_PassPair(image, clean[images.index(image)], [next(results)]) for image in controls]
        compared = [
            _PassPair(image, clean[place], [next(results) for _ in edits[place]])
            for place, image in enumerate(images)
        ]
        return _EffectTable(unit, outputs, wanted).effects(str(intervention), compared, placebos)

    async def _outputs(self) -> _ComparedOutputs:
        """Return the network's outputs, or the last layer's units where it has none."""
        layers = await self._client.layers()
        last = next((layer for layer in layers if layer.name == OUTPUT), layers[-1])
        names = await self._client.class_names() if last.name == OUTPUT else []
        readout = Readout(last.name, "logit") if last.name == OUTPUT else Readout(last.name)
        softmax = last.name == OUTPUT and last.scores == "softmax"
        return _ComparedOutputs(readout, names, last.n_units, softmax, bool(names) and last.kind == "vector")

    async def _wanted(self, asked: Sequence[str], outputs: _ComparedOutputs, name_units: bool) -> _Asked:
        if len(asked) > MOST_ASKED:
            raise InterventionError(f"at most {MOST_ASKED} outputs may be named, got {len(asked)}.")
        classes: list[int] = []
        units: list[Unit] = []
        for text in asked:
            layer, colon, rest = text.partition(":")
            if colon and name_units and text not in outputs.names:
                units.append(await self._client.unit(parse_unit(layer, rest, outputs.names)))
                continue
            try:
                index = class_index(text, outputs.names)
            except UsageError as error:
                raise InterventionError(error.message, error.fix) from error
            if index >= outputs.n:
                raise InterventionError(f"outputs are numbered 0 to {outputs.n - 1}, got {index}.")
            classes.append(index)
        return _Asked(tuple(classes), tuple(units))

    async def _edits(
        self, unit: Unit, images: Sequence[Image], intervention: Intervention, agent: str
    ) -> list[tuple[Edit, ...]]:
        """Return the edits of each image, one a pass."""
        readout, where = Readout.of(unit), intervention.where
        match intervention.kind, intervention.value:
            case "ablate", "mean":
                mean = await self._client.map_mean(unit, self._dataset)
                edit = Edit(readout, unit.index, "set", mean, where=where)
            case "clamp", (float(low), float(high)):
                edit = Edit(readout, unit.index, "clamp", low, high, where)
            case ("scale" | "add" | "set") as how, float(amount):
                edit = Edit(readout, unit.index, how, amount, where=where)
            case _:
                edit = Edit(readout, unit.index, "set", 0.0, where=where)
        resample = intervention.value == "resample"
        if not resample and where.box is None:
            return [(edit,)] * len(images)
        responses = await self._client.measure(unit, images, agent=agent)
        places = [_in_view(where, response.view) for response in responses]
        if not resample:
            return [(replace(edit, where=place),) for place in places]
        donors = await self._donors(unit, agent)
        edits = []
        for image, place, response in zip(images, places, responses, strict=True):
            others = [_resized(values, response.map.shape) for donor, values in donors if donor != image]
            if not others:
                raise InterventionError("there is no other image to take values from.")
            edits.append(
                tuple(Edit.replaced_by(readout, unit.index, each, place) for each in others[:DONORS])
            )
        return edits

    async def _donors(self, unit: Unit, agent: str) -> list[tuple[Image, np.ndarray]]:
        """Return images whose values are put in, the same for all units, with the unit's maps (h, w)."""
        name, place = split_place(unit.layer)
        whole = {layer.name: layer for layer in await self._client.layers()}
        layer = whole[unit.layer] if unit.layer in whole else whole[name].at(place)
        if layer.kind != "vector" and not layer.shape:
            raise InterventionError("another image's values need positions, and these are not known here.")
        images = await self._client.drawn(self._dataset, DONORS + 1)
        responses = await self._client.measure(unit, images, agent=agent)
        return [(image, each.map) for image, each in zip(images, responses, strict=True)]


@dataclass(frozen=True, slots=True)
class _EffectTable:
    """Turns results without and with an intervention into what it did."""

    unit: Unit
    outputs: _ComparedOutputs
    wanted: _Asked

    def effects(self, about: str, compared: Sequence[_PassPair], placebos: Sequence[_PassPair]) -> Effects:
        moved = [self._values(each.edited) - self._values([each.clean]) for each in placebos]
        floor = max((float(np.abs(each).max()) for each in moved), default=0.0)
        images = [self._image(each, floor) for each in compared]
        clean, edited = [each.clean for each in compared], [one for each in compared for one in each.edited]
        raised, lowered, asked = self._changes(clean, edited, floor)
        return Effects(about, images, raised, lowered, asked, _short(floor), floor == 0)

    def _image(self, compared: _PassPair, floor: float) -> ImageEffect:
        before, after = self._values([compared.clean]), self._values(compared.edited)
        length = float(np.linalg.norm(before) * np.linalg.norm(after))
        raised, lowered, asked = self._changes([compared.clean], compared.edited, floor)
        named = [self.outputs.name(int(values.argmax())) for values in (before, after)]
        return ImageEffect(
            compared.image,
            _short(self._activation(self.unit, [compared.clean])),
            _short(self._activation(self.unit, compared.edited)),
            raised,
            lowered,
            asked,
            named if self.outputs.names else [],
            _short(float(np.linalg.norm(after - before))),
            _short(float(before @ after / length)) if length > 0 else None,
        )

    def _changes(
        self, clean: Sequence[VisionResult], edited: Sequence[VisionResult], floor: float
    ) -> tuple[list[OutputChange], list[OutputChange], list[OutputChange]]:
        """Return the outputs raised and lowered most beyond the floor, and those that were asked for."""
        before, after = self._values(clean), self._values(edited)
        odds = (self.outputs.probabilities(clean), self.outputs.probabilities(edited))
        change = after - before
        least = max(floor, float(np.finfo(np.float32).eps * np.abs(before).max()))
        order = np.argsort(-np.abs(change), kind="stable")
        moved = [int(index) for index in order[np.abs(change[order]) > least]]

        def of(index: int) -> OutputChange:
            pair = [_short(float(each[index])) for each in odds if each is not None]
            return OutputChange(
                self.outputs.name(index),
                _short(before[index]),
                _short(after[index]),
                _short(change[index]),
                pair,
            )

        asked = [of(index) for index in self.wanted.classes]
        asked += [self._unit_change(unit, clean, edited) for unit in self.wanted.units]
        raised = [of(index) for index in moved if change[index] > 0][:_MOST]
        return raised, [of(index) for index in moved if change[index] < 0][:_MOST], asked

    def _unit_change(
        self, unit: Unit, clean: Sequence[VisionResult], edited: Sequence[VisionResult]
    ) -> OutputChange:
        before, after = self._activation(unit, clean), self._activation(unit, edited)
        return OutputChange(str(unit), _short(before), _short(after), _short(after - before), [])

    def _values(self, results: Sequence[VisionResult]) -> np.ndarray:
        """Return the outputs, in the mean over results; raises InterventionError if one is not finite."""
        values = self.outputs.values(results)
        if not np.isfinite(values).all():
            raise InterventionError("the network's outputs are not finite.", "Use a smaller value.")
        return values

    def _activation(self, unit: Unit, results: Sequence[VisionResult]) -> float:
        """Return a unit's activation, in the mean over results."""
        return float(np.mean([_activation(unit, result) for result in results]))


def _activation(unit: Unit, result: VisionResult) -> float:
    reading = result.reading(Readout.of(unit))
    place = unit.index if reading.indices is None else reading.indices.index(unit.index)
    return float(reading.activations[place])


def _asks(unit: Unit, outputs: _ComparedOutputs, wanted: _Asked) -> tuple[Ask, ...]:
    """Return what every row is asked: the outputs, the unit itself, and units that were named."""
    indices: dict[Readout, dict[int, None]] = {}
    for each in (unit, *wanted.units):
        indices.setdefault(Readout.of(each), {})[each.index] = None
    whole = [outputs.readout, *([_PROBABILITIES] if outputs.probable else [])]
    some = [Ask(readout, tuple(which)) for readout, which in indices.items() if readout not in whole]
    return (*(Ask(readout, None) for readout in whole), *some)


def _in_view(where: Where, view: tuple[float, float, float, float]) -> Where:
    """Return a place in the image as one in what the network sees, whose sides are at `view`.

    Raises:
        InterventionError: If the network sees nothing of a box.
    """
    if where.box is None:
        return where
    top, left, bottom, right = view
    height, width = bottom - top, right - left
    first, second = max((where.box[0] - top) / height, 0.0), max((where.box[1] - left) / width, 0.0)
    third, fourth = min((where.box[2] - top) / height, 1.0), min((where.box[3] - left) / width, 1.0)
    if first >= third or second >= fourth:
        raise InterventionError("the box lies outside of the part of the image that the network sees.")
    return replace(where, box=(first, second, third, fourth))


def _resized(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a map (h, w) at another shape, each position with the value of the nearest."""
    rows, columns = (
        np.minimum((np.arange(n) + 0.5) * m // n, m - 1).astype(int)
        for n, m in zip(shape, values.shape, strict=True)
    )
    resized: np.ndarray = values[np.ix_(rows, columns)]
    return resized


def _short(value: float) -> float:
    """Return a value in the fewest digits that give the same float32."""
    return float(str(np.float32(value)))
