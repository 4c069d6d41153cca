"""The documentation keeps up with the program."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from experiments import config_reference

ROOT = Path(__file__).resolve().parent.parent.parent
GENERATED = {"study-a-unit.md", "commands.md"}
"""Pages that `docs/hooks.py` makes when the documentation is built."""
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_configuration_page_is_what_the_settings_say():
    """If this fails: python -m experiments.config_reference"""
    assert config_reference.TARGET.read_text(encoding="utf-8") == config_reference.reference()


def test_every_setting_has_a_meaning():
    page = config_reference.reference()
    empty = re.findall(r"^\| `(\w+)` \| [^|]* \|  \|$", page, re.MULTILINE)
    assert empty == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    text = page.read_text(encoding="utf-8")
    missing = [
        link
        for link in re.findall(r"\]\(([^)#\s]+)", text)
        if not link.startswith(("http://", "https://"))
        and not (page.parent / link).exists()
        and not (page.parent.name == "docs" and link in GENERATED)
    ]
    assert missing == []


def test_the_example_of_a_task_is_one():
    """What the page on extensions shows can be copied."""
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    (task_class,) = re.findall(r"^````python\n(.*?)^````$", page, re.DOTALL | re.MULTILINE)
    (script,) = re.findall(r"^```python\n(import asyncio.*?)^```$", page, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(compile(task_class, "extending.md", "exec"), names)
    task = names["TextureOrShape"]()
    assert "[LABEL]" in task.opening()
    assert task.read_answer("[LABEL]: shape").labels == ("SHAPE",)
    assert task.read_answer("I do not know yet") is None
    compile(script, "extending.md", "exec")
