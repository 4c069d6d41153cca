"""A cache bounded in bytes that drops the least recently used values."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

ValueT = TypeVar("ValueT")


class LruCache(Generic[ValueT]):
    """Values by key, up to `limit_bytes`. Not for use from several threads."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self.n_bytes = 0
        self._values: OrderedDict[Hashable, tuple[ValueT, int]] = OrderedDict()

    def get(self, key: Hashable) -> ValueT | None:
        """Return the value of `key`, which is then the most recently used; None if it is not held."""
        entry = self._values.get(key)
        if entry is None:
            return None
        self._values.move_to_end(key)
        return entry[0]

    def put(self, key: Hashable, value: ValueT, n_bytes: int) -> None:
        """Hold `value` unless `key` is held already. A value above the limit is not held."""
        if key in self._values or n_bytes > self._limit:
            return
        self._values[key] = value, n_bytes
        self.n_bytes += n_bytes
        while self.n_bytes > self._limit:
            _, (_, freed) = self._values.popitem(last=False)
            self.n_bytes -= freed

    def __len__(self) -> int:
        return len(self._values)


class SharedLruCache(Generic[ValueT]):
    """An `LruCache` for several threads. Two that lack a value at once may both make it; one is held."""

    def __init__(self, limit_bytes: int) -> None:
        self._cache: LruCache[ValueT] = LruCache(limit_bytes)
        self._lock = threading.Lock()

    def get_or_make(
        self, key: Hashable, make: Callable[[], ValueT], n_bytes: Callable[[ValueT], int]
    ) -> ValueT:
        """Return the value of `key`, made without holding the lock where it is not held; raises as `make`."""
        with self._lock:
            known = self._cache.get(key)
        if known is None:
            known = make()
            with self._lock:
                self._cache.put(key, known, n_bytes(known))
        return known
