"""The concept net: a small dense network that finds the embedded world's concepts in pixels.

Every position of its map is one of the concepts or one of the backgrounds, so that presence, mask and
setting come from one softmax. It is a stand-in for an open-set detector and says so; because what each
of its outputs stands for is known, it is also a network to study with a known truth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image

from actors.embedded.drawing.backgrounds import BACKGROUNDS
from actors.embedded.drawing.color import name_of, names_of
from actors.embedded.drawing.masked import restore, visible_region
from actors.embedded.drawing.vocabulary import ASSETS, COLORS, concepts, vocabulary
from actors.errors import UsageError
from actors.images import Image

if TYPE_CHECKING:
    from actors.embedded.concept_net.network import ConceptNetwork

WEIGHTS = ASSETS / "concept_net.safetensors"
INPUT_SIZE = 96
"""Side of the square input, pixels; the map has a quarter of it."""
STRIDE = 4
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
BATCH = 32
EDGE = 0.35
"""Probability from which a position belongs to a mask: half would lose the rims, where objects share a
position.
"""
_CORE = 4
"""Positions whose mean probability is a concept's score: about what the smallest object covers."""


def class_names() -> list[str]:
    """Return what each channel of the layer `concepts` stands for: the concepts, then the backgrounds."""
    return [*(concept.name for concept in concepts()), *BACKGROUNDS]


def build_network(weights: str | Path | None = WEIGHTS) -> ConceptNetwork:
    """Return the network in eval mode: float32 (N, 3, s, s), normalized by MEAN and STD, to logits (N, K).

    The layer `concepts` gives the logits of every position, (N, K, s/4, s/4), one channel for each of
    `class_names`; a class's logit is its maximum over positions. `None` leaves random weights.

    Raises:
        UsageError: If there are no weights, or they are of another vocabulary.
    """
    from actors.embedded.concept_net.network import ConceptNetwork

    network = ConceptNetwork(len(class_names()))
    network.class_names = tuple(class_names())
    network.preprocessing = {
        "size": INPUT_SIZE,
        "fit": "squash",
        "interpolation": "box",
        "mean": MEAN,
        "std": STD,
    }
    if weights is None:
        return network.eval()
    from safetensors import safe_open

    if not Path(weights).is_file():
        raise UsageError(
            f"there are no weights at {weights}.",
            "Train: python -m scripts.train_concept_net --minutes 15.",
        )
    with safe_open(str(weights), "pt") as file:
        names = (file.metadata() or {}).get("classes", "").split("|")
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if names != class_names():
        raise UsageError(
            f"{weights} was trained on other concepts than the vocabulary has.",
            "Train again: python -m scripts.train_concept_net --minutes 15.",
        )
    network.load_state_dict(state)
    return network.eval()


def preprocess(pictures: Sequence[np.ndarray], size: int = INPUT_SIZE) -> np.ndarray:
    """Return float32 (N, 3, size, size), normalized, from uint8 (H, W, 3) pictures of any shape.

    A picture that is not square is squeezed; the concepts survive that, and no part of it is lost.
    """
    batch = np.empty((len(pictures), size, size, 3), np.float32)
    for i, pixels in enumerate(pictures):
        if pixels.shape[:2] != (size, size):
            small = min(pixels.shape[:2]) < size
            how = PIL.Image.Resampling.BILINEAR if small else PIL.Image.Resampling.BOX
            pixels = np.asarray(PIL.Image.fromarray(pixels).resize((size, size), how))
        batch[i] = pixels
    batch /= 255
    batch -= np.array(MEAN, np.float32)
    batch /= np.array(STD, np.float32)
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2))


@dataclass(frozen=True, slots=True)
class SightedThing:
    """One object that was found: connected positions of one concept; two of a kind that touch are one.

    `mask` is bool (H, W) of the image, `box` its bounds x0, y0, x1, y1 in pixels, `score` in [0, 1].
    """

    concept: str
    score: float
    mask: np.ndarray
    box: tuple[int, int, int, int]
    color: str
    """The named color that most of it has, measured from the pixels."""


@dataclass(frozen=True, eq=False)
class Sighting:
    """What the net sees in one image of height H and width W.

    `scores` (every concept) and `backgrounds` (every background) are in [0, 1]; a background's score is
    its share of what is not an object. If the image was darkened outside a region, `visible` is that region,
    bool (H, W), and only what lies in it counts.
    """

    scores: dict[str, float]
    backgrounds: dict[str, float]
    visible: np.ndarray | None
    _pixels: np.ndarray
    _maps: np.ndarray
    """Probabilities float32 (K, h, w), in the order of `class_names`."""
    _seen: np.ndarray
    """Which positions of the maps count, bool (h, w)."""

    @property
    def background(self) -> str:
        """The background that most of the picture has."""
        return max(self.backgrounds, key=lambda name: self.backgrounds[name])

    @property
    def doubt(self) -> float:
        """The entropy of what a position shows, mean over the whole picture, in nats: near 0 in drawn
        scenes.
        """
        return float(-(self._maps * np.log(self._maps + 1e-9)).sum(0).mean())

    @property
    def saturation(self) -> float:
        """The difference of the largest and the smallest channel, mean over the whole picture, in 0..255."""
        side = (INPUT_SIZE, INPUT_SIZE)
        small = np.asarray(PIL.Image.fromarray(self._pixels).resize(side, PIL.Image.Resampling.BOX))
        return float(np.ptp(small, axis=2).mean())

    def score_of(self, names: Sequence[str]) -> float:
        """Return how surely any of the named concepts or backgrounds is in the image, in [0, 1]."""
        chosen = self._maps[[_index()[name] for name in names]].sum(0)[self._seen]
        return min(1.0, float(np.sort(chosen)[-_CORE:].mean()))

    def scores_of(self, groups: Sequence[np.ndarray]) -> np.ndarray:
        """Return `score_of` of several groups at once, (n,), each of places in `class_names`."""
        fields = self._maps[:, self._seen]
        sums = np.stack([fields[places].sum(0) for places in groups])
        core = min(_CORE, sums.shape[1])
        best: np.ndarray = np.partition(sums, sums.shape[1] - core, axis=1)[:, -core:].mean(1)
        return np.minimum(1.0, best)

    def mask(self, name: str, least: float = EDGE) -> np.ndarray:
        """Return where a concept or a background is, bool (H, W): where its probability is above `least`."""
        return self.mask_of([name], least)

    def mask_of(self, names: Sequence[str], least: float = EDGE) -> np.ndarray:
        """Return where any of the named concepts or backgrounds is, bool (H, W)."""
        chosen = self._maps[[_index()[name] for name in names]].sum(0)
        mask = self._upsampled(chosen) > least
        return mask if self.visible is None else mask & self.visible

    def color_mask(self, color: str) -> np.ndarray:
        """Return which pixels have this named color, bool (H, W)."""
        mask = self._colors == list(COLORS).index(color)
        return mask if self.visible is None else mask & self.visible

    @cached_property
    def _colors(self) -> np.ndarray:
        return names_of(self._pixels)

    def color(self, mask: np.ndarray) -> str:
        """Return the named color that most of the masked pixels have."""
        return name_of(self._pixels[mask])

    def things(self, least: float = 0.5) -> list[SightedThing]:
        """Return the objects whose score is at least `least`, best first."""
        return sorted(self._things(least), key=lambda thing: -thing.score)

    def _things(self, least: float) -> Iterator[SightedThing]:
        from scipy import ndimage

        n_concepts = len(self.scores)
        owners = self._maps.argmax(0)
        names = class_names()
        for owner in np.unique(owners[owners < n_concepts]):
            name = names[owner]
            if self.scores[name] < least:
                continue
            full = self.mask(name)
            pieces, _ = ndimage.label(owners == owner)
            large = np.asarray(
                PIL.Image.fromarray(pieces.astype(np.uint8)).resize(
                    full.shape[::-1], PIL.Image.Resampling.NEAREST
                )
            )
            grown = ndimage.grey_dilation(large, size=(2 * full.shape[0] // pieces.shape[0] + 1,) * 2)
            for piece in range(1, pieces.max() + 1):
                values = self._maps[owner][pieces == piece]
                score = float(np.sort(values)[-_CORE:].sum() / min(_CORE, max(2, len(values))))
                mask = full & (grown == piece)
                if score < least or not mask.any():
                    continue
                rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
                box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
                yield SightedThing(name, min(score, 1.0), mask, box, self.color(mask))

    def _upsampled(self, field: np.ndarray) -> np.ndarray:
        height, width = self._pixels.shape[:2]
        image = PIL.Image.fromarray(field.astype(np.float32))
        return np.asarray(image.resize((width, height), PIL.Image.Resampling.BILINEAR))


@lru_cache(maxsize=1)
def _index() -> dict[str, int]:
    return {name: i for i, name in enumerate(class_names())}


class ConceptNet:
    """Looks at images and says which concepts are where. Not for several threads at once."""

    def __init__(self, network: ConceptNetwork, digest: str) -> None:
        self._network = network
        self.name = f"concept net (embedded stand-in) {digest}"

    @classmethod
    def load(cls, weights: str | Path = WEIGHTS) -> ConceptNet:
        """Return the net with its weights.

        Raises:
            UsageError: If there are no weights, or they are of another vocabulary.
        """
        network = build_network(weights)
        return cls(network, hashlib.blake2b(Path(weights).read_bytes(), digest_size=6).hexdigest())

    def look(self, images: Sequence[Image]) -> list[Sighting]:
        """Return what is seen in each image, in order; images of any sizes.

        An image that was darkened outside a region with a red outline is brightened again before the net
        sees it, and only what lies in the region counts.
        """
        sightings: list[Sighting] = []
        for start in range(0, len(images), BATCH):
            sightings += self._look(images[start : start + BATCH])
        return sightings

    def _look(self, images: Sequence[Image]) -> list[Sighting]:
        import torch

        regions = [visible_region(image) for image in images]
        pictures = [
            image.pixels if region is None else restore(image.pixels, region)
            for image, region in zip(images, regions, strict=True)
        ]
        with torch.inference_mode():
            maps = self._network.maps(torch.from_numpy(preprocess(pictures))).softmax(1).numpy()
        return [
            _sighting(pixels, region, fields)
            for pixels, region, fields in zip(pictures, regions, maps, strict=True)
        ]


def _sighting(pixels: np.ndarray, region: np.ndarray | None, maps: np.ndarray) -> Sighting:
    n_concepts = len(vocabulary().concepts())
    seen = np.ones(maps.shape[1:], bool)
    if region is not None:
        share = PIL.Image.fromarray(region.astype(np.float32))
        share = share.resize(maps.shape[:0:-1], PIL.Image.Resampling.BOX)
        seen = np.asarray(share) > 0.35
        if not seen.any():
            seen = np.asarray(share) > 0
    flat = maps[:, seen]
    core = min(_CORE, flat.shape[1])
    best = np.partition(flat[:n_concepts], flat.shape[1] - core, axis=1)[:, -core:].mean(1)
    places = flat[n_concepts:].sum(1)
    places = places / max(float(places.sum()), 1e-6)
    names = class_names()
    return Sighting(
        dict(zip(names[:n_concepts], map(float, best), strict=True)),
        dict(zip(names[n_concepts:], map(float, places), strict=True)),
        region,
        pixels,
        maps,
        seen,
    )


@lru_cache(maxsize=1)
def shared_net() -> ConceptNet:
    """Return this process's net with the weights of the repository, loaded on first use."""
    return ConceptNet.load()
