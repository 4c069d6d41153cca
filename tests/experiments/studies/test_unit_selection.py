"""Which units a command line names, and which are worth an agent."""

from __future__ import annotations

import numpy as np
import pytest

from actors.errors import UsageError
from actors.vision.readout.units import Readout
from actors.vision.sweep.exemplars import LayerExemplars
from experiments.studies.unit_selection import at_most, check, choose, screen
from tests.refusals import refusal


@pytest.mark.parametrize(
    ("text", "units"),
    [("all", [0, 1, 2, 3, 4, 5, 6]), ("2-4", [2, 3, 4]), ("5,1", [1, 5]), ("0-1,1-2,6", [0, 1, 2, 6])],
)
def test_units_are_named_by_ranges_and_lists(text: str, units: list[int]) -> None:
    assert choose(text, 7, 0) == units


def test_a_sample_is_the_same_for_the_same_seed_and_never_larger_than_the_layer() -> None:
    assert choose("sample:5", 100, 3) == choose("sample:5", 100, 3) != choose("sample:5", 100, 4)
    assert choose("sample:500", 7, 0) == list(range(7))


@pytest.mark.parametrize("text", ["", "7", "3-9", "4-2", "x", "sample:0", "sample:x", "-1", "1,,2"])
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match=r"units are|layer's units"):
        choose(text, 7, 0)


@pytest.mark.parametrize("text", ["banana", "1;2", "sample:0", "sample:x", "-3", "", "1,,2"])
def test_a_wrong_form_is_refused_before_the_layer_is_known(text: str) -> None:
    with pytest.raises(UsageError, match="units are written"):
        check(text)


@pytest.mark.parametrize("text", ["all", "0-63", " 3, 17", "sample:100", "1,5-7,sample:2"])
def test_every_form_passes_whatever_the_layer(text: str) -> None:
    assert refusal(check, text) == ""


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0-9999999999", 10**10),
        ("5,1,5", 2),
        ("0-4,3-9,20,8-8", 11),
        ("3-9,0-20", 21),
        ("sample:99999999999,0-1", 10**11 + 1),
    ],
)
def test_units_of_a_layer_whose_size_is_not_known_are_counted_however_many_they_are(
    text: str, count: int
) -> None:
    assert at_most(text) == count


def test_screening_separates_dead_constant_and_duplicate_units() -> None:
    indices = np.array([[4, 2], [4, 2], [0, 1], [0, 1], [4, 2]])
    activations = np.array([[3, 2], [3 + 1e-6, 2], [0, 0], [5, 5], [3, 2.5]], np.float32)
    found = LayerExemplars(
        readout=Readout("layer"),
        indices=indices,
        activations=activations,
        levels=np.array([0.5, 0.95]),
        quantiles=np.array([[1, 2], [1, 2], [0, 0], [5, 5], [1, 2]], np.float32),
        mean=np.array([1, 1, 0, 5, 1], np.float32),
        std=np.array([1, 1, 0, 0, 1], np.float32),
        map_mean=np.zeros(5, np.float32),
        n_images=9,
    )
    rows = screen(found, [0, 1, 2, 3, 4])
    assert [row.verdict for row in rows] == ["alive", "duplicate", "dead", "constant", "alive"]
    assert rows[1].of == 0
    assert rows[0].quantiles == {"0.5": 1.0, "0.95": 2.0}
    assert screen(found, [1])[0].verdict == "alive", "its twin is not part of the run"


def test_a_unit_that_is_never_finite_is_no_twin_of_another() -> None:
    nothing = np.full((2, 1), np.nan, np.float32)
    found = LayerExemplars(
        readout=Readout("layer"),
        indices=np.array([[-1], [-1]]),
        activations=nothing,
        levels=np.array([0.5]),
        quantiles=nothing,
        mean=nothing[:, 0],
        std=nothing[:, 0],
        map_mean=nothing[:, 0],
        n_images=9,
    )
    assert [row.verdict for row in screen(found, [0, 1])] == ["not finite", "not finite"]


def test_one_image_says_of_no_unit_that_it_is_dead_or_constant() -> None:
    found = LayerExemplars(
        readout=Readout("layer"),
        indices=np.array([[0], [0]]),
        activations=np.array([[3.0], [0.0]], np.float32),
        levels=np.array([0.5]),
        quantiles=np.array([[3.0], [0.0]], np.float32),
        mean=np.array([3.0, 0.0], np.float32),
        std=np.zeros(2, np.float32),
        map_mean=np.zeros(2, np.float32),
        n_images=1,
    )
    assert [row.verdict for row in screen(found, [0, 1])] == ["alive", "alive"]


@pytest.mark.parametrize(("text", "beyond"), [("0-99999999999", 48), ("3,60-99999999999", 60), ("48", 48)])
def test_the_first_unit_that_does_not_exist_is_named_however_many_are_asked_for(
    text: str, beyond: int
) -> None:
    with pytest.raises(UsageError, match=f"numbered 0 to 47, got {beyond}"):
        choose(text, 48, 0)


def test_of_several_layers_the_one_that_lacks_a_unit_is_named():
    with pytest.raises(UsageError, match=r"the units of layer 'blocks\.6' are numbered 0 to 6, got 7"):
        choose("5-9", 7, 0, "blocks.6")
