"""Taps: reading any module's output during one forward pass that goes no deeper than it must.

One recorded pass over a small batch finds every module's place in the order, its shape, and which axis holds
its units. Outputs are then read inside forward hooks, where an in-place operation that follows cannot
have changed them yet, and reduced there, so that no large map outlives its layer.

Shapes: N images; C units of a layer; T tokens; h x w positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from actors.errors import BackendError
from actors.vision.base import LayerInfo, Scores
from actors.vision.units import OUTPUT

if TYPE_CHECKING:
    import torch

_MAX_PREFIX = 32
"""More tokens than these before the patches are taken for no patch grid at all."""

_SAME_AS_INPUT = ("Identity", "Dropout", "Dropout2d", "DropPath", "StochasticDepth")
_SQUASHING = ("Sigmoid", "Softmax")
"""Last modules of networks that return probabilities."""
_ATTENTION = ("Softmax",)
"""Modules whose (N, heads, T, T) outputs are weights between tokens, not maps over the image."""

Read = Callable[["torch.Tensor"], None]


class OutputChangedError(RuntimeError):
    """A module gave other images' or units' worth of output than it was given or recorded with."""


class _Stop(BaseException):
    """Ends a forward pass early. Not an Exception, so that no network's own `except` swallows it."""


@dataclass(frozen=True, slots=True)
class Tap:
    """A module's output, and how to see it as (N, C, h, w).

    `place` is the position of its last call among all calls of the pass, `calls` the number of its
    calls; `pick` finds the tensor in a tuple or dictionary; `channels_last` says where the units are.
    """

    info: LayerInfo
    place: int
    calls: int
    pick: int | str | None
    channels_last: bool
    prefix: int
    grid: tuple[int, int]

    def maps(self, output: Any) -> torch.Tensor:
        """Return the output as a view (N, C, h, w); prefix tokens are dropped."""
        tensor: torch.Tensor = output if self.pick is None else output[self.pick]
        if tensor.ndim == 4:
            return tensor.permute(0, 3, 1, 2) if self.channels_last else tensor
        if tensor.ndim == 3:
            tokens = tensor if self.channels_last else tensor.transpose(1, 2)
            patches = tokens[:, self.prefix :].transpose(1, 2)
            return patches.unflatten(2, self.grid)
        # A network may return one number an image, (N,).
        return (tensor if tensor.ndim == 2 else tensor[:, None])[:, :, None, None]

    def maps_of(self, output: Any, rows: _Rows) -> torch.Tensor:
        """Return `maps`, once it is sure that they are of as many images and units as they should be.

        Results are told apart by position alone: one row less, and each would be another image's.

        Raises:
            OutputChangedError: If they are not.
        """
        maps = self.maps(output)
        if maps.shape[0] not in (rows.n, rows.whole) or maps.shape[1] != self.info.n_units:
            raise OutputChangedError(
                f"{self.info.name!r} gave {maps.shape[1]} units of {maps.shape[0]} images, and has {self.info.n_units} "
                f"of {rows.n}"
            )
        return maps


@dataclass
class _Rows:
    """How many images are still on their way through a pass.

    Of a branch beside the trunk, such as another head, the `whole` batch is: it is not narrowed.
    """

    whole: int
    n: int


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
        """Record one pass over `example`, a batch (2, 3, h, w). `scores` is what the output is, None to find it out.

        Raises:
            BackendError: If the module fails on it.
        """
        import torch

        # Its fused path skips the submodules, and with them their hooks.
        torch.backends.mha.set_fastpath_enabled(False)
        self.module = module
        self._feed = feed or module
        # TorchScript runs its modules itself, and no hook in them: of such a network the output can be read.
        modules = module.named_modules()
        self._modules = {name: each for name, each in modules if not isinstance(each, torch.jit.ScriptModule)}
        self._input = tuple(example.shape)
        self._narrows: dict[str, bool] = {}
        self._like = example
        self.unreadable: dict[str, str] = {}
        """Modules whose output has no units that can be told, with the reason."""
        self.taps = self._record(example, prefix_tokens, scores)

    def _record(
        self, example: torch.Tensor, prefix_tokens: int | None, scores: Scores | None
    ) -> dict[str, Tap]:
        import torch

        seen: dict[str, tuple[int, int, Any]] = {}
        last_channels_last: list[tuple[tuple[int, ...], bool]] = []
        clock, last = 0, ""

        def observe(name: str) -> Callable[[Any, Any, Any], None]:
            def hook(module: Any, _inputs: Any, output: Any) -> None:
                nonlocal clock, last
                calls = seen[name][1] + 1 if name in seen else 1
                seen[name] = (clock, calls, _shape_of(output, len(example)))
                clock += 1
                kind = type(module).__name__
                if next(module.children(), None) is None and kind not in _SAME_AS_INPUT:
                    last = kind

            return hook

        with ExitStack() as hooks, torch.inference_mode():
            for name, module in self._modules.items():
                hooks.callback(module.register_forward_hook(observe(name)).remove)
            try:
                output = self._feed(example)
            except BaseException as error:  # some networks even end the process
                raise BackendError(
                    f"the network fails on an input of shape {tuple(example.shape)}: "
                    f"{type(error).__name__}: {str(error)[:300]}",
                    "It is called with a batch of images and nothing else: check its input size and preprocessing, and "
                    "vision.dtype.",
                ) from error
        seen.pop("", None)
        seen[OUTPUT] = (clock, 1, _shape_of(output, len(example), least_axes=1))

        taps: dict[str, Tap] = {}
        grids: list[tuple[int, int]] = []
        for name, (place, calls, found) in sorted(seen.items(), key=lambda item: item[1][0]):
            module = self.module if name == OUTPUT else self._modules.get(name)
            kind_name = type(module).__name__
            if isinstance(found, str):
                self.unreadable[name] = found
                continue
            if kind_name in _ATTENTION and len(found[1]) == 4:
                self.unreadable[name] = "its output relates tokens to each other: it is no map over the image"
                continue
            pick, shape = found
            tap = self._tap(
                name, kind_name, module, place, calls, pick, shape, grids, last_channels_last, prefix_tokens
            )
            if tap is None:
                self.unreadable[name] = (
                    f"its output has shape {shape[1:]} per image, with no units that can be told"
                )
                continue
            if isinstance(module, torch.nn.Conv2d) and tap.grid != (1, 1):
                grids.append(tap.grid)
            last_channels_last.append((shape, tap.channels_last))
            taps[name] = tap
        if (tap := taps.get(OUTPUT)) is not None and tap.info.kind == "vector":
            found_scores = scores or scores_of(tap.maps(output)[:, :, 0, 0], last)
            taps[OUTPUT] = replace(tap, info=replace(tap.info, scores=found_scores))
        return taps

    def _tap(
        self,
        name: str,
        kind_name: str,
        module: torch.nn.Module | None,
        place: int,
        calls: int,
        pick: int | str | None,
        shape: tuple[int, ...],
        grids: Sequence[tuple[int, int]],
        earlier: Sequence[tuple[tuple[int, ...], bool]],
        prefix_tokens: int | None,
    ) -> Tap | None:
        image_hw = self._input[2:]
        if len(shape) <= 2:
            info = LayerInfo(name, "vector", math.prod(shape[1:]), (), kind_name)
            return Tap(info, place, calls, pick, False, 0, (1, 1))
        if len(shape) == 3:
            last = _units_last(module)
            last = True if last is None else last
            n_tokens, n_units = (shape[1], shape[2]) if last else (shape[2], shape[1])
            prefix, grid = _patch_grid(n_tokens, image_hw, grids, prefix_tokens)
            return Tap(
                LayerInfo(name, "tokens", n_units, grid, kind_name), place, calls, pick, last, prefix, grid
            )
        if len(shape) == 4:
            last = _map_units_last(module, shape, image_hw, earlier)
            grid = (shape[1], shape[2]) if last else (shape[2], shape[3])
            n_units = shape[3] if last else shape[1]
            return Tap(LayerInfo(name, "map", n_units, grid, kind_name), place, calls, pick, last, 0, grid)
        return None

    def layers(self) -> list[LayerInfo]:
        """Return the layers in the order of the pass, without those that only pass their input on."""
        return [tap.info for tap in self.taps.values() if tap.info.module not in _SAME_AS_INPUT]

    def deepest(self, layers: Sequence[str]) -> str:
        return max(layers, key=lambda layer: self.taps[layer].place)

    def depth(self, layer: str) -> float:
        """Return how far into the pass a layer is, in 0..1."""
        return self.taps[layer].place / max(1, self.taps[OUTPUT].place if OUTPUT in self.taps else 1)

    def works(self) -> bool:
        """Say whether the module still runs on the input that it was recorded with. Call in inference mode."""
        try:
            self._feed(self._like)
        except BaseException:  # whatever a module or a device raises
            return False
        return True

    def is_steady(self) -> bool:
        """Say whether an image's values are its own: the same in other company, and each time. Call in inference mode.

        They are not where dropout is left on, or a normalisation is over the batch.
        """
        import torch

        if not self.taps:
            return True
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn((3, *self._input[1:]), generator=generator).to(self._like)
        found: list[torch.Tensor] = []
        last = max(self.taps.values(), key=lambda tap: tap.place)
        for pair in (rows[:2], rows[1:]):
            try:
                self.run(pair, {last.info.name: lambda maps: found.append(maps.float().clone())})
            except Exception:  # what a network fails on is told when it is shown
                return True
        one, other = found[0][1], found[1][0]
        # Half precisions round by up to a hundredth of what they add up.
        tolerance = 1e-3 if self._like.dtype.itemsize >= 4 else 5e-2
        return not bool((one - other).abs().max() > tolerance * one.abs().max())

    def run(
        self, batch: torch.Tensor, reads: Mapping[str, Read], wanted: Sequence[str] | None = None
    ) -> None:
        """Run `batch` as far as the deepest of `reads`, and call each with its layer's maps (n, C, h, w).

        `wanted` names the deepest layer that each row needs, deepest rows first; rows that need no more leave
        the pass where that changes nothing for the others, so a read may get only the first n rows.
        Call in inference mode.
        """
        deepest = self.deepest(list(reads))
        exits = self._exits(wanted, deepest) if wanted else {}
        rows = _Rows(len(batch), len(batch))
        with ExitStack() as hooks:
            for layer in {*reads, *exits}:
                hook = self._hook(layer, reads.get(layer), exits.get(layer), layer == deepest, rows)
                if layer != OUTPUT:
                    hooks.callback(self._modules[layer].register_forward_hook(hook).remove)
            try:
                output = self._feed(batch)
            except _Stop:
                return
            except Exception:
                raise
            except BaseException as error:  # some networks even end the process
                raise RuntimeError(f"it raised {error!r}") from error
            if OUTPUT in reads:
                reads[OUTPUT](self.taps[OUTPUT].maps_of(output, rows))

    def run_through(self, batch: torch.Tensor, reads: Mapping[str, Read]) -> None:
        """Do what `run` does without leaving the pass early, in a form that `torch.compile` traces."""
        handles = []
        rows = _Rows(len(batch), len(batch))
        for layer, read in reads.items():
            if layer != OUTPUT:
                hook = self._hook(layer, read, None, False, rows)
                handles.append(self._modules[layer].register_forward_hook(hook))
        try:
            output = self._feed(batch)
        finally:
            for handle in handles:
                handle.remove()
        if OUTPUT in reads:
            reads[OUTPUT](self.taps[OUTPUT].maps_of(output, rows))

    def _hook(
        self, layer: str, read: Read | None, keep: int | None, stop: bool, rows: _Rows
    ) -> Callable[[Any, Any, Any], Any]:
        tap = self.taps[layer]
        calls = 0

        def hook(_module: Any, _inputs: Any, output: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls < tap.calls:
                return None
            if read is not None:
                read(tap.maps_of(output, rows))
            if stop:
                raise _Stop
            if keep is None:
                return None
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
        handle = self._modules[layer].register_forward_hook(lambda _module, _inputs, output: output[:2])
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
        return None if tap is None else tap.maps(self._feed(rows)).float()


def scores_of(output: torch.Tensor, last: str = "") -> Scores:
    """Return what a network's output (N, C) is, from its values and the class of the module that ran `last`.

    What sums to 1 over the classes, and what a sigmoid has made, are probabilities; a single other column is the logit of
    its class; all else are the logits of classes that exclude each other. Sigmoids of more classes outside a module
    look like logits: their network must say so (`wrap`).
    """
    values = output.float()
    within = bool(((values >= 0) & (values <= 1)).all())
    # As much as rounding may take from a sum; half precisions round a thousand times more.
    tolerance = 1e-4 if output.dtype.itemsize >= 4 else 1e-2
    sums_to_one = bool(((values.sum(1) - 1).abs() < tolerance).all())
    if within and (last in _SQUASHING or sums_to_one):
        return "probabilities"
    return "sigmoid" if values.shape[1] == 1 else "softmax"


def _shape_of(
    output: Any, n_images: int, least_axes: int = 2
) -> tuple[int | str | None, tuple[int, ...]] | str:
    """Return where in `output` the first tensor with a row per image is and its shape, or why there is none.

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
    for least in range(2, least_axes - 1, -1):
        for pick, tensor in candidates:
            if _is_read(tensor) and tensor.ndim >= least and len(tensor) == n_images:
                return pick, tuple(tensor.shape)
    kinds = [str(tensor.dtype) for _, tensor in candidates if isinstance(tensor, torch.Tensor)]
    if kinds and not any(_is_read(tensor) for _, tensor in candidates):
        return f"it returns no dense tensor of real numbers ({', '.join(kinds)})"
    shapes = [tuple(tensor.shape) for _, tensor in candidates if isinstance(tensor, torch.Tensor)]
    return f"no tensor that it returns has one row per image (for {n_images} images: {shapes})"


def _is_read(value: Any) -> bool:
    """Say whether this is a tensor whose values activations can be."""
    import torch

    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.layout == torch.strided


def _units_last(module: torch.nn.Module | None) -> bool | None:
    """Return whether a module's units are on its output's last axis, None if its class does not tell."""
    import torch

    nn = torch.nn
    firsts = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)
    if isinstance(module, (*firsts, nn.InstanceNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)):
        return False
    if isinstance(module, (nn.Linear, nn.Embedding, nn.MultiheadAttention)):
        return True
    if isinstance(module, nn.LayerNorm) and not type(module).__name__.endswith("2d"):
        return True
    return None


def _map_units_last(
    module: torch.nn.Module | None,
    shape: tuple[int, ...],
    image_hw: Sequence[int],
    earlier: Sequence[tuple[tuple[int, ...], bool]],
) -> bool:
    """Return whether a 4-D output is (N, h, w, C) rather than (N, C, h, w).

    The module's class decides if it can; else the positions are the two neighbouring axes with the
    image's proportions; where both fit, it is as the last output of the same shape was.
    """
    known = _units_last(module)
    if known is not None:
        return known
    aspect = math.log(image_hw[0] / image_hw[1])
    first = abs(math.log(shape[2] / shape[3]) - aspect)
    last = abs(math.log(shape[1] / shape[2]) - aspect)
    if abs(first - last) > 1e-9:
        return last < first
    return next((known for other, known in reversed(earlier) if other == shape), False)


def _patch_grid(
    n_tokens: int, image_hw: Sequence[int], grids: Sequence[tuple[int, int]], declared: int | None
) -> tuple[int, tuple[int, int]]:
    """Return the number of prefix tokens and the patches' grid (h, w).

    The network's own word on its prefix tokens comes first; then a convolution's grid (the patch embedding's)
    with as many tokens before it as are left over; then a grid in exactly the image's proportions, then about.
    """
    if declared is not None and declared < n_tokens:
        n = n_tokens - declared
        exact = next((g for g in reversed(grids) if g[0] * g[1] == n), None)
        grid = exact or _grid_of(n, image_hw, 0.0) or _grid_of(n, image_hw, 0.25)
        if grid:
            return declared, grid
    prefixes = range(min(_MAX_PREFIX, n_tokens - 1) + 1)
    for prefix in prefixes:
        for grid in reversed(grids):
            if grid[0] * grid[1] == n_tokens - prefix:
                return prefix, grid
    for tolerance in (0.0, 0.25):
        for prefix in prefixes:
            found = _grid_of(n_tokens - prefix, image_hw, tolerance)
            if found and found != (1, 1):
                return prefix, found
    return 0, (1, n_tokens)


def _grid_of(n: int, image_hw: Sequence[int], tolerance: float) -> tuple[int, int] | None:
    """Return (h, w) with h * w = n in the image's proportions (their log-ratio within `tolerance`), or None."""
    h = round(math.sqrt(n * image_hw[0] / image_hw[1]))
    if h < 1 or n % h:
        return None
    w = n // h
    return (h, w) if abs(math.log(h * image_hw[1] / (w * image_hw[0]))) <= tolerance + 1e-9 else None
