"""The part under study, as tools see it: something that images drive more or less strongly.

A neuron, a class probability and a synthetic neuron are all subjects; an agent does not know which it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypedDict, runtime_checkable

import numpy as np

from actors.errors import UsageError
from actors.images import Image, Provenance
from actors.serving.backend import Priority
from actors.serving.lru import SharedLruCache
from actors.vision.client import PoolVisionClient
from actors.vision.data.distinct import Progress
from actors.vision.data.same_picture import SamePictures
from actors.vision.readout.base import (
    HeldOutActivations,
    ImageDataset,
    SampleError,
    Scatter,
    Unit,
    UnitResponse,
)
from actors.vision.readout.edits import Edit
from actors.vision.readout.units import CLASS_KINDS, OUTPUT, Readout
from tools.intervention import Intervention, UnitInterventions
from tools.sandbox.child.effects import Effects


@dataclass(frozen=True, slots=True)
class DatasetImage:
    """An image of the data set with the response to it."""

    image: Image
    provenance: Provenance
    response: UnitResponse


@dataclass(frozen=True, slots=True)
class ActivationStatistics:
    """A subject's behavior over the data set, for scale: per-image activations.

    `mask_threshold` is the activation above which a position counts as active.
    """

    mean: float
    std: float
    maximum: float
    n_images: int
    mask_threshold: float


class Subject(Protocol):
    """The object of a study. Its id is for records; the agent never sees it."""

    id: str

    async def check(self) -> None:
        """Raise UsageError, naming what is wrong, if there is no such subject."""

    async def prepare(self, progress: Progress) -> None:
        """Do the long work that exemplars need, once; `progress` gets (images done, images in all)."""

    async def measure(self, images: Sequence[Image], priority: Priority = ...) -> list[UnitResponse]:
        """Return the response to each image, in order."""

    async def exemplars(self, k: int) -> list[DatasetImage]:
        """Return the strongest `k` data-set images that are not held out for confirmation, best first."""

    async def background(self) -> ActivationStatistics: ...


@runtime_checkable
class OfClass(Protocol):
    """A subject that may be a class of its network."""

    async def class_name(self) -> str:
        """Return the name of the class, "" of other units and where the network names none."""


@runtime_checkable
class Sampled(Protocol):
    """A subject whose spread of activations over the data set is known, for people to look at."""

    async def sample(self) -> np.ndarray:
        """Return activations on images spread evenly over the data set, float32 (n,); the same ones every
        time.

        Raises:
            SampleError: If it is known on none of them.
        """


@runtime_checkable
class Explored(Protocol):
    """A subject that has been measured on every image of its data set, except those held out."""

    async def explored(self, progress: Progress) -> np.ndarray:
        """Return these activations, float32 (n,), in no order; raises SampleError if none is known."""


@runtime_checkable
class Browsable(Protocol):
    """A subject of which more than the strongest images can be looked at, none of them held out for
    confirmation.
    """

    async def scatter(self) -> Scatter:
        """Return activations on a part of the data set; raises BackendError if none is known."""

    async def features(self, images: Sequence[Image]) -> np.ndarray | None:
        """Return what images are compared by, as in `Scatter.features`."""

    async def pictures(self, indices: Sequence[int]) -> list[DatasetImage]:
        """Return images of the data set with the responses to them."""


@runtime_checkable
class HasHeldOut(Protocol):
    """A subject with a data set of which a part is held out: no agent ever sees it, and labels are tested on
    it.
    """

    async def held_out(self, count: int) -> HeldOutActivations:
        """Return what at most `count` of these images do to it; the same images for all subjects of a data
        set.
        """

    async def held_out_images(self, indices: Sequence[int]) -> list[Image]:
        """Return images of the data set by index, in order."""

    async def held_out_pictures(self, indices: Sequence[int], k: int) -> list[int | None]:
        """Return which picture each of these images is a part of, numbered from 0; None where one of the `k`
        exemplars is a part of the same.
        """


@runtime_checkable
class Anchored(Protocol):
    """A subject that knows what an image of its own thing does to it, though the data set may hold none."""

    async def anchor(self) -> float | None:
        """Return an activation that images reach which show what the subject is for; None where that is
        unknown.
        """


@runtime_checkable
class Looking(Protocol):
    """A subject that may be an attention head."""

    async def looks(self, images: Sequence[Image]) -> list[np.ndarray | None]:
        """Return the weights, float32 (h, w), that the head gives to the patches of each image, in order;
        None of other units, and of attention without such weights.
        """


@runtime_checkable
class Intervenable(Protocol):
    """A subject that can be given other values inside a network."""

    async def intervene(
        self,
        images: Sequence[Image],
        intervention: Intervention,
        outputs: Sequence[str] = (),
        *,
        name_units: bool = True,
    ) -> Effects:
        """Return what an intervention does to images; as `UnitInterventions.effects`."""


@dataclass(frozen=True, slots=True)
class NamedOutputs:
    """What a network's outputs are: their names, none of one that names no classes; and whether they are
    logits of classes that exclude each other, of which softmax ignores what all share.
    """

    names: Sequence[str]
    softmax: bool


@runtime_checkable
class Ablatable(Protocol):
    """A subject inside a network: it can be taken out, to see what that does to the network's outputs."""

    @property
    def ablation(self) -> Edit:
        """The edit that takes it out."""

    async def named_outputs(self) -> NamedOutputs:
        """Return what the network's outputs are.

        Raises:
            UsageError: If nothing that could be compared is computed from the subject.
        """

    async def outputs(self, images: Sequence[Image], edits: tuple[Edit, ...] = ()) -> np.ndarray:
        """Return the network's outputs on images, float32 (images, outputs), after edits during the pass."""

    async def exemplar_classes(self, k: int) -> list[int | None]:
        """Return which outputs the strongest `k` images belong to by the data set's labels, None where that
        is unknown.
        """


class ClassLookup(Protocol):
    """The classes of a data set's images, as far as they are outputs of a network."""

    async def __call__(self, indices: Sequence[int]) -> list[int | None]: ...


async def _unknown_classes(indices: Sequence[int]) -> list[int | None]:
    return [None] * len(indices)


class Histogram(TypedDict):
    """Counts of the `n` finite values in bins of one width from `low` to `high`."""

    low: float
    high: float
    counts: list[int]
    n: int


def histogram(values: np.ndarray, bins: int = 24) -> Histogram | None:
    """Return the histogram of the finite values, None if they do not vary."""
    finite = values[np.isfinite(values)]
    if len(finite) == 0 or finite.min() == finite.max():
        return None
    counts, edges = np.histogram(finite.astype(np.float64), bins)
    return {"low": float(edges[0]), "high": float(edges[-1]), "counts": counts.tolist(), "n": len(finite)}


_WINS = 0.5
"""Probability of a class from which no other can be more probable."""


class NetworkUnit:
    """A unit of a real network, with the exemplars of a data set."""

    def __init__(
        self,
        client: PoolVisionClient,
        unit: Unit,
        dataset: ImageDataset,
        *,
        mask_quantile: float = 0.95,
        classes: ClassLookup = _unknown_classes,
    ) -> None:
        self._client, self._unit, self._dataset = client, unit, dataset
        self._mask_quantile, self._classes = mask_quantile, classes
        self.id = f"{client.name}/{unit}"

    async def check(self) -> None:
        await self._client.check(self._unit)

    async def prepare(self, progress: Progress) -> None:
        await self._client.exemplars(
            [self._unit], self._dataset, progress=lambda swept: progress(swept.done, swept.total)
        )

    async def measure(
        self, images: Sequence[Image], priority: Priority = Priority.INTERACTIVE
    ) -> list[UnitResponse]:
        return await self._client.measure(self._unit, images, agent=self.id, priority=priority)

    async def looks(self, images: Sequence[Image]) -> list[np.ndarray | None]:
        if self._unit.place.site != "head":
            return [None] * len(images)
        return await self._client.looks(self._unit, images)

    async def exemplars(self, k: int) -> list[DatasetImage]:
        (unit,) = await self._client.exemplars([self._unit], self._dataset, k)
        return await self.pictures(unit.indices[:k].tolist())

    async def pictures(self, indices: Sequence[int]) -> list[DatasetImage]:
        # In a thread: decoding a dozen images would hold up every other agent of this process.
        loaded = await asyncio.to_thread(_recent.load_all, self._dataset, indices)
        responses = await self.measure([image for image, _ in loaded])
        return [
            DatasetImage(image, provenance, response)
            for (image, provenance), response in zip(loaded, responses, strict=True)
        ]

    async def scatter(self) -> Scatter:
        return await self._client.scatter(self._unit, self._dataset)

    async def features(self, images: Sequence[Image]) -> np.ndarray | None:
        return await self._client.features(images)

    async def sample(self) -> np.ndarray:
        return await self._client.sample(self._unit, self._dataset)

    async def explored(self, progress: Progress) -> np.ndarray:
        return await self._client.explored(
            self._unit, self._dataset, lambda swept: progress(swept.done, swept.total)
        )

    async def anchor(self) -> float | None:
        """Return, of a class, the logit with which classes win on images of the data set, or the least such
        probability.

        A class of which the data set has no image is never near it: its strongest images are then merely the
        least unlike.
        """
        if self._unit.kind == "probability":
            return _WINS
        if self._unit.kind != "logit":
            return None
        try:
            return await self._client.winning_logit(self._unit, self._dataset)
        except SampleError:
            return None

    async def class_name(self) -> str:
        names = await self._client.class_names()
        of_class = self._unit.kind in CLASS_KINDS and self._unit.index < len(names)
        return names[self._unit.index] if of_class else ""

    async def held_out(self, count: int) -> HeldOutActivations:
        return await self._client.held_out(self._unit, self._dataset, count)

    async def held_out_images(self, indices: Sequence[int]) -> list[Image]:
        loaded = await asyncio.to_thread(_recent.load_all, self._dataset, indices)
        return [image for image, _ in loaded]

    async def held_out_pictures(self, indices: Sequence[int], k: int) -> list[int | None]:
        (unit,) = await self._client.exemplars([self._unit], self._dataset, k)
        return await asyncio.to_thread(_pictures.numbers, self._dataset, indices, unit.indices[:k].tolist())

    async def intervene(
        self,
        images: Sequence[Image],
        intervention: Intervention,
        outputs: Sequence[str] = (),
        *,
        name_units: bool = True,
    ) -> Effects:
        interventions = UnitInterventions(self._client, self._unit, self._dataset)
        return await interventions.effects(
            images, intervention, outputs, name_units=name_units, agent=self.id
        )

    @property
    def ablation(self) -> Edit:
        return Edit(Readout.of(self._unit), self._unit.index, "set", 0.0)

    async def named_outputs(self) -> NamedOutputs:
        if self._unit.kind in CLASS_KINDS:
            raise UsageError("it is an output itself, and nothing is computed from it.")
        layers = await self._client.layers()
        output = next((layer for layer in layers if layer.name == OUTPUT), None)
        if output is None or output.kind != "vector":
            raise UsageError(
                "the network has no vector of outputs on which a unit could have an effect.",
                "Use a network with a vector of outputs, such as a classifier.",
            )
        return NamedOutputs(await self._client.class_names(), output.scores == "softmax")

    async def outputs(self, images: Sequence[Image], edits: tuple[Edit, ...] = ()) -> np.ndarray:
        readout = Readout(OUTPUT, "logit")
        return await self._client.outputs(
            readout, images, edits, agent=self.id, priority=Priority.CONFIRMATION
        )

    async def exemplar_classes(self, k: int) -> list[int | None]:
        (unit,) = await self._client.exemplars([self._unit], self._dataset, k)
        return await self._classes(unit.indices[:k].tolist())

    async def background(self) -> ActivationStatistics:
        (unit,) = await self._client.exemplars([self._unit], self._dataset)
        return ActivationStatistics(
            mean=unit.mean,
            std=unit.std,
            maximum=unit.maximum,
            n_images=unit.n_images,
            mask_threshold=unit.quantiles[self._mask_quantile],
        )


class RecentImages:
    """The data-set images that were loaded last: the strongest images of one unit are often another's too.

    Thread-safe. `limit_bytes` bounds the pixels that are kept.
    """

    def __init__(self, limit_bytes: int = 128 * 2**20) -> None:
        self._images: SharedLruCache[tuple[Image, Provenance]] = SharedLruCache(limit_bytes)

    def load_all(self, dataset: ImageDataset, indices: Sequence[int]) -> list[tuple[Image, Provenance]]:
        """Return images of a data set and where they come from. Blocking; raises as `ImageDataset.load`."""
        return [self._load(dataset, index) for index in indices]

    def _load(self, dataset: ImageDataset, index: int) -> tuple[Image, Provenance]:
        return self._images.get_or_make(
            (dataset.fingerprint, index),
            lambda: (dataset.load(index), dataset.provenance(index)),
            lambda loaded: loaded[0].pixels.nbytes,
        )


_recent = RecentImages()
_pictures = SamePictures()
