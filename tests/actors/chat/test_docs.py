"""Every piece of configuration that docs/language-models.md shows is one that the program takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from actors.chat.settings import ChatSettings, OpenAIChat

PAGE = Path(__file__).parents[3] / "docs" / "language-models.md"
parse = TypeAdapter(ChatSettings).validate_python


def blocks() -> Iterator[str]:
    yield from re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


def models(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping below a key `interpreter` or `observers`."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("interpreter", "observers"):
                yield inner
            else:
                yield from models(inner)


@pytest.mark.parametrize("block", [*blocks()])
def test_the_configuration_shown_is_taken(block: str) -> None:
    if "import_path" in block:
        pytest.skip("configuration of Ray Serve")
    # A block may show the same key twice, as alternatives.
    pieces = re.split(r"\n(?=# |interpreter:)", block)
    found = 0
    for piece in pieces:
        value = yaml.safe_load(piece)
        if piece.startswith(" "):  # a fragment of a model's settings
            OpenAIChat(model="m", **value)
            found += 1
        for model in models(value):
            parse(model)
            found += 1
    assert found
