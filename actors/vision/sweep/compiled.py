"""A sweep's forward pass and its readouts as one graph of `torch.compile`.

Reading a layer inside the graph costs less than in a hook outside: the maximum is taken while the map is in
the processor's caches, and what no readout needs is not computed. Compiling takes about a minute, so this is
for long sweeps.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from actors.errors import BackendError
from actors.hub import is_out_of_memory
from actors.vision.readout.tap import OutputChangedError, spatial_mean
from actors.vision.readout.taps import TappedModule
from actors.vision.readout.units import UnitReader

if TYPE_CHECKING:
    import torch


class CompileError(BackendError):
    """A network cannot be compiled, or gives other values when it is."""


ReducedReadout = tuple["torch.Tensor", "torch.Tensor", "torch.Tensor", int]
"""Maxima and means over positions, float32 (n, U) each; activations at sampled positions, float16
(n * samples, U); the number of positions.
"""


@contextlib.contextmanager
def _compile_errors() -> Iterator[None]:
    """Raise errors of the compiler as CompileError."""
    try:
        yield
    except OutputChangedError:
        raise  # caused by an image, and handled as without a graph
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, CompileError):
            raise  # not the compiler's fault
        raise CompileError(
            f"the network cannot be compiled: {type(error).__name__}: {str(error)[:300]}",
            "Set `vision.compile` to never; a C++ compiler is needed on a CPU.",
        ) from error


class CompiledPass:
    """One pass over batches of one shape. Call it in the device's thread, in inference mode."""

    def __init__(
        self,
        tapped: TappedModule,
        readers: Sequence[tuple[str, UnitReader]],
    ) -> None:
        """`readers` are those of the readouts, each with its layer."""
        import torch

        self._tapped, self._readers = tapped, list(readers)
        with _compile_errors():
            _check_code_folder()
            torch._dynamo.reset()  # a class that was compiled with other hooks would be taken for this one
            self._graph = torch.compile(self._trace, dynamic=False, fullgraph=False)

    def __call__(self, batch: torch.Tensor, flat: dict[int, torch.Tensor]) -> list[ReducedReadout]:
        """Run `batch` (n, 3, h, w). `flat` holds, by number of positions, int64 indices into all images'
        positions.

        Raises:
            CompileError: If the network cannot be compiled.
            OutputChangedError: If it gives less or more than a row for each image.
        """
        with _compile_errors():
            return self._graph(batch, flat)

    def _trace(self, batch: torch.Tensor, flat: dict[int, torch.Tensor]) -> list[ReducedReadout]:
        results: dict[int, ReducedReadout] = {}
        by_layer: dict[str, list[tuple[int, UnitReader]]] = {}
        for index, (layer, reader) in enumerate(self._readers):
            by_layer.setdefault(layer, []).append((index, reader))

        def read(layer: str) -> Callable[[torch.Tensor], None]:
            def read_layer(maps: torch.Tensor) -> None:
                for index, reader in by_layer[layer]:
                    units = reader.units(maps)
                    results[index] = _reduce(units, flat[units.shape[2] * units.shape[3]])

            return read_layer

        self._tapped.run_through(batch, {layer: read(layer) for layer in by_layer})
        return [results[index] for index in range(len(self._readers))]


def _check_code_folder() -> None:
    """Raise CompileError if another user could have put code where torch keeps what it compiled, and runs it.

    By default that is a folder of a known name in /tmp.
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    folder = Path(cache_dir())
    own = all(status.st_uid == os.getuid() for status in (folder.lstat(), folder.stat()))
    if not own or folder.stat().st_mode & stat.S_IWOTH:
        raise CompileError(
            f"other users can write to {folder}, where torch keeps code.",
            "Set TORCHINDUCTOR_CACHE_DIR to a folder of your own, or `vision.compile` to never.",
        )


def _reduce(units: torch.Tensor, flat: torch.Tensor) -> ReducedReadout:
    n_positions = units.shape[2] * units.shape[3]
    positions_first = units.permute(0, 2, 3, 1)
    sampled = positions_first.flatten(1, 2)[flat // n_positions, flat % n_positions]
    maxima = positions_first.flatten(1, 2).amax(1).float()
    return maxima, spatial_mean(units), sampled.half(), n_positions
