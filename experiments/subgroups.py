"""What real images say of an audit: accuracy by subgroup, the worst group, associations, and which findings replicate.

A subgroup is a class's images with one value of an attribute. The least of many noisy figures is too low, so the worst
group is chosen on one half of the images and its accuracy taken from the other. Associations go through the audit's two
stages (`experiments.contexts`): what stands out on one half is tested on the other. Nobody has drawn the context of a
real image at random: a difference may come from what goes with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from actors.scenes.backgrounds import BACKGROUND_WORDS
from actors.vision.class_match import plain
from agents.statistics import benjamini_hochberg, permutation_p_values, wilson_interval
from experiments.contexts import LEAST, RATE, ClassSurvey, ContextEffect, judge, screened
from experiments.real_images import Answers, RealImages, Tag

FEW = 25
"""Images below which nothing is said of a group."""
FEWEST = 10
"""Images with a context, and without it, below which a finding is not put to the test."""
LEAST_TOLD = 0.2
"""PPV + NPV - 1 below which the observers cannot tell a context from its absence."""

Interval = tuple[float, float]
Replicated = Literal["replicated", "not replicated", "opposite", "too few images", "not tested"]


@dataclass(frozen=True, slots=True)
class Subgroup:
    """A class's images with one value of an attribute. Where they are fewer than `FEW`, all figures are None.

    `accuracy_interval` is Wilson's at 0.05 divided by the number of groups; `probability` is the class's mean.
    """

    class_name: str
    attribute: str
    level: str
    n: int
    accuracy: float | None = None
    accuracy_interval: Interval | None = None
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class WorstGroup:
    """The group with the least accuracy among `groups`, chosen on one half: all figures are of the other.

    `interval` is Wilson's at 95 %. `below` says that its accuracy is surely below that of the other images (`others`):
    the 95 % interval of the difference (Newcombe's) ends below 0.
    """

    class_name: str
    attribute: str
    level: str
    groups: int
    n: int
    accuracy: float
    interval: Interval
    others: float
    below: bool


@dataclass(frozen=True, slots=True)
class Average:
    """Accuracy over all images, or with groups of an attribute weighted by their share of the training images."""

    weighted_by: str
    accuracy: float
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class Replication:
    """What real images of the class say of a finding on generated ones.

    `effect` is the mean probability with the context less that without; `interval` its 95 % bootstrap interval, `q`
    over all findings that were put to the test. `factor` is PPV + NPV - 1 of the observers who told the context, None
    where a column tells it or their errors are not known: a difference is seen smaller by it, and `corrected` is the
    effect divided by it.
    """

    class_name: str
    context: str
    generated: float
    verdict: Replicated
    told_by: str = ""
    n: int = 0
    n_without: int = 0
    effect: float | None = None
    interval: Interval | None = None
    q: float | None = None
    factor: float | None = None
    corrected: float | None = None


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
        key = min(large, key=lambda each: (self.correct[large[each][~self.second[large[each]]]].mean(), each))
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
        found = [Average("", hits / n, wilson_interval(hits, n))] if n else []
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
                found.append(
                    Average(attribute, sum(means[key] * n for key, n in weights.items()) / total, None)
                )
        return found

    def surveys(self) -> list[ClassSurvey]:
        """Return one survey a class and attribute: the first half as the screen, the second as the new images."""
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
    """Return which half each image belongs to, bool (n,): drawn at random, every other one of images tagged alike."""
    n = len(real.images)
    random = np.random.default_rng((real.seed, 89)).random(n)
    tags = [np.array(tag.values, np.int64) for tag in real.tags.values()]
    _, classes = np.unique(real.classes, return_inverse=True)
    order = np.lexsort((random, *tags, classes)) if n else np.zeros(0, np.int64)
    second = np.zeros(n, bool)
    second[order[1::2]] = True
    return second


def _tags(real: RealImages) -> dict[str, Tag]:
    """Return the attributes from columns, and those that observers told: a context is there or not."""
    tags = dict(real.tags)
    for each in real.answers:
        if (factor := told_apart(each)) is not None and factor < LEAST_TOLD:
            continue
        values = tags.setdefault(each.context, Tag(["no", "yes"], [-1] * len(real.images))).values
        for row, shown in zip(each.images, each.shown, strict=True):
            if shown is not None and real.classes[row] == each.class_name:
                values[row] = int(shown)
    return tags


def told_apart(answers: Answers) -> float | None:
    """Return PPV + NPV - 1 of the observers on these images, at least 0; None where their errors are not known.

    From sensitivity s and specificity c on generated images and the prevalence, (p + c - 1) / (s + c - 1) for a share p
    of answers "yes" (Rogan and Gladen 1978). With errors that do not depend on the network's success, a true
    difference is seen smaller by this factor.
    """
    told = [shown for shown in answers.shown if shown is not None]
    if not answers.present or not answers.absent or not told:
        return None
    s, c = answers.hits / answers.present, 1 - answers.alarms / answers.absent
    if s + c <= 1:
        return 0.0
    prevalence = min(1.0, max(0.0, (sum(told) / len(told) + c - 1) / (s + c - 1)))
    yes = s * prevalence + (1 - c) * (1 - prevalence)
    if not 0 < yes < 1:
        return 0.0
    ppv, npv = s * prevalence / yes, c * (1 - prevalence) / (1 - yes)
    return max(0.0, ppv + npv - 1)


def replications(real: RealImages, biased: Sequence[ContextEffect]) -> list[Replication]:
    """Return what real images say of each finding on generated ones, in order."""
    sides = [_sides(real, effect) for effect in biased]
    tested = [each for each in sides if min(map(len, each.values)) >= FEWEST and not each.blind]
    pairs: list[tuple[Sequence[float], Sequence[float]]] = [
        (each.values[0].tolist(), each.values[1].tolist()) for each in tested
    ]
    q_values = iter(benjamini_hochberg(permutation_p_values(pairs).tolist()).tolist() if tested else ())
    found = []
    for effect, each in zip(biased, sides, strict=True):
        n, n_without = map(len, each.values)
        about = Replication(
            effect.class_name, effect.context, effect.difference, "not tested", each.told_by, n, n_without
        )
        if each.told_by and not each.blind:
            about = _compared(about, each, next(q_values)) if min(n, n_without) >= FEWEST else _few(about)
        found.append(about)
    return found


@dataclass(frozen=True)
class _Sides:
    """Probabilities with a context and without, by whom it was told, and PPV + NPV - 1 where that is known."""

    values: tuple[np.ndarray, np.ndarray]
    told_by: str
    factor: float | None = None

    @property
    def blind(self) -> bool:
        return self.factor is not None and self.factor < LEAST_TOLD


def _sides(real: RealImages, effect: ContextEffect) -> _Sides:
    """Return the class's images with a context and without: by a column that tells it, else by the observers."""
    probability = np.array(real.probabilities, float)
    own = np.array([name == effect.class_name for name in real.classes], bool)
    for attribute, tag in real.tags.items():
        if (level := column_level(effect.context, attribute, tag.levels)) is not None:
            values = np.array(tag.values, np.int64)
            sides = probability[own & (values == level)], probability[own & (values >= 0) & (values != level)]
            return _Sides(sides, f"column {attribute!r}")
    for answers in real.answers:
        if (answers.class_name, answers.context) == (effect.class_name, effect.context):
            rows, shown = np.array(answers.images, np.int64), answers.shown
            yes, no = (probability[rows[[each is wanted for each in shown]]] for wanted in (True, False))
            return _Sides((yes, no), "observers", told_apart(answers))
    return _Sides((np.zeros(0), np.zeros(0)), "")


def _compared(about: Replication, sides: _Sides, q: float) -> Replication:
    first, second = sides.values
    effect = float(first.mean() - second.mean())
    rng = np.random.default_rng(0)
    means = [rng.choice(each, (2000, len(each))).mean(axis=1) for each in (first, second)]
    low, high = np.quantile(means[0] - means[1], (0.025, 0.975))
    sure, same = q <= RATE, effect * about.generated > 0
    return Replication(
        about.class_name, about.context, about.generated,
        "not replicated" if not sure else "replicated" if same else "opposite",
        about.told_by, about.n, about.n_without, effect, (float(low), float(high)), float(q), sides.factor,
        None if sides.factor is None else effect / sides.factor,
    )  # fmt: skip


def _few(about: Replication) -> Replication:
    return Replication(
        about.class_name,
        about.context,
        about.generated,
        "too few images",
        about.told_by,
        about.n,
        about.n_without,
    )


_ATTRIBUTES = {
    "background": {"background", "place", "scene", "setting", "location", "habitat"},
    "colour": {"colour", "color"},
    "companion": {"companion", "beside", "next to"},
    "count": {"count", "number"},
    "size": {"size"},
}
_DIGITS = {"2": "two", "3": "three"}


def column_level(context: str, attribute: str, levels: Sequence[str]) -> int | None:
    """Return the place of the level that a context of the design is by name, None if a column does not tell it."""
    factor, _, wanted = context.partition(": ")
    if plain(attribute) not in _ATTRIBUTES.get(factor, ()):
        return None

    def known(level: str) -> str:
        word = plain(level)
        return BACKGROUND_WORDS.get(word, word) if factor == "background" else _DIGITS.get(word, word)

    return next((index for index, level in enumerate(levels) if known(level) == known(wanted)), None)


def _highest_difference(hits: int, n: int, others: int, n_others: int) -> float:
    """Return the upper end of Newcombe's 95 % interval of a difference of two shares, 1.0 without a second group."""
    if not n or not n_others:
        return 1.0
    first, second = hits / n, others / n_others
    _, high = wilson_interval(hits, n)
    low, _ = wilson_interval(others, n_others)
    return first - second + math.hypot(high - first, second - low)
