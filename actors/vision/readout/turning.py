"""Random changes that are made behind an activation.

A random change of what an activation is given would lose a part there: most of it would reach silent units,
and a unit's own change, which is of one that fires, would seem large beside it. So what the unit's own change
comes to behind the modules that the layer's output goes through value by value is turned there.

Shapes: C channels of a layer; h x w positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actors.vision.readout.edits import RowEdit, after_edit, places_of, turned
from actors.vision.readout.tap import BatchRows, Tap

if TYPE_CHECKING:
    import torch


@dataclass
class TurnedChange:
    """The random change of one row: noted where the unit is, made where its change is read.

    `step`, float32 (C, h, w), is the unit's own between the two, else None.
    """

    tap: Tap
    edit: RowEdit
    step: torch.Tensor | None = None

    @property
    def follower(self) -> torch.nn.Module:
        """The module behind which it is made."""
        return self.tap.behind[-1]

    def note(self, output: Any, rows: BatchRows) -> None:
        """Take the unit's own change from the layer's output."""
        layout, at = self.tap.layout, self.edit.row
        row = self.tap.recorded.tensor(output)[at : at + 1]
        own = row.clone()
        own[0].index_put_(
            places_of(row, layout, rows.image_hw),
            after_edit(layout, row, rows.image_hw, self.edit).to(row.dtype),
        )
        before, after = (layout.maps(self._passed_on(each), rows.image_hw)[0].float() for each in (row, own))
        self.step = after - before

    def make(self, output: torch.Tensor, rows: BatchRows) -> None:
        """Change the output, a copy, of the follower."""
        step, self.step = self.step, None
        tensor = self.tap.recorded.tensor(output)
        if step is None or self.edit.row >= len(tensor):
            return  # another call of the follower, or a row that has left the pass
        assert self.edit.edit.turned is not None
        layout = self.tap.layout
        maps = layout.maps(tensor[self.edit.row : self.edit.row + 1], rows.image_hw)[0]
        new = (maps.float() + turned(step, self.edit.edit.turned)).to(tensor.dtype)
        tensor[self.edit.row].index_put_(places_of(tensor, layout, rows.image_hw), new)

    def _passed_on(self, tensor: torch.Tensor) -> torch.Tensor:
        for module in self.tap.behind:
            tensor = module.forward(tensor.clone())  # its hooks are for the pass
        return tensor


def attach(hooks: ExitStack, changes: Sequence[TurnedChange], rows: BatchRows) -> None:
    """Have the followers' outputs changed in the next pass."""
    for follower in {change.follower: None for change in changes}:
        here = [change for change in changes if change.follower is follower]

        def hook(module: Any, inputs: Any, output: Any, here: Sequence[TurnedChange] = here) -> Any:
            if all(change.step is None for change in here):
                return None
            new = output.clone()
            for change in here:
                change.make(new, rows)
            # A module that works in place: its caller may go on with what it gave.
            in_place = getattr(module, "inplace", False) and inputs and output is inputs[0]
            return output.copy_(new) if in_place else new

        hooks.callback(follower.register_forward_hook(hook).remove)
