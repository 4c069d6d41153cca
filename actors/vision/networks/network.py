"""A network under study: a module, its preprocessing and its class names."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, get_args

from actors.errors import UsageError
from actors.vision.networks.detectors import DetectionScores
from actors.vision.networks.prefix import checked_prefix, declared_prefix
from actors.vision.networks.preprocess import Preprocess, ResizeMode
from actors.vision.readout.base import Scores

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Network:
    """One loaded network, in evaluation mode.

    `weights` names the source of the weights, or "random". `aliases` are other names of layers, mostly from
    papers. `feed` calls the module on a batch (N, 3, h, w); None calls it as it is. `prefix` names the tokens
    that precede the patches in a sequence (`Places.prefix`); None infers their number from shapes. `scores`
    is the kind of output; None infers it (`taps.scores_of`).
    """

    name: str
    module: torch.nn.Module
    preprocess: Preprocess
    weights: str
    class_names: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    feed: Callable[[torch.Tensor], Any] | None = None
    prefix: tuple[str, ...] | None = None
    scores: Scores | None = None

    def fingerprint(self, dtype: str) -> str:
        """Return 32 hex digits of the architecture, every weight, the preprocessing, the kind of output and
        `dtype`.

        Raises:
            UsageError: If the network's state holds a value that cannot be pickled.
        """
        from actors.vision.networks.fingerprint import scripted_values, update

        digest = hashlib.blake2b(digest_size=16)
        facts: list[Any] = [repr(self.module), self.preprocess.facts(), dtype]
        if self.scores not in (None, "softmax"):
            facts.append(self.scores)
        digest.update(json.dumps(facts).encode())
        state = sorted(self.module.state_dict().items(), key=lambda item: item[0])
        for name, value in chain(state, scripted_values(self.module)):
            try:
                update(digest, name, value)
            except Exception as error:  # a class raises anything when it is pickled
                raise UsageError(
                    f"{self.name} holds a {type(value).__name__} at {name!r} that cannot be fingerprinted: "
                    f"{type(error).__name__}: {str(error)[:200]}",
                    "Let the module's state hold tensors and values that pickle (see get_extra_state).",
                ) from error
        return digest.hexdigest()


def build_seeded(build: Callable[[], Any]) -> Any:
    """Return what `build` makes with random weights of a fixed seed; the global generator stays as it is."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def freeze(module: torch.nn.Module) -> torch.nn.Module:
    """Return a module for inference: in evaluation mode, without gradients, not compiled and on one device.

    A compiled module would compile the hooks too, anew for each; a module that divides a batch among devices
    gives each layer a part of it.

    Raises:
        UsageError: If a weight has no values.
    """
    import torch

    module = _unwrap(module)
    with suppress(NotImplementedError):  # exported programs stay as they were exported
        module.eval()
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_meta or torch.nn.parameter.is_lazy(tensor):
            raise UsageError(
                f"{type(module).__name__} has no values for {name!r}.",
                "Run it once in its factory if it is lazy, or build it on a device and load its weights.",
            )
    for parameter in module.parameters():  # TorchScript has no `requires_grad_` of a module
        parameter.requires_grad_(False)
    return module


def _unwrap(module: torch.nn.Module) -> torch.nn.Module:
    """Return a module without the wrappers of training around it and its parts."""
    from torch.nn.parallel import DataParallel, DistributedDataParallel
    from torch.optim.swa_utils import AveragedModel

    while True:
        if isinstance(module, (DataParallel, DistributedDataParallel, AveragedModel)):
            module = module.get_submodule("module")
        elif hasattr(module, "_orig_mod"):
            module = module.get_submodule("_orig_mod")
        else:
            break
    if getattr(module, "_compiled_call_impl", None) is not None:
        module._compiled_call_impl = None
    for name, child in list(module.named_children()):
        if (plain := _unwrap(child)) is not child:
            setattr(module, name, plain)
    return module


def convert(
    module: torch.nn.Module, device: torch.device | str, dtype: torch.dtype, *, channels_last: bool
) -> torch.nn.Module:
    """Move a module to a device, and its real numbers to `dtype`; complex ones stay complex.

    `channels_last` says how weights of four axes lie in memory.
    """
    import torch

    module.to(device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_complex():
            tensor.data = tensor.data.to(complex_dtype)
        elif tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
        if tensor.ndim == 4:  # the format is one of images: weights over time as well cannot have it
            tensor.data = tensor.data.contiguous(memory_format=layout)
    return module


IMAGENET = {"R": (0.485, 0.229), "G": (0.456, 0.224), "B": (0.406, 0.225), "L": (0.449, 0.226)}
"""Mean and standard deviation of ImageNet's images in 0..1, by channel."""


class ImageOptions(TypedDict, total=False):
    """How images are prepared for a network; what is absent has the default that is named."""

    size: int | tuple[int, int] | None
    """Height and width of the input, 224 by default; None for images at their own size."""
    resize: int | tuple[int, int] | None
    """The size before the center is cropped to `size`, reached as `fit` says; `size` by default."""
    fit: ResizeMode
    """"cover" by default; see `Preprocess`."""
    interpolation: str
    """"bicubic" by default."""
    channels: str | None
    """What the input's channels are, a letter each: R, G, B, L (luminance), or 0 for one that images do not
    have. "RGB" by default, "L" if `mean` is one number.
    """
    mean: Sequence[float] | None
    std: Sequence[float] | None
    """A number for each channel; those of ImageNet's images by default."""


class WrapOptions(ImageOptions, total=False):
    """The options of `wrap`: those of `ImageOptions`, and what the network is called and returns."""

    name: str
    class_names: Sequence[str]
    """The classes, in the order of the output."""
    aliases: Mapping[str, str] | None
    """Other names of layers."""
    prefix_tokens: int | Sequence[str] | None
    """Names of the tokens before the patches, "cls" and "register0" and so on, or their number; by default as
    timm, torchvision and transformers declare them, else their number is found from shapes.
    """
    weights: str
    """Where the weights come from, in words."""
    scores: Scores | None
    """What the output holds: logits of classes that exclude each other ("softmax"), of classes each by itself
    ("sigmoid"), or "probabilities". Found from the output by default.
    """
    detects: int | None
    """The number of classes of a detector: its units are each class's best score in the image."""


def wrap(module: torch.nn.Module, **options: Unpack[WrapOptions]) -> Network:
    """Make a network under study of any module that takes a batch (N, C, h, w) of normalized images.

    Raises:
        UsageError: If there is no such option, `scores` or a token's name is another word, `class_names` are
            not texts in a list, or `channels`, `mean` and `std` do not fit each other.
    """
    if unknown := sorted(options.keys() - WrapOptions.__annotations__.keys()):
        raise UsageError(
            f"wrap has no option {unknown[0]!r}.",
            f"Its options are {', '.join(WrapOptions.__annotations__)}.",
        )
    names, scores = options.get("class_names", ()), options.get("scores")
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise UsageError(
            f"class_names must be a list of texts in the order of the output, got {str(names)[:80]!r}"
        )
    if scores is not None and scores not in get_args(Scores):
        raise UsageError(f"scores must be one of {', '.join(get_args(Scores))}, got {scores!r}")
    module, detects = freeze(module), options.get("detects")
    prefix = checked_prefix(options.get("prefix_tokens"))
    return Network(
        name=options.get("name", "own network"),
        module=module,
        preprocess=_preprocess(options),
        weights=options.get("weights", "as given"),
        class_names=tuple(names),
        aliases=dict(options.get("aliases") or {}),
        feed=by_name(module) if detects is None else DetectionScores(module, detects),
        prefix=declared_prefix(module) if prefix is None else prefix,
        scores=scores if detects is None else "probabilities",
    )


def by_name(module: torch.nn.Module) -> Callable[[torch.Tensor], Any] | None:
    """Return how a module is called that takes images by name: as `pixel_values`, or as its only argument by
    keyword; None if they are its first argument.
    """
    try:
        parameters = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):  # TorchScript
        return None
    asked = [each for each in parameters if each.default is each.empty] or parameters
    taken = next((each for each in asked if each.name == "pixel_values"), asked[0] if asked else None)
    if taken is None or (taken.name != "pixel_values" and taken.kind is not inspect.Parameter.KEYWORD_ONLY):
        return None
    name = taken.name
    return lambda batch: module(**{name: batch})


def _preprocess(options: ImageOptions) -> Preprocess:
    mean, std = options.get("mean"), options.get("std")
    channels = options.get("channels") or ("L" if mean is not None and len(mean) == 1 else "RGB")
    usual = [IMAGENET.get(channel, (0.0, 1.0)) for channel in channels]
    return Preprocess(
        size=_pair(options.get("size", 224)),
        resize=_pair(options.get("resize")),
        fit=options.get("fit", "cover"),
        interpolation=options.get("interpolation", "bicubic"),
        mean=tuple(pair[0] for pair in usual) if mean is None else tuple(mean),
        std=tuple(pair[1] for pair in usual) if std is None else tuple(std),
        channels=channels,
    )


def _pair(value: int | tuple[int, int] | None) -> tuple[int, int] | None:
    return (value, value) if isinstance(value, int) else value
