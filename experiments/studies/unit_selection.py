"""Which units a command line asks for, and which of them are worth an agent."""

from __future__ import annotations

import math
import random
import re
from collections import defaultdict
from collections.abc import Sequence
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


def screen(layer: LayerExemplars, units: Sequence[int]) -> list[dict[str, Any]]:
    """Return one row a unit: statistics over the data set, and `verdict`.

    `not finite`: NaN or infinite on every image; `dead`: never above zero and always the same; `constant`:
    always the same otherwise; `duplicate`: `of` an earlier unit, with the same strongest images, activations,
    moments and quantiles; else `alive`. With one image, only the first can be known: then all others
    are alive.
    """
    rows: list[dict[str, Any]] = []
    alike: dict[bytes, list[int]] = defaultdict(list)
    for unit in units:
        mean, std = float(layer.mean[unit]), float(layer.std[unit])
        maximum = float(layer.activations[unit, 0])
        row: dict[str, Any] = {
            "unit": unit,
            "mean": mean,
            "std": std,
            "maximum": maximum,
            "quantiles": dict(
                zip(map(str, layer.levels.tolist()), layer.quantiles[unit].tolist(), strict=True)
            ),
            "verdict": "alive",
        }
        if math.isnan(mean):
            row["verdict"] = "not finite"
        elif layer.n_images < 2:
            pass
        elif std <= _SAME * max(abs(mean), abs(maximum), 1e-30):
            row["verdict"] = "dead" if maximum <= 0 else "constant"
        else:
            group = alike[layer.indices[unit].tobytes()]
            twin = next((other for other in group if _same(layer, other, unit)), None)
            if twin is None:
                group.append(unit)
            else:
                row |= {"verdict": "duplicate", "of": twin}
        rows.append(row)
    return rows


def _same(layer: LayerExemplars, first: int, second: int) -> bool:
    def values(unit: int) -> np.ndarray:
        moments = np.array([layer.mean[unit], layer.std[unit]])
        return np.concatenate([layer.activations[unit], layer.quantiles[unit], moments])

    a, b = values(first), values(second)
    return bool(np.allclose(a, b, rtol=_SAME, atol=_SAME * float(np.abs(a[np.isfinite(a)]).max(initial=0))))
