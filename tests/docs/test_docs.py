"""The documentation keeps up with the program."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from actors.embedded.drawing.grammar import parse_prompt
from actors.endpoint.catalogue import catalogue
from agents.evidence.verdict import MEANINGS
from experiments.reference import configuration as config_reference
from experiments.reference import formats as format_reference
from experiments.reference import models as models_reference
from experiments.report.figures import MEANINGS as FIGURES
from experiments.studies.notebook_tools import NotebookSystem, NotebookTools
from experiments.studies.session import StudySession

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def test_the_configuration_page_matches_the_settings():
    """If this fails: python -m experiments.reference.configuration"""
    assert config_reference.TARGET.read_text(encoding="utf-8") == config_reference.reference()


def test_the_page_of_formats_matches_the_record_types():
    """If this fails: python -m experiments.reference.formats"""
    written = format_reference.TARGET.read_text(encoding="utf-8")
    assert format_reference.START in written
    assert format_reference.page(written) == written


def test_the_page_of_models_matches_the_catalogue():
    """If this fails: python -m experiments.reference.models"""
    assert models_reference.TARGET.read_text(encoding="utf-8") == models_reference.reference()


def test_pages_and_profiles_name_no_hosted_model_that_ends():
    """By the day on which the list was checked; models.md itself lists which end."""
    listed = catalogue()
    ending = {model.id for model in (*listed.chat, *listed.images) if model.notice(listed.checked)}
    texts = [*PAGES, ROOT / "ray_config.yaml"]
    named = {
        (path.name, model)
        for path in texts
        if path != models_reference.TARGET
        for model in ending
        if re.search(rf"(?<![\w./-]){re.escape(model)}(?![\w.-])", path.read_text(encoding="utf-8"))
    }
    assert named == set()


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
        if not link.startswith(("http://", "https://")) and not (page.parent / link).exists()
    ]
    assert missing == []


def test_the_program_of_a_session_uses_existing_names():
    """It is written against the tools' own names, and for things that the stand-in can draw."""
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(# study\.py\n.*?)^```$", page, re.DOTALL | re.MULTILINE)
    tree = ast.parse(program)
    owners = {"study": StudySession, "tools": NotebookTools, "system": NotebookSystem}
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    used = [f for f in called if isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name)]
    assert {f.value.id for f in used} == owners.keys()
    assert [f.attr for f in used if not hasattr(owners[f.value.id], f.attr)] == []
    (prompts,) = (
        ast.literal_eval(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "prompts"
    )
    assert [prompt for prompt in prompts if parse_prompt(prompt).notes] == []


def test_the_lines_of_python_on_the_first_page_use_what_there_is():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    tree = ast.parse(program)
    names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    owners = {
        "StudySession": StudySession,
        "study": StudySession,
        "study.tools": NotebookTools,
        "study.system": NotebookSystem,
    }
    pairs = [(name.rpartition(".")[0], name.rpartition(".")[2]) for name in names - owners.keys()]
    assert [(owner, name) for owner, name in pairs if not hasattr(owners[owner], name)] == []


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("actors/vision/networks/zoo.py", "SOURCES"),
        ("actors/generation/settings.py", "GenerationSettings"),
        ("tools/sandbox/methods.py", "METHODS"),
        ("agents/tasks/__init__.py", "TASKS"),
    ],
)
def test_what_the_recipes_of_contributing_register_in_exists(path, name):
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert f"`{path}`" in page
    assert f"`{name}`" in page
    assert re.search(rf"^{name}\b", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)


def test_the_page_on_evidence_has_every_figure_by_its_name():
    page = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    table = page.partition("## Other figures on the page")[2].partition("## ")[0]
    assert set(re.findall(r"^\| ([^|`]+?) \|", table, re.MULTILINE)) - {"on the page"} == FIGURES.keys()
    headings = {heading.lower() for heading in re.findall(r"^### (.+)$", page, re.MULTILINE)}
    assert named_figures() <= headings


def named_figures() -> set[str]:
    """Return the names of the figures that decide, as the report writes them."""
    source = (ROOT / "experiments" / "report" / "figures.py").read_text(encoding="utf-8")
    return set(re.findall(r'Figure\(\s*"([a-z ]+)"', source))


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_the_result_shown_has_the_words_of_results(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    (block,) = (
        block for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) if "  specific: " in block
    )
    verdicts = dict(re.findall(r"^([a-z][a-z ]*): (.+[.])$", block, re.MULTILINE))
    assert verdicts.items() <= MEANINGS.items()
    assert len(verdicts) == 1
    assert set(re.findall(r"(?:^  |; )([a-z ]+): ", block, re.MULTILINE)) == named_figures()


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
