"""Which planted biases an audit has found, and which of its other findings the network really bears out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from actors.embedded.drawing.grammar import parse_prompt
from actors.embedded.drawing.render import render
from agents.evidence.statistics import wilson_interval
from experiments.audit.claims import Disagreement
from experiments.audit.context_survey import CONTEXTS, LEAST, ContextEffect, prompt_of
from experiments.audit.record import AuditRecord
from experiments.paper.gym import classifiers
from experiments.paper.gym.biases import BiasDesign

TRUTH_IMAGES = 400
"""Images in a context, and as many in others, from which the true difference is known: its standard error is
about 0.02.
"""

TrueDifference = Callable[[str, str, Sequence[str]], float]
"""The true difference of a class's mean probability in a context and in ordinary contexts."""
Probabilities = Callable[[int, Sequence[str], np.random.Generator], np.ndarray]
"""The probability of a class, by its number, on an image of each prompt, float64 (n,)."""

ClassRow = TypedDict(
    "ClassRow",
    {
        "network": int,
        "class": str,
        "planted": str | None,
        "found": bool,
        "flagged": list[str],
        "true_differences": dict[str, float],
        "borne_out": list[str],
        "false_alarm": bool,
        "detectable": float,
        "answer": str | None,
        "named": bool,
        "disagreements": list[Disagreement],
    },
)
"""A class that was audited: what was planted, what was found, and which other findings are real."""


@dataclass(frozen=True, slots=True)
class Proportion:
    """`hits` of `n` with Wilson's 95% interval; `share` is None of none."""

    hits: int
    n: int
    share: float | None
    interval: tuple[float, float]

    @classmethod
    def of(cls, hits: int, n: int) -> Proportion:
        return cls(hits, n, hits / n if n else None, wilson_interval(hits, n))

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.hits} of {self.n} ({low:.2f} to {high:.2f})"


@dataclass(frozen=True)
class PlantedSummary:
    """Shares of planted biases found, by the figures and by agents that gave an answer, and of false
    alarms.
    """

    found: Proportion
    by_kind: dict[str, Proportion]
    named: Proportion
    false_alarms: Proportion
    unplanted_but_real: int
    """Unbiased classes with an unplanted difference that the network really makes."""


@dataclass(frozen=True)
class TrueDifferences:
    """The differences that a network really makes, over scenes that no audit has drawn."""

    design: BiasDesign
    probabilities: Probabilities

    def __call__(self, class_name: str, context: str, ordinary: Sequence[str]) -> float:
        """Return the class's mean probability in a context less that in the other ordinary ones."""
        index = self.design.classes.index(class_name)
        rng = np.random.default_rng((self.design.seed, 79, index, list(CONTEXTS).index(context)))
        others = [other for other in ordinary if other != context]
        prompts = [prompt_of(context, class_name)] * TRUTH_IMAGES
        prompts += [prompt_of(others[i % len(others)], class_name) for i in range(TRUTH_IMAGES)]
        values = self.probabilities(index, prompts, rng)
        return float(values[:TRUTH_IMAGES].mean() - values[TRUTH_IMAGES:].mean())


def probabilities_of(network: Path) -> Probabilities:
    """Return the function that gives a trained network's probabilities of drawn scenes."""

    def probabilities(index: int, prompts: Sequence[str], rng: np.random.Generator) -> np.ndarray:
        from scipy.special import softmax

        loaded = classifiers.load(network)
        images = np.stack([render(parse_prompt(text, int(rng.integers(2**31))).scene) for text in prompts])
        scores = classifiers.logits(loaded.module, loaded.preprocess, images)
        values: np.ndarray = softmax(scores.astype(np.float64), axis=1)[:, index]
        return values

    return probabilities


def judge(
    design: BiasDesign, record: AuditRecord, true_difference: TrueDifference, network: int
) -> list[ClassRow]:
    """Return a row per class that was audited; `network` is the network's number."""
    return [
        _judge_class(design, record, true_difference, network, name)
        for name in design.classes
        if name in record.detectable
    ]


def _judge_class(
    design: BiasDesign, record: AuditRecord, true_difference: TrueDifference, network: int, name: str
) -> ClassRow:
    planted = design.planted.get(name)
    flagged = [effect for effect in record.effects_of(name) if effect.biased]
    # The rest of a planted class is not judged: what it learned there may well reach further.
    others = [] if planted else flagged
    true = {effect.context: true_difference(name, effect.context, record.ordinary[name]) for effect in others}
    borne_out = [effect.context for effect in others if _is_borne_out(effect, true[effect.context])]
    claims = record.claims.get(name)
    return {
        "network": network,
        "class": name,
        "planted": planted,
        "found": any(effect.context == planted and effect.difference < 0 for effect in flagged),
        "flagged": [effect.context for effect in flagged],
        "true_differences": true,
        "borne_out": borne_out,
        "false_alarm": len(borne_out) < len(others),
        "detectable": record.detectable[name],
        "answer": record.answers.get(name),
        "named": bool(planted and claims and claims.says_lower(planted)),
        "disagreements": [parted for parted in record.disagreements if parted.class_name == name],
    }


def _is_borne_out(effect: ContextEffect, true: float) -> bool:
    """Return whether the true difference has the sign of the finding, and the size of a bias."""
    return bool(true * effect.difference > 0 and abs(true) >= LEAST)


def summarize(rows: Sequence[ClassRow] | Sequence[Mapping[str, Any]]) -> PlantedSummary:
    """Return the shares over all classes."""
    planted = [row for row in rows if row["planted"]]
    unbiased = [row for row in rows if not row["planted"]]
    by_kind: dict[str, list[bool]] = {}
    for row in planted:
        by_kind.setdefault(str(row["planted"]).partition(":")[0], []).append(row["found"])
    return PlantedSummary(
        found=Proportion.of(sum(row["found"] for row in planted), len(planted)),
        by_kind={kind: Proportion.of(sum(found), len(found)) for kind, found in sorted(by_kind.items())},
        named=Proportion.of(
            sum(row["named"] for row in planted), sum(row["answer"] is not None for row in planted)
        ),
        false_alarms=Proportion.of(sum(row["false_alarm"] for row in unbiased), len(unbiased)),
        unplanted_but_real=sum(bool(row["borne_out"]) for row in unbiased),
    )
