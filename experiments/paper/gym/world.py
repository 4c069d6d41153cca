"""What a network may know before it is trained on a spurious set: animals anywhere, and the places alone.

The stand-in for ImageNet weights, which know dogs of many breeds wherever they stand: the set's classes are
among the animals.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from actors.embedded.drawing.backgrounds import BACKGROUNDS
from actors.embedded.drawing.render import digest, render
from actors.embedded.drawing.scene import Scene
from actors.embedded.drawing.vocabulary import vocabulary
from experiments.paper.gym import classifiers
from experiments.paper.gym.spawrious import Progress, SceneDesign, draw

if TYPE_CHECKING:
    import torch

ANIMALS = 12
IMAGES = 4400
EPOCHS = 3
LEARNING_RATE = 1.5e-3
SIZES = (0.22, 0.4)
"""Sizes of the animals, as parts of the image's side: they are seen from afar, whatever the set's own sizes
are.
"""
OTHERS = 1
"""Other things beside each animal."""


def weights(
    recipe: classifiers.Recipe, design: SceneDesign, cache: Path, progress: Progress
) -> Mapping[str, torch.Tensor]:
    """Return the weights of a network that tells twelve animals on any background, and the design's places,
    apart.

    Trained once for each recipe and design, and kept in `cache`.
    """
    from safetensors.torch import load_file, save_file

    recipe = replace(recipe, epochs=EPOCHS, learning_rate=LEARNING_RATE)
    facts = [
        asdict(recipe),
        list(design.classes),
        list(design.places),
        design.side,
        digest(),
        ANIMALS,
        IMAGES,
        SIZES,
        OTHERS,
    ]
    path = cache / f"{hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()}.safetensors"
    if not path.exists():
        images, labels, n_classes = lessons(design)
        module = classifiers.train(recipe, images, labels, n_classes, seed=0, progress=progress)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{uuid.uuid4().hex[:8]}.tmp")
        save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, draft)
        os.replace(draft, path)  # noqa: PTH105
    loaded: Mapping[str, torch.Tensor] = load_file(path)
    return loaded


def lessons(design: SceneDesign) -> tuple[np.ndarray, np.ndarray, int]:
    """Return images uint8 (N, side, side, 3), labels int64 (N,), and the number of classes."""
    others = [c.name for c in vocabulary().members("animal") if c.name not in design.classes]
    n_others = ANIMALS - len(design.classes)
    animals = [*design.classes, *others[:: max(1, len(others) // max(1, n_others))][: max(0, n_others)]]
    anywhere = replace(design, classes=tuple(animals), places=tuple(BACKGROUNDS), sizes=SIZES, others=OTHERS)
    n_classes = len(animals) + len(design.places)
    images, labels = [], np.arange(IMAGES) % n_classes
    for index, label in enumerate(labels):
        rng = np.random.default_rng((index, 63))
        if label < len(animals):
            images.append(draw(anywhere, int(label), int(rng.integers(len(BACKGROUNDS))), rng))
        else:
            place = Scene(design.places[label - len(animals)], texture=int(rng.integers(2**31)))
            images.append(render(place, design.side))
    return np.stack(images), labels, n_classes
