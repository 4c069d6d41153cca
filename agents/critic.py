"""The critic: an answer is accepted only after a test on fresh images that its agent never saw.

The test is set up by the program, not asked for in a prompt: images of the labels and images of other
things, drawn with reserved seeds, shown to the unit, and compared pair by pair with an e-value, which is
valid whenever one stops looking. Of a label that passes, the simplest form is accepted that the numbers cannot
reject. A sceptic who never saw the study may propose a rival, which is tested too.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import Field

from actors.backend import Priority
from actors.errors import MaiaError
from actors.generation.base import MadeImage
from actors.images import Image
from actors.settings import Settings
from agents.interpreter import Verdict
from agents.sceptic import Sceptic
from agents.simpler import Doubt, doubts
from agents.statistics import auroc, auroc_interval, e_value
from agents.stimuli import control_subjects, prompts_for
from agents.tasks.base import Answer
from agents.tasks.describe_unit import NOT_INTERPRETABLE
from agents.trials import Trial, Trials, borne_out, summarise, surely_less
from tools.subject import Subject
from tools.toolbox import EXEMPLARS, Studio, seed_for


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
    probe: int = Field(10, ge=0)
    """Fresh images of a sceptic's rival, of each simpler label, and for a second measurement; 0 omits them."""


_LEFT = 0.5
"""Part of a thing's effect that may be left beside what a label excepts."""
_SAME = 0.1
"""Difference, as a part of the label's effect, up to which two groups of images count as driving a unit alike."""


class Critic:
    """Examines answers about one subject."""

    def __init__(
        self,
        subject: Subject,
        studio: Studio,
        *,
        seed: int,
        settings: ConfirmationSettings | None = None,
        sceptic: Sceptic | None = None,
    ) -> None:
        self._sceptic = sceptic
        self._subject, self._studio, self._seed = subject, studio, seed
        self._settings = settings or ConfirmationSettings()
        self.images: dict[str, Image] = {}
        self._tests = 0
        """Tests of this examination, so far."""

    async def examine(self, answer: Answer, attempt: int) -> Verdict:
        """Test the labels of `answer`; each attempt has images of its own.

        The verdict's labels are the simplest that the numbers cannot reject.
        """
        self._tests = 0
        if is_abstention(answer):
            return Verdict(True, "", {"kind": "abstention", **await self._inspected(attempt)})
        verdict, trials = await self._confirm(answer, attempt)
        own = borne_out(answer.labels, trials)
        if 0 < len(own) < len(answer.labels):
            answer = replace(answer, labels=own)
            verdict, trials = await self._confirm(answer, attempt)
        if not verdict.accepted or self._settings.probe == 0:
            return replace(verdict, labels=answer.labels)
        compared: list[dict[str, Any]] = []
        while (simpler := await self._simpler(answer, trials, attempt, compared)) != answer:
            second, second_trials = await self._confirm(simpler, attempt)
            if not second.accepted:
                break
            answer, verdict, trials = simpler, second, second_trials
        verdict = replace(verdict, labels=answer.labels)
        verdict.evidence["simpler"] = compared
        verdict.evidence["explained"] = await self._explained(answer.labels)
        verdict.evidence["retest"] = await self._retest(trials, attempt)
        return await self._challenge(answer, trials, verdict, attempt)

    async def _confirm(self, answer: Answer, attempt: int) -> tuple[Verdict, Trials]:
        """Compare fresh images of the labels with images of other things."""
        self._tests += 1
        trials = Trials()
        rng = random.Random(seed_for(self._seed, "confirm", *answer.labels, attempt))
        controls = control_subjects(answer.labels)
        while len(trials.positives) < self._settings.max_images:
            count = min(self._settings.block, self._settings.max_images - len(trials.positives))
            labels = [answer.labels[(len(trials.positives) + i) % len(answer.labels)] for i in range(count)]
            others = [rng.choice(controls) for _ in range(count)]
            positives, negatives = prompts_for(labels, rng), prompts_for(others, rng)
            failure = await self._measure(positives + negatives, labels, (*answer.labels, attempt), trials)
            if failure is not None:
                return failure, trials
            if len(trials.positives) >= self._settings.min_images and self._decided(trials):
                break
        await self._witness(trials)
        return self._judge(answer, trials, attempt), trials

    async def _simpler(
        self, answer: Answer, trials: Trials, attempt: int, compared: list[dict[str, Any]]
    ) -> Answer:
        """Return the answer with one label simpler, or as it is; add to what was `compared`."""
        _, controls = trials.numbers()
        for place, label in enumerate(answer.labels):
            own = [trial.activation for trial in trials.positives if trial.label == label]
            possible: dict[str, float] = {}
            for doubt in doubts(label):
                found = await self._compare(doubt, label, own, controls, attempt)
                if found is None:
                    continue
                compared.append(found)
                if not found["rejected"]:
                    possible.setdefault(doubt.simpler, found["mean_weaker"])
            if possible:
                simplest = max(possible, key=lambda each: possible[each])
                labels = (*answer.labels[:place], simplest, *answer.labels[place + 1 :])
                return replace(answer, labels=tuple(dict.fromkeys(labels)))
        return answer

    async def _compare(
        self, doubt: Doubt, label: str, own: list[float], controls: list[float], attempt: int
    ) -> dict[str, Any] | None:
        """Return how images of the doubt's two sides did; None if they could not be made.

        A difference must be sure, and more than a trifle; and an exception must turn the unit off, or nearly.
        """
        n = self._settings.probe
        weaker = await self._probe(_wordings(doubt.weaker, n), "weaker", attempt)
        stronger = own
        if doubt.stronger is not None:
            # Beside other things, so that a crowded picture is not taken for the exception.
            others = random.Random(label).choices(control_subjects([label]), k=n)
            prompts = [f"{doubt.stronger} with {other}" for other in others]
            stronger = await self._probe(prompts, "stronger", attempt)
        if not weaker or not stronger:
            return None
        share = auroc(stronger, weaker)
        low, mean_weaker, mean_stronger = (float(np.mean(group)) for group in (controls, weaker, stronger))
        left = (mean_weaker - low) / max(1e-9, mean_stronger - low)
        return {
            "label": label,
            "simpler": doubt.simpler,
            "weaker": doubt.weaker,
            "stronger": label if doubt.stronger is None else f"{doubt.stronger} with other things",
            "mean_weaker": mean_weaker,
            "mean_stronger": mean_stronger,
            "auroc": share,
            "auroc_interval": list(auroc_interval(share, len(stronger), len(weaker))),
            "left": left,
            "rejected": surely_less(weaker, stronger)
            and left <= (1 - _SAME if doubt.stronger is None else _LEFT),
        }

    async def _explained(self, labels: Sequence[str]) -> dict[str, Any] | None:
        """Return which share of the strongest exemplars shows each label, and any of them; None if nobody can tell."""
        if self._sceptic is None:
            return None
        exemplars = await self._subject.exemplars(EXEMPLARS)
        asked = [(each.image, label) for label in labels for each in exemplars]
        found = await self._sceptic.shows(asked)
        n = len(exemplars)
        columns = [found[start : start + n] for start in range(0, len(found), n)] if n else []
        # An image of which the observer could not tell is no evidence for or against.
        told = [row for row in zip(*columns, strict=True) if None not in row]
        if not told:
            return None
        by_label = {label: float(np.mean([row[i] for row in told])) for i, label in enumerate(labels)}
        return {"n": len(told), "labels": by_label, "any": float(np.mean([any(row) for row in told]))}

    async def _witness(self, trials: Trials) -> None:
        """Ask a blind observer of each image whether it shows the label: of controls, to know the observer."""
        if self._sceptic is None:
            return
        labels = list(dict.fromkeys(trial.label for trial in trials.positives))
        asked = [(trial, trial.label) for trial in trials.positives]
        asked += [(trial, labels[i % len(labels)]) for i, trial in enumerate(trials.controls)]
        found = await self._sceptic.shows([(self.images[trial.image], label) for trial, label in asked])
        seen = [replace(trial, shows=shows) for (trial, _), shows in zip(asked, found, strict=True)]
        split = len(trials.positives)
        trials.positives, trials.controls = seen[:split], seen[split:]

    async def _inspected(self, attempt: int) -> dict[str, Any]:
        """Return what a blind observer finds in images of everyday things: where nothing explains a unit, a broken tool might.

        `seen`: how many of `n` images show what was asked; `false`: how many are said to show another thing.
        """
        everyday = control_subjects(())
        n = min(self._settings.probe, len(everyday))
        if self._sceptic is None or n < 2:
            return {}
        things = random.Random(seed_for(self._seed, "inspect", attempt)).sample(everyday, n)
        seeds = [seed_for(self._seed, "reserved", "inspect", thing, attempt) for thing in things]
        made = await self._studio.generate(things, seeds, agent=self._subject.id)
        images = [
            (each.image, thing)
            for each, thing in zip(made, things, strict=True)
            if isinstance(each, MadeImage)
        ]
        if len(images) < 2:
            return {}
        others = [images[(place + 1) % len(images)][1] for place in range(len(images))]
        asked = images + [(image, other) for (image, _), other in zip(images, others, strict=True)]
        self.images.update((image.id, image) for image, _ in images)
        found = await self._sceptic.shows(asked)
        told = [
            pair for pair in zip(found[: len(images)], found[len(images) :], strict=True) if None not in pair
        ]
        return {
            "inspected": {
                "n": len(told),
                "seen": sum(a is True for a, _ in told),
                "false": sum(b is True for _, b in told),
            }
        }

    async def _retest(self, trials: Trials, attempt: int) -> list[tuple[float, float]]:
        """Return (activation, activation of another image of the same prompt): how far a prompt decides it."""
        half = max(1, self._settings.probe // 2)
        first = [*trials.positives[:half], *trials.controls[:half]]
        again = await self._probe([trial.prompt for trial in first], "retest", attempt)
        return list(zip([trial.activation for trial in first], again, strict=True)) if again else []

    async def _challenge(self, answer: Answer, trials: Trials, verdict: Verdict, attempt: int) -> Verdict:
        """Let a sceptic's rival compete: an answer falls if images of the rival surely drive the unit more."""
        rival = None
        if self._sceptic is not None:
            exemplars = await self._subject.exemplars(EXEMPLARS)
            rival = await self._sceptic.rival(
                [(each.image, each.response.activation) for each in exemplars], answer.labels
            )
        if rival is None:
            return verdict
        values = await self._probe(_wordings(rival, self._settings.probe), "rival", attempt)
        if not values:
            return verdict
        positives, controls = trials.numbers()
        share = auroc(values, positives)
        low, high = auroc_interval(share, len(values), len(positives))
        verdict.evidence["rival"] = {
            "label": rival,
            "mean": float(np.mean(values)),
            "n": len(values),
            "beats": share,
            "beats_interval": [low, high],
        }
        trifle = _SAME * (np.mean(positives) - np.mean(controls))
        if low <= 0.5 or np.mean(values) - np.mean(positives) <= trifle:
            return verdict
        return Verdict(
            False,
            f'Your answer "{answer.label}" drives the unit, but somebody who saw only the strongest images proposed '
            f'"{rival}", and fresh images of that drive it more: mean {np.mean(values):.2f} against '
            f"{np.mean(positives):.2f}. Test what both have in common, and answer again.",
            verdict.evidence,
            verdict.labels,
        )

    async def _probe(self, prompts: list[str], purpose: str, attempt: int) -> list[float]:
        """Return the activations of fresh reserved images, in order; none if one of them could not be made."""
        seeds = [seed_for(self._seed, "reserved", purpose, p, attempt, i) for i, p in enumerate(prompts)]
        made = await self._studio.generate(prompts, seeds, agent=self._subject.id)
        images = [each.image for each in made if isinstance(each, MadeImage)]
        if len(images) < len(made):
            return []
        self.images.update((image.id, image) for image in images)
        return [each.activation for each in await self._subject.measure(images, Priority.CONFIRMATION)]

    async def _measure(
        self, prompts: list[str], labels: list[str], test: tuple[str | int, ...], trials: Trials
    ) -> Verdict | None:
        """Make and measure one block; return a verdict only if the images could not be made.

        `test` says which test it is: each has images of its own, controls included.
        """
        done, split = len(trials.positives), len(labels)
        # The word keeps these seeds apart from all that an exploring agent can draw.
        seeds = [seed_for(self._seed, "reserved", *test, p, done + i) for i, p in enumerate(prompts)]
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
            label = labels[position] if position < split else ""
            group.append(Trial(prompt, each.image.id, response.activation, each.provenance.notes, label))
        return None

    def _decided(self, trials: Trials) -> bool:
        positives, controls = trials.numbers()
        enough = e_value(positives, controls) >= 1 / self._settings.alpha
        return enough and auroc(positives, controls) >= self._settings.min_auroc

    def _judge(self, answer: Answer, trials: Trials, attempt: int) -> Verdict:
        evidence = summarise(trials)
        evidence["e_value_corrected"] = evidence["e_value"] * share_of(attempt) * share_of(self._tests)
        accepted = self._decided(trials)
        objection = "" if accepted else _objection(answer, trials, evidence)
        return Verdict(accepted, objection, evidence)


def share_of(number: int) -> float:
    """Return the part of all evidence that the `number`th test in a row may claim, 1 / (k (k + 1)): the parts sum to 1.

    A study reports the last of as many tests as it liked to make. Each test's e-value is at most 1 in the mean if
    its label is empty, so their sum with these weights is too, and so is one term of it (a weighted mean of e-values is
    one, Vovk and Wang 2021): what is left may be compared between the units of a layer.
    """
    return 1 / (number * (number + 1))


def _wordings(subject: str, count: int) -> list[str]:
    return prompts_for([subject] * count, random.Random(subject))


def is_abstention(answer: Answer) -> bool:
    """Say whether the answer is that nothing explains the unit."""
    return all(NOT_INTERPRETABLE in label.lower() for label in answer.labels)


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
