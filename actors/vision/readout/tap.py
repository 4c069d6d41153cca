"""A tap: one tensor of a module's output, viewed as maps over the image.

Shapes: N images; C units of a layer; T tokens; h x w positions.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actors.vision.readout.base import LayerInfo
from actors.vision.readout.edits import RowEdit, edited
from actors.vision.readout.layout import Layout

if TYPE_CHECKING:
    import torch


class OutputChangedError(RuntimeError):
    """A module's output has another number of images or units than expected."""


class StopForward(BaseException):
    """Ends a forward pass early. Not an Exception: a network's own `except` must not swallow it."""


@dataclass(frozen=True, slots=True)
class RecordedOutput:
    """A tensor, of the shape `shape`, of a module's last output in a recorded pass.

    `call_index` is the index of the module's last call among all calls of the pass, `n_calls` the number of
    its calls; `key` is that of the tensor in a tuple or dictionary, None if it is the output itself.
    """

    module: str
    call_index: int
    n_calls: int
    key: int | str | None
    shape: tuple[int, ...]

    def tensor(self, output: Any) -> Any:
        """Return the tensor in an output of the module."""
        return output if self.key is None else output[self.key]


@dataclass(frozen=True, slots=True)
class Tap:
    """A tensor of a module's output, and how to view it as (N, C, h, w)."""

    recorded: RecordedOutput
    info: LayerInfo
    layout: Layout

    @property
    def n_positions(self) -> int:
        """Positions of the maps of images of the recorded size."""
        return self.layout.n_positions(self.recorded.shape)

    def maps(self, output: Any, image_hw: tuple[int, int]) -> torch.Tensor:
        """Return the output for images of `image_hw` as a view (N, C, h, w); prefix tokens are dropped."""
        return self.layout.maps(self.recorded.tensor(output), image_hw)

    def edited(self, output: Any, image_hw: tuple[int, int], edits: Sequence[RowEdit]) -> Any:
        """Return the module's output with some rows edited, in containers of its own."""
        key = self.recorded.key
        tensor = edited(self.recorded.tensor(output), self.layout, image_hw, edits)
        if key is None:
            return tensor
        if isinstance(output, tuple):
            parts = [tensor if place == key else part for place, part in enumerate(output)]
            return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
        container = copy.copy(output)
        container[key] = tensor
        return container

    def maps_of(self, output: Any, rows: BatchRows) -> torch.Tensor:
        """Return `maps`, checked: rows are assigned to images by position alone.

        Raises:
            OutputChangedError: If there are more or fewer images or units than expected.
        """
        maps = self.maps(output, rows.image_hw)
        if maps.shape[0] not in (rows.n, rows.whole) or maps.shape[1] != self.info.n_units:
            raise OutputChangedError(
                f"{self.info.name!r} gave {maps.shape[1]} units of {maps.shape[0]} images, "
                f"and has {self.info.n_units} of {rows.n}"
            )
        return maps


@dataclass
class BatchRows:
    """The number `n` of images, of size `image_hw`, that are still in a pass.

    A branch off the trunk, such as an auxiliary head, still gets the `whole` batch: it is not narrowed.
    """

    whole: int
    n: int
    image_hw: tuple[int, int]


def spatial_max(maps: torch.Tensor) -> torch.Tensor:
    """Return the maximum over positions, float32 (N, C), of maps (N, C, h, w) in any memory layout.

    Two steps along the contiguous axis run near memory speed; `amax((2, 3))` does not.
    """
    if maps.shape[2] == maps.shape[3] == 1:
        return maps[:, :, 0, 0].float()
    if maps.stride(1) == 1:
        return maps.permute(0, 2, 3, 1).amax(1).amax(1).float()
    return maps.flatten(2).amax(2).float()


def spatial_mean(maps: torch.Tensor) -> torch.Tensor:
    """Return the mean over positions, float32 (N, C), of maps (N, C, h, w)."""
    import torch

    return maps.mean((2, 3), dtype=torch.float32)
