"""What real images say of findings on generated ones: replicated, or said not to be.

Which images show a context is known from a column that has its name, or from the observers, whose errors
attenuate differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from actors.embedded.drawing.vocabulary import BACKGROUND_WORDS
from actors.vision.data.class_match import plain
from agents.evidence.statistics import benjamini_hochberg, permutation_p_values
from experiments.audit.context_survey import RATE, ContextEffect
from experiments.audit.real_images import Answers, RealImages

FEWEST = 10
"""Images with a context, and without it, below which a finding is not put to the test."""
MIN_ATTENUATION = 0.2
"""PPV + NPV - 1 below which the observers cannot distinguish a context from its absence."""
ConfidenceInterval = tuple[float, float]
Replicated = Literal["replicated", "not replicated", "opposite", "too few images", "not tested"]
_ATTRIBUTES = {
    "background": {"background", "place", "scene", "setting", "location", "habitat"},
    "colour": {"colour", "color"},
    "companion": {"companion", "beside", "next to"},
    "count": {"count", "number"},
    "size": {"size"},
}
_DIGITS = {"2": "two", "3": "three"}


@dataclass(frozen=True, slots=True)
class Replication:
    """What real images of the class say of a finding on generated ones.

    `effect` is the mean probability with the context less that without; `interval` its 95% bootstrap
    interval, `q` over all findings that were put to the test. `factor` is PPV + NPV - 1 of the observers who
    answered, None where a column says it or their errors are not known: a difference is seen smaller
    by it, and `corrected` is the effect divided by it.
    """

    class_name: str
    context: str
    generated: float
    verdict: Replicated
    told_by: str = ""
    n: int = 0
    n_without: int = 0
    effect: float | None = None
    interval: ConfidenceInterval | None = None
    q: float | None = None
    factor: float | None = None
    corrected: float | None = None


def attenuation(answers: Answers) -> float | None:
    """Return PPV + NPV - 1 of the observers on these images, at least 0; None where their errors are not
    known.

    From sensitivity s and specificity c on generated images and the prevalence, (p + c - 1) / (s + c - 1) for
    a share p of answers "yes" (Rogan and Gladen 1978). With errors that do not depend on the network's
    success, a true difference is seen smaller by this factor.
    """
    known = [shown for shown in answers.shown if shown is not None]
    if not answers.present or not answers.absent or not known:
        return None
    s, c = answers.hits / answers.present, 1 - answers.alarms / answers.absent
    if s + c <= 1:
        return 0.0
    prevalence = min(1.0, max(0.0, (sum(known) / len(known) + c - 1) / (s + c - 1)))
    yes = s * prevalence + (1 - c) * (1 - prevalence)
    if not 0 < yes < 1:
        return 0.0
    ppv, npv = s * prevalence / yes, c * (1 - prevalence) / (1 - yes)
    return max(0.0, ppv + npv - 1)


def replications(real: RealImages, biased: Sequence[ContextEffect]) -> list[Replication]:
    """Return what real images say of each finding on generated ones, in order."""
    sides = [_sides(real, effect) for effect in biased]
    tested = [each for each in sides if each.enough and not each.blind]
    pairs: list[tuple[Sequence[float], Sequence[float]]] = [
        (each.values[0].tolist(), each.values[1].tolist()) for each in tested
    ]
    q_values = iter(benjamini_hochberg(permutation_p_values(pairs).tolist()).tolist() if tested else ())
    return [
        _replication(effect, each, next(q_values) if each.enough and not each.blind else None)
        for effect, each in zip(biased, sides, strict=True)
    ]


def _replication(effect: ContextEffect, sides: _Sides, q: float | None) -> Replication:
    """Return what the sides say of a finding; `q` is None where they were not put to the test."""
    n, n_without = map(len, sides.values)
    replication = Replication(
        effect.class_name, effect.context, effect.difference, "not tested", sides.told_by, n, n_without
    )
    if q is not None:
        return _compared(replication, sides, q)
    if sides.told_by and not sides.blind:
        return replace(replication, verdict="too few images")
    return replication


@dataclass(frozen=True)
class _Sides:
    """Probabilities with a context and without, who said so, and PPV + NPV - 1 where that is
    known.
    """

    values: tuple[np.ndarray, np.ndarray]
    told_by: str
    factor: float | None = None

    @property
    def enough(self) -> bool:
        """Whether there are enough images on both sides."""
        return min(map(len, self.values)) >= FEWEST

    @property
    def blind(self) -> bool:
        return self.factor is not None and self.factor < MIN_ATTENUATION


def _sides(real: RealImages, effect: ContextEffect) -> _Sides:
    """Return the class's images with a context and without: by a column that says it, else by the
    observers.
    """
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
            yes, no = (probability[rows[[answer is wanted for answer in shown]]] for wanted in (True, False))
            return _Sides((yes, no), "observers", attenuation(answers))
    return _Sides((np.zeros(0), np.zeros(0)), "")


def _compared(about: Replication, sides: _Sides, q: float) -> Replication:
    first, second = sides.values
    effect = float(first.mean() - second.mean())
    rng = np.random.default_rng(0)
    means = [rng.choice(side, (2000, len(side))).mean(axis=1) for side in (first, second)]
    low, high = np.quantile(means[0] - means[1], (0.025, 0.975))
    sure, same = q <= RATE, effect * about.generated > 0
    return Replication(
        about.class_name, about.context, about.generated,
        "not replicated" if not sure else "replicated" if same else "opposite",
        about.told_by, about.n, about.n_without, effect, (float(low), float(high)), float(q), sides.factor,
        None if sides.factor is None else effect / sides.factor,
    )  # fmt: skip


def column_level(context: str, attribute: str, levels: Sequence[str]) -> int | None:
    """Return the place of the level that a context of the design is by name, None if a column does not say
    it.
    """
    factor, _, wanted = context.partition(": ")
    if plain(attribute) not in _ATTRIBUTES.get(factor, ()):
        return None

    def known(level: str) -> str:
        word = plain(level)
        return BACKGROUND_WORDS.get(word, word) if factor == "background" else _DIGITS.get(word, word)

    return next((index for index, level in enumerate(levels) if known(level) == known(wanted)), None)
