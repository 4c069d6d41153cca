"""A tap: one tensor of a module's output, viewed as maps over the image.

Shapes: N images; C units of a layer; T tokens; h x w positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from actors.vision.readout.base import LayerInfo
from actors.vision.readout.containers import Path, part, with_part
from actors.vision.readout.edits import RowEdit, edited
from actors.vision.readout.layout import Layout
from actors.vision.readout.places import MEAN, Place

if TYPE_CHECKING:
    import torch


class OutputChangedError(RuntimeError):
    """A module's output has another number of images or units than expected."""


class StopForward(BaseException):
    """Ends a forward pass early. Not an Exception: a network's own `except` must not swallow it."""


@dataclass(frozen=True, slots=True)
class RecordedTensor:
    """A tensor, of the shape `shape`, of a module's last output (or input) in a recorded pass.

    `call_index` counts when a module begins or ends in the pass, here at its last call; `n_calls` is the
    number of its calls. `path` leads to the tensor in the output, or from an input's number or keyword among
    the arguments. Its rows are on `batch_axis`, 1 in sequences (T, N, C); `shape` has them first.
    """

    module: str
    call_index: int
    n_calls: int
    path: Path
    shape: tuple[int, ...]
    batch_axis: int = 0
    side: Literal["output", "input"] = "output"

    def tensor(self, output: Any) -> Any:
        """Return the tensor, its rows first, in an output of the module or in its arguments."""
        tensor = part(output, self.path)
        return tensor.movedim(1, 0) if self.batch_axis else tensor

    def replaced(self, output: Any, tensor: torch.Tensor) -> Any:
        """Return the output with another tensor in this one's place, in containers of its own."""
        return with_part(output, self.path, tensor.movedim(0, 1) if self.batch_axis else tensor)


@dataclass(frozen=True, slots=True)
class Tap:
    """A tensor of a module's output, and how to view it as (N, C, h, w).

    `given` is the module's input, and `heads` what the heads of an attention give, (N, T, heads * width);
    each is None if it cannot be read, or has other positions than the output. `behind` are the modules that
    the tensor goes through value by value before anything else reads it.
    """

    recorded: RecordedTensor
    info: LayerInfo
    layout: Layout
    given: RecordedTensor | None = None
    heads: RecordedTensor | None = None
    behind: tuple[torch.nn.Module, ...] = ()

    @property
    def n_positions(self) -> int:
        """Positions of the maps of images of the recorded size."""
        return self.layout.n_positions(self.recorded.shape)

    def at(self, place: Place) -> Tap:
        """Return the tap of a part of the layer.

        Raises:
            UsageError: If it has no such part.
        """
        info, layout, recorded = self.info.at(place), self.layout, self.recorded
        if place.site == "in":
            assert self.given is not None
            recorded = self.given
        elif place.site == "head":
            assert self.heads is not None
            width = info.n_units
            recorded = self.heads
            layout = replace(layout, channels=slice(place.head * width, (place.head + 1) * width))
        span = self.info.places.span(place.tokens)
        layout = replace(layout, span=span, pooled=place.tokens == MEAN)
        return Tap(recorded, info, layout, behind=() if place.site else self.behind)

    def maps(self, output: Any, image_hw: tuple[int, int]) -> torch.Tensor:
        """Return the output for images of `image_hw` as maps (N, C, h, w), as the layout says."""
        return self.layout.maps(self.recorded.tensor(output), image_hw)

    def edited(self, output: Any, image_hw: tuple[int, int], edits: Sequence[tuple[Layout, RowEdit]]) -> Any:
        """Return the module's output with some rows of this tensor edited, in containers of its own.

        Each edit has the layout of the part that it is of.
        """
        return self.recorded.replaced(output, edited(self.recorded.tensor(output), image_hw, edits))

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
