"""Units drawn at random: as many as were asked for, of every kind, within what is known or out of it."""

from __future__ import annotations

from actors.embedded.drawing.phrases import understand
from actors.embedded.drawing.withheld import Withheld
from experiments.paper.gym.drawn import drawn, out_of_reach, reachable
from experiments.paper.gym.neurons import choose

LACKING = Withheld(share=1 / 3, seed=2).concepts()


def test_each_kind_has_as_many_different_units_as_were_asked_for():
    units = drawn(9, 5)
    assert [unit.kind for unit in units] == ["mono"] * 9 + ["or"] * 9 + ["given"] * 9
    assert len({unit.name for unit in units}) == 27
    assert drawn(9, 5) == units
    assert drawn(9, 6) != units


def test_the_parts_of_a_pair_have_nothing_in_common_and_the_detector_knows_them():
    for unit in drawn(40, 1):
        classes = [set(understand(concept).classes) for concept in unit.formula.concepts]
        assert sum(map(len, classes)) == len(set().union(*classes)), unit.name


def test_units_within_reach_name_no_withheld_concept():
    names = {concept for unit in drawn(30, 1, LACKING) for concept in unit.formula.concepts}
    assert not names & LACKING


def test_units_out_of_reach_need_a_withheld_concept():
    for unit in out_of_reach(12, 3, LACKING):
        withheld = [concept in LACKING for concept in unit.formula.concepts]
        assert any(withheld) if unit.kind == "given" else all(withheld), unit.name
        assert not reachable(unit, LACKING)
        assert reachable(unit, ())


def test_a_unit_is_reachable_while_something_that_drives_it_can_be_drawn():
    lacking = {"dog", "pizza"}
    answers = {
        name: reachable(unit, lacking)
        for name in ("dog", "animal", "dog OR cat", "cat|dog", "blue", "random 0")
        for unit in choose(name)
    }
    assert answers == {
        "dog": False,
        "animal": True,
        "dog OR cat": True,
        "cat|dog": False,
        "blue": True,
        "random 0": True,
    }
