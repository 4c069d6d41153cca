"""Ablating each of many units of a layer, and reading something behind it: image by image, and resumable.

Rows of one image follow each other, so that they share the pass in front of the layer. Where a layer has many
units, each is ablated on a few images first, and those with the largest effects on all of them.

Shapes: C units of the layer; m of them that are ablated on all images; n images.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from actors.grouping import all_of
from actors.images import Image
from actors.serving.backend import Priority
from actors.vision.client import PoolVisionClient
from actors.vision.readout.edits import Edit
from actors.vision.readout.units import Readout
from agents.records.run_files import RecordError
from agents.records.store import Store, finite

MOST = 64
"""Units at most that are ablated on all images."""
FIRST = 3
"""Images on which all units are ablated."""
_IN_FLIGHT = 128
_PLACEBO_UNITS = 8

Measure = Callable[[np.ndarray], np.ndarray]
"""Makes one value of each image, (n,), of what is read of it, (n, units read)."""


@dataclass(frozen=True, slots=True)
class AblatedLayer:
    """The units of `edited`, each set to its value in `values`, float64 (C,), and what is read behind."""

    vision: PoolVisionClient
    edited: Readout
    values: np.ndarray
    read: Readout
    measure: Measure

    async def clean(self, images: Sequence[Image], edits: tuple[Edit, ...] = ()) -> np.ndarray:
        """Return what is read of images, float64 (n,)."""
        table = await self.vision.outputs(self.read, images, edits, priority=Priority.CONFIRMATION)
        return self.measure(table.astype(np.float64))

    def edit(self, unit: int) -> Edit:
        return Edit(self.edited, unit, "set", float(self.values[unit]))

    async def without(self, image: Image, units: Sequence[int], limit: asyncio.Semaphore) -> np.ndarray:
        """Return what is read of an image without each of some units, float64 (units,)."""

        async def one(unit: int) -> float:
            async with limit:
                return float((await self.clean([image], (self.edit(unit),)))[0])

        return np.array(await all_of(one(unit) for unit in units))

    async def together(self, images: Sequence[Image], units: Sequence[int]) -> np.ndarray:
        """Return what is read of images without all of some units at once, float64 (n,)."""
        return await self.clean(images, tuple(self.edit(unit) for unit in units))

    async def floor(self, images: Sequence[Image], clean: np.ndarray) -> float:
        """Return the largest change of passes in which a unit is given its own value: some units, on two
        images.
        """
        units = range(0, len(self.values), max(1, len(self.values) // _PLACEBO_UNITS))
        placebos = await all_of(self.clean(images[:2], (self.edit(unit).placebo,)) for unit in units)
        change = float(np.nanmax(np.abs(np.array(placebos) - clean[:2]), initial=0.0))
        return max(change, float(np.finfo(np.float32).eps * np.abs(clean).max(initial=0.0)))

    async def silent(self, images: Sequence[Image]) -> np.ndarray:
        """Return which units are silent on images, bool (C, n): latents of which no code is above zero.

        Setting them to zero changes nothing. Of other units it is not known.
        """
        if self.edited.kind != "latent" or self.values.any():
            return np.zeros((len(self.values), len(images)), bool)
        codes = await self.vision.outputs(self.edited, images, priority=Priority.CONFIRMATION)
        return codes.T == 0


@dataclass(frozen=True, slots=True)
class UnitScreen:
    """Which units are ablated on all images: the `most` with the largest score of their effects on `first`.

    `score` makes one value of each unit, (C,), of its effects on these images, (C, images). `most` None: all
    units are, and nothing is screened.
    """

    first: tuple[int, ...]
    score: Callable[[np.ndarray], np.ndarray]
    most: int | None = MOST


@dataclass(frozen=True, slots=True)
class AblationTable:
    """What is read of images: as they are, `clean` (n,), and without each of `units`, `without` (m, n).

    `floor` is that of passes that change nothing; `passes` counts edited images.
    """

    clean: np.ndarray
    units: np.ndarray
    without: np.ndarray
    floor: float
    passes: int

    @property
    def effects(self) -> np.ndarray:
        """What each unit adds on each image, (m, n)."""
        effects: np.ndarray = self.clean - self.without
        return effects


@dataclass(frozen=True)
class LayerAblation:
    """Ablations whose rows are kept under `prefix` of a store, an image a file."""

    layer: AblatedLayer
    images: Sequence[Image]
    store: Store
    prefix: str
    progress: Callable[[int, int], None]

    async def table(self, screen: UnitScreen) -> AblationTable:
        """Return what the units do on the images.

        Raises:
            MaiaError: If a unit cannot be edited, or the network fails. What was measured is kept.
        """
        n_units, n = len(self.layer.values), len(self.images)
        clean, silent = await self.layer.clean(self.images), await self.layer.silent(self.images)
        everything = screen.most is None or n_units <= screen.most
        first = [] if everything else list(screen.first)
        rest = [place for place in range(n) if place not in first]
        chosen, without, passes = np.arange(n_units), np.empty((n_units, n)), 0
        if first:
            without[:, first], passes = await self._rows("first", chosen, first, (clean, silent), 0)
            scores = np.nan_to_num(screen.score(clean[first] - without[:, first]), nan=-np.inf)
            chosen = np.sort(np.argsort(-scores, kind="stable")[: screen.most])
            without = without[chosen]
        without[:, rest], more = await self._rows("rest", chosen, rest, (clean, silent), len(first))
        floor = await self.layer.floor(self.images, clean)
        return AblationTable(clean, chosen, without, floor, passes + more)

    async def _rows(
        self,
        name: str,
        units: np.ndarray,
        of: Sequence[int],
        known: tuple[np.ndarray, np.ndarray],
        done: int,
    ) -> tuple[np.ndarray, int]:
        """Return what is read of images without each unit, (units, images), and how many passes that took."""
        (clean, silent), limit, finished = known, asyncio.Semaphore(_IN_FLIGHT), 0

        async def one(place: int) -> tuple[np.ndarray, int]:
            nonlocal finished
            image = self.images[place]
            key = f"{self.prefix}/{name}-{image.id}.json"
            loud = units[~silent[units, place]]
            values = await asyncio.to_thread(self._read, key, loud)
            if values is None:
                values = await self.layer.without(image, loud.tolist(), limit)
                record = {"units": loud.tolist(), "values": finite(values.tolist())}
                await asyncio.to_thread(self.store.replace, key, json.dumps(record).encode())
            finished += 1
            self.progress(done + finished, len(self.images))
            return values, len(loud)

        table = np.tile(clean[list(of)], (len(units), 1))
        passes = 0
        for column, (values, count) in enumerate(await all_of(one(place) for place in of)):
            table[~silent[units, of[column]], column] = values
            passes += count
        return table, passes

    def _read(self, key: str, units: np.ndarray) -> np.ndarray | None:
        """Return the rows of an image that are kept, None if there are none of these units."""
        try:
            record = self.store.read_object(key)
            if record is None or record["units"] != units.tolist():
                return None
            values = np.array(record["values"], np.float64)
        except (RecordError, KeyError, TypeError, ValueError):
            return None
        return values if values.shape == units.shape else None
