"""How the requests of a batch pass through the network together, and which maps are copied from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from actors.vision.layer_readers import LayerReaders
from actors.vision.readout.edits import RowEdit
from actors.vision.readout.requests import ReadoutActivations, VisionRequest
from actors.vision.readout.taps import Fork
from actors.vision.readout.units import Readout
from actors.vision.sweep.accumulators import HALF_MAX

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class PassRow:
    """A request of a batch: its index, the answers that are known, and the deepest layer it still needs."""

    place: int
    request: VisionRequest
    known: dict[Readout, ReadoutActivations]
    wanted: str


@dataclass(frozen=True)
class PassPlan:
    """How rows pass: before call `index`, each of their `images` once, and from it on the `rows` of the fork.

    An image is a row without asks and edits, which wants what the deepest row with this image wants.
    """

    images: Sequence[PassRow]
    rows: Sequence[PassRow]
    index: int = -1
    fork: Fork | None = None

    @cached_property
    def _numbers(self) -> tuple[dict[str, int], dict[int, int]]:
        by_image = {row.request.image.id: number for number, row in enumerate(self.images)}
        return by_image, {row.place: number for number, row in enumerate(self.rows)}

    def rows_at(self, call_index: int) -> Sequence[PassRow]:
        """Return what is in the batch at a call, before any row has left."""
        return self.images if call_index < self.index else self.rows

    def at(self, row: PassRow, call_index: int) -> int:
        """Return the number of a row, or of its image, in the batch at a call."""
        by_image, by_place = self._numbers
        return by_image[row.request.image.id] if call_index < self.index else by_place[row.place]


def plan_pass(rows: Sequence[PassRow], readers: LayerReaders) -> PassPlan:
    """Return how rows pass: where edited rows share an image, it passes once as far as they have in
    common.
    """
    count = Counter(row.request.image.id for row in rows)
    edited = [row for row in rows if row.request.edits]
    if not any(count[row.request.image.id] > 1 for row in edited):
        return PassPlan(rows, rows)
    first = min(readers.depth(edit.readout) for row in edited for edit in row.request.edits)
    layer = readers.tapped.fork_layer(first)
    if layer is None:
        return PassPlan(rows, rows)
    index = readers.call_index(layer)
    images: dict[str, PassRow] = {}
    for row in rows:  # deepest first
        images.setdefault(
            row.request.image.id, PassRow(row.place, VisionRequest(row.request.image, ()), {}, row.wanted)
        )
    after = [row for row in rows if readers.call_index(row.wanted) >= index]
    number = {image_id: at for at, image_id in enumerate(images)}
    sources = tuple(number[row.request.image.id] for row in after)
    fork = Fork(layer, sources, tuple(row.wanted for row in after))
    return PassPlan(list(images.values()), after, index, fork)


def edits_of(rows: Sequence[PassRow], readers: LayerReaders) -> list[RowEdit]:
    return [
        RowEdit(at, readers.layer(edit.readout.layer), edit, readers.reader(edit.readout))
        for at, row in enumerate(rows)
        for edit in row.request.edits
    ]


def asked_maps(
    rows: Sequence[PassRow], at: Callable[[PassRow, Readout], int]
) -> dict[Readout, dict[int, dict[int, None]]]:
    """Return the units whose maps are requested, by readout and by what a row is numbered `at` it."""
    asked: dict[Readout, dict[int, dict[int, None]]] = {}
    for row in rows:
        for ask in row.request.asks:
            if ask.maps and ask.readout not in row.known:
                by_row = asked.setdefault(ask.readout, {})
                by_row.setdefault(at(row, ask.readout), {}).update(dict.fromkeys(ask.indices or ()))
    return asked


def copy_maps(
    units: torch.Tensor, wanted: Mapping[int, Mapping[int, None]], all_units: bool
) -> dict[int, np.ndarray | dict[int, np.ndarray]]:
    """Return maps of units (n, U, h, w) by row: of all units, or by unit those that are `wanted`.

    One copy from the device for all rows, then an array for each: they are dropped one by one.
    """
    if all_units:
        whole = to_half(units[list(wanted)])
        return {at: row.copy() for at, row in zip(wanted, whole, strict=True)}
    pairs = [(at, index) for at, which in wanted.items() for index in which]
    at, index = zip(*pairs, strict=True)
    by_row: dict[int, dict[int, np.ndarray]] = {row: {} for row in wanted}
    for (row, unit), unit_map in zip(pairs, to_half(units[list(at), list(index)]), strict=True):
        by_row[row][unit] = unit_map.copy()
    return {**by_row}


def to_half(maps: torch.Tensor) -> np.ndarray:
    """Return maps as float16, clipped to its range."""
    half: np.ndarray = maps.float().clamp(-HALF_MAX, HALF_MAX).half().cpu().numpy()
    return half
