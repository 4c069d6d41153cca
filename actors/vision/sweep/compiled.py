"""A sweep's pass and everything that it reads, as one graph that `torch.compile` has made.

Reading a layer inside the graph costs less than outside: the maximum is taken while the map is in the
processor's caches, and what no reading needs is not computed. Compiling takes about a minute, so this is for
long sweeps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from actors.errors import BackendError
from actors.hub import is_out_of_memory
from actors.vision.readout.taps import OutputChangedError, TappedModule

if TYPE_CHECKING:
    import torch

ReducedReadout = tuple["torch.Tensor", "torch.Tensor", int]
"""Maxima, float32 (n, U); activations at sampled positions, float16 (n * samples, U); the number of
positions.
"""


class CompiledPass:
    """One pass over batches of one shape. Call it in the device's thread, in inference mode."""

    def __init__(
        self,
        tapped: TappedModule,
        readings: Sequence[tuple[str, Callable[[Any], Any] | None]],
    ) -> None:
        """`readings` are layers with what makes their units of their maps, None where the units are the
        maps'.
        """
        import torch

        self._tapped, self._readings = tapped, list(readings)
        torch._dynamo.reset()  # a class that was compiled with other hooks would be taken for this one
        self._graph = torch.compile(self._trace, dynamic=False, fullgraph=False)

    def __call__(self, batch: torch.Tensor, flat: dict[int, torch.Tensor]) -> list[ReducedReadout]:
        """Run `batch` (n, 3, h, w). `flat` holds, by number of positions, int64 indices into all images'
        positions.

        Raises:
            BackendError: If the network cannot be compiled.
            OutputChangedError: If it gives less or more than a row for each image.
        """
        try:
            return self._graph(batch, flat)
        except OutputChangedError:
            raise  # an image's doing, and found out as without a graph
        except Exception as error:
            if is_out_of_memory(error):
                raise  # no fault of the compiler's
            raise BackendError(
                f"the network cannot be compiled: {type(error).__name__}: {str(error)[:300]}",
                "Set `vision.compile` to false; a C++ compiler is needed on a CPU.",
            ) from error

    def _trace(self, batch: torch.Tensor, flat: dict[int, torch.Tensor]) -> list[ReducedReadout]:
        results: dict[int, ReducedReadout] = {}
        wanted: dict[str, list[int]] = {}
        for place, (layer, _) in enumerate(self._readings):
            wanted.setdefault(layer, []).append(place)

        def take(layer: str) -> Callable[[Any], None]:
            def read(maps: Any) -> None:
                for place in wanted[layer]:
                    made = self._readings[place][1]
                    units = maps if made is None else made(maps)
                    results[place] = _reduce(units, flat[units.shape[2] * units.shape[3]])

            return read

        self._tapped.run_through(batch, {layer: take(layer) for layer in wanted})
        return [results[place] for place in range(len(self._readings))]


def _reduce(units: torch.Tensor, flat: torch.Tensor) -> ReducedReadout:
    n_positions = units.shape[2] * units.shape[3]
    positions_first = units.permute(0, 2, 3, 1)
    sampled = positions_first.flatten(1, 2)[flat // n_positions, flat % n_positions]
    return positions_first.flatten(1, 2).amax(1).float(), sampled.half(), n_positions
