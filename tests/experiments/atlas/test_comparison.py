"""Counterparts are found by meaning, and chance is told from them by permuted units."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from actors.errors import UsageError
from experiments.atlas.comparison import PERMUTATIONS, compare, figures
from experiments.cli.main import main
from tests.experiments.atlas.runs import LabeledRun

THINGS = ("poodle", "tabby", "oboe", "violin", "banana", "fire engine", "forest", "beach", "wheel", "stripes")


def runs(folder: Path, second: list[str], **more: object) -> tuple[Path, Path]:
    """Write a run of ten units that says THINGS, and one that says `second`."""
    made = [LabeledRun(folder / name) for name in ("first", "second")]
    for run, labels in zip(made, (THINGS, second), strict=True):
        for index, label in enumerate(labels):
            run.embed(f"{run.root.name}:{index}", label, **more)
    return made[0].root, made[1].root


def test_each_unit_finds_the_one_that_says_the_same_in_any_layer_and_order(tmp_path):
    result = compare(*runs(tmp_path, [thing.upper() for thing in reversed(THINGS)]))
    assert result.matched == [10, 10]
    found = {
        each.unit.rpartition(":")[2]: each.counterpart.rpartition(":")[2] for each in result.counterparts
    }
    assert found == {str(index): str(9 - index) for index in range(10)}
    assert {each.similarity for each in result.counterparts} == {1.0}
    assert [(pair.first, pair.second, pair.share) for pair in result.layers] == [("first", "second", 1.0)]
    assert result.same_unit is None, "no unit of one is in the other by name"


def test_a_neighbor_that_has_a_nearer_one_is_no_counterpart(tmp_path):
    result = compare(*runs(tmp_path, ["red poodle", "poodle", "bicycle"]))
    pairs = {each.label: each.counterpart_label for each in result.counterparts}
    assert pairs == {"poodle": "poodle"}
    assert result.alone[1] == ["red poodle", "bicycle"]
    assert "tabby" in result.alone[0]


def test_units_that_kept_their_meaning_in_training_are_told_from_permuted_ones(tmp_path):
    rng, root = np.random.default_rng(0), LabeledRun(tmp_path / "a")
    kept, moved = LabeledRun(tmp_path / "kept"), LabeledRun(tmp_path / "moved")
    for index in range(60):
        label = THINGS[index % 10]
        root.embed(f"l:{index}", label)
        kept.embed(f"l:{index}", label if index % 2 else THINGS[int(rng.integers(10))])
        moved.embed(f"l:{index}", THINGS[int(rng.integers(10))])
    same, chance = (compare(root.root, other.root).same_unit for other in (kept, moved))
    assert same is not None
    assert same.observed > 0.5 > 0.25 > same.permuted
    assert same.p == pytest.approx(1 / (1 + PERMUTATIONS))
    assert chance is not None
    assert chance.p > 0.01


def test_exemplars_which_did_not_choose_the_pairs_confirm_them(tmp_path):
    first, second, other = (LabeledRun(tmp_path / name) for name in ("a", "b", "c"))
    for index, thing in enumerate(THINGS):
        own = [{"source": f"{10 * index + place:08x}"} for place in range(4)]
        strange = [{"source": f"{1000 + 10 * index + place:08x}"} for place in range(4)]
        first.study(f"l:{index}", thing, exemplars=own)
        second.study(f"m:{index}", thing, exemplars=own[:3] + strange[:1])
        other.study(f"m:{index}", thing, exemplars=strange)
    test = compare(first.root, second.root).exemplars
    assert test is not None
    assert test.observed == pytest.approx(3 / 5)
    assert test.permuted < 0.15
    assert test.p == pytest.approx(1 / (1 + PERMUTATIONS))
    nothing = compare(first.root, other.root)
    assert nothing.exemplars is not None
    assert nothing.exemplars.p == 1.0
    assert {(each.p, each.q) for each in nothing.counterparts} == {(1.0, 1.0)}


def test_a_pair_that_is_one_of_many_needs_more_than_a_small_p_to_be_claimed(tmp_path):
    first, second = LabeledRun(tmp_path / "a"), LabeledRun(tmp_path / "b")
    for index in range(400):
        own = [{"source": f"own {index}"}, {"source": "of twelve" if index == 1 else f"also {index}"}]
        kept = own if index == 0 else [{"source": "of twelve" if index < 13 else f"other {index}"}]
        label = THINGS[index] if index < 10 else ""
        first.study(f"l:{index}", label, exemplars=own)
        second.study(f"m:{index}", label or f"no {index}", exemplars=kept)
    result = compare(first.root, second.root)
    tested = {each.unit.rpartition(":")[2]: (each.p, each.q) for each in result.counterparts}
    assert tested["0"] == pytest.approx((1 / 400, 10 / 400)), "no other unit shares as much"
    assert tested["1"] == pytest.approx((12 / 400, 60 / 400)), "by itself it would be claimed"
    assert "1 of 10 counterparts share more" in " ".join(figures(result))


def test_the_command_writes_a_page_and_json_and_says_what_it_cannot_compare(tmp_path, capsys):
    first, second = runs(tmp_path, [*THINGS, "<b>hostile</b>"])
    out = tmp_path / "out"
    main(["compare", str(first), str(second), "--out", str(out), "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer == json.loads((out / "compare.json").read_text())
    page = (out / "report" / "experiments" / "meaning.html").read_text()
    assert "10 of 10 labeled units" in page
    assert "&lt;b&gt;hostile&lt;/b&gt;" in page
    with pytest.raises(UsageError, match="has a label yet"):
        compare(first, LabeledRun(tmp_path / "empty").root)
    assert "no exemplars are on record" in " ".join(figures(compare(first, second)))
