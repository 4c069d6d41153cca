"""Interventions: another value for a unit inside a forward pass, in some rows of a batch.

A hook returns a copy of a layer's output with the unit's value changed, from which everything behind it is
computed. Rows of a batch may carry different edits; rows without any keep their values to the bit.

Shapes: N images; C channels of a layer; h x w positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from actors.errors import UsageError
from actors.vision.readout.units import Readout, UnitReader

if TYPE_CHECKING:
    import torch

    from actors.vision.readout.layout import Grid, Layout

EditKind = Literal["set", "scale", "add", "clamp", "replace"]


@dataclass(frozen=True, slots=True)
class Where:
    """The positions at which a unit is edited: all of them unless one of these says less.

    `box`: top, left, bottom, right as fractions of what the network sees; positions whose centers lie in it.
    `share`: positions at which the unit reaches this part of the way from zero to its largest value on the
    image, in 0..1; from its least value where none is positive.
    """

    box: tuple[float, float, float, float] | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        if self.box is not None:
            top, left, bottom, right = self.box
            if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
                raise UsageError(
                    "a box is top, left, bottom, right with 0 <= top < bottom <= 1 and "
                    f"0 <= left < right <= 1, got {self.box}."
                )
        if self.share is not None and not 0 <= self.share <= 1:
            raise UsageError(f"a share of the largest value lies between 0 and 1, got {self.share}.")

    def mask(self, values: torch.Tensor) -> torch.Tensor:
        """Return the positions, bool (h, w), at which a unit of these values (h, w) is edited."""
        import torch

        kept = torch.ones_like(values, dtype=torch.bool)
        if self.box is not None:
            top, left, bottom, right = self.box
            rows = (torch.arange(values.shape[0], device=values.device) + 0.5) / values.shape[0]
            columns = (torch.arange(values.shape[1], device=values.device) + 0.5) / values.shape[1]
            inside = (rows >= top) & (rows < bottom)
            kept &= inside[:, None] & (columns >= left) & (columns < right)
        if self.share is not None:
            low, high = values.aminmax()
            low = torch.where(high > 0, torch.zeros_like(low), low)
            kept &= values >= low + self.share * (high - low)
        return kept


EVERYWHERE = Where()


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of unit `index` of a readout, from its value a at a position to a'.

    `set`: a' = amount (0 ablates the unit; the mean of its map over a data set ablates it to its mean).
    `scale`: a' = amount * a (1 changes nothing, and is the placebo). `add`: a' = a + amount. `clamp`: a into
    [amount, upper]. `replace`: a' at each position as in `values`, float32 (h, w) as bytes, of another image.

    `turned`: seed of a random direction, the same at all positions, along which the step is made in place of
    the unit's own; it stays as long at each position, and as often there as back (`turning`).
    """

    readout: Readout
    index: int
    how: EditKind
    amount: float = 0.0
    upper: float = math.inf
    where: Where = EVERYWHERE
    values: bytes = b""
    shape: tuple[int, int] = (0, 0)
    turned: int | None = None

    @classmethod
    def replaced_by(cls, readout: Readout, index: int, values: np.ndarray, where: Where = EVERYWHERE) -> Edit:
        """Return the edit that gives the unit another image's `values`, (h, w) at the layer's positions."""
        values = np.ascontiguousarray(values, np.float32)
        height, width = values.shape
        return cls(readout, index, "replace", where=where, values=values.tobytes(), shape=(height, width))

    @property
    def placebo(self) -> Edit:
        """The edit of the same unit that changes nothing."""
        return replace(self, how="scale", amount=1.0, values=b"", shape=(0, 0))

    def control(self, seed: int) -> Edit:
        """Return the edit that changes the layer as much at each position, in a random direction."""
        return replace(self, turned=seed)

    def changed(self, values: torch.Tensor) -> torch.Tensor:
        """Return the unit's new values for its values, float32 (h, w).

        Raises:
            UsageError: If the other image's values are of other positions.
        """
        import torch

        match self.how:
            case "set":
                new = torch.full_like(values, self.amount)
            case "scale":
                new = values * self.amount
            case "add":
                new = values + self.amount
            case "clamp":
                new = values.clamp(self.amount, self.upper)
            case "replace":
                if self.shape != tuple(values.shape):
                    raise UsageError(
                        f"the values to put in are of {self.shape[0]}x{self.shape[1]} positions, and the "
                        f"layer has {values.shape[0]}x{values.shape[1]}.",
                        "Take them from an image of the same size.",
                    )
                new = torch.from_numpy(np.frombuffer(self.values, np.float32).reshape(self.shape).copy())
                new = new.to(values.device)
        return torch.where(self.where.mask(values), new, values)


class UnitChange(Protocol):
    """A change of unit `index`, such as an `Edit`; `turned` is the seed of a random direction, or None."""

    @property
    def index(self) -> int: ...

    @property
    def turned(self) -> int | None: ...

    def changed(self, values: torch.Tensor) -> torch.Tensor:
        """Return new values of the unit for its values, float32 (h, w)."""


@dataclass(frozen=True, slots=True)
class RowEdit:
    """An edit of one row of a batch at a layer, by its own name, and the reader of its unit."""

    row: int
    layer: str
    edit: UnitChange
    reader: UnitReader


def edited(output: torch.Tensor, image_hw: Grid, edits: Sequence[tuple[Layout, RowEdit]]) -> torch.Tensor:
    """Return a copy of a layer's output with some rows edited; edits of one row follow each other.

    `output` is the layer's, for images of `image_hw`; each layout has the axes of its units and positions. A
    mean over positions moves by what each of them is moved by.
    """
    new = output.clone()
    places: dict[Layout, tuple[torch.Tensor, ...]] = {}
    for layout, row_edit in edits:
        positions = replace(layout, pooled=False)
        if layout not in places:
            places[layout] = places_of(output, positions, image_hw)
        row = new[row_edit.row : row_edit.row + 1]
        maps = layout.maps(row, image_hw)[0]
        edit = row_edit.reader.edit or edit_channel
        at, values = edit(maps, row_edit.edit.index, row_edit.edit.changed)
        if row_edit.edit.turned is not None:
            at, values = slice(None), maps.float() + turned(_step(maps, at, values), row_edit.edit.turned)
        if layout.pooled:
            values = positions.maps(row, image_hw)[0][at].float() + (values - maps[at])
        where = tuple(axis[at] for axis in places[layout])
        new[row_edit.row].index_put_(where, values.to(new.dtype))
    return new


def edit_channel(
    maps: torch.Tensor, index: int, change: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[int, torch.Tensor]:
    """Return the channel of maps (C, h, w) that changes, and its new values."""
    return index, change(maps[index].float())


def after_edit(layout: Layout, row: torch.Tensor, image_hw: Grid, row_edit: RowEdit) -> torch.Tensor:
    """Return the maps, float32 (C, h, w), of a row (1, ...) of a layer's output after the unit's own edit."""
    maps = layout.maps(row, image_hw)[0]
    edit = row_edit.reader.edit or edit_channel
    at, values = edit(maps, row_edit.edit.index, row_edit.edit.changed)
    return maps.float() + _step(maps, at, values)


def _step(maps: torch.Tensor, at: int | slice, values: torch.Tensor) -> torch.Tensor:
    import torch

    step = torch.zeros_like(maps, dtype=torch.float32)
    step[at] = values.float() - maps[at].float()
    return step


def turned(step: torch.Tensor, seed: int) -> torch.Tensor:
    """Return a step of the same length at each position, float32 (C, h, w), along one random direction.

    The direction is uniform on the sphere of C dimensions. Where the step goes back along its own, so does
    this one: of a step along one direction it is the same rotation on every image.
    """
    import torch

    draw = np.random.default_rng(seed).standard_normal(len(step)).astype(np.float32)
    direction = torch.from_numpy(draw / np.linalg.norm(draw)).to(step.device)[:, None, None]
    length = step.norm(dim=0)
    longest = step.flatten(1)[:, int(length.argmax())]
    along = longest * longest[longest.abs().argmax()].sign()  # the same way whatever is longest
    back = (step * along[:, None, None]).sum(0) < 0
    return torch.where(back, -length, length) * direction


def places_of(output: torch.Tensor, layout: Layout, image_hw: Grid) -> tuple[torch.Tensor, ...]:
    """Return the place in a row of each value of its maps (C, h, w): an int64 (C, h, w) per axis of the row.

    They are found by applying the layout to numbered values, so that any rearrangement is inverted.
    """
    import torch

    shape = output.shape[1:]
    if not shape:  # one number an image
        return ()
    numbers = torch.arange(math.prod(shape), device=output.device).reshape(1, *shape)
    return tuple(torch.unravel_index(layout.maps(numbers, image_hw)[0], shape))
