"""The interface of networks under study: their units, and the units' activations on images.

Shapes: N images; U units of a layer; h x w positions of a layer's activation map.
A unit's activation on an image is its spatial maximum, in fp32, as in MAIA.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from actors.errors import BackendError
from actors.images import Image, Provenance
from actors.vision.readout.places import ALL, NO_PLACES, REGISTERS, Place, Places, split_place


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
    fractions of the image's sides (a center crop omits the border).
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
