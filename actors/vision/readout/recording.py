"""Recording of a network: its modules' outputs in one pass, and how each is viewed as maps.

Shapes: N images; C units of a layer; T tokens; h x w positions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from actors.errors import BackendError, UsageError
from actors.vision.readout.base import LayerInfo, Scores
from actors.vision.readout.containers import Path, tensors_in
from actors.vision.readout.gray_codes import PositionEvidence, gray_code_images, gray_codes
from actors.vision.readout.layout import (
    Layout,
    OutputCandidates,
    candidate_layouts,
    contradicts_raster,
    relates_tokens,
    resolve_layouts,
)
from actors.vision.readout.modules.attention import calling_projection, uncalled_projections
from actors.vision.readout.modules.followers import SAME_AS_INPUT, Followers
from actors.vision.readout.places import Places
from actors.vision.readout.tap import RecordedTensor, StopForward, Tap
from actors.vision.readout.units import OUTPUT

if TYPE_CHECKING:
    import torch

_SQUASHING = ("Sigmoid", "Softmax")
"""Last modules of networks that return probabilities."""
_ATTENTION = ("Softmax",)
"""Modules whose (N, heads, T, T) outputs are weights between tokens, not maps over the image."""
_PROJECTIONS = ("proj", "out_proj", "o_proj")
"""What libraries call an attention's output projection, which is given the heads one after another."""
_COARSE_BITS = 2
"""Bits of a row's and of a column's number that distinguish raster order from others."""


class Recorder:
    """Records one pass over `example`, a batch (2, 3, h, w), and finds the layouts of the outputs."""

    def __init__(
        self,
        module: torch.nn.Module,
        modules: Mapping[str, torch.nn.Module],
        feed: Callable[[torch.Tensor], Any],
        example: torch.Tensor,
    ) -> None:
        """`modules` are those of `module` that can have hooks, by name."""
        self._root, self._modules, self._feed, self._example = module, modules, feed, example
        self._image_hw = (example.shape[2], example.shape[3])
        self.unreadable: dict[str, str] = {}
        """The reason why a module cannot be read, by name."""
        self._inputs: dict[str, RecordedTensor] = {}
        """What modules were given, by name."""
        self._followers = Followers()

    def record(self, prefix: Sequence[str] | None, scores: Scores | None) -> dict[str, Tap]:
        """Return the taps by name, in the order of the pass; None as `scores` infers the kind of output.

        `prefix` names the tokens before the patches (`Places.prefix`); None infers their number from shapes.

        Raises:
            BackendError: If the module fails on the example.
        """
        seen, output, last = self._observe()
        candidates = self._candidate_layouts(seen, None if prefix is None else len(prefix))
        evidence = self._evidence(seen, candidates)
        layouts = resolve_layouts(
            {
                name: OutputCandidates(
                    seen[name].shape, [(one, evidence.get((name, one))) for one in layouts]
                )
                for name, layouts in candidates.items()
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
                of_pixels = len(recorded.shape) == 3 and not layout.tokens
                n_units = 1 if of_pixels else recorded.shape[-1 if layout.units_last else 1]
                of_map = of_pixels or (len(recorded.shape) == 4 and layout.grid is not None)
                info = LayerInfo(name, "map" if of_map else "tokens", n_units, layout.grid or (), kind)
            else:
                self.unreadable.setdefault(
                    name,
                    f"its output has shape {recorded.shape[1:]} per image, and no known axis of units",
                )
                continue
            behind = () if recorded.path else self._followers.chain(recorded.module)
            taps[name] = self._with_places(Tap(recorded, info, layout, behind=behind), prefix)
        if (tap := taps.get(OUTPUT)) is not None and tap.info.kind == "vector":
            assert output is not None
            output_scores = scores or scores_of(output.reshape(len(output), -1), last)
            taps[OUTPUT] = replace(tap, info=replace(tap.info, scores=output_scores))
        return taps

    def _with_places(self, tap: Tap, prefix: Sequence[str] | None) -> Tap:
        """Return a layer's tap with what else of the layer can be read."""
        recorded, layout, heads = tap.recorded, tap.layout, None
        given = self._inputs.get(recorded.module) if tap.info.name == recorded.module else None
        if given is not None and not (
            given.shape == recorded.shape or _same_positions(given.shape, recorded.shape, layout)
        ):
            given = None
        n_heads = _count_heads(self._module(recorded))
        if n_heads and len(recorded.shape) == 3 and layout.units_last:
            heads = self._heads(recorded, n_heads)
        names: tuple[str, ...] = ()
        if layout.tokens and layout.grid is not None and layout.order is None:
            # Of an inferred number of tokens, the names are not known.
            names = tuple(prefix or ()) if prefix and len(prefix) == layout.prefix else ("",) * layout.prefix
        places = Places(
            names,
            has_positions=tap.info.kind != "vector" and layout.grid is not None,
            heads=0 if heads is None else n_heads,
            head_width=0 if heads is None else heads.shape[-1] // n_heads,
            n_inputs=0 if given is None else given.shape[-1 if layout.units_last else 1],
        )
        return replace(tap, info=replace(tap.info, places=places), given=given, heads=heads)

    def _heads(self, attention: RecordedTensor, n_heads: int) -> RecordedTensor | None:
        """Return what an attention's output projection is given, None if it has none of its own."""
        for part in _PROJECTIONS:
            given = self._inputs.get(f"{attention.module}.{part}")
            if given is not None and given.shape[:2] == attention.shape[:2] and not given.shape[-1] % n_heads:
                return given
        return None

    def _module(self, seen: RecordedTensor) -> torch.nn.Module:
        return self._root if seen.module == OUTPUT else self._modules[seen.module]

    def _observe(self) -> tuple[dict[str, RecordedTensor], torch.Tensor | None, str]:
        """Return the readable outputs in the order of the pass, the network's first output tensor, and the
        class of the last module.

        Of several tensors the first is named after the module, the others `NAME[KEY]`.
        """
        import torch

        last_calls: dict[str, tuple[int, int, list[_OfImages] | str]] = {}
        clock, last = count(), ""

        def observe(name: str) -> Callable[[Any, Any, Any], None]:
            def hook(module: Any, _inputs: Any, output: Any) -> None:
                nonlocal last
                self._followers.returned(name, module, output)
                n_calls = last_calls[name][1] + 1 if name in last_calls else 1
                last_calls[name] = next(clock), n_calls, _tensors_per_image(output, len(self._example))
                kind = type(module).__name__
                if next(module.children(), None) is None and kind not in SAME_AS_INPUT:
                    last = kind

            return hook

        uncalled = uncalled_projections(self._modules)
        with ExitStack() as hooks, torch.inference_mode():
            for attention in uncalled.values():
                hooks.enter_context(calling_projection(attention))
            for name, module in self._modules.items():
                if name in uncalled:  # only its input is read: its output is the attention's
                    pre_hook = self._observe_input(name, clock)
                    hooks.callback(module.register_forward_pre_hook(pre_hook, with_kwargs=True).remove)
                elif name:
                    hooks.callback(module.register_forward_hook(observe(name)).remove)
                    pre_hook = self._observe_input(name, clock)
                    hooks.callback(module.register_forward_pre_hook(pre_hook, with_kwargs=True).remove)
            try:
                output = self._feed(self._example)
            except UsageError:
                raise
            except BaseException as error:  # some networks raise SystemExit
                raise self._failure(error) from error
        last_calls[OUTPUT] = next(clock), 1, _tensors_per_image(output, len(self._example), least_axes=1)
        seen: dict[str, RecordedTensor] = {}
        for module_name, (call_index, n_calls, tensors) in sorted(
            last_calls.items(), key=lambda item: item[1][0]
        ):
            if isinstance(tensors, str):
                self.unreadable[module_name] = tensors
                continue
            for place, (path, axis, tensor) in enumerate(tensors):
                name = module_name + "".join(f"[{key}]" for key in path if place)
                seen[name] = RecordedTensor(module_name, call_index, n_calls, path, tuple(tensor.shape), axis)
        self._drop_fixed(seen)
        self.unreadable |= {
            name: _why_not_called(name, module)
            for name, module in self._modules.items()
            if name and name not in last_calls
        }
        given = last_calls[OUTPUT][2]
        return seen, None if isinstance(given, str) else given[0].rows, last

    def _failure(self, error: BaseException) -> BackendError:
        """Return the error for a network that fails on the example, and whether it takes a single image."""
        why = _cause(error)[:300]
        try:
            self._feed(self._example[:1])
        except BaseException:  # as on two images
            return BackendError(
                f"the network fails on an input of shape {tuple(self._example.shape)}: {why}",
                "It is called with a batch of images alone: check its input size (wrap(module, size=...)), "
                "its preprocessing and vision.dtype.",
            )
        return BackendError(
            f"the network takes one image at a time, and fails on two: {why}",
            "Let it treat each row of a batch by itself, as in x.view(x.size(0), -1).",
        )

    def _drop_fixed(self, seen: dict[str, RecordedTensor]) -> None:
        """Remove tensors in unusual places with two rows whatever the number of images."""
        import torch

        doubtful = [name for name, each in seen.items() if each.batch_axis or len(each.path) > 1]
        rows: dict[str, int] = {}

        def count_rows(module: str, output: Any) -> None:
            for name in doubtful:
                if seen[name].module == module:
                    with suppress(LookupError, AttributeError, IndexError):
                        rows[name] = len(seen[name].tensor(output))

        if doubtful:
            with ExitStack() as hooks, torch.inference_mode(), suppress(Exception):
                for module in {seen[name].module for name in doubtful} - {OUTPUT}:
                    hook = partial(
                        lambda module, _module, _inputs, output: count_rows(module, output), module
                    )
                    hooks.callback(self._modules[module].register_forward_hook(hook).remove)
                count_rows(OUTPUT, self._feed(torch.cat([self._example, self._example[:1]])))
        for name in doubtful:
            if rows.get(name) != len(self._example) + 1:
                self.unreadable[name] = "its rows are not one per image"
                del seen[name]

    def _observe_input(self, name: str, clock: Iterator[int]) -> Callable[[Any, Any, Any], None]:
        """Return the hook that records what a module is given: the first tensor with a row for each image."""
        n_calls = 0

        def hook(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            nonlocal n_calls
            n_calls += 1
            self._followers.given(name, module, (*arguments, *keywords.values()))
            now = next(clock)
            self._inputs.pop(name, None)
            given: list[tuple[int | str, Any]] = [*enumerate(arguments), *keywords.items()]
            for key, value in given:
                if _is_readable(value) and value.ndim > 1:
                    axis = _batch_axis(value, len(self._example))
                    if axis is not None:
                        shape = tuple(value.movedim(axis, 0).shape)
                        self._inputs[name] = RecordedTensor(name, now, n_calls, (key,), shape, axis, "input")
                        break

        return hook

    def _candidate_layouts(
        self, seen: Mapping[str, RecordedTensor], prefix_tokens: int | None
    ) -> dict[str, list[Layout]]:
        """Return the possible layouts of each output of three or four axes, the likeliest first."""
        import torch

        grids: list[tuple[int, int]] = []
        candidates: dict[str, list[Layout]] = {}
        n_tokens = 0
        for name, recorded in seen.items():
            if len(recorded.shape) not in (3, 4):
                continue
            module = self._module(recorded)
            weights = isinstance(module, torch.nn.MultiheadAttention) and recorded.path == (1,)
            if len(recorded.shape) == 4:
                weights = type(module).__name__ in _ATTENTION or relates_tokens(
                    module, recorded.shape, n_tokens, grids
                )
            if weights:
                self.unreadable[name] = "its output holds weights between tokens: it is no map over the image"
                continue
            if len(recorded.shape) == 3:
                n_tokens = recorded.shape[1]
            candidates[name] = candidate_layouts(module, recorded.shape, self._image_hw, grids, prefix_tokens)
            if isinstance(module, torch.nn.Conv2d) and recorded.shape[2:] != (1, 1):
                grids.append((recorded.shape[2], recorded.shape[3]))
        return candidates

    def _evidence(
        self, seen: Mapping[str, RecordedTensor], candidates: Mapping[str, Sequence[Layout]]
    ) -> dict[tuple[str, Layout], PositionEvidence]:
        """Return the evidence on uncertain layouts; none from images on which the network fails."""
        import torch

        asked: dict[tuple[int, int], dict[str, list[Layout]]] = {}
        for name, layouts in candidates.items():
            for layout in layouts:
                if not layout.certain and layout.grid is not None:
                    asked.setdefault(layout.grid, {}).setdefault(name, []).append(layout)
        # Grids that halve each other have the same coarse images, and share a pass.
        passes: list[tuple[torch.Tensor, dict[str, list[Layout]]]] = []
        for grid, outputs in asked.items():
            batch = gray_code_images(grid, self._example, _COARSE_BITS)
            shared = next((both for images, both in passes if torch.equal(images, batch)), None)
            if shared is None:
                passes.append((batch, shared := {}))
            for name, layouts in outputs.items():
                shared.setdefault(name, []).extend(layouts)
        coarse: dict[tuple[str, Layout], PositionEvidence] = {}
        for batch, outputs in passes:
            coarse |= self._probe_positions(seen, outputs, batch, _COARSE_BITS)
        evidence = dict(coarse)
        for grid, outputs in asked.items():
            # The coarsest bits suffice to confirm raster order; another order takes all of them.
            keys = [(name, layout) for name, layouts in outputs.items() for layout in layouts]
            if any(key in coarse and contradicts_raster(key[1], coarse[key]) for key in keys):
                whole = self._probe_positions(seen, outputs, gray_code_images(grid, self._example), None)
                # An order that differs from pass to pass is none.
                evidence |= {
                    key: spelled for key, spelled in whole.items() if spelled.repeats(coarse.get(key))
                }
        return evidence

    def _probe_positions(
        self,
        seen: Mapping[str, RecordedTensor],
        outputs: Mapping[str, Sequence[Layout]],
        batch: torch.Tensor,
        max_bits: int | None,
    ) -> dict[tuple[str, Layout], PositionEvidence]:
        """Return the evidence from `batch`, the `gray_code_images` of the grids of these layouts."""
        import torch

        evidence: dict[tuple[str, Layout], PositionEvidence] = {}
        last = max(outputs, key=lambda name: seen[name].call_index)

        def observe(name: str) -> Callable[[Any, Any, Any], None]:
            n_calls = 0

            def hook(_module: Any, _inputs: Any, output: Any) -> None:
                nonlocal n_calls
                n_calls += 1
                if n_calls < seen[name].n_calls:
                    return
                tensor = seen[name].tensor(output)
                if len(tensor) != len(batch):
                    self.unreadable[name] = "its rows are not one per image"
                    return
                for layout in outputs[name]:
                    assert layout.grid is not None
                    evidence[name, layout] = PositionEvidence.of(
                        layout.sequence(tensor), gray_codes(layout.grid, max_bits)
                    )
                if name == last:
                    raise StopForward

            return hook

        with ExitStack() as hooks, torch.inference_mode(), suppress(StopForward, Exception):
            # The deepest comes last: it ends the pass, and a module may have several outputs.
            for name in sorted(outputs, key=lambda name: name == last):
                if seen[name].module != OUTPUT:
                    module = self._modules[seen[name].module]
                    hooks.callback(module.register_forward_hook(observe(name)).remove)
            output = self._feed(batch)
            for name in outputs:
                if seen[name].module == OUTPUT:
                    observe(name)(None, None, output)
        return evidence


def _count_heads(module: torch.nn.Module) -> int:
    """Return the number of an attention's (query) heads, 0 of any other module."""
    counts = (getattr(module, name, None) for name in ("num_heads", "num_attention_heads"))
    return next((count for count in counts if isinstance(count, int)), 0)


def _same_positions(first: Sequence[int], second: Sequence[int], layout: Layout) -> bool:
    """Return whether two shapes, (N, ...), differ in the number of units at most."""
    axis = -1 if layout.units_last else 1
    shapes = [list(first), list(second)]
    if len(first) != len(second) or len(first) < 2:
        return False
    for shape in shapes:
        del shape[axis]
    return shapes[0] == shapes[1]


def scores_of(output: torch.Tensor, last: str = "") -> Scores:
    """Return the kind of a network's output (N, C), from its values and the class of its `last` module.

    Values that sum to 1 over the classes, and the output of a Sigmoid module, are probabilities; another
    single column is the logit of its class; others are the logits of classes that exclude each other. The
    sigmoid of several classes outside a module cannot be recognized: such a network must say so (`wrap`).
    """
    values = output.float()
    within = bool(((values >= 0) & (values <= 1)).all())
    # The rounding error of a sum; half precisions round a thousand times more.
    tolerance = 1e-4 if output.dtype.itemsize >= 4 else 1e-2
    sums_to_one = bool(((values.sum(1) - 1).abs() < tolerance).all())
    if within and (last in _SQUASHING or sums_to_one):
        return "probabilities"
    return "sigmoid" if values.shape[1] == 1 else "softmax"


class _OfImages(NamedTuple):
    """A tensor in an output: its path there, the axis of its images, and the tensor with that axis first."""

    path: Path
    axis: int
    rows: torch.Tensor


def _tensors_per_image(output: Any, n_images: int, least_axes: int = 2) -> list[_OfImages] | str:
    """Return the tensors with a row per image in `output`, or the reason why there are none.

    Tensors (N,) are taken only if there are no others and `least_axes` is 1.
    """
    tensors = list(tensors_in(output))
    if not tensors:
        return f"it returns a {type(output).__name__}, not a tensor"
    if isinstance(output, (tuple, list)) and any(path[1:] == ("scores",) for path, _ in tensors):
        return (
            "it returns the boxes of a detector; "
            "wrap(module, detects=N) gives the best score of each of its N classes"
        )
    readable = [(path, tensor) for path, tensor in tensors if _is_readable(tensor)]
    if not readable:
        kinds = ", ".join(str(tensor.dtype) for _, tensor in tensors)
        return f"it returns no dense tensor of real numbers ({kinds})"
    of_images = [
        _OfImages(path, axis, tensor.movedim(axis, 0))
        for path, tensor in readable
        if (axis := _batch_axis(tensor, n_images)) is not None
    ]
    for least in range(2, least_axes - 1, -1):
        if found := [each for each in of_images if each.rows.ndim >= least]:
            return found
    shapes = [tuple(tensor.shape) for _, tensor in tensors]
    return f"no tensor that it returns has one row per image (for {n_images} images: {shapes})"


def _batch_axis(tensor: torch.Tensor, n_images: int) -> int | None:
    """Return the axis of a tensor's images: the first, or the second of sequences (T, N, C)."""
    if tensor.ndim and len(tensor) == n_images:
        return 0
    return 1 if tensor.ndim == 3 and tensor.shape[1] == n_images else None


def _cause(error: BaseException) -> str:
    """Return what is wrong, on a line: TorchScript puts it below a traceback."""
    lines = str(error).strip().splitlines() or [""]
    return lines[-1] if re.match(r"\w+Error: ", lines[-1]) else f"{type(error).__name__}: {lines[0]}"


def _why_not_called(name: str, module: torch.nn.Module) -> str:
    """Return the reason why a module has no output in a pass."""
    parts = [f"{name}.{part}" for part, _ in module.named_children()]
    if parts:
        return f"it is not called as a whole in a pass: name one of its parts, such as {parts[-1]!r}"
    return "it is not called in a pass"


def _is_readable(value: Any) -> bool:
    """Return whether this is a dense tensor of real numbers."""
    import torch

    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.layout == torch.strided
