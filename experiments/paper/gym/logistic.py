"""Logistic regressions on a network's features, as in Table 2 and appendix F2 of the MAIA paper.

Features are standardized by the data that a model is fitted to. L1 fits use saga, unregularized ones lbfgs.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

STRENGTHS = tuple(float(c) for c in np.logspace(-2, 0, 5))
"""Inverse strengths of the L1 penalty among which the balanced data chooses."""
RIDGE = 0.1
"""Inverse strength of the L2 penalty of `ridge`: one for every choice of units, whatever the set. On an
earlier, separable set 1, 0.1 and 0.01 were tried in two trainings: the agent's units stood at percentile 0.90
to 1.00 of random ones with each.
"""
_BISECTIONS = 16


@dataclass(frozen=True)
class Fitted:
    """A classifier on some of a network's units. `units` are those with a weight that is not zero."""

    columns: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    model: Any

    @property
    def units(self) -> np.ndarray:
        return self.columns[np.abs(self.model.coef_).max(axis=0) > 0]

    def accuracy(self, features: np.ndarray, labels: np.ndarray) -> float:
        """Return the share of features float32 (N, units of the network) whose class is predicted right."""
        predicted = self.model.predict((features[:, self.columns] - self.mean) / self.spread)
        return float((predicted == labels).mean())


def unregularized(features: np.ndarray, labels: np.ndarray, units: Sequence[int] | np.ndarray) -> Fitted:
    """Return the fit without a penalty on the given units.

    Where the classes can be separated perfectly there is no finite optimum; it then stops where lbfgs does.
    """
    return _fit(features, labels, np.asarray(units, int), solver="lbfgs", C=np.inf, max_iter=1000)


def ridge(features: np.ndarray, labels: np.ndarray, units: Sequence[int] | np.ndarray) -> Fitted:
    """Return the L2 fit on the given units, of one strength for every choice: it has one optimum, whatever
    the data.
    """
    return _fit(features, labels, np.asarray(units, int), solver="lbfgs", C=RIDGE, max_iter=1000)


def sparse(
    features: np.ndarray, labels: np.ndarray, strength: float, units: np.ndarray | None = None
) -> Fitted:
    """Return the L1 fit with the inverse strength `strength`, on all units or the given ones."""
    columns = np.arange(features.shape[1]) if units is None else units
    return _fit(
        features, labels, columns, solver="saga", C=strength, l1_ratio=1.0, max_iter=300, tol=1e-3,
        random_state=0,
    )  # fmt: skip


def sparse_to(
    features: np.ndarray, labels: np.ndarray, n_units: int, units: np.ndarray | None = None
) -> Fitted:
    """Return the L1 fit whose penalty leaves `n_units` units, or the nearest number that bisection finds."""
    low, high = -4.0, 2.0
    best: Fitted | None = None
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        fit = sparse(features, labels, 10**middle, units)
        left = len(fit.units)
        if best is None or abs(left - n_units) < abs(len(best.units) - n_units):
            best = fit
        if left == n_units:
            break
        low, high = (middle, high) if left < n_units else (low, middle)
    assert best is not None
    return best


def tuned(features: np.ndarray, labels: np.ndarray, rng: np.random.Generator, splits: int = 5) -> Fitted:
    """Return the L1 fit whose strength does best on halves of the data that it was not fitted to."""
    halves = []
    for _ in range(splits):
        order = rng.permutation(len(labels))
        halves.append((order[: len(order) // 2], order[len(order) // 2 :]))
    scores = [
        np.mean(
            [
                sparse(features[first], labels[first], strength).accuracy(features[second], labels[second])
                for first, second in halves
            ]
        )
        for strength in STRENGTHS
    ]
    return sparse(features, labels, STRENGTHS[int(np.argmax(scores))])


def _fit(features: np.ndarray, labels: np.ndarray, columns: np.ndarray, **options: Any) -> Fitted:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    chosen = np.asarray(features[:, columns], np.float64)
    mean, spread = chosen.mean(axis=0), chosen.std(axis=0)
    spread[spread == 0] = 1.0
    with warnings.catch_warnings():
        # Separable data has no optimum, and a path of penalties need not be exact.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(**options).fit((chosen - mean) / spread, labels)
    return Fitted(columns, mean, spread, model)
