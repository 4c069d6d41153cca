"""What a run says of every unit, in one place: labels of agents and of embeddings, roles, and the screening.

A unit that an agent studied has the agent's label. Of the others the label that an embedding gave, if any.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

from agents.evidence.verdict import verdict_of
from agents.records import run_files
from agents.records.journal import slug as slug_of
from agents.records.run_files import RecordError
from experiments.atlas.words import LONGEST
from experiments.records.names import UnitName
from experiments.report.records import RunDirectory, mapping, number, sequence, text

LABELS, ROLES = "labels.jsonl", "roles.jsonl"
LabelTier = Literal["agent", "embedding", ""]
"""What named a unit."""
_THUMBS = 3
_LONGEST_LINE = 1 << 20
_MOST_LINES = 1_000_000
_MOST_OUTPUTS = 5


@dataclass(frozen=True, slots=True)
class CatalogUnit:
    """A unit as search and atlas know it; what is unknown is empty."""

    unit: str
    layer: str
    index: int | None
    short: str
    label: str = ""
    tier: LabelTier = ""
    verdict: str = ""
    """In the words of `agents.evidence.verdict`; "" of a unit of which nothing was said."""
    score: float | None = None
    """AUROC of the label: an agent's on fresh images, an embedding's over the data set."""
    q: float | None = None
    """False-discovery rate at which an embedding's label is accepted."""
    rivals: tuple[str, ...] = ()
    """Labels that fit nearly as well."""
    description: str = ""
    raises: tuple[str, ...] = ()
    """Outputs that the unit raises on its exemplars, strongest first; random changes may do as much."""
    lowers: tuple[str, ...] = ()
    slug: str = ""
    """The folder of its study; "" of a unit that was not studied."""
    thumbs: tuple[tuple[str, ...], ...] = ()
    """Strongest images: of each the paths of its layers below the run directory."""
    exemplars: tuple[str, ...] = ()
    """Their content ids, unmasked."""
    alike: str = ""
    """The unit whose strongest images are most alike."""
    likeness: float | None = None
    """The cosine of their embeddings; 1 of a duplicate."""
    duplicate: bool = False
    """Whether the screening found it to repeat the unit `alike`, activation by activation."""


def read(run: RunDirectory) -> list[CatalogUnit]:
    """Return the units of a run, by layer and number; what is damaged is added to `run.problems`."""
    found: dict[str, CatalogUnit] = {}
    for unit in (*_planned(run), *_screened(run), *_embedded(run), *_studied(run)):
        known = found.get(unit.unit)
        found[unit.unit] = unit if known is None else _joined(known, unit)
    for name, raised, lowered in _roles(run):
        unit = found.get(name) or _unit(name)
        found[name] = replace(unit, raises=unit.raises or raised, lowers=unit.lowers or lowered)
    layers = {layer: place for place, layer in enumerate(dict.fromkeys(u.layer for u in found.values()))}
    units = sorted(found.values(), key=lambda unit: (layers[unit.layer], unit.index or 0, unit.unit))
    return [_named_as_its_twin(unit, found) for unit in units]


def sources(run: RunDirectory) -> list[list[int | str]]:
    """Return what changes whenever a record does that a catalog is made of."""
    store = run.store
    files = (LABELS, ROLES, "manifest.json", "plan.json", "screening.json")
    results = (f"units/{slug}/done.json" for slug in store.folders("units"))
    states = ((key, store.status(key)) for key in (*files, *results))
    return [[key, state.st_mtime_ns, state.st_size] for key, state in states if state is not None]


def _unit(name: str, **known: Any) -> CatalogUnit:
    parsed = UnitName.parse(name)
    return CatalogUnit(parsed.id, parsed.layer, parsed.index, parsed.short, **known)


def _joined(known: CatalogUnit, later: CatalogUnit) -> CatalogUnit:
    """Return what both say of a unit; where both say something, an agent's word, else the later."""
    if later.tier == "agent" or not later.label:
        rivals = tuple(dict.fromkeys(filter(None, (known.label, *known.rivals, *later.rivals))))
        return replace(
            later,
            rivals=tuple(label for label in rivals if label != later.label) if later.label else later.rivals,
            alike=later.alike or known.alike,
            likeness=known.likeness if later.likeness is None else later.likeness,
            duplicate=known.duplicate,
        )
    return replace(later, duplicate=known.duplicate)


def _named_as_its_twin(unit: CatalogUnit, found: Mapping[str, CatalogUnit]) -> CatalogUnit:
    """Return a duplicate, which no agent studies, with what is known of the unit that it repeats."""
    twin = found.get(unit.alike)
    if unit.label or not unit.duplicate or twin is None:
        return unit
    return replace(unit, label=twin.label, tier=twin.tier, verdict=twin.verdict, score=twin.score, q=twin.q)


def _planned(run: RunDirectory) -> Iterator[CatalogUnit]:
    for name in run.plan:
        yield _unit(name, verdict="in progress")


def _screened(run: RunDirectory) -> Iterator[CatalogUnit]:
    model = text(run.manifest.get("model"))
    for layer, rows in run.screening.items():
        for row in map(mapping, sequence(rows)):
            index, verdict, of = row.get("unit"), text(row.get("verdict")), row.get("of")
            if not isinstance(index, int) or verdict == "alive":
                continue
            dead = "dead" if verdict in ("dead", "constant") else ""
            twin = f"{model}/{layer}:{of}" if isinstance(of, int) else ""
            likeness = 1.0 if twin else None
            name = f"{model}/{layer}:{index}"
            yield _unit(name, verdict=dead, alike=twin, likeness=likeness, duplicate=bool(twin))


def _embedded(run: RunDirectory) -> Iterator[CatalogUnit]:
    for row in _lines(run, LABELS):
        label = _label(row.get("label"))
        others = (_label(row.get(name)) for name in ("best", "runner_up", "wpmi_label"))
        name, alike = _full(run, row), row.get("alike")
        dead = "dead" if text(row.get("reason")) == "dead" else ""
        yield _unit(
            name,
            label=label,
            tier="embedding" if label else "",
            verdict="untested" if label else dead,
            score=number(row.get("auroc")) if label else None,
            q=number(row.get("q")),
            rivals=tuple(dict.fromkeys(other for other in others if other and other != label)),
            alike=f"{name.rpartition(':')[0]}:{alike}" if isinstance(alike, int) else "",
            likeness=number(row.get("redundancy")),
        )


def _studied(run: RunDirectory) -> Iterator[CatalogUnit]:
    for slug in run.slugs():
        try:
            done = run.store.read_object(f"units/{slug}/done.json")
        except (OSError, RecordError) as error:
            run.problems.append(f"units/{slug}/done.json: {error}")
            continue
        name = text(mapping(done).get("unit"))
        if done is None or slug_of(name) != slug:
            continue
        exemplars = list(map(mapping, sequence(done.get("exemplars"))))
        role = mapping(mapping(done.get("role")).get("found"))
        label = _label(done.get("label"))
        thumbs = (run.image(exemplar.get("image")) for exemplar in exemplars[:_THUMBS])
        yield _unit(
            name,
            label=label,
            tier="" if not label else "embedding" if done.get("tier") == "embedding" else "agent",
            verdict=verdict_of(done),
            score=number(mapping(done.get("evidence")).get("auroc")),
            description=text(done.get("description")),
            raises=_outputs(role.get("raised")),
            lowers=_outputs(role.get("lowered")),
            slug=slug,
            thumbs=tuple(filter(None, thumbs)),
            exemplars=tuple(filter(None, (text(each.get("source")) for each in exemplars))),
        )


def _roles(run: RunDirectory) -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    for row in _lines(run, ROLES):
        role = mapping(row.get("role"))
        yield _full(run, row), _outputs(role.get("raised")), _outputs(role.get("lowered"))


def _full(run: RunDirectory, row: dict[str, Any]) -> str:
    """Return a table's unit with the network in front, as studies name it: tables name it `LAYER:INDEX`."""
    name, model = text(row.get("unit")), text(run.manifest.get("model"))
    return name if not model or name.startswith(f"{model}/") else f"{model}/{name}"


def raw_lines(run: RunDirectory, key: str) -> Iterator[bytes]:
    """Yield the lines of a table; that it cannot be read, or is too long, is added to `run.problems`."""
    try:
        handle = run_files.open_file(run.root, key)
        if handle is not None:
            with os.fdopen(handle, "rb") as file:
                lines = iter(lambda: file.readline(_LONGEST_LINE), b"")
                if os.fstat(handle).st_size <= run_files.MAX_TABLE:
                    yield from islice(lines, _MOST_LINES)
                if next(lines, b""):
                    run.problems.append(
                        f"{key} is longer than any run's: {_MOST_LINES:,} lines of a file of at most "
                        f"{run_files.MAX_TABLE >> 20:,} MiB are read"
                    )
    except (OSError, RecordError) as error:
        run.problems.append(f"{key} cannot be read: {error}")


def _outputs(effects: Any) -> tuple[str, ...]:
    names = (_label(mapping(effect).get("name")) for effect in sequence(effects)[:_MOST_OUTPUTS])
    return tuple(filter(None, names))


def _label(value: Any) -> str:
    return text(value)[:LONGEST]


def _lines(run: RunDirectory, key: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a table, a line each, that name a unit; a damaged line is left out and said so."""
    damaged = 0
    for line in raw_lines(run, key):
        try:
            row = json.loads(line.decode())
            if b"\\u" in line:  # perhaps half of a surrogate pair, which has no UTF-8 and cannot be printed
                row = json.loads(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace"))
        except (ValueError, RecursionError):
            damaged += 1
            continue
        if isinstance(row, dict) and text(row.get("unit")):
            yield row
        else:
            damaged += 1
    if damaged:
        run.problems.append(f"{key}: {damaged} lines are damaged, and were left out")
