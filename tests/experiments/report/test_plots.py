"""Plots put values where they belong."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from experiments.report.plots import Dot, Strip, histogram, strips, ticks


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 8), (5, 5), (1e-9, 2e-9), (-1e6, 1e6), (0, 1e300)])
def test_ticks_are_few_and_span_the_values(low, high):
    marks = ticks(low, high)
    assert 2 <= len(marks) <= 13
    assert marks[0] <= low
    assert high <= marks[-1] * (1 + 1e-9)
    assert marks == sorted(marks)


def circles(svg: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]


def test_dots_of_a_strip_do_not_overlap_and_keep_their_order():
    rng = random.Random(3)
    values = [rng.gauss(0, 1) for _ in range(40)] + [0.5] * 8
    placed = circles(strips([Strip("s", "positive", [Dot(v, str(v), "t") for v in values])], "a", "alt"))
    assert len(placed) == 48
    for (x, y), (other_x, other_y) in itertools.combinations(placed, 2):
        assert (x - other_x) ** 2 + (y - other_y) ** 2 > 9.0**2
    ranked = [x for _, (x, _) in sorted(zip(values, placed, strict=True), key=lambda pair: pair[0])]
    assert ranked == sorted(ranked)


def test_a_histogram_counts_every_value_once_also_at_the_ends():
    drawn = histogram([0.0, 0.24, 0.26, 1.0, 1.0, -5.0, 7.0], 0.0, 1.0, 4, "a", "alt")
    counts = re.findall(r"<title>[^<]*: (\d+)</title>", drawn)
    assert counts == ["3", "1", "3"]


def test_nothing_to_plot_is_no_plot():
    assert strips([Strip("s", "positive", [])], "a", "alt") == ""
