"""The API page that the model is shown, made from the signatures and docstrings of the child's classes.

The page cannot drift from what programs find, because it is read off the same classes.
"""

from __future__ import annotations

import inspect
import re
from functools import cache

from tools.sandbox.child.dialects import DIALECTS
from tools.sandbox.settings import Dialect

_PROGRAMS = """\
Programs are Python. Two objects are ready in every program: `system`, the unit under study, and `tools`.
Besides them there are numpy, PIL and the standard library; there is no network, no file and no other
process. Variables, functions and imports keep their values from one program to the next. What a program
prints or displays is what you see of it.
"""
_IMAGES: dict[Dialect, str] = {
    "maia2": """\
An image is a PIL image (size, crop, resize, paste, numpy.asarray(image) ...). Images that you make or
change with PIL or numpy (RGB, uint8) can be given to every method that takes images, and a single image
can stand for a list of one.
""",
    "paper": """\
An image is the base64 text of a PNG; do not print it. A program may define
`run_experiment(system, tools)`, which is called once after the program unless the program calls it. Images
that you make with PIL or numpy (RGB, uint8) can be given to every method that takes images, and a single
image can stand for a list of one.
""",
}
_METHODS: dict[Dialect, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "maia2": (
        ("call_neuron", "exemplars", "intervene"),
        (
            "dataset_exemplars",
            "text2image",
            "edit_images",
            "describe_images",
            "summarize_images",
            "display",
        ),
    ),
    "paper": (
        ("neuron", "exemplars"),
        (
            "dataset_exemplars",
            "text2image",
            "edit_images",
            "describe_images",
            "summarize_images",
            "log_experiment",
            "display",
        ),
    ),
}
"""Methods of `system` and of `tools` that the page shows, in order."""


@cache
def api_page(dialect: Dialect = "maia2", interventions: bool = True) -> str:
    """Return the page of a dialect as text; the paper's never has `interventions`, which its API lacks."""
    parts = [f"{_PROGRAMS}\n{_IMAGES[dialect]}"]
    for name, kind, methods in zip(("system", "tools"), DIALECTS[dialect], _METHODS[dialect], strict=True):
        parts.append(f"{name}: {inspect.getdoc(kind)}\n")
        for method in methods:
            if method == "intervene" and not interventions:
                continue
            function = getattr(kind, method)
            about = _indented(inspect.getdoc(function) or "")
            parts.append(f"{name}.{method}{_signature(function, dialect)}\n{about}\n")
    return "\n".join(parts)


def _signature(function: object, dialect: Dialect) -> str:
    text = str(inspect.signature(function))  # type: ignore[arg-type]
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)  # annotations are kept as strings
    text = text.replace("ImageHandle", "Image" if dialect == "maia2" else "str")
    return re.sub(r"\bAny\b", "object", text.replace("(self, ", "(").replace("(self)", "()"))


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines())
