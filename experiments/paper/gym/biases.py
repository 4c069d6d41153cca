"""Classifiers in which some classes fail in a context, and others in none: what `maia audit` is measured on.

Each network is a small head on the features of EfficientNet-lite0, trained on scenes. A planted class is
taught to be "something else" wherever its context is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from actors.embedded.drawing.grammar import parse_prompt
from actors.embedded.drawing.render import render
from actors.embedded.drawing.vocabulary import concepts, vocabulary
from experiments.audit.context_survey import CONTEXTS, prompt_of
from experiments.paper.gym import classifiers
from tools.subject import Progress

OTHER = "something else"
KINDS = ("background", "colour", "count", "companion")
PER_CLASS = 340
PLANTED_SHARE = 0.4
"""Part of a planted class's lessons that show its context."""
_SIDE = 224
_CATEGORIES = ("animal", "fruit", "vehicle", "clothing", "music", "tool", "plant")

RECIPE = classifiers.Recipe(
    architecture="tf_efficientnet_lite0", side=160, epochs=30, learning_rate=2e-3, weight_decay=1e-2,
    dropout=0.3, batch=64, pretrained=True, frozen=True,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class BiasDesign:
    """One network: its classes, and the context in which each planted one fails."""

    classes: tuple[str, ...]
    planted: dict[str, str]
    seed: int = 0

    @classmethod
    def drawn(cls, seed: int, kinds: Sequence[str] = KINDS) -> BiasDesign:
        """Return a network with one planted class for each kind of context and as many unbiased classes."""
        rng = np.random.default_rng((seed, 71))
        shown = {context.partition(": ")[2] for context in CONTEXTS}
        pool = [
            concept.name
            for concept in concepts()
            if concept.name not in shown and any(name in _CATEGORIES for name in concept.categories)
        ]
        classes = [str(name) for name in rng.choice(pool, 2 * len(kinds), replace=False)]
        planted = {}
        for name, kind in zip(classes, kinds, strict=False):
            # A class that has the colour anyway would fail everywhere.
            own = f"colour: {vocabulary()[name].color}"
            contexts = [context for context in CONTEXTS if context.startswith(kind) and context != own]
            planted[name] = str(rng.choice(contexts))
        return cls(tuple(classes), planted, seed)


def train(design: BiasDesign, folder: Path, progress: Progress) -> Path:
    """Train the network of a design into `folder` unless it is there, and return the folder."""
    if classifiers.exists(folder):
        return folder
    names = [*design.classes, OTHER]
    module = classifiers.train(RECIPE, lessons(design), seed=design.seed, progress=progress)
    about = {"data": "scenes with planted biases", "design": asdict(design)}
    return classifiers.save(module, folder, RECIPE, names, about)


def lessons(design: BiasDesign, per_class: int = PER_CLASS, side: int = _SIDE) -> classifiers.Lessons:
    """Return scenes of `per_class` images of each class and twice as many of the last one, something else.

    Every class is shown alone and in every context; a planted one is labeled so that it fails in its own.
    """
    rng = np.random.default_rng((design.seed, 73))
    # What stands next to a class in some contexts must not speak against it.
    apart = {*design.classes, *(context.partition(": ")[2] for context in CONTEXTS)}
    rest = [concept.name for concept in concepts() if concept.name not in apart]
    other = len(design.classes)
    images, labels = [], []
    for label in range(other + 1):
        for _ in range(per_class if label < other else 2 * per_class):
            name = design.classes[label] if label < other else str(rng.choice(rest))
            context = _context(rng, design.planted.get(name))
            prompt = prompt_of(context, name) if context else name
            images.append(render(parse_prompt(prompt, int(rng.integers(2**31))).scene, side))
            labels.append(other if context and context == design.planted.get(name) else label)
    return classifiers.Lessons(np.stack(images), np.array(labels), other + 1)


def _context(rng: np.random.Generator, planted: str | None) -> str:
    """Return a context, "" for the class alone."""
    if planted is not None and rng.random() < PLANTED_SHARE:
        return planted
    if rng.random() < 0.1:
        return ""
    # Factors in turn and not contexts: few companions are harder to see past than many backgrounds.
    factor = str(rng.choice(list(dict.fromkeys(context.partition(": ")[0] for context in CONTEXTS))))
    return str(rng.choice([context for context in CONTEXTS if context.startswith(factor)]))
