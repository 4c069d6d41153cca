"""The critic: an answer is accepted only after a test on fresh images that its agent never saw.

The test is set up by the program, not asked for in a prompt: images of the labels and images of other
things, drawn with reserved seeds, shown to the unit, and compared pair by pair with an e-value, which is
valid whenever one stops looking.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from pydantic import Field

from actors.backend import Priority
from actors.errors import MaiaError
from actors.generation.base import MadeImage
from actors.images import Image
from actors.settings import Settings
from agents.interpreter import Verdict
from agents.statistics import auroc, auroc_interval, e_value, standardised_margin
from agents.stimuli import control_subjects, prompts_for
from agents.tasks.base import Answer
from agents.tasks.describe_unit import NOT_INTERPRETABLE
from tools.subject import Subject
from tools.toolbox import Studio, seed_for


class ConfirmationSettings(Settings):
    """How much evidence a label needs."""

    min_images: int = Field(20, ge=2)
    """Images of the label, and as many controls, that are always measured."""
    max_images: int = Field(40, ge=2)
    """Images of the label, and as many controls, at which the test gives up."""
    block: int = Field(10, ge=1)
    """Images of each kind that are made and measured at a time."""
    alpha: float = Field(0.05, gt=0, lt=1)
    """Level of the sequential test: a label is confirmed when the e-value reaches 1 / alpha."""
    min_auroc: float = Field(0.7, ge=0.5, le=1)
    """A label may be surely, yet uselessly, better than chance; below this it is not confirmed."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One fresh image: what was asked, what came, how the unit answered. `notes`: what could not be drawn."""

    prompt: str
    image: str
    activation: float
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Trials:
    """The two groups of a confirmation, in order."""

    positives: list[Trial] = field(default_factory=list)
    controls: list[Trial] = field(default_factory=list)

    def numbers(self, *, compliant: bool = False) -> tuple[list[float], list[float]]:
        groups = (self.positives, self.controls)
        return tuple([t.activation for t in group if not (compliant and t.notes)] for group in groups)  # type: ignore[return-value]


class Critic:
    """Examines answers about one subject."""

    def __init__(
        self,
        subject: Subject,
        studio: Studio,
        *,
        seed: int,
        settings: ConfirmationSettings | None = None,
    ) -> None:
        self._subject, self._studio, self._seed = subject, studio, seed
        self._settings = settings or ConfirmationSettings()
        self.images: dict[str, Image] = {}

    async def examine(self, answer: Answer, attempt: int) -> Verdict:
        """Test the labels of `answer`; each attempt has images of its own."""
        if is_abstention(answer):
            return Verdict(True, "", {"kind": "abstention"})
        trials = Trials()
        rng = random.Random(seed_for(self._seed, "confirm", *answer.labels, attempt))
        controls = control_subjects(answer.labels)
        while len(trials.positives) < self._settings.max_images:
            count = min(self._settings.block, self._settings.max_images - len(trials.positives))
            labels = [answer.labels[(len(trials.positives) + i) % len(answer.labels)] for i in range(count)]
            others = [rng.choice(controls) for _ in range(count)]
            positives, negatives = prompts_for(labels, rng), prompts_for(others, rng)
            failure = await self._measure(positives + negatives, attempt, trials, count)
            if failure is not None:
                return failure
            if len(trials.positives) >= self._settings.min_images and self._decided(trials):
                break
        return self._judge(answer, trials)

    async def _measure(self, prompts: list[str], attempt: int, trials: Trials, split: int) -> Verdict | None:
        """Make and measure one block; return a verdict only if the images could not be made."""
        done = len(trials.positives)
        # The word keeps these seeds apart from all that an exploring agent can draw.
        seeds = [seed_for(self._seed, "reserved", p, attempt, done + i) for i, p in enumerate(prompts)]
        made = await self._studio.generate(prompts, seeds, agent=self._subject.id)
        failed = [each for each in made if isinstance(each, MaiaError)]
        if failed:
            return Verdict(
                False,
                f"Your answer could not be tested: {len(failed)} of {len(made)} fresh images could not be made "
                f"({failed[0]}). Word the label so that an image of it can be made, or conclude as before.",
                {"kind": "untestable", "failures": [str(error) for error in failed[:5]]},
            )
        images = [each for each in made if isinstance(each, MadeImage)]
        responses = await self._subject.measure([m.image for m in images], Priority.CONFIRMATION)
        for position, (prompt, each, response) in enumerate(zip(prompts, images, responses, strict=True)):
            self.images[each.image.id] = each.image
            group = trials.positives if position < split else trials.controls
            group.append(Trial(prompt, each.image.id, response.activation, each.provenance.notes))
        return None

    def _decided(self, trials: Trials) -> bool:
        positives, controls = trials.numbers()
        enough = e_value(positives, controls) >= 1 / self._settings.alpha
        return enough and auroc(positives, controls) >= self._settings.min_auroc

    def _judge(self, answer: Answer, trials: Trials) -> Verdict:
        evidence = summarise(trials)
        accepted = self._decided(trials)
        objection = "" if accepted else _objection(answer, trials, evidence)
        return Verdict(accepted, objection, evidence)


def is_abstention(answer: Answer) -> bool:
    """Say whether the answer is that nothing explains the unit."""
    return all(NOT_INTERPRETABLE in label.lower() for label in answer.labels)


def summarise(trials: Trials) -> dict[str, Any]:
    """Return the evidence as plain JSON values: for all images, and for those that show what was asked."""

    def group(positives: Sequence[float], controls: Sequence[float]) -> dict[str, Any] | None:
        if not positives or not controls:
            return None
        value = auroc(positives, controls)
        return {
            "auroc": value,
            "auroc_interval": list(auroc_interval(value, len(positives), len(controls))),
            "e_value": e_value(positives, controls),
            "margin": standardised_margin(positives, controls),
            "mean_positive": float(np.mean(positives)),
            "mean_control": float(np.mean(controls)),
            "n_positive": len(positives),
            "n_control": len(controls),
        }

    noted = [trial for trial in trials.positives if trial.notes]
    return {
        "kind": "confirmation",
        **(group(*trials.numbers()) or {}),
        "compliant": group(*trials.numbers(compliant=True)),
        "compliance": 1 - len(noted) / len(trials.positives),
        "positives": [asdict(trial) for trial in trials.positives],
        "controls": [asdict(trial) for trial in trials.controls],
    }


def _objection(answer: Answer, trials: Trials, evidence: dict[str, Any]) -> str:
    best = sorted(trials.controls, key=lambda trial: -trial.activation)[:3]
    undrawn = sorted({note for trial in trials.positives for note in trial.notes})
    lines = [
        f'Your answer "{answer.label}" was tested on fresh images that you have not seen, and was not confirmed.',
        f"{evidence['n_positive']} images made from your labels: mean activation {evidence['mean_positive']:.2f}; "
        f"{evidence['n_control']} images of other things: mean {evidence['mean_control']:.2f}; an image of the label "
        f"exceeds another one with probability {evidence['auroc']:.2f}.",
        "The strongest of the other things: "
        + "; ".join(f'"{trial.prompt}" ({trial.activation:.2f})' for trial in best)
        + ".",
    ]
    if undrawn:
        lines.append("The image model could not draw everything: " + "; ".join(undrawn[:5]) + ".")
    lines.append(
        "Go on with experiments that could explain this, and answer again; if nothing explains the unit, say so."
    )
    return "\n".join(lines)
