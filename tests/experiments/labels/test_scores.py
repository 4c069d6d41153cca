"""Scores of concepts agree with their formulas, also with ties and large values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from agents.evidence.statistics import auroc, average_precision
from experiments.labels.formulas import fit
from experiments.labels.scores import auroc_of_sums, centered_ranks, exemplar_meaning, soft_wpmi


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_soft_wpmi_of_three_images_and_three_concepts_is_that_computed_by_hand() -> None:
    # Images and words are the same axes: P of an image is e^10 or 1 over e^10 + 2.
    axes, top = torch.eye(3), torch.tensor([[0, 1], [2, 2]])
    found = soft_wpmi(top, axes, axes, best=3)
    likely, other = math.exp(10) / (math.exp(10) + 2), 1 / (math.exp(10) + 2)

    def term(p: float, at: int) -> float:
        return math.log(1 + (0.998 - 0.028 * at / 100) * (p - 1) + 1e-7)

    def score(first: list[float], second: list[float], word: int) -> list[float]:
        sums = [term(each[word], 0) + term(again[word], 1) for each, again in ((first, second), (last, last))]
        return [each - math.log((math.exp(sums[0]) + math.exp(sums[1])) / 2) for each in sums]

    last = [other, other, likely]
    by_hand = np.array([score([likely, other, other], [other, likely, other], word) for word in range(3)]).T
    np.testing.assert_allclose(
        np.take_along_axis(found.scores, found.concepts.argsort(1), 1), by_hand, rtol=1e-5, atol=1e-5
    )


def test_soft_wpmi_does_not_depend_on_the_tiles() -> None:
    rng = np.random.default_rng(0)
    images, words = (torch.from_numpy(unit(rng.normal(size=(n, 8)))) for n in (40, 30))
    top = torch.from_numpy(rng.integers(0, 40, (20, 11)))
    whole = soft_wpmi(top, images, words, best=4)
    tiled = soft_wpmi(top, images, words, best=4, tile=400)
    np.testing.assert_array_equal(tiled.concepts, whole.concepts)
    np.testing.assert_allclose(tiled.scores, whole.scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_the_auroc_of_rank_sums_is_that_of_all_pairs_also_with_ties(scale: float) -> None:
    rng = np.random.default_rng(1)
    values = np.stack([rng.normal(size=500), np.maximum(rng.normal(size=500), 0).round(1)]) * scale
    shown = rng.random((3, 500)) < [[0.02], [0.2], [0.5]]
    ranks = centered_ranks(torch.from_numpy(values.astype(np.float32)))
    numbers = torch.from_numpy(shown).float()
    found = auroc_of_sums(ranks @ numbers.T, numbers.sum(1), 500).numpy()
    for row, unit_values in enumerate(values.astype(np.float32)):
        expected = [auroc(unit_values[each], unit_values[~each]) for each in shown]
        np.testing.assert_allclose(found[row], expected, atol=2e-6)


def test_the_fit_of_a_label_is_that_of_the_statistics_of_evidence() -> None:
    rng = np.random.default_rng(2)
    values = np.maximum(rng.normal(size=(4, 300)), 0).round(1).astype(np.float32)
    shown = rng.random((4, 300)) < 0.2
    found = fit(torch.from_numpy(values), torch.from_numpy(shown))
    for row in range(4):
        groups = values[row][shown[row]].tolist(), values[row][~shown[row]].tolist()
        assert found.auroc[row] == pytest.approx(auroc(*groups), abs=1e-6)
        assert found.auprc[row] == pytest.approx(average_precision(*groups), abs=1e-6)
        strong = values[row] >= (values[row].mean() + values[row].max()) / 2
        assert found.coverage[row] == pytest.approx(shown[row][strong].mean(), abs=1e-6)


def test_the_z_of_unrelated_labels_has_unit_variance_with_ties() -> None:
    rng = np.random.default_rng(3)
    values = np.maximum(rng.normal(size=(2000, 200)) - 0.5, 0).astype(np.float32)
    shown = np.zeros((2000, 200), bool)
    for row in shown:
        row[rng.choice(200, 20, replace=False)] = True
    z = fit(torch.from_numpy(values), torch.from_numpy(shown)).z
    assert abs(z.mean()) < 4 / math.sqrt(2000)
    assert abs(z.std() - 1) < 4 / math.sqrt(4000)


def test_clarity_and_polysemanticity_of_known_exemplars() -> None:
    images = torch.eye(4)
    top = torch.tensor([[0] * 6, [0, 0, 0, 1, 1, 1], [2] * 6, [0] * 6])
    found = exemplar_meaning(top, images)
    np.testing.assert_allclose(found.clarity, [1, 0.4, 1, 1], atol=1e-6)
    np.testing.assert_allclose(found.polysemanticity, [0, 1, 0, 0], atol=1e-6)
    assert found.alike.tolist() == [3, 0, 0, 0] or found.alike[0] == 3
    np.testing.assert_allclose(found.redundancy, [1, math.sqrt(0.5), 0, 1], atol=1e-6)
