"""The API page that the model is shown, made from the signatures and docstrings of the child's classes.

The page cannot drift from what programs find, because it is read off the same classes.
"""

from __future__ import annotations

import inspect
import re
from functools import cache

from tools.sandbox.child.api import System, Tools

_FRAME = """\
Programs are Python. Two objects are ready in every program: `system`, the unit under study, and `tools`.
Besides them there are numpy, PIL and the standard library; there is no network, no file and no other
process. Variables, functions and imports keep their values from one program to the next. What a program
prints or displays is what you see of it.

An image is a PIL image (size, crop, resize, paste, numpy.asarray(image) ...) and stands for its own
base64 PNG where text is expected. Images that you make or change with PIL or numpy (RGB, uint8) can be
given to every method that takes images, and a single image can stand for a list of one.
"""


@cache
def api_page() -> str:
    """Return the page as text."""
    parts = [_FRAME]
    for name, kind in (("system", System), ("tools", Tools)):
        parts.append(f"{name}: {inspect.cleandoc(kind.__doc__ or '')}\n")
        for method, function in vars(kind).items():
            if not method.startswith("_") and inspect.isfunction(function):
                parts.append(
                    f"{name}.{method}{_signature(function)}\n{_indented(inspect.cleandoc(function.__doc__ or ''))}\n"
                )
    return "\n".join(parts)


def _signature(function: object) -> str:
    text = str(inspect.signature(function))  # type: ignore[arg-type]
    text = (
        text.replace("'", "").replace("ImageHandle", "Image").replace("(self, ", "(").replace("(self)", "()")
    )
    return re.sub(r"\bAny\b", "object", text)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines())
