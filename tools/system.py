"""`system` on the host's side: shows images to the subject and paints what it looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from actors.errors import UsageError
from actors.images import Image, Provenance
from actors.vision.readout.base import Scatter, UnitResponse
from tools import contrast
from tools.contrast import Chosen, Which
from tools.intervention import NOTHING_BEHIND, Intervention, InterventionError
from tools.sandbox.child.effects import Effects
from tools.subject import Browsable, DatasetImage, Intervenable, Looking, Subject


class Painter(Protocol):
    """Darkens what is not active in an image."""

    def __call__(
        self,
        image: Image,
        activation_map: np.ndarray,
        threshold: float,
        view: tuple[float, float, float, float],
        /,
    ) -> Image: ...


@dataclass(frozen=True, slots=True)
class Measurement:
    """One image as it was shown to the subject; of one without places in the image, `masked` is the image
    itself.
    """

    image: Image
    response: UnitResponse
    masked: Image
    provenance: Provenance | None = None
    looks: np.ndarray | None = None
    """Where an attention head looks, which `masked` shows then; as `Looking.looks`."""

    @property
    def shown_activation(self) -> float:
        """The activation as an agent sees it: two decimals, as in MAIA."""
        return round(self.response.activation, 2)


class SubjectSystem:
    """Measures images on one subject. Painting runs in threads: the event loop stays free."""

    def __init__(self, subject: Subject, paint: Painter) -> None:
        self.subject = subject
        self._paint = paint
        self._exemplars: dict[int, tuple[Measurement, ...]] = {}

    async def measure(self, images: Sequence[Image]) -> list[Measurement]:
        """Return a measurement an image, in order."""
        responses = await self.subject.measure(images)
        return await self._painted(images, responses)

    async def exemplars(self, k: int) -> list[Measurement]:
        """Return the subject's strongest `k` data-set images, best first; measured and painted once."""
        if k not in self._exemplars:  # of a small data set there may be fewer
            exemplars = await self.subject.exemplars(k)
            self._exemplars = {k: tuple(await self._measurements(exemplars))}
        return list(self._exemplars[k])

    async def exemplars_by(self, which: Which, k: int, seed: int) -> list[tuple[Measurement, str]]:
        """Return images of the data set that agents may see, each with a note that says why it was chosen.

        `which`: "top", the strongest `k`; "modes", these in groups of alike images; "quantiles", across the
        firing range; "near", of each of these the image most like it that does not drive the unit; "least",
        the lowest `k`.

        Raises:
            UsageError: If only the strongest images of the subject are known, or images cannot be compared.
        """
        # Of those that are known already: finding more could take a pass over the data set.
        top = (await self.exemplars(max([k, *self._exemplars])))[:k]
        if which == "top" or not top:
            return [(exemplar, "among the strongest") for exemplar in top]
        if not isinstance(self.subject, Browsable):
            raise UsageError("of this unit only its strongest images are known.", 'Ask for which="top".')
        scatter = await self.subject.scatter()
        values, features = scatter.activations, scatter.features
        if which in ("quantiles", "least"):
            chosen = contrast.spread(which, values, features, k, seed)
            return await self._pictured(self.subject, scatter, chosen)
        seen = await self.subject.features([exemplar.image for exemplar in top])
        if features is None or seen is None:
            raise UsageError("images cannot be compared in this network.", 'Ask for "quantiles" or "least".')
        center = features.mean(axis=0)
        vectors = contrast.unit_length(seen, center)
        if which == "modes":
            groups = await asyncio.to_thread(contrast.modes, vectors)
            return [(top[choice.row], choice.note) for choice in groups]
        strengths = np.array([exemplar.response.activation for exemplar in top])
        others = contrast.unit_length(features, center)
        chosen = await asyncio.to_thread(contrast.near, values, others, strengths, vectors)
        return await self._pictured(self.subject, scatter, chosen)

    async def intervene(
        self,
        images: Sequence[Image],
        intervention: Intervention,
        outputs: Sequence[str] = (),
        *,
        name_units: bool = False,
    ) -> Effects:
        """Return what an intervention does to images.

        Raises:
            InterventionError: If the subject is no unit inside a network, or as `UnitInterventions.effects`.
            UsageError: If the network cannot be edited there. These words name layers.
        """
        if not isinstance(self.subject, Intervenable):
            raise InterventionError(NOTHING_BEHIND)
        return await self.subject.intervene(images, intervention, outputs, name_units=name_units)

    async def _pictured(
        self, subject: Browsable, scatter: Scatter, chosen: Sequence[Chosen]
    ) -> list[tuple[Measurement, str]]:
        images = await subject.pictures([int(scatter.indices[choice.row]) for choice in chosen])
        measurements = await self._measurements(images)
        return [(each, choice.note) for each, choice in zip(measurements, chosen, strict=True)]

    async def _measurements(self, images: Sequence[DatasetImage]) -> list[Measurement]:
        """Return images of the data set as they were shown to the subject."""
        painted = await self._painted([each.image for each in images], [each.response for each in images])
        return [
            replace(measurement, provenance=image.provenance)
            for measurement, image in zip(painted, images, strict=True)
        ]

    def _masked(
        self, image: Image, response: UnitResponse, looks: np.ndarray | None, threshold: float
    ) -> Image:
        """Return an image whose part is bright that drives the unit, or that an attention head looks at."""
        if looks is not None:
            return self._paint(image, looks, _most_of(looks), response.view)
        return self._paint(image, response.map, threshold, response.view) if response.map.size > 1 else image

    async def _painted(self, images: Sequence[Image], responses: Sequence[UnitResponse]) -> list[Measurement]:
        threshold = (await self.subject.background()).mask_threshold
        looks: Sequence[np.ndarray | None] = [None] * len(images)
        if isinstance(self.subject, Looking):
            looks = await self.subject.looks(images)
        # One thread for the list, not one an image: painting takes about a millisecond.
        masked = await asyncio.to_thread(
            lambda: [
                self._masked(image, response, seen, threshold)
                for image, response, seen in zip(images, responses, looks, strict=True)
            ]
        )
        return [
            Measurement(image, response, mask, looks=seen)
            for image, response, mask, seen in zip(images, responses, masked, looks, strict=True)
        ]


_LOOKED_AT = 0.6
"""Share of a head's attention that a mask keeps, as in DINO's figures (Caron et al. 2021)."""


def _most_of(looks: np.ndarray) -> float:
    """Return the threshold above which are the fewest patches that have most of a head's attention."""
    weights = np.sort(looks, axis=None)[::-1].astype(np.float64)
    least = weights[np.searchsorted(weights.cumsum(), _LOOKED_AT * weights.sum())]
    beneath = weights[weights < least]
    return float(least + beneath[0]) / 2 if len(beneath) else -1.0
