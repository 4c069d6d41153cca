"""Which units a command line asks for, and which of them are worth an agent."""

from __future__ import annotations

import math
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from actors.errors import UsageError
from actors.vision.sweep.exemplars import LayerExemplars

_SAME = 1e-5
"""Relative difference of activations that rounding in another channel order may cause."""


_FORM = re.compile(r"all|sample:0*[1-9]\d*|\d+|\d+-\d+")


def check(text: str) -> None:
    """Raise UsageError if the text has no form that `choose` takes, whatever the layer's size."""
    for part in map(str.strip, text.split(",")):
        low, dash, high = part.partition("-")
        if not _FORM.fullmatch(part) or (dash and int(low) > int(high)):
            reason = ", a range that goes down" if _FORM.fullmatch(part) else ""
            raise UsageError(
                f"units are written all, 0-63, 3,17 or sample:100, got {part!r}{reason}.", "Correct --units."
            )


def choose(text: str, n_units: int, seed: int, layer: str = "") -> list[int]:
    """Return the units that `text` names, in order: `all`, `0-63`, `3,17`, `sample:100`, or a mixture by
    commas.

    A sample is the same in every run with this seed. `layer` is what errors call it, which may be one of
    several.

    Raises:
        UsageError: If the text has none of these forms, or names a unit that the layer does not have.
    """
    check(text)
    chosen: set[int] = set()
    for part in map(str.strip, text.split(",")):
        low, dash, high = part.partition("-")
        if part == "all":
            chosen.update(range(n_units))
        elif part.startswith("sample:"):
            chosen.update(random.Random(seed).sample(range(n_units), min(int(part[7:]), n_units)))
        else:
            first, last = int(low), int(high if dash else low)
            # One unit that does not exist is enough to refuse: a mistyped range may name billions.
            chosen.update(range(first, min(last, max(first, n_units)) + 1))
    if beyond := [unit for unit in sorted(chosen) if unit >= n_units]:
        whose = f"the units of layer {layer!r}" if layer else "the layer's units"
        raise UsageError(
            f"{whose} are numbered 0 to {n_units - 1}, got {beyond[0]}.",
            "Correct --units; it is for all layers that are named together.",
        )
    return sorted(chosen)


def at_most(text: str) -> int:
    """Return how many units a text without `all` may name, in a layer whose size is not known.

    They are counted and not listed: a mistyped range may name billions.

    Raises:
        UsageError: If the text has none of the forms that `choose` takes.
    """
    check(text)
    count, end, ranges = 0, -1, []
    for part in map(str.strip, text.split(",")):
        low, dash, high = part.partition("-")
        if part.startswith("sample:"):
            count += int(part[7:])
        else:
            ranges.append((int(low), int(high if dash else low)))
    for first, last in sorted(ranges):
        count += max(0, last - max(first - 1, end))
        end = max(end, last)
    return count


@dataclass(frozen=True, slots=True)
class ScreenedUnit:
    """A unit's statistics over the data set, and whether it is worth an agent."""

    unit: int
    mean: float
    std: float
    maximum: float
    quantiles: dict[str, float]
    """Of its activation over positions, by level."""
    verdict: str
    """"alive", "dead", "constant", "duplicate" or "not finite"."""
    of: int | None = None
    """The unit that a duplicate repeats."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values; `of` only of a duplicate."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def screen(layer: LayerExemplars, units: Sequence[int]) -> list[ScreenedUnit]:
    """Return one row for each unit.

    `not finite`: NaN or infinite on every image; `dead`: never above zero and always the same; `constant`:
    always the same otherwise; `duplicate`: of an earlier unit, with the same strongest images, activations,
    moments and quantiles; else `alive`. With one image, only the first can be known: then all others are
    alive.
    """
    rows = []
    alike: dict[bytes, list[int]] = defaultdict(list)
    for unit in units:
        mean, std = float(layer.mean[unit]), float(layer.std[unit])
        maximum = float(layer.activations[unit, 0])
        levels, values = map(str, layer.levels.tolist()), layer.quantiles[unit].tolist()
        verdict, of = "alive", None
        if math.isnan(mean):
            verdict = "not finite"
        elif layer.n_images >= 2 and std <= _SAME * max(abs(mean), abs(maximum), 1e-30):
            verdict = "dead" if maximum <= 0 else "constant"
        elif layer.n_images >= 2:
            group = alike[layer.indices[unit].tobytes()]
            of = next((other for other in group if _same(layer, other, unit)), None)
            if of is None:
                group.append(unit)
            else:
                verdict = "duplicate"
        quantiles = dict(zip(levels, values, strict=True))
        rows.append(ScreenedUnit(unit, mean, std, maximum, quantiles, verdict, of))
    return rows


def _same(layer: LayerExemplars, first: int, second: int) -> bool:
    def values(unit: int) -> np.ndarray:
        moments = np.array([layer.mean[unit], layer.std[unit]])
        return np.concatenate([layer.activations[unit], layer.quantiles[unit], moments])

    a, b = values(first), values(second)
    return bool(np.allclose(a, b, rtol=_SAME, atol=_SAME * float(np.abs(a[np.isfinite(a)]).max(initial=0))))
