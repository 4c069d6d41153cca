"""The gym's units as subjects: synthetic neurons, ones whose data set misleads, and ones without any
meaning.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Sequence

import numpy as np

from actors.errors import MaiaError
from actors.images import Image
from actors.serving.backend import Priority
from actors.vision.data.held_out import SEED, HeldOutShare, sample, split
from actors.vision.readout.base import HeldOutActivations, ImageDataset, UnitResponse
from experiments.paper.gym.neurons import GymUnit, SyntheticKind
from tools.subject import ActivationStatistics, DatasetImage, Progress, Subject
from tools.synthetic import ConceptDetector, ConceptTable, SyntheticNeuron


class ConfoundedNeuron(SyntheticNeuron):
    """A neuron whose concept never occurs in its data set without a certain background.

    Images that show the concept elsewhere are taken out of its data set; what it answers to stays the
    concept.
    """

    def __init__(
        self, neuron: SyntheticNeuron, background: str, table: ConceptTable, explored: np.ndarray
    ) -> None:
        super().__init__(neuron.formula, table, explored, mode=neuron.mode)
        self.id = f"{neuron.id} (always with {background})"
        self._common_background = background

    async def prepare(self, progress: Progress) -> None:
        await self._table.fill([*self.formula.concepts, self._common_background], progress)

    async def activations(self) -> np.ndarray:
        await self._table.fill([self._common_background])
        values = await super().activations()
        elsewhere = (values > 0) & ~(self._table.scores(self._common_background) > 0)
        values[elsewhere] = np.nan
        return values


class NuisanceUnit:
    """A unit that nothing explains: its activation is a function of the image's content id alone.

    dead: always 0. constant: always the same. random: uniform in [0, 1]. noisy: now and then large, else near
    0.
    """

    def __init__(self, kind: SyntheticKind, seed: int, dataset: ImageDataset, explored: np.ndarray) -> None:
        self.id = f"synthetic/{kind} {seed}"
        self._kind, self._seed, self._dataset, self._explored = kind, seed, dataset, explored
        self._ranking: list[tuple[float, int]] = []

    async def check(self) -> None: ...

    async def prepare(self, progress: Progress) -> None: ...

    def activation(self, image_id: str) -> float:
        """Return the activation of the image with this content id."""
        digest = hashlib.blake2b(f"{self.id}/{image_id}".encode(), digest_size=16).digest()
        first, second = (int.from_bytes(part, "big") / 2**64 for part in (digest[:8], digest[8:]))
        match self._kind:
            case "dead":
                return 0.0
            case "constant":
                return 0.2 + 0.17 * self._seed
            case "random":
                return first
            case _:
                return max(
                    0.0, 0.1 * math.sqrt(-2 * math.log(1 - first)) * math.cos(2 * math.pi * second)
                ) + (0.9 if first > 0.97 else 0.0)

    async def measure(
        self, images: Sequence[Image], priority: Priority = Priority.INTERACTIVE
    ) -> list[UnitResponse]:
        return [self._respond(image) for image in images]

    def _respond(self, image: Image) -> UnitResponse:
        value = self.activation(image.id)
        # The region is as meaningless as the value: a quarter of the image, chosen by its pixels.
        corner = int(image.id[:2], 16) % 4
        field = np.zeros((2, 2), np.float32)
        field[corner // 2, corner % 2] = value
        return UnitResponse(value, field)

    async def exemplars(self, k: int) -> list[DatasetImage]:
        order = (await self._ranked())[:k]
        images = [await asyncio.to_thread(self._dataset.load, index) for _, index in order]
        return [
            DatasetImage(image, self._dataset.provenance(index), self._respond(image))
            for (_, index), image in zip(order, images, strict=True)
        ]

    async def background(self) -> ActivationStatistics:
        values = np.array([value for value, _ in await self._ranked()])
        return ActivationStatistics(
            float(values.mean()), float(values.std()), float(values.max()), len(values), 0.0
        )

    async def held_out(self, count: int) -> HeldOutActivations:
        held_out = np.setdiff1d(np.arange(len(self._dataset)), self._explored)
        chosen = sample(held_out, count)
        images = await self.held_out_images(chosen.tolist())
        values = np.array([self.activation(image.id) for image in images], np.float32)
        return HeldOutActivations(chosen, values, len(held_out), SEED)

    async def held_out_images(self, indices: Sequence[int]) -> list[Image]:
        return await asyncio.to_thread(lambda: [self._dataset.load(int(index)) for index in indices])

    async def held_out_pictures(self, indices: Sequence[int], k: int) -> list[int | None]:
        return list(range(len(indices)))  # scenes are drawn one by one

    async def _ranked(self) -> list[tuple[float, int]]:
        """Return (activation, index) of a few hundred explored images, strongest first: more would say
        nothing.
        """
        if not self._ranking:

            def measure() -> list[tuple[float, int]]:
                ranked = []
                for index in self._explored[:_MAX_RANKED]:
                    try:
                        ranked.append((self.activation(self._dataset.load(int(index)).id), int(index)))
                    except MaiaError:
                        continue
                return sorted(ranked, key=lambda pair: (-pair[0], pair[1]))

            self._ranking = await asyncio.to_thread(measure)
        return self._ranking


_MAX_RANKED = 300


class Gym:
    """Makes subjects of gym units over one detector and data set; agents see its `explored` images."""

    def __init__(
        self, detector: ConceptDetector, dataset: ImageDataset, table: ConceptTable, *, held_out: HeldOutShare
    ) -> None:
        self._detector, self.dataset, self._table = detector, dataset, table
        self.explored, _ = split(dataset, held_out)

    def subject(self, unit: GymUnit) -> Subject:
        if unit.formula is None:
            return NuisanceUnit(unit.kind, unit.seed, self.dataset, self.explored)
        neuron = SyntheticNeuron(unit.formula, self._table, self.explored)
        if unit.background:
            return ConfoundedNeuron(neuron, unit.background, self._table, self.explored)
        return neuron

    async def covered(self, units: Sequence[GymUnit]) -> tuple[list[GymUnit], dict[str, str]]:
        """Return the units whose concepts the detector knows, and why each other is left out."""
        known, unknown = [], {}
        for unit in units:
            try:
                await self.subject(unit).check()
            except MaiaError as error:
                unknown[unit.name] = str(error)
            else:
                known.append(unit)
        return known, unknown

    async def prepare(self, units: Sequence[GymUnit], progress: Progress) -> None:
        """Search the data set once for the concepts of all units."""
        wanted = [concept for unit in units if unit.formula for concept in unit.formula.concepts]
        await self._table.fill([*wanted, *(unit.background for unit in units if unit.background)], progress)
