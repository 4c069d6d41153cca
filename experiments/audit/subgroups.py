"""What real images say of an audit: accuracy by subgroup, the worst group, and associations.

A subgroup is a class's images with one value of an attribute. The least of many noisy figures is too low, so
the worst group is chosen on one half of the images and its accuracy taken from the other. Associations go
through the audit's two stages (`experiments.audit.context_survey`): what stands out on one half is tested on
the other. Nobody has drawn the context of a real image at random: a difference may come from what goes with
it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from agents.evidence.statistics import wilson_interval
from experiments.audit.context_survey import LEAST, RATE, ClassSurvey, ContextEffect, judge, screened
from experiments.audit.real_images import RealImages, Tag
from experiments.audit.replication import (
    MIN_ATTENUATION,
    ConfidenceInterval,
    Replication,
    attenuation,
    replications,
)

FEW = 25
"""Images below which nothing is said of a group."""


@dataclass(frozen=True, slots=True)
class Subgroup:
    """A class's images with one value of an attribute. Where they are fewer than `FEW`, all figures are None.

    `accuracy_interval` is Wilson's at 0.05 divided by the number of groups; `probability` is the class's
    mean.
    """

    class_name: str
    attribute: str
    level: str
    n: int
    accuracy: float | None = None
    accuracy_interval: ConfidenceInterval | None = None
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class WorstGroup:
    """The group with the least accuracy among `groups`, chosen on one half: all figures are of the other.

    `interval` is Wilson's at 95%. `below` says that its accuracy is surely below that of the other images
    (`others`): the 95% interval of the difference (Newcombe's) ends below 0.
    """

    class_name: str
    attribute: str
    level: str
    groups: int
    n: int
    accuracy: float
    interval: ConfidenceInterval
    others: float
    below: bool


@dataclass(frozen=True, slots=True)
class Average:
    """Accuracy over all images, or with groups of an attribute weighted by their share of the training
    images.
    """

    weighted_by: str
    accuracy: float
    interval: ConfidenceInterval | None


@dataclass(frozen=True, slots=True)
class Findings:
    """All that the real images of an audit say."""

    subgroups: tuple[Subgroup, ...]
    worst: WorstGroup | None
    averages: tuple[Average, ...]
    associations: tuple[ContextEffect, ...]
    replications: tuple[Replication, ...]


def findings(real: RealImages, effects: Sequence[ContextEffect]) -> Findings:
    """Return what the images say, `effects` being those of generated images."""
    table = Groups.of(real)
    biased = [effect for effect in effects if effect.biased]
    return Findings(
        tuple(table.subgroups()),
        table.worst(),
        tuple(table.averages()),
        tuple(judge(table.surveys())) if table.groups else (),
        tuple(replications(real, biased)),
    )


@dataclass(frozen=True)
class Groups:
    """The images as arrays (n,): class, probability, success, and which half they belong to.

    `groups` are the rows of each class, attribute and level that has any.
    """

    real: RealImages
    probability: np.ndarray
    correct: np.ndarray
    second: np.ndarray
    groups: Mapping[tuple[str, str, str], np.ndarray]

    @classmethod
    def of(cls, real: RealImages) -> Groups:
        classes = np.array(real.classes)
        groups = {}
        for attribute, tag in _tags(real).items():
            values = np.array(tag.values, np.int64)
            for name in dict.fromkeys(real.classes):
                for index, level in enumerate(tag.levels):
                    rows = np.flatnonzero((classes == name) & (values == index))
                    if len(rows):
                        groups[name, attribute, level] = rows
        return cls(
            real, np.array(real.probabilities, float), np.array(real.correct, bool), halves(real), groups
        )

    @property
    def large(self) -> dict[tuple[str, str, str], np.ndarray]:
        return {key: rows for key, rows in self.groups.items() if len(rows) >= FEW}

    def subgroups(self) -> list[Subgroup]:
        z = NormalDist().inv_cdf(1 - RATE / max(1, len(self.large)) / 2)
        return [
            Subgroup(*key, len(rows))
            if len(rows) < FEW
            else Subgroup(
                *key,
                len(rows),
                float(self.correct[rows].mean()),
                wilson_interval(int(self.correct[rows].sum()), len(rows), z),
                float(self.probability[rows].mean()),
            )
            for key, rows in self.groups.items()
        ]

    def worst(self) -> WorstGroup | None:
        """Return the worst group, None where there are not two to choose from."""
        large = self.large
        if len(large) < 2:
            return None
        key = min(
            large, key=lambda group: (self.correct[large[group][~self.second[large[group]]]].mean(), group)
        )
        rows = large[key][self.second[large[key]]]
        others = np.setdiff1d(np.flatnonzero(self.second), large[key])
        hits, rest = int(self.correct[rows].sum()), int(self.correct[others].sum())
        return WorstGroup(
            *key,
            len(large),
            len(rows),
            hits / len(rows),
            wilson_interval(hits, len(rows)),
            rest / max(1, len(others)),
            _highest_difference(hits, len(rows), rest, len(others)) < 0,
        )

    def averages(self) -> list[Average]:
        n, hits = len(self.correct), int(self.correct.sum())
        averages = [Average("", hits / n, wilson_interval(hits, n))] if n else []
        for attribute, by_class in self.real.training.items():
            weights = {
                (name, attribute, level): count
                for name, counts in by_class.items()
                for level, count in counts.items()
                if count
            }
            if weights and all(key in self.groups for key in weights):
                means = {key: float(self.correct[self.groups[key]].mean()) for key in weights}
                total = sum(weights.values())
                averages.append(
                    Average(attribute, sum(means[key] * n for key, n in weights.items()) / total, None)
                )
        return averages

    def surveys(self) -> list[ClassSurvey]:
        """Return one survey a class and attribute: the first half as the screen, the second as the new
        images.
        """
        by_class: dict[tuple[str, str], dict[str, np.ndarray]] = {}
        for (name, attribute, level), rows in self.large.items():
            by_class.setdefault((name, attribute), {})[level] = rows
        return [
            self._survey(name, attribute, levels)
            for (name, attribute), levels in by_class.items()
            if len(levels) >= 2
        ]

    def _survey(self, name: str, attribute: str, levels: Mapping[str, np.ndarray]) -> ClassSurvey:
        first, second = (
            {
                f"{attribute} = {level}": self.probability[rows[self.second[rows] == half]].tolist()
                for level, rows in levels.items()
            }
            for half in (False, True)
        )
        ordinary, apart = screened(first)
        if len(levels) == 2:  # of two, the frequent one is what the other is compared with
            usual, other = sorted(first, key=lambda context: -len(first[context]))
            stands_out = abs(float(np.mean(first[usual])) - float(np.mean(first[other]))) >= LEAST
            ordinary, apart = ([usual], {other: 1}) if stands_out else ([usual, other], {})
        fresh = {context: second[context] for context in apart}
        rest = {context: second[context] for context in ordinary} if apart else {}
        return ClassSurvey(name, first, ordinary, fresh, rest, [], dict.fromkeys(first, 0), [], [])


def halves(real: RealImages) -> np.ndarray:
    """Return which half each image belongs to, bool (n,): drawn at random, every other one of images tagged
    alike.

    Which half the first of these goes to is drawn, too: of a data set with one image in each place, all
    images in one place would else be in the same half.
    """
    n = len(real.images)
    rng = np.random.default_rng((real.seed, 89))
    if not n:
        return np.zeros(0, bool)
    _, classes = np.unique(real.classes, return_inverse=True)
    tags = np.stack([*(np.array(tag.values, np.int64) for tag in real.tags.values()), classes])
    order = np.lexsort((rng.random(n), *tags))
    starts = np.r_[True, (np.diff(tags[:, order]) != 0).any(axis=0)]
    alike = np.cumsum(starts) - 1
    place = np.arange(n) - np.flatnonzero(starts)[alike]
    second = np.zeros(n, bool)
    second[order] = (place + rng.integers(0, 2, alike[-1] + 1)[alike]) % 2 == 1
    return second


def _tags(real: RealImages) -> dict[str, Tag]:
    """Return the attributes from columns, and those that observers answered: a context is there or not."""
    tags = dict(real.tags)
    for answers in real.answers:
        if (factor := attenuation(answers)) is not None and factor < MIN_ATTENUATION:
            continue
        values = tags.setdefault(answers.context, Tag(["no", "yes"], [-1] * len(real.images))).values
        for row, shown in zip(answers.images, answers.shown, strict=True):
            if shown is not None and real.classes[row] == answers.class_name:
                values[row] = int(shown)
    return tags


def _highest_difference(hits: int, n: int, others: int, n_others: int) -> float:
    """Return the upper end of Newcombe's 95% interval of a difference of two shares, 1.0 without a second
    group.
    """
    if not n or not n_others:
        return 1.0
    first, second = hits / n, others / n_others
    _, high = wilson_interval(hits, n)
    low, _ = wilson_interval(others, n_others)
    return first - second + math.hypot(high - first, second - low)
