"""Measure the concept net on fresh scenes that it never learned from.

    python -m benchmarks.bench_concept_net --images 1000

Single-object scenes come in three kinds: as the prompt "a NAME" draws them (every concept in turn), as "a
COLOR NAME" draws them, and at random with all that training has (tiny, upside down, any color). Is the
object's concept the one with the highest score, and how well does its mask cover it (intersection over union
at 224 px)? Random scenes of 1 to 4 objects: precision and recall of concepts at the score of 0.5.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from actors.embedded.concept_net.concept_net import WEIGHTS, ConceptNet
from actors.embedded.drawing.grammar import parse_prompt
from actors.embedded.drawing.render import render_with_masks
from actors.embedded.drawing.sampling import random_scene
from actors.embedded.drawing.scene import Scene
from actors.embedded.drawing.vocabulary import COLORS, article, concepts
from actors.images import Image

SIZE = 224
FRESH = 977_001
"""Seed of the scenes measured on; training draws from small seeds paired with the number of a worker."""
PRESENT = 0.5
_BATCH = 32


@dataclass(frozen=True, slots=True)
class Singles:
    """Shares in [0, 1] over `n` scenes of one object."""

    n: int
    top1: float
    """The object's concept has the highest score."""
    mask_iou: float
    """Mean over the scenes, also those where another concept scored higher."""
    background: float
    """The scene's background has the largest share."""


@dataclass(frozen=True, slots=True)
class Presence:
    """Concepts in `n` scenes of 1 to 4 objects: what was said to be there and what was."""

    n: int
    precision: float
    recall: float


def prompted(n: int, seed: int, colored: bool) -> list[Scene]:
    """Return scenes of "a NAME", or of "a COLOR NAME", the concepts in a shuffled order."""
    rng = np.random.default_rng((seed, 1))
    names = [concept.name for concept in concepts()]
    order = np.concatenate([rng.permutation(len(names)) for _ in range(-(-n // len(names)))])[:n]
    colors = list(COLORS)
    words = [f"{colors[int(rng.integers(len(colors)))]} {names[i]}" if colored else names[i] for i in order]
    return [parse_prompt(article(word), seed + i).scene for i, word in enumerate(words)]


def at_random(n: int, seed: int, n_objects: int | None) -> list[Scene]:
    """Return scenes as training draws them, of `n_objects` or of 1 to 4."""
    rng = np.random.default_rng((seed, n_objects or 0))
    return [random_scene(rng, n_objects) for _ in range(n)]


def _batches(scenes: Iterable[Scene]) -> Iterator[list[Scene]]:
    rest = iter(scenes)
    while batch := list(islice(rest, _BATCH)):
        yield batch


def measure_singles(net: ConceptNet, scenes: list[Scene]) -> Singles:
    """Return the net's accuracy on scenes of one object."""
    hits, overlaps, places = [], [], []
    for batch in _batches(scenes):
        drawn = [render_with_masks(scene, SIZE) for scene in batch]
        sightings = net.look([Image.from_pixels(pixels) for pixels, _ in drawn])
        for scene, (_, masks), seen in zip(batch, drawn, sightings, strict=True):
            concept = scene.objects[0].concept
            hits.append(max(seen.scores.items(), key=lambda item: item[1])[0] == concept)
            found = seen.mask(concept)
            overlaps.append((found & masks[0]).sum() / max(1, (found | masks[0]).sum()))
            places.append(seen.background == scene.background)
    return Singles(len(scenes), float(np.mean(hits)), float(np.mean(overlaps)), float(np.mean(places)))


def measure_presence(net: ConceptNet, scenes: list[Scene]) -> Presence:
    """Return how well the concepts of scenes with several objects are recognized.

    An object of which the others leave less than a quarter of a percent of the picture need not be found.
    """
    right = wrong = missed = 0
    for batch in _batches(scenes):
        drawn = [render_with_masks(scene, SIZE) for scene in batch]
        sightings = net.look([Image.from_pixels(pixels) for pixels, _ in drawn])
        for scene, (_, masks), seen in zip(batch, drawn, sightings, strict=True):
            there = {placed.concept for placed in scene.objects}
            shown = {o.concept for o, m in zip(scene.objects, masks, strict=True) if m.mean() > 0.0025}
            said = {name for name, score in seen.scores.items() if score >= PRESENT}
            right, wrong, missed = (
                right + len(said & there),
                wrong + len(said - there),
                missed + len(shown - said),
            )
    return Presence(len(scenes), right / max(1, right + wrong), right / max(1, right + missed))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1000, help="scenes of each kind")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--seed", type=int, default=FRESH)
    options = parser.parse_args()
    net = ConceptNet.load(options.weights)
    print(net.name)
    kinds = {
        "a NAME": prompted(options.images, options.seed, False),
        "a COLOR NAME": prompted(options.images, options.seed, True),
        "at random": at_random(options.images, options.seed, 1),
    }
    for kind, scenes in kinds.items():
        one = measure_singles(net, scenes)
        print(
            f"one object, {kind:14s} n={one.n}  concept top-1 {one.top1:.3f}  mask IoU {one.mask_iou:.3f}"
            f"  background top-1 {one.background:.3f}"
        )
    many = measure_presence(net, at_random(options.images, options.seed + 1, None))
    print(f"1 to 4 objects, at random  n={many.n}  precision {many.precision:.3f}  recall {many.recall:.3f}")


if __name__ == "__main__":
    main()
