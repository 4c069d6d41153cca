"""The pages of experiments and audits: every `experiments/*.json` of a run, whatever it holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError

from agents.records.run_files import RecordError, parse_json
from experiments.records.names import without_home
from experiments.report import charts, pages
from experiments.report.gallery import Picture
from experiments.report.records import RunDirectory, text
from experiments.report.schema import Bars, Block, Contrast, Estimate, ImageGrid, Lines, Page, ScatterPlot

_LARGEST = 16 << 20
_RAW_LIMIT = 200_000


@dataclass(frozen=True, slots=True)
class ExperimentLink:
    """A page of an experiment, as an overview names it."""

    title: str
    summary: str
    href: str


def write_all(run: RunDirectory) -> list[ExperimentLink]:
    """Write a page for each experiment; return links to them in order of the files' names."""
    written = []
    for key in keys(run):
        name = Path(key).stem
        try:
            page, title, content = _page(run, key)
            pages.write(run.store, f"report/experiments/{name}.html", content)
        except RecordError as error:
            run.problems.append(error.message.replace(f"{run.root}/", ""))
            continue
        href = f"experiments/{quote(name, safe='')}.html"
        written.append(ExperimentLink(title, page.summary if page else "", href))
    return written


def keys(run: RunDirectory) -> list[str]:
    """Return the files of a run's experiments."""
    paths = (Path(key) for key in run.store.keys("experiments"))
    return [path.as_posix() for path in paths if path.suffix == ".json" and len(path.parts) == 2]


def newest(run: RunDirectory) -> list[tuple[str, int]]:
    """Return each experiment's file with its date, in nanoseconds."""
    states = ((key, run.store.status(key)) for key in keys(run))
    return [(Path(key).name, status.st_mtime_ns) for key, status in states if status is not None]


def _page(run: RunDirectory, key: str) -> tuple[Page | None, str, str]:
    path = Path(key)
    raw = stored(run, key)
    page, problem = read(raw)

    def picture(image: str, caption: str, activation: float | None) -> Picture:
        layers = [f"../../{layer}" for layer in run.image(image)]
        alt_text = caption or f"image {image[:8]}"
        return Picture(
            layers[0] if layers else None,
            alt_text if activation is None else f"{alt_text}; activation {activation:.2f}",
            caption,
            activation,
            masks=tuple(layers[1:]),
        )

    def drawn(block: Block) -> dict[str, Any]:
        """Return what a template needs beside the block itself."""
        if isinstance(block, ImageGrid):
            return {"pictures": [picture(f.image, f.caption, f.activation) for f in block.figures]}
        if isinstance(block, Contrast):
            sides = [[picture(f.image, f.caption, f.activation) for f in side.images] for side in block.sides]
            return {"sides": sides}
        if isinstance(block, Bars | ScatterPlot | Lines):
            draw: Any = {"bars": charts.bars, "scatter": charts.scatter, "lines": charts.lines}[block.kind]
            legend = [(name, color) for name, color in charts.styled(block) if name]
            return {"plot": draw(block), "legend": legend}
        return {}

    title = page.title if page else path.stem
    content = pages.render(
        "experiment.html",
        run_name=text(run.manifest.get("name")) or run.root.resolve().name,
        root="../",
        title=title,
        page=page,
        blocks=[(block, drawn(block)) for block in page.blocks] if page else [],
        is_measured=lambda cell: isinstance(cell, Estimate),
        is_number=lambda cell: isinstance(cell, int | float) and not isinstance(cell, bool),
        problem=problem,
        raw="" if page else without_home(raw[:_RAW_LIMIT].decode("utf-8", "replace")),
        file_name=path.name,
    )
    return page, title, content


def stored(run: RunDirectory, key: str) -> bytes:
    """Return an experiment's file, which `read` parses.

    Raises:
        RecordError: If it cannot be read, or is too large.
    """
    raw = run.store.get(key) or b""
    if len(raw) > _LARGEST:
        raise RecordError(f"{key} is too large for a page: at most {_LARGEST >> 20} MiB are shown.")
    return raw


def read(raw: bytes) -> tuple[Page | None, str]:
    """Return the page in a file's text, without home folders, or None and what is wrong with it."""
    try:
        content = without_home(parse_json(raw, Path("it")))
        if isinstance(content, dict) and "page" in content:
            content = content["page"]
        return Page.model_validate(content), ""
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'the file'}: {problem['msg']}"
            for problem in error.errors()[:5]
        )
        return None, problems
    except RecordError as error:
        return None, f"it is not JSON: {error.message}"
