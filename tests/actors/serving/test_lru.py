from __future__ import annotations

from actors.serving.lru import LruCache, SharedLruCache


def test_the_least_recently_used_goes_first() -> None:
    cache: LruCache[str] = LruCache(10)
    cache.put("a", "A", 4)
    cache.put("b", "B", 4)
    assert cache.get("a") == "A"
    cache.put("c", "C", 4)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == ("A", None, "C")


def test_the_first_value_of_a_key_stays() -> None:
    cache: LruCache[str] = LruCache(10)
    cache.put("a", "first", 5)
    cache.put("a", "second", 5)
    cache.put("b", "B", 5)
    assert (cache.get("a"), len(cache), cache.n_bytes) == ("first", 2, 10)


def test_a_value_above_the_limit_is_not_held_and_displaces_nothing() -> None:
    cache: LruCache[str] = LruCache(10)
    cache.put("a", "A", 6)
    cache.put("huge", "H", 11)
    assert (cache.get("a"), cache.get("huge")) == ("A", None)


def test_no_memory_holds_nothing() -> None:
    cache: LruCache[str] = LruCache(0)
    cache.put("a", "A", 1)
    assert len(cache) == 0


def test_a_shared_cache_makes_a_value_once_while_it_is_held() -> None:
    cache: SharedLruCache[str] = SharedLruCache(3)
    made: list[str] = []

    def value(key: str) -> str:
        return cache.get_or_make(key, lambda: made.append(key) or key * 2, len)

    assert [value("a"), value("a"), value("b"), value("a")] == ["aa", "aa", "bb", "aa"]
    assert made == ["a", "b", "a"], "two values of two bytes do not both fit"
