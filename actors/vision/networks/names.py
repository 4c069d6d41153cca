"""Checks of networks' names that take milliseconds: nothing is imported, built or downloaded.

The registered names are read from the libraries' source text, since importing them takes seconds. What only a
loaded network knows (layers, weights on a hub) is checked when it is loaded.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path

from actors import hub
from actors.errors import UsageError

_REGISTERED = re.compile(r"^@register_model\b(?:\(([^)]*)\))?.*?^def (\w+)", re.MULTILINE | re.DOTALL)
_QUOTED = re.compile(r"""["'](\w+)["']""")


def unknown(source: str, name: str, names: list[str]) -> UsageError:
    """Return the error that a source has no such network, with the nearest that it has."""
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.5) or sorted(names)[:5]
    return UsageError(f"{source} has no network {name!r}.", f"The nearest are {', '.join(near)}.")


def check_timm(name: str) -> None:
    known = registered("timm")
    architecture = name.partition(".")[0]
    if known and architecture not in known:
        raise unknown("timm", name, sorted(known))
    if name == architecture:
        return
    tags = {
        tag for text in _texts("timm") for tag in re.findall(rf"['\"]({re.escape(architecture)}\.\w+)", text)
    }
    if tags and name not in tags:
        raise unknown("timm", name, sorted(tags))


def check_torchvision(name: str) -> None:
    known = registered("torchvision")
    if known and name not in known:
        raise unknown_in_torchvision(name, sorted(known))


def unknown_in_torchvision(name: str, known: list[str]) -> UsageError:
    """Return the error that torchvision has no classifier `name`; it says so if the network is for another
    task.
    """
    for task in ("detection", "segmentation", "video", "optical_flow", "quantization"):
        if name in registered("torchvision", task):
            detects = " with detects=91 for the classes of COCO" if task == "detection" else ""
            return UsageError(
                f"torchvision's {name!r} is a network for {task.replace('_', ' ')}, "
                "which is not loaded by name.",
                f"Build it in a file of your own{detects}: python:FILE:FUNCTION (docs/own-network.md).",
            )
    return unknown("torchvision", name, known)


def check_transformers(name: str) -> None:
    hub.require("hf: networks", "transformers")
    hub.local_folder(model_and_module(name)[0])


def model_and_module(name: str) -> tuple[str, str]:
    """Return a model of transformers and the path of a module inside it, given after #; "" is the whole."""
    if "#" not in name or Path(name).expanduser().exists():
        return name, ""
    model, _, module = name.rpartition("#")
    return model, module


def check_timm_hub(name: str) -> None:
    hub.local_folder(name)


def check_open_clip(name: str) -> None:
    hub.require("open_clip: networks", "open_clip", install="pip install open-clip-torch")
    if name.startswith(hub.OPEN_CLIP_FOLDERS):
        return
    spec = importlib.util.find_spec("open_clip")
    folders = (spec.submodule_search_locations if spec else None) or ()
    known = [path.stem for folder in folders for path in (Path(folder) / "model_configs").glob("*.json")]
    architecture = name.partition(":")[0]
    if known and architecture not in known:
        raise unknown("open_clip", architecture, known)


def check_python(target: str) -> None:
    """Raise UsageError for a missing file or module, a file that is not Python, or a missing factory."""
    where, _, attribute = target.rpartition(":")
    if not where or not attribute.isidentifier():
        raise UsageError(f"write python:package.module:factory, got 'python:{target}'")
    if not where.endswith(".py"):
        package = where.partition(".")[0]
        # The spec of a top-level name alone: looking for a submodule would import its parents. Every finder
        # is asked, for a package that is installed editable has one of its own.
        if (
            package not in sys.modules
            and importlib.util.find_spec(package) is None
            and PathFinder.find_spec(package, [str(Path.cwd())]) is None
        ):
            raise UsageError(
                f"there is no module {where!r}.", "Install it, or run from the folder that holds it."
            )
        return
    path = Path(where).expanduser()
    if not path.is_file():
        raise UsageError(f"there is no file {where!r}.")
    source = path.read_bytes()
    try:
        tree = ast.parse(source, filename=where)
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{where} cannot be read as Python: {error}") from error
    if not re.search(rf"\b{attribute}\b", source.decode(errors="replace")):
        names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        raise no_factory(where, attribute, names)


def no_factory(where: str, attribute: str, names: list[str]) -> UsageError:
    """Return the error that a module has no such factory, with the nearest that it has."""
    near = difflib.get_close_matches(attribute, names, n=5, cutoff=0.3) or names[:5]
    return UsageError(
        f"{where} has no factory {attribute!r}.", f"It has {', '.join(near)}." if near else "It defines none."
    )


CHECKS: Mapping[str, Callable[[str], None]] = {
    "timm": check_timm,
    "hf-hub": check_timm_hub,
    "torchvision": check_torchvision,
    "hf": check_transformers,
    "open_clip": check_open_clip,
    "python": check_python,
}
"""The check of a name by prefix. Each raises UsageError for a name that does not exist."""


@cache
def registered(library: str, folder: str = "") -> frozenset[str]:
    """Return the networks that `timm` or `torchvision` registers by name, in a folder of its models if one is
    given.

    None if its source cannot be read.
    """
    networks = set()
    for text in _texts(library, folder):
        for arguments, function in _REGISTERED.findall(text):
            named = _QUOTED.search(arguments)
            networks.add(named[1] if named else function)
    return frozenset(networks)


@cache
def _texts(library: str, folder: str = "") -> tuple[str, ...]:
    spec = importlib.util.find_spec(library)
    folders = (spec.submodule_search_locations if spec else None) or ()
    return tuple(
        path.read_text(encoding="utf-8", errors="replace")
        for installed in folders
        for path in sorted((Path(installed) / "models" / folder).glob("*.py"))
    )
