"""The index of a run's units by what was said of them: an array file in the run, made again when stale.

Texts are kept once, however many units share them, and a query is compared with texts, not with units. So
fifty thousand units are searched in milliseconds.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from actors.errors import MaiaError
from agents.evidence.verdict import HOLDING
from agents.records.run_files import MAX_BYTES, RecordError, parse_arrays, parse_json
from agents.records.store import Store
from experiments.atlas import catalog
from experiments.atlas.catalog import CatalogUnit
from experiments.atlas.words import LONGEST, WordVectors, features
from experiments.report.records import RunDirectory

KEY = "search/units.npz"
EDITION = 1
"""Of the file's form; files of others are made again."""
Field = Literal["label", "other label", "raises", "lowers", "description", "unit", "exemplar"]
FIELDS: tuple[Field, ...] = get_args(Field)
_WEIGHTS = np.array([1.0, 0.75, 0.6, 0.45, 0.5, 1.0, 1.0], np.float32)
"""What a match of each field counts: the label says what drives a unit, a role only what it does."""
LEAST = 0.15
"""Weighted similarity below which nothing is said to match: two phrases may share a common word."""
CLOSE = 0.5
"""Similarity from which a text is a good match: what is of the kind that a query names has as much."""
_ALIKE = 0.1
"""Weighted similarities of one such step count as equal: the verdict on the label decides then."""
_STANDING = (*HOLDING, "partial", "weak", "untested")
"""Verdicts on a label, best first; all others are alike."""


@dataclass(frozen=True, slots=True)
class UnitHit:
    """A unit that a search found."""

    unit: str
    layer: str
    index: int | None
    label: str
    tier: str
    verdict: str
    score: float | None
    matched: Field
    """In which field the best match was found."""
    text: str
    """What it says there."""
    similarity: float
    """Cosine similarity with that text, in [0, 1]."""
    page: str
    """The unit's page below the run's `report/`; "" of a unit that was not studied."""


@dataclass(frozen=True, slots=True)
class SearchIndex:
    """What search needs of a run, as arrays. Entry `i` says that unit `units[i]` has text `texts_of[i]` in
    field `fields[i]`; entries are in order of units.
    """

    names: Sequence[str]
    layers: Sequence[str]
    layer_of: np.ndarray
    """int32 (U,): place in `layers`."""
    texts: Sequence[str]
    labels: np.ndarray
    """int32 (U,): the text that is the unit's label, -1 without one."""
    tiers: np.ndarray
    verdicts: Sequence[str]
    standing: np.ndarray
    """uint8 (U,): place in `verdicts`."""
    scores: np.ndarray
    """float32 (U,), NaN where unknown."""
    studied: np.ndarray
    units: np.ndarray
    fields: np.ndarray
    texts_of: np.ndarray
    vectors: WordVectors

    @classmethod
    def of(cls, units: Sequence[CatalogUnit]) -> SearchIndex:
        """Return the index of units."""
        places: dict[str, int] = {}
        entries: list[tuple[int, int, int]] = []
        for place, unit in enumerate(units):
            for field, text in _said(unit):
                known = places.setdefault(text[:LONGEST], len(places))
                entries.append((place, FIELDS.index(field), known))
        verdicts = sorted({unit.verdict for unit in units})
        layers = {layer: place for place, layer in enumerate(dict.fromkeys(unit.layer for unit in units))}
        columns = np.array(entries, np.int32).reshape(-1, 3).T
        return cls(
            [unit.unit for unit in units],
            list(layers),
            np.array([layers[unit.layer] for unit in units], np.int32),
            list(places),
            np.array([places[unit.label] if unit.label else -1 for unit in units], np.int32),
            np.array([get_args(catalog.LabelTier).index(unit.tier) for unit in units], np.uint8),
            verdicts,
            np.array([verdicts.index(unit.verdict) for unit in units], np.uint8),
            np.array([np.nan if unit.score is None else unit.score for unit in units], np.float32),
            np.array([bool(unit.slug) for unit in units]),
            columns[0],
            columns[1],
            columns[2],
            WordVectors.of(list(places)),
        )

    def __len__(self) -> int:
        return len(self.names)

    def search(self, query: str, top: int, layer: str = "") -> list[UnitHit]:
        """Return at most `top` units, best first, of all layers or of one.

        A unit is as good as its best field. Of units that are nearly as good, those come first whose label is
        what matches and has the better verdict, then the more similar, then those that the label fits better.
        """
        return self.rank(self.vectors.similarities(query), top, layer, self._called(query))

    def rank(
        self,
        similarities: np.ndarray,
        top: int,
        layer: str = "",
        called: np.ndarray | None = None,
        least: float = LEAST,
    ) -> list[UnitHit]:
        """Return the units whose texts are most similar, by the similarity of each text, float (T,).

        Units at `called` come first, as the query is their name. Weighted similarities below `least` say
        nothing.
        """
        weighted = similarities[self.texts_of] * _WEIGHTS[self.fields]
        best = self._best(weighted)
        steps = _steps(best)
        by_label = self._best(np.where(self.fields == FIELDS.index("label"), weighted, 0))
        standing = np.where(_steps(by_label) >= steps, self._standing(), len(_STANDING) + 1)
        if called is not None:
            best[called] = np.inf
        if layer:
            best[self.layer_of != (self.layers.index(layer) if layer in self.layers else -1)] = 0
        found = np.flatnonzero(best >= least)
        steps[np.isinf(best)] = np.inf
        scores = -np.nan_to_num(self.scores[found], nan=-1.0)
        order = np.lexsort((scores, -best[found], standing[found], -steps[found]))[:top]
        return [self._hit(int(unit), similarities, weighted, least) for unit in found[order]]

    def _best(self, weighted: np.ndarray) -> np.ndarray:
        """Return the best of each unit's entries, float32 (U,), 0 of a unit without any."""
        best = np.zeros(len(self), np.float32)
        if len(weighted):
            first = np.flatnonzero(np.diff(self.units, prepend=-1))
            best[self.units[first]] = np.maximum.reduceat(weighted, first)
        return best

    def _standing(self) -> np.ndarray:
        """Return the place of each unit's verdict among those on labels, (U,), best first."""
        places = [_STANDING.index(v) if v in _STANDING else len(_STANDING) for v in self.verdicts]
        standing: np.ndarray = np.array(places)[self.standing]
        return standing

    def _hit(self, unit: int, similarities: np.ndarray, weighted: np.ndarray, least: float) -> UnitHit:
        from urllib.parse import quote

        from agents.records.journal import slug
        from experiments.records.names import UnitName

        name = UnitName.parse(self.names[unit])
        first, last = np.searchsorted(self.units, [unit, unit + 1])
        entry = first + int(weighted[first:last].argmax()) if last > first else -1
        known = entry >= 0 and weighted[entry] >= least
        label = self.texts[self.labels[unit]] if self.labels[unit] >= 0 else ""
        score = float(self.scores[unit])
        return UnitHit(
            name.id,
            name.layer,
            name.index,
            label,
            get_args(catalog.LabelTier)[self.tiers[unit]],
            self.verdicts[self.standing[unit]],
            score if np.isfinite(score) else None,
            FIELDS[self.fields[entry]] if known else "unit",
            self.texts[self.texts_of[entry]] if known else name.short,
            round(float(similarities[self.texts_of[entry]]), 4) if known else 1.0,
            f"units/{quote(slug(name.id), safe='')}.html" if self.studied[unit] else "",
        )

    def _called(self, query: str) -> np.ndarray:
        """Return the units of that name, with or without the network's."""
        name = query.strip()
        if ":" not in name:
            return np.empty(0, np.intp)
        return np.flatnonzero([f"/{each}".endswith(f"/{name}") for each in self.names])

    def to_bytes(self, sources: object) -> bytes:
        """Return the index as an array file; `sources` is what it was made of."""
        vectors = self.vectors
        texts: dict[str, Any] = {name: list(getattr(self, name)) for name in _LISTS}
        texts |= {"features": list(vectors.columns), "sources": sources, "edition": EDITION}
        target = io.BytesIO()
        np.savez(
            target,
            said=np.frombuffer(json.dumps(texts).encode(), np.uint8),
            **{name: getattr(self, name) for name in _ARRAYS},
            **{name: getattr(vectors, name) for name in _VECTOR_ARRAYS},
        )
        return target.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, sources: object) -> SearchIndex | None:
        """Return the index in a file, None if it is damaged, of another form, or made of other sources."""
        try:
            # As it was written: nothing in it is packed.
            stored = parse_arrays(data, Path(KEY), MAX_BYTES)
            said: dict[str, Any] = parse_json(stored["said"].tobytes(), Path(KEY))
            if said["edition"] != EDITION or said["sources"] != sources:
                return None
            columns = {name: place for place, name in enumerate(said["features"])}
            vectors = WordVectors(
                columns, **{name: stored[name] for name in _VECTOR_ARRAYS}, count=len(said["texts"])
            )
            arrays: dict[str, Any] = {name: stored[name] for name in _ARRAYS}
            index = cls(vectors=vectors, **{name: said[name] for name in _LISTS}, **arrays)
            return index if index._is_whole() else None
        except (RecordError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def _is_whole(self) -> bool:
        """Return whether no array points outside of another: the file may have been made by a stranger."""
        n, n_texts, vectors = len(self.names), len(self.texts), self.vectors
        n_features, n_weights = len(vectors.columns), len(vectors.weights)
        one_each = (self.layer_of, self.labels, self.tiers, self.standing, self.scores, self.studied)
        return bool(
            all(array.shape == (n,) for array in one_each)
            and self.units.shape == self.fields.shape == self.texts_of.shape == (len(self.units),)
            and vectors.starts.shape == (n_features + 1,)
            and vectors.frequency.shape == (n_features,)
            and vectors.rows.shape == vectors.weights.shape == (n_weights,)
            and _within(self.layer_of, 0, len(self.layers))
            and _within(self.labels, -1, n_texts)
            and _within(self.tiers, 0, len(get_args(catalog.LabelTier)))
            and _within(self.standing, 0, len(self.verdicts))
            and _within(self.units, 0, n)
            and bool((np.diff(self.units) >= 0).all())
            and _within(self.fields, 0, len(FIELDS))
            and _within(self.texts_of, 0, n_texts)
            and _within(vectors.rows, 0, n_texts)
            and _within(vectors.starts, 0, n_weights + 1)
            and all(isinstance(text, str) for name in _LISTS for text in getattr(self, name))
        )


_LISTS = ("names", "layers", "texts", "verdicts")
_ARRAYS = ("layer_of", "labels", "tiers", "standing", "scores", "studied", "units", "fields", "texts_of")
_VECTOR_ARRAYS = ("frequency", "starts", "rows", "weights")


def _steps(similarities: np.ndarray) -> np.ndarray:
    """Return how many whole steps of `_ALIKE` there are, float (U,); single precision falls short of some."""
    steps: np.ndarray = np.floor(similarities / _ALIKE + 1e-6)
    return steps


def _within(values: np.ndarray, least: int, end: int) -> bool:
    if not np.issubdtype(values.dtype, np.integer):
        return False
    return not values.size or bool(values.min() >= least and values.max() < end)


def _said(unit: CatalogUnit) -> list[tuple[Field, str]]:
    """Return what is said of a unit in words, by field."""
    said: list[tuple[Field, str]] = [("label", unit.label)]
    said += [("other label", label) for label in unit.rivals]
    said += [("raises", _first_name(output)) for output in unit.raises]
    said += [("lowers", _first_name(output)) for output in unit.lowers]
    said.append(("description", unit.description))
    return [(field, text) for field, text in said if text]


def _first_name(output: str) -> str:
    """Return the first of a class's names: "tabby, tabby cat" is "tabby"."""
    return output.split(",")[0].strip() or output


def open_index(run: RunDirectory) -> SearchIndex:
    """Return the index of a run, made or made again if its records have changed; it is kept in the run.

    A run that cannot be written to is searched all the same.
    """
    sources = catalog.sources(run)
    try:
        kept = run.store.get(KEY)
    except RecordError:
        kept = None
    if kept is not None and (index := SearchIndex.from_bytes(kept, sources)) is not None:
        return index
    index = SearchIndex.of(catalog.read(run))
    _keep(run.store, index.to_bytes(sources))
    features.cache_clear()
    return index


def _keep(store: Store, data: bytes) -> None:
    try:
        store.replace(KEY, data)
    except (OSError, MaiaError):
        return
