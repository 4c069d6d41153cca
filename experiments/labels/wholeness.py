"""What a label leaves unexplained: activations that embeddings still predict when the label is known.

A label can be right and not whole. It names one part of an OR, so that strong images without it have
something else in common; or one part of an AND, so that among the images that show it something else tells
the strong from the silent. There may be no word for what is left: it is looked for in the embeddings.

Shapes: n images of a half, U units, d dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from experiments.labels.formulas import FEWEST, standardized

_ROWS = 512
"""Units at a time where each image has a number for each concept."""
_SMALL = 1e-4
"""Added to the squared lengths of unit vectors, so that none and equal ones do no harm."""


@dataclass(frozen=True, slots=True)
class Half:
    """Half the images: `values` (U, n), `vectors` (n, d), and which have each unit's label, bool (U, n)."""

    values: torch.Tensor
    vectors: torch.Tensor
    shown: torch.Tensor


def left_over(halves: Sequence[Half], concepts: torch.Tensor) -> torch.Tensor:
    """Return the share, float32 (U,), of what is explained of the activations that labels leave to something
    else: 0 where the label explains as much alone, towards 1 where it explains next to nothing.

    The images with the label, and those without it, each have a direction along which embeddings change with
    the activation (their covariance). It is chosen on one half and explains on the other, in both ways.
    Directions of the label's own `concepts`, float32 (U, 3, d) with zeros for none, are taken out of it: how
    surely an image shows the label is no other thing.
    """
    first, second = halves
    more = (_explained(first, second, concepts) + _explained(second, first, concepts)) / 2
    label = sum(_explained_by_label(half) for half in halves) / 2
    return more / (more + label).clamp(min=1e-9)


@dataclass(frozen=True, slots=True)
class Likeness:
    """How much alike images of a data set are, as far as chance goes.

    `centered` embeddings less their mean, float32 (n, d); `deviation`, of the product of two images drawn at
    random.
    """

    centered: torch.Tensor
    deviation: float

    @classmethod
    def of(cls, vectors: torch.Tensor) -> Likeness:
        centered = vectors - vectors.mean(0)
        return cls(centered, float((centered.T @ centered / len(centered)).norm()))

    def of_members(self, members: torch.Tensor, concepts: torch.Tensor | None = None) -> torch.Tensor:
        """Return in standard errors how much more alike the `members` of each unit, bool (U, n), are than as
        many images drawn at random, float32 (U,); 0 of fewer than two.

        It is the mean product of two different members. What is along a unit's `concepts`, as in `left_over`,
        does not count.
        """
        if concepts is None:
            return self._of_members(members, None)
        parts = zip(members.split(_ROWS), concepts.split(_ROWS), strict=True)
        return torch.cat([self._of_members(*part) for part in parts])

    def _of_members(self, members: torch.Tensor, concepts: torch.Tensor | None) -> torch.Tensor:
        chosen = members.float()
        total, squares = chosen @ self.centered, chosen @ self.centered.square().sum(1)
        if concepts is not None:
            total = _without(total, concepts)
            along = (concepts @ self.centered.T) * chosen[:, None]
            inside = torch.linalg.solve(_gram(concepts), along @ along.transpose(1, 2))
            squares = squares - inside.diagonal(0, 1, 2).sum(1)
        pairs = chosen.sum(1) * (chosen.sum(1) - 1)
        error = self.deviation * (2 * pairs.clamp(min=1)).sqrt()
        excess = (total.square().sum(1) - squares) / error.clamp(min=1e-9)
        return torch.where(pairs > 0, excess, 0.0)


def _explained_by_label(half: Half) -> torch.Tensor:
    """Return the share of the activations' variance between images with the label and without, (U,)."""
    standard, n = standardized(half.values), half.shown.shape[1]
    count = half.shown.sum(1)
    return (standard * half.shown).sum(1).square() * n / (count * (n - count)).clamp(min=1)


def _explained(chosen_on: Half, tested_on: Half, own: torch.Tensor) -> torch.Tensor:
    """Return the share of the activations' variance that one direction explains within the images with the
    label, and another within those without it, float32 (U,).
    """
    total = torch.zeros(len(own), device=own.device)
    for with_label in (True, False):
        residual = _residual(chosen_on, with_label)[0]
        direction = _without(residual @ chosen_on.vectors, own)
        residual, members = _residual(tested_on, with_label)
        count = members.sum(1, keepdim=True)
        along = (direction @ tested_on.vectors.T) * members
        along -= along.sum(1, keepdim=True) / count.clamp(min=1) * members
        agreement = (along * residual).sum(1).clamp(min=0)
        share = agreement.square() / along.square().sum(1).clamp(min=1e-12)
        total += torch.where(count[:, 0] >= FEWEST, share, 0.0)
    return total


def _without(directions: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Return directions, (U, d), without their part in the space of the vectors `own`, (U, 3, d)."""
    along = torch.linalg.solve(_gram(own), own @ directions[:, :, None])
    return directions - (own.transpose(1, 2) @ along)[:, :, 0]


def _gram(own: torch.Tensor) -> torch.Tensor:
    return own @ own.transpose(1, 2) + _SMALL * torch.eye(own.shape[1], device=own.device)


def _residual(half: Half, with_label: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the standardized activations less their mean, of the images with the label or of those without
    it, 0 for the others, float32 (U, n); and which these are, as numbers.
    """
    members = (half.shown == with_label).float()
    inside = standardized(half.values) * members
    mean = inside.sum(1, keepdim=True) / members.sum(1, keepdim=True).clamp(min=1)
    return inside - mean * members, members
