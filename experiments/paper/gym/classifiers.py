"""Classifiers trained here, each in a folder that every command can study:
`python:FOLDER/network.py:network`.

A folder holds the weights, how they were made, and a two-line module that builds the network from them.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter

from actors.errors import UsageError
from actors.vision.networks.network import Network
from actors.vision.networks.preprocess import Preprocess
from agents.records import run_files
from agents.records.run_files import RecordError
from tools.subject import Progress

if TYPE_CHECKING:
    import torch

_MODULE = '''"""A classifier trained by this project; `recipe.json` says how."""

from pathlib import Path

from experiments.paper.gym.classifiers import load


def network():
    return load(Path(__file__).parent)
'''
_FEATURE_BATCH = 128
_HIDDEN = 256
"""Width of the head of a frozen network."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a classifier is trained: AdamW, its rate rising and falling once, images mirrored at random.

    `frozen` trains a small head on the features of the network's own pretrained weights and nothing else.
    """

    architecture: str = "resnet18"
    """A timm network."""
    side: int = 64
    """Height and width of its input, pixels."""
    epochs: int = 2
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    dropout: float = 0.1
    """Before the last layer."""
    batch: int = 32
    pretrained: bool = False
    """Begin with the weights of timm's own source."""
    frozen: bool = False

    @property
    def preprocess(self) -> Preprocess:
        return Preprocess(size=(self.side, self.side), resize=(self.side, self.side))


def build(recipe: Recipe, n_classes: int) -> torch.nn.Module:
    """Return the network of a recipe, its last layer new.

    Raises:
        UsageError: If timm has no such network, or its weights cannot be had.
    """
    from actors import vision_libraries

    timm = vision_libraries.import_timm()
    made: Any  # a timm network: what is used of it below is not part of torch's Module
    if recipe.pretrained:
        from actors.vision.networks.sources import from_timm

        made = from_timm(recipe.architecture, True).module.requires_grad_(True)
        made.reset_classifier(n_classes)
        made.drop_rate = recipe.dropout
    elif recipe.architecture not in timm.list_models():
        raise UsageError(f"timm has no network {recipe.architecture!r}.")
    else:
        made = timm.create_model(recipe.architecture, num_classes=n_classes, drop_rate=recipe.dropout)
    if recipe.frozen:
        head = _head(made.num_features, n_classes, recipe.dropout)
        setattr(made, made.default_cfg["classifier"], head)
    network: torch.nn.Module = made
    return network


def _head(n_features: int, n_classes: int, dropout: float) -> torch.nn.Module:
    from torch import nn

    return nn.Sequential(
        nn.BatchNorm1d(n_features, affine=False),
        nn.Linear(n_features, _HIDDEN),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(_HIDDEN, n_classes),
    )


@dataclass(frozen=True)
class Lessons:
    """What a network is taught: images uint8 (N, H, W, 3) and their labels int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray
    n_classes: int


def train(
    recipe: Recipe,
    lessons: Lessons,
    *,
    seed: int,
    start: Mapping[str, torch.Tensor] | None = None,
    progress: Progress = lambda _done, _total: None,
) -> torch.nn.Module:
    """Return a trained network, in evaluation mode.

    `start` gives weights to begin with; those of the last layer are left out. The global generator of torch
    is left as it was.
    """
    import torch

    images, labels = lessons.images, lessons.labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build(recipe, lessons.n_classes)
        if start is not None:
            own = module.state_dict()
            fitting = {name: value for name, value in start.items() if value.shape == own[name].shape}
            module.load_state_dict(fitting, strict=False)
        steps = recipe.epochs * (len(images) // recipe.batch)
        if steps < 1:
            raise UsageError(f"training needs at least {recipe.batch} images, got {len(images)}")
        learner, read = module, _mirrored(recipe, images)
        if recipe.frozen:
            fixed = torch.from_numpy(features(module, recipe.preprocess, images))
            learner = getattr(module, str(module.default_cfg["classifier"]))  # type: ignore[index]

            def read(rows: np.ndarray) -> torch.Tensor:
                return fixed[rows]

        optimizer = torch.optim.AdamW(
            learner.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, recipe.learning_rate, total_steps=steps, pct_start=0.2
        )
        learner.train()
        for done, rows in enumerate(_batches(len(images), recipe, seed), 1):
            loss = torch.nn.functional.cross_entropy(learner(read(rows)), torch.from_numpy(labels[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress(done, steps)
    return module.eval()


def _mirrored(recipe: Recipe, images: np.ndarray) -> Callable[[np.ndarray], torch.Tensor]:
    """Return what makes a batch of the images of some rows, each mirrored or not."""
    import torch

    def read(rows: np.ndarray) -> torch.Tensor:
        x = recipe.preprocess.batch(list(images[rows]))
        return torch.where((torch.rand(len(x)) < 0.5)[:, None, None, None], x.flip(3), x)

    return read


def _batches(n: int, recipe: Recipe, seed: int) -> Iterator[np.ndarray]:
    """Yield the rows of each batch, int64 and sorted (a file is then read forwards)."""
    rng = np.random.default_rng((seed, 41))
    for _ in range(recipe.epochs):
        order = rng.permutation(n)
        for first in range(0, n - recipe.batch + 1, recipe.batch):
            yield np.sort(order[first : first + recipe.batch])


def features(module: torch.nn.Module, preprocess: Preprocess, images: np.ndarray) -> np.ndarray:
    """Return what the last layer is fed, float32 (N, units), in evaluation mode."""

    def pooled(x: torch.Tensor) -> torch.Tensor:
        maps = module.forward_features(x)  # type: ignore[operator]
        head: torch.Tensor = module.forward_head(maps, pre_logits=True)  # type: ignore[operator]
        return head

    return _run(module, preprocess, images, pooled)


def logits(module: torch.nn.Module, preprocess: Preprocess, images: np.ndarray) -> np.ndarray:
    """Return class scores, float32 (N, classes)."""
    return _run(module, preprocess, images, module)


def _run(
    module: torch.nn.Module,
    preprocess: Preprocess,
    images: np.ndarray,
    forward: Callable[[torch.Tensor], torch.Tensor],
) -> np.ndarray:
    import torch

    module.eval()
    batches = []
    with torch.inference_mode():
        for first in range(0, len(images), _FEATURE_BATCH):
            batch = preprocess.batch(list(images[first : first + _FEATURE_BATCH]))
            batches.append(forward(batch).float().numpy())
    return np.concatenate(batches)


def save(
    module: torch.nn.Module,
    folder: Path,
    recipe: Recipe,
    class_names: Sequence[str],
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write a trained network into `folder`, whole or not at all, with plain facts `about` it.

    Raises:
        OSError: If it cannot be written there; what was written stays next to `folder`, under a name with a
            dot.
    """
    from safetensors.torch import save_file

    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    draft.mkdir(parents=True)
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    save_file(state, draft / "weights.safetensors")
    facts = _Facts(recipe, tuple(class_names), dict(about or {}))
    (draft / "recipe.json").write_text(json.dumps(asdict(facts), indent=1, ensure_ascii=False))
    (draft / "network.py").write_text(_MODULE)
    try:
        os.replace(draft, folder)  # noqa: PTH105
    except OSError:
        if not exists(folder):
            raise
        # Another process has written the same network meanwhile: equal seeds give equal weights.
        shutil.rmtree(draft)
    return folder


_FILES = frozenset({"weights.safetensors", "recipe.json", "network.py"})


def exists(folder: Path) -> bool:
    """Return whether the folder holds a classifier; the code in it is then this project's own.

    A run that is resumed may have been made by a stranger, and this code is imported.

    Raises:
        RecordError: If the folder is a link, or holds anything else.
    """
    if folder.is_symlink() or folder.parent.is_symlink():
        raise RecordError(f"{folder} is a link, or lies behind one.", "Give this run an --out of its own.")
    if not run_files.file_status(folder, "recipe.json"):
        return False
    cached = folder / "__pycache__"
    if cached.is_dir() and not cached.is_symlink():
        shutil.rmtree(cached)
    if strange := sorted({path.name for path in folder.iterdir()} - _FILES):
        raise RecordError(
            f"{folder} holds {strange[0]!r}, which was not written there by this project.",
            "Remove it, or give this run an --out of its own.",
        )
    if not run_files.file_status(folder, "weights.safetensors"):
        raise RecordError(f"{folder} holds no weights.", "Remove it: it is trained again.")
    if run_files.read_bytes(folder, "network.py") != _MODULE.encode():
        run_files.replace_file(folder, "network.py", _MODULE.encode())
    return True


@dataclass(frozen=True)
class _Facts:
    """What `recipe.json` holds."""

    recipe: Recipe
    class_names: tuple[str, ...]
    about: dict[str, Any]


def _read_facts(folder: Path) -> _Facts:
    try:
        return TypeAdapter(_Facts).validate_json(run_files.read_bytes(folder, "recipe.json") or b"")
    except (OSError, ValueError, RecordError) as error:
        raise UsageError(f"{folder} holds no classifier that was trained here: {error}") from error


def load(folder: Path) -> Network:
    """Return the network in a folder of `save`.

    Raises:
        UsageError: If there is none, or it is damaged.
    """
    from actors.vision.networks import checkpoints

    facts = _read_facts(folder)
    module = build(replace(facts.recipe, pretrained=False), len(facts.class_names))
    checkpoints.read(folder / "weights.safetensors").load_into(module)
    return Network(
        name=folder.name,
        module=module.eval().requires_grad_(False),
        preprocess=facts.recipe.preprocess,
        weights=f"trained on {facts.about.get('data', 'images of its own')}",
        class_names=facts.class_names,
    )


def spec(folder: Path) -> str:
    """Return the name by which commands study the network of a folder."""
    return f"python:{folder.resolve() / 'network.py'}:network"
