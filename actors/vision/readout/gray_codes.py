"""Finds where the positions of a layer's output lie in the image, from images that encode coordinates.

There are two textures, and for every bit of a row's and a column's number an image that takes each cell from
one texture or the other, as the bit says. The response of a position that depends mostly on its own cell is
close to its response to one of the textures, which decodes its bits, and so its coordinates. Numbers are in
Gray code: neighbors differ in one bit, so a receptive field that reaches into the next cell costs at most
that bit.

Shapes: K bits; T positions; C units; h x w cells; N = K + 2 images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_COARSE = 8
"""Pixels of the coarse half of a texture: white noise alone is averaged away by networks that pool early."""

_ENOUGH_UNITS = 64
"""Units that are compared: more cost time and add no information."""


@cache
def gray_codes(grid: tuple[int, int], max_bits: int | None = None) -> torch.Tensor:
    """Return the Gray codes of all cells in raster order, bool (K, h * w): the row's bits, then the column's.

    `max_bits` limits each number to its coarsest bits.
    """
    import torch

    rows, columns = (_gray_code(side, max_bits) for side in grid)
    return torch.cat(
        [rows[:, :, None].expand(-1, *grid).flatten(1), columns[:, None, :].expand(-1, *grid).flatten(1)]
    )


def _gray_code(side: int, max_bits: int | None) -> torch.Tensor:
    """Return the Gray codes of 0 to `side` - 1, bool (bits, side), the coarsest bit first."""
    import torch

    numbers = torch.arange(side)
    places = range((side - 1).bit_length())[::-1][:max_bits]
    return (
        torch.stack([(numbers ^ (numbers >> 1)) >> place & 1 for place in places]).bool()
        if places
        else torch.zeros((0, side), dtype=torch.bool)
    )


def gray_code_images(grid: tuple[int, int], like: torch.Tensor, max_bits: int | None = None) -> torch.Tensor:
    """Return the batch (K + 2, 3, H, W) that encodes `gray_codes`, in the size, dtype and device of `like`
    (n, 3, H, W).
    """
    import torch

    height, width = like.shape[2:]
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn((2, like.shape[1], -(-height // _COARSE), -(-width // _COARSE)), generator=generator)
    textures = torch.nn.functional.interpolate(coarse, scale_factor=_COARSE)[:, :, :height, :width]
    textures = textures + torch.randn(textures.shape, generator=generator)
    cells = gray_codes(grid, max_bits).unflatten(1, grid)
    rows = torch.arange(height) * grid[0] // height
    columns = torch.arange(width) * grid[1] // width
    masks = cells[:, rows][:, :, columns][:, None]
    return torch.cat([textures, torch.where(masks, textures[1], textures[0])]).to(like)


@dataclass(frozen=True)
class PositionEvidence:
    """The `bits`, bool (K, T), that positions decoded from images of `gray_codes`, bool (K, h * w).

    `varies`, bool (T,), is false for a position that no image changes. `margin`, in 0..1, is near 1 if each
    position depends on its own cell alone, and near 0 if all are mixed.
    """

    gray_codes: torch.Tensor
    bits: torch.Tensor
    varies: torch.Tensor
    margin: float

    @classmethod
    def of(cls, tokens: torch.Tensor, gray_codes: torch.Tensor) -> PositionEvidence:
        """Decode the responses, (K + 2, T, C), to `gray_code_images`."""
        step = -(-tokens.shape[2] // _ENOUGH_UNITS)
        values = tokens[:, :, ::step].float()
        spread = (values[1] - values[0]).square()
        # A few units of large variance would outweigh all others.
        weights = 1 / spread.mean(0).clamp_min(1e-12)
        weights = weights * (spread.mean(0) > 1e-12 * spread.mean())
        apart = spread @ weights
        to_first, to_second = ((values[2:] - values[texture]).square() @ weights for texture in (0, 1))
        margin = (to_first - to_second).abs() / (to_first + to_second).clamp_min(1e-12)
        varies = apart > 1e-6 * apart.max()
        return cls(
            gray_codes,
            (to_second < to_first).cpu(),
            varies.cpu(),
            float(margin[:, varies].mean()) if varies.any() else 0.0,
        )

    def agreement(self, order: torch.Tensor) -> float:
        """Return the share of bits that are correct if position `order[i]` lies in cell i."""
        return float((self.bits[:, order] == self.gray_codes).float().mean())

    def agreement_of_axes(self, order: torch.Tensor, grid: tuple[int, int]) -> float:
        """Return the smaller of the shares for rows and for columns: strips of rows agree in one alone."""
        correct = (self.bits[:, order] == self.gray_codes).float().mean(1)
        cells = self.gray_codes.unflatten(1, grid)
        of_rows = (cells == cells[:, :, :1]).flatten(1).all(1)
        return min(float(correct[bits].mean()) for bits in (of_rows, ~of_rows) if bits.any())

    def repeats(self, other: PositionEvidence | None) -> bool:
        """Return whether the order of these positions, if there is one, agrees with `other`."""
        order = self.order()
        return order is None or (other is not None and other.agreement(order) >= 0.75)

    def order(self) -> torch.Tensor | None:
        """Return the position of every cell, int64 (h * w,); None unless each is decoded exactly once."""
        import torch

        positions = self.varies.nonzero()[:, 0]
        n_cells = self.gray_codes.shape[1]
        if len(positions) != n_cells:
            return None
        weights = 2 ** torch.arange(len(self.bits))
        decoded = (self.bits[:, positions] * weights[:, None]).sum(0)
        wanted = (self.gray_codes * weights[:, None]).sum(0)
        by_word, by_cell = decoded.argsort(), wanted.argsort()
        if len(wanted.unique()) < n_cells or not torch.equal(decoded[by_word], wanted[by_cell]):
            return None
        order = torch.empty(n_cells, dtype=torch.int64)
        order[by_cell] = positions[by_word]
        return order
