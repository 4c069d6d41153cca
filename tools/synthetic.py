"""Synthetic neurons as subjects: concepts in images combined by a formula, so that the truth is known (MAIA
4.2).

The concepts are found by a detector; values and masks are combined by `actors.detection.compose`. What the
data set holds of each concept is found once, for all neurons in one pass, and kept on disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from actors.detection.base import Detection
from actors.detection.compose import Formula, compose
from actors.detection.settings import Mode
from actors.errors import MaiaError
from actors.images import Image
from actors.serving.backend import Priority
from actors.vision.data.held_out import SEED, sample
from actors.vision.readout.base import HeldOutActivations, ImageDataset, SampleError, Scatter, UnitResponse
from tools.contrast import thumbnails
from tools.subject import ActivationStatistics, DatasetImage, Progress

_BROWSED = 1024
"""Images of the data set at most that agents may see besides the strongest."""


class ConceptDetector(Protocol):
    """Finds concepts named in words."""

    async def name(self) -> str: ...

    async def detect(
        self, images: Sequence[Image], concepts: Sequence[str], *, agent: str = "", priority: Priority = ...
    ) -> list[Detection | MaiaError]: ...

    async def survey(
        self, images: ImageDataset, count: int, concepts: Sequence[str], progress: Progress = ...
    ) -> tuple[list[str], np.ndarray]: ...


class ConceptTable:
    """The score of concepts in every image of a data set, a file a concept; float32 (N,), NaN where
    unreadable.
    """

    def __init__(self, detector: ConceptDetector, dataset: ImageDataset, folder: Path) -> None:
        self.detector, self.dataset = detector, dataset
        self._folder = folder
        self._scores: dict[str, np.ndarray] = {}
        self._ids: list[str] = []
        self._lock = asyncio.Lock()
        self._small: tuple[bytes, np.ndarray] = (b"", np.empty(0, np.float32))

    async def fill(self, concepts: Iterable[str], progress: Progress = lambda _done, _total: None) -> None:
        """Make sure of these concepts: one pass over the data set for all that are not on disk yet.

        Raises:
            MaiaError: If the detector cannot look for one of them.
        """
        wanted = sorted(set(concepts))
        async with self._lock:
            folder = self._folder / _digest(await self.detector.name(), self.dataset.fingerprint)
            missing = [
                concept for concept in wanted if not await asyncio.to_thread(self._read, folder, concept)
            ]
            if not missing:
                return
            ids, scores = await self.detector.survey(self.dataset, len(self.dataset), missing, progress)
            await asyncio.to_thread(self._write, folder, ids, missing, scores)

    def scores(self, concept: str) -> np.ndarray:
        """Return the scores of a concept that `fill` was asked for."""
        return self._scores[concept]

    @property
    def ids(self) -> list[str]:
        """The content id of every image, "" where unreadable."""
        return self._ids

    async def small_pictures(self, indices: np.ndarray) -> np.ndarray:
        """Return what images of the data set are compared by, float32 (n, d); kept for the same images."""
        key = indices.tobytes()
        async with self._lock:
            if self._small[0] != key:
                self._small = key, await asyncio.to_thread(self._shrink, indices.tolist())
            return self._small[1]

    def _shrink(self, indices: Sequence[int]) -> np.ndarray:
        return np.concatenate([thumbnails([self.dataset.load(index).pixels]) for index in indices])

    def _read(self, folder: Path, concept: str) -> bool:
        if concept in self._scores:
            return True
        path = folder / f"{_digest(concept)}.npy"
        if not path.exists():
            return False
        self._scores[concept] = np.load(path, allow_pickle=False)
        self._ids = self._ids or json.loads((folder / "ids.json").read_text())
        return True

    def _write(self, folder: Path, ids: list[str], concepts: Sequence[str], scores: np.ndarray) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._ids = ids
        # Ids first: a column counts as there as soon as its file is.
        _replace(folder / "ids.json", json.dumps(ids).encode())
        for concept, column in zip(concepts, scores.T, strict=True):
            self._scores[concept] = np.ascontiguousarray(column)
            draft = folder / f".{uuid.uuid4().hex}.npy"
            np.save(draft, self._scores[concept])
            draft.replace(folder / f"{_digest(concept)}.npy")


class SyntheticNeuron:
    """A subject whose activation, in [0, 1], is that of a formula over detected concepts.

    `explored` are the data-set indices that exemplars may come from; the others are held out. The map is the
    activation on the formula's mask and 0 elsewhere, so a position is active when it is above 0.
    """

    def __init__(
        self, formula: Formula, table: ConceptTable, explored: np.ndarray, *, mode: Mode = "paper"
    ) -> None:
        self.formula, self.mode = formula, mode
        self.id = f"synthetic/{formula}"
        self._table, self._explored = table, explored

    async def check(self) -> None:
        """Raise UsageError if the detector does not know a concept."""
        probe = Image.from_pixels(np.zeros((32, 32, 3), np.uint8))
        concepts = self.formula.concepts
        _checked(await self._table.detector.detect([probe] * len(concepts), concepts))

    async def prepare(self, progress: Progress) -> None:
        await self._table.fill(self.formula.concepts, progress)

    async def measure(
        self, images: Sequence[Image], priority: Priority = Priority.INTERACTIVE
    ) -> list[UnitResponse]:
        """Return the response to each image, in order.

        Raises:
            MaiaError: If the detector failed on an image: a failure is not an absence.
        """
        concepts = self.formula.concepts
        answers = await self._table.detector.detect(
            [image for image in images for _ in concepts],
            list(concepts) * len(images),
            agent=self.id,
            priority=priority,
        )
        responses = []
        for row, image in enumerate(images):
            detections = _checked(answers[row * len(concepts) : (row + 1) * len(concepts)])
            value = compose(self.formula, detections, self.mode, image.id)
            responses.append(
                UnitResponse(value.score, value.mask.astype(np.float32) * np.float32(value.score))
            )
        return responses

    async def exemplars(self, k: int) -> list[DatasetImage]:
        values = await self.activations()
        explored = self._explored[~np.isnan(values[self._explored])]
        order = explored[np.argsort(-values[explored], kind="stable")][:k]
        return await self.pictures(order.tolist())

    async def background(self) -> ActivationStatistics:
        """Return the behavior over the images on which it is known.

        Raises:
            SampleError: If there is none.
        """
        known = await self.sample()
        return ActivationStatistics(
            float(known.mean()), float(known.std()), float(known.max()), len(known), 0.0
        )

    async def scatter(self) -> Scatter:
        """Return activations on images that agents may see; these are compared by small pictures of them.

        Raises:
            SampleError: If it is known on none of them.
        """
        values = await self.activations()
        drawn = np.sort(np.random.default_rng(0).permutation(self._explored)[:_BROWSED])
        drawn = drawn[~np.isnan(values[drawn])]
        if not len(drawn):
            raise SampleError(
                f"{self.id} is known on no image of {self._table.dataset.name!r}.",
                "Look at the images of the data set.",
            )
        return Scatter(drawn, values[drawn], await self._table.small_pictures(drawn))

    async def features(self, images: Sequence[Image]) -> np.ndarray:
        return await asyncio.to_thread(thumbnails, [image.pixels for image in images])

    async def pictures(self, indices: Sequence[int]) -> list[DatasetImage]:
        images = [await asyncio.to_thread(self._table.dataset.load, index) for index in indices]
        responses = await self.measure(images)
        return [
            DatasetImage(image, self._table.dataset.provenance(index), response)
            for index, image, response in zip(indices, images, responses, strict=True)
        ]

    async def sample(self) -> np.ndarray:
        values = await self.activations()
        known: np.ndarray = values[~np.isnan(values)]
        if not len(known):
            raise SampleError(
                f"{self.id} is known on no image of {self._table.dataset.name!r}.",
                "Look at the images of the data set.",
            )
        return known

    async def held_out(self, count: int) -> HeldOutActivations:
        values = await self.activations()
        held_out = np.setdiff1d(np.flatnonzero(~np.isnan(values)), self._explored)
        chosen = sample(held_out, count)
        return HeldOutActivations(chosen, values[chosen], len(held_out), SEED)

    async def held_out_images(self, indices: Sequence[int]) -> list[Image]:
        return await asyncio.to_thread(lambda: [self._table.dataset.load(int(index)) for index in indices])

    async def held_out_pictures(self, indices: Sequence[int], k: int) -> list[int | None]:
        return list(range(len(indices)))  # scenes are drawn one by one

    async def activations(self) -> np.ndarray:
        """Return the activation on every image of the data set, float32 (N,), NaN where unreadable."""
        await self._table.fill(self.formula.concepts)
        columns = np.stack([self._table.scores(concept) for concept in self.formula.concepts], axis=1)
        values = np.full(len(columns), np.nan, np.float32)
        spot = np.zeros((1, 1), bool)
        for row, (scores, image_id) in enumerate(zip(columns, self._table.ids, strict=True)):
            if not np.isnan(scores).any():
                detections = [Detection(float(score), spot) for score in scores]
                values[row] = compose(self.formula, detections, self.mode, image_id).score
        return values


def _checked(answers: Sequence[Detection | MaiaError]) -> list[Detection]:
    """Return the detections; raise the first error among them."""
    detections = []
    for answer in answers:
        if isinstance(answer, MaiaError):
            raise answer
        detections.append(answer)
    return detections


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=12).hexdigest()


def _replace(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{uuid.uuid4().hex}.tmp")
    draft.write_bytes(data)
    draft.replace(path)
