"""Activations on the held-out images, measured once for all units of a readout.

A unit's test on real images needs its activation on some hundred of them. Each takes one pass, whatever the
number of units: it is run for the first unit of a layer, and the others read the table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np

from actors.errors import BackendError
from actors.images import Image
from actors.vision.data.held_out import SEED, HeldOutShare, sample, split
from actors.vision.data.loading import load_readable
from actors.vision.readout.base import HeldOutActivations, ImageDataset
from actors.vision.readout.requests import Ask
from actors.vision.readout.units import Readout

_CHUNK = 32
"""Images that are in memory at a time."""
_TABLE_VALUES = 1 << 24
"""Values of a table at most; of a wider readout (a dictionary's) each unit has a table of its own."""

_Key = tuple[str, Readout, int, int | None]


class HeldOutTables:
    """The activations on samples of the held-out images, by data set and readout."""

    def __init__(
        self, column: Callable[[Image, Ask], Awaitable[np.ndarray | BackendError]], share: HeldOutShare
    ) -> None:
        """`column` returns all of an ask's units on an image, or the network's failure on it."""
        self._column, self._share = column, share
        self._held_out: dict[str, np.ndarray] = {}
        self._tables: dict[_Key, tuple[np.ndarray, np.ndarray]] = {}
        self._measuring: dict[_Key, asyncio.Lock] = {}

    async def of(
        self, readout: Readout, index: int, n_units: int, dataset: ImageDataset, count: int
    ) -> HeldOutActivations:
        """Return the activations of unit `index`, of `n_units`, on at most `count` held-out images."""
        held_out = await self._split(dataset)
        alone = index if n_units * min(count, len(held_out)) > _TABLE_VALUES else None
        key = dataset.fingerprint, readout, count, alone
        # One at a time: the agents of a layer ask for it together, and only the first computes it.
        async with self._measuring.setdefault(key, asyncio.Lock()):
            if key not in self._tables:
                self._tables[key] = await self._measure(readout, alone, dataset, sample(held_out, count))
        indices, table = self._tables[key]
        values = table[0 if alone is not None else index] if len(indices) else np.empty(0, np.float32)
        finite = np.isfinite(values)
        return HeldOutActivations(indices[finite], values[finite], len(held_out), SEED)

    async def _split(self, dataset: ImageDataset) -> np.ndarray:
        if dataset.fingerprint not in self._held_out:
            _, held_out = await asyncio.to_thread(split, dataset, self._share)
            self._held_out[dataset.fingerprint] = held_out
        return self._held_out[dataset.fingerprint]

    async def _measure(
        self, readout: Readout, alone: int | None, dataset: ImageDataset, indices: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the images that could be measured, and float32 (units, n)."""
        ask = Ask(readout, None if alone is None else (alone,))
        kept: list[int] = []
        columns: list[np.ndarray] = []
        for start in range(0, len(indices), _CHUNK):
            loaded = await asyncio.to_thread(load_readable, dataset, indices[start : start + _CHUNK].tolist())
            outcomes = await asyncio.gather(*(self._column(image, ask) for _, image in loaded))
            for (index, _), values in zip(loaded, outcomes, strict=True):
                if not isinstance(values, BackendError):
                    kept.append(index)
                    columns.append(values)
        table = np.stack(columns, axis=1) if columns else np.empty((1, 0), np.float32)
        return np.array(kept, np.int64), table
