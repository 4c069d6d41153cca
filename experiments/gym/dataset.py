"""The gym's images for exemplars: scenes at random, and scenes of the conditions that the chosen neurons wait for.

In photographs dogs do stand on grass; in scenes at random one in a thousand would. So every pair of a conditional
neuron, and the concept of a confounded one with its background, is shown together a few times.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from actors.errors import UsageError
from actors.images import Image, Provenance
from actors.scenes.backgrounds import BACKGROUND_WORDS
from actors.scenes.dataset import IMAGE_SIZE, ScenesDataset
from actors.scenes.lexicon import read
from actors.scenes.render import render
from actors.scenes.sampling import random_scene
from actors.scenes.scene import Scene
from actors.scenes.vocabulary import vocabulary

PLANTED = 12
"""Scenes that show a pair together."""


class GymDataset:
    """A data set of scenes with `pairs` planted after the `size` random ones."""

    def __init__(self, size: int, seed: int, pairs: Sequence[tuple[str, str]]) -> None:
        self._base, self._seed, self._pairs = ScenesDataset(size, seed), seed, tuple(pairs)
        digest = hashlib.blake2b(repr(self._pairs).encode(), digest_size=6).hexdigest()
        self.name = f"gym:{size}:{seed}"
        self.fingerprint = f"gym:{digest}:{PLANTED}:{self._base.fingerprint}"

    def __len__(self) -> int:
        return len(self._base) + PLANTED * len(self._pairs)

    def scene(self, index: int) -> Scene:
        """Return the scene of image `index`.

        Raises:
            UsageError: If the index is not in 0..len - 1.
        """
        if index < len(self._base):
            return self._base.scene(index)
        pair, turn = divmod(index - len(self._base), PLANTED)
        if pair >= len(self._pairs):
            raise UsageError(f"an index into {self.name} must be in 0..{len(self) - 1}, got {index}")
        return together(self._pairs[pair], np.random.default_rng((self._seed, 23, pair, turn)))

    def load(self, index: int) -> Image:
        return Image.from_pixels(render(self.scene(index), IMAGE_SIZE))

    def provenance(self, index: int) -> Provenance:
        scene = self.scene(index)
        return Provenance(
            "dataset", self.name, prompt=scene.caption(), seed=self._seed, recipe=scene.to_dict()
        )


def check_pair(first: str, second: str) -> None:
    """Raise UsageError if no scene shows both: it has one background."""
    places = [BACKGROUND_WORDS.get(phrase.lower().strip()) for phrase in (first, second)]
    if all(places) and places[0] != places[1]:
        raise UsageError(
            f"no scene shows {first!r} with {second!r}: both are backgrounds, and a scene has one.",
            "Name a thing and a background, or two things.",
        )


def together(phrases: Sequence[str], rng: np.random.Generator) -> Scene:
    """Return a scene that shows what each phrase names, and one or two other things."""
    named: list[str] = []
    place = color = None
    for phrase in phrases:
        word = phrase.lower().strip()
        terms = [term for term in read(word) if term.kind in ("thing", "background", "color")]
        if word in BACKGROUND_WORDS:
            place = BACKGROUND_WORDS[word]
        elif terms and terms[-1].kind == "color":
            color = terms[-1].value
        elif terms:
            members = [concept.name for concept in vocabulary().members(terms[-1].value)]
            named.append(members[int(rng.integers(len(members)))])
    n_objects = max(1, len(named)) + int(rng.integers(2))
    scene = random_scene(rng, min(n_objects, 4), named=named, background=place, tinted=0.0)
    if color is None:
        return scene
    first, *rest = scene.objects
    return replace(scene, objects=(replace(first, color=color), *rest))
