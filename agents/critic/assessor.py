"""Gathers what is known of a label apart from its fresh images: the unit's range, and what the data set's
images show.

A blind witness is asked of each image by itself whether it shows one label, so it does not know which is
tested, nor what the image did to the unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from actors.images import Image
from actors.vision.readout.base import HeldOutActivations
from agents.critic.settings import ConfirmationSettings
from agents.critic.witness import Witness
from agents.evidence.coverage import coverage, uncovered
from agents.evidence.evidence_record import HeldOutTest, Origin, Range, WitnessedImage
from agents.evidence.finding import Figures
from agents.evidence.held_out import LEAST_SHOWN, DrawnImage, JudgedImage, Sample, draw, held_out_test
from agents.evidence.reach import STRONGEST, range_of, reach, strength
from agents.evidence.trials import Trials
from agents.evidence.witness import Accuracy, accuracy
from tools.subject import Anchored, DatasetImage, HasHeldOut, Subject
from tools.toolbox import EXEMPLARS, Made, seed_for

_LEAST_JUDGED = 20
_AT_ONCE = 20
"""Images that are held out and in memory at a time."""


def witness_questions(settings: ConfirmationSettings, n_labels: int) -> int:
    """Return the most questions that the witness of one examination is asked about the data set's images and
    the agent's.
    """
    held_out = n_labels * _images_judged(settings, n_labels) if settings.held_back else 0
    return held_out + n_labels * (EXEMPLARS + STRONGEST)


def _images_judged(settings: ConfirmationSettings, n_labels: int) -> int:
    """Return how many images that are held out are judged, each once for every label."""
    return max(_LEAST_JUDGED, settings.held_back_looks // n_labels)


class AgentImages(Protocol):
    """What the agent made, as far as it was shown to the unit."""

    def made(self) -> list[Made]: ...

    async def pictures(self, ids: Sequence[str]) -> list[Image]: ...


class NoAgentImages:
    """The images of an agent that made none, or of which none are known."""

    def made(self) -> list[Made]:
        return []

    async def pictures(self, ids: Sequence[str]) -> list[Image]:
        assert not ids
        return []


class Assessor:
    """Has a witness judge the data set's images and the agent's for one subject.

    `images` are those of the data set that its figures name, by id, to be kept for display.
    """

    def __init__(
        self,
        subject: Subject,
        settings: ConfirmationSettings,
        *,
        seed: int,
        witness: Witness | None = None,
        agent_images: AgentImages | None = None,
    ) -> None:
        self._subject, self._settings, self._seed = subject, settings, seed
        self._witness, self._agent_images = witness, agent_images or NoAgentImages()
        self._held_out: HeldOutActivations | None = None
        self.images: dict[str, Image] = {}

    async def reach(self, fresh: Sequence[float]) -> Figures:
        """Return whether the agent's images, or the critic's `fresh` ones, reach the unit's range."""
        generated = [*(each.activation for each in self._agent_images.made() if not each.from_data), *fresh]
        unit = await self._range(await self._subject.exemplars(EXEMPLARS), generated)
        return Figures(unit, None if unit is None else reach(unit, generated, self._settings.min_reach))

    async def labels(self, labels: Sequence[str], trials: Trials, figures: Figures, share: float) -> Figures:
        """Return the figures with all that the test's images and the data set's images say of the labels.

        `share`: the part of all evidence that this test on the data set may claim, since every answer of a
        study is tested on the same sample.
        """
        unit, settings = figures.unit, self._settings
        if unit is None:
            return figures
        by_label = {
            label: [each.activation for each in trials.positives if each.label == label] for label in labels
        }
        figures = replace(figures, strength=strength(unit, by_label, settings.min_strength))
        if self._witness is None:
            return figures
        witness = accuracy(
            [each.shows for each in trials.positives], [each.shows for each in trials.controls]
        )
        exemplars = await self._exemplars(labels)
        held_out, drawn = await self._test(labels, unit, witness, share)
        strong = [each for each in (*exemplars, *drawn) if each.activation >= unit.lit]
        everything = [*strong, *await self._agents(labels, unit)]
        return replace(
            figures,
            witness=witness,
            coverage=coverage(strong, labels, witness, settings.min_coverage),
            held_out=held_out,
            uncovered=tuple(uncovered(everything, unit.middle)),
            witnessed=tuple(everything),
        )

    async def _range(self, exemplars: Sequence[DatasetImage], generated: Sequence[float]) -> Range | None:
        background = await self._subject.background()
        held_out = await self._sampled()
        strongest = [] if held_out is None else held_out.activations.tolist()
        anchor = await self._subject.anchor() if isinstance(self._subject, Anchored) else None
        activations = [*(each.response.activation for each in exemplars), *strongest]
        return range_of(background.mean, activations, generated, anchor)

    async def _sampled(self) -> HeldOutActivations | None:
        """Return the sample of the images that are held out, None where there are none."""
        if not self._settings.held_back or not isinstance(self._subject, HasHeldOut):
            return None
        if self._held_out is None:
            self._held_out = await self._subject.held_out(self._settings.held_back)
        return self._held_out if len(self._held_out.activations) else None

    async def _exemplars(self, labels: Sequence[str]) -> list[WitnessedImage]:
        exemplars = await self._subject.exemplars(EXEMPLARS)
        images = [each.image for each in exemplars]
        self.images.update((image.id, image) for image in images)
        activations = [each.response.activation for each in exemplars]
        witnessed = await self._witnessed(images, activations, labels, "exemplar")
        return [
            image.model_copy(update={"prompt": f"exemplar {rank}"}) for rank, image in enumerate(witnessed, 1)
        ]

    async def _test(
        self, labels: Sequence[str], unit: Range, witness: Accuracy | None, share: float
    ) -> tuple[HeldOutTest | None, list[WitnessedImage]]:
        """Return the test of the labels on images that are held out, and what the drawn ones show."""
        held = await self._sampled()
        if held is None:
            return None, []
        assert isinstance(self._subject, HasHeldOut)
        seed = seed_for(self._seed, "held back", self._subject.id, *labels)
        count = _images_judged(self._settings, len(labels))
        drawn = draw(held.activations, count, np.random.default_rng(seed))
        witnessed: list[WitnessedImage] = []
        for start in range(0, len(drawn), _AT_ONCE):
            witnessed += await self._witness_drawn(held, drawn[start : start + _AT_ONCE], labels, unit)
        pictures: Sequence[int | None] = range(len(drawn))
        if sum(image.covered is True for image in witnessed) >= LEAST_SHOWN:
            # With fewer images there is no test, whatever pictures they are of: comparing them takes seconds.
            places = [int(held.indices[each.position]) for each in drawn]
            pictures = await self._subject.held_out_pictures(places, EXEMPLARS)
        judged = [
            JudgedImage(place, image.activation, image.covered, picture)
            for place, image, picture in zip(drawn, witnessed, pictures, strict=True)
        ]
        test = held_out_test(
            Sample(held.total, len(held.activations), held.seed),
            judged,
            unit=unit,
            witness=witness,
            alpha=self._settings.alpha * share,
            min_auroc=self._settings.min_auroc,
        )
        return test, witnessed

    async def _witness_drawn(
        self, held: HeldOutActivations, drawn: Sequence[DrawnImage], labels: Sequence[str], unit: Range
    ) -> list[WitnessedImage]:
        """Have some drawn images judged, and keep those that a page may show: photographs may be large."""
        assert isinstance(self._subject, HasHeldOut)
        images = await self._subject.held_out_images([int(held.indices[each.position]) for each in drawn])
        activations = [float(held.activations[each.position]) for each in drawn]
        witnessed = await self._witnessed(images, activations, labels, "held back")
        for image, judged in zip(images, witnessed, strict=True):
            if judged.covered is False and judged.activation >= unit.middle:
                self.images[image.id] = image
        return witnessed

    async def _agents(self, labels: Sequence[str], unit: Range) -> list[WitnessedImage]:
        """Return what the agent's strongest images show."""
        made = [each for each in self._agent_images.made() if each.activation >= unit.middle]
        made = sorted(made, key=lambda each: -each.activation)[:STRONGEST]
        images = await self._agent_images.pictures([each.image for each in made])
        self.images.update((image.id, image) for image in images)
        witnessed = await self._witnessed(images, [each.activation for each in made], labels, "generated")
        return [
            image.model_copy(
                update={"prompt": each.wording, "origin": "edited" if each.from_data else "generated"}
            )
            for image, each in zip(witnessed, made, strict=True)
        ]

    async def _witnessed(
        self, images: Sequence[Image], activations: Sequence[float], labels: Sequence[str], origin: Origin
    ) -> list[WitnessedImage]:
        assert self._witness is not None
        answers = iter(await self._witness.shows([(image, label) for image in images for label in labels]))
        return [
            WitnessedImage(
                image=image.id,
                activation=activation,
                origin=origin,
                shows={label: next(answers) for label in labels},
                prompt="",
            )
            for image, activation in zip(images, activations, strict=True)
        ]
