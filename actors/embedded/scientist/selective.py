"""The robust-feature test: does a unit answer to the object whatever the place, or to the place?

Every class is shown in every environment, and the environments without any class. The unit is called
SELECTIVE only if the class explains most of what varies and the place little; when unsure, SPURIOUS.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.chat.tasks import JudgeSelectivityTask
from actors.embedded.language.words import Words, plain_name
from actors.embedded.reasoning.programs import reply
from actors.embedded.reasoning.study_state import StudyState
from actors.embedded.scientist.contexts import (
    MAX_FAILURES,
    NONE,
    Context,
    MeasuredContext,
    context_program,
    prompt_of,
)

ROUNDS = 3
BATCH = 48
_MIN_CLASS_SHARE = 0.3
_MAX_PLACE_SHARE = 0.15
_MAX_PLACE_RATIO = 0.5
"""Largest spread over environments, as a part of that over classes, of a unit that is called selective."""
_ALPHA = 0.01


@dataclass(frozen=True, slots=True)
class VarianceShares:
    """A two-way table of activations; shares of variance are corrected for chance (omega squared)."""

    by_class: dict[str, float]
    by_place: dict[str, float]
    place_alone: dict[str, float]
    class_share: float
    place_share: float
    p_class: float
    n: int

    @property
    def class_range(self) -> float:
        return max(self.by_class.values()) - min(self.by_class.values())

    @property
    def place_range(self) -> float:
        return max(self.by_place.values()) - min(self.by_place.values())

    @property
    def selective(self) -> bool:
        return (
            self.p_class < _ALPHA
            and self.class_share >= _MIN_CLASS_SHARE
            and self.place_share <= _MAX_PLACE_SHARE
            and self.place_range <= _MAX_PLACE_RATIO * self.class_range
            and not self.empty_place_drives
        )

    @property
    def empty_place_drives(self) -> bool:
        """Whether some environment without any object does more than half of what the best class does."""
        if not self.place_alone:
            return False
        low = min(self.by_class.values())
        return max(self.place_alone.values()) - low > 0.5 * self.class_range


class SelectivityTest:
    """One decision in the test of one unit."""

    def __init__(
        self,
        task: JudgeSelectivityTask,
        state: StudyState,
        measured: Sequence[MeasuredContext],
        words: Words,
        rng: random.Random,
    ) -> None:
        self._state, self._measured = state, list(measured)
        self._words, self._rng = words, rng
        self.classes = list(dict.fromkeys(map(plain_name, task.classes)))
        self.places = list(dict.fromkeys(map(plain_name, task.environments)))

    def next_turn(self) -> str:
        """Return the next assistant turn: a program, or the final answer."""
        rounds = {image.round for image in self._measured}
        failed = self._state.rounds - len(rounds)
        untestable = len(self.classes) < 2 or len(self.places) < 2
        if self._state.final or failed >= MAX_FAILURES or untestable or len(rounds) >= ROUNDS:
            return self._conclude()
        shares = two_way(self._measured)
        if len(rounds) == ROUNDS - 1 and shares and shares.p_class > 0.2 and shares.class_share < 0.05:
            return self._conclude()
        return self._experiment()

    def _experiment(self) -> str:
        cells = [(name, place) for name in self.classes for place in self.places]
        repeats = max(1, (BATCH - len(self.places)) // len(cells))
        chosen = cells * repeats if len(cells) <= BATCH else self._rng.sample(cells, BATCH)
        trials = []
        for name, place in chosen:
            context = Context({"class": name, "background": place})
            trials.append((context, prompt_of(context, name, self._words)))
        for place in self.places:
            context = Context({"background": place})
            trials.append((context, prompt_of(context, "", self._words)))
        hypotheses = [
            "the unit answers to one of the classes whatever the environment (selective)",
            "the unit answers to an environment whatever stands in it (spurious)",
            "the unit answers to a class only in its usual environment (spurious)",
        ]
        thoughts = "Every class in every environment, and the environments alone. " + self._shares_so_far()
        return reply(thoughts.strip(), hypotheses, context_program("Class by environment.", trials))

    def _shares_so_far(self) -> str:
        shares = two_way(self._measured)
        if shares is None:
            return ""
        return (
            f"So far the class explains {shares.class_share:.0%} of the variance and the environment "
            f"{shares.place_share:.0%}."
        )

    def _conclude(self) -> str:
        shares = two_way(self._measured)
        if shares is None:
            return (
                "[REASONING]: Too little could be measured to tell the object from its environment, and an "
                "unsure unit is not trusted.\n[LABEL]: SPURIOUS"
            )
        by_class = ", ".join(f"{name} {mean:.2f}" for name, mean in shares.by_class.items())
        by_place = ", ".join(f"{name} {mean:.2f}" for name, mean in shares.by_place.items())
        alone = ", ".join(f"{name} {mean:.2f}" for name, mean in shares.place_alone.items())
        reasoning = (
            f"Over {shares.n} images of every class in every environment, the class explains "
            f"{shares.class_share:.0%} of the variance (p = {shares.p_class:.2g}) and the environment "
            f"{shares.place_share:.0%}. Mean by class: {by_class}. Mean by environment: {by_place}."
        )
        if alone:
            reasoning += f" Environments without any object: {alone}."
        if shares.selective:
            reasoning += " The unit follows the object and hardly its place."
        else:
            reasoning += " The unit does not follow the object clearly enough apart from its place."
        return f"[REASONING]: {reasoning}\n[LABEL]: {'SELECTIVE' if shares.selective else 'SPURIOUS'}"


def two_way(measured: Sequence[MeasuredContext]) -> VarianceShares | None:
    """Return the analysis of variance of class and environment, or None if there is too little of it."""
    from scipy import stats

    rows = [row for row in measured if row.context.get("class") != NONE]
    classes, places = _levels(rows, "class"), _levels(rows, "background")
    if len(classes) < 2 or len(places) < 2 or len(rows) < 2 * (len(classes) + len(places)):
        return None
    y = np.array([row.activation for row in rows])
    by_class, by_place = _indicators(rows, "class", classes), _indicators(rows, "background", places)
    both = _residual(y, by_class, by_place)
    df = len(rows) - 1 - by_class.shape[1] - by_place.shape[1]
    total = float(((y - y.mean()) ** 2).sum())
    if df < 1 or total <= 1e-12:
        return None
    noise = both / df

    def omega(gain: float, k: int) -> float:
        return float(np.clip((gain - k * noise) / (total + noise), 0, 1))

    # What each explains beyond the other: the design may be unbalanced after failed images.
    gain_class, gain_place = _residual(y, by_place) - both, _residual(y, by_class) - both
    k_class = by_class.shape[1]
    empty = [row for row in measured if row.context.get("class") == NONE]
    return VarianceShares(
        _means(rows, "class"),
        _means(rows, "background"),
        _means(empty, "background"),
        omega(gain_class, k_class),
        omega(gain_place, by_place.shape[1]),
        float(stats.f.sf(gain_class / k_class / max(noise, 1e-12), k_class, df)),
        len(rows),
    )


def _levels(rows: Sequence[MeasuredContext], factor: str) -> list[str]:
    return list(dict.fromkeys(row.context.get(factor) for row in rows))


def _indicators(rows: Sequence[MeasuredContext], factor: str, levels: Sequence[str]) -> np.ndarray:
    """Return float64 (rows, levels - 1): which level each row has, the first level left out."""
    return np.array([[float(row.context.get(factor) == level) for level in levels[1:]] for row in rows])


def _residual(y: np.ndarray, *parts: np.ndarray) -> float:
    """Return the sum of squares of y that a linear model of the parts leaves."""
    design = np.hstack([np.ones((len(y), 1)), *parts])
    fit, *_ = np.linalg.lstsq(design, y, rcond=None)
    return float(((y - design @ fit) ** 2).sum())


def _means(rows: Sequence[MeasuredContext], factor: str) -> dict[str, float]:
    """Return the mean activation of each level of a factor."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(row.context.get(factor), []).append(row.activation)
    return {level: float(np.mean(values)) for level, values in groups.items()}
