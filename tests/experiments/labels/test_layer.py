"""Units of known meaning get their label; units without meaning, or with one that has no word, get none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom, kstest

from actors.vision.readout.units import Readout
from experiments.labels.formulas import correlations
from experiments.labels.layer import LayerLabeler
from experiments.labels.record import AMBIGUOUS, DEAD, NOTHING_FITS, PART
from tests.experiments.labels.worlds import AttributeWorld


@pytest.fixture(scope="module")
def world() -> AttributeWorld:
    return AttributeWorld.made(1200, 40, 30, seed=0)


def noisy(shown: np.ndarray, seed: int, noise: float = 0.4) -> np.ndarray:
    """Return activations (n, U) of units that fire where an image shows something, as after a ReLU."""
    return np.maximum(shown + noise * np.random.default_rng(seed).normal(size=shown.shape), 0)


def test_single_concepts_alternatives_and_conditions_are_found(world: AttributeWorld) -> None:
    a = world.shown
    meant = np.c_[a[:, :20], a[:, 20] | a[:, 21], a[:, 22] | a[:, 23], a[:, 24] | a[:, 25] | a[:, 26]]
    common = AttributeWorld.made(1200, 2, 2, seed=5, chance=0.4).shown
    whole = AttributeWorld(np.c_[a[:, :28], common, a[:, 28:]], 30)
    conditions = np.c_[common[:, 0] & common[:, 1], common[:, 0] & ~common[:, 1]]
    labels = whole.labels(noisy(np.c_[meant, conditions], 1))
    assert [each.label for each in labels[:20]] == [f"w{number}" for number in range(20)]
    assert {*labels[20].concepts} == {"w20", "w21"}
    assert {*labels[21].concepts} == {"w22", "w23"}
    assert {*labels[22].concepts} == {"w24", "w25", "w26"}
    assert " OR " in str(labels[20].label)
    assert labels[23].label in ("w28 AND w29", "w29 AND w28")
    assert labels[24].label == "w28 AND NOT w29"
    assert all((each.auroc or 0) > 0.9 and each.wpmi_label in each.concepts for each in labels[:20])


def test_dead_units_and_units_without_meaning_get_no_label(world: AttributeWorld) -> None:
    noise = np.random.default_rng(2).normal(size=(1200, 30))
    values = np.c_[noisy(world.shown[:, :30], 3), np.full((1200, 2), 3.0), noise]
    labels = world.labels(values)
    assert [each.reason for each in labels[30:32]] == [DEAD, DEAD]
    assert [each.reason for each in labels[32:]].count(NOTHING_FITS) >= 29
    meaningless = [each.clarity or 0 for each in labels[32:]]
    assert min(each.clarity or 0 for each in labels[:30]) > max(meaningless)


def test_p_values_of_random_units_are_uniform(world: AttributeWorld) -> None:
    rng = np.random.default_rng(4)
    real = noisy(world.shown, 5).astype(np.float32)
    standard = (real - real.mean(0)) / real.std(0)
    mixed = standard @ rng.normal(size=(40, 300))
    silent = (real <= 0).mean(0)[rng.integers(0, 40, 300)]
    floor = np.array([np.sort(each)[int(share * 1200)] for each, share in zip(mixed.T, silent, strict=True)])
    labeler = LayerLabeler(world.images(), Readout("layer"), real, np.arange(1200))
    p = labeler.p_values(np.maximum(mixed, floor).astype(np.float32))
    assert kstest(p, "uniform").pvalue > 0.001


def test_of_accepted_labels_few_are_wrong_with_units_without_meaning_and_without_words() -> None:
    accepted = wrong = 0
    for seed in range(2):
        world = AttributeWorld.made(800, 60, 40, seed=10 + seed)
        noise = np.random.default_rng(seed).normal(size=(800, 60))
        labels = world.labels(np.c_[noisy(world.shown, seed), noise], random_units=500)
        for number, each in enumerate(labels):
            accepted += each.label is not None
            wrong += each.label is not None and each.concepts != (f"w{number}",)
    assert accepted > 50
    assert wrong <= binom.ppf(0.999, accepted, 0.05)


def test_a_units_label_does_not_depend_on_the_order_of_units(world: AttributeWorld) -> None:
    values = noisy(world.shown[:, :12], 7)
    there = world.labels(values)
    back = world.labels(values[:, ::-1])[::-1]
    assert [each.label for each in there] == [each.label for each in back]
    np.testing.assert_allclose([e.auroc for e in there], [e.auroc for e in back], atol=1e-9)


def test_the_rival_shares_no_concept_with_the_label(world: AttributeWorld) -> None:
    values = noisy(world.shown[:, [0]] + 0.6 * world.shown[:, [1]], 8, 0.2)
    (label,) = world.labels(values)
    assert label.runner_up is not None
    assert not set(label.concepts) & set(label.runner_up.replace("(", "").split())
    assert (label.margin or 0) > 0


def test_the_margin_is_that_of_the_label_itself_and_not_of_a_longer_one_it_was_cut_from() -> None:
    world = AttributeWorld.made(300, 40, 30, seed=0)
    values = noisy(world.shown, 50, 1.0).astype(np.float32)
    images = world.images(length=2)
    labels = LayerLabeler(images, Readout("layer"), values, np.arange(300)).label()
    shown = dict(zip(images.names, images.presence[0], strict=True))
    first = torch.from_numpy(values[images.halves[0]].T.copy())

    def correlation(unit: int, text: str | None) -> float:
        words = str(text).split()
        one, other = shown[words[0]], shown[words[-1]]
        ways = {1: one, 2: one | other, 3: one & ~other, 4: one & other}
        kind = {"OR": 2, "NOT": 3, "AND": 4}[words[-2]] if len(words) > 1 else 1
        return float(correlations(first[[unit]], ways[kind][None])[0])

    for unit, each in enumerate(labels):
        margin = correlation(unit, each.best) - correlation(unit, each.runner_up)
        assert each.margin == pytest.approx(margin, abs=1e-5)
    behind = [each for each in labels if (each.margin or 0) < 0]
    assert behind
    assert not any(each.label for each in behind)


def test_a_label_that_is_one_part_of_the_truth_is_not_accepted() -> None:
    """The words have no name for the other part, which the embeddings show."""
    world = AttributeWorld.made(1600, 40, 40, seed=3, chance=0.15)
    a = world.shown
    meant = np.c_[a[:, 0] | a[:, 30], a[:, 1] * (0.4 + a[:, 31]), a[:, 2], a[:, 3] | a[:, 4]]
    others = noisy(a[:, 5:29], 11, 0.1)
    values = np.c_[noisy(meant, 9, 0.1), others]
    labels = world.labels(values, unnamed=10)
    assert [each.reason for each in labels[:4]] == [PART, PART, "", ""]
    assert [each.best for each in labels[:3]] == ["w0", "w1", "w2"]
    assert (labels[0].uncovered or 0) > 3 > (labels[2].uncovered or 0)
    assert (labels[1].left or 0) > 0.1 > (labels[2].left or 0)


def test_where_two_labels_fit_alike_none_is_accepted() -> None:
    world = AttributeWorld.made(1600, 40, 40, seed=3)
    a = world.shown.copy()
    a[:, 1] = a[:, 0]
    twins = AttributeWorld(a, 40)
    labels = twins.labels(noisy(a, 12, 0.1))
    assert [each.reason for each in labels[:3]] == [AMBIGUOUS, AMBIGUOUS, ""]


def test_strong_images_of_units_without_meaning_are_no_more_alike_than_chance_makes_them(
    world: AttributeWorld,
) -> None:
    noise = np.random.default_rng(2).normal(size=(1200, 30))
    labels = world.labels(np.c_[noisy(world.shown[:, :30], 3), noise])
    common = [each.common or 0.0 for each in labels]
    assert min(common[:30]) > 5 > max(common[30:])
    assert abs(float(np.mean(common[30:]))) < 1
