"""Measure the concept net on fresh scenes that it never learned from.

    python -m actors.scenes.measure --images 1000

Single-object scenes: is the object's concept the one with the highest score, and how well does the mask of that
concept cover it (intersection over union, at 224 px)? Scenes of 1 to 4 objects: precision and recall at the
score of 0.5. All scenes: is the background the one with the highest share?
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actors.images import Image
from actors.scenes.concept_net import WEIGHTS, ConceptNet, Sighting
from actors.scenes.render import render_with_masks
from actors.scenes.sampling import random_scene
from actors.scenes.scene import Scene

SIZE = 224
FRESH = 977_001
"""Seed of the scenes measured on; training draws from small seeds paired with the number of a worker."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares in [0, 1] over `n_images` single-object scenes and as many scenes of 1 to 4 objects."""

    n_images: int
    top1: float
    top1_untinted: float
    mask_iou: float
    precision: float
    recall: float
    background: float


def _fresh(n: int, seed: int, n_objects: int | None) -> Iterator[tuple[Scene, Image, np.ndarray]]:
    rng = np.random.default_rng((seed, n_objects or 0))
    for _ in range(n):
        scene = random_scene(rng, n_objects)
        pixels, masks = render_with_masks(scene, SIZE)
        yield scene, Image.from_pixels(pixels), masks


def _look(net: ConceptNet, cases: list[tuple[Scene, Image, np.ndarray]]) -> list[Sighting]:
    return net.look([image for _, image, _ in cases])


def measure(net: ConceptNet, n_images: int, seed: int = FRESH, batch: int = 50) -> Accuracy:
    """Return the net's accuracy on scenes drawn from `seed`."""
    hits: list[bool] = []
    plain: list[bool] = []
    overlaps: list[float] = []
    places: list[bool] = []
    right = wrong = missed = 0
    singles, several = _fresh(n_images, seed, 1), _fresh(n_images, seed + 1, None)
    for _ in range(-(-n_images // batch)):
        cases = [case for _, case in zip(range(batch), singles, strict=False)]
        for (scene, _, masks), seen in zip(cases, _look(net, cases), strict=True):
            true = scene.objects[0]
            hits.append(max(seen.scores, key=lambda name: seen.scores[name]) == true.concept)
            if true.color is None:
                plain.append(hits[-1])
            found = seen.mask(true.concept)
            overlaps.append(float((found & masks[0]).sum() / max(1, (found | masks[0]).sum())))
            places.append(seen.background == scene.background)
        cases = [case for _, case in zip(range(batch), several, strict=False)]
        for (scene, _, masks), seen in zip(cases, _look(net, cases), strict=True):
            # An object of which the others leave less than a quarter of a percent of the picture counts as hidden.
            shown = {o.concept for o, m in zip(scene.objects, masks, strict=True) if m.mean() > 0.0025}
            said = {name for name, score in seen.scores.items() if score >= 0.5}
            there = {o.concept for o in scene.objects}
            right, wrong, missed = (
                right + len(said & there),
                wrong + len(said - there),
                missed + len(shown - said),
            )
            places.append(seen.background == scene.background)
    return Accuracy(
        n_images,
        float(np.mean(hits)),
        float(np.mean(plain)) if plain else 0.0,
        float(np.mean(overlaps)),
        right / max(1, right + wrong),
        right / max(1, right + missed),
        float(np.mean(places)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--seed", type=int, default=FRESH)
    told = parser.parse_args()
    result = measure(ConceptNet.load(told.weights), told.images, told.seed)
    print(f"single-object scenes ({result.n_images}): concept top-1 {result.top1:.3f}")
    print(f"  of those in their own colours: {result.top1_untinted:.3f}; mean mask IoU {result.mask_iou:.3f}")
    print(
        f"scenes of 1 to 4 objects: precision {result.precision:.3f}, recall {result.recall:.3f} at score 0.5"
    )
    print(f"all: background top-1 {result.background:.3f}")


if __name__ == "__main__":
    main()
