"""The atlas: all units of a run on one page, from files, without a server.

`atlas.js` in the report draws it from data that lie beside the page as scripts, since a page that was opened
from a file may not fetch. The first holds what the first screen needs: numbers as base64, and each label
once. Roles and other labels follow once that is drawn; what is shown of one unit lies in chunks that are
read when a unit is chosen.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import numpy as np

from agents.records.store import Store
from experiments.atlas import layout
from experiments.atlas.catalog import CatalogUnit, LabelTier
from experiments.atlas.words import WordVectors, kinds
from experiments.report import pages
from experiments.report.records import RunDirectory, text
from experiments.report.verdicts import SENTENCES, VERDICTS, key_of

CHUNK = 1000
"""Units of one file of details."""
FIRST = 200
"""Units that the page lists without scripts."""
COPY = 0.98
"""Cosine from which two units' strongest images count as the same."""
_TIERS: tuple[LabelTier, ...] = ("", "embedding", "agent")
_LONGEST_DESCRIPTION = 600


@dataclass(frozen=True, slots=True)
class AtlasFiles:
    """Files of an atlas, by the address at which the page has them."""

    page: str
    scripts: dict[str, str]


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the page finds what belongs to the run: relative addresses that end in a slash, or "" beside it.

    `report` is the folder of the unit pages, `run` that of the images.
    """

    report: str = ""
    run: str = "../"
    overview: str | None = "overview.html"
    """The page of counts, costs and scores, where there is one."""


class LabelPlaces(Protocol):
    """Remembers where labels lie on the map."""

    def read(self, labels: Sequence[str]) -> np.ndarray:
        """Return each label's place, float32 (T, 2) in [0, 1]; NaN of one that has none."""

    def keep(self, labels: Sequence[str], places: np.ndarray) -> None: ...


def make(run: RunDirectory, units: Sequence[CatalogUnit], at: Addresses, known: LabelPlaces) -> AtlasFiles:
    """Return the atlas of a run's units; labels whose places are `known` stay there, unless many are new."""
    labels = sorted({unit.label for unit in units if unit.label})
    place_of = {label: place for place, label in enumerate(labels)}
    label_of = np.array([place_of.get(unit.label, -1) for unit in units], np.int32)
    counts = np.bincount(label_of[label_of >= 0], minlength=len(labels))
    vectors = WordVectors.of(labels).matrix() if labels else None
    near = layout.neighbors(vectors) if labels else np.empty((0, layout.NEIGHBORS), np.int32)
    places = known.read(labels)
    if np.isnan(places).any():
        places = layout.project(vectors, counts, places)
        known.keep(labels, places)
    scripts = {
        "atlas/units.js": _units(units, labels, label_of, layout.spread(places, label_of), counts),
        "atlas/more.js": _more(units, labels, near),
    }
    for start in range(0, len(units), CHUNK):
        chunk = [_details(unit) for unit in units[start : start + CHUNK]]
        number = start // CHUNK
        scripts[f"atlas/details-{number}.js"] = f"MAIA_DETAILS[{number}] = {pages.script_value(chunk)};\n"
    return AtlasFiles(_page(run, units, at), scripts)


def _packed(values: Any, kind: str) -> str:
    """Return numbers as base64 of little-endian bytes, which a page reads as a typed array."""
    return base64.b64encode(np.ascontiguousarray(values, np.dtype(kind).newbyteorder("<")).tobytes()).decode()


def _units(
    units: Sequence[CatalogUnit],
    labels: Sequence[str],
    label_of: np.ndarray,
    points: np.ndarray,
    counts: np.ndarray,
) -> str:
    layers = list(dict.fromkeys(unit.layer for unit in units))
    layer_at = {layer: place for place, layer in enumerate(layers)}
    verdicts = ["", *VERDICTS]
    verdict_at = {key: place for place, key in enumerate(verdicts)}
    twins = Counter((unit.layer, unit.label) for unit in units if unit.label)
    shared = [
        unit.duplicate or (unit.likeness or 0) >= COPY or twins[unit.layer, unit.label] > 1 for unit in units
    ]
    scores = np.array([-1 if unit.score is None else unit.score for unit in units])
    return pages.as_script(
        "MAIA_ATLAS",
        {
            "count": len(units),
            "chunk": CHUNK,
            "layers": layers,
            "labels": labels,
            "verdicts": [[key, VERDICTS.get(key, "no verdict"), SENTENCES.get(key, "")] for key in verdicts],
            "tiers": [[tier, tier or "unnamed"] for tier in _TIERS],
            # The last value of the range says that a unit has no place on the map.
            "x": _packed(np.nan_to_num(points[:, 0] * 65534, nan=65535), "u2"),
            "y": _packed(np.nan_to_num(points[:, 1] * 65534, nan=65535), "u2"),
            "layer": _packed([layer_at[unit.layer] for unit in units], "u2"),
            "index": _packed(
                [-1 if unit.index is None else min(unit.index, 2**31 - 1) for unit in units], "i4"
            ),
            "label": _packed(label_of, "i4"),
            "verdict": _packed([verdict_at.get(key_of(unit.verdict), 0) for unit in units], "u1"),
            "tier": _packed([_TIERS.index(unit.tier) for unit in units], "u1"),
            "shared": _packed(shared, "u1"),
            "role": _packed([bool(unit.raises or unit.lowers) for unit in units], "u1"),
            "score": _packed(np.clip(scores, -1, 1) * 10_000, "i2"),
            "named": _packed(counts, "i4"),
        },
    )


def _more(units: Sequence[CatalogUnit], labels: Sequence[str], near: np.ndarray) -> str:
    """Return what is searched beside labels: kinds, outputs and other labels; and each label's nearest."""
    words: dict[str, int] = {}
    starts, entries = [0], []
    for unit in units:
        said = (*unit.raises, *unit.lowers, *unit.rivals)
        entries += [words.setdefault(each, len(words)) for each in dict.fromkeys(said)]
        starts.append(len(entries))
    return pages.as_script(
        "MAIA_ATLAS_MORE",
        {
            "kinds": [" ".join(kinds(label)) for label in labels],
            "words": list(words),
            "starts": _packed(starts, "i4"),
            "entries": _packed(entries, "i4"),
            "near": _packed(near, "i4"),
            "neighbors": layout.NEIGHBORS,
        },
    )


def _details(unit: CatalogUnit) -> list[Any]:
    """Return what is shown of one unit, in the order in which `atlas.js` reads it."""
    return [
        unit.short,
        f"units/{quote(unit.slug, safe='')}.html" if unit.slug else "",
        unit.description[:_LONGEST_DESCRIPTION],
        unit.raises,
        unit.lowers,
        unit.rivals,
        unit.thumbs,
        None if unit.score is None else round(unit.score, 4),
        None if unit.q is None else round(unit.q, 6),
        unit.alike,
        None if unit.likeness is None else round(unit.likeness, 4),
    ]


def _page(run: RunDirectory, units: Sequence[CatalogUnit], at: Addresses) -> str:
    verdicts = Counter(key_of(unit.verdict) for unit in units if unit.verdict)
    tiers = Counter(unit.tier for unit in units)
    layers = Counter(unit.layer for unit in units)
    return pages.render(
        "atlas.html",
        root="",
        run_name=text(run.manifest.get("name")) or run.root.resolve().name,
        model=text(run.manifest.get("model")),
        at=at,
        verdicts=VERDICTS,
        counts=[(verdict, verdicts[verdict]) for verdict in VERDICTS if verdicts[verdict]],
        tiers=[(tier, tiers[tier]) for tier in reversed(_TIERS) if tiers[tier]],
        layers=list(layers.items()),
        total=len(units),
        labeled=sum(bool(unit.label) for unit in units),
        first=[(unit, key_of(unit.verdict), _details(unit)[1]) for unit in units[:FIRST]],
        problems=run.problems,
    )


def write(store: Store, prefix: str, name: str, files: AtlasFiles) -> list[str]:
    """Write an atlas below a store, and return the keys of its files; details that are gone are removed.

    `prefix` is "" or a folder with its slash.
    """
    keys = []
    for address, content in (*files.scripts.items(), (name, files.page)):
        keys.append(f"{prefix}{address}")
        pages.write(store, keys[-1], content)
    for key in store.keys(f"{prefix}atlas"):
        if key not in keys and Path(key).name.startswith("details-"):
            store.remove(key)
    return keys
