"""Weights and configurations of dictionaries, read without running anything that a file holds.

Pickles are loaded with `weights_only`; classes that they name (a library's configuration object, a whole
module) become `Stub`s, which keep the attributes and have no code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from actors.errors import UsageError

CONFIGS = ("cfg.json", "config.json")

_WEIGHTS = ("sae_weights.safetensors", "sae.safetensors", "ae.pt")
_ARCHIVE = b"PK\x03\x04"
"""The first bytes of what torch.save writes since version 1.6."""
_SUFFIXES = (".safetensors", ".pt", ".pth")
_OTHER_FILES = frozenset(
    {"sparsity", "activation_whitening", "activations_store_state", "trainer_state", "optimizer"}
)
"""Files that training writes next to the weights."""


class Stub:
    """Stands for an object whose class, `full_name`, is not loaded, with the attributes that were pickled."""

    full_name: ClassVar[str] = ""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    @property
    def class_name(self) -> str:
        return self.full_name.rpartition(".")[2]


@dataclass(frozen=True)
class DictionaryFiles:
    """The files of a dictionary: tensors by name, the configuration, and the pickled object if any."""

    path: Path
    tensors: Mapping[str, torch.Tensor]
    config: Mapping[str, Any]
    config_path: Path | None
    root: object = None
    """The unpickled content of a .pt file."""
    _used: set[str] = field(default_factory=set)

    @property
    def config_name(self) -> str:
        return str(self.config_path or self.path)

    def tensor(self, name: str, *shape: int) -> torch.Tensor:
        """Return the tensor of that name and shape.

        Raises:
            UsageError: If it is missing or of another shape.
        """
        tensor = self.optional(name, *shape)
        if tensor is None:
            raise UsageError(
                f"{self.path} holds no tensor {name!r}, which its configuration ({self.config_name}) needs.",
                f"It holds {', '.join(sorted(self.tensors))}: give the files as their library saved them.",
            )
        return tensor

    def optional(self, name: str, *shape: int) -> torch.Tensor | None:
        tensor = self.tensors.get(name)
        self._used.add(name)
        if tensor is None:
            return None
        if tuple(tensor.shape) != shape or not tensor.is_floating_point():
            raise UsageError(
                f"the tensor {name!r} of {self.path} is {tuple(tensor.shape)} {tensor.dtype}; "
                f"its configuration ({self.config_name}) needs floating point of shape {shape}."
            )
        return tensor

    def scalar(self, name: str) -> float | None:
        """Return a number that was saved as a tensor, None if there is none."""
        tensor = self.tensors.get(name)
        self._used.add(name)
        return None if tensor is None else float(tensor)

    def count(self, name: str, k: float | None, latents: int) -> int:
        """Return how many latents a position keeps.

        Raises:
            UsageError: If the configuration gives none, or more than there are.
        """
        if k is None or k != int(k) or not 1 <= k <= latents:
            raise UsageError(
                f"{self.config_name} must give {name} from 1 to {latents} (its latents), it gives {k}."
            )
        return int(k)

    def ignore(self, *names: str) -> None:
        self._used.update(names)

    def refuse_unused(self, what: str) -> None:
        """Raise UsageError if tensors are left that `what` has no use for."""
        unused = sorted(self.tensors.keys() - self._used)
        if unused:
            raise UsageError(
                f"{self.path} holds {', '.join(map(repr, unused))}, which {what} does not use.",
                f"The configuration ({self.config_name}) and the weights do not belong together: check both.",
            )


class DictionaryConfig(BaseModel):
    """The keys of a configuration that determine the codes. Others, except `ignored_keys`, are refused."""

    model_config = ConfigDict(extra="allow", frozen=True)
    ignored_keys: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str) -> Self:
        """Return the facts in `values`; `where` names their file.

        Raises:
            UsageError: If a value is not read, or an unknown key asks for something.
        """
        try:
            facts = cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"][:1]))
            if first["type"] == "missing":
                raise UsageError(
                    f"{where} does not say {key!r}, without which the codes are not determined.",
                    f"Add {key!r} as the dictionary was trained.",
                ) from None
            raise UsageError(
                f"{where} asks for {key} = {first['input']!r}, which is not read: {first['msg']}.",
                "Encode with the library that wrote the file, or name another dictionary.",
            ) from None
        for key, value in (facts.model_extra or {}).items():
            # An option that is off asks for nothing.
            if key not in cls.ignored_keys and value and value != "none":
                raise UsageError(
                    f"{where} asks for {key} = {value!r}, which is not known and may change the codes.",
                    f"If it does not, take the key {key!r} out of the file.",
                )
        return facts


def read(path: str) -> tuple[DictionaryFiles, str]:
    """Return what a file or folder holds, and a digest of its weights and configuration.

    Raises:
        UsageError: If there is nothing to read, or it cannot be read safely.
    """
    weights = _weights(Path(path).expanduser())
    config_path = _config_path(weights)
    config = {} if config_path is None else read_json(config_path)
    if weights.suffix == ".safetensors":
        tensors, metadata = _safetensors(weights)
        return DictionaryFiles(weights, tensors, config or _from_text(metadata), config_path), _digest(
            weights, config_path
        )
    root = _torch_file(weights)
    return DictionaryFiles(weights, _tensors(root), config, config_path, root), _digest(weights, config_path)


def read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is not a readable configuration: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} must hold an object of settings, it holds a {type(content).__name__}.")
    return content


def _weights(path: Path) -> Path:
    if path.is_file():
        if path.suffix not in _SUFFIXES:
            raise UsageError(
                f"dictionaries are read from {', '.join(_SUFFIXES)} or a folder, got {str(path)!r}.",
                "Load it with the library that wrote it, and save its state dict as .safetensors.",
            )
        return path
    if not path.is_dir():
        raise UsageError(f"there is no file or folder {str(path)!r} to read a dictionary from.")
    for name in _WEIGHTS:
        if (path / name).is_file():
            return path / name
    files = [f for f in sorted(path.iterdir()) if f.suffix in _SUFFIXES and f.stem not in _OTHER_FILES]
    if len(files) == 1:
        return files[0]
    choices = files or sorted({f.parent for suffix in _SUFFIXES for f in path.glob(f"*/*{suffix}")})
    raise UsageError(
        f"the folder {str(path)!r} holds {'several dictionaries' if choices else 'no dictionary'}.",
        f"Name one of {', '.join(str(f) for f in choices[:20])}."
        if choices
        else f"A dictionary has a {', '.join(_SUFFIXES)} file.",
    )


def _config_path(weights: Path) -> Path | None:
    # Checkpoints of training lie in a folder below their configuration.
    folders = [weights.parent, *([weights.parent.parent] if weights.parent.name == "checkpoints" else [])]
    return next((f / name for f in folders for name in CONFIGS if (f / name).is_file()), None)


def _safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as opened:
            names = opened.keys()
            return {name: opened.get_tensor(name) for name in names}, dict(opened.metadata() or {})
    except SafetensorError as error:
        raise UsageError(f"{path} is not a readable safetensors file: {error}") from error


def _from_text(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """Return a configuration that was kept as text in a file's metadata."""
    config: dict[str, Any] = {}
    for key, text in metadata.items():
        try:
            config[key] = json.loads(text)
        except ValueError:
            config[key] = text
    config.pop("format", None)  # of safetensors itself
    return config


def _torch_file(path: Path) -> object:
    with path.open("rb") as file:
        archive = file.read(len(_ARCHIVE)) == _ARCHIVE
    if not archive:
        raise UsageError(
            f"{path} is no archive of torch.save: an old pickle, a layout that is not read, or damaged.",
            "Load it with the library that wrote it, and save its state dict as .safetensors.",
        )
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        stubs: list[Any] = [
            (type(name.rpartition(".")[2], (Stub,), {"full_name": name}), name) for name in names
        ]
        with torch.serialization.safe_globals(stubs):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # damaged pickles and archives raise anything
        raise UsageError(
            f"{path} cannot be read safely: {type(error).__name__}: {str(error)[:200]}",
            "Save the state dict alone, with torch.save or as .safetensors.",
        ) from error


def _tensors(root: object) -> dict[str, torch.Tensor]:
    """Return the tensors of a state dict, of a dictionary that holds one, or of a pickled module."""
    if isinstance(root, Stub):
        return dict(_module_tensors(vars(root), ""))
    if not isinstance(root, Mapping):
        return {}
    for key in ("state_dict", "ae"):
        if isinstance(root.get(key), Mapping):
            return _tensors(root[key])
    return {
        str(name): value.detach() if isinstance(value, torch.Tensor) else torch.tensor(value)
        for name, value in root.items()
        if isinstance(value, torch.Tensor | int | float)
    }


def _module_tensors(attributes: Mapping[str, Any], prefix: str) -> list[tuple[str, torch.Tensor]]:
    own = {**attributes.get("_parameters", {}), **attributes.get("_buffers", {})}
    tensors = [
        (prefix + name, value.detach()) for name, value in own.items() if isinstance(value, torch.Tensor)
    ]
    for name, module in attributes.get("_modules", {}).items():
        if isinstance(module, Stub):
            tensors += _module_tensors(vars(module), f"{prefix}{name}.")
    return tensors


def _digest(*paths: Path | None) -> str:
    whole = hashlib.blake2b(digest_size=8)
    for path in paths:
        if path is not None:
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, hashlib.blake2b).digest())
    return whole.hexdigest()
