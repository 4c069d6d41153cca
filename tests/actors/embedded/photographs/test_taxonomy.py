"""ImageNet's classes are found under the words that people use, and described by everyday ones."""

from __future__ import annotations

import pytest

from actors.embedded.photographs.taxonomy import WordSense, imagenet

TABBY, EGYPTIAN_CAT, TIGER, ESPRESSO = 281, 285, 292, 967


def classes(name: str) -> frozenset[int]:
    found = imagenet().meaning(name)
    assert found is not None, name
    return found.classes


@pytest.mark.parametrize("name", ["cat", "cats", "Cat", "a cat", "domestic cats", "animal", "mammals"])
def test_a_tabby_is_found_under_the_kinds_it_belongs_to(name: str) -> None:
    assert TABBY in classes(name)


def test_the_main_meaning_of_a_word_counts() -> None:
    assert TIGER not in classes("cat")  # "big cat, cat" has it as its second name
    assert len(classes("crane")) == 2  # the bird and the machine are both called that first
    assert imagenet().meaning("wood") is None  # of woodwinds it is a rare sense


@pytest.mark.parametrize("name", ["stone", "grass", "background", "red", "sky", "justice"])
def test_words_that_are_no_class_and_no_kind_are_not_known(name: str) -> None:
    assert imagenet().meaning(name) is None


def test_every_class_has_a_name_that_stands_for_it_and_the_list_has_a_thousand() -> None:
    nodes = [node for node in imagenet().nodes if node.is_class]
    assert len(nodes) == 1000
    assert all(node.classes <= classes(node.name) for node in nodes)
    assert frozenset().union(*(node.classes for node in nodes)) == frozenset(range(1000))


def test_text_is_read_by_its_longest_names_and_unknown_words_are_kept() -> None:
    found = list(imagenet().find("a stone wall beside Egyptian cats, weathered"))
    assert [each for each in found if isinstance(each, str)] == ["a", "beside", "weathered"]
    assert [each.classes for each in found if isinstance(each, WordSense)] == [
        classes("stone wall"),
        frozenset({EGYPTIAN_CAT}),
    ]


def test_a_thing_is_described_by_the_smallest_kind_with_an_everyday_name() -> None:
    node = next(node for node in imagenet().nodes if node.is_class and TABBY in node.classes)
    kind = imagenet().kind_of(node)
    assert kind is not None
    assert kind.name == "cat"
