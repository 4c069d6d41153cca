"""The layers of the concept net: an encoder of four scales, merged at a quarter of the input."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

WIDTHS = (32, 64, 128, 192)
FEATURES = 128


def _conv(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """x + conv(conv(x)), with one nonlinearity inside and one after."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _conv(width, width)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.norm(self.second(self.first(x))))


class ConceptNetwork(nn.Module):
    """Logits of K classes: of every position at the layer `concepts`, of the image as their maximum."""

    class_names: tuple[str, ...] = ()
    """What each channel of the layer `concepts` stands for."""
    preprocessing: dict[str, Any]
    """How images become its input: size, fit, interpolation, mean, std."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        a, b, c, d = WIDTHS
        self.stem = _conv(3, a, 2)
        self.quarter = nn.Sequential(_conv(a, b, 2), _conv(b, b))
        self.eighth = nn.Sequential(_conv(b, c, 2), Residual(c))
        self.sixteenth = nn.Sequential(_conv(c, d, 2), Residual(d))
        self.whole = nn.Conv2d(d, FEATURES, 1)
        self.from_quarter = nn.Conv2d(b, FEATURES, 1)
        self.from_eighth = nn.Conv2d(c, FEATURES, 1)
        self.from_sixteenth = nn.Conv2d(d, FEATURES, 1)
        self.merge = _conv(FEATURES, FEATURES, kernel=1)
        self.concepts = nn.Conv2d(FEATURES, n_classes, 1)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, FEATURES, s/4, s/4): what the last layer reads."""
        quarter = self.quarter(self.stem(x))
        eighth = self.eighth(quarter)
        sixteenth = self.sixteenth(eighth)
        merged = self.from_quarter(quarter) + self.whole(sixteenth.mean((2, 3), keepdim=True))
        for coarse in (self.from_eighth(eighth), self.from_sixteenth(sixteenth)):
            merged = merged + F.interpolate(coarse, merged.shape[2:], mode="bilinear", align_corners=False)
        return self.merge(F.relu(merged))

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of every position, (N, K, s/4, s/4)."""
        return self.concepts(self.features(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.maps(x).amax((2, 3))
