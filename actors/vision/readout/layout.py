"""How a layer's output is viewed as maps over the image: which axis holds its units, and where its positions
lie.

The class of a module and the shape of its output do not determine this: tokens may be in raster order, in the
order of windows or of a space-filling curve, or have no place in the image. Uncertain layouts are tested on
the network (`gray_codes`).

Shapes: N images; C units of a layer; T positions; h x w cells of a grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from actors.vision.readout.gray_codes import PositionEvidence

if TYPE_CHECKING:
    import torch

Grid = tuple[int, int]

_MAX_PREFIX = 32
"""Tokens before the patches at most: with more, there is no patch grid."""
_NEAR = 0.25
"""How far the logarithm of a grid's proportions may be from the image's."""
_SURE = 0.9
"""Share of correct bits at which an order is accepted: overlapping receptive fields cost a few."""
_LIKELY = 0.7
"""Share of correct bits at which raster order is accepted by default; chance gives 0.5."""
_CLEAR = 0.5
"""Margin at which positions that disagree with an order contradict it."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """How an output is viewed as maps (N, C, h, w).

    The units are on the last axis if `units_last`, else on the first after the images. With `tokens` the
    positions are one sequence: `prefix` tokens, then the cells of `grid` in raster order, or in `order`,
    int64 (h * w,). `grid` is None if the places of the positions are unknown: then all but the `declared`
    prefix are read. A layout that is `certain` needs no test.

    Of a part of a layer, only some `channels` are read, only the tokens of `span`, which have no place in the
    image, or the mean over positions if it is `pooled`.
    """

    units_last: bool
    tokens: bool
    grid: Grid | None
    image_hw: Grid
    prefix: int = 0
    declared: int = 0
    order: torch.Tensor | None = None
    certain: bool = False
    channels: slice | None = None
    span: slice | None = None
    pooled: bool = False

    def maps(self, output: torch.Tensor, image_hw: Grid) -> torch.Tensor:
        """Return an output for images of `image_hw` as a view (N, C, h, w), or float32 means (N, C, 1, 1).

        It is (N, C, 1, T) without a grid, or of the T tokens of a span.
        """
        maps = self._all_maps(output, image_hw)
        if self.channels is not None:
            maps = maps[:, self.channels]
        return maps.float().mean((2, 3), keepdim=True) if self.pooled else maps

    def _all_maps(self, output: torch.Tensor, image_hw: Grid) -> torch.Tensor:
        if output.ndim <= 2:
            # A network may return one number per image, (N,).
            return (output if output.ndim == 2 else output[:, None])[:, :, None, None]
        if not self.tokens and output.ndim == 3:  # one number a pixel, such as depth
            return output[:, None]
        units_first = output.movedim(-1, 1) if self.units_last else output
        if not self.tokens:
            return units_first
        positions = units_first.flatten(2)
        if self.span is not None:
            return positions[:, :, None, self.span]
        if self.order is not None and image_hw == self.image_hw and self.grid is not None:
            return positions[:, :, self.order.to(positions.device)].unflatten(2, self.grid)
        grid = self.grid_at(positions.shape[2] - self.prefix, image_hw)
        prefix = self.prefix if grid is not None else self._left_out(positions.shape[2])
        return positions[:, :, prefix:].unflatten(2, grid or (1, -1))

    def n_positions(self, shape: Sequence[int]) -> int:
        """Return h * w of the maps of an output of `shape`, on images of the recorded size."""
        if len(shape) <= 2 or self.pooled:
            return 1
        if self.span is not None:
            return len(range(math.prod(shape[1:-1] if self.units_last else shape[2:]))[self.span])
        if self.grid is not None and (self.tokens or len(shape) == 3):
            return math.prod(self.grid)
        n_positions = math.prod(shape[1:-1] if self.units_last else shape[2:])
        return n_positions - (self._left_out(n_positions) if self.tokens else 0)

    def _left_out(self, n_tokens: int) -> int:
        """Return how many tokens without a grid are not read: those declared, if others are left."""
        return self.declared if n_tokens > self.declared else 0

    def sequence(self, output: torch.Tensor) -> torch.Tensor:
        """Return the output as (N, T, C)."""
        units_last = output if self.units_last else output.movedim(1, -1)
        return units_last.flatten(1, -2)

    def grid_at(self, n_positions: int, image_hw: Grid) -> Grid | None:
        """Return the grid of `n_positions` on images of `image_hw`, None if none is known."""
        if self.span is not None or self.pooled:
            return None
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


def candidate_layouts(
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
    if last is None and tuple(shape[1:]) == image_hw:
        return [Layout(False, False, image_hw, image_hw, certain=True)]
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
    """Return whether an output (N, a, b, c) has a row and a column for each of `n_tokens`, as of attention
    weights.
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


def contradicts_raster(layout: Layout, evidence: PositionEvidence) -> bool:
    """Return whether the evidence clearly contradicts raster order.

    Rows and columns on axes of their own may lose a few bits to windows of attention.
    """
    raster = _raster_order(layout, evidence)
    if not layout.tokens and evidence.agreement(raster) >= _LIKELY:
        return False
    return evidence.margin >= _CLEAR and not _agrees(evidence, raster)


@dataclass(frozen=True)
class OutputCandidates:
    """An output (N, ...) and its possible layouts, the likeliest first, with the evidence on each."""

    shape: tuple[int, ...]
    candidates: Sequence[tuple[Layout, PositionEvidence | None]]

    def decoded(self) -> tuple[Layout, torch.Tensor] | None:
        """Return the layout for which a clear order was decoded, and that order; None if there is none."""
        for layout, evidence in self.candidates:
            if evidence is None or layout.grid is None:
                continue
            order = evidence.order() if evidence.margin >= _CLEAR else None
            raster = _raster_order(layout, evidence)
            if order is None and _agrees(evidence, raster):
                order = raster
            if order is not None:
                return layout, order
        return None


def resolve_layouts(outputs: Mapping[str, OutputCandidates]) -> dict[str, Layout]:
    """Return the layouts of outputs in the order of the pass, without those whose unit axis is unknown.

    Deep positions respond to all of the image. They inherit the order of an earlier output of as many
    positions if they still agree with it better than by chance, or if a later output has it again.
    """
    decoded = {name: output.decoded() for name, output in outputs.items()}
    last = {
        _sequence_key(outputs[name].shape, order[0]): place
        for place, (name, order) in enumerate(decoded.items())
        if order
    }
    known: dict[tuple[int, Grid], torch.Tensor | None] = {}
    layouts: dict[str, Layout] = {}
    for place, (name, output) in enumerate(outputs.items()):
        default, evidence = output.candidates[0]
        if default.certain or default.grid is None:
            layouts[name] = default
        elif (order_spelled := decoded[name]) is not None:
            layout, order = order_spelled
            known[_sequence_key(output.shape, layout)] = order
            layouts[name] = _ordered(output.shape, layout, order)
        else:
            again = place < last.get(_sequence_key(output.shape, default), -1)
            layouts[name] = _inherited(output.shape, default, evidence, known, again)
        # The axes of groups from a module of an unknown class cannot be inferred.
        if len(output.shape) == 4 and len(output.candidates) > 1 and layouts[name].grid is None:
            del layouts[name]
    return layouts


def _inherited(
    shape: Sequence[int],
    layout: Layout,
    evidence: PositionEvidence | None,
    known: dict[tuple[int, Grid], torch.Tensor | None],
    again: bool,
) -> Layout:
    """Return the layout of an output without a clear order; `again`: a later output has the order again."""
    if evidence is None:
        return replace(layout, grid=None) if layout.tokens else layout
    key = _sequence_key(shape, layout)
    inherits = key in known
    order = known.get(key, _raster_order(layout, evidence))
    agreement = 0.0 if order is None else evidence.agreement(order)
    # Of few positions, some agree or disagree by chance.
    by_chance = 1 / math.sqrt(evidence.gray_codes.numel())
    # The clearer they are, the more of them must agree.
    if (
        layout.tokens
        and evidence.margin >= _CLEAR
        and agreement < max(_LIKELY - by_chance, 2 * evidence.margin - 1)
    ):
        known[key] = order = None
    better_than_chance = 0.5 + 2 * by_chance
    believed = agreement >= (better_than_chance if inherits else _LIKELY)
    if order is not None and not inherits:
        believed = believed and evidence.agreement_of_axes(order, key[1]) >= better_than_chance
    if order is None or (layout.tokens and not believed and not (inherits and again)):
        return replace(layout, tokens=True, grid=None)
    return _ordered(shape, layout, order)


def _agrees(evidence: PositionEvidence, order: torch.Tensor) -> bool:
    """Return whether positions agree with an order as well as their `margin` allows."""
    return bool(evidence.varies[order].all()) and evidence.agreement(order) >= max(_SURE, evidence.margin)


def _sequence_key(shape: Sequence[int], layout: Layout) -> tuple[int, Grid]:
    assert layout.grid is not None
    return math.prod(shape[1:-1] if layout.units_last else shape[2:]), layout.grid


def _raster_order(layout: Layout, evidence: PositionEvidence | None) -> torch.Tensor:
    """Return the positions of the grid's cells in raster order: those that vary, else those after the
    prefix.
    """
    import torch

    assert layout.grid is not None
    n_cells = math.prod(layout.grid)
    if evidence is not None and int(evidence.varies.sum()) == n_cells:
        return evidence.varies.nonzero()[:, 0]
    return torch.arange(layout.prefix, layout.prefix + n_cells)


def _ordered(shape: Sequence[int], layout: Layout, order: torch.Tensor) -> Layout:
    import torch

    n_positions = _sequence_key(shape, layout)[0]
    prefix = n_positions - len(order)
    if torch.equal(order, torch.arange(prefix, n_positions)):
        return replace(layout, prefix=prefix)
    return replace(layout, tokens=True, prefix=0, order=order)


def _rounded(grid: Grid, image_hw: Grid) -> bool:
    """Return whether a grid has the image's proportions up to a rounded side."""
    return (
        abs(grid[0] - grid[1] * image_hw[0] / image_hw[1]) < 1
        and abs(grid[1] - grid[0] * image_hw[1] / image_hw[0]) < 1
    )


def _distance(grid: Grid, image_hw: Grid) -> float:
    return abs(math.log(grid[0] / grid[1]) - math.log(image_hw[0] / image_hw[1]))


def _units_last(module: torch.nn.Module | None) -> bool | None:
    """Return whether a module's units are on its output's last axis, None if its class leaves it open."""
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

    The first that fits is taken: the declared prefix; a convolution's grid (the patch embedding's) after the
    remaining tokens; a grid of exactly the image's proportions; a grid of about these.
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
    """Return (h, w) with h * w = n whose log-ratio is within `tolerance` of the image's, or None."""
    h = round(math.sqrt(n * image_hw[0] / image_hw[1]))
    if h < 1 or n % h:
        return None
    w = n // h
    return (h, w) if abs(math.log(h * image_hw[1] / (w * image_hw[0]))) <= tolerance + 1e-9 else None
