"""The seam of networks under study: which units there are, and how strongly images drive them.

Shapes: N images; U units of a layer; h x w positions of a layer's activation map.
A unit's activation on an image is its spatial maximum, in fp32, as in MAIA.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from actors.errors import BackendError
from actors.images import Image, Provenance
from actors.serving.backend import Priority


class SampleError(BackendError):
    """A unit's activation is known on no image of a data set's sample."""


UnitKind = str
"""`channel`, `logit`, `probability`, `direction`, `latent`, or a kind added with `units.register_kind`."""

LayerKind = Literal["map", "tokens", "vector"]

Scores = Literal["softmax", "sigmoid", "probabilities"]
"""How a network's output becomes class probabilities: over all classes, each class by itself, or it holds
them already.
"""


@dataclass(frozen=True, slots=True)
class Unit:
    """One scalar of a network.

    `channel`: channel `index` of `layer`. `logit`, `probability`: class `index` of the classifier
    (`layer` is "output"). `direction`, `latent`: row `index` of the file `source`, read at `layer`.
    """

    layer: str
    index: int
    kind: UnitKind = "channel"
    source: str = ""

    def __str__(self) -> str:
        prefix = "" if self.kind == "channel" else f"{self.kind}:"
        suffix = f"@{self.source}" if self.source else ""
        return f"{prefix}{self.layer}:{self.index}{suffix}"


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """A module whose output can be tapped. `shape` is (h, w) for maps and tokens, () for vectors.

    `scores` is of a classifier's layer "output", None elsewhere.
    """

    name: str
    kind: LayerKind
    n_units: int
    shape: tuple[int, ...]
    module: str
    scores: Scores | None = None


@dataclass(frozen=True, slots=True)
class UnitResponse:
    """One unit on one image: spatial maximum, and the map float16 (h, w), (1, 1) for vectors.

    The map lies over `view`, the part of the image that the network saw: top, left, bottom, right as
    fractions of its sides (networks that crop the centre do not see the border).
    """

    activation: float
    map: np.ndarray
    view: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Exemplars:
    """A unit's strongest data-set images, best first.

    `indices` int64 (k,) into the data set and `activations` float32 (k,); `quantiles` maps a level in (0, 1)
    to the activation at that level over positions and images, from a sample that is kept, like maps, in half
    precision: to three digits, and at most 65504 in size. `mean`, `std`, `maximum` are of per-image
    activations over the `n_images` seen, in single precision.
    """

    unit: Unit
    indices: np.ndarray
    activations: np.ndarray
    quantiles: dict[float, float]
    mean: float
    std: float
    maximum: float
    n_images: int


@dataclass(frozen=True, slots=True)
class Scatter:
    """What a unit does on some images of a data set that agents may see.

    `indices` int64 (n,) into the data set, ascending; `activations` float32 (n,), finite; `features` float32
    (n, d), by which images are compared: each unit's maximum in the network's last layer before its
    classifier. None where there is none.
    """

    indices: np.ndarray
    activations: np.ndarray
    features: np.ndarray | None


@dataclass(frozen=True, slots=True)
class HeldBack:
    """A simple random sample of the images that are held back for confirmation, and what they do to a unit.

    `indices` int64 (n,) into the data set, in order, and `activations` float32 (n,), all finite. `total`
    images are held back; `seed` is that of the sample.
    """

    indices: np.ndarray
    activations: np.ndarray
    total: int
    seed: int


@dataclass(frozen=True, slots=True)
class SweepProgress:
    """How far a pass over a data set is; `skipped` images of this run could not be read."""

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
    """A network under study as its users see it: asynchronous, shared, remote or not."""

    name: str
    fingerprint: str
    """Digest of weights, preprocessing and dtype: part of every cache key."""

    async def layers(self) -> list[LayerInfo]: ...

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
        """Return the unit's response to each image, in order."""

    async def activations(
        self,
        units: Sequence[Unit],
        images: Sequence[Image],
        *,
        agent: str = "",
        priority: Priority = Priority.INTERACTIVE,
    ) -> np.ndarray:
        """Return float32 (units, images) without maps: what the stimulus bank knows costs no pass.

        Not finite where a unit is not: one among many costs the others nothing.
        """

    async def exemplars(
        self,
        units: Iterable[Unit],
        dataset: ImageDataset,
        k: int = 15,
        progress: Callable[[SweepProgress], None] | None = None,
    ) -> list[Exemplars]:
        """Return each unit's exemplars; one pass over the data set for all units of all their layers."""

    async def scatter(self, unit: Unit, dataset: ImageDataset) -> Scatter:
        """Return what the unit does on a part of the images that are not reserved, the same ones for every
        unit.

        They are loaded and shown once for all units of a layer.

        Raises:
            BackendError: If the unit's activation is known on none of them.
        """

    async def features(self, images: Sequence[Image]) -> np.ndarray | None:
        """Return what images are compared by, as in `Scatter.features`."""

    async def sample(self, unit: Unit, dataset: ImageDataset) -> np.ndarray:
        """Return the unit's activations, float32 (n,), on images at even distances in the data set.

        The same images for every unit, loaded once and shown once for all units of a layer; those that cannot
        be read, or on which the unit is not finite, are left out.

        Raises:
            SampleError: If that leaves none.
        """

    async def winning_logit(self, unit: Unit, dataset: ImageDataset) -> float:
        """Return the mean of the largest logit over the images of `sample`; `unit` is the logit of any class.

        Raises:
            SampleError: If no image can be measured.
        """

    async def held_back(self, unit: Unit, dataset: ImageDataset, count: int) -> HeldBack:
        """Return what at most `count` of the images that are held back for confirmation do to the unit.

        The same images for every unit, and shown once for all units of a layer; those that cannot be read, or
        on which the unit is not finite, are left out.
        """
