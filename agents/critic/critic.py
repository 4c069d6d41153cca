"""The critic: an answer is accepted only after tests that its agent has no part in.

They are set up by the program, not asked for in a prompt. Images of the labels and images of other things,
drawn with reserved seeds, are shown to the unit and compared pair by pair with an e-value, which is valid
whenever the test stops. Of a label that passes, the simplest form is kept that the numbers cannot reject.
An assessor says how strong it is, which of the unit's strongest images it covers, and whether it holds on
images of the data set that no agent saw. A skeptic who never saw the study may propose a rival, which is
tested too. The finding on all of it is the verdict.
"""

from __future__ import annotations

import random
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from actors.generation.base import MadeImage
from actors.images import Image
from agents.critic import objections
from agents.critic.assessor import AgentImages, Assessor, ConfirmationSettings
from agents.critic.fresh_images import FreshImages, UnmadeError
from agents.critic.review import Review
from agents.critic.skeptic import Skeptic
from agents.critic.stimuli import control_subjects, prompts_for
from agents.critic.tested import SAME, Tested
from agents.evidence.coverage import more_than_missed
from agents.evidence.evidence_record import (
    Comparison,
    EvidenceRecord,
    Finding,
    Inspection,
    LabelMeaning,
    RivalTest,
)
from agents.evidence.finding import Figures, of_abstention, of_label
from agents.evidence.meaning import doubts_about, rivals_of
from agents.evidence.simpler_labels import Doubt
from agents.evidence.statistics import auroc, auroc_interval, e_value
from agents.evidence.trials import Trials, borne_out, surely_less
from agents.evidence.verdict import HOLDING
from agents.tasks.base import FinalAnswer
from agents.tasks.describe_unit import NOT_INTERPRETABLE
from tools.subject import Subject
from tools.toolbox import EXEMPLARS, Studio, seed_for

__all__ = ["ConfirmationSettings", "Critic", "is_abstention", "share_of"]

_LEFT = 0.5
"""Part of a thing's effect that may be left in the presence of what a label excepts."""
_MOST_SIMPLER = 8
"""Simpler labels of one answer at most that are tested, one after another."""
_FEWEST = 5
"""Images of a wider kind that do not show the label, from which they count."""


class Critic:
    """Examines answers about one subject. `agent_images` is what its agent made."""

    def __init__(
        self,
        subject: Subject,
        studio: Studio,
        *,
        seed: int,
        settings: ConfirmationSettings | None = None,
        skeptic: Skeptic | None = None,
        agent_images: AgentImages | None = None,
    ) -> None:
        self.earlier = 0
        """Examinations of the subject before those of its agent: they claimed their part of the evidence."""
        self._subject, self._skeptic, self._seed = subject, skeptic, seed
        self._settings = settings or ConfirmationSettings()
        self._fresh = FreshImages(subject, studio, seed)
        self._assessor = Assessor(
            subject, self._settings, seed=seed, witness=skeptic, agent_images=agent_images
        )
        self._meanings: dict[str, LabelMeaning | None] = {}
        self._tests = 0
        """Tests of this examination, so far."""

    @property
    def images(self) -> Mapping[str, Image]:
        """Every image that was made or is named in the evidence, by id."""
        return ChainMap(self._fresh.kept, self._assessor.images)

    async def examine(self, answer: FinalAnswer, attempt: int) -> Review:
        """Test the labels of `answer`; each attempt, from 1, has images of its own.

        The review's labels are the simplest that the numbers cannot reject.
        """
        attempt += self.earlier
        self._tests = 0
        self._fresh.begin()
        return await (self._abstention(attempt) if is_abstention(answer) else self._labels(answer, attempt))

    async def _abstention(self, attempt: int) -> Review:
        inspected = await self._inspect(attempt)
        figures = await self._assessor.reach(self._fresh.activations)
        evidence = EvidenceRecord(
            kind="abstention",
            images_made=self._fresh.made,
            finding=of_abstention(figures),
            inspected=inspected,
            unit=figures.unit,
            reach=figures.reach,
        )
        return Review(accepted=True, objection="", evidence=evidence.without_defaults())

    async def _labels(self, answer: FinalAnswer, attempt: int) -> Review:
        tested = await self._confirm(answer, attempt)
        own = borne_out(answer.labels, tested.trials)
        if 0 < len(own) < len(answer.labels):
            tested = await self._confirm(replace(answer, labels=own), attempt)
        if tested.specific and self._settings.probe:
            tested = await self._simplest(tested, attempt)
            tested = replace(tested, retest=await self._retest(tested.trials, attempt))
            tested = replace(tested, rivals=await self._rivals(tested, attempt))
        figures = await self._assessor.reach(self._fresh.activations)
        # A label that no image could be made of may still be tested on real images.
        if tested.specific is not False or not (figures.reach and figures.reach.reached):
            figures = await self._assessor.labels(
                tested.answer.labels, tested.trials, figures, share_of(attempt)
            )
        return self._review(tested, figures, attempt)

    def _review(self, tested: Tested, figures: Figures, attempt: int) -> Review:
        """Return the finding, and what the agent is sent if it may go on."""
        rival = tested.beaten_by
        finding = of_label(tested.specific, figures, beaten_by="" if rival is None else rival.label)
        corrected = tested.e_value
        if finding.verdict == "holds on your images" and figures.held_out is not None:
            # What its generated images say is of no account.
            corrected = (figures.held_out.e_value or 0.0) * share_of(attempt)
        objection, shown = self._objection(tested, figures, finding, attempt)
        review = Review(
            accepted=not objection,
            objection=objection,
            evidence=tested.evidence(figures, finding, corrected, self._fresh.made),
            labels=list(tested.answer.labels),
            shown=shown,
        )
        return review.without_defaults()

    def _objection(
        self, tested: Tested, figures: Figures, finding: Finding, attempt: int
    ) -> tuple[str, list[str]]:
        """Return what to send the agent, "" if the answer stands, and the images to show it.

        A label that holds goes back once if it leaves more of the strongest images unexplained than the
        witness overlooks. Images that are held out are never shown.
        """
        left = [each for each in figures.uncovered if each.origin != "held back"]
        seen = [each for each in figures.witnessed if each.origin != "held back"]
        holds, unit = finding.verdict in HOLDING, figures.unit
        if holds and (
            attempt > 1 + self.earlier
            or unit is None
            or not more_than_missed(seen, unit.middle, figures.witness)
        ):
            return "", []
        if tested.specific is None and not holds:
            return objections.untestable(tested.failures), []
        if not tested.specific and not holds:
            return objections.not_specific(tested), []
        if tested.beaten_by is not None:
            return objections.beaten(tested, tested.beaten_by), []
        if figures.witness is not None and not figures.witness.tells:
            return "", []  # no answer would fare better
        return objections.not_enough(tested, finding, left), [each.image for each in left]

    async def _confirm(self, answer: FinalAnswer, attempt: int) -> Tested:
        """Compare fresh images of the labels with images of other things."""
        self._tests += 1
        trials, settings = Trials(), self._settings
        rng = random.Random(seed_for(self._seed, "confirm", *answer.labels, attempt))
        controls = control_subjects(answer.labels)
        while (done := len(trials.positives)) < settings.max_images:
            count = min(settings.block, settings.max_images - done)
            labels = [answer.labels[(done + i) % len(answer.labels)] for i in range(count)]
            others = [rng.choice(controls) for _ in range(count)]
            prompts = prompts_for(labels, rng) + prompts_for(others, rng)
            test: tuple[str | int, ...] = (*answer.labels, attempt)
            try:
                made = await self._fresh.block(prompts, [*labels, *[""] * count], test, done)
            except UnmadeError as error:
                return Tested(answer, None, Trials(), failures=error.failures)
            trials.positives += made[:count]
            trials.controls += made[count:]
            if len(trials.positives) >= settings.min_images and self._decided(trials):
                break
        await self._witness(trials)
        return Tested(answer, self._decided(trials), trials, share_of(attempt) * share_of(self._tests))

    async def _simplest(self, tested: Tested, attempt: int) -> Tested:
        """Return the simplest labels that pass, with what was compared."""
        compared: list[Comparison] = []
        # A model may call each of two words broader than the other, or word a label anew for ever.
        seen = {tested.answer.labels}
        while len(seen) <= _MOST_SIMPLER:
            simpler = await self._simpler(tested, attempt, compared)
            if simpler.labels in seen:
                break
            seen.add(simpler.labels)
            second = await self._confirm(simpler, attempt)
            if not second.specific:
                break
            tested = second
        known = {label: await self._meaning(label) for label in tested.answer.labels}
        meanings = {label: meaning for label, meaning in known.items() if meaning}
        return replace(tested, simpler=compared, meanings=meanings)

    async def _simpler(self, tested: Tested, attempt: int, compared: list[Comparison]) -> FinalAnswer:
        """Return the answer with one label simpler, or as it is; add to what was `compared`."""
        answer, trials = tested.answer, tested.trials
        _, controls = trials.numbers()
        for place, label in enumerate(answer.labels):
            own = [trial.activation for trial in trials.positives if trial.label == label]
            possible: dict[str, float] = {}
            for doubt in doubts_about(label, await self._meaning(label)):
                comparison = await self._compare(doubt, label, own, controls, attempt)
                if comparison is None:
                    continue
                compared.append(comparison)
                if not comparison.rejected:
                    possible.setdefault(doubt.simpler, comparison.mean_weaker)
            if possible:
                simplest = max(possible, key=lambda text: possible[text])
                labels = (*answer.labels[:place], simplest, *answer.labels[place + 1 :])
                return replace(answer, labels=tuple(dict.fromkeys(labels)))
        return answer

    async def _meaning(self, label: str) -> LabelMeaning | None:
        """Return what a label's words mean, asked once of a model that sees the label alone; None where it
        does not say.
        """
        if label not in self._meanings:
            self._meanings[label] = None if self._skeptic is None else await self._skeptic.meaning(label)
        return self._meanings[label]

    async def _compare(
        self, doubt: Doubt, label: str, own: list[float], controls: list[float], attempt: int
    ) -> Comparison | None:
        """Return how images of the doubt's two sides did; None if they could not be made.

        A difference must be sure, and more than a trifle; and an exception must turn the unit off, or nearly.
        """
        n = self._settings.probe
        weaker = await self._weaker(doubt, label, "", attempt)
        stronger = own
        if doubt.stronger is not None:
            # With other things, so that a crowded picture is not taken for the exception.
            others = random.Random(label).choices(control_subjects([label]), k=n)
            prompts = [f"{doubt.stronger} with {other}" for other in others]
            stronger = await self._fresh.probe(prompts, "stronger", attempt)
        if not weaker or not stronger:
            return None
        most = 1 - SAME if doubt.stronger is None else _LEFT
        low = float(np.mean(controls))

        def left() -> float:
            return (float(np.mean(weaker)) - low) / max(1e-9, float(np.mean(stronger)) - low)

        # Few images of "vehicle" may all be road vehicles: more are made before the wider kind is given up.
        while (
            len(weaker) < self._settings.max_images and left() <= most and not surely_less(weaker, stronger)
        ):
            more = await self._weaker(doubt, label, f" {len(weaker)}", attempt)
            if not more:
                break
            weaker += more
        share = auroc(stronger, weaker)
        return Comparison(
            label=label,
            simpler=doubt.simpler,
            weaker=doubt.weaker,
            stronger=label if doubt.stronger is None else f"{doubt.stronger} with other things",
            n_weaker=len(weaker),
            mean_weaker=float(np.mean(weaker)),
            mean_stronger=float(np.mean(stronger)),
            auroc=share,
            auroc_interval=list(auroc_interval(share, len(stronger), len(weaker))),
            left=left(),
            rejected=surely_less(weaker, stronger) and left() <= most,
        )

    async def _weaker(self, doubt: Doubt, label: str, more: str, attempt: int) -> list[float]:
        """Return the activations of images of what is weaker; `more` names further ones."""
        if doubt.wider:
            return await self._others(doubt, label, f"wider{more}", attempt)
        return await self._fresh.probe(
            _wordings(doubt.weaker, self._settings.probe), f"weaker{more}", attempt
        )

    async def _others(self, doubt: Doubt, label: str, purpose: str, attempt: int) -> list[float]:
        """Return the activations of images of a wider kind that do not show the label; none where these are
        too few.

        Asked for an animal, an image maker may draw a dog: that says nothing about animals.
        """
        if self._skeptic is None:
            return []
        made = await self._fresh.pictured(_wordings(doubt.weaker, 2 * self._settings.probe), purpose, attempt)
        shown = await self._skeptic.shows([(image, label) for image, _ in made])
        others = [activation for (_, activation), shows in zip(made, shown, strict=True) if shows is False]
        return others if len(others) >= _FEWEST else []

    async def _witness(self, trials: Trials) -> None:
        """Ask a blind observer of each image whether it shows the label; controls measure the observer."""
        if self._skeptic is None:
            return
        labels = list(dict.fromkeys(trial.label for trial in trials.positives))
        asked = [(trial, trial.label) for trial in trials.positives]
        asked += [(trial, labels[i % len(labels)]) for i, trial in enumerate(trials.controls)]
        answers = await self._skeptic.shows(
            [(self._fresh.kept[trial.image], label) for trial, label in asked]
        )
        seen = [
            trial.model_copy(update={"shows": shows})
            for (trial, _), shows in zip(asked, answers, strict=True)
        ]
        split = len(trials.positives)
        trials.positives, trials.controls = seen[:split], seen[split:]

    async def _inspect(self, attempt: int) -> Inspection | None:
        """Return what a blind observer finds in images of everyday things: where nothing explains a unit, a
        broken tool might.

        `seen`: how many of `n` images show what was asked; `false`: how many are said to show another thing.
        """
        everyday = control_subjects(())
        n = min(self._settings.probe, len(everyday))
        if self._skeptic is None or n < 2:
            return None
        things = random.Random(seed_for(self._seed, "inspect", attempt)).sample(everyday, n)
        made = await self._fresh.make(things, (("inspect", thing, attempt) for thing in things))
        images = [
            (each.image, thing)
            for each, thing in zip(made, things, strict=True)
            if isinstance(each, MadeImage)
        ]
        if len(images) < 2:
            return None
        others = [images[(place + 1) % len(images)][1] for place in range(len(images))]
        asked = images + [(image, other) for (image, _), other in zip(images, others, strict=True)]
        await self._fresh.measure([image for image, _ in images])
        answers = await self._skeptic.shows(asked)
        pairs = zip(answers[: len(images)], answers[len(images) :], strict=True)
        clear = [pair for pair in pairs if None not in pair]
        seen, false = (sum(pair[side] is True for pair in clear) for side in (0, 1))
        return Inspection(n=len(clear), seen=seen, false=false)

    async def _retest(self, trials: Trials, attempt: int) -> list[tuple[float, float]]:
        """Return pairs of activations of two images of one prompt: how far the prompt decides them."""
        half = max(1, self._settings.probe // 2)
        first = [*trials.positives[:half], *trials.controls[:half]]
        again = await self._fresh.probe([trial.prompt for trial in first], "retest", attempt)
        return list(zip([trial.activation for trial in first], again, strict=True)) if again else []

    async def _rivals(self, tested: Tested, attempt: int) -> list[RivalTest]:
        """Return the tests of the rivals whose images could be made."""
        tests = [await self._compete(rival, tested, attempt) for rival in await self._proposed(tested)]
        return [test for test in tests if test is not None]

    async def _proposed(self, tested: Tested) -> list[str]:
        """Return what the skeptic proposes from the strongest images alone, and narrower words and synonyms
        of the labels.
        """
        if self._skeptic is None:
            return []
        exemplars = await self._subject.exemplars(EXEMPLARS)
        seen = [(each.image, each.response.activation) for each in exemplars]
        proposed = await self._skeptic.rival(seen, tested.answer.labels)
        named = [
            rival for label in tested.answer.labels for rival in rivals_of(label, await self._meaning(label))
        ]
        return list(dict.fromkeys([*([proposed] if proposed else []), *named]))

    async def _compete(self, rival: str, tested: Tested, attempt: int) -> RivalTest | None:
        """Return the test of a rival against the labels; None if its images could not be made."""
        values = await self._fresh.probe(_wordings(rival, self._settings.probe), "rival", attempt)
        if not values:
            return None
        positives, _ = tested.trials.numbers()
        share = auroc(values, positives)
        return RivalTest(
            label=rival,
            mean=float(np.mean(values)),
            n=len(values),
            beats=share,
            beats_interval=list(auroc_interval(share, len(values), len(positives))),
        )

    def _decided(self, trials: Trials) -> bool:
        positives, controls = trials.numbers()
        enough = e_value(positives, controls) >= 1 / self._settings.alpha
        return enough and auroc(positives, controls) >= self._settings.min_auroc


def share_of(number: int) -> float:
    """Return the part of all evidence that the `number`th test in a row may claim, 1 / (k (k + 1)): the parts
    sum to 1.

    A study reports the last of as many tests as it liked to make. Each test's e-value is at most 1 in the
    mean if its label is empty, so their sum with these weights is too, and so is one term of it (a weighted
    mean of e-values is one, Vovk and Wang 2021): what is left may be compared between the units of a layer.
    """
    return 1 / (number * (number + 1))


def _wordings(subject: str, count: int) -> list[str]:
    return prompts_for([subject] * count, random.Random(subject))


def is_abstention(answer: FinalAnswer) -> bool:
    """Return whether the answer is that nothing explains the unit."""
    return all(NOT_INTERPRETABLE in label.lower() for label in answer.labels)
