"""The interface of networks under study: their units, and the units' activations on images.

Shapes: N images; U units of a layer; h x w positions of a layer's activation map.
A unit's activation on an image is its spatial maximum, in fp32, as in MAIA.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from actors.errors import BackendError
from actors.images import Image, Provenance
from actors.serving.backend import Priority
from actors.vision.readout.places import ALL, NO_PLACES, REGISTERS, Place, Places, split_place

if TYPE_CHECKING:
    from actors.vision.readout.edits import Edit
    from actors.vision.readout.requests import VisionRequest, VisionResult
    from actors.vision.readout.units import Readout


class SampleError(BackendError):
    """No image of a data set's sample has a finite activation of the unit."""


UnitKind = str
"""`channel`, `logit`, `probability`, `direction`, `latent`, or a kind added with `units.register_kind`."""

LayerKind = Literal["map", "tokens", "vector"]

Scores = Literal["softmax", "sigmoid", "probabilities"]
"""How a network's output becomes class probabilities: by a softmax over all classes, by a sigmoid of each
class, or as it is.
"""


@dataclass(frozen=True, slots=True)
class Unit:
    """One scalar of a network.

    `channel`: channel `index` of `layer`. `logit`, `probability`: class `index` of the classifier
    (`layer` is "output"). `direction`, `latent`: row `index` of the file `source`, read at `layer`. The
    layer's name may end in a place, as `blocks.9@cls` does (`places`).
    """

    layer: str
    index: int
    kind: UnitKind = "channel"
    source: str = ""

    def __str__(self) -> str:
        prefix = "" if self.kind == "channel" else f"{self.kind}:"
        suffix = f"@{self.source}" if self.source else ""
        return f"{prefix}{self.layer}:{self.index}{suffix}"

    @property
    def place(self) -> Place:
        """The part of the layer that it is read at."""
        return split_place(self.layer)[1]


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """A module whose output can be tapped, or a part of it (`at`).

    `shape` is (h, w) for maps and tokens whose places in the image are known, else ().

    `scores` is None except for a classifier's layer "output".
    """

    name: str
    kind: LayerKind
    n_units: int
    shape: tuple[int, ...]
    module: str
    scores: Scores | None = None
    places: Places = NO_PLACES

    def at(self, place: Place) -> LayerInfo:
        """Return a part of the layer.

        Raises:
            UsageError: If it has no such part.
        """
        if place == Place():
            return self
        self.places.check(self.name, place)
        counts = {"": self.n_units, "in": self.places.n_inputs, "head": self.places.head_width}
        one = place.tokens not in ("", REGISTERS, ALL)
        return replace(
            self,
            name=place.of(self.name),
            n_units=counts[place.site],
            kind="vector" if one else self.kind,
            shape=() if place.tokens else self.shape,
            places=Places(),
        )


@dataclass(frozen=True, slots=True)
class UnitResponse:
    """One unit on one image: spatial maximum, and the map float16 (h, w), (1, 1) for vectors.

    The map covers `view`, the part of the image that the network was given: top, left, bottom, right as
    fractions of the image's sides (a center crop omits the border). `looks`, float32 (h, w), are the weights
    that an attention head gives to the patches; None of other units, and of attention without such weights.
    """

    activation: float
    map: np.ndarray
    view: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    looks: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Exemplars:
    """A unit's strongest data-set images, best first.

    `indices` int64 (k,) into the data set and `activations` float32 (k,); `quantiles` maps a level in (0, 1)
    to the activation at that level over positions and images, from a sample that is kept, like maps, in half
    precision: to three digits, and at most 65504 in size. `mean`, `std`, `maximum` are of per-image
    activations over the `n_images` seen, in single precision. `map_mean` is over positions and images; NaN if
    an earlier version swept the data set, which did not keep it.
    """

    unit: Unit
    indices: np.ndarray
    activations: np.ndarray
    quantiles: dict[float, float]
    mean: float
    std: float
    maximum: float
    n_images: int
    map_mean: float


@dataclass(frozen=True, slots=True)
class Scatter:
    """A unit's activations on some images of a data set that agents may see.

    `indices` int64 (n,) into the data set, ascending; `activations` float32 (n,), finite; `features` float32
    (n, d), by which images are compared: each unit's maximum in the network's last layer before its
    classifier, None if there is no such layer.
    """

    indices: np.ndarray
    activations: np.ndarray
    features: np.ndarray | None


@dataclass(frozen=True, slots=True)
class HeldOutActivations:
    """A simple random sample of the held-out images, and a unit's activations on them.

    `indices` int64 (n,) into the data set, in order, and `activations` float32 (n,), all finite. `total`
    images are held out; `seed` is that of the sample.
    """

    indices: np.ndarray
    activations: np.ndarray
    total: int
    seed: int


@dataclass(frozen=True, slots=True)
class SweepProgress:
    """The progress of a sweep, in images; `skipped` images of this run could not be read."""

    done: int
    total: int
    skipped: int


class ImageDataset(Protocol):
    """Images by index. Loading is pure: the same index is always the same image."""

    name: str
    fingerprint: str

    def __len__(self) -> int: ...

    def load(self, index: int) -> Image:
        """Return image `index`.

        Raises:
            ImageDecodeError: If it is corrupt; the caller skips, counts and names it.
        """

    def provenance(self, index: int) -> Provenance: ...


class VisionClient(Protocol):
    """The client of a network under study: asynchronous, shared, local or remote."""

    name: str
    fingerprint: str
    """Digest of weights, preprocessing and dtype: part of every cache key."""

    async def layers(self) -> list[LayerInfo]: ...

    async def unit(self, unit: Unit | str) -> Unit:
        """Return `unit` under its layer's own name, checked; a string is a class of the classifier."""

    async def check(self, unit: Unit) -> None:
        """Raise UsageError naming the nearest layers or the range if the network has no such unit."""

    async def class_names(self) -> list[str]:
        """Return the classifier's class names by index, empty if it has none."""

    async def measure(
        self,
        unit: Unit,
        images: Sequence[Image],
        *,
        agent: str = "",
        priority: Priority = Priority.INTERACTIVE,
    ) -> list[UnitResponse]:
        """Return the unit's response to each image, in order, without `looks`."""

    async def looks(self, unit: Unit, images: Sequence[Image]) -> list[np.ndarray | None]:
        """Return `UnitResponse.looks` of each image, in order, for a unit that is read at a head."""

    async def activations(
        self,
        units: Sequence[Unit],
        images: Sequence[Image],
        *,
        agent: str = "",
        priority: Priority = Priority.INTERACTIVE,
    ) -> np.ndarray:
        """Return float32 (units, images) without maps; what the stimulus bank holds needs no pass.

        Values that are not finite are returned as they are.
        """

    async def outputs(
        self,
        readout: Readout,
        images: Sequence[Image],
        edits: tuple[Edit, ...] = (),
        *,
        agent: str = "",
        priority: Priority = Priority.INTERACTIVE,
    ) -> np.ndarray:
        """Return all units of a readout on images, float32 (images, units), after `edits` during the pass.

        Raises:
            UsageError: If there is no such unit, or an edit cannot be made or has no effect on the readout.
        """

    async def exemplars(
        self,
        units: Iterable[Unit],
        dataset: ImageDataset,
        k: int = 15,
        progress: Callable[[SweepProgress], None] | None = None,
    ) -> list[Exemplars]:
        """Return each unit's exemplars; one pass over the data set for all units of all their layers."""

    async def explored(
        self,
        unit: Unit,
        dataset: ImageDataset,
        progress: Callable[[SweepProgress], None] | None = None,
    ) -> np.ndarray:
        """Return the unit's activations on every image that may be explored, float32 (n,): known ones at
        once, others by one pass over the data set for all units of the layer.

        Raises:
            SampleError: If none is finite.
        """

    async def scatter(self, unit: Unit, dataset: ImageDataset) -> Scatter:
        """Return the unit's activations on a sample of the images that are not held out, the same for every
        unit.

        The images are loaded and run once for all units of a layer.

        Raises:
            BackendError: If the unit is finite on none of them.
        """

    async def features(self, images: Sequence[Image]) -> np.ndarray | None:
        """Return the features of images, as in `Scatter.features`."""

    async def sample(self, unit: Unit, dataset: ImageDataset) -> np.ndarray:
        """Return the unit's activations, float32 (n,), on images at even distances in the data set.

        The images are the same for every unit, loaded once and run once for all units of a layer. Those that
        cannot be read, or on which the unit is not finite, are omitted.

        Raises:
            SampleError: If none remains.
        """

    async def winning_logit(self, unit: Unit, dataset: ImageDataset) -> float:
        """Return the mean of the largest logit over the images of `sample`; `unit` is the logit of any class.

        Raises:
            SampleError: If no image can be measured.
        """

    async def passes(
        self, rows: Sequence[VisionRequest], *, agent: str = "", priority: Priority = Priority.INTERACTIVE
    ) -> list[VisionResult]:
        """Run images, each with its own edits, and return what each row asks for, in order.

        Raises:
            UsageError: If there is no such unit, or an edit cannot be made or has no effect on what is asked.
        """

    async def drawn(self, dataset: ImageDataset, count: int) -> list[Image]:
        """Return at most `count` images of those that are not held out, at random, always the same ones.

        Raises:
            SampleError: If none of them can be read.
        """

    async def map_mean(self, unit: Unit, dataset: ImageDataset) -> float:
        """Return the mean of the unit's map over positions and the images that are not held out, each image
        counted once; over a sample of these where no sweep knows it.

        Raises:
            UsageError: If the positions of the unit's layer are not known.
            SampleError: If there is no finite mean.
        """

    async def held_out(self, unit: Unit, dataset: ImageDataset, count: int) -> HeldOutActivations:
        """Return the unit's activations on a sample of at most `count` held-out images.

        The images are the same for every unit, and run once for all units of a layer. Those that cannot be
        read, or on which the unit is not finite, are omitted.
        """
