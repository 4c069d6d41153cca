"""The common parts of benchmarks of networks: networks, images, and the peers' ways of going through data.

The peers are written here from their papers and published code, in as few lines as keep their cost.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from actors import runtime
from actors.settings import Placement
from actors.vision.backend import VisionBackend
from actors.vision.data.datasets import ArrayDataset
from actors.vision.readout.units import Readout
from actors.vision.settings import VisionSettings

LITE0 = "tf_efficientnet_lite0"
RESNET152_LAYERS = ("conv1", "layer1", "layer2", "layer3", "layer4")


def backend(name: str, device: str, batch: int, pretrained: bool = True) -> VisionBackend:
    """Return a backend as agents get it, on every core, without a bank on disk."""
    threads = runtime.available_cores()
    return VisionBackend(
        name,
        VisionSettings(
            placement=Placement(threads=threads), device=device, batch=batch, pretrained=pretrained
        ),
    )


def convolutions(studied: VisionBackend) -> list[Readout]:
    """Return one readout for each convolution, in the order of the modules."""
    modules = studied.network.module.named_modules()
    return [Readout(name) for name, module in modules if isinstance(module, torch.nn.Conv2d)]


def pictures(n: int, size: int, seed: int, folder: Path) -> ArrayDataset:
    """Write `n` pictures of coloured patches with grain, and return them as a pre-decoded data set."""
    rng = np.random.default_rng(seed)
    array = np.lib.format.open_memmap(folder / f"pictures-{n}-{size}.npy", "w+", np.uint8, (n, size, size, 3))
    for row in range(n):
        side = int(rng.integers(2, 24))
        coarse = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        grain = rng.integers(0, 32, (size, size, 3), dtype=np.uint8)
        at = np.arange(size) * side // size
        array[row] = np.minimum(coarse[at][:, at], 223) + grain
    array.flush()
    return ArrayDataset(folder / f"pictures-{n}-{size}.npy")


def scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="maia-bench-")


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


class QuantileSketch:
    """The peers' running quantile: a compactor hierarchy (Karnin, Lang and Liberty 2016) over every position.

    Rows are units. A full level is sorted and every other value moves up, at double weight.
    """

    def __init__(self, n_units: int, resolution: int, device: str) -> None:
        self._resolution = resolution
        self.levels = [torch.empty((n_units, 2 * resolution), device=device)]
        self.fill = [0]
        self._generator = torch.Generator().manual_seed(0)

    def add(self, rows: torch.Tensor) -> None:
        """Take in (positions, units), as the activations of a batch laid out by position."""
        self._put(0, rows.t().contiguous())

    def _put(self, level: int, values: torch.Tensor) -> None:
        if level == len(self.levels):
            self.levels.append(torch.empty_like(self.levels[0]))
            self.fill.append(0)
        start = 0
        while start < values.shape[1]:
            room = self.levels[level].shape[1] - self.fill[level]
            some = values[:, start : start + room]
            self.levels[level][:, self.fill[level] : self.fill[level] + some.shape[1]] = some
            self.fill[level] += some.shape[1]
            start += some.shape[1]
            if self.fill[level] == self.levels[level].shape[1]:
                ordered = self.levels[level].sort(dim=1).values
                self.fill[level] = 0
                offset = int(torch.randint(2, (1,), generator=self._generator))
                self._put(level + 1, ordered[:, offset::2])

    def quantile(self, q: float) -> torch.Tensor:
        """Return (units,) estimates."""
        values = [level[:, :n] for level, n in zip(self.levels, self.fill, strict=True)]
        weights = torch.cat([torch.full((v.shape[1],), 2.0**place) for place, v in enumerate(values)])
        ordered = torch.cat(values, dim=1).sort(dim=1)
        mass = weights.to(ordered.values.device)[ordered.indices].cumsum(1)
        at = (mass < q * mass[:, -1:]).sum(1).clamp(max=mass.shape[1] - 1)
        return ordered.values.gather(1, at[:, None])[:, 0]

    def state_bytes(self) -> int:
        return sum(level.numel() * level.element_size() for level in self.levels)


class LayerTally:
    """The peers' pass for one layer: top images by maximum, and a quantile sketch over all positions."""

    def __init__(self, n_units: int, k: int, device: str, resolution: int = 4096) -> None:
        self._k = k
        self._top: torch.Tensor = torch.empty((n_units, 0), device=device)
        self.sketch = QuantileSketch(n_units, resolution, device)

    def add(self, maps: torch.Tensor) -> None:
        self._top = torch.cat([self._top, maps.amax((2, 3)).t()], dim=1)
        if self._top.shape[1] > 5 * self._k:
            self._top = self._top.topk(self._k, dim=1).values
        self.sketch.add(maps.permute(0, 2, 3, 1).flatten(0, 2).float())


def rank_error(values: np.ndarray, estimate: np.ndarray, q: float) -> np.ndarray:
    """Return how far from `q` the estimates' ranks among `values` (N, U) are.

    A tied value has all its ranks.
    """
    below = (values < estimate).mean(0)
    upto = (values <= estimate).mean(0)
    return np.maximum(0, np.maximum(below - q, q - upto))


def total(values: Sequence[float]) -> float:
    return float(sum(values))
