"""The concept net: a small dense network that finds the embedded world's concepts in pixels.

Every position of its map is one of the concepts or one of the backgrounds, so that presence, mask and
setting come from one softmax. It is a stand-in for an open-set detector and says so; because what each
of its outputs stands for is known, it is also a network to study with a known truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image

from actors.errors import UsageError
from actors.images import Image
from actors.scenes.backgrounds import BACKGROUNDS
from actors.scenes.vocabulary import ASSETS, concepts

if TYPE_CHECKING:
    import torch

WEIGHTS = ASSETS / "concept_net.safetensors"
INPUT_SIZE = 96
"""Side of the square input, pixels; the map has a quarter of it."""
STRIDE = 4
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)


def class_names() -> list[str]:
    """Return what each channel of the layer `concepts` stands for: the concepts, then the backgrounds."""
    return [*(concept.name for concept in concepts()), *BACKGROUNDS]


def build_network(weights: str | Path | None = WEIGHTS) -> torch.nn.Module:
    """Return the network in eval mode: float32 (N, 3, s, s), normalised by MEAN and STD, to logits (N, K).

    The layer `concepts` gives the logits of every position, (N, K, s/4, s/4), one channel for each of
    `class_names`; a class's logit is its maximum over positions. `None` leaves random weights.

    Raises:
        UsageError: If the weights are of another vocabulary.
    """
    from actors.scenes.network import ConceptNetwork

    network = ConceptNetwork(len(class_names()))
    network.class_names = class_names()
    if weights is not None:
        from safetensors import safe_open
        from safetensors.torch import load_file

        with safe_open(str(weights), "pt") as file:
            told = (file.metadata() or {}).get("classes", "").split("|")
        if told != class_names():
            raise UsageError(
                f"{weights} was trained on other concepts than the vocabulary has.",
                "Train again: python -m actors.scenes.train --minutes 15.",
            )
        network.load_state_dict({name: value.float() for name, value in load_file(str(weights)).items()})
    return network.eval()


def preprocess(images: Sequence[Image], size: int = INPUT_SIZE) -> np.ndarray:
    """Return float32 (N, 3, size, size), normalised; images of other shapes are squeezed to a square."""
    batch = np.empty((len(images), size, size, 3), np.float32)
    for i, image in enumerate(images):
        picture = image.to_pil()
        if picture.size != (size, size):
            picture = picture.resize((size, size), PIL.Image.Resampling.BOX if min(picture.size) >= size
                                     else PIL.Image.Resampling.BILINEAR)  # fmt: skip
        batch[i] = np.asarray(picture, np.float32)
    batch = (batch / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
