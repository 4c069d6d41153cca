"""Ablating units on images of a bias: what each adds to the class in the context, and in ordinary ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from actors.images import Image
from actors.vision.client import PoolVisionClient
from actors.vision.readout.base import Scores
from actors.vision.readout.units import OUTPUT, Readout
from agents.evidence.effects import LEAST_IMAGES, effect_differences
from agents.records.store import Store
from experiments.audit.carriers.record import BiasCarriers, UnitShare
from experiments.studies.ablation import FIRST, AblatedLayer, LayerAblation, Measure, UnitScreen

SHOWN = 20
"""Units of a bias at most that are kept beside the sure ones."""
_LEAST_ODDS = 1e-12


@dataclass(frozen=True, slots=True)
class BiasImages:
    """A bias and images of its class, `index` among the network's: in the context, and in ordinary ones."""

    class_name: str
    context: str
    source: Literal["generated", "real"]
    index: int
    inside: Sequence[Image]
    ordinary: Sequence[Image]

    @property
    def key(self) -> str:
        about = f"{self.source} {self.class_name} {self.context}"
        return hashlib.blake2b(about.encode(), digest_size=8).hexdigest()


def log_odds(index: int, scores: Scores | None) -> Measure:
    """Return what makes the log odds of a class's probability, (n,), of a network's outputs (n, classes).

    They are linear in the class's logit, and neither vanish near 0 and 1 nor change with what all logits
    share.
    """

    def measure(outputs: np.ndarray) -> np.ndarray:
        own = outputs[:, index]
        if scores == "sigmoid":
            return own
        if scores == "probabilities":
            own = own.clip(_LEAST_ODDS, 1 - _LEAST_ODDS)
            return np.log(own / (1 - own))
        others = np.delete(outputs, index, axis=1)
        if not others.shape[1]:
            return own
        most = others.max(1)
        return own - most - np.log(np.exp(others - most[:, None]).sum(1))

    return measure


async def carriers_of(
    vision: PoolVisionClient,
    readout: Readout,
    bias: BiasImages,
    store: Store,
    progress: Callable[[int, int], None],
) -> BiasCarriers:
    """Return what each unit of `readout` does to a bias; ablations are kept in `store`.

    Raises:
        MaiaError: If a unit cannot be edited, or the network fails.
    """
    inside, n = len(bias.inside), len(bias.inside) + len(bias.ordinary)
    n_units = await vision.count_units(readout)
    if min(inside, n - inside) < LEAST_IMAGES:
        return BiasCarriers(
            bias.class_name, bias.context, bias.source, inside, n - inside, 0.0, n_units, 0.0, 0, []
        )
    output = next(layer for layer in await vision.layers() if layer.name == OUTPUT)
    layer = AblatedLayer(
        vision, readout, np.zeros(n_units), Readout(OUTPUT, "logit"), log_odds(bias.index, output.scores)
    )
    screen = UnitScreen(
        (*range(FIRST), *range(inside, inside + FIRST)),
        lambda effects: np.abs(effects[:, :FIRST].mean(1) - effects[:, FIRST:].mean(1)),
    )
    prefix = f"carriers/{hashlib.blake2b(str(readout).encode(), digest_size=4).hexdigest()}-{bias.key}"
    images = [*bias.inside, *bias.ordinary]
    found = await LayerAblation(layer, images, store, prefix, progress).table(screen)
    figures = effect_differences(found.effects[:, :inside], found.effects[:, inside:], found.floor, n_units)
    without = _probability(found.without)
    differences = without[:, :inside].mean(1) - without[:, inside:].mean(1)
    order = np.argsort(-np.nan_to_num(np.abs(figures.mean), nan=-1.0), kind="stable")
    shares = [
        UnitShare(
            int(found.units[place]),
            float(figures.mean[place]),
            figures.interval(place),
            float(figures.q[place]),
            bool(figures.sure[place]),
            float(differences[place]),
        )
        for place in order
        if np.isfinite([figures.mean[place], figures.low[place], differences[place]]).all()
    ]
    clean = _probability(found.clean)
    return BiasCarriers(
        bias.class_name,
        bias.context,
        bias.source,
        inside,
        n - inside,
        float(clean[:inside].mean() - clean[inside:].mean()),
        n_units,
        found.floor,
        found.passes,
        [share for place, share in enumerate(shares) if share.sure or place < SHOWN],
    )


def _probability(odds: np.ndarray) -> np.ndarray:
    """Return probabilities of log odds."""
    probability: np.ndarray = 1 / (1 + np.exp(-odds.clip(-700, 700)))
    return probability
