"""The role of a unit in its network: which outputs it raises and lowers on the images that drive it.

The images pass clean and with the unit ablated. An output's effect is its change, clean minus ablated,
centered over all outputs, since softmax ignores what all logits share. A common cause of all images' effects
is tested by Student's t over images, and outputs are claimed at a false-discovery rate (Benjamini and
Hochberg 1995).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from agents.evidence.statistics import benjamini_hochberg

RATE = 0.05
"""False-discovery rate over outputs."""
MOST = 5
"""Outputs in each direction that are kept."""
_LEAST_IMAGES = 3


@dataclass(frozen=True, slots=True)
class OutputEffect:
    """What the unit adds to an output, in its own units (logits), in the mean over images.

    `interval` is Student's at 95 %, `q` the smallest false-discovery rate at which the effect would be
    claimed.
    """

    output: int
    name: str
    effect: float
    interval: tuple[float, float]
    q: float


@dataclass(frozen=True, slots=True)
class Role:
    """Outputs that a unit surely raises and lowers on `n` images, strongest first; `outputs` were compared.

    `floor`: the largest change that a pass makes which edits nothing. `flips`: images whose first output is
    another one without the unit. `norm`: change of the centered outputs' length, as a share of it.
    """

    n: int
    outputs: int
    raised: tuple[OutputEffect, ...]
    lowered: tuple[OutputEffect, ...]
    floor: float
    flips: int
    norm: float


def role(
    clean: np.ndarray, ablated: np.ndarray, placebo: np.ndarray, names: Sequence[str] = ()
) -> Role | None:
    """Return the role from outputs, float (images, outputs); None of fewer than three images or two outputs.

    `placebo` are those of a pass in which the unit is given its own value.
    """
    n, n_outputs = clean.shape
    if n < _LEAST_IMAGES or n_outputs < 2:
        return None
    effects = _centered(clean.astype(np.float64)) - _centered(ablated.astype(np.float64))
    floor = float(np.abs(_centered(placebo.astype(np.float64)) - _centered(clean.astype(np.float64))).max())
    mean, error = effects.mean(0), effects.std(0, ddof=1) / np.sqrt(n)
    # Differences as small as those of a pass that changes nothing are none, however alike they are.
    moved = np.abs(mean) > max(floor, np.finfo(np.float32).eps * float(np.abs(clean).max()))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(error > 0, mean / error, np.where(moved, np.inf, 0.0))
    p = np.where(moved, 2 * stats.t.sf(np.abs(t), n - 1), 1.0)
    q = benjamini_hochberg(p.tolist())
    half = stats.t.ppf(0.975, n - 1) * error

    def effect(output: int) -> OutputEffect:
        value = float(mean[output])
        return OutputEffect(
            output,
            names[output] if output < len(names) else f"output {output}",
            value,
            (value - float(half[output]), value + float(half[output])),
            float(q[output]),
        )

    order = np.argsort(-np.abs(mean), kind="stable")
    claimed = [int(output) for output in order if q[output] <= RATE]
    length = np.linalg.norm(_centered(clean.astype(np.float64)), axis=1)
    return Role(
        n,
        n_outputs,
        tuple(effect(output) for output in claimed if mean[output] > 0)[:MOST],
        tuple(effect(output) for output in claimed if mean[output] < 0)[:MOST],
        floor,
        int((clean.argmax(1) != ablated.argmax(1)).sum()),
        float((np.linalg.norm(effects, axis=1) / np.maximum(length, np.finfo(float).tiny)).mean()),
    )


def _centered(outputs: np.ndarray) -> np.ndarray:
    centered: np.ndarray = outputs - outputs.mean(1, keepdims=True)
    return centered
