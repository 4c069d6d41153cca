"""Feature visualization: an image that drives a unit as strongly as an optimizer can make it.

Activation maximization over the Fourier coefficients of an image in decorrelated colors, under random
translations, rotations and scalings (Olah, Mordvintsev and Schubert, "Feature Visualization", Distill 2017).
Such images are far from those that the network was trained on: what they show is a hint, not evidence.

Shapes: H x W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from actors.errors import UsageError
from actors.vision.gradients.differentiable import DifferentiableNetwork
from actors.vision.readout.units import Readout

if TYPE_CHECKING:
    import torch

Objective = Literal["mean", "max"]

_COLORS = ((0.26, 0.09, 0.02), (0.27, 0.0, -0.05), (0.27, -0.09, 0.03))
"""Square root of the covariance of colors in ImageNet's images, as in the article's code."""
_START = 0.01
"""Standard deviation of the coefficients at the start."""
_ROTATION = math.radians(10)
_SCALE = 0.1
_SHIFT = 16 / 224
"""Largest rotation, change of scale, and translation as a share of the side, of an image at a step."""


@dataclass(frozen=True, slots=True)
class VisualizationSettings:
    """How an image is optimized; the figures are those of the article's code.

    `objective`: the unit's mean over its positions, which fills the image, or its maximum, for one place.
    """

    steps: int = 256
    learning_rate: float = 0.05
    objective: Objective = "mean"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.learning_rate < math.inf:
            raise UsageError(
                f"a visualization takes at least one step at a rate above 0, got {self.steps} steps at "
                f"{self.learning_rate}."
            )


class Optimization:
    """An image on its way to a unit's maximum. Use it in one thread."""

    def __init__(
        self,
        network: DifferentiableNetwork,
        readout: Readout,
        index: int,
        size: tuple[int, int],
        settings: VisualizationSettings,
        device: torch.device,
    ) -> None:
        """Begin with noise of the seed, of `size` (H, W)."""
        import torch

        self._network, self._readout, self._index, self._settings = network, readout, index, settings
        self._size = size
        self._generator = torch.Generator().manual_seed(settings.seed)
        height, width = size
        frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
        # Equal energy at all scales, as natural images have about.
        scale = 1 / np.maximum(frequencies, 1 / max(size)) * math.sqrt(height * width)
        colors = np.array(_COLORS, np.float32)
        noise = torch.randn((3, *scale.shape, 2), generator=self._generator) * _START
        with network.recording():  # copies: tensors of a thread that records nothing can have no gradient
            self._scale = torch.tensor(scale, dtype=torch.float32, device=device)
            self._colors = torch.tensor(colors / np.linalg.norm(colors, axis=0).max(), device=device)
            self._coefficients = noise.clone().to(device).requires_grad_()
            self._optimizer = torch.optim.Adam([self._coefficients], settings.learning_rate)

    def advance(self, steps: int) -> None:
        """Take some steps.

        Raises:
            BackendError: If no gradient passes through the network.
        """
        with self._network.recording():
            for _ in range(steps):
                self._optimizer.zero_grad()
                values = self._network.unit(
                    self._moved(self._image()[None]) * 255, self._readout, self._index
                )
                reached = values.mean() if self._settings.objective == "mean" else values.max()
                (-reached).backward()
                self._optimizer.step()

    def pixels(self) -> np.ndarray:
        """Return the image, uint8 (H, W, 3)."""
        with self._network.recording():
            image = self._image().detach()
        pixels: np.ndarray = (image * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        return pixels

    def _image(self) -> torch.Tensor:
        """Return the image (3, H, W) in 0..1."""
        import torch

        spectrum = torch.view_as_complex(self._coefficients) * self._scale
        channels = torch.fft.irfft2(spectrum, s=self._size) / 4
        return torch.einsum("ihw,ci->chw", channels, self._colors).sigmoid()

    def _moved(self, image: torch.Tensor) -> torch.Tensor:
        """Return (1, 3, H, W) rotated, scaled and shifted at random; gray where nothing is."""
        import torch
        from torch.nn.functional import affine_grid, grid_sample

        angle, scale, down, right = (2 * torch.rand(4, generator=self._generator) - 1).tolist()
        angle, scale = angle * _ROTATION, 1 + scale * _SCALE
        height, width = self._size
        cos, sin, ratio = math.cos(angle) * scale, math.sin(angle) * scale, height / width
        # Coordinates run from -1 to 1 along each side, so a shift by a side is one by 2.
        matrix = [[cos, -sin * ratio, 2 * right * _SHIFT], [sin / ratio, cos, 2 * down * _SHIFT]]
        grid = affine_grid(
            torch.tensor([matrix], device=image.device), list(image.shape), align_corners=False
        )
        return grid_sample(image - 0.5, grid, align_corners=False) + 0.5
