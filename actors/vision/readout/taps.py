"""Taps: reading any module's output in forward hooks, during one pass that stops at the deepest layer read.

One recorded pass over a small batch finds the order of the modules' calls, their outputs' shapes, and which
axis holds the units. Outputs are then read inside forward hooks, before a later in-place operation can change
them, and reduced there, so that no large map outlives its layer.

Shapes: N images; C units of a layer; T tokens; h x w positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from actors.errors import UsageError
from actors.vision.readout import turning
from actors.vision.readout.base import LayerInfo, Scores
from actors.vision.readout.edits import RowEdit
from actors.vision.readout.modules.attention import calling_projection, uncalled_projections
from actors.vision.readout.modules.followers import SAME_AS_INPUT
from actors.vision.readout.places import split_place
from actors.vision.readout.recording import Recorder
from actors.vision.readout.tap import BatchRows, StopForward, Tap
from actors.vision.readout.turning import TurnedChange
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


@dataclass
class _Work:
    """What the hook of a module does with its output or its input, in this order: fork, note changes to make
    elsewhere, edit, read, then stop the pass or keep the first rows. Several layers may be parts of the
    tensor of `tap`.
    """

    tap: Tap
    sources: Sequence[int] | None = None
    edits: list[tuple[Tap, RowEdit]] = field(default_factory=list)
    turns: list[TurnedChange] = field(default_factory=list)
    reads: list[tuple[Tap, Read]] = field(default_factory=list)
    stop: bool = False
    keep: int | None = None


_Sites = dict[tuple[str, str], _Work]
"""What is done by module and side."""


class TappedModule:
    """A network whose modules' outputs can be read by name. Not thread-safe: hooks belong to the modules."""

    def __init__(
        self,
        module: torch.nn.Module,
        example: torch.Tensor,
        feed: Callable[[torch.Tensor], Any] | None = None,
        prefix: Sequence[str] | None = None,
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
        self._uncalled = uncalled_projections(self._modules)
        """Attentions that do not call their projection, by its name, unless what heads give is wanted."""
        self._input = tuple(example.shape)
        self._image_hw = (example.shape[2], example.shape[3])
        self._narrows: dict[str, bool] = {}
        self._branched: set[str] = set()
        """Layers behind which a module runs that does not depend on them, such as another head."""
        self._example = example
        recorder = Recorder(self.module, self._modules, self.feed, example)
        self.taps = recorder.record(prefix, scores)
        self._parts: dict[str, Tap] = {}
        self.unreadable = recorder.unreadable
        """The reason why a module cannot be read, by name."""

    def tap(self, layer: str) -> Tap:
        """Return the tap of a layer, or of the part of it that a place in its name says.

        Raises:
            UsageError: If there is no such layer, or it has no such part.
        """
        tap = self.taps.get(layer) or self._parts.get(layer)
        if tap is None:
            name, place = split_place(layer)
            if name not in self.taps:
                raise UsageError(f"there is no layer {layer!r}.", "List them with `maia layers`.")
            tap = self._parts[layer] = self.taps[name].at(place)
        return tap

    def layers(self) -> list[LayerInfo]:
        """Return the layers in the order of the pass, without those that return their input."""
        return [tap.info for tap in self.taps.values() if tap.info.module not in SAME_AS_INPUT]

    def deepest(self, layers: Sequence[str]) -> str:
        return max(layers, key=lambda layer: self.tap(layer).recorded.call_index)

    def is_placed(self, layer: str, n_positions: int, image_hw: tuple[int, int]) -> bool:
        """Return whether the `n_positions` of a layer have known places in images of `image_hw`."""
        return self.tap(layer).layout.grid_at(n_positions, image_hw) is not None

    def depth(self, layer: str) -> float:
        """Return a layer's depth in the pass, in 0..1."""
        return self.tap(layer).recorded.call_index / max(
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
        for pair in (rows[:2].clone(), rows[1:].clone()):  # a network may write into its input
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
        edits: Sequence[RowEdit] = (),
        fork: Fork | None = None,
    ) -> None:
        """Run `batch` up to the deepest layer of `reads`, and call each with its layer's maps (n, C, h, w).

        `wanted` is the deepest layer that each row needs, deepest rows first. Rows that are done are dropped
        from the pass where that changes nothing for the others, so a read may get only the first n rows.
        `edits`, none deeper than the last read, are made before their layers are read.
        After a `fork`, at a layer that `fork_layer` names, rows are those of the fork; no edit lies before
        it. Call in inference mode.
        """
        deepest = self.deepest(list(reads))
        exits = self._exits(wanted, deepest) if wanted else {}
        if fork is not None:
            before = self.tap(fork.layer).recorded.call_index
            after = self._exits(fork.wanted, deepest)
            exits = {name: n for name, n in exits.items() if self.tap(name).recorded.call_index < before}
            exits |= {name: n for name, n in after.items() if self.tap(name).recorded.call_index >= before}
        sites: _Sites = {}
        for layer, read in reads.items():
            self._work(layer, sites).reads.append((self.tap(layer), read))
        for edit in edits:
            tap, work = self.tap(edit.layer), self._work(edit.layer, sites)
            if edit.edit.turned is not None and tap.behind and not tap.layout.pooled:
                work.turns.append(TurnedChange(tap, edit))
            else:
                work.edits.append((tap, edit))
        for layer, keep in exits.items():
            self._work(layer, sites).keep = keep
        if fork is not None:
            self._work(fork.layer, sites).sources = fork.sources
        self._work(deepest, sites).stop = True
        rows = BatchRows(len(batch), len(batch), (batch.shape[2], batch.shape[3]))
        with ExitStack() as hooks:
            self._attach(hooks, sites, rows)
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
        rows = BatchRows(len(batch), len(batch), (batch.shape[2], batch.shape[3]))
        sites: _Sites = {}
        for layer, read in reads.items():
            self._work(layer, sites).reads.append((self.tap(layer), read))
        with ExitStack() as hooks:
            self._attach(hooks, sites, rows)
            output = self.feed(batch)
        self._read_output(output, reads, rows)

    def _work(self, layer: str, sites: _Sites) -> _Work:
        """Return what is done where a layer is read, nothing at first."""
        tap = self.tap(layer)
        return sites.setdefault((tap.recorded.module, tap.recorded.side), _Work(tap))

    def _attach(self, hooks: ExitStack, sites: _Sites, rows: BatchRows) -> None:
        turning.attach(hooks, [change for work in sites.values() for change in work.turns], rows)
        for (name, side), work in sites.items():
            if name == OUTPUT:
                continue  # what the network returns is read after the pass
            module = self._modules[name]
            if name in self._uncalled:
                hooks.enter_context(calling_projection(self._uncalled[name]))
            if side == "input":
                handle = module.register_forward_pre_hook(_before(work, rows), with_kwargs=True)
            else:
                handle = module.register_forward_hook(_behind(work, rows))
            hooks.callback(handle.remove)

    def _read_output(self, output: Any, reads: Mapping[str, Read], rows: BatchRows) -> None:
        for layer, read in reads.items():
            if self.tap(layer).recorded.module == OUTPUT:
                read(self.tap(layer).maps_of(output, rows))

    def fork_layer(self, limit: int) -> str | None:
        """Return the deepest layer up to call `limit` on which alone all deeper modules depend, other heads
        too; None if there is none near.
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
            if self._can_narrow(name) and name not in self._branched:
                return name
        return None

    def _exits(self, wanted: Sequence[str], deepest: str) -> dict[str, int]:
        """Return how many rows to keep, by layer: the nearest that can be narrowed after others end."""
        indices = [self.tap(layer).recorded.call_index for layer in wanted]
        exits: dict[str, int] = {}
        for layer in set(wanted):
            call_index = self.tap(layer).recorded.call_index
            keep = sum(other > call_index for other in indices)
            if keep == 0 or keep == len(wanted):
                continue
            exit_layer = self._exit_after(layer, self.tap(deepest).recorded.call_index)
            if exit_layer is not None:
                # Rows that end between this layer and its exit are needed up to the exit.
                exit_index = self.taps[exit_layer].recorded.call_index
                keep = sum(other > exit_index for other in indices)
                if keep > 0:
                    exits[exit_layer] = keep
        return exits

    def _exit_after(self, layer: str, limit: int) -> str | None:
        name = layer if layer in self.taps else split_place(layer)[0]
        while name:
            tap = self.taps.get(name)
            if tap is not None and tap.recorded.call_index < limit and self._can_narrow(name):
                return name
            name = name.rpartition(".")[0]
        return None

    def _can_narrow(self, layer: str) -> bool:
        """Return whether the output depends on this one alone, row by row; tested once."""
        if layer not in self._narrows:
            self._narrows[layer] = self._try_narrowing(layer)
        return self._narrows[layer]

    def _try_narrowing(self, layer: str) -> bool:
        import torch

        tap = self.tap(layer)
        if tap.recorded.path or tap.recorded.batch_axis or tap.recorded.n_calls != 1:
            return False
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn((3, *self._input[1:]), generator=generator).to(self._example)
        whole, narrow = self._output(rows.clone()), None
        narrowed: list[bool] = []

        def keep_two(_module: Any, _inputs: Any, output: Any) -> Any:
            narrowed.append(True)
            return output[:2]

        def watch(_module: Any, _inputs: Any, output: Any, others: Sequence[Tap]) -> None:
            if narrowed and any(len(other.recorded.tensor(output)) != 2 for other in others):
                self._branched.add(layer)

        behind: dict[str, list[Tap]] = {}
        for other in self.taps.values():
            if other.recorded.call_index > tap.recorded.call_index:
                behind.setdefault(other.recorded.module, []).append(other)
        outputs = behind.pop(OUTPUT, [])
        with ExitStack() as hooks:
            module = self._modules[tap.recorded.module]
            hooks.callback(module.register_forward_hook(keep_two).remove)
            for name, others in behind.items():
                hook = partial(watch, others=others)
                hooks.callback(self._modules[name].register_forward_hook(hook).remove)
            try:
                output = self.feed(rows)
                watch(None, None, output, outputs)
                narrow = self.taps[OUTPUT].maps(output, self._image_hw).float()
            except Exception:  # a branch of three rows met one of two
                return False
        if whole is None or len(narrow) != 2:
            return False
        scale = whole.abs().max().clamp_min(1e-6)
        return bool(((narrow - whole[:2]).abs().max() / scale) < 1e-3)

    def _output(self, rows: torch.Tensor) -> torch.Tensor | None:
        tap = self.taps.get(OUTPUT)
        return None if tap is None else tap.maps(self.feed(rows), self._image_hw).float()


def _behind(work: _Work, rows: BatchRows) -> Callable[[Any, Any, Any], Any]:
    """Return the forward hook of a module; its output is replaced where something is changed."""
    n_calls = 0

    def hook(module: Any, inputs: Any, output: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls < work.tap.recorded.n_calls:
            return None
        new = _done(work, output, rows)
        alone = bool(work.edits) and work.sources is None and work.keep is None
        if alone and getattr(module, "inplace", False) and inputs and output is inputs[0]:
            # Its caller may go on with the tensor that it gave, and drop what it got.
            return output.copy_(new)
        return new

    return hook


def _before(work: _Work, rows: BatchRows) -> Callable[[Any, Any, Any], Any]:
    """Return the same for a module's arguments, by number or by keyword."""
    n_calls, by_keyword = 0, isinstance(work.tap.recorded.path[0], str)

    def hook(_module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls < work.tap.recorded.n_calls:
            return None
        new = _done(work, keywords if by_keyword else arguments, rows)
        if new is None:
            return None
        return (arguments, new) if by_keyword else (new, keywords)

    return hook


def _done(work: _Work, output: Any, rows: BatchRows) -> Any:
    """Do the work of a hook; return the output if it was changed, else None."""
    if work.sources is not None or work.edits or work.turns:
        work.tap.maps_of(output, rows)  # checks the number of rows: they are told apart by position
    if work.sources is not None:
        output = output[list(work.sources)]
        rows.n = rows.whole = len(work.sources)
    for change in work.turns:
        change.note(output, rows)
    for path in dict.fromkeys(tap.recorded.path for tap, _ in work.edits):
        here = [(tap, edit) for tap, edit in work.edits if tap.recorded.path == path]
        output = here[0][0].edited(output, rows.image_hw, [(tap.layout, edit) for tap, edit in here])
    for tap, read in work.reads:
        read(tap.maps_of(output, rows))
    if work.stop:
        raise StopForward
    if work.keep is not None:
        rows.n = work.keep
        return output[: work.keep]
    return None if work.sources is None and not work.edits else output
