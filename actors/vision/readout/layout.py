"""How a layer's output is seen as maps over the image: which axis holds its units, and where its positions
lie.

The class of a module and the shape of its output leave open what they mean: tokens may be in raster order, in
that of windows or of a space-filling curve, or be no places at all. What is open is asked of the network
(`places`).

Shapes: N images; C units of a layer; T positions; h x w cells of a grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from actors.vision.readout.places import PositionEvidence

if TYPE_CHECKING:
    import torch

Grid = tuple[int, int]

_MAX_PREFIX = 32
"""More tokens than these before the patches are taken for no patch grid at all."""
_NEAR = 0.25
"""How far the logarithm of a grid's proportions may be from the image's."""
_SURE = 0.9
"""Share of bits from which on an order is taken as found: receptive fields that overlap cost a few."""
_LIKELY = 0.7
"""Share of bits from which on raster order is believed where nothing else is known; chance gives 0.5."""
_CLEAR = 0.5
"""Margin from which on positions that do not agree with an order speak against it."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """How an output is seen as maps (N, C, h, w).

    `units_last` says which axis holds the units, the last or the first after the images. `tokens` is true
    where the positions are seen as one sequence: `prefix` of them, then the cells of `grid` in raster order,
    or as `order`, int64 (h * w,), says. `grid` is None where it is not known which place in the image a
    position stands for: then all but the `declared` prefix are read. `certain` is true where nothing has to
    be found out.
    """

    units_last: bool
    tokens: bool
    grid: Grid | None
    image_hw: Grid
    prefix: int = 0
    declared: int = 0
    order: torch.Tensor | None = None
    certain: bool = False

    def maps(self, output: torch.Tensor, image_hw: Grid) -> torch.Tensor:
        """Return an output for images of `image_hw` as a view (N, C, h, w), (N, C, 1, T) where places are not
        known.
        """
        if output.ndim <= 2:
            # A network may return one number an image, (N,).
            return (output if output.ndim == 2 else output[:, None])[:, :, None, None]
        units_first = output.movedim(-1, 1) if self.units_last else output
        if not self.tokens:
            return units_first
        positions = units_first.flatten(2)
        if self.order is not None and image_hw == self.image_hw and self.grid is not None:
            return positions[:, :, self.order.to(positions.device)].unflatten(2, self.grid)
        grid = self.grid_at(positions.shape[2] - self.prefix, image_hw)
        prefix = self.prefix if grid is not None else self.declared
        return positions[:, :, prefix:].unflatten(2, grid or (1, -1))

    def n_positions(self, shape: Sequence[int]) -> int:
        """Return h * w of the maps of an output of `shape`, on images of the size that it was recorded with."""
        if len(shape) <= 2:
            return 1
        if self.tokens and self.grid is not None:
            return math.prod(self.grid)
        return math.prod(shape[1:-1] if self.units_last else shape[2:]) - (
            self.declared if self.tokens else 0
        )

    def sequence(self, output: torch.Tensor) -> torch.Tensor:
        """Return the output as (N, T, C)."""
        units_last = output if self.units_last else output.movedim(1, -1)
        return units_last.flatten(1, -2)

    def grid_at(self, n_positions: int, image_hw: Grid) -> Grid | None:
        """Return the grid of `n_positions` on images of `image_hw`, None if it is not known where they lie."""
        if self.grid is None or not self.tokens:
            return self.grid
        if image_hw == self.image_hw:
            return self.grid if n_positions == math.prod(self.grid) else None
        if self.order is not None:
            return None
        sides = [
            [math.floor(side), math.ceil(side)]
            for side in (
                n * new / old for n, new, old in zip(self.grid, image_hw, self.image_hw, strict=True)
            )
        ]
        fitting = {(h, w) for h in sides[0] for w in sides[1] if h * w == n_positions}
        return fitting.pop() if len(fitting) == 1 else None


def hypotheses(
    module: torch.nn.Module | None,
    shape: Sequence[int],
    image_hw: Grid,
    grids: Sequence[Grid],
    declared_prefix: int | None,
) -> list[Layout]:
    """Return the layouts that an output (N, ...) of three or four axes may have, the likeliest first.

    `grids` are those of the convolutions before.
    """
    last, declared = _units_last(module), declared_prefix or 0
    if len(shape) == 4:
        return _of_four_axes(last, shape, image_hw, grids)
    layouts = []
    if last is not False:
        prefix, grid = _patch_grid(shape[1], image_hw, grids, declared_prefix)
        layouts.append(Layout(True, True, grid, image_hw, prefix, declared))
    if last is False or (last is None and any(math.prod(grid) == shape[2] for grid in grids)):
        prefix, grid = _patch_grid(shape[2], image_hw, grids, declared_prefix)
        layouts.append(Layout(False, True, grid, image_hw, prefix, declared))
    return layouts


def relates_tokens(
    module: torch.nn.Module, shape: Sequence[int], n_tokens: int, grids: Sequence[Grid]
) -> bool:
    """Say whether an output (N, a, b, c) has a row and a column for each of `n_tokens`, as attention weights
    have.
    """
    if _units_last(module) is False:
        return False
    sides = {shape[2:], shape[1:3]} - set(grids)
    return (n_tokens, n_tokens) in sides


def _of_four_axes(
    last: bool | None, shape: Sequence[int], image_hw: Grid, grids: Sequence[Grid]
) -> list[Layout]:
    """Return the layouts that (N, a, b, c) may have: (N, C, h, w), (N, h, w, C), or groups of positions (N,
    a, b, C).
    """
    first, second = (shape[2], shape[3]), (shape[1], shape[2])
    units_first = Layout(False, False, first, image_hw)
    units_last = Layout(True, False, second, image_hw)
    if last is False or first == (1, 1):
        return [replace(units_first, certain=True)]
    if second == (1, 1):
        return [replace(units_last, certain=True)]
    far = {grid: 0.0 if grid in grids else _distance(grid, image_hw) for grid in (first, second)}
    if last is None and far[first] <= far[second] and (first in grids or _rounded(first, image_hw)):
        return [replace(units_first, certain=True)]
    n_positions = math.prod(second)
    exact = next((grid for grid in reversed(grids) if math.prod(grid) == n_positions), None)
    grouped = Layout(True, True, exact or _grid_of(n_positions, image_hw, 0.0), image_hw)
    layouts = [units_last] if far[second] <= _NEAR or _rounded(second, image_hw) else [grouped]
    if last is None:
        near = far[first] <= _NEAR or _rounded(first, image_hw)
        # Showing images costs passes: axes in no proportion to the image's are not asked about.
        layouts.append(units_first if near else replace(units_first, grid=None))
        if far[first] <= min(_NEAR, far[second]):
            layouts.reverse()
    return layouts


def speaks_against(layout: Layout, evidence: PositionEvidence) -> bool:
    """Say whether positions clearly spelled something else than raster order.

    Axes of rows and columns can only be other axes; windows of attention alone take a few bits from them.
    """
    raster = _raster(layout, evidence)
    if not layout.tokens and evidence.agreement(raster) >= _LIKELY:
        return False
    return evidence.margin >= _CLEAR and not _is_sure(evidence, raster)


@dataclass(frozen=True)
class Open:
    """An output (N, ...) whose layout is one of several, the likeliest first, with what its positions spelled
    for each.
    """

    shape: tuple[int, ...]
    may_be: Sequence[tuple[Layout, PositionEvidence | None]]

    def spelled(self) -> tuple[Layout, torch.Tensor] | None:
        """Return the layout whose positions spelled an order for sure and that order, None if there is none."""
        for layout, evidence in self.may_be:
            if evidence is None or layout.grid is None:
                continue
            order = evidence.order() if evidence.margin >= _CLEAR else None
            raster = _raster(layout, evidence)
            if order is None and _is_sure(evidence, raster):
                order = raster
            if order is not None:
                return layout, order
        return None


def decide(outputs: Mapping[str, Open]) -> dict[str, Layout]:
    """Return the layouts of outputs in the order of the pass; one of which not even the axis of its units is
    known is left out.

    Deep positions answer to all of the image. They are taken to lie as earlier ones of the same number did if
    they still agree with that better than by chance, or if later ones spell it again.
    """
    spelled = {name: output.spelled() for name, output in outputs.items()}
    last = {
        _key(outputs[name].shape, order[0]): place
        for place, (name, order) in enumerate(spelled.items())
        if order
    }
    known: dict[tuple[int, Grid], torch.Tensor | None] = {}
    layouts: dict[str, Layout] = {}
    for place, (name, output) in enumerate(outputs.items()):
        default, evidence = output.may_be[0]
        if default.certain or default.grid is None:
            layouts[name] = default
        elif (order_spelled := spelled[name]) is not None:
            layout, order = order_spelled
            known[_key(output.shape, layout)] = order
            layouts[name] = _ordered(output.shape, layout, order)
        else:
            again = place < last.get(_key(output.shape, default), -1)
            layouts[name] = _inherited(output.shape, default, evidence, known, again)
        # Of groups that a module of an unknown class gave, the axes are anybody's guess.
        if len(output.shape) == 4 and len(output.may_be) > 1 and layouts[name].grid is None:
            del layouts[name]
    return layouts


def _inherited(
    shape: Sequence[int],
    layout: Layout,
    evidence: PositionEvidence | None,
    known: dict[tuple[int, Grid], torch.Tensor | None],
    again: bool,
) -> Layout:
    """Return the layout of positions that spelled no order for sure; `again` says that later ones do."""
    if evidence is None:
        return replace(layout, grid=None) if layout.tokens else layout
    key = _key(shape, layout)
    inherits = key in known
    order = known.get(key, _raster(layout, evidence))
    agreement = 0.0 if order is None else evidence.agreement(order)
    # Of few positions, some agree or disagree by chance.
    by_chance = 1 / math.sqrt(evidence.codes.numel())
    # The clearer they are, the more of them must agree.
    if (
        layout.tokens
        and evidence.margin >= _CLEAR
        and agreement < max(_LIKELY - by_chance, 2 * evidence.margin - 1)
    ):
        known[key] = order = None
    believed = agreement >= (0.5 + 2 * by_chance if inherits else _LIKELY)
    if order is None or (layout.tokens and not believed and not (inherits and again)):
        return replace(layout, tokens=True, grid=None)
    return _ordered(shape, layout, order)


def _is_sure(evidence: PositionEvidence, order: torch.Tensor) -> bool:
    """Say whether positions agree with an order as well as ones can that are mixed with others as much as
    these.
    """
    return bool(evidence.varies[order].all()) and evidence.agreement(order) >= max(_SURE, evidence.margin)


def _key(shape: Sequence[int], layout: Layout) -> tuple[int, Grid]:
    assert layout.grid is not None
    return math.prod(shape[1:-1] if layout.units_last else shape[2:]), layout.grid


def _raster(layout: Layout, evidence: PositionEvidence | None) -> torch.Tensor:
    """Return the positions of the grid's cells in raster order: those that any image changes, else those
    after the prefix.
    """
    import torch

    assert layout.grid is not None
    n_cells = math.prod(layout.grid)
    if evidence is not None and int(evidence.varies.sum()) == n_cells:
        return evidence.varies.nonzero()[:, 0]
    return torch.arange(layout.prefix, layout.prefix + n_cells)


def _ordered(shape: Sequence[int], layout: Layout, order: torch.Tensor) -> Layout:
    import torch

    n_positions = _key(shape, layout)[0]
    prefix = n_positions - len(order)
    if torch.equal(order, torch.arange(prefix, n_positions)):
        return replace(layout, prefix=prefix)
    return replace(layout, tokens=True, prefix=0, order=order)


def _rounded(grid: Grid, image_hw: Grid) -> bool:
    """Say whether a grid has the image's proportions up to a rounded side."""
    return (
        abs(grid[0] - grid[1] * image_hw[0] / image_hw[1]) < 1
        and abs(grid[1] - grid[0] * image_hw[1] / image_hw[0]) < 1
    )


def _distance(grid: Grid, image_hw: Grid) -> float:
    return abs(math.log(grid[0] / grid[1]) - math.log(image_hw[0] / image_hw[1]))


def _units_last(module: torch.nn.Module | None) -> bool | None:
    """Return whether a module's units are on its output's last axis, None if its class does not tell."""
    import torch

    nn = torch.nn
    firsts = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)
    if isinstance(module, (*firsts, nn.InstanceNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)):
        return False
    if isinstance(module, (nn.Linear, nn.Embedding, nn.MultiheadAttention)):
        return True
    if isinstance(module, nn.LayerNorm) and not type(module).__name__.endswith("2d"):
        return True
    return None


def _patch_grid(
    n_tokens: int, image_hw: Grid, grids: Sequence[Grid], declared: int | None
) -> tuple[int, Grid | None]:
    """Return the number of prefix tokens and the patches' grid (h, w).

    The network's own word on its prefix tokens comes first; then a convolution's grid (the patch embedding's)
    with as many tokens before it as are left over; then a grid in exactly the image's proportions, then
    about.
    """
    if declared is not None and declared < n_tokens:
        n = n_tokens - declared
        exact = next((g for g in reversed(grids) if g[0] * g[1] == n), None)
        grid = exact or _grid_of(n, image_hw, 0.0) or _grid_of(n, image_hw, _NEAR)
        if grid:
            return declared, grid
    prefixes = range(min(_MAX_PREFIX, n_tokens - 1) + 1)
    for prefix in prefixes:
        for grid in reversed(grids):
            if grid[0] * grid[1] == n_tokens - prefix:
                return prefix, grid
    for tolerance in (0.0, _NEAR):
        for prefix in prefixes[: (n_tokens + 1) // 2]:
            candidate = _grid_of(n_tokens - prefix, image_hw, tolerance)
            if candidate and candidate != (1, 1):
                return prefix, candidate
    return declared or 0, None


def _grid_of(n: int, image_hw: Grid, tolerance: float) -> Grid | None:
    """Return (h, w) with h * w = n in the image's proportions (their log-ratio within `tolerance`), or None."""
    h = round(math.sqrt(n * image_hw[0] / image_hw[1]))
    if h < 1 or n % h:
        return None
    w = n // h
    return (h, w) if abs(math.log(h * image_hw[1] / (w * image_hw[0]))) <= tolerance + 1e-9 else None
