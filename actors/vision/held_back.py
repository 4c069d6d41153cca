"""What images that no agent sees do to a network's units: measured once for all units of a readout.

A unit's test on real images needs its activation on some hundred of them. Each costs one pass, whatever the
number of units: the first unit of a layer pays, and the others read the table.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import numpy as np

from actors.errors import BackendError
from actors.images import Image
from actors.vision.data.reserve import SEED, Reserve, sample, split
from actors.vision.readout.base import HeldBack, ImageDataset
from actors.vision.readout.requests import Ask
from actors.vision.readout.units import Readout

_AT_ONCE = 32
"""Images that are in memory at a time."""
_TABLE_VALUES = 1 << 24
"""Values of a readout that are kept; of a wider one (a dictionary's) each unit is asked for by itself."""

_Key = tuple[str, Readout, int, int | None]


class HeldBackReadings:
    """The activations on samples of the reserved images, by data set and readout."""

    def __init__(
        self, column: Callable[[Image, Ask], Awaitable[np.ndarray | BackendError]], reserve: Reserve
    ) -> None:
        """`column` returns what an image does to all units of an ask, or how the network fails on it."""
        self._column, self._reserve = column, reserve
        self._reserved: dict[str, np.ndarray] = {}
        self._tables: dict[_Key, tuple[np.ndarray, np.ndarray]] = {}
        self._measuring: dict[_Key, asyncio.Lock] = {}

    async def of(
        self, readout: Readout, index: int, n_units: int, dataset: ImageDataset, count: int
    ) -> HeldBack:
        """Return what unit `index` of a readout of `n_units` does on at most `count` reserved images."""
        reserved = await self._split(dataset)
        alone = index if n_units * min(count, len(reserved)) > _TABLE_VALUES else None
        key = dataset.fingerprint, readout, count, alone
        # One at a time: the agents of a layer come for it together, and all but the first find it made.
        async with self._measuring.setdefault(key, asyncio.Lock()):
            if key not in self._tables:
                self._tables[key] = await self._measure(readout, alone, dataset, sample(reserved, count))
        indices, table = self._tables[key]
        values = table[0 if alone is not None else index] if len(indices) else np.empty(0, np.float32)
        finite = np.isfinite(values)
        return HeldBack(indices[finite], values[finite], len(reserved), SEED)

    async def _split(self, dataset: ImageDataset) -> np.ndarray:
        if dataset.fingerprint not in self._reserved:
            _, reserved = await asyncio.to_thread(split, dataset, self._reserve)
            self._reserved[dataset.fingerprint] = reserved
        return self._reserved[dataset.fingerprint]

    async def _measure(
        self, readout: Readout, alone: int | None, dataset: ImageDataset, indices: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the images that could be measured, and float32 (units, n)."""
        ask = Ask(readout, None if alone is None else (alone,))
        kept: list[int] = []
        columns: list[np.ndarray] = []
        for start in range(0, len(indices), _AT_ONCE):
            loaded = await asyncio.to_thread(_load, dataset, indices[start : start + _AT_ONCE])
            found = await asyncio.gather(*(self._column(image, ask) for _, image in loaded))
            for (index, _), values in zip(loaded, found, strict=True):
                if not isinstance(values, BackendError):
                    kept.append(index)
                    columns.append(values)
        table = np.stack(columns, axis=1) if columns else np.empty((1, 0), np.float32)
        return np.array(kept, np.int64), table


def _load(dataset: ImageDataset, indices: np.ndarray) -> list[tuple[int, Image]]:
    """Return the readable ones."""
    loaded = []
    for index in indices.tolist():
        # Decoders and people's own data sets raise anything, and no test should fail for one picture of its
        # sample.
        with contextlib.suppress(Exception):
            loaded.append((index, dataset.load(index)))
    return loaded
