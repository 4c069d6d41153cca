"""Weights of a file, as trainers write them, read and loaded into a network. No code that a file asks for is
run.

A file may nest its state dict and hold much besides: all of its state dicts are found, and the one that fits
best is taken (`weight_fit`).
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.errors import UsageError
from actors.vision.data import class_names
from actors.vision.networks.weight_fit import StateDict, absent_head, best_fit, converted_fit, some_of

if TYPE_CHECKING:
    import torch

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".pyth", ".th", ".pkl", ".index.json")
"""How the names of files with weights end."""

_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch.compile, FSDP and activation checkpointing put into names, at any depth."""
_DEPTH = 8
_MOST_CLASSES_OF_OBJECTS = 200


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
        fit = best_fit(module, self.states)
        notes = fit.notes(self.states)
        if fit.missing(module) and (converted := converted_fit(module, fit)) is not None:
            fit = converted
            notes.append("names converted by timm")
        if (head := absent_head(module, fit)) is not None:
            import torch

            module.set_submodule(head, torch.nn.Identity())
            fit = fit.of(module)
            notes.append(f"the file has no classifier ({head}), so the output is what that would be given")
        fit.check(self.path, module)
        if ignored := fit.ignored(module):
            notes.append(f"{len(ignored)} tensors of no part of the network ignored ({some_of(ignored)})")
        module.load_state_dict(fit.tensors, strict=False)
        outputs = [parameter.shape[:1] for parameter in module.parameters()][-1:]
        names = self.class_names if outputs == [(len(self.class_names),)] else ()
        return LoadedWeights(tuple(notes), head is None, names)


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
    return type(content).__name__ + (f" of {some_of(inside)}" if inside else "")


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
        raise UsageError(f"the files of the index {path} lack {len(lost)} of its tensors ({some_of(lost)}).")
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
