"""The best of many units is judged on images that did not choose it."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from actors.embedded.drawing.grammar import parse_prompt
from actors.endpoint.faults import EndpointStopError
from actors.errors import MaiaError, ReplicaLostError
from actors.generation.base import MadeImage
from actors.images import Image, Provenance
from agents.critic.stimuli import lacks_something
from experiments.studies.find import (
    FALSE_DISCOVERY_RATE,
    PLACES,
    SelectiveUnits,
    UnitScore,
    _make_group,
    places,
    rank,
    shorten,
    table,
    too_few,
)


def names(n: int) -> list[str]:
    return [f"net/l:{index}" for index in range(n)]


def test_a_selective_unit_is_found_and_chance_is_not() -> None:
    rng = np.random.default_rng(0)
    positive, control = rng.normal(size=(200, 40)), rng.normal(size=(200, 31))
    positive[17] += 3
    rows = rank(names(200), positive, control, control)
    assert rows[0].index == 17
    assert rows[0].auroc > 0.9
    assert rows[0].q < 0.01
    assert sum(row.q < 0.05 for row in rows) <= 3


def test_units_without_any_response_are_no_better_than_chance() -> None:
    rows = rank(names(3), np.zeros((3, 10)), np.zeros((3, 8)), np.zeros((3, 7)))
    assert {row.auroc for row in rows} == {0.5}


def test_a_unit_must_be_above_things_and_above_places() -> None:
    rng = np.random.default_rng(1)
    positive, things, places = (rng.normal(size=(60, n)) for n in (40, 31, 36))
    positive[7] += 3
    positive[8] += 3
    places[8] += 3  # it answers to any bare place
    positive[9] += 3
    things[9] += 3  # and this one to anything that stands somewhere
    rows = {row.index: row for row in rank(names(60), positive, things, places)}
    assert rows[7].q < 0.01 < 0.5 < min(rows[8].q, rows[9].q)
    assert max(rows[8].auroc, rows[9].auroc) < 0.75
    assert rows[8].mean_places > 2 > rows[8].mean_things


def test_a_unit_that_is_not_finite_costs_its_neighbours_nothing() -> None:
    rng = np.random.default_rng(1)
    tables = [rng.normal(size=(60, n)) for n in (40, 31, 36)]
    tables[0][7] += 3
    kept = np.delete(names(60), [3, 20]).tolist()
    expected = rank(kept, *(np.delete(table, [3, 20], axis=0) for table in tables))
    tables[0][3], tables[2][20, 5] = np.nan, np.inf
    rows = rank(names(60), *tables)
    assert {row.index for row in rows} == set(range(60)) - {3, 20}
    assert rows[0] == replace(expected[0], index=7)
    assert [row.q for row in rows] == [row.q for row in expected]
    assert rank(names(60), *(np.full_like(table, np.nan) for table in tables)) == []


@pytest.mark.parametrize(
    ("concept", "left_out"),
    [
        ("forested backgrounds", "a forest"),
        ("Snow", "a snowy field"),
        ("woods", "a wooden floor"),
        ("a walled garden", "a brick wall"),
    ],
)
def test_a_place_that_the_concept_names_is_not_among_the_others(concept: str, left_out: str) -> None:
    assert set(PLACES) - set(places(concept)) == {left_out}


@pytest.mark.parametrize("place", PLACES)
def test_every_place_can_be_drawn_without_a_key(place: str) -> None:
    reading = parse_prompt(f"a photo of {place}")
    assert (reading.notes, reading.scene.objects) == ((), ())


@pytest.mark.parametrize(
    ("prompt", "lacks"),
    [
        ("a photo of forested backgrounds", False),
        ("a bird on a lawn", False),
        ("a dog wearing a frobnicator", True),
        ("a frobnicator", True),
    ],
)
def test_an_image_without_its_subject_is_left_out(prompt, lacks) -> None:
    notes = parse_prompt(prompt).notes
    image = Image.from_pixels(np.zeros((4, 4, 3), np.uint8))
    made = MadeImage(image, Provenance("scenes", notes=tuple(notes)))
    assert lacks_something(made) is lacks, notes


class Studio:
    async def generate(self, prompts, seeds, *, agent=""):
        assert len(set(seeds)) == len(seeds) == len(prompts)
        made = []
        for prompt in prompts:
            image = Image.from_pixels(np.zeros((4, 4, 3), np.uint8))
            notes = (
                ("not drawn: cake",)
                if "cake" in prompt
                else ("chose hen for bird",)
                if "bird" in prompt
                else ()
            )
            refused = "ring" in prompt
            made.append(
                MaiaError("refused.")
                if refused
                else MadeImage(image, Provenance("fake", prompt, notes=notes))
            )
        return made


@pytest.mark.parametrize("fault", [ReplicaLostError("lost."), EndpointStopError("no credit left.")])
async def test_infrastructure_errors_are_raised_and_not_counted_as_undrawable_images(fault) -> None:
    class Breaking(Studio):
        async def generate(self, prompts, seeds, *, agent=""):
            return [*(await super().generate(prompts, seeds))[:-1], fault]

    bench = SimpleNamespace(context=SimpleNamespace(studio=Breaking()))
    with pytest.raises(type(fault)):
        await _make_group(bench, "things", ["a cake", "a dog", "a dog"], 0)


async def test_images_without_their_subject_are_left_out_and_counted() -> None:
    bench = SimpleNamespace(context=SimpleNamespace(studio=Studio()))
    group = await _make_group(bench, "things", ["a cake", "a bird", "a ring", "a dog", "a dog"], 0)
    assert [made.provenance.maker for made in group.images] == ["a bird", "a dog", "a dog"]
    assert (group.lost, group.notes) == ({"not drawn: cake", "refused."}, {"chose hen for bird"})
    assert group.shortfall() == [
        "2 of 5 images of things could not be made as asked, and were left out: not drawn: cake; refused"
    ]


@pytest.mark.parametrize("n_units", [1, 5, 40, 320, 5000])
def test_as_many_images_are_suggested_as_can_tell_one_unit_from_chance(n_units: int) -> None:
    """The suggestion is held against the ranking itself: enough is enough, and one less is not."""

    def least(n_images: int) -> float:
        table = np.full((n_units, n_images), 0.5)
        table[0] = np.linspace(2, 3, n_images)
        rng = np.random.default_rng(0)
        controls = [rng.random((n_units, n)) for n in (min(n_images, 31), n_images)]
        return min(row.q for row in rank(names(n_units), table, *controls))

    output = too_few(n_units, 8, 31)
    if not output:
        assert least(8) < FALSE_DISCOVERY_RATE
        return
    enough = int(re.search(r"--images (\d+)", output)[1])
    assert not too_few(n_units, enough, 31)
    assert least(enough) < FALSE_DISCOVERY_RATE <= least(enough - 1)


def selective(*units: UnitScore, concept: str = "dogs") -> SelectiveUnits:
    return SelectiveUnits(concept, "net", "l", [8, 8, 8], 7, [], list(units))


def test_the_table_says_which_units_may_be_chance() -> None:
    sure = UnitScore("net/l:3", 3, 0.9, 0.001, 1.0, 0.5, 0.4)
    unsure = replace(sure, index=5, q=0.4)
    assert "1 of the 2 are selective" in str(table(selective(sure, unsure, concept="[b]dogs")).caption)
    assert "all of these" in str(table(selective(sure)).caption)
    assert "none of these is surely selective" in str(table(selective(unsure)).caption)


def test_activations_of_thirty_digits_fit_a_column() -> None:
    shown = table(selective(UnitScore("net/l:3", 3, 0.9, 0.001, 7e29, 0.5, -1.25)))
    assert [next(iter(column.cells)) for column in shown.columns][3:] == ["7.00e+29", "0.50", "-1.25"]


def test_a_long_concept_does_not_fill_the_screen() -> None:
    assert shorten("dog", 60) == "dog"
    assert len(shorten("dog " * 300, 60)) == 60
