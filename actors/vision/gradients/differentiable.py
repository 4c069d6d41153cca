"""A network under study as a differentiable function of an image.

Shapes: N images; h x w positions of a layer; H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actors.errors import BackendError, UsageError
from actors.vision.networks.preprocess import Preprocess
from actors.vision.readout.edits import RowEdit
from actors.vision.readout.places import split_place
from actors.vision.readout.taps import TappedModule
from actors.vision.readout.units import OUTPUT, Readout, reader

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class DifferentiableNetwork:
    """The passes of a network that record gradients. Call its methods inside `recording`.

    `layer` returns the layer that a name stands for.
    """

    name: str
    tapped: TappedModule
    preprocess: Preprocess
    layer: Callable[[str], str]
    dtype: torch.dtype
    channels_last: bool

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record gradients, also in a thread that otherwise records none.

        Raises:
            BackendError: If the network's own code allows no gradients.
        """
        import torch

        try:
            with torch.inference_mode(False), torch.enable_grad():
                _normal_tensors(self.tapped.module)
                yield
        except RuntimeError as error:
            if any(words in str(error) for words in ("does not require grad", "nference tensor", "backward")):
                raise BackendError(
                    f"no gradient passes through {self.name}: {str(error)[:200]}",
                    "Its code may turn gradients off, quantize or work in numpy: it can be measured, but not "
                    "visualized or attributed.",
                ) from error
            raise

    def unit(self, pixels: torch.Tensor, readout: Readout, index: int) -> torch.Tensor:
        """Return a unit's values (N, h, w) on RGB images, float (N, 3, H, W) in 0..255, of the input's size.

        Raises:
            UsageError: If there is no such layer or unit.
        """
        values: list[torch.Tensor] = []
        tap = self._tap(readout)
        units = reader(readout, self.tapped.tap(tap).info)
        if not 0 <= index < units.n_units:
            raise UsageError(
                f"units of {tap!r} are numbered 0 to {units.n_units - 1}, got {index}.", "Give one of these."
            )

        def read(maps: torch.Tensor) -> None:
            # A copy: the next module may change the layer's output in place.
            values.append(units.units(maps)[:, index].float().clone())

        self.tapped.run(self._input(pixels), {tap: read})
        return values[0]

    def unit_and_output(
        self, pixels: torch.Tensor, readout: Readout, index: int, output: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return of one image a unit's values (h, w), a zero (h, w) that is added to them, and one output.

        The gradient of the output by that zero is what the unit's values contribute, to first order; of a
        direction or a latent it is the derivative along what the unit writes.

        Raises:
            UsageError: If the unit cannot be edited, is not in front of the output, or there is no such one.
        """

        tap = self._tap(readout)
        own = self.tapped.tap(tap)
        units = reader(readout, own.info)
        scores = self.tapped.taps.get(OUTPUT)
        if scores is None or scores.info.kind != "vector":
            raise UsageError(
                f"{self.name} has no vector of outputs to attribute.", "Attribute the unit itself."
            )
        if (
            own.recorded.module == OUTPUT
            or (units.read is not None and units.edit is None)
            or own.recorded.n_calls > 1
        ):
            raise UsageError(
                f"a {readout.kind} of {tap!r} has no effect on an output that could be attributed.",
                "Choose a unit of a layer in front of the output that is called once in a pass.",
            )
        if not 0 <= output < scores.info.n_units:
            raise UsageError(
                f"outputs are numbered 0 to {scores.info.n_units - 1}, got {output}.", "Give one of these."
            )
        change = _AddedZero(index)
        outputs: list[torch.Tensor] = []
        self.tapped.run(
            self._input(pixels),
            {OUTPUT: lambda maps: outputs.append(maps[0, output, 0, 0].float())},
            edits=(RowEdit(0, tap, change, units),),
        )
        return change.values.detach(), change.zero, outputs[0]

    def _tap(self, readout: Readout) -> str:
        name = self.layer(readout.layer)
        if name not in self.tapped.taps and split_place(name)[0] not in self.tapped.taps:
            raise UsageError(f"{self.name} has no layer {readout.layer!r}.", "List them with `maia layers`.")
        return name

    def _input(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.preprocess.normalized(pixels, self.dtype, channels_last=self.channels_last)


class _AddedZero:
    """The change of a unit by a zero that has a gradient; keeps the unit's values and the zero."""

    turned = None
    values: torch.Tensor
    zero: torch.Tensor

    def __init__(self, index: int) -> None:
        self.index = index

    def changed(self, values: torch.Tensor) -> torch.Tensor:
        import torch

        self.values, self.zero = values, torch.zeros_like(values, requires_grad=True)
        return values + self.zero


def _normal_tensors(module: torch.nn.Module) -> None:
    """Replace tensors that a module made in inference mode, such as cached positions: no gradient passes
    them.
    """
    import torch

    for part in module.modules():
        for tensors in (part._buffers, part.__dict__):
            for name, value in list(tensors.items()):
                if isinstance(value, torch.Tensor) and value.is_inference():
                    tensors[name] = value.clone()
