"""Train the concept net on random scenes, on a CPU, within a time that is given.

    python -m scripts.train_concept_net --minutes 15 --out
    actors/embedded/drawing/assets/concept_net.safetensors

Scenes are rendered by a second process while the first one learns. Part of them is darkened outside a
random region with a red outline, as masked exemplars are, so that the net knows things in shade.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from actors.embedded.concept_net.concept_net import (
    INPUT_SIZE,
    MEAN,
    STD,
    STRIDE,
    WEIGHTS,
    build_network,
    class_names,
)
from actors.embedded.concept_net.network import ConceptNetwork
from actors.embedded.drawing.render import render_with_masks
from actors.embedded.drawing.sampling import random_scene
from actors.embedded.drawing.scene import Scene

BATCH = 32
_OUTLINE = np.array((255, 0, 0), np.uint8)


def labels(scene: Scene, masks: np.ndarray, index: dict[str, int]) -> np.ndarray:
    """Return the class of each position, int64 (S/4, S/4), from masks bool (n, S, S): the object that
    covers at least half of it, else the background."""
    side = masks.shape[-1] // STRIDE
    target = np.full((side, side), index[scene.background], np.int64)
    if scene.objects:
        share = masks.reshape(len(masks), side, STRIDE, side, STRIDE).mean((2, 4))
        owner = share.argmax(0)
        covered = share.max(0) >= 0.5
        names = np.array([index[placed.concept] for placed in scene.objects])
        target[covered] = names[owner[covered]]
    return target


def darken(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return uint8 pixels with all but a random region darkened, and the region outlined in red."""
    size = pixels.shape[0]
    cells = PIL.Image.fromarray(rng.random((7, 7), np.float32))
    field = np.asarray(cells.resize((size, size), PIL.Image.Resampling.BICUBIC))
    region = field > np.quantile(field, rng.uniform(0.5, 0.95))
    out = np.where(region[..., None], pixels, (pixels * 0.25).astype(np.uint8))
    edge = region & ~(
        np.roll(region, 1, 0) & np.roll(region, -1, 0) & np.roll(region, 1, 1) & np.roll(region, -1, 1)
    )
    out[edge] = _OUTLINE
    return out


class Lessons(IterableDataset[tuple[np.ndarray, np.ndarray]]):
    """Endless batches: pixels uint8 (BATCH, S, S, 3) and classes int64 (BATCH, S/4, S/4)."""

    def __init__(self, seed: int, tinted: float) -> None:
        self._seed, self._tinted = seed, tinted

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        torch.set_num_threads(1)
        worker = get_worker_info()
        rng = np.random.default_rng((self._seed, worker.id if worker else 0))
        index = {name: i for i, name in enumerate(class_names())}
        while True:
            batch = [self._lesson(rng, index) for _ in range(BATCH)]
            yield np.stack([pixels for pixels, _ in batch]), np.stack([target for _, target in batch])

    def _lesson(self, rng: np.random.Generator, index: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
        scene = random_scene(rng, tinted=self._tinted)
        scale = 2 if rng.random() < 0.15 else 1
        pixels, masks = render_with_masks(scene, INPUT_SIZE * scale)
        if rng.random() < 0.15:
            pixels = darken(pixels, rng)
        if scale == 2:
            picture = PIL.Image.fromarray(pixels)
            pixels = np.asarray(picture.resize((INPUT_SIZE, INPUT_SIZE), PIL.Image.Resampling.BOX))
            masks = masks[:, ::2, ::2]
        return pixels, labels(scene, masks, index)


def _augment(pixels: torch.Tensor) -> torch.Tensor:
    """Return float32 (N, 3, S, S), normalized, with random gain, offset and noise for each image."""
    x = pixels.permute(0, 3, 1, 2).float() / 255
    n = len(x)
    x = x * (0.85 + 0.3 * torch.rand(n, 3, 1, 1)) + 0.08 * (torch.rand(n, 1, 1, 1) - 0.5)
    x = x + torch.randn(1, *x.shape[1:]) * (0.03 * torch.rand(n, 1, 1, 1))
    x = (x.clamp(0, 1) - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    return x.contiguous(memory_format=torch.channels_last)


def _twice(fresh: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield each batch as it comes and, some batches later, once more mirrored: rendering costs a core."""
    kept: deque[tuple[torch.Tensor, torch.Tensor]] = deque()
    for pixels, target in fresh:
        yield pixels, target
        kept.append((pixels.flip(2), target.flip(2)))
        if len(kept) > 24:
            yield kept.popleft()


def _loss(network: ConceptNetwork, x: torch.Tensor, target: torch.Tensor, n_concepts: int) -> torch.Tensor:
    """Cross-entropy over every object position and as many background positions, which count half."""
    with torch.autocast("cpu", torch.bfloat16):
        features = network.features(x).permute(0, 2, 3, 1).flatten(0, 2)
        flat = target.flatten()
        objects = (flat < n_concepts).nonzero()[:, 0]
        others = (flat >= n_concepts).nonzero()[:, 0]
        others = others[torch.randperm(len(others))[: max(len(objects), 512)]]
        chosen = torch.cat((objects, others))
        logits = F.linear(features[chosen], network.concepts.weight[:, :, 0, 0], network.concepts.bias)
    losses = F.cross_entropy(logits.float(), flat[chosen], reduction="none")
    weights = torch.ones(len(chosen))
    weights[len(objects) :] = 0.5
    return (losses * weights).sum() / weights.sum()


def save(network: torch.nn.Module, path: Path) -> None:
    """Write the weights in float16, with the class names as metadata."""
    from safetensors.torch import save_file

    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in network.state_dict().items()
    }
    save_file(state, path, metadata={"classes": "|".join(class_names())})


@dataclass(frozen=True, slots=True)
class Training:
    """What one training depends on."""

    minutes: float
    out: Path
    seed: int
    threads: int
    rate: float
    """Highest learning rate."""
    tinted: float
    """Share of objects in another color."""
    resume: Path | None
    """Weights to start from."""


def train(options: Training) -> None:
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    network = build_network(options.resume)
    assert isinstance(network, ConceptNetwork)
    network = network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998), use_buffers=True
    )
    n_concepts = len(class_names()) - _n_backgrounds()
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.rate, weight_decay=0.02)
    loader = DataLoader(
        Lessons(options.seed, options.tinted), batch_size=None, num_workers=1, prefetch_factor=6
    )
    start = reported = saved = time.monotonic()
    total, seen, recent = options.minutes * 60, 0, 0.0
    for step, (pixels, target) in enumerate(_twice(loader)):
        now = time.monotonic()
        done = (now - start) / total
        if done >= 1:
            break
        warm = min(1.0, (step + 1) / 150)
        for group in optimizer.param_groups:
            group["lr"] = options.rate * warm * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-6
        loss = _loss(network, _augment(pixels), target, n_concepts)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        average.update_parameters(network)
        seen += len(pixels)
        recent = loss.item() if step == 0 else 0.98 * recent + 0.02 * loss.item()
        if now - reported > 15:
            reported = now
            print(f"{now - start:5.0f} s  {seen} images  loss {recent:.3f}", flush=True)
        if now - saved > 120:
            saved = now
            save(average.module, options.out)
    save(average.module, options.out)
    print(f"{seen} images, loss {recent:.3f}, {options.out} ({options.out.stat().st_size / 1e6:.1f} MB)")


def _n_backgrounds() -> int:
    from actors.embedded.drawing.backgrounds import BACKGROUNDS

    return len(BACKGROUNDS)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rate", type=float, default=2.5e-3, help="highest learning rate")
    parser.add_argument("--tinted", type=float, default=0.3, help="share of objects in another color")
    parser.add_argument("--resume", type=Path, help="weights to start from")
    train(Training(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
