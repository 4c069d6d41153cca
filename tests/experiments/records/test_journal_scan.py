"""Each sign is planted in a journal of its own, and none is seen in a careful one."""

from __future__ import annotations

from typing import Any

import pytest

from actors.images import Provenance
from experiments.records.journal_scan import SIGNS, ScannedRound, Tried, rates, read_rounds, scan

DOG, SNOW = Tried("a dog on a lawn", True), Tried("a field of snow", True)
EXEMPLAR = Tried("", False)


def careful() -> list[ScannedRound]:
    return [
        ScannedRound(("one specific thing",), (EXEMPLAR,)),
        ScannedRound(("dogs on lawns", "lawns"), (DOG, Tried("two dogs in a street", True), SNOW)),
        ScannedRound(("dogs",), (Tried("a dog on a lawn; replace the dog with a cat", True), DOG)),
        ScannedRound((), (), ("dogs",)),
    ]


def signs(rounds: list[ScannedRound]) -> set[str]:
    return {sign for sign, seen in scan(rounds).items() if seen}


def test_a_careful_study_shows_no_sign() -> None:
    assert signs(careful()) == set()


def test_hypotheses_that_only_ever_gain_alternatives_or_lose_conditions_are_noticed() -> None:
    leading = ("dogs on snow", "dogs", "dogs or cats", "dogs or cats or birds")
    rounds = [ScannedRound((hypothesis,), (DOG, DOG)) for hypothesis in leading]
    assert signs([*rounds, ScannedRound((), (), ("dogs",))]) == {"widened"}


def test_blanks_between_alternatives_say_nothing_however_many_they_are() -> None:
    leading = ("dogs on snow", "dogs", f"dogs,{' ' * 10_000}or \n cats")
    rounds = [ScannedRound((hypothesis,), (DOG, DOG)) for hypothesis in leading]
    assert signs([*rounds, ScannedRound((), (), ("dogs",))]) == {"widened"}


def test_a_hypothesis_that_was_narrowed_once_is_no_such_sign() -> None:
    rounds = [ScannedRound((hypothesis,), (DOG, DOG)) for hypothesis in ("dogs", "dogs or cats", "dogs")]
    assert scan([*rounds, ScannedRound((), (), ("dogs",))])["widened"] is False


def test_a_label_of_which_a_single_image_was_tried_is_noticed() -> None:
    rounds = [ScannedRound(("a dog",), (DOG, SNOW, SNOW)), ScannedRound((), (), ("dogs",))]
    assert signs(rounds) == {"single_image"}


def test_an_answer_from_the_exemplars_alone_is_noticed() -> None:
    rounds = [ScannedRound(("dogs",), (EXEMPLAR, EXEMPLAR)), ScannedRound((), (), ("dogs",))]
    assert signs(rounds) == {"untried"}


def test_a_label_first_named_once_all_its_images_were_seen_is_noticed() -> None:
    rounds = [
        ScannedRound(("one thing",), (DOG, DOG, SNOW)),
        ScannedRound(("dogs",), (SNOW,)),
        ScannedRound((), (), ("dogs",)),
    ]
    assert signs(rounds) == {"afterwards"}


def test_an_image_that_a_program_computed_may_be_one_of_any_label() -> None:
    crop = Tried("", True)
    rounds = [ScannedRound(("a dog",), (DOG, crop)), ScannedRound((), (), ("dogs",))]
    assert signs(rounds) == set()


def test_a_study_without_an_answer_shows_no_sign() -> None:
    assert scan([ScannedRound(("dogs",), (DOG,))]) == dict.fromkeys(SIGNS)


def test_abstaining_is_not_a_label_that_was_tried_too_little() -> None:
    rounds = [ScannedRound(("dogs",), (DOG, SNOW)), ScannedRound((), (), ("not interpretable",))]
    assert signs(rounds) == set()


def record(number: int, shown: dict[str, Provenance], **more: Any) -> dict[str, Any]:
    provenance = {key: each.to_json() for key, each in shown.items()}
    toolbox = {"measured": dict.fromkeys(shown, 1.0), "provenance": provenance}
    return {"round": number, "reply": {"text": ""}, "hypotheses": ["dogs"], "toolbox": toolbox} | more


def test_an_image_counts_in_the_round_that_showed_it_first() -> None:
    first = {"aa": Provenance("dataset"), "bb": Provenance("generated", prompt="a dog")}
    second = {"cc": Provenance("edited", prompt="a dog", edits=("add a hat",), parent="bb")}
    answer = {"reply": {"text": "[DESCRIPTION]: dogs.\n[LABEL]: dogs"}, "answered": True}
    rounds = read_rounds([record(1, first), record(2, first | second), record(3, first | second, **answer)])
    assert [scanned.tried for scanned in rounds] == [
        (Tried("", False), Tried("a dog", True)),
        (Tried("a dog add a hat", True),),
        (),
    ]
    assert rounds[2].labels == ("dogs",)


def test_records_of_old_versions_count_made_images() -> None:
    old = record(1, {"bb": Provenance("generated", prompt="a dog"), "mm": Provenance("masked", parent="bb")})
    del old["toolbox"]["measured"]
    assert read_rounds([old])[0].tried == (Tried("a dog", True),)


@pytest.mark.parametrize(
    "damage", [{"toolbox": 3}, {"toolbox": {"provenance": {"aa": "{"}, "measured": {"aa": 1}}}]
)
def test_a_damaged_record_is_passed_over(damage: dict[str, Any]) -> None:
    (found,) = read_rounds([record(1, {}) | damage])
    assert found.hypotheses == ("dogs",)
    assert not any(image.made for image in found.tried)


def test_rates_count_the_studies_that_a_sign_is_decided_for() -> None:
    seen = [{"untried": True}, {"untried": False}, {"untried": None}, {}]
    (rate,) = rates(seen)
    assert (rate.sign, rate.n, rate.of) == ("untried", 1, 2)
    assert 0 < rate.low < 0.5 < rate.high < 1
