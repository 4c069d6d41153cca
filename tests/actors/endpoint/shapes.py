"""The recorded shapes of errors, and the page of the documentation that shows them.

`python -m tests.actors.endpoint.shapes` writes docs/endpoint-errors.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from actors.endpoint.error_body import read_body

HERE = Path(__file__).resolve().parent
TARGET = HERE.parents[2] / "docs" / "endpoint-errors.md"
SHAPES: list[dict[str, Any]] = yaml.safe_load((HERE / "endpoint_shapes.yaml").read_text(encoding="utf-8"))
_MAX = 90

_INTRODUCTION = """# What endpoints answer

Servers report the same fault differently.
Each answer is read in any shape, and becomes one of these kinds:

| kind | what is done |
|---|---|
| `rate_limited` | everyone waits as long as the server asks, and fewer requests are sent at once |
| `overloaded`, `timeout` | tried again with growing pauses |
| `too_long` | old images are left out, or the answer is given fewer tokens |
| `too_many_images` | old images are left out, within the number that the server names |
| `filtered` | an answer: what was shown last is left out, and the study continues; three in a row end it |
| `rejected` | a field, role or image that the server refuses is left out or renamed; else the request fails |
| `no_vision`, `no_model`, `no_access`, `bad_key`, `no_quota` | the run stops with advice; it can be resumed |

What was learned is remembered for the endpoint and recorded with the answer.

The table has real answers, copied by hand from vendors' documentation and public reports.
No endpoint was called for it.
A test reads each of them, and `python -m tests.actors.endpoint.shapes` makes this page from the same file.

| server | situation | HTTP | kind | its words |
|---|---|---|---|---|
"""


def sent(shape: dict[str, Any]) -> bytes:
    """Return the bytes that the server of a shape sends."""
    body = shape["body"]
    return (body if isinstance(body, str) else json.dumps(body)).encode()


def page() -> str:
    """Return docs/endpoint-errors.md."""
    rows = [
        f"| {shape['server']} | {shape['situation']} | {shape['status']} | `{shape['kind']}` "
        f"| {_words(shape)} |"
        for shape in SHAPES
    ]
    return _INTRODUCTION + "\n".join(rows) + "\n"


def _words(shape: dict[str, Any]) -> str:
    words = " ".join(read_body(sent(shape)).words.split())
    cut = words if len(words) <= _MAX else f"{words[: _MAX - 1]}…"
    for mark in "\\|`*_[]<>":
        cut = cut.replace(mark, f"\\{mark}")
    return cut


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
