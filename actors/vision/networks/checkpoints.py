"""Weights of a file, as trainers write them, fitted to a network. No code that a file asks for is run.

A file may nest its state dict, prefix its names, and hold much besides. All of its state dicts are found, and
the one that covers most of the network is taken; between equals, the order of `PREFERRED` decides: averaged
weights, then the usual names, then the rest as stored, a student last.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.errors import UsageError
from actors.vision.data import class_names

if TYPE_CHECKING:
    import torch

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".pyth", ".th", ".pkl", ".index.json")
"""How the names of files with weights end."""

_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "teacher")
_USUAL = ("state_dict", "model_state_dict", "model_state", "model", "module", "network", "net")
PREFERRED = (*_AVERAGED, *_USUAL, "", "student")
"""Of state dicts that fit equally well the first is taken; "" stands for any other name."""

_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch.compile, FSDP and activation checkpointing put into names, at any depth."""
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
_DEPTH = 8
_MOST_CLASSES_OF_OBJECTS = 200


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
class LoadedWeights:
    """The result of loading a file: `notes` on what was adapted, and whether the classifier was loaded.

    `class_names` are the file's, () if it has none for this head.
    """

    notes: tuple[str, ...]
    classifies: bool
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: its state dicts in the order of the file, and the names of classes, if any."""

    path: Path
    states: tuple[StateDict, ...]
    class_names: tuple[str, ...] = ()

    def load_into(self, module: torch.nn.Module) -> LoadedWeights:
        """Load the state dict that fits `module`.

        A last linear layer of which the file has nothing is replaced by the identity: a backbone has no
        classifier.

        Raises:
            OtherHeadError: If only the number of classes differs.
            UsageError: If the file was made for another network.
        """
        fit = _best(module, self.states)
        notes = fit.notes(self.states)
        if fit.missing(module) and (converted := _converted(module, fit)) is not None:
            fit = converted
            notes.append("names converted by timm")
        if (head := _absent_head(module, fit)) is not None:
            import torch

            module.set_submodule(head, torch.nn.Identity())
            fit = fit.of(module)
            notes.append(f"the file has no classifier ({head}), so the output is what that would be given")
        fit.check(self.path, module)
        if ignored := fit.ignored(module):
            notes.append(f"{len(ignored)} tensors of no part of the network ignored ({_some(ignored)})")
        module.load_state_dict(fit.tensors, strict=False)
        outputs = [parameter.shape[:1] for parameter in module.parameters()][-1:]
        names = self.class_names if outputs == [(len(self.class_names),)] else ()
        return LoadedWeights(tuple(notes), head is None, names)


@dataclass(frozen=True)
class _Fit:
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

    def of(self, module: torch.nn.Module) -> _Fit:
        own = _own(module)
        return _fit(own, self.state, self.prefix, self.common).completed(own)

    def completed(self, own: Mapping[str, torch.Tensor]) -> _Fit:
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
            notes.append(f"taken from {self.state.place or 'the file itself'!r}, not {_some(others)}")
        if self.prefix:
            notes.append(f"prefix {self.prefix!r} removed")
        ours = {id(value) for value in self.tensors.values()}
        outside = [name for name, value in self.state.tensors.items() if id(value) not in ours]
        if outside:
            notes.append(f"{len(outside)} tensors outside it ignored ({_some(outside)})")
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
                f"({_some(wrong)}).",
                f"Build a network of {pair[1]} classes in a factory (python:FILE.py:FACTORY@FILE).",
                pair[1],
            )
        shapes = [f"{name} {_form(self.tensors[name])} for {_form(own[name])}" for name in wrong]
        parts = [
            f"{len(names)} {what} ({_some(names)})"
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


def _fits(module: torch.nn.Module, state: StateDict) -> Iterator[_Fit]:
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


def _best(module: torch.nn.Module, states: Iterable[StateDict]) -> _Fit:
    best = max(
        (fit for state in states for fit in _fits(module, state)),
        key=lambda fit: (fit.same, fit.named, -_rank(fit.words), -len(fit.prefix)),
    )
    return best.completed(_own(module))


def _converted(module: torch.nn.Module, fit: _Fit) -> _Fit | None:
    """Return the fit of what timm's own conversion makes of the names of an architecture's authors; None if
    no better.
    """
    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return None
    bare = {name.removeprefix(_common(fit.state.tensors)): value for name, value in fit.state.tensors.items()}
    try:
        converted = _best(module, [replace(fit.state, tensors=convert(bare, module))])
    except Exception:  # it expects its own architecture's names, and raises anything without them
        return None
    return converted if converted.same > fit.same else None


def _fit(own: Mapping[str, torch.Tensor], state: StateDict, prefix: str, common: str) -> _Fit:
    tensors = {
        common + name.removeprefix(prefix): value
        for name, value in state.tensors.items()
        if name.startswith(prefix)
    }
    there = [name for name in own if name in tensors]
    same = sum(_alike(tensors[name], own[name]) for name in there)
    return _Fit(state, prefix, common, tensors, same, len(there))


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


def _absent_head(module: torch.nn.Module, fit: _Fit) -> str | None:
    """Return the name of the network's last module if it is linear and all that the file lacks."""
    import torch

    name, last = list(module.named_modules())[-1]
    if not name or type(last) is not torch.nn.Linear:
        return None
    return name if set(fit.missing(module)) == {f"{name}.{key}" for key in last.state_dict()} else None


def _form(tensor: torch.Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


def read(path: Path) -> Checkpoint:
    """Read a file of weights: safetensors, torch.save, or the index of several (`*.index.json`).

    Raises:
        UsageError: If it is missing, damaged, or holds no tensors by name.
    """
    path = path.expanduser()
    if not path.is_file() or path.suffix == ".distcp":
        raise missing(path)
    content = _shards(path) if path.name.endswith(".index.json") else _file(path)
    states = tuple(_states(content))
    if not states:
        raise UsageError(
            f"the checkpoint {path} holds no tensors by name ({_kinds(content)}).",
            "Save a state dict: torch.save(module.state_dict(), FILE).",
        )
    return Checkpoint(path, states, _class_names(content))


def _kinds(content: Any) -> str:
    """Return the class of what a file holds, and those of the values in it."""
    values = (
        content.values() if isinstance(content, Mapping) else content if isinstance(content, list) else ()
    )
    inside = list(dict.fromkeys(type(value).__name__ for value in values))
    return type(content).__name__ + (f" of {_some(inside)}" if inside else "")


def missing(path: Path) -> UsageError:
    """Return the error that a checkpoint is not there."""
    folder = path.parent if path.suffix == ".distcp" else path
    if (folder / ".metadata").is_file():
        return UsageError(
            f"the checkpoint {str(path)!r} is of distributed training, in parts.",
            f"Join them: python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} FILE.",
        )
    if path.is_dir():
        return UsageError(
            f"the checkpoint {str(path)!r} is a folder.", "Give its file of weights or its index."
        )
    return UsageError(f"there is no checkpoint {str(path)!r}.", "Check the path after @.")


def _shards(path: Path) -> Mapping[str, Any]:
    try:
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"the index {path} is damaged: a `weight_map` of names to files is expected, got {error!r}."
        ) from error
    tensors: dict[str, Any] = {}
    for file in files:
        if Path(file).name != file:
            raise UsageError(f"the index {path} names {file!r}, which is not in its folder.")
        if not (path.parent / file).is_file():
            raise UsageError(f"the index {path} names {file!r}, which is missing.", "Fetch all of its files.")
        tensors |= _file(path.parent / file)
    if lost := sorted(places.keys() - tensors.keys()):
        raise UsageError(f"the files of the index {path} lack {len(lost)} of its tensors ({_some(lost)}).")
    return tensors


_SAFETENSORS, _ZIP, _PICKLE = b"{", b"PK\x03\x04", b"\x80"
"""How files of weights begin, that of safetensors behind the eight bytes of its header's length."""


def _file(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with path.open("rb") as file:
        head = file.read(40)
    if head[8:9] != _SAFETENSORS and not head.startswith((_ZIP, _PICKLE)):
        raise UsageError(
            f"the checkpoint {path} is no file of torch or safetensors: it begins with {head[:24]!r}.",
            "Fetch the file that this one points to: git lfs pull."
            if head.startswith(b"version https://git-lfs")
            else "Unpack or convert it: a plain state dict of tensors, best as .safetensors.",
        )
    try:
        return load_file(path) if head[8:9] == _SAFETENSORS else _unpickled(path)
    except UsageError:
        raise
    except SafetensorError as error:
        raise UsageError(f"the checkpoint {path} is damaged: {error}") from error
    except Exception as error:  # damaged pickles and archives raise anything
        if "TorchScript" in str(error):
            raise UsageError(
                f"the checkpoint {path} is a program of TorchScript, not a state dict.",
                "Save its state dict: torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE).",
            ) from error
        if "persistent_load" in str(error):
            raise _whole_module(path, "") from error
        # Of torch's long message, the line with the cause.
        reason = re.search(r"Trying to [^\n]+|Can only [^\n]+|(?<=Unpickler error: )[^\n]+", str(error))
        raise UsageError(
            f"the checkpoint {path} cannot be read: "
            f"{reason[0] if reason else str(error)[:200] or type(error).__name__}",
            "Save a plain state dict of tensors, best as .safetensors.",
        ) from error


def _whole_module(path: Path, kind: str) -> UsageError:
    return UsageError(
        f"the checkpoint {path} holds a whole pickled module{kind and ' '}{kind}, whose code would be run.",
        "If you trust it, save its state dict alone: torch.save(module.state_dict(), NEW_FILE).",
    )


class _Inert:
    """Stands for an object of a file whose class is not known to be harmless: nothing of it is run."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _inert(name: str, kind: str) -> type:
    """Return a class of nothing under a class's name. The loader fills only plain dictionaries and lists."""
    made: dict[str, dict[str, Any]] = {
        "object": {},
        "dict": {"__new__": lambda cls, *_, **__: OrderedDict()},
        "list": {"__new__": lambda cls, *_, **__: []},
    }
    return type(name, (_Inert,), {"__module__": "inert", **made[kind]})


def _unpickled(path: Path) -> Any:
    """Read what torch.save wrote, with an inert object for each whose class torch does not know to be
    harmless.
    """
    import pickle

    import torch

    kinds: dict[str, str] = {}
    with contextlib.suppress(Exception):  # files of an old format name only the first
        kinds = dict.fromkeys(torch.serialization.get_unsafe_globals_in_checkpoint(path), "object")
    for _ in range(_MOST_CLASSES_OF_OBJECTS):
        try:
            inert: list[Any] = [(_inert(*item), item[0]) for item in kinds.items()]
            # A file that is open already: of a path, torch goes by its suffix.
            with path.open("rb") as file, torch.serialization.safe_globals(inert):
                content = torch.load(file, map_location="cpu", weights_only=True)
            break
        except pickle.UnpicklingError as error:
            if match := re.search(r"Unsupported global: GLOBAL ([\w.]+)", str(error)):
                name = match[1] if "." in match[1] else f"builtins.{match[1]}"
                kind = "object"
            elif match := re.search(r"Can only (\w+).*got <class 'inert\.([\w.]+)'>", str(error)):
                name, kind = match[2], "dict" if "SETITEM" in match[1] else "list"
            else:
                raise
            if kinds.get(name) == kind:
                raise
            kinds[name] = kind
    else:
        raise UsageError(
            f"the checkpoint {path} holds objects of too many classes.", "Save its state dict alone."
        )
    for value in (content, *(content.values() if isinstance(content, Mapping) else ())):
        if isinstance(value, _Inert) and "_modules" in getattr(value, "state", ()):
            raise _whole_module(path, type(value).__name__)
    return content


def _states(
    content: Any, place: str = "", depth: int = _DEPTH, seen: set[int] | None = None
) -> Iterator[StateDict]:
    """Yield every mapping of names to tensors in what a file holds, the outer ones first."""
    import torch

    seen = set() if seen is None else seen
    if not isinstance(content, Mapping) or not depth or id(content) in seen:
        return
    seen.add(id(content))  # a file may refer to its own parts, in circles too
    named = {key: value for key, value in content.items() if isinstance(key, str)}
    tensors = {key: value for key, value in named.items() if isinstance(value, torch.Tensor)}
    if tensors:
        for wrapper in _WRAPPERS:
            tensors = {key.replace(wrapper, ""): value for key, value in tensors.items()}
        yield StateDict(place, tensors)
    for key, value in named.items():
        yield from _states(value, f"{place}.{key}" if place else key, depth - 1, seen)


_CLASSES = re.compile(
    r"(class_?names|classes|class_to_idx|idx_to_class|id2label|label_names|names)$", re.IGNORECASE
)


def _class_names(content: Any, depth: int = _DEPTH) -> tuple[str, ...]:
    """Return the class names in a file of weights, () if there are none."""
    if not isinstance(content, Mapping) or not depth:
        return ()
    for key, value in content.items():
        if isinstance(key, str) and _CLASSES.match(key) and (names := class_names.parse(value)):
            return names
    candidates = (_class_names(value, depth - 1) for value in content.values())
    return next((names for names in candidates if names), ())
