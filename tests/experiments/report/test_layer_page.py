"""Of many labels tried in a layer, those stand that chance would not explain."""

from __future__ import annotations

from types import SimpleNamespace

from experiments.report.layer_page import standing


def unit(verdict, e_value, tested=None):
    return SimpleNamespace(
        verdict=verdict, e_value=e_value, tested=e_value is not None if tested is None else tested
    )


def test_a_layer_of_many_tries_asks_more_of_each_label():
    alone = [unit("confirmed", 25.0)]
    assert standing(alone) == (alone, [])
    among_others = alone + [unit("unconfirmed", 1.0)] * 3
    assert standing(among_others) == ([], among_others)


def test_units_that_were_not_tested_do_not_count():
    strong, silent, waiting = unit("confirmed", 25.0), unit("unexplained", None), unit("untested", None)
    assert standing([strong, silent, waiting]) == ([strong], [])


def test_a_label_that_was_given_up_counts_among_the_tests():
    strong, given_up = unit("confirmed", 25.0), unit("unexplained", None, tested=True)
    assert standing([strong]) == ([strong], [])
    assert standing([strong, given_up]) == ([], [strong])


def test_a_label_that_does_not_hold_stands_nowhere_however_specific_it_is():
    strong, narrow = unit("confirmed", 1e6), unit("partial", 1e9)
    assert standing([strong, narrow]) == ([strong], [narrow])
