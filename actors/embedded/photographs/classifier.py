"""An ImageNet network that sees photographs, behind a `Protocol`, so that all that follows is tested without
weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

import numpy as np
import PIL.Image

from actors import vision_libraries
from actors.packaged import LITE0, LITE2, PackagedNetwork

if TYPE_CHECKING:
    import torch

BATCH = 24
"""Pictures in one forward pass: some 300 MB of activations at the larger input."""
_INPUT = {LITE0.name: 224, LITE2.name: 260}
"""Side of each network's square input, pixels."""


class Classifier(Protocol):
    """Says how probable each of ImageNet's classes is in a picture. Blocking; not for several threads at
    once.
    """

    name: str

    def probabilities(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Return float32 (N, 1000), each row's sum 1, of uint8 (H, W, 3) pictures of any shapes."""


class LiteClassifier:
    """EfficientNet-lite with its ImageNet weights, on the CPU; some 100 MB with activations.

    A picture is squeezed to a square, so that nothing at its sides is cut off. Weights load at the first
    picture.
    """

    def __init__(self, packaged: PackagedNetwork = LITE2) -> None:
        self._packaged = packaged
        self._network: torch.nn.Module | None = None
        self.name = packaged.title

    def probabilities(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """As in `Classifier`.

        Raises:
            MissingDependencyError: If the package with the weights is not installed.
        """
        if not pictures:
            return np.zeros((0, 1000), np.float32)
        network = self._loaded()
        import torch

        rows = []
        with torch.inference_mode():
            for start in range(0, len(pictures), BATCH):
                batch = torch.from_numpy(self._prepared(pictures[start : start + BATCH]))
                rows.append(network(batch).softmax(1).numpy())
        return np.concatenate(rows)

    def _prepared(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Return float32 (N, 3, s, s) in -1..1, as these networks were trained."""
        side = _INPUT[self._packaged.name]
        batch = np.empty((len(pictures), side, side, 3), np.float32)
        for place, pixels in enumerate(pictures):
            square = PIL.Image.fromarray(pixels).resize((side, side), PIL.Image.Resampling.BICUBIC)
            batch[place] = np.asarray(square)
        return np.ascontiguousarray((batch / 127.5 - 1).transpose(0, 3, 1, 2))

    def _loaded(self) -> torch.nn.Module:
        if self._network is None:
            timm = vision_libraries.import_timm()
            network: torch.nn.Module = timm.create_model(self._packaged.name, pretrained=False)
            self._packaged.load_into(network)
            self._network = network.eval()
        return self._network


def independent_classifier(name: str, head: str = "") -> PackagedNetwork | None:
    """Return the network that may judge images for a study of the network `name`: never that network itself.

    `head` is the studied network's `head_digest`, where it is known: weights under another name are known by
    it. None if the package with the weights is not installed.
    """
    studied = LITE2.name in name.partition("@")[0] or head == LITE2.head
    chosen = LITE0 if studied else LITE2
    return chosen if find_spec(chosen.module) is not None else None
