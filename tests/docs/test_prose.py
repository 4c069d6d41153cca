"""The pages are plain: short sentences, one a line, standard words, and paths that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.evidence.verdict import VERDICTS

ROOT = Path(__file__).resolve().parent.parent.parent
GENERATED = {"configuration.md", "models.md", "endpoint-errors.md"}
"""Pages that are made by the program, whose words are in its source."""
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in GENERATED),
]
MAX_WORDS = 25

BANNED = (
    r"told|tells|foretell\w*|foretold|whoever|somebody|nobody|anybody|whosoever|"
    r"gone on with|goes on with|going on with|begun|beforehand|"
    r"colou?rful|colours?|neighbours?|behaviours?|grey|normalis\w*|summaris\w*|quantis\w*|recognis\w*|"
    r"licence|labell\w*|modelled|artefacts?|an? (?:image|round|unit|agent|request|second|page) an?"
)
"""The project's former private words, and British spelling."""

FOLDERS = "actors|agents|tools|experiments|benchmarks|tests|docs|deploy"

GENERATED_PART = re.compile(r"<!-- Made from .*?<!-- End of ", re.DOTALL)

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def text_of(page: Path) -> str:
    """Return a page with blank lines in place of what the program made."""
    text = page.read_text(encoding="utf-8")
    return GENERATED_PART.sub(lambda match: "\n" * match[0].count("\n"), text)


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) of a page without code, tables, headings and what links lead to.

    A blank text ends a paragraph.
    """
    fence = ""
    for number, line in enumerate(text_of(page).splitlines(), 1):
        mark = re.match(r"\s*(`{3,})", line)
        if mark and (not fence or mark[1] == fence):
            fence = "" if fence else mark[1]
            yield number, ""
        elif fence or line.startswith(("|", "#", "!", "<")):
            yield number, ""
        else:
            text = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", line)
            yield number, re.sub(r"`[^`]*`", "CODE", text)


def sentences(page: Path) -> Iterator[tuple[int, str]]:
    """Yield (line where it ends, text) of every sentence; an item of a list ends the one before."""
    parts: list[str] = []
    for number, text in prose(page):
        if parts and (not text.strip() or re.match(r"\s*(-|\d+\.)\s", text)):
            yield number, " ".join(parts)
            parts = []
        *whole, rest = re.split(r"(?<=[.!?:])(?:\*\*)?\s+(?=\S)", text.strip())
        for sentence in whole:
            yield number, " ".join([*parts, sentence])
            parts = []
        if rest:
            parts.append(rest)
        if parts and parts[-1].endswith((".", "!", "?", ":")):
            yield number, " ".join(parts)
            parts = []
    if parts:
        yield number, " ".join(parts)


@by_page
def test_a_sentence_has_at_most_25_words(page):
    words = ((number, re.findall(r"[\w'’-]+(?:[./][\w'’-]+)*", text)) for number, text in sentences(page))
    assert [f"{page.name}:{n}: {' '.join(w)}" for n, w in words if len(w) > MAX_WORDS] == []


@by_page
def test_a_line_has_one_sentence(page):
    """The term that begins an item of a list, in bold type, may end with a period."""
    several = re.compile(r"[.!?] +[A-Z`*\[]")
    lines = ((number, re.sub(r"^\s*(?:-|\d+\.) (\*\*.+?\*\* )?", "", text)) for number, text in prose(page))
    assert [f"{page.name}:{number}: {text}" for number, text in lines if several.search(text)] == []


@by_page
def test_words_are_standard(page):
    text = re.sub(r"`[^`\n]*`", "", text_of(page))
    banned = re.compile(rf"(?<![\w./-])(?:{BANNED})(?![\w/-])", re.IGNORECASE)
    assert [
        f"{page.name}:{number}: {match[0]}"
        for number, line in enumerate(text.splitlines(), 1)
        for match in banned.finditer(line)
    ] == []


@by_page
def test_paths_and_modules_exist(page):
    """A path with a word in capitals is a pattern (`experiments/NAME.json` of a run)."""
    text = page.read_text(encoding="utf-8")
    paths = set(re.findall(rf"(?<![\w./~-])((?:{FOLDERS})/[\w./-]*[\w/])", text))
    # A program's own object is called `tools`, too.
    modules = set(
        re.findall(r"(?<![\w./~(-])((?:actors|agents|experiments|benchmarks|tests)(?:\.\w+)+)", text)
    )
    missing = {path for path in paths if not re.search("[A-Z]{3}", path) and not (ROOT / path).exists()}
    missing |= {module for module in modules if not _module_exists(module)}
    assert missing == set()


def _module_exists(name: str) -> bool:
    """Return whether a dotted name is a module, or begins with one whose source has the rest's first name."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:end])
        source = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
        if source.exists():
            return end == len(parts) or parts[end] in source.read_text(encoding="utf-8")
        if path.is_dir():
            return end == len(parts)
    return False


def test_the_glossary_has_every_verdict():
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE) == list(VERDICTS)
