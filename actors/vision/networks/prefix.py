"""The tokens before the patches that a library's network declares, in order: what `blocks.9@cls` stands for.

They are read from what each library states about its networks. Nothing is inferred from a token's place: the
first token of a network without a class token is a patch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from actors.errors import UsageError
from actors.vision.readout.places import CLS

if TYPE_CHECKING:
    import torch

_CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")
_REGISTERS = ("reg_token", "register_tokens")
_DISTILLATION = ("dist_token", "distillation_token")
_HOLDERS = ("", "embeds", "embeddings", "model.embeddings", "vision_model.embeddings")
"""Modules that hold these parameters, in timm, torchvision, open_clip and transformers."""


def declared_prefix(module: torch.nn.Module) -> tuple[str, ...] | None:
    """Return the names of a network's prefix tokens ("" for one without a name), None if it declares none.

    All libraries put the class token first, then a distillation token, then registers.
    """
    for inner in ("timm_model", "trunk"):  # timm inside transformers, and inside open_clip
        module = getattr(module, inner, module)
    n_declared = getattr(module, "num_prefix_tokens", None)  # of timm
    found = [names for holder in _holders(module) if (names := _named(holder))]
    if isinstance(n_declared, int):
        names = found[0] if found else ()
        # Of the tokens of a variant that this list does not know, none has a name.
        return names if len(names) == n_declared else ("",) * n_declared
    return found[0] if found else None


def _holders(module: torch.nn.Module) -> list[torch.nn.Module]:
    # A classifier of transformers holds its encoder under its family's name.
    family = str(getattr(module, "base_model_prefix", ""))
    paths = [*_HOLDERS, *(f"{family}.{path}".rstrip(".") for path in _HOLDERS if family)]
    modules = dict(module.named_modules())
    return [modules[path] for path in paths if path in modules]


def _named(holder: torch.nn.Module) -> tuple[str, ...]:
    def tensor(names: Sequence[str]) -> Any:
        values = (getattr(holder, name, None) for name in names)
        return next((value for value in values if hasattr(value, "shape")), None)

    registers = tensor(_REGISTERS)
    n_registers = 0 if registers is None else int(registers.shape[-2])
    return (
        *([CLS] if tensor(_CLASS_TOKENS) is not None else []),
        *([""] if tensor(_DISTILLATION) is not None else []),
        *(f"register{number}" for number in range(n_registers)),
    )


def checked_prefix(given: int | Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the prefix tokens that a person's own network names, or their number.

    Raises:
        UsageError: If a name is neither "cls" nor a register's, a register is not in its place, or is there
            twice.
    """
    if given is None or isinstance(given, int):
        return None if given is None else ("",) * given
    names = tuple(given)
    registers = [name for name in names if re.fullmatch(r"register\d+", name)]
    rest = [name for name in names if name not in registers and name != ""]
    in_order = registers == [f"register{number}" for number in range(len(registers))]
    first = names.index(registers[0]) if registers else 0
    together = list(names[first : first + len(registers)]) == registers
    if isinstance(given, str) or rest not in ([], [CLS]) or not in_order or not together:
        raise UsageError(
            f"prefix_tokens names the tokens before the patches, got {given!r}.",
            'Give their names in order, such as ["cls", "register0", "register1"], with "" for others; '
            "or their number alone.",
        )
    return names
