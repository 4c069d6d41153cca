"""What is asked of a network under study and what it answers: plain values that travel between processes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actors.images import Image
from actors.vision.readout.edits import Edit
from actors.vision.readout.units import Readout


@dataclass(frozen=True, slots=True)
class Ask:
    """Some units of one readout; `indices` None means all of them, of which no maps are given."""

    readout: Readout
    indices: tuple[int, ...] | None
    maps: bool = False


@dataclass(frozen=True, slots=True)
class VisionRequest:
    """How strongly one image drives some units. At most one `Ask` a readout.

    `edits` are made on the way, in order; a unit is read after the edits of its own layer.
    """

    image: Image
    asks: tuple[Ask, ...]
    edits: tuple[Edit, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadoutActivations:
    """The answer to one `Ask`: float32 (n,) activations in the order of `indices` (of all units if None),
    and the float16 (h, w) maps of some of them by unit.
    """

    readout: Readout
    indices: tuple[int, ...] | None
    activations: np.ndarray
    maps: dict[int, np.ndarray]


@dataclass(frozen=True, slots=True)
class VisionResult:
    readings: tuple[ReadoutActivations, ...]
    view: tuple[float, float, float, float]

    def reading(self, readout: Readout) -> ReadoutActivations:
        return next(reading for reading in self.readings if reading.readout == readout)


@dataclass(frozen=True, slots=True)
class SweepStep:
    """One batch of a sweep: positions `start` to `stop` of the plan kept in `folder`.

    `prefetch` is the step that will probably go to the same replica next; its images are loaded meanwhile.
    `flush` has the replica write its part of the result, with this step in it, and start another.
    """

    folder: str
    start: int
    stop: int
    prefetch: tuple[int, int] | None = None
    flush: bool = False


@dataclass(frozen=True, slots=True)
class SweepAck:
    """A step is in a replica's part of the result; `skipped` of its images could not be read."""

    skipped: int


def merge(first: VisionRequest, second: VisionRequest) -> VisionRequest:
    """Return the request for the same image that answers both."""
    asks = {ask.readout: ask for ask in first.asks}
    for ask in second.asks:
        other = asks.get(ask.readout)
        asks[ask.readout] = ask if other is None else _union(other, ask)
    return VisionRequest(first.image, tuple(asks.values()), first.edits)


def _union(first: Ask, second: Ask) -> Ask:
    # A pass yields every unit of a readout, so that only the units with maps need to be counted up.
    if not (first.maps and second.maps):
        if first.maps or second.maps:
            return first if first.maps else second
        return first if first.indices is None else second
    assert first.indices is not None
    assert second.indices is not None
    return Ask(first.readout, tuple(sorted({*first.indices, *second.indices})), maps=True)


def covers(running: VisionRequest, wanted: VisionRequest) -> bool:
    """Say whether the full result of `running` holds what `wanted` asks."""
    asks = {ask.readout: ask for ask in running.asks}
    for ask in wanted.asks:
        other = asks.get(ask.readout)
        if other is None:
            return False
        if ask.maps and not (other.maps and set(ask.indices or ()) <= set(other.indices or ())):
            return False
    return True


def narrow(request: VisionRequest, result: VisionResult) -> VisionResult:
    """Return the part of a full result that `request` asks for."""
    readings = []
    for ask in request.asks:
        reading = result.reading(ask.readout)
        if ask.indices is None or reading.indices is not None:
            readings.append(reading)
            continue
        maps = {index: reading.maps[index] for index in ask.indices} if ask.maps else {}
        readings.append(
            ReadoutActivations(ask.readout, ask.indices, reading.activations[list(ask.indices)], maps)
        )
    return VisionResult(tuple(readings), result.view)
