"""What a trained network's features are worth: every row of Table 2 by regressions on chosen units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agents.records import run_files
from agents.records.run_files import RecordError
from experiments.paper.gym import classifiers, logistic
from experiments.paper.gym.draft import draft_of
from experiments.paper.gym.selectivity import FactorShares, SelectivityJudgement
from experiments.paper.gym.spawrious import SpuriousSet, balanced
from experiments.paper.robust_rows import ALONE, EDITED, PLAIN, RIDGE, TableRow, Training, table_row

FitFunction = Callable[[np.ndarray, np.ndarray, np.ndarray], logistic.Fitted]
Head = Callable[[np.ndarray], np.ndarray]
"""A network's last layer: class scores float32 (N, classes) of features float32 (N, units)."""


_FILE = "features.npz"
_ACCURACIES = ("original", "original_validation")


@dataclass(frozen=True, slots=True)
class Repeats:
    """How many sets the comparisons are made on."""

    random_sets: int = 100
    balanced_sets: int = 10
    balanced_images: int = 320
    """Images of each balanced set."""


@dataclass(frozen=True)
class Choice:
    """The units that the agent keeps, and those for which it gave no answer."""

    kept: list[int]
    unanswered: list[int] = field(default_factory=list)


class ChoiceStanding(NamedTuple):
    """Where the agent's choice stands among random ones: the share that do worse, and their 95th
    percentile.
    """

    percentile: float | None
    random_95: float | None


@dataclass(frozen=True)
class Measurements:
    """A trained network's features on three parts of the set, float32 (N, units), and its own head's accuracy
    on two.
    """

    spurious: SpuriousSet
    validation: np.ndarray
    test: np.ndarray
    crossed: np.ndarray
    original: float
    original_validation: float
    repeats: Repeats = field(default_factory=Repeats)
    head: Head | None = None
    """The network's own last layer; without it there are no rows of the edited network."""

    @classmethod
    def of(cls, network: Path, spurious: SpuriousSet, repeats: Repeats) -> Measurements:
        """Return the measurements of the network in a folder, from `features.npz` next to it if they are
        kept.

        Raises:
            RecordError: If those that are kept are damaged, or of other images.
        """
        kept = _kept(network.parent, spurious)
        if kept is None:
            kept = _measure(network, spurious)
            with draft_of(network.parent / _FILE) as draft:
                np.savez(draft, **kept)
        return cls(
            spurious,
            kept["validation"],
            kept["test"],
            kept["crossed"],
            float(kept["original"]),
            float(kept["original_validation"]),
            repeats,
            _head(classifiers.load(network).module),
        )

    def informative(self, top: int) -> logistic.Fitted:
        """Return the L1 fit on the unbalanced validation set that keeps `top` units."""
        return logistic.sparse_to(self.validation, self.spurious.validation.labels, top)

    def judgement(self, units: np.ndarray, kept: Sequence[int]) -> SelectivityJudgement:
        """Return what the kept and the dropped of these units follow, on images of every class in every
        place.
        """
        crossed = self.spurious.crossed
        return FactorShares.of(self.crossed, crossed.labels, crossed.places).judged(units, set(kept))

    def training(self, informative: logistic.Fitted, choice: Choice, seed: int) -> Training:
        """Return every row of Table 2 and those of our own. What cannot be computed is None."""
        pool, kept, n = informative.units, choice.kept, len(choice.kept)
        subset = f"L1 top {len(pool)}"
        chosen = {"all": pool, "agent": np.asarray(kept, int)}
        original = (self.original, self.original_validation)
        rows = [
            table_row("All", "original model", self.validation.shape[1], original),
            self._scored(subset, "all", informative),
        ]
        random: list[np.ndarray] = []
        if 0 < n < len(pool):
            rng = np.random.default_rng((seed, 61))
            random = [rng.choice(pool, n, replace=False) for _ in range(self.repeats.random_sets)]
            smaller = logistic.sparse_to(self.validation, self.spurious.validation.labels, n, pool)
            rows.append(self._scored(subset, "L1 top n", smaller))
            chosen["L1 top n"] = smaller.units
        choices = _Choices(subset, chosen, random)
        plain_rows, plain = self._refitted(choices, logistic.unregularized, PLAIN)
        ridge_rows, ridge = self._refitted(choices, logistic.ridge, RIDGE)
        edited_rows, edited, alone = self.edited_rows(pool, choice, seed)
        rows += [*plain_rows, *ridge_rows, *edited_rows, *self._balanced_rows(n, seed)]
        judged = [int(unit) for unit in pool]
        judgement = self.judgement(pool, kept)
        return Training(
            seed, judged, kept, choice.unanswered, rows, *plain, *ridge, judgement, *edited, *alone
        )

    def edited_rows(
        self, pool: np.ndarray, choice: Choice, seed: int
    ) -> tuple[list[TableRow], ChoiceStanding, ChoiceStanding]:
        """Return the rows of the network itself with units set to zero, and where the agent's stand.

        First those that the agent calls spurious, then all that it does not keep, with choices of as many by
        L1 and at random. Behind the units lie the mean over positions and the last layer, so that zero
        features are the edit.
        """
        everything = np.arange(self.validation.shape[1])
        spurious = np.setdiff1d(pool, [*choice.kept, *choice.unanswered])
        outside = np.setdiff1d(everything, pool)
        rows, edited = self._left_on(pool, np.setdiff1d(pool, spurious), outside, EDITED, seed)
        more, alone = self._left_on(pool, np.asarray(choice.kept, int), outside[:0], ALONE, seed)
        return [*rows, *more], edited, alone

    def _left_on(
        self, pool: np.ndarray, ours: np.ndarray, others: np.ndarray, names: Mapping[str, str], seed: int
    ) -> tuple[list[TableRow], ChoiceStanding]:
        """Return the rows of the network in which only `others` and some of the `pool` are not zero: as many
        as are `ours`.
        """
        n = len(ours)
        if self.head is None or not 0 < n < len(pool):
            return [], ChoiceStanding(None, None)
        rng = np.random.default_rng((seed, 63))
        drawn = [rng.choice(pool, n, replace=False) for _ in range(self.repeats.random_sets)]
        chance = np.array([self._edited(np.r_[others, units]) for units in drawn])
        by_l1 = logistic.sparse_to(self.validation, self.spurious.validation.labels, n, pool).units
        subset, count, (test, validation) = (
            f"L1 top {len(pool)}",
            len(others) + n,
            chance.mean(axis=0).tolist(),
        )
        agent = self._edited(np.r_[others, ours])
        rows = [
            table_row(subset, names["random"], count, (test, validation), spread=float(chance[:, 0].std())),
            table_row(
                subset, names["L1 top n"], len(others) + len(by_l1), self._edited(np.r_[others, by_l1])
            ),
            table_row(subset, names["agent"], count, agent),
        ]
        return rows, _standing(chance[:, 0].tolist(), agent[0])

    def _edited(self, units: np.ndarray) -> tuple[float, float]:
        """Return the accuracy of the network with all but these units set to zero, on the test and the
        validation set.
        """
        assert self.head is not None
        parts = (
            (self.test, self.spurious.test.labels),
            (self.validation, self.spurious.validation.labels),
        )
        accuracies = []
        for features, labels in parts:
            edited = np.zeros_like(features)
            edited[:, units] = features[:, units]
            accuracies.append(float((self.head(edited).argmax(axis=1) == labels).mean()))
        return accuracies[0], accuracies[1]

    def _refitted(
        self, choices: _Choices, fit: FitFunction, names: Mapping[str, str]
    ) -> tuple[list[TableRow], ChoiceStanding]:
        """Return the rows of one read-out, fitted anew to each choice, and where the agent's stands."""
        labels, subset = self.spurious.validation.labels, choices.subset
        chance = [self._accuracies(fit(self.validation, labels, units)) for units in choices.random]
        rows = []
        if chance:
            (test, validation), (spread, _) = np.mean(chance, axis=0), np.std(chance, axis=0)
            n, means = len(choices.random[0]), (float(test), float(validation))
            rows.append(table_row(subset, names["random"], n, means, spread=float(spread)))
        for choice, units in choices.chosen.items():
            accuracies: tuple[float | None, float | None] = (None, None)
            if len(units):
                accuracies = self._accuracies(fit(self.validation, labels, units))
            rows.append(table_row(subset, names[choice], len(units), accuracies))
        ours = next((row.accuracy for row in rows if row.method == names["agent"]), None)
        return rows, _standing([test for test, _ in chance], ours)

    def _accuracies(self, fit: logistic.Fitted) -> tuple[float, float]:
        """Return the accuracy of a fit on the test and on the validation set, to which it was fitted."""
        return (
            fit.accuracy(self.test, self.spurious.test.labels),
            fit.accuracy(self.validation, self.spurious.validation.labels),
        )

    def _scored(self, subset: str, method: str, fit: logistic.Fitted) -> TableRow:
        return table_row(subset, method, len(fit.units), self._accuracies(fit))

    def _balanced_rows(self, n: int, seed: int) -> list[TableRow]:
        """Return the rows of fits to small balanced sets, one set visible at a time: means over the sets."""
        part = self.spurious.validation
        fits: dict[str, list[logistic.Fitted]] = {"balanced L1, tuned": [], "balanced L1 top n": []}
        for number in range(self.repeats.balanced_sets):
            rng = np.random.default_rng((seed, 62, number))
            rows = balanced(part, self.repeats.balanced_images, rng)
            features, labels = self.validation[rows], part.labels[rows]
            fits["balanced L1, tuned"].append(logistic.tuned(features, labels, rng))
            if n:
                fits["balanced L1 top n"].append(logistic.sparse_to(features, labels, n))
        return [self._mean_row(method, fitted) for method, fitted in fits.items() if fitted]

    def _mean_row(self, method: str, fits: Sequence[logistic.Fitted]) -> TableRow:
        units = int(np.median([len(fit.units) for fit in fits]))
        test, validation = zip(*(self._accuracies(fit) for fit in fits), strict=True)
        means = float(np.mean(test)), float(np.mean(validation))
        return table_row("All", method, units, means, balanced=True, spread=float(np.std(test)))


@dataclass(frozen=True)
class _Choices:
    """Choices of units among a subset: by method, and at random."""

    subset: str
    chosen: Mapping[str, np.ndarray]
    random: Sequence[np.ndarray]


def _kept(folder: Path, spurious: SpuriousSet) -> Mapping[str, Any] | None:
    """Return the measurements that a folder keeps, None if it keeps none: a run may be a stranger's."""
    path = folder / _FILE
    data = run_files.read_bytes(folder, _FILE, run_files.MAX_TABLE)
    if data is None:
        return None
    kept = run_files.parse_arrays(data, path)
    parts = {"validation": spurious.validation, "test": spurious.test, "crossed": spurious.crossed}
    shapes = {kept[name].shape[:1] == (len(part.labels),) for name, part in parts.items() if name in kept}
    widths = {kept[name].shape[1:] for name in parts if name in kept}
    whole = {*parts, *_ACCURACIES} <= kept.keys() and shapes == {True} and len(widths) == 1
    if not whole or any(kept[name].dtype != np.float32 or kept[name].ndim != 2 for name in parts):
        raise RecordError(f"{path} holds no measurements of these images.", "Delete it: it is made again.")
    if any(kept[name].size != 1 or kept[name].dtype.kind != "f" for name in _ACCURACIES):
        raise RecordError(f"{path} holds no accuracies.", "Delete it: it is made again.")
    return kept


def _measure(network: Path, spurious: SpuriousSet) -> dict[str, Any]:
    """Return the features of each part by its name, and the accuracy of the network's own head."""
    loaded = classifiers.load(network)
    parts = {"validation": spurious.validation, "test": spurious.test, "crossed": spurious.crossed}
    measured: dict[str, Any] = {
        name: classifiers.features(loaded.module, loaded.preprocess, part.images)
        for name, part in parts.items()
    }
    for name, key in (("test", "original"), ("validation", "original_validation")):
        scores = _head(loaded.module)(measured[name])
        measured[key] = float((scores.argmax(axis=1) == parts[name].labels).mean())
    return measured


def _head(module: Any) -> Head:
    """Return a network's own last layer, for features of `classifiers.features`."""
    import torch

    def scores(features: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            head: np.ndarray = module.get_classifier()(torch.from_numpy(features)).numpy()
        return head

    return scores


def _standing(chance: Sequence[float], ours: float | None) -> ChoiceStanding:
    """Return where an accuracy stands among those of random sets, equals counted half."""
    if not chance:
        return ChoiceStanding(None, None)
    values = np.asarray(chance)
    limit = float(np.quantile(values, 0.95))
    if ours is None:
        return ChoiceStanding(None, limit)
    return ChoiceStanding(float((values < ours).mean() + 0.5 * (values == ours).mean()), limit)
