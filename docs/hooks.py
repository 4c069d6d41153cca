"""What is made when the documentation is built: the page of the notebook as it last ran, the commands' own
help, and the styles and scripts of the gallery, which are the report's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    from experiments.report.pages import ASSETS
    from experiments.runs.gallery import GALLERY_ASSETS

    notebook = json.loads((DOCS / "study-a-unit.ipynb").read_text(encoding="utf-8"))
    files.append(File.generated(config, "study-a-unit.md", content=notebook_page(notebook)))
    files.append(File.generated(config, "commands.md", content=commands_page()))
    page = files.get_file_from_path("gallery/index.html")
    home = page.content_string.replace('class="home" href="index.html"', 'class="home" href="../index.html"')
    files.remove(page)
    files.append(File.generated(config, "gallery/index.html", content=home))
    for name in GALLERY_ASSETS:
        if (copied := files.get_file_from_path(f"gallery/assets/{name}")) is not None:
            files.remove(copied)
        files.append(File.generated(config, f"gallery/assets/{name}", abs_src_path=str(ASSETS / name)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point links to the notebook, which work in the repository, to its page."""
    return markdown.replace("(study-a-unit.ipynb)", "(study-a-unit.md)")


_SHIM = "https://unpkg.com/iframe-worker/shim"
"""What the theme's offline pages would fetch from elsewhere, so that search works from a file."""


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Let pages use this folder's own stand-in for a worker: they load nothing from elsewhere."""
    from mkdocs.utils import get_relative_url

    return output.replace(_SHIM, get_relative_url("frame_worker.js", page.url))


def on_post_template(output: str, **_: Any) -> str:
    return output.replace(_SHIM, "frame_worker.js")


def notebook_page(notebook: dict[str, Any]) -> str:
    """Return a notebook as Markdown: its text, its code, and what it showed."""
    parts: list[str] = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code":
            parts.append(f"```python\n{source}\n```")
            parts += [_shown(output) for output in cell["outputs"]]
    return "\n\n".join(parts) + "\n"


def _shown(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "text/html" in data:
        # One line: blank lines would end the HTML block.
        return "".join("".join(data["text/html"]).splitlines())
    text = "".join(data.get("text/plain", output.get("text", "")))
    return f"<pre>{escape(text)}</pre>"


def commands_page() -> str:
    """Return the help of every command, from the program itself."""
    import typer.main

    from experiments.cli.groups import grouped
    from experiments.cli.main import app

    parts = [
        "# Commands",
        "Every command takes `--help`.\n"
        "With `--json`, a command prints its result as one JSON object; everything else goes to stderr.\n"
        "Exit codes: 0 done, 1 something failed, 2 wrong use, 130 interrupted.\n"
        "Ctrl-C once ends a command gracefully (agents finish their round); twice ends it at once.\n"
        "`maia --install-completion` adds completion to your shell.",
    ]
    commands = list(_commands(typer.main.get_command(app), ()))
    for group, names in grouped(dict.fromkeys(path[0] for path, _ in commands)):
        rows = [_row(path, command) for name in names for path, command in commands if path[0] == name]
        parts.append("\n".join([f"| {group.lower()} | what it does |", "|---|---|", *rows]))
    for path, command in commands:
        with command.make_context("maia " + " ".join(path), [], resilient_parsing=True) as context:
            text = command.get_help(context)
        parts.append(f"## maia {' '.join(path)}\n\n```text\n{text}\n```")
    return "\n\n".join(parts) + "\n"


def _row(path: tuple[str, ...], command: Any) -> str:
    """Return a command's line of the summary: its name, which leads to its help, and the first sentence."""
    summary = " ".join(command.help.split()).partition(". ")[0].rstrip(".")
    return f"| [`maia {' '.join(path)}`](#maia-{'-'.join(path)}) | {summary} |"


def _commands(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*path, name))
        else:
            yield (*path, name), command
