"""Maps that were read are kept for as long as there is room, and what is kept is what was read."""

from __future__ import annotations

import numpy as np

from actors.vision.readout.maps import MapCache
from actors.vision.readout.units import Readout

LAYER = Readout("layer")
MB = 2**20


def maps(seed: int, n_units: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).random((n_units, 3, 5)).astype(np.float16)


def test_all_units_of_an_image_are_known_once_it_was_read_for_one() -> None:
    cache = MapCache(MB)
    cache.put(LAYER, "a", maps(0))
    for unit in range(4):
        assert np.array_equal(cache.get(LAYER, "a", unit), maps(0)[unit])
    assert cache.get(LAYER, "a", 4) is None
    assert cache.get(LAYER, "b", 0) is None
    assert cache.get(Readout("other"), "a", 0) is None


def test_a_returned_map_does_not_keep_the_others_alive() -> None:
    cache = MapCache(MB)
    cache.put(LAYER, "a", maps(0))
    found = cache.get(LAYER, "a", 1)
    assert found is not None
    assert found.base is None


def test_large_layers_keep_only_the_requested_units() -> None:
    cache = MapCache(MB)
    assert cache.takes_all(64, 8, 8)
    assert not cache.takes_all(64, 12, 12)
    cache.put(LAYER, "a", {2: maps(0)[2]})
    cache.put(LAYER, "a", {3: maps(0)[3]})
    assert cache.get(LAYER, "a", 2) is not None
    assert cache.get(LAYER, "a", 3) is not None
    assert cache.get(LAYER, "a", 1) is None


def test_the_image_that_was_not_wanted_for_longest_leaves_first() -> None:
    each = maps(0).nbytes + 300
    cache = MapCache(3 * each)
    for name in "abc":
        cache.put(LAYER, name, maps(0))
    cache.get(LAYER, "a", 0)
    cache.put(LAYER, "d", maps(1))
    assert [cache.get(LAYER, name, 0) is not None for name in "abcd"] == [True, False, True, True]


def test_single_maps_make_room_for_all_and_their_bytes_are_counted_once() -> None:
    each = maps(0).nbytes + 300
    cache = MapCache(3 * each)
    for _ in range(50):
        cache.put(LAYER, "a", {0: maps(0)[0], 1: maps(0)[1]})
        cache.put(LAYER, "a", maps(0))
    cache.put(LAYER, "b", maps(0))
    cache.put(LAYER, "c", maps(0))
    assert all(cache.get(LAYER, name, 3) is not None for name in "abc")


def test_without_memory_nothing_is_kept() -> None:
    cache = MapCache(0)
    cache.put(LAYER, "a", {0: maps(0)[0]})
    cache.put(LAYER, "b", maps(0))
    assert cache.get(LAYER, "a", 0) is None
    assert cache.get(LAYER, "b", 0) is None
