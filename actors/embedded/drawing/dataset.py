"""A data set of scenes made from a seed: images by index, each a pure function of the two.

Every concept is the first object of about as many images as every other, and the second, and the third: a
whole round of shuffled concepts goes by before one comes again. Backgrounds go by in rounds of their own.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from actors.embedded.drawing.backgrounds import BACKGROUNDS
from actors.embedded.drawing.render import digest, render
from actors.embedded.drawing.sampling import random_scene
from actors.embedded.drawing.scene import Scene
from actors.embedded.drawing.vocabulary import concepts
from actors.errors import UsageError
from actors.images import Image, Provenance

IMAGE_SIZE = 224


class ScenesDataset:
    """`size` scenes of 1 to 3 objects; a structural `ImageDataset`."""

    def __init__(self, size: int = 3000, seed: int = 0) -> None:
        if size < 1:
            raise UsageError(f"a data set of scenes must have at least one image, got {size}")
        self._size, self._seed = int(size), int(seed) & 0xFFFF_FFFF
        self.name = f"scenes:{self._size}:{self._seed}"
        self.fingerprint = f"{self.name}:{IMAGE_SIZE}:{digest()}"

    def __len__(self) -> int:
        return self._size

    def scene(self, index: int) -> Scene:
        """Return the scene of image `index`.

        Raises:
            UsageError: If the index is not in 0..len - 1.
        """
        if not 0 <= index < self._size:
            raise UsageError(f"an index into {self.name} must be in 0..{self._size - 1}, got {index}")
        names = tuple(concept.name for concept in concepts())
        turns = [_turn(names, self._seed + row, index) for row in range(3)]
        place = _turn(tuple(BACKGROUNDS), self._seed + 3, index)
        rng = np.random.default_rng((self._seed, 7, index))
        n_objects = int(rng.choice(3, p=(0.4, 0.4, 0.2))) + 1
        return random_scene(rng, n_objects, named=turns, background=place, tinted=0.12)

    def load(self, index: int) -> Image:
        """Return image `index`, 224 x 224."""
        return Image.from_pixels(render(self.scene(index), IMAGE_SIZE))

    def caption(self, index: int) -> str:
        """Return what image `index` shows, in words."""
        return self.scene(index).caption()

    def provenance(self, index: int) -> Provenance:
        scene = self.scene(index)
        return Provenance(
            "dataset", self.name, prompt=scene.caption(), seed=self._seed, recipe=scene.to_dict()
        )


def _turn(names: tuple[str, ...], seed: int, index: int) -> str:
    """Return whose turn it is: each name once in every round of len(names), rounds in different orders."""
    round_, place = divmod(index, len(names))
    return names[_order(len(names), seed, round_)[place]]


@lru_cache(maxsize=64)
def _order(n: int, seed: int, round_: int) -> tuple[int, ...]:
    return tuple(int(i) for i in np.random.default_rng((seed, 11, round_)).permutation(n))
