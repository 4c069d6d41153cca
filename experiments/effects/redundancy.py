"""Units that change another only together: each of them suffices, so that ablating one changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

from actors.images import Image
from experiments.studies.ablation import AblatedLayer

_MOST = 8
"""Units of such a group at most: an effect that is spread over more is no group."""
_GAP = 0.2
"""Part of the whole layer's effect that ablated drivers must leave for a group to be searched for."""
_CLOSED = 0.5
"""Part of what is left that a group must take away."""


async def redundant_units(
    layer: AblatedLayer, images: Sequence[Image], drivers: Sequence[int], whole: float
) -> list[int]:
    """Return a smallest group of units without which, the `drivers` being ablated, most of what is left of
    the `whole` layer's effect is gone; none if there is little left, or no group of few.

    Group testing by bisection: the last unit of the shortest list that suffices belongs to the group.
    """
    everything = range(len(layer.values))
    others = [unit for unit in everything if unit not in set(drivers)]

    async def read(units: Sequence[int]) -> float:
        return float((await layer.together(images, [*drivers, *units])).mean())

    base, end = await read([]), await read(others)
    gap = base - end
    if not abs(gap) > _GAP * abs(whole):
        return []

    async def suffices(units: Sequence[int]) -> bool:
        return (base - await read(units)) / gap >= _CLOSED

    group: list[int] = []
    while len(group) < _MOST:
        low, high = 0, len(others)
        while low < high:
            middle = (low + high) // 2
            if await suffices([*group, *others[:middle]]):
                high = middle
            else:
                low = middle + 1
        if low == 0:
            return sorted(group)
        group.append(others[low - 1])
        others = others[: low - 1]
    return []
