"""`maia find` in a run: which of its units something was said of that a person's words, or image, mean.

Answered from what the run has on record, without a model for words; then, if asked for, confirmed by images
of the concept, as `maia find` measures the units of a layer.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.embedding.settings import BuiltinEmbedding, EmbeddingSettings
from actors.errors import UsageError
from actors.images import Image, ImageDecodeError, decode
from actors.vision.readout.base import Unit
from agents.records.journal import Blobs
from experiments.atlas import catalog
from experiments.atlas.search_index import CLOSE, SearchIndex, UnitHit, open_index
from experiments.records.lookup import read_manifest
from experiments.records.names import UnitName
from experiments.records.trust import Trust, network_of
from experiments.report.records import RunDirectory, mapping
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
    image: Path | None = None
    """A picture to look for in place of words."""


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
    close: bool = True
    """Whether one of them is a good match; where none is, they are the nearest."""
    confirmed: SelectiveUnits | None = None
    """What images of the concept say of them, where that was asked for."""
    problems: list[str] = field(default_factory=list)
    """What is damaged in the run."""


def search(query: RunQuery, settings: EmbeddingSettings | None = None) -> FoundUnits:
    """Return the units of a run whose labels, roles or descriptions are like the query's words, or say what
    its image shows by the embedder of `settings`.

    Raises:
        UsageError: If there is no such run, layer or image, nothing was said of any unit, there are no words,
            or the embedder cannot be used here.
    """
    settings = settings or BuiltinEmbedding()
    if query.image is None and not query.concept.strip():
        raise UsageError("there is no concept to find.", 'Name one, such as "forested backgrounds".')
    run = RunDirectory(query.run)
    index = open_index(run)
    if not index.texts:
        raise UsageError(
            f"nothing is said of any unit of {query.run} yet.",
            "Label its units with maia sweep; or measure a layer: maia find MODEL LAYER CONCEPT.",
        )
    if query.layer and query.layer not in index.layers:
        some = ", ".join(index.layers[:8])
        raise UsageError(f"{query.run} has no layer {query.layer!r}.", f"It has {some}.")
    model = str(run.manifest.get("model") or "")
    began = time.perf_counter()
    if query.image is not None:
        hits = _search_image(run, index, query, settings)
    else:
        hits = index.search(query.concept, query.top, query.layer)
    took = round(time.perf_counter() - began, 5)
    asked = query.concept if query.image is None else str(query.image)
    # The cosines of an image and a text have no threshold that holds for every embedder.
    close = bool(hits) if query.image is not None else any(hit.similarity >= CLOSE for hit in hits)
    return FoundUnits(asked, str(query.run), model, len(index), took, hits, close, problems=run.problems)


def _search_image(
    run: RunDirectory, index: SearchIndex, query: RunQuery, settings: EmbeddingSettings
) -> list[UnitHit]:
    """Return the units of which something was said that an image shows; first those it is an exemplar of."""
    from experiments.atlas.embeddings import image_similarities, open_embedder

    image = _picture(query.image)
    drawn = str(mapping(run.manifest.get("settings")).get("dataset") or "").startswith("scenes:")
    embedder = open_embedder(settings, str(run.manifest.get("model") or ""), drawn)
    similarities = image_similarities(embedder, image, index.texts, run.store)
    called = np.array([], np.intp)
    if run.store.has(Blobs.key(image.id)):
        units = {unit.unit for unit in catalog.read(run) if image.id in unit.exemplars}
        called = np.flatnonzero([name in units for name in index.names])
    own = {index.names[place] for place in called}
    hits = index.rank(similarities, query.top, query.layer, called, least=1e-6)
    return [
        replace(hit, matched="exemplar", text=image.id, similarity=1.0) if hit.unit in own else hit
        for hit in hits
    ]


def _picture(path: Path | None) -> Image:
    """Return the image in a file.

    Raises:
        UsageError: If it cannot be read, or is no image.
    """
    assert path is not None
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).", "Name a picture.") from error
    except ImageDecodeError as error:
        raise UsageError(
            f"{path} is no image that can be read: {error.message}", "Name a picture."
        ) from error


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
    network = network_of(read_manifest(Path(found.run)), asked.model or None, trust)
    query = ConceptQuery(found.query, network, "", asked.n_images, asked.top, asked.seed)
    return await confirm_units(console, selection, query, units)


def _kind(name: UnitName) -> Any:
    return name.kind


def table(found: FoundUnits) -> Any:
    """Return the units as a table for a terminal."""
    from rich.table import Table

    from experiments.setup.console import counted, plain

    where = f"{counted(found.n_units, 'unit')} of {found.run}"
    if not found.units:
        return plain(f"nothing like {shorten(found.query, 60)} was said of the {where}")
    title = f"{shorten(found.query, 60)}: the best of {where}"
    if not found.close:
        title = f"nothing said of the {where} is close to {shorten(found.query, 60)}; the nearest:"
    shown = Table(title=title, title_justify="left", box=None)
    for name in ("unit", "label", "verdict", "named by", "matched", "similarity"):
        shown.add_column(name, justify="right" if name == "similarity" else "left")
    for hit in found.units:
        field = "rejected guess" if hit.matched == "other label" and not hit.label else hit.matched
        matched = field if hit.text == hit.label else f"{field}: {shorten(hit.text, 40)}"
        shown.add_row(
            UnitName.parse(hit.unit).short,
            shorten(hit.label, 50) or "–",
            hit.verdict or "–",
            hit.tier or "–",
            matched,
            f"{hit.similarity:.2f}",
        )
    return shown
