"""Taps: reading any module's output in forward hooks, during one pass that stops at the deepest layer read.

One recorded pass over a small batch finds the order of the modules' calls, their outputs' shapes, and which
axis holds the units. Outputs are then read inside forward hooks, before a later in-place operation can change
them, and reduced there, so that no large map outlives its layer.

Shapes: N images; C units of a layer; T tokens; h x w positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from actors.vision.readout.base import LayerInfo, Scores
from actors.vision.readout.edits import RowEdit
from actors.vision.readout.recording import SAME_AS_INPUT, Recorder
from actors.vision.readout.tap import BatchRows, StopForward
from actors.vision.readout.units import OUTPUT

if TYPE_CHECKING:
    import torch

Read = Callable[["torch.Tensor"], None]
_MOST_TRIED = 6
"""Layers that are tried for a fork: each new one costs two small passes."""


@dataclass(frozen=True, slots=True)
class Fork:
    """Where a batch of images becomes one of rows, of which several may go on from the same image.

    Row i goes on from image `sources[i]`. `wanted` is the deepest layer of each row, deepest rows first.
    """

    layer: str
    sources: tuple[int, ...]
    wanted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _LayerWork:
    """What a hook does, in this order: fork, edit, read, then stop the pass or keep the first rows."""

    sources: Sequence[int] | None
    edits: Sequence[RowEdit]
    read: Read | None
    stop: bool
    keep: int | None


class TappedModule:
    """A network whose modules' outputs can be read by name. Not thread-safe: hooks belong to the modules."""

    def __init__(
        self,
        module: torch.nn.Module,
        example: torch.Tensor,
        feed: Callable[[torch.Tensor], Any] | None = None,
        prefix_tokens: int | None = None,
        scores: Scores | None = None,
    ) -> None:
        """Record one pass over `example`, a batch (2, 3, h, w); None as `scores` infers the kind of output.

        Raises:
            BackendError: If the module fails on it.
        """
        import torch

        # Its fused path skips the submodules, and with them their hooks.
        torch.backends.mha.set_fastpath_enabled(False)
        self.module = module
        self.feed = feed or module
        # TorchScript runs no hooks: of such a network only the output can be read.
        modules = module.named_modules()
        self._modules = {
            name: submodule
            for name, submodule in modules
            if not isinstance(submodule, torch.jit.ScriptModule)
        }
        self._input = tuple(example.shape)
        self._image_hw = (example.shape[2], example.shape[3])
        self._narrows: dict[str, bool] = {}
        self._example = example
        recorder = Recorder(self.module, self._modules, self.feed, example)
        self.taps = recorder.record(prefix_tokens, scores)
        self.unreadable = recorder.unreadable
        """The reason why a module cannot be read, by name."""

    def layers(self) -> list[LayerInfo]:
        """Return the layers in the order of the pass, without those that return their input."""
        return [tap.info for tap in self.taps.values() if tap.info.module not in SAME_AS_INPUT]

    def deepest(self, layers: Sequence[str]) -> str:
        return max(layers, key=lambda layer: self.taps[layer].recorded.call_index)

    def is_placed(self, layer: str, n_positions: int, image_hw: tuple[int, int]) -> bool:
        """Return whether the `n_positions` of a layer have known places in images of `image_hw`."""
        return self.taps[layer].layout.grid_at(n_positions, image_hw) is not None

    def depth(self, layer: str) -> float:
        """Return a layer's depth in the pass, in 0..1."""
        return self.taps[layer].recorded.call_index / max(
            1, self.taps[OUTPUT].recorded.call_index if OUTPUT in self.taps else 1
        )

    def still_runs(self) -> bool:
        """Return whether the module runs on the input that it was recorded with. Call in inference mode."""
        try:
            self.feed(self._example)
        except BaseException:  # whatever a module or a device raises
            return False
        return True

    def is_batch_invariant(self) -> bool:
        """Return whether activations are deterministic and independent of the rest of the batch. Call in
        inference mode.

        They are not if dropout is active or batch statistics are used.
        """
        import torch

        if not self.taps:
            return True
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn((3, *self._input[1:]), generator=generator).to(self._example)
        outputs: list[torch.Tensor] = []
        last = max(self.taps.values(), key=lambda tap: tap.recorded.call_index)
        for pair in (rows[:2], rows[1:]):
            try:
                self.run(pair, {last.info.name: lambda maps: outputs.append(maps.float().clone())})
            except Exception:  # reported when the network is shown images
                return True
        one, other = outputs[0][1], outputs[1][0]
        # Half precisions round by up to a hundredth of what they add up.
        tolerance = 1e-3 if self._example.dtype.itemsize >= 4 else 5e-2
        return not bool((one - other).abs().max() > tolerance * one.abs().max())

    def run(
        self,
        batch: torch.Tensor,
        reads: Mapping[str, Read],
        wanted: Sequence[str] | None = None,
        edits: Mapping[str, Sequence[RowEdit]] = MappingProxyType({}),
        fork: Fork | None = None,
    ) -> None:
        """Run `batch` up to the deepest layer of `reads`, and call each with its layer's maps (n, C, h, w).

        `wanted` is the deepest layer that each row needs, deepest rows first. Rows that are done are dropped
        from the pass where that changes nothing for the others, so a read may get only the first n rows.
        `edits` are made in rows of these layers, none deeper than the last read, before the layer is read.
        After a `fork`, at a layer that `fork_layer` names, rows are those of the fork; no edit lies before
        it. Call in inference mode.
        """
        deepest = self.deepest(list(reads))
        exits = self._exits(wanted, deepest) if wanted else {}
        if fork is not None:
            before = self.taps[fork.layer].recorded.call_index
            after = self._exits(fork.wanted, deepest)
            exits = {name: n for name, n in exits.items() if self.taps[name].recorded.call_index < before}
            exits |= {name: n for name, n in after.items() if self.taps[name].recorded.call_index >= before}
        forks = {} if fork is None else {fork.layer: fork.sources}
        rows = BatchRows(len(batch), len(batch), (batch.shape[2], batch.shape[3]))
        with ExitStack() as hooks:
            # The deepest comes last: it ends the pass, and a module may have several outputs.
            for layer in sorted(
                {*reads, *exits, *edits, *forks}, key=lambda layer: (layer == deepest, layer not in edits)
            ):
                work = _LayerWork(
                    forks.get(layer),
                    edits.get(layer, ()),
                    reads.get(layer),
                    layer == deepest,
                    exits.get(layer),
                )
                hook = self._hook(layer, work, rows)
                if (module := self.taps[layer].recorded.module) != OUTPUT:
                    hooks.callback(self._modules[module].register_forward_hook(hook).remove)
            try:
                output = self.feed(batch)
            except StopForward:
                return
            except Exception:
                raise
            except BaseException as error:  # some networks raise SystemExit
                raise RuntimeError(f"it raised {error!r}") from error
            self._read_output(output, reads, rows)

    def run_through(self, batch: torch.Tensor, reads: Mapping[str, Read]) -> None:
        """Do as `run` without stopping early, in a form that `torch.compile` can trace."""
        handles = []
        rows = BatchRows(len(batch), len(batch), (batch.shape[2], batch.shape[3]))
        for layer, read in reads.items():
            if (module := self.taps[layer].recorded.module) != OUTPUT:
                hook = self._hook(layer, _LayerWork(None, (), read, False, None), rows)
                handles.append(self._modules[module].register_forward_hook(hook))
        try:
            output = self.feed(batch)
        finally:
            for handle in handles:
                handle.remove()
        self._read_output(output, reads, rows)

    def _read_output(self, output: Any, reads: Mapping[str, Read], rows: BatchRows) -> None:
        for layer, read in reads.items():
            if self.taps[layer].recorded.module == OUTPUT:
                read(self.taps[layer].maps_of(output, rows))

    def _hook(self, layer: str, work: _LayerWork, rows: BatchRows) -> Callable[[Any, Any, Any], Any]:
        tap = self.taps[layer]
        n_calls = 0

        def hook(_module: Any, _inputs: Any, output: Any) -> Any:
            nonlocal n_calls
            n_calls += 1
            if n_calls < tap.recorded.n_calls:
                return None
            if work.sources is not None or work.edits:
                tap.maps_of(output, rows)  # checks the number of rows: they are told apart by position
            if work.sources is not None:
                output = output[list(work.sources)]
                rows.n = rows.whole = len(work.sources)
            if work.edits:
                output = tap.edited(output, rows.image_hw, work.edits)
            if work.read is not None:
                work.read(tap.maps_of(output, rows))
            if work.stop:
                raise StopForward
            if work.keep is not None:
                rows.n = work.keep
                return output[: work.keep]
            return None if work.sources is None and not work.edits else output

        return hook

    def fork_layer(self, limit: int) -> str | None:
        """Return the deepest layer up to call `limit` on which alone all deeper modules depend, None if there
        is none near.
        """
        taps = sorted(self.taps.values(), key=lambda tap: -tap.recorded.call_index)
        tried = 0
        for tap in taps:
            name = tap.info.name
            if tap.recorded.call_index > limit or name == OUTPUT:
                continue
            if name not in self._narrows:
                if tried == _MOST_TRIED:
                    return None
                tried += 1
            if self._can_narrow(name):
                return name
        return None

    def _exits(self, wanted: Sequence[str], deepest: str) -> dict[str, int]:
        """Return how many rows to keep, by layer: the nearest that can be narrowed after others end."""
        indices = [self.taps[layer].recorded.call_index for layer in wanted]
        exits: dict[str, int] = {}
        for layer in set(wanted):
            call_index = self.taps[layer].recorded.call_index
            keep = sum(other > call_index for other in indices)
            if keep == 0 or keep == len(wanted):
                continue
            exit_layer = self._exit_after(layer, self.taps[deepest].recorded.call_index)
            if exit_layer is not None:
                # Rows that end between this layer and its exit are needed up to the exit.
                exit_index = self.taps[exit_layer].recorded.call_index
                keep = sum(other > exit_index for other in indices)
                if keep > 0:
                    exits[exit_layer] = keep
        return exits

    def _exit_after(self, layer: str, limit: int) -> str | None:
        name = layer
        while name:
            tap = self.taps.get(name)
            if tap is not None and tap.recorded.call_index < limit and self._can_narrow(name):
                return name
            name = name.rpartition(".")[0]
        return None

    def _can_narrow(self, layer: str) -> bool:
        """Return whether all deeper modules depend on this output alone, row by row; tested once."""
        if layer not in self._narrows:
            self._narrows[layer] = self._try_narrowing(layer)
        return self._narrows[layer]

    def _try_narrowing(self, layer: str) -> bool:
        import torch

        tap = self.taps[layer]
        if tap.recorded.key is not None or tap.recorded.n_calls != 1:
            return False
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn((3, *self._input[1:]), generator=generator).to(self._example)
        whole, narrow = self._output(rows), None
        handle = self._modules[tap.recorded.module].register_forward_hook(
            lambda _module, _inputs, output: output[:2]
        )
        try:
            narrow = self._output(rows)
        except Exception:  # a branch of three rows met one of two
            return False
        finally:
            handle.remove()
        if narrow is None or whole is None or len(narrow) != 2:
            return False
        scale = whole.abs().max().clamp_min(1e-6)
        return bool(((narrow - whole[:2]).abs().max() / scale) < 1e-3)

    def _output(self, rows: torch.Tensor) -> torch.Tensor | None:
        tap = self.taps.get(OUTPUT)
        return None if tap is None else tap.maps(self.feed(rows), self._image_hw).float()
