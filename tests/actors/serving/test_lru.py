from __future__ import annotations

from actors.serving.lru import Recall


def test_the_least_recently_used_goes_first() -> None:
    recall: Recall[str] = Recall(10)
    recall.put("a", "A", 4)
    recall.put("b", "B", 4)
    assert recall.get("a") == "A"
    recall.put("c", "C", 4)
    assert (recall.get("a"), recall.get("b"), recall.get("c")) == ("A", None, "C")


def test_the_first_value_of_a_key_stays() -> None:
    recall: Recall[str] = Recall(10)
    recall.put("a", "first", 5)
    recall.put("a", "second", 5)
    recall.put("b", "B", 5)
    assert (recall.get("a"), len(recall)) == ("first", 2)


def test_what_is_larger_than_the_memory_is_not_held_and_displaces_nothing() -> None:
    recall: Recall[str] = Recall(10)
    recall.put("a", "A", 6)
    recall.put("huge", "H", 11)
    assert (recall.get("a"), recall.get("huge")) == ("A", None)


def test_no_memory_holds_nothing() -> None:
    recall: Recall[str] = Recall(0)
    recall.put("a", "A", 1)
    assert len(recall) == 0
