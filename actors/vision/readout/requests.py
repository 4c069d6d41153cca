"""Requests to a network under study and its results: plain values that are passed between processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np

from actors.images import Image
from actors.vision.readout.base import LayerInfo
from actors.vision.readout.edits import Edit
from actors.vision.readout.units import Readout


class NetworkDescription(TypedDict):
    """The network under study as its backend describes it; `head` is a digest of a packaged head, or ""."""

    name: str
    fingerprint: str
    head: str
    weights: str
    device: str
    dtype: str
    preprocess: Mapping[str, object]
    input_size: tuple[int, int] | None
    aliases: dict[str, str]
    unreadable: dict[str, str]
    class_names: list[str]
    layers: list[LayerInfo]
    batch: int
    batch_invariant: bool


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for some units of one readout; `indices` None requests all, of which no maps are returned."""

    readout: Readout
    indices: tuple[int, ...] | None
    maps: bool = False


@dataclass(frozen=True, slots=True)
class VisionRequest:
    """A request for activations on one image. At most one `Ask` per readout.

    `edits` are made during the pass, in order; a unit is read after the edits of its own layer.
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
    """One batch of a sweep: positions `start` to `stop` of the plan with digest `plan` kept in `folder`.

    `prefetch` is the step that will probably go to the same replica next; its images are loaded meanwhile.
    `flush` has the replica write its part of the result, with this step in it, and start another.
    `replicas` share the rest of the steps.
    """

    folder: str
    plan: str
    start: int
    stop: int
    prefetch: tuple[int, int] | None = None
    flush: bool = False
    replicas: int = 1


NoticeKind = Literal["compiled", "not worth it", "failed"]


@dataclass(frozen=True, slots=True)
class PassNotice:
    """What a replica decided about compiling the passes of a sweep, for people."""

    kind: NoticeKind
    text: str


@dataclass(frozen=True, slots=True)
class SweepAck:
    """A step is in a replica's part of the result; `skipped` of its images could not be read."""

    skipped: int
    notices: tuple[PassNotice, ...] = ()


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
    """Return whether the full result of `running` contains that of `wanted`."""
    asks = {ask.readout: ask for ask in running.asks}
    for ask in wanted.asks:
        other = asks.get(ask.readout)
        if other is None:
            return False
        if ask.maps and not (other.maps and set(ask.indices or ()) <= set(other.indices or ())):
            return False
    return True


def narrow(request: VisionRequest, result: VisionResult) -> VisionResult:
    """Return the part of a full result that `request` is for."""
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
