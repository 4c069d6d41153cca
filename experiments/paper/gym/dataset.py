"""The gym's images for exemplars: scenes at random, and scenes of the conditions that the chosen neurons wait
for.

In photographs dogs do stand on grass; in scenes at random one in a thousand would. So every pair of a
conditional neuron, and the concept of a confounded one with its background, is shown together a few times,
and every other concept alone: of some, scenes at random have hardly one that can be recognized.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from actors.embedded.drawing.dataset import IMAGE_SIZE, ScenesDataset
from actors.embedded.drawing.lexicon import read
from actors.embedded.drawing.render import render
from actors.embedded.drawing.sampling import random_scene
from actors.embedded.drawing.scene import Scene
from actors.embedded.drawing.vocabulary import BACKGROUND_WORDS, vocabulary
from actors.errors import UsageError
from actors.images import Image, Provenance

PLANTED = 12
"""Scenes that show a pair together."""
ALONE = 6
"""Scenes that show a concept by itself."""


class GymDataset:
    """A data set of scenes, with those of `planted` after the `size` random ones: of a pair, or of a concept
    alone.
    """

    def __init__(self, size: int, seed: int, planted: Sequence[tuple[str, ...]]) -> None:
        self._base, self._seed = ScenesDataset(size, seed), seed
        self._planted = [
            (phrases, turn) for phrases in planted for turn in range(PLANTED if len(phrases) > 1 else ALONE)
        ]
        digest = hashlib.blake2b(repr(self._planted).encode(), digest_size=6).hexdigest()
        self.name = f"gym:{size}:{seed}"
        self.fingerprint = f"gym:{digest}:{self._base.fingerprint}"

    def __len__(self) -> int:
        return len(self._base) + len(self._planted)

    def scene(self, index: int) -> Scene:
        """Return the scene of image `index`.

        Raises:
            UsageError: If the index is not in 0..len - 1.
        """
        if index < len(self._base):
            return self._base.scene(index)
        if index >= len(self):
            raise UsageError(f"an index into {self.name} must be in 0..{len(self) - 1}, got {index}")
        place = index - len(self._base)
        phrases, _ = self._planted[place]
        rng = np.random.default_rng((self._seed, 23, place))
        return together(phrases, rng, companion=len(phrases) > 1)

    def load(self, index: int) -> Image:
        return Image.from_pixels(render(self.scene(index), IMAGE_SIZE))

    def provenance(self, index: int) -> Provenance:
        scene = self.scene(index)
        return Provenance(
            "dataset", self.name, prompt=scene.caption(), seed=self._seed, recipe=scene.to_dict()
        )


def check_shown(planted: Iterable[Sequence[str]]) -> None:
    """Raise UsageError for the first phrases that no scene shows together: it has one background."""
    for phrases in planted:
        places = {BACKGROUND_WORDS[word] for word in map(str.lower, phrases) if word in BACKGROUND_WORDS}
        if len(places) > 1:
            raise UsageError(
                f"no scene shows {' with '.join(map(repr, phrases))}: both are backgrounds, and a scene has "
                "one.",
                "Name a thing and a background, or two things.",
            )


def together(phrases: Sequence[str], rng: np.random.Generator, companion: bool = True) -> Scene:
    """Return a scene that shows what each phrase names and, with a `companion`, now
    and then another thing.
    """
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
    n_objects = max(1, len(named)) + int(companion and rng.integers(2))
    scene = random_scene(rng, min(n_objects, 4), named=named, background=place, tinted=0.0)
    if color is None:
        return scene
    first, *rest = scene.objects
    return replace(scene, objects=(replace(first, color=color), *rest))
