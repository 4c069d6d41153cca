"""`maia find` in a run: which of its units something was said of that a person's words, or image, mean.

Answered from what the run has on record, without a model for words; then, if asked for, confirmed by images
of the concept, as `maia find` measures the units of a layer.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.errors import UsageError
from actors.vision.readout.base import Unit
from experiments.atlas.search_index import UnitHit, open_index
from experiments.records.names import UnitName
from experiments.records.trust import Trust, network_of
from experiments.report.records import RunDirectory
from experiments.setup.console import Console
from experiments.setup.selection import Selection
from experiments.studies.find import ConceptQuery, SelectiveUnits, confirm_units, shorten


@dataclass(frozen=True, slots=True)
class RunQuery:
    """What a person looks for in a run, and where."""

    concept: str
    run: Path
    layer: str = ""
    """Of one layer alone; "" of all."""
    top: int = 10


@dataclass(frozen=True, slots=True)
class FoundUnits:
    """The units of a run of which the words were said, best first."""

    query: str
    run: str
    model: str
    n_units: int
    """Units that were searched."""
    seconds: float
    """Time of the search, without the time to read or make the index."""
    units: list[UnitHit]
    confirmed: SelectiveUnits | None = None
    """What images of the concept say of them, where that was asked for."""
    problems: list[str] = field(default_factory=list)
    """What is damaged in the run."""


def search(query: RunQuery) -> FoundUnits:
    """Return the units of a run whose labels, roles or descriptions are like the query's words.

    Raises:
        UsageError: If there is no such run or layer, nothing was said of any unit, or there are no words.
    """
    if not query.concept.strip():
        raise UsageError("there is no concept to find.", 'Name one, such as "forested backgrounds".')
    run = RunDirectory(query.run)
    index = open_index(run)
    if not index.texts:
        raise UsageError(
            f"nothing is said of any unit of {query.run} yet.",
            "Label its units with maia sweep; or measure a layer: maia find CONCEPT MODEL LAYER.",
        )
    if query.layer and query.layer not in index.layers:
        some = ", ".join(index.layers[:8])
        raise UsageError(f"{query.run} has no layer {query.layer!r}.", f"It has {some}.")
    began = time.perf_counter()
    hits = index.search(query.concept, query.top, query.layer)
    took = time.perf_counter() - began
    model = str(run.manifest.get("model") or "")
    return FoundUnits(
        query.concept, str(query.run), model, len(index), round(took, 5), hits, problems=run.problems
    )


async def confirm(
    console: Console, selection: Selection, found: FoundUnits, asked: ConceptQuery, trust: Trust
) -> SelectiveUnits:
    """Return what images of the concept say of the units that were found.

    Raises:
        UsageError: If nothing was found, or the network is of this machine and is not trusted.
    """
    names = [UnitName.parse(hit.unit) for hit in found.units]
    units = [
        Unit(name.layer, name.index, _kind(name))
        for name in names
        if name.index is not None and not name.source
    ]
    if not units:
        raise UsageError("no unit was found that images could confirm.", "Use other words.")
    network = network_of(RunDirectory(Path(found.run)).manifest, asked.model or None, trust)
    query = ConceptQuery(found.query, network, "", asked.n_images, asked.top, asked.seed)
    return await confirm_units(console, selection, query, units)


def _kind(name: UnitName) -> Any:
    return name.kind


def table(found: FoundUnits) -> Any:
    """Return the units as a table for a terminal."""
    from rich.table import Table

    from experiments.setup.console import counted, plain

    title = f"{plain(shorten(found.query, 60))} in {counted(found.n_units, 'unit')} of {plain(found.run)}"
    if not found.units:
        return f"{title}: nothing was said that is like it"
    shown = Table(title=title, title_justify="left", box=None)
    for name in ("unit", "label", "verdict", "named by", "matched", "similarity"):
        shown.add_column(name, justify="right" if name == "similarity" else "left")
    for hit in found.units:
        matched = hit.matched if hit.text == hit.label else f"{hit.matched}: {shorten(hit.text, 40)}"
        shown.add_row(
            plain(UnitName.parse(hit.unit).short),
            plain(shorten(hit.label, 50) or "–"),
            hit.verdict or "–",
            hit.tier or "–",
            plain(matched),
            f"{hit.similarity:.2f}",
        )
    return shown
