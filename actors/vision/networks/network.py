"""A network under study: a module, how images are fed to it, and what its classes are called."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, get_args

from actors.errors import UsageError
from actors.vision.networks.detectors import DetectionScores
from actors.vision.networks.preprocess import Fit, Preprocess
from actors.vision.readout.base import Scores

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Network:
    """One loaded network, in evaluation mode.

    `weights` says in words where its weights come from ("random" is said too). `aliases` are other names of
    layers, from papers mostly. `feed` calls the module on a batch (N, 3, h, w); None calls it as it is.
    `prefix_tokens` precede the patch tokens of a token sequence; None finds their number from shapes.
    `scores` says what the output is; None finds it out (`taps.scores_of`).
    """

    name: str
    module: torch.nn.Module
    preprocess: Preprocess
    weights: str
    class_names: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    feed: Callable[[torch.Tensor], Any] | None = None
    prefix_tokens: int | None = None
    scores: Scores | None = None

    def fingerprint(self, dtype: str) -> str:
        """Return 32 hex digits of the architecture, every weight, the preprocessing, what the output is, and
        `dtype`.

        Raises:
            UsageError: If the network holds something that cannot be told apart from what another would hold.
        """
        from actors.vision.networks.fingerprint import scripted, update

        digest = hashlib.blake2b(digest_size=16)
        facts: list[Any] = [repr(self.module), self.preprocess.facts(), dtype]
        if self.scores not in (None, "softmax"):
            facts.append(self.scores)
        digest.update(json.dumps(facts).encode())
        held = chain(
            sorted(self.module.state_dict().items(), key=lambda item: item[0]), scripted(self.module)
        )
        for name, value in held:
            try:
                update(digest, name, value)
            except Exception as error:  # whatever somebody's class raises when it is to be pickled
                raise UsageError(
                    f"{self.name} holds a {type(value).__name__} at {name!r} that cannot be told apart from another: "
                    f"{type(error).__name__}: {str(error)[:200]}",
                    "Let the module's state hold tensors and values that can be pickled (see get_extra_state).",
                ) from error
        return digest.hexdigest()


def seeded(build: Callable[[], Any]) -> Any:
    """Build with random weights that are the same every time, without touching the global generator."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def at_rest(module: torch.nn.Module) -> torch.nn.Module:
    """Return a module as it is studied: in evaluation mode, without gradients, not compiled and on one
    device.

    What reads a layer would be compiled too, anew for each reader; what divides a batch among devices gives
    each layer a part of it.
    """
    module = _bare(module).eval()
    for parameter in module.parameters():  # all at once is nothing that TorchScript knows
        parameter.requires_grad_(False)
    return module


def _bare(module: torch.nn.Module) -> torch.nn.Module:
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
        if (plain := _bare(child)) is not child:
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


def wrap(
    module: torch.nn.Module,
    *,
    name: str = "own network",
    size: int | tuple[int, int] | None = 224,
    resize: int | tuple[int, int] | None = None,
    fit: Fit = "cover",
    interpolation: str = "bicubic",
    channels: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] = (),
    aliases: Mapping[str, str] | None = None,
    prefix_tokens: int | None = None,
    weights: str = "as given",
    scores: Scores | None = None,
    detects: int | None = None,
) -> Network:
    """Make a network under study of any module that takes a batch (N, C, h, w) of normalised images.

    `size` is the input's height and width, None for images at their own size. Images are resized to `resize`
    (by default `size`) as `fit` says, and their centre is cropped to `size`. `scores` says how the output
    becomes probabilities: "softmax" over all classes, "sigmoid" of each class by itself, or "probabilities",
    as it is.

    `channels` says what the C channels are, "RGB" by default, "L" (luminance) if `mean` is one number: R, G,
    B, L, or 0 for one that images do not have. `mean` and `std`, a number for each, are by default those of
    ImageNet's images. `detects` is the number of classes of a detector: its units are then each class's best
    score in the image. `class_names` are in the order of the output.

    Raises:
        UsageError: If `scores` is another word, `class_names` are not texts in a list, or `channels`, `mean`
            and `std` do not fit each other.
    """
    if not isinstance(class_names, (list, tuple)) or not all(isinstance(name, str) for name in class_names):
        raise UsageError(
            f"class_names must be a list of texts in the order of the output, got {str(class_names)[:80]!r}"
        )
    if scores is not None and scores not in get_args(Scores):
        raise UsageError(f"scores must be one of {', '.join(get_args(Scores))}, got {scores!r}")

    def pair(value: int | tuple[int, int] | None) -> tuple[int, int] | None:
        return (value, value) if isinstance(value, int) else value

    channels = channels or ("L" if mean is not None and len(mean) == 1 else "RGB")
    preprocess = Preprocess(
        size=pair(size),
        resize=pair(resize),
        fit=fit,
        interpolation=interpolation,
        mean=tuple(IMAGENET.get(each, (0.0, 1.0))[0] for each in channels) if mean is None else tuple(mean),
        std=tuple(IMAGENET.get(each, (0.0, 1.0))[1] for each in channels) if std is None else tuple(std),
        channels=channels,
    )
    module = at_rest(module)
    return Network(
        name=name,
        module=module,
        preprocess=preprocess,
        weights=weights,
        class_names=tuple(class_names),
        aliases=dict(aliases or {}),
        feed=None if detects is None else DetectionScores(module, detects),
        prefix_tokens=prefix_tokens,
        scores=scores if detects is None else "probabilities",
    )
