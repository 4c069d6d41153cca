"""A network under study: a module, how images are fed to it, and what its classes are called."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, get_args

from actors.errors import UsageError
from actors.vision.base import Scores
from actors.vision.preprocess import Fit, Preprocess

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Network:
    """One loaded network, in evaluation mode.

    `weights` says in words where its weights come from ("random" is said too). `aliases` are other names of layers, from
    papers mostly. `feed` calls the module on a batch (N, 3, h, w); None calls it as it is.
    `prefix_tokens` precede the patch tokens of a token sequence; None finds their number from shapes. `scores` says what
    the output is; None finds it out (`taps.scores_of`).
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
        """Return 32 hex digits of the architecture, every weight, the preprocessing, what the output is, and `dtype`.

        Raises:
            UsageError: If the network holds something that cannot be told apart from what another would hold.
        """
        from actors.vision.content import scripted, update

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
    """Return a module as it is studied: in evaluation mode, without gradients, and not compiled.

    What reads a layer would be compiled too, anew for each reader.
    """
    module = _uncompiled(module).eval()
    for parameter in module.parameters():  # all at once is nothing that TorchScript knows
        parameter.requires_grad_(False)
    return module


def _uncompiled(module: torch.nn.Module) -> torch.nn.Module:
    module = getattr(module, "_orig_mod", module)
    if getattr(module, "_compiled_call_impl", None) is not None:
        module._compiled_call_impl = None
    for name, child in list(module.named_children()):
        if (plain := _uncompiled(child)) is not child:
            setattr(module, name, plain)
    return module


def wrap(
    module: torch.nn.Module,
    *,
    name: str = "own network",
    size: int | tuple[int, int] | None = 224,
    resize: int | tuple[int, int] | None = None,
    fit: Fit = "cover",
    interpolation: str = "bicubic",
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    std: Sequence[float] = (0.229, 0.224, 0.225),
    class_names: Sequence[str] = (),
    aliases: Mapping[str, str] | None = None,
    prefix_tokens: int | None = None,
    weights: str = "as given",
    scores: Scores | None = None,
) -> Network:
    """Make a network under study of any module that takes a batch (N, 3, h, w) of normalised images.

    `size` is the input's height and width, None for images at their own size. Images are resized to
    `resize` (by default `size`) as `fit` says, and their centre is cropped to `size`. `scores` says how the output becomes
    probabilities: "softmax" over all classes, "sigmoid" of each class by itself, or "probabilities", as it is.

    `class_names` are in the order of the output.

    Raises:
        UsageError: If `scores` is another word, or `class_names` are not texts in a list.
    """
    if not isinstance(class_names, (list, tuple)) or not all(isinstance(name, str) for name in class_names):
        raise UsageError(
            f"class_names must be a list of texts in the order of the output, got {str(class_names)[:80]!r}"
        )
    if scores is not None and scores not in get_args(Scores):
        raise UsageError(f"scores must be one of {', '.join(get_args(Scores))}, got {scores!r}")

    def pair(value: int | tuple[int, int] | None) -> tuple[int, int] | None:
        return (value, value) if isinstance(value, int) else value

    preprocess = Preprocess(
        size=pair(size),
        resize=pair(resize),
        fit=fit,
        interpolation=interpolation,
        mean=tuple(mean),
        std=tuple(std),
    )
    return Network(
        name=name,
        module=at_rest(module),
        preprocess=preprocess,
        weights=weights,
        class_names=tuple(class_names),
        aliases=dict(aliases or {}),
        prefix_tokens=prefix_tokens,
        scores=scores,
    )
