"""Taps: reading any module's output during one forward pass that goes no deeper than it must.

One recorded pass over a small batch finds every module's place in the order, its shape, and which axis holds
its units. Outputs are then read inside forward hooks, where an in-place operation that follows cannot
have changed them yet, and reduced there, so that no large map outlives its layer.

Shapes: N images; C units of a layer; T tokens; h x w positions.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from actors.errors import BackendError, UsageError
from actors.vision.readout.base import LayerInfo, Scores
from actors.vision.readout.edits import RowEdit, edited
from actors.vision.readout.layout import Layout, Open, decide, hypotheses, relates_tokens, speaks_against
from actors.vision.readout.places import PositionEvidence, coded_images, codes
from actors.vision.readout.units import OUTPUT

if TYPE_CHECKING:
    import torch

_SAME_AS_INPUT = ("Identity", "Dropout", "Dropout2d", "DropPath", "StochasticDepth")
_SQUASHING = ("Sigmoid", "Softmax")
"""Last modules of networks that return probabilities."""
_ATTENTION = ("Softmax",)
"""Modules whose (N, heads, T, T) outputs are weights between tokens, not maps over the image."""

_COARSE_BITS = 2
"""Bits of a row's and of a column's number that tell raster order from others."""

Read = Callable[["torch.Tensor"], None]


class OutputChangedError(RuntimeError):
    """A module gave other images' or units' worth of output than it was given or recorded with."""


class _Stop(BaseException):
    """Ends a forward pass early. Not an Exception, so that no network's own `except` swallows it."""


@dataclass(frozen=True, slots=True)
class _RecordedOutput:
    """A tensor of a module's last output in the recorded pass: where in the pass, which call, where in the
    output.
    """

    module: str
    place: int
    calls: int
    pick: int | str | None
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tap:
    """A tensor of a module's output, and how to see it as (N, C, h, w).

    `place` is the position of its last call among all calls of the pass, `calls` the number of its
    calls; `pick` finds the tensor in a tuple or dictionary.
    """

    info: LayerInfo
    module: str
    place: int
    calls: int
    pick: int | str | None
    layout: Layout
    n_positions: int

    def maps(self, output: Any, image_hw: tuple[int, int]) -> torch.Tensor:
        """Return the output for images of `image_hw` as a view (N, C, h, w); prefix tokens are dropped."""
        return self.layout.maps(output if self.pick is None else output[self.pick], image_hw)

    def edited(self, output: Any, image_hw: tuple[int, int], edits: Sequence[RowEdit]) -> Any:
        """Return the module's output with some rows edited, in containers of its own."""
        if self.pick is None:
            return edited(output, self.layout, image_hw, edits)
        tensor = edited(output[self.pick], self.layout, image_hw, edits)
        if isinstance(output, tuple):
            parts = [tensor if place == self.pick else part for place, part in enumerate(output)]
            return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
        container = copy.copy(output)
        container[self.pick] = tensor
        return container

    def maps_of(self, output: Any, rows: _Rows) -> torch.Tensor:
        """Return `maps`, once it is sure that they are of as many images and units as they should be.

        Results are told apart by position alone: one row less, and each would be another image's.

        Raises:
            OutputChangedError: If they are not.
        """
        maps = self.maps(output, rows.image_hw)
        if maps.shape[0] not in (rows.n, rows.whole) or maps.shape[1] != self.info.n_units:
            raise OutputChangedError(
                f"{self.info.name!r} gave {maps.shape[1]} units of {maps.shape[0]} images, and has {self.info.n_units} "
                f"of {rows.n}"
            )
        return maps


@dataclass
class _Rows:
    """How many images, of `image_hw`, are still on their way through a pass.

    Of a branch beside the trunk, such as another head, the `whole` batch is: it is not narrowed.
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


class TappedModule:
    """A network whose modules can be read by name. Not thread-safe: hooks belong to the modules."""

    def __init__(
        self,
        module: torch.nn.Module,
        example: torch.Tensor,
        feed: Callable[[torch.Tensor], Any] | None = None,
        prefix_tokens: int | None = None,
        scores: Scores | None = None,
    ) -> None:
        """Record one pass over `example`, a batch (2, 3, h, w). `scores` is what the output is, None to find
        it out.

        Raises:
            BackendError: If the module fails on it.
        """
        import torch

        # Its fused path skips the submodules, and with them their hooks.
        torch.backends.mha.set_fastpath_enabled(False)
        self.module = module
        self.feed = feed or module
        # TorchScript runs its modules itself, and no hook in them: of such a network the output can be read.
        modules = module.named_modules()
        self._modules = {
            name: submodule
            for name, submodule in modules
            if not isinstance(submodule, torch.jit.ScriptModule)
        }
        self._input = tuple(example.shape)
        self._image_hw = (example.shape[2], example.shape[3])
        self._narrows: dict[str, bool] = {}
        self._like = example
        self.unreadable: dict[str, str] = {}
        """Modules whose output has no units that can be told, with the reason."""
        self.taps = self._record(example, prefix_tokens, scores)

    def _record(
        self, example: torch.Tensor, prefix_tokens: int | None, scores: Scores | None
    ) -> dict[str, Tap]:
        seen, output, last = self._observe(example)
        may_be = self._hypotheses(seen, prefix_tokens)
        evidence = self._evidence(seen, may_be, example)
        layouts = decide(
            {
                name: Open(seen[name].shape, [(one, evidence.get((name, one))) for one in layouts])
                for name, layouts in may_be.items()
                if name not in self.unreadable
            }
        )
        taps: dict[str, Tap] = {}
        for name, recorded in seen.items():
            kind = type(self._module(recorded)).__name__
            if len(recorded.shape) <= 2:
                info = LayerInfo(name, "vector", math.prod(recorded.shape[1:]), (), kind)
                layout = Layout(False, False, (1, 1), self._image_hw, certain=True)
            elif name in layouts:
                layout = layouts[name]
                n_units = recorded.shape[-1] if layout.units_last else recorded.shape[1]
                of_map = len(recorded.shape) == 4 and layout.grid is not None
                info = LayerInfo(name, "map" if of_map else "tokens", n_units, layout.grid or (), kind)
            else:
                self.unreadable.setdefault(
                    name,
                    f"its output has shape {recorded.shape[1:]} per image, with no units that can be told",
                )
                continue
            taps[name] = Tap(
                info,
                recorded.module,
                recorded.place,
                recorded.calls,
                recorded.pick,
                layout,
                layout.n_positions(recorded.shape),
            )
        if (tap := taps.get(OUTPUT)) is not None and tap.info.kind == "vector":
            assert output is not None
            output_scores = scores or scores_of(output.reshape(len(output), -1), last)
            taps[OUTPUT] = replace(tap, info=replace(tap.info, scores=output_scores))
        return taps

    def _module(self, seen: _RecordedOutput) -> torch.nn.Module:
        return self.module if seen.module == OUTPUT else self._modules[seen.module]

    def _observe(self, example: torch.Tensor) -> tuple[dict[str, _RecordedOutput], torch.Tensor | None, str]:
        """Return what each module gave that can be read, in the order of the pass, the network's first such
        tensor, and the class of the last module.

        Of several tensors the first goes by the module's name, the others by `NAME[KEY]`.
        """
        import torch

        last_calls: dict[str, tuple[int, int, list[tuple[int | str | None, Any]] | str]] = {}
        clock, last = 0, ""

        def observe(name: str) -> Callable[[Any, Any, Any], None]:
            def hook(module: Any, _inputs: Any, output: Any) -> None:
                nonlocal clock, last
                calls = last_calls[name][1] + 1 if name in last_calls else 1
                last_calls[name] = clock, calls, _tensors(output, len(example))
                clock += 1
                kind = type(module).__name__
                if next(module.children(), None) is None and kind not in _SAME_AS_INPUT:
                    last = kind

            return hook

        with ExitStack() as hooks, torch.inference_mode():
            for name, module in self._modules.items():
                if name:
                    hooks.callback(module.register_forward_hook(observe(name)).remove)
            try:
                output = self.feed(example)
            except UsageError:
                raise
            except BaseException as error:  # some networks even end the process
                raise BackendError(
                    f"the network fails on an input of shape {tuple(example.shape)}: "
                    f"{type(error).__name__}: {str(error)[:300]}",
                    "It is called with a batch of images and nothing else: check its input size and preprocessing, and "
                    "vision.dtype.",
                ) from error
        last_calls[OUTPUT] = clock, 1, _tensors(output, len(example), least_axes=1)
        seen: dict[str, _RecordedOutput] = {}
        for module_name, (place, calls, tensors) in sorted(last_calls.items(), key=lambda item: item[1][0]):
            if isinstance(tensors, str):
                self.unreadable[module_name] = tensors
                continue
            for pick, tensor in tensors:
                name = module_name if tensor is tensors[0][1] else f"{module_name}[{pick}]"
                seen[name] = _RecordedOutput(module_name, place, calls, pick, tuple(tensor.shape))
        self.unreadable |= {
            name: _why_silent(name, module)
            for name, module in self._modules.items()
            if name and name not in last_calls
        }
        given = last_calls[OUTPUT][2]
        return seen, None if isinstance(given, str) else given[0][1], last

    def _hypotheses(
        self, seen: Mapping[str, _RecordedOutput], prefix_tokens: int | None
    ) -> dict[str, list[Layout]]:
        """Return the layouts that each output of three or four axes may have."""
        import torch

        grids: list[tuple[int, int]] = []
        may_be: dict[str, list[Layout]] = {}
        n_tokens = 0
        for name, recorded in seen.items():
            if len(recorded.shape) not in (3, 4):
                continue
            module = self._module(recorded)
            weights = isinstance(module, torch.nn.MultiheadAttention) and recorded.pick == 1
            if len(recorded.shape) == 4:
                weights = type(module).__name__ in _ATTENTION or relates_tokens(
                    module, recorded.shape, n_tokens, grids
                )
            if weights:
                self.unreadable[name] = "its output relates tokens to each other: it is no map over the image"
                continue
            if len(recorded.shape) == 3:
                n_tokens = recorded.shape[1]
            may_be[name] = hypotheses(module, recorded.shape, self._image_hw, grids, prefix_tokens)
            if isinstance(module, torch.nn.Conv2d) and recorded.shape[2:] != (1, 1):
                grids.append((recorded.shape[2], recorded.shape[3]))
        return may_be

    def _evidence(
        self,
        seen: Mapping[str, _RecordedOutput],
        may_be: Mapping[str, Sequence[Layout]],
        example: torch.Tensor,
    ) -> dict[tuple[str, Layout], PositionEvidence]:
        """Return what the positions of open outputs spelled; nothing of images on which the network fails."""
        import torch

        asked: dict[tuple[int, int], dict[str, list[Layout]]] = {}
        for name, layouts in may_be.items():
            for layout in layouts:
                if not layout.certain and layout.grid is not None:
                    asked.setdefault(layout.grid, {}).setdefault(name, []).append(layout)
        # Grids that halve each other have the same coarse images, and share a pass.
        passes: list[tuple[torch.Tensor, dict[str, list[Layout]]]] = []
        for grid, outputs in asked.items():
            batch = coded_images(grid, example, _COARSE_BITS)
            shared = next((both for images, both in passes if torch.equal(images, batch)), None)
            if shared is None:
                passes.append((batch, shared := {}))
            for name, layouts in outputs.items():
                shared.setdefault(name, []).extend(layouts)
        coarse: dict[tuple[str, Layout], PositionEvidence] = {}
        for batch, outputs in passes:
            coarse |= self._spelled(seen, outputs, batch, _COARSE_BITS)
        evidence = dict(coarse)
        for grid, outputs in asked.items():
            # The coarsest bits tell whether the order is the usual one; only another takes all of them.
            keys = [(name, layout) for name, layouts in outputs.items() for layout in layouts]
            if any(key in coarse and speaks_against(key[1], coarse[key]) for key in keys):
                whole = self._spelled(seen, outputs, coded_images(grid, example), None)
                # An order that is another in each pass is none.
                evidence |= {
                    key: spelled for key, spelled in whole.items() if spelled.repeats(coarse.get(key))
                }
        return evidence

    def _spelled(
        self,
        seen: Mapping[str, _RecordedOutput],
        outputs: Mapping[str, Sequence[Layout]],
        batch: torch.Tensor,
        most: int | None,
    ) -> dict[tuple[str, Layout], PositionEvidence]:
        """Return what positions spelled when shown `batch`, the `coded_images` of the grids of these layouts."""
        import torch

        evidence: dict[tuple[str, Layout], PositionEvidence] = {}
        last = max(outputs, key=lambda name: seen[name].place)

        def observe(name: str) -> Callable[[Any, Any, Any], None]:
            calls = 0

            def hook(_module: Any, _inputs: Any, output: Any) -> None:
                nonlocal calls
                calls += 1
                if calls < seen[name].calls:
                    return
                tensor = output if seen[name].pick is None else output[seen[name].pick]
                if len(tensor) != len(batch):
                    self.unreadable[name] = "its rows are not one per image"
                    return
                for layout in outputs[name]:
                    assert layout.grid is not None
                    evidence[name, layout] = PositionEvidence.of(
                        layout.sequence(tensor), codes(layout.grid, most)
                    )
                if name == last:
                    raise _Stop

            return hook

        with ExitStack() as hooks, torch.inference_mode(), suppress(_Stop, Exception):
            # The deepest comes last: it ends the pass, and others may be of the same module.
            for name in sorted(outputs, key=lambda name: name == last):
                if seen[name].module != OUTPUT:
                    module = self._modules[seen[name].module]
                    hooks.callback(module.register_forward_hook(observe(name)).remove)
            output = self.feed(batch)
            for name in outputs:
                if seen[name].module == OUTPUT:
                    observe(name)(None, None, output)
        return evidence

    def layers(self) -> list[LayerInfo]:
        """Return the layers in the order of the pass, without those that only pass their input on."""
        return [tap.info for tap in self.taps.values() if tap.info.module not in _SAME_AS_INPUT]

    def deepest(self, layers: Sequence[str]) -> str:
        return max(layers, key=lambda layer: self.taps[layer].place)

    def is_placed(self, layer: str, n_positions: int, image_hw: tuple[int, int]) -> bool:
        """Say whether it is known where in images of `image_hw` the `n_positions` of a layer lie."""
        return self.taps[layer].layout.grid_at(n_positions, image_hw) is not None

    def depth(self, layer: str) -> float:
        """Return how far into the pass a layer is, in 0..1."""
        return self.taps[layer].place / max(1, self.taps[OUTPUT].place if OUTPUT in self.taps else 1)

    def works(self) -> bool:
        """Say whether the module still runs on the input that it was recorded with. Call in inference mode."""
        try:
            self.feed(self._like)
        except BaseException:  # whatever a module or a device raises
            return False
        return True

    def is_steady(self) -> bool:
        """Say whether an image's values are its own: the same in other company, and each time. Call in
        inference mode.

        They are not where dropout is left on, or a normalisation is over the batch.
        """
        import torch

        if not self.taps:
            return True
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn((3, *self._input[1:]), generator=generator).to(self._like)
        outputs: list[torch.Tensor] = []
        last = max(self.taps.values(), key=lambda tap: tap.place)
        for pair in (rows[:2], rows[1:]):
            try:
                self.run(pair, {last.info.name: lambda maps: outputs.append(maps.float().clone())})
            except Exception:  # what a network fails on is told when it is shown
                return True
        one, other = outputs[0][1], outputs[1][0]
        # Half precisions round by up to a hundredth of what they add up.
        tolerance = 1e-3 if self._like.dtype.itemsize >= 4 else 5e-2
        return not bool((one - other).abs().max() > tolerance * one.abs().max())

    def run(
        self,
        batch: torch.Tensor,
        reads: Mapping[str, Read],
        wanted: Sequence[str] | None = None,
        edits: Mapping[str, Sequence[RowEdit]] = MappingProxyType({}),
    ) -> None:
        """Run `batch` as far as the deepest of `reads`, and call each with its layer's maps (n, C, h, w).

        `wanted` names the deepest layer that each row needs, deepest rows first; rows that need no more leave
        the pass where that changes nothing for the others, so a read may get only the first n rows. `edits` are
        made in rows of these layers, none deeper than the last read, and before it is read.
        Call in inference mode.
        """
        deepest = self.deepest(list(reads))
        exits = self._exits(wanted, deepest) if wanted else {}
        rows = _Rows(len(batch), len(batch), (batch.shape[2], batch.shape[3]))
        with ExitStack() as hooks:
            # The deepest comes last: it ends the pass, and others may be of the same module.
            for layer in sorted(
                {*reads, *exits, *edits}, key=lambda layer: (layer == deepest, layer not in edits)
            ):
                hook = self._hook(
                    layer, reads.get(layer), exits.get(layer), layer == deepest, rows, edits.get(layer, ())
                )
                if (module := self.taps[layer].module) != OUTPUT:
                    hooks.callback(self._modules[module].register_forward_hook(hook).remove)
            try:
                output = self.feed(batch)
            except _Stop:
                return
            except Exception:
                raise
            except BaseException as error:  # some networks even end the process
                raise RuntimeError(f"it raised {error!r}") from error
            self._read_output(output, reads, rows)

    def run_through(self, batch: torch.Tensor, reads: Mapping[str, Read]) -> None:
        """Do what `run` does without leaving the pass early, in a form that `torch.compile` traces."""
        handles = []
        rows = _Rows(len(batch), len(batch), (batch.shape[2], batch.shape[3]))
        for layer, read in reads.items():
            if (module := self.taps[layer].module) != OUTPUT:
                hook = self._hook(layer, read, None, False, rows)
                handles.append(self._modules[module].register_forward_hook(hook))
        try:
            output = self.feed(batch)
        finally:
            for handle in handles:
                handle.remove()
        self._read_output(output, reads, rows)

    def _read_output(self, output: Any, reads: Mapping[str, Read], rows: _Rows) -> None:
        for layer, read in reads.items():
            if self.taps[layer].module == OUTPUT:
                read(self.taps[layer].maps_of(output, rows))

    def _hook(
        self,
        layer: str,
        read: Read | None,
        keep: int | None,
        stop: bool,
        rows: _Rows,
        edits: Sequence[RowEdit] = (),
    ) -> Callable[[Any, Any, Any], Any]:
        tap = self.taps[layer]
        calls = 0

        def hook(_module: Any, _inputs: Any, output: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls < tap.calls:
                return None
            if edits:
                tap.maps_of(output, rows)  # rows are told apart by position: their number must be right
                output = tap.edited(output, rows.image_hw, edits)
            if read is not None:
                read(tap.maps_of(output, rows))
            if stop:
                raise _Stop
            if keep is None:
                return output if edits else None
            rows.n = keep
            return output[:keep]

        return hook

    def _exits(self, wanted: Sequence[str], deepest: str) -> dict[str, int]:
        """Return where how many rows go on: the nearest sound place after each layer that some rows end at."""
        places = [self.taps[layer].place for layer in wanted]
        exits: dict[str, int] = {}
        for layer in set(wanted):
            place = self.taps[layer].place
            keep = sum(other > place for other in places)
            if keep == 0 or keep == len(wanted):
                continue
            exit_layer = self._exit_after(layer, self.taps[deepest].place)
            if exit_layer is not None:
                # Rows between this layer and its exit still need what lies between.
                exit_place = self.taps[exit_layer].place
                keep = sum(other > exit_place for other in places)
                if keep > 0:
                    exits[exit_layer] = keep
        return exits

    def _exit_after(self, layer: str, limit: int) -> str | None:
        name = layer
        while name:
            tap = self.taps.get(name)
            if tap is not None and tap.place < limit and self._is_trunk(name):
                return name
            name = name.rpartition(".")[0]
        return None

    def _is_trunk(self, layer: str) -> bool:
        """Say whether everything deeper depends on this output alone, row by row; tried out once per layer."""
        if layer not in self._narrows:
            self._narrows[layer] = self._try_narrowing(layer)
        return self._narrows[layer]

    def _try_narrowing(self, layer: str) -> bool:
        import torch

        tap = self.taps[layer]
        if tap.pick is not None or tap.calls != 1:
            return False
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn((3, *self._input[1:]), generator=generator).to(self._like)
        whole, narrow = self._output(rows), None
        handle = self._modules[tap.module].register_forward_hook(lambda _module, _inputs, output: output[:2])
        try:
            narrow = self._output(rows)
        except (
            Exception
        ):  # a branch of three rows met one of two: whatever the network raises, it is no trunk
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


def scores_of(output: torch.Tensor, last: str = "") -> Scores:
    """Return what a network's output (N, C) is, from its values and the class of the module that ran `last`.

    What sums to 1 over the classes, and what a sigmoid has made, are probabilities; a single other column is
    the logit of its class; all else are the logits of classes that exclude each other. Sigmoids of more
    classes outside a module look like logits: their network must say so (`wrap`).
    """
    values = output.float()
    within = bool(((values >= 0) & (values <= 1)).all())
    # As much as rounding may take from a sum; half precisions round a thousand times more.
    tolerance = 1e-4 if output.dtype.itemsize >= 4 else 1e-2
    sums_to_one = bool(((values.sum(1) - 1).abs() < tolerance).all())
    if within and (last in _SQUASHING or sums_to_one):
        return "probabilities"
    return "sigmoid" if values.shape[1] == 1 else "softmax"


def _tensors(
    output: Any, n_images: int, least_axes: int = 2
) -> list[tuple[int | str | None, torch.Tensor]] | str:
    """Return the tensors with a row per image in `output` and where in it they are, or why there are none.

    One number an image, a single axis, is taken only where nothing has more and `least_axes` is 1.
    """
    import torch

    candidates: list[tuple[int | str | None, Any]]
    if isinstance(output, torch.Tensor):
        candidates = [(None, output)]
    elif isinstance(output, Mapping):
        candidates = list(output.items())
    elif isinstance(output, (tuple, list)):
        candidates = list(enumerate(output))
    else:
        return f"it returns a {type(output).__name__}, not a tensor"
    of_images = [
        (pick, value)
        for pick, value in candidates
        if _is_read(value) and value.ndim and len(value) == n_images
    ]
    for least in range(2, least_axes - 1, -1):
        if tensors := [(pick, tensor) for pick, tensor in of_images if tensor.ndim >= least]:
            return tensors
    kinds = [str(tensor.dtype) for _, tensor in candidates if isinstance(tensor, torch.Tensor)]
    if kinds and not any(_is_read(tensor) for _, tensor in candidates):
        return f"it returns no dense tensor of real numbers ({', '.join(kinds)})"
    if any(isinstance(value, Mapping) and "scores" in value for _, value in candidates):
        return "it returns the boxes of a detector; wrap(module, detects=N) gives the best score of each of its N classes"
    shapes = [tuple(tensor.shape) for _, tensor in candidates if isinstance(tensor, torch.Tensor)]
    return f"no tensor that it returns has one row per image (for {n_images} images: {shapes})"


def _why_silent(name: str, module: torch.nn.Module) -> str:
    """Return why a module gave nothing in a pass."""
    parts = [f"{name}.{part}" for part, _ in module.named_children()]
    if parts:
        return f"it is not called as a whole in a pass: name one of its parts, such as {parts[-1]!r}"
    return "it is not called in a pass"


def _is_read(value: Any) -> bool:
    """Say whether this is a tensor whose values activations can be."""
    import torch

    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.layout == torch.strided
