"""The bias audit: in which contexts is a class's probability lower, or higher, while the class is present?

The object is held fixed. A screening draws all factors at random at once, so that every image speaks for
every factor; whatever stands out is then tested on fresh images of its own, against the same subject without
it, and only what holds there (Holm's correction, level 0.01) is reported. The smallest effect that such a
test would have found is reported too: "no bias found" means no bias larger than that.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np

from actors.embedded.drawing.vocabulary import with_article
from actors.embedded.language.words import Words, number_word, plain_name
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

SCREEN = 48
"""Images of one screening round; there are two."""
SCREENS = 2
PAIRS = 12
"""Fresh images with, and as many without, for each suspected context."""
MAX_SUSPECTS = 8
AT_ONCE = 4
"""Suspected contexts of one test."""
ALPHA = 0.01
MIN_EFFECT = 0.05
"""Smallest difference of mean probability worth a word."""
_COMPANIONS = 6
_VARIED = {"background": 1.0, "color": 0.6, "count": 0.4, "size": 0.4, "companion": 0.5}
"""Share of the screening images in which a factor is set."""


@dataclass(frozen=True, slots=True)
class Effect:
    """The difference that one level of a factor makes: mean with it minus mean without, and its p-value."""

    factor: str
    level: str
    mean_with: float
    mean_without: float
    p: float
    n: int

    @property
    def size(self) -> float:
        return self.mean_with - self.mean_without


class BiasAudit:
    """One decision in the audit of one class."""

    def __init__(
        self,
        class_name: str,
        state: StudyState,
        measured: Sequence[MeasuredContext],
        words: Words,
        rng: random.Random,
    ) -> None:
        self._state, self._measured = state, list(measured)
        self._words, self._rng = words, rng
        self.subject = plain_name(class_name)
        self._levels = self._all_levels()

    def next_turn(self) -> str:
        """Return the next assistant turn: a program, or the final answer."""
        failed = self._state.rounds - len({image.round for image in self._measured})
        if self._state.final or failed >= MAX_FAILURES or not self.subject:
            return self._conclude()
        screened = {image.round for image in self._measured if "test" not in image.context.levels}
        if len(screened) < SCREENS:
            return self._screen()
        tested = {image.context.get("test") for image in self._measured} - {NONE}
        suspects = [effect for effect in self._suspects() if _name(effect) not in tested]
        if suspects:
            return self._test(suspects[:AT_ONCE])
        return self._conclude()

    def _all_levels(self) -> dict[str, list[str]]:
        words = self._words
        own = {self.subject}
        others = [name for name in words.concepts if name not in own]
        # The same few companions in every round: a level needs several images.
        companions = random.Random(self.subject).sample(others, min(_COMPANIONS, len(others)))
        return {
            "background": list(words.backgrounds),
            "color": list(words.colors),
            "count": ["2", "3", "5"],
            "size": ["small", "large"],
            "companion": companions,
        }

    # Turns

    def _screen(self) -> str:
        decks = {}
        for factor, levels in self._levels.items():
            deck = self._rng.sample(levels, len(levels))
            decks[factor] = cycle(deck)
        trials = []
        for _ in range(SCREEN):
            drawn = {
                factor: next(deck) for factor, deck in decks.items() if self._rng.random() < _VARIED[factor]
            }
            context = Context(drawn)
            trials.append((context, prompt_of(context, self.subject, self._words)))
        hypotheses = [
            f"the probability of {self.subject} falls on some background",
            f"the probability of {self.subject} depends on its color, number or size",
            f"the probability of {self.subject} depends on what stands beside it",
            f"the probability of {self.subject} is the same in all contexts",
        ]
        thoughts = (
            f"I keep the {self.subject} and vary everything around it, many factors at once. "
            + self._range_so_far()
        )
        return reply(
            thoughts.strip(), hypotheses, context_program("The object fixed, its context varied.", trials)
        )

    def _test(self, suspects: Sequence[Effect]) -> str:
        trials = []
        for effect in suspects:
            for present in (True, False):
                for _ in range(PAIRS):
                    levels = {"background": self._rng.choice(self._levels["background"])}
                    if effect.factor == "background":
                        others = [b for b in self._levels["background"] if b != effect.level]
                        levels["background"] = effect.level if present else self._rng.choice(others)
                    elif present:
                        levels[effect.factor] = effect.level
                    context = Context(
                        {**levels, "test": _name(effect), "present": "yes" if present else "no"}
                    )
                    trials.append((context, prompt_of(context, self.subject, self._words)))
        hypotheses = [
            f"the probability of {self.subject} is {self._direction(suspect)}" for suspect in suspects
        ]
        hypotheses.append("these differences were chance")
        return reply(
            self._range_so_far() + " What stands out is put to the test on fresh images.",
            hypotheses,
            context_program("Fresh images with and without each suspected context.", trials),
        )

    def _range_so_far(self) -> str:
        if not self._measured:
            return ""
        ordered = sorted(self._measured, key=lambda image: image.activation)
        low, high = ordered[0], ordered[-1]
        return (
            f"So far {len(ordered)} images: lowest {low.activation:.2f} ({low.context.code}), "
            f"highest {high.activation:.2f} ({high.context.code})."
        )

    # Numbers

    def _screening(self) -> list[MeasuredContext]:
        return [image for image in self._measured if "test" not in image.context.levels]

    def _suspects(self) -> list[Effect]:
        """Return the levels with the surest main effects in the screening, surest first."""
        rows = self._screening()
        effects = main_effects(rows, self._levels)
        suspects = [e for e in effects if e.p < 0.05 and abs(e.size) >= MIN_EFFECT]
        return suspects[:MAX_SUSPECTS]

    def _confirmed(self) -> tuple[list[Effect], list[Effect]]:
        """Return what held on fresh images by Holm's procedure, and what did not."""
        groups: dict[str, dict[str, list[float]]] = {}
        for image in self._measured:
            if (test := image.context.get("test")) != NONE:
                side = groups.setdefault(test, {"yes": [], "no": []})
                side.setdefault(image.context.get("present"), []).append(image.activation)
        effects = []
        for test, sides in groups.items():
            factor, _, level = test.partition(":")
            if len(sides["yes"]) >= 4 and len(sides["no"]) >= 4:
                yes, no = np.array(sides["yes"]), np.array(sides["no"])
                p = permutation_p(yes, no)
                effects.append(
                    Effect(factor, level, float(yes.mean()), float(no.mean()), p, len(yes) + len(no))
                )
        effects.sort(key=lambda effect: effect.p)
        held: list[Effect] = []
        for rank, effect in enumerate(effects):
            if effect.p > ALPHA / (len(effects) - rank):
                break
            if abs(effect.size) >= MIN_EFFECT:
                held.append(effect)
        return held, [effect for effect in effects if effect not in held]

    def _direction(self, effect: Effect) -> str:
        return f"{'lower' if effect.size < 0 else 'higher'} {_worded(effect, self._words)}"

    def _detectable(self) -> float:
        """Return the difference that a test of PAIRS + PAIRS images finds with a power of 80 %."""
        values = np.array([image.activation for image in self._measured])
        spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        return max(MIN_EFFECT, (2.58 + 0.84) * spread * math.sqrt(2 / PAIRS))

    def _conclude(self) -> str:
        if not self.subject:
            return "[BIAS]: No class could be made out in the task, so nothing was tested."
        if not self._measured:
            return f"[BIAS]: No experiment on {self.subject} brought a measurement, so nothing can be said."
        mean = float(np.mean([image.activation for image in self._screening() or self._measured]))
        scope = (
            f"Over {len(self._measured)} images of {self.subject}, with "
            f"{len(self._levels['background'])} backgrounds, {len(self._levels['color'])} colors, counts, "
            f"sizes and companions, the mean was {mean:.2f}."
        )
        held, fallen = self._confirmed()
        # With other images a context near the limit may fall on its other side: its figures say how near it
        # came.
        other = "; ".join(f"{_worded(e, self._words)} ({_figures(e)})" for e in fallen)
        tail = f" What had stood out did not hold on fresh images: {other}." if other else ""
        if held:
            effects = "; ".join(f"{self._direction(effect)} ({_figures(effect)})" for effect in held)
            return f"[BIAS]: The score of {self.subject} is {effects}. {scope}{tail}"
        highest = max(image.activation for image in self._measured)
        if highest < MIN_EFFECT:
            return (
                f"[BIAS]: Nothing could be measured for {self.subject}: it was not recognized in any image, "
                f"the highest probability being {highest:.2g}, so that no context could take anything from "
                f"it. {scope}"
            )
        smallest = self._detectable()
        floor = (
            f" A loss of that size was not possible, for the mean is {mean:.2f}." if mean < smallest else ""
        )
        return (
            f"[BIAS]: No bias was found for {self.subject}. {scope} A difference of {smallest:.2f} "
            f"in the mean of a tested context would have been seen in four of five cases.{floor}{tail}"
        )


def main_effects(rows: Sequence[MeasuredContext], levels: dict[str, list[str]]) -> list[Effect]:
    """Return main effects of levels, surest first.

    Each level is set against all else, the strongest explained away first: with several dozen levels a joint
    fit is too loose.
    """
    has = {
        (factor, level): np.array([row.context.get(factor) == level for row in rows])
        for factor, known in levels.items()
        for level in known
    }
    left = {name: on for name, on in has.items() if on.sum() >= 2}
    y = np.array([row.activation for row in rows])
    if len(rows) < 8 or not left or np.ptp(y) == 0:
        return []
    effects: list[Effect] = []
    residual = y - y.mean()
    while len(effects) < MAX_SUSPECTS:
        p_values = {name: _level_p(residual, on) for name, on in left.items() if len(y) - on.sum() >= 2}
        if not p_values:
            break
        best = min(p_values, key=lambda name: p_values[name])
        on = left.pop(best)
        effects.append(Effect(*best, float(y[on].mean()), float(y[~on].mean()), p_values[best], len(rows)))
        residual = residual - np.where(on, residual[on].mean(), residual[~on].mean())
    return sorted(effects, key=lambda effect: effect.p)


def _level_p(residual: np.ndarray, on: np.ndarray) -> float:
    """Return the two-sided p-value of a difference between the images with a level and those without."""
    from scipy import stats

    with_it, without = residual[on], residual[~on]
    squares = float(with_it.var()) * len(with_it) + float(without.var()) * len(without)
    spread = math.sqrt(max(squares, 1e-12)) / math.sqrt(max(1, len(residual) - 2))
    t = (with_it.mean() - without.mean()) / (spread * math.sqrt(1 / len(with_it) + 1 / len(without)))
    return float(2 * stats.t.sf(abs(t), len(residual) - 2))


def permutation_p(first: np.ndarray, second: np.ndarray, draws: int = 4999) -> float:
    """Return the two-sided p-value of the difference of means under exchange of the images."""
    rng = np.random.default_rng(0)
    values = np.concatenate([first, second])
    observed = abs(first.mean() - second.mean())
    shuffled = rng.permuted(np.tile(values, (draws, 1)), axis=1)
    n = len(first)
    differences = np.abs(shuffled[:, :n].mean(axis=1) - shuffled[:, n:].mean(axis=1))
    return float((1 + (differences >= observed - 1e-12).sum()) / (draws + 1))


def _name(effect: Effect) -> str:
    return f"{effect.factor}:{effect.level}"


def _figures(effect: Effect) -> str:
    return (
        f"mean {effect.mean_with:.2f} against {effect.mean_without:.2f} without, {effect.n} fresh images, "
        f"p = {effect.p:.4f}"
    )


def _worded(effect: Effect, words: Words) -> str:
    if effect.factor == "background":
        known = words.backgrounds.get(effect.level)
        return f"{known.phrase if known else f'on {effect.level}'} (background)"
    if effect.factor == "color":
        return f"when it is {effect.level} (color)"
    if effect.factor == "count":
        return f"when there are {number_word(int(effect.level))} of them (count)"
    if effect.factor == "size":
        return f"when it is {effect.level} (size)"
    return f"beside {with_article(effect.level)} (companion)"
