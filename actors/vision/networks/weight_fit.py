"""How the tensors of a file fit a network: by which prefix, what is missing, and what belongs to no part.

Files prefix their names, hold a backbone without a classifier, and much that only training needs. Of all
state dicts the one that covers most of the network is taken; between equals, `PREFERRED` decides by order:
averaged weights, then the usual names, then the rest as stored, a student last.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from actors.errors import UsageError

if TYPE_CHECKING:
    import torch

_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "teacher")
_USUAL = ("state_dict", "model_state_dict", "model_state", "model", "module", "network", "net")
PREFERRED = (*_AVERAGED, *_USUAL, "", "student")
"""Of state dicts that fit equally well the first is taken; "" stands for any other name."""

_BOOKKEEPING = ("num_batches_tracked", "total_ops", "total_params", "position_ids", "n_averaged")
"""Buffers that hold no weights."""
_TRAINING_PARTS = frozenset(
    [
        "loss",
        "losses",
        "criterion",
        "head",
        "heads",
        "decoder",
        "predictor",
        "predictors",
        "projector",
        "projection",
        "queue",
        "ptr",
        "center",
        "metric",
        "metrics",
        "accuracy",
        "acc",
        "auroc",
        "f1",
        "optimizer",
        "scheduler",
        "ema",
        "classifier",
        "fc",
        "linear",
        "aux",
        "prototypes",
        "mask_token",
        "logit_scale",
    ]
)
"""Last words of the names of tensors that training stores besides the network's; another name may be that
of a part which the network lacks.
"""


class OtherHeadError(UsageError):
    """The checkpoint fits except for its classifier, which has `n_classes` classes."""

    def __init__(self, message: str, fix: str, n_classes: int) -> None:
        super().__init__(message, fix)
        self.n_classes = n_classes


@dataclass(frozen=True)
class StateDict:
    """Tensors by name, and the keys under which the file holds them, with dots between."""

    place: str
    tensors: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class WeightFit:
    """How a state dict fits a network: `prefix` in the file stands for the prefix `common` of the network's
    names.

    `tensors` have the network's names; `named` of the network's tensors are among them, `same` of these in
    the same shape.
    """

    state: StateDict
    prefix: str
    common: str
    tensors: Mapping[str, torch.Tensor]
    same: int
    named: int

    @property
    def words(self) -> list[str]:
        return [*self.state.place.split("."), *self.prefix.split(".")]

    def of(self, module: torch.nn.Module) -> WeightFit:
        own = _own(module)
        return _fit(own, self.state, self.prefix, self.common).completed(own)

    def completed(self, own: Mapping[str, torch.Tensor]) -> WeightFit:
        """Return the fit with the network's tensors that lie outside the prefix of most, each by its bare
        name, or by the one name that ends with it.

        So a wrapper may hold a backbone in one part and the classifier in another. Only the first axis may
        differ in length, as the number of classes does.
        """
        outside = {
            name: value for name, value in self.state.tensors.items() if not name.startswith(self.prefix)
        }
        taken = {}
        for name in own.keys() - self.tensors.keys():
            names = [name] if name in outside else [each for each in outside if each.endswith(f".{name}")]
            if len(names) == 1 and outside[names[0]].shape[1:] == own[name].shape[1:]:
                taken[name] = outside[names[0]]
        return replace(self, tensors={**self.tensors, **taken})

    def notes(self, states: tuple[StateDict, ...]) -> list[str]:
        notes = []
        if len(states) > 1:
            others = [state.place or "the file's own" for state in states if state is not self.state]
            notes.append(f"taken from {self.state.place or 'the file itself'!r}, not {some_of(others)}")
        if self.prefix:
            notes.append(f"prefix {self.prefix!r} removed")
        ours = {id(value) for value in self.tensors.values()}
        outside = [name for name, value in self.state.tensors.items() if id(value) not in ours]
        if outside:
            notes.append(f"{len(outside)} tensors outside it ignored ({some_of(outside)})")
        return notes

    def missing(self, module: torch.nn.Module) -> list[str]:
        return sorted(
            name for name in _own(module).keys() - self.tensors.keys() if not name.endswith(_BOOKKEEPING)
        )

    def ignored(self, module: torch.nn.Module) -> list[str]:
        """Return the tensors that belong to no part of the network, such as those of losses and heads."""
        own = _own(module)
        parts = {name.partition(".")[0] for name in own}
        buffers = {name for name, _ in module.named_buffers()}
        return sorted(
            name
            for name in self.tensors.keys() - own.keys()
            if name in buffers
            or name.endswith(_BOOKKEEPING)
            or "pooler" in name.split(".")
            or (name.partition(".")[0] not in parts and _is_training_part(name.partition(".")[0]))
        )

    def check(self, path: Path, module: torch.nn.Module) -> None:
        """Raise UsageError unless the network's tensors are all there in their shapes, and no others of its
        parts.
        """
        own = _own(module)
        missing = self.missing(module)
        unexpected = sorted(self.tensors.keys() - own.keys() - set(self.ignored(module)))
        wrong = [name for name in own if name in self.tensors and not _alike(self.tensors[name], own[name])]
        if not missing and not unexpected and (pair := _other_head(own, self.tensors, wrong)) is not None:
            raise OtherHeadError(
                f"the checkpoint {path} has a head of {pair[1]} classes, and the network one of {pair[0]} "
                f"({some_of(wrong)}).",
                f"Build a network of {pair[1]} classes in a factory (python:FILE.py:FACTORY@FILE).",
                pair[1],
            )
        shapes = [f"{name} {_form(self.tensors[name])} for {_form(own[name])}" for name in wrong]
        parts = [
            f"{len(names)} {what} ({some_of(names)})"
            for what, names in (
                ("missing", missing),
                ("unexpected", unexpected),
                ("of another shape", shapes),
            )
            if names
        ]
        if parts:
            raise UsageError(
                f"the checkpoint {path} was made for another network: tensors {', '.join(parts)}.",
                "Gather its parts first: they are those of one process (DeepSpeed's zero_to_fp32.py)."
                if wrong and not any(self.tensors[name].numel() for name in wrong)
                else "Give the network that it was saved from, by its name or a factory "
                "(python:FILE.py:FACTORY@FILE).",
            )


def _own(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    import torch

    return {name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}


def _fits(module: torch.nn.Module, state: StateDict) -> Iterator[WeightFit]:
    """Yield the ways to read a state dict for `module`, each with another prefix."""
    own = _own(module)
    ends: dict[str, list[str]] = defaultdict(list)
    for name in state.tensors:
        cuts = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
        for cut in cuts:
            ends[name[cut:]].append(name[:cut])
    # The encoder of transformers' classifiers is often stored alone, without the name that it has in them.
    most = "".join(f"{part}." for part, _ in Counter(name.partition(".")[0] for name in own).most_common(1))
    for common in dict.fromkeys(("", _common(own), most)):
        prefixes = Counter(prefix for name in own for prefix in ends.get(name.removeprefix(common), ()))
        for prefix, _ in prefixes.most_common(8) or [("", 0)]:
            yield _fit(own, state, prefix, common)


def _common(names: Iterable[str]) -> str:
    """Return the parts that all names begin with, with the dot after them."""
    shared = os.path.commonprefix(list(names))  # noqa: RUF071 (it is cut at a dot)
    return shared[: shared.rfind(".") + 1]


def best_fit(module: torch.nn.Module, states: Iterable[StateDict]) -> WeightFit:
    best = max(
        (fit for state in states for fit in _fits(module, state)),
        key=lambda fit: (fit.same, fit.named, -_rank(fit.words), -len(fit.prefix)),
    )
    return best.completed(_own(module))


def converted_fit(module: torch.nn.Module, fit: WeightFit) -> WeightFit | None:
    """Return the fit of what timm's own conversion makes of the names of an architecture's authors; None if
    no better.
    """
    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return None
    bare = {name.removeprefix(_common(fit.state.tensors)): value for name, value in fit.state.tensors.items()}
    try:
        converted = best_fit(module, [replace(fit.state, tensors=convert(bare, module))])
    except Exception:  # it expects its own architecture's names, and raises anything without them
        return None
    return converted if converted.same > fit.same else None


def _fit(own: Mapping[str, torch.Tensor], state: StateDict, prefix: str, common: str) -> WeightFit:
    tensors = {
        common + name.removeprefix(prefix): value
        for name, value in state.tensors.items()
        if name.startswith(prefix)
    }
    there = [name for name in own if name in tensors]
    same = sum(_alike(tensors[name], own[name]) for name in there)
    return WeightFit(state, prefix, common, tensors, same, len(there))


def _rank(words: list[str]) -> int:
    known = [PREFERRED.index(word) for word in words if word and word in PREFERRED]
    if PREFERRED.index("student") in known:
        return len(PREFERRED)
    return min(known, default=PREFERRED.index(""))


def _alike(stored: torch.Tensor, own: torch.Tensor) -> bool:
    """Return whether a tensor can stand for another: integers in place of floats are quantized, and mean
    something else.
    """
    floats = stored.is_floating_point() or stored.is_complex()
    return stored.shape == own.shape and (floats or not own.is_floating_point())


def _is_training_part(part: str) -> bool:
    # Masked autoencoders call all parts of their decoder so.
    return part.startswith("decoder_") or not _TRAINING_PARTS.isdisjoint((part, part.rpartition("_")[2]))


def _other_head(
    own: Mapping[str, torch.Tensor], stored: Mapping[str, torch.Tensor], wrong: list[str]
) -> tuple[int, int] | None:
    """Return the numbers of classes, the network's and the file's, if all that differs is one number of
    outputs.
    """
    pairs = set()
    for name in wrong:
        ours, theirs = own[name].shape, stored[name].shape
        if len(ours) != len(theirs) or ours[1:] != theirs[1:] or ours[:1] == theirs[:1]:
            return None
        pairs.add((ours[0], theirs[0]))
    return pairs.pop() if len(pairs) == 1 else None


def absent_head(module: torch.nn.Module, fit: WeightFit) -> str | None:
    """Return the name of the network's last module if it is linear and all that the file lacks."""
    import torch

    name, last = list(module.named_modules())[-1]
    if not name or type(last) is not torch.nn.Linear:
        return None
    return name if set(fit.missing(module)) == {f"{name}.{key}" for key in last.state_dict()} else None


def _form(tensor: torch.Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def some_of(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
