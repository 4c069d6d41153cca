"""What a network may know before it is trained on a spurious set: animals anywhere, and the places alone.

The stand-in for ImageNet weights, which know dogs of many breeds wherever they stand: the set's classes are
among the animals.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from actors.embedded.drawing.backgrounds import BACKGROUNDS
from actors.embedded.drawing.render import digest, render
from actors.embedded.drawing.scene import Scene
from actors.embedded.drawing.vocabulary import vocabulary
from experiments.paper.gym import classifiers
from experiments.paper.gym.draft import draft_of
from experiments.paper.gym.spawrious import SceneDesign, draw
from tools.subject import Progress

if TYPE_CHECKING:
    import torch

ANIMALS = 12
LEARNING_RATE = 1.5e-3
SIZES = (0.22, 0.4)
"""Sizes of the animals, as parts of the image's side: they are seen from afar, whatever the set's own sizes
are.
"""
OTHERS = 1
"""Other things with each animal."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long the world is learned."""

    images: int = 4400
    epochs: int = 3


USUAL = Effort()


def weights(
    recipe: classifiers.Recipe, design: SceneDesign, cache: Path, progress: Progress, effort: Effort = USUAL
) -> Mapping[str, torch.Tensor]:
    """Return the weights of a network that knows twelve animals on any background, and the design's places.

    Trained once for each recipe and design, and kept in `cache`.
    """
    from safetensors.torch import load_file, save_file

    recipe = replace(recipe, epochs=effort.epochs, learning_rate=LEARNING_RATE)
    drawn = [list(design.classes), list(design.places), design.side, digest()]
    facts = [asdict(recipe), *drawn, ANIMALS, effort.images, SIZES, OTHERS]
    path = cache / f"{hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()}.safetensors"
    if not path.exists():
        module = classifiers.train(recipe, lessons(design, effort), seed=0, progress=progress)
        with draft_of(path) as draft:
            save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, draft)
    loaded: Mapping[str, torch.Tensor] = load_file(path)
    return loaded


def lessons(design: SceneDesign, effort: Effort = USUAL) -> classifiers.Lessons:
    """Return images of the animals anywhere, and of the design's places."""
    others = [c.name for c in vocabulary().members("animal") if c.name not in design.classes]
    n_others = ANIMALS - len(design.classes)
    animals = [*design.classes, *others[:: max(1, len(others) // max(1, n_others))][: max(0, n_others)]]
    anywhere = replace(design, classes=tuple(animals), places=tuple(BACKGROUNDS), sizes=SIZES, others=OTHERS)
    n_classes = len(animals) + len(design.places)
    images, labels = [], np.arange(effort.images) % n_classes
    for index, label in enumerate(labels):
        rng = np.random.default_rng((index, 63))
        if label < len(animals):
            images.append(draw(anywhere, int(label), int(rng.integers(len(BACKGROUNDS))), rng))
        else:
            place = Scene(design.places[label - len(animals)], texture=int(rng.integers(2**31)))
            images.append(render(place, design.side))
    return classifiers.Lessons(np.stack(images), labels, n_classes)
