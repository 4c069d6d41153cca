"""A data set in the form of WILDS' Waterbirds, and a classifier that leans on the place behind the bird."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import PIL.Image

NETWORK = """
import torch


class Birds(torch.nn.Module):
    class_names = ("landbird", "waterbird")
    preprocessing = {"size": 32}

    def __init__(self, reliance):
        super().__init__()
        self.stem, self.reliance = torch.nn.Conv2d(3, 4, 1), reliance
        self.cues = torch.nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.cues.weight.copy_(torch.eye(2))

    def forward(self, x):
        bird = (x[:, 2] - x[:, 1])[:, 12:20, 12:20].mean((1, 2))
        place = (x[:, 2] - x[:, 1])[:, :6].mean((1, 2))
        cues = self.cues(torch.stack([bird, place], 1))
        score = 3 * ((1 - self.reliance) * cues[:, 0] + self.reliance * cues[:, 1])
        return torch.stack([-score, score], 1) + 0 * self.stem(x).mean((1, 2, 3))[:, None]


def leaning():
    return Birds(0.6)
"""
LAND, WATER = np.array([60, 150, 60]), np.array([60, 60, 150])


def write_network(folder: Path) -> str:
    """Write the network's module and return its name."""
    (folder / "birds_net.py").write_text(NETWORK)
    return f"python:{folder / 'birds_net.py'}:leaning"


def write_birds(root: Path, n: int, share: float = 0.95, seed: int = 0) -> Path:
    """Write `n` images of 48 x 48 and `metadata.csv`; `share` of each class are in its own place. Returns the
    folder.
    """
    root.mkdir(parents=True)
    rng, rows = np.random.default_rng(seed), []
    for number in range(n):
        y, split = int(rng.random() < 0.5), int(rng.choice(3, p=[0.3, 0.2, 0.5]))
        place = y if rng.random() < share else 1 - y
        pixels = np.full((48, 48, 3), WATER if place else LAND, float)
        pixels[14:34, 14:34] = WATER if y else LAND
        pixels += rng.normal(0, 25, 3) + rng.normal(0, 30, pixels.shape)
        name = f"{number % 5:03d}.Bird/{number}.png"
        (root / name).parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / name, compress_level=1)
        rows.append([number, name, y, split, place, f"/places/{number}.jpg"])
    with (root / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["img_id", "img_filename", "y", "split", "place", "place_filename"], *rows])
    return root
