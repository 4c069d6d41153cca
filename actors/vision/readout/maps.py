"""A cache of the latest activation maps, so that an image measured for several units is run once.

Agents of a layer measure much the same images: the exemplars of many units overlap, and a prompt repeated by
agents makes the same image. The stimulus bank keeps the maxima of all units; maps are larger, so only the
latest are kept, in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping

import numpy as np

from actors.serving.lru import LruCache

_LARGEST_SHARE = 1 / 64
"""Share of the memory that one image's maps of all units may take; of larger ones only the maps that were
asked for are kept.
"""
_ENTRY_OVERHEAD = 300
"""Bytes of an entry beyond its array: keys, array header, list node."""


class MapCache:
    """Maps (h, w) by readout, image and unit; thread-safe. The least recently used are dropped."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._maps: LruCache[np.ndarray] = LruCache(limit_bytes)
        self._lock = threading.Lock()

    def takes_all(self, n_units: int, height: int, width: int) -> bool:
        """Return whether there is room for the maps of all units, for many images."""
        return 2 * n_units * height * width <= self._limit * _LARGEST_SHARE

    def get(self, readout: Hashable, image_id: str, index: int) -> np.ndarray | None:
        """Return the map of unit `index`, None if it is not kept."""
        with self._lock:
            all_units = self._maps.get((readout, image_id))
            if all_units is None:
                return self._maps.get((readout, image_id, index))
            # A copy: a view would keep all units' maps alive.
            return all_units[index].copy() if index < len(all_units) else None

    def put(self, readout: Hashable, image_id: str, maps: np.ndarray | Mapping[int, np.ndarray]) -> None:
        """Keep the maps of all units (units, h, w), or of some by index; what is kept already stays."""
        entries: dict[Hashable, np.ndarray]
        if isinstance(maps, np.ndarray):
            entries = {(readout, image_id): maps}
        else:
            entries = {(readout, image_id, index): unit_map for index, unit_map in maps.items()}
        with self._lock:
            for key, entry in entries.items():
                self._maps.put(key, entry, entry.nbytes + _ENTRY_OVERHEAD)
