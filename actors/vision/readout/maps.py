"""The activation maps that were read last, so that an image that is shown to one unit after another passes
once.

Agents of a layer look at much the same images: the strongest of a data set are strong for many units, and
whoever asks for a picture in the same words gets the same one. Maxima of all units are in the stimulus bank;
maps are larger, so only the latest are kept, in memory.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np

from actors.vision.readout.units import Readout

_LARGEST_SHARE = 1 / 64
"""Of the memory that one image's maps of all units may take; of larger ones those that were asked for are
kept.
"""
_ENTRY_OVERHEAD = 300
"""Bytes that an entry costs beside its arrays: keys, array headers, list node."""


class MapCache:
    """Maps, float16 (h, w), by readout, image and unit; thread-safe. The least recently used leave first."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit, self._held = limit_bytes, 0
        self._maps: OrderedDict[tuple[Readout, str], dict[int, np.ndarray] | np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def takes_all(self, n_units: int, height: int, width: int) -> bool:
        """Say whether there is room for the maps of all units, for many images."""
        return 2 * n_units * height * width <= self._limit * _LARGEST_SHARE

    def get(self, readout: Readout, image_id: str, index: int) -> np.ndarray | None:
        with self._lock:
            entry = self._maps.get((readout, image_id))
            if entry is None:
                return None
            self._maps.move_to_end((readout, image_id))
            if isinstance(entry, dict):
                return entry.get(index)
            # A copy: a view would keep all units' maps alive for as long as somebody has one.
            return entry[index].copy() if index < len(entry) else None

    def put(self, readout: Readout, image_id: str, maps: np.ndarray | Mapping[int, np.ndarray]) -> None:
        """Keep the maps of all units (units, h, w), or those of some by number; what is known already stays."""
        with self._lock:
            known = self._maps.get((readout, image_id))
            if isinstance(known, np.ndarray):
                return
            if isinstance(maps, np.ndarray):
                self._held -= sum(map(_cost, (known or {}).values()))
                self._held += _cost(maps)
                self._maps[readout, image_id] = maps
            else:
                kept = self._maps.setdefault((readout, image_id), {})
                assert isinstance(kept, dict)
                for index, unit_map in maps.items():
                    if index not in kept:
                        kept[index] = unit_map
                        self._held += _cost(unit_map)
            while self._held > self._limit and self._maps:
                _, dropped = self._maps.popitem(last=False)
                self._held -= (
                    _cost(dropped) if isinstance(dropped, np.ndarray) else sum(map(_cost, dropped.values()))
                )


def _cost(maps: np.ndarray) -> int:
    return maps.nbytes + _ENTRY_OVERHEAD
