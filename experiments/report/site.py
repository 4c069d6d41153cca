"""The whole site of a run: an index of all units, a page a unit, a layer and an experiment.

Only what changed is written again: the summaries of all units are kept beside the pages, each with the
state of the records it was made from, so that a finished unit is read once.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

from markupsafe import Markup

from agents.records.run_files import RecordError
from agents.records.store import Store
from experiments.records import journal_scan
from experiments.records.reuse import reuse
from experiments.report import experiment_page, layer_page, pages, plots, unit_page
from experiments.report.figures import GATES, MEANINGS
from experiments.report.records import RunDirectory, mapping, sequence, text
from experiments.report.summary import Summary
from experiments.report.verdicts import SENTENCES, VERDICTS

COLUMNS = (
    "href",
    "layer",
    "index",
    "short",
    "label",
    "role",
    "verdict",
    "auroc",
    "low",
    "high",
    "e_value",
    "rounds",
    "images",
    "tokens",
    "thumbs",
)
"""Fields of a summary that the index's table is made of, in the order of its rows."""


class FrontPage(Protocol):
    """A page that takes the overview's place in front where a run is fit for it."""

    def state(self, run: RunDirectory) -> list[tuple[str, float]]:
        """Return what changes whenever a record does that the page is made of, beside those of units."""

    def write(self, run: RunDirectory) -> list[str]:
        """Write `report/index.html` and what belongs to it, or nothing; return the keys written."""


OVERVIEW = "report/overview.html"
"""The overview of a report that has another front page."""


def write(run_dir: Path, front: FrontPage | None = None, *, anew: str = "") -> Path:
    """Write what is missing or older than its records; return the index.

    Where a `front` page was written, the overview is `overview.html`. The page of the unit `anew` is written
    whether or not its records seem to have changed.
    What lies in `report/` and was not written there by this machine is written again or removed.

    Raises:
        UsageError: If there is no such directory.
        RecordError: If `report` or a folder in it is a link.
    """
    run = RunDirectory(run_dir)
    store = run.store
    kept = [*pages.write_assets(store), _write_figures(run)]
    known = _Summaries(store)
    plan = run.plan_state()
    summaries, changed = [], False
    for slug in run.slugs():
        state, page = f"{run.state(slug)} {plan}", f"report/units/{slug}.html"
        summary = None if slug == anew else known.get(slug, state, page)
        if summary is None:
            unit = run.unit(slug)
            try:
                summary = unit_page.write_page(run, unit)
            except RecordError as error:
                run.problems.append(error.message.replace(f"{run.root}/", ""))
                continue
            known.put(slug, state, page, summary)
            changed = True
        summaries.append(summary)
        kept += [page, *(f"report/units/{slug}.html" for slug in summary.repeats)]
    shown_in_front = front.state(run) if front is not None else []
    changed |= known.others_changed([*experiment_page.newest(run), *_reuse(run), *shown_in_front])
    changed |= known.forget_others({unit.slug for unit in summaries}) or not known.site_is_whole()
    if changed:
        layers = layer_page.write_all(run, summaries)
        experiments = experiment_page.write_all(run)
        pages.write(store, "report/units.js", pages.as_script("MAIA_UNITS", rows(summaries)))
        in_front = front.write(run) if front is not None else []
        overview = "overview.html" if in_front else "index.html"
        pages.write(store, f"report/{overview}", _index(run, summaries, layers, experiments))
        site = [overview, "units.js", *layers.values(), *(unquote(each.href) for each in experiments)]
        known.keep_site([*in_front, *(f"report/{page}" for page in site)])
        known.save()
    _remove_others(store, {*kept, *known.site, _Summaries.KEY})
    return run_dir / "report" / "index.html"


def _write_figures(run: RunDirectory) -> str:
    """Write the page of figures, which other pages link to; return its key."""
    content = pages.render(
        "figures.html",
        run_name=text(run.manifest.get("name")) or run.root.resolve().name,
        root="",
        groups=[("What a label must pass", GATES), ("Other figures", MEANINGS)],
        verdicts=VERDICTS,
    )
    key = "report/figures.html"
    if run.store.get(key) != content.encode():
        pages.write(run.store, key, content)
    return key


def rows(summaries: Sequence[Summary]) -> dict[str, Any]:
    """Return the table of the index: rows are lists, so that no text can become a key."""

    def cell(summary: Summary, column: str) -> Any:
        value = getattr(summary, column)
        if column == "label" and not value:
            return summary.error[:200]
        return round(value, 4) if isinstance(value, float) else value

    return {
        "columns": COLUMNS,
        "verdicts": VERDICTS,
        "meanings": SENTENCES,
        "rows": [[cell(row, column) for column in COLUMNS] for row in summaries],
    }


def _index(
    run: RunDirectory,
    summaries: Sequence[Summary],
    layers: dict[str, str],
    experiments: list[experiment_page.ExperimentLink],
) -> str:
    verdicts = Counter(summary.verdict for summary in summaries)
    scores = [summary.auroc for summary in summaries if summary.auroc is not None]
    by_layer: dict[str, list[Summary]] = defaultdict(list)
    for summary in summaries:
        by_layer[summary.layer].append(summary)
    median = sorted(scores)[len(scores) // 2] if scores else None
    return pages.render(
        "index.html",
        run_name=text(run.manifest.get("name")) or run.root.resolve().name,
        root="",
        stand_ins=unit_page.stand_ins(run),
        manifest=[
            (key, unit_page.shown(run.manifest[key]))
            for key in ("command", "person", "task", "model", "layer", "layers", "profile", "seed")
            if isinstance(run.manifest.get(key), str | int | float | list)
        ],
        audited=run.manifest.get("command") == "audit",
        verdicts=VERDICTS,
        counts=[(verdict, verdicts[verdict]) for verdict in VERDICTS if verdicts[verdict]],
        total=len(summaries),
        working=(working := [summary for summary in summaries if summary.verdict == "running"])[:_WORKING],
        working_total=len(working),
        courses={each.slug: _course(each) for each in working[:_WORKING]},
        waiting=len(run.plan.keys() - {summary.unit for summary in summaries}),
        screened=_screened(run),
        median=median,
        scores=plots.histogram(
            scores,
            0.0,
            1.0,
            40,
            "AUROC on fresh images",
            f"AUROC of {len(scores)} units, median {pages.figure(median)}",
        )
        if scores
        else None,
        rounds=sum(summary.rounds for summary in summaries),
        images=_total([summary.images for summary in summaries]),
        tokens=_total([summary.tokens for summary in summaries]),
        dollars=_total([summary.dollars for summary in summaries]),
        unpriced=any(summary.unpriced for summary in summaries),
        seconds=_total([summary.seconds for summary in summaries]),
        reuse=[(_ASKED.get(role, role), rate) for role, rate in _reuse(run)],
        layers=[
            (name, layers[name], len(units), sum(unit.verdict == "confirmed" for unit in units))
            for name, units in by_layer.items()
            if name in layers
        ],
        experiments=experiments,
        signs=journal_scan.rates(sign for summary in summaries for sign in summary.signs),
        problems=run.problems,
    )


_WORKING = 24
"""Units in progress that the overview shows."""


def _course(summary: Summary) -> Markup:
    """Return the course of a study over its rounds, nothing before the second."""
    values = summary.strongest
    top = pages.figure(values[-1] if values else None)
    return plots.sparkline(values, f"strongest activation so far, over {len(values)} rounds: {top}")


_ASKED = {"vision": "measurements", "generation": "images", "detection": "detections"}
"""What is asked of a role's models."""


def _reuse(run: RunDirectory) -> list[tuple[str, float]]:
    """Return the share of requests, by role, that needed no work of the models' own; nothing if damaged."""
    try:
        rates = reuse(Store(run.root))
    except OSError:
        return []
    return [(role, rate.rate) for role, rate in rates.items() if role in _ASKED]


def _screened(run: RunDirectory) -> list[tuple[str, int]]:
    """Return how many units a sweep gave no agent, by the reason."""
    counts = Counter(
        text(mapping(row).get("verdict")) for rows in run.screening.values() for row in sequence(rows)
    )
    return [
        (f"{reason}s" if reason == "duplicate" and n > 1 else reason, n)
        for reason, n in sorted(counts.items())
        if reason not in ("", "alive")
    ]


def _total(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _remove_others(store: Store, kept: set[str]) -> None:
    """Delete from the report what its writer does not know: pages of units that are gone, and files of
    others.
    """
    for key in store.keys("report"):
        if key not in kept:
            store.remove(key)


class _Summaries:
    """Summaries of units by folder, with the state of the records they were made from, and of the pages made
    of them.

    Those that another edition of the report wrote are not taken up, so its pages are written again. Nor are
    those of a page that has been replaced or copied since: inode and time of change are this machine's, and
    nobody else can predict them.
    """

    KEY = "report/summaries.json"

    def __init__(self, store: Store) -> None:
        self._store = store
        self._units: dict[str, Any] = {}
        self._others: Any = None
        self.site: dict[str, Any] = {}
        """Pages of the whole run, each with its stamp."""
        try:
            content = mapping(store.read(self.KEY))
        except RecordError:
            return
        if content.get("edition") == pages.edition():
            self._units = mapping(content.get("units"))
            self._others = content.get("others")
            self.site = mapping(content.get("site"))

    def get(self, slug: str, state: str, page: str) -> Summary | None:
        entry = self._units.get(slug)
        if not isinstance(entry, list) or len(entry) != 3 or entry[:2] != [state, self._stamp(page)]:
            return None
        try:
            return Summary(**entry[2])
        except TypeError:
            return None

    def put(self, slug: str, state: str, page: str, summary: Summary) -> None:
        self._units[slug] = [state, self._stamp(page), asdict(summary)]

    def others_changed(self, others: list[tuple[str, float]]) -> bool:
        listed = [list(group) for group in others]
        changed, self._others = listed != self._others, listed
        return changed

    def forget_others(self, slugs: set[str]) -> bool:
        gone = self._units.keys() - slugs
        for slug in gone:
            del self._units[slug]
        return bool(gone)

    def site_is_whole(self) -> bool:
        """Return whether the pages of the whole run are those that were written."""
        return bool(self.site) and all(stamp == self._stamp(key) for key, stamp in self.site.items())

    def keep_site(self, keys: Sequence[str]) -> None:
        self.site = {key: self._stamp(key) for key in keys}

    def save(self) -> None:
        content = {
            "edition": pages.edition(), "units": self._units, "others": self._others, "site": self.site
        }  # fmt: skip
        pages.write(self._store, self.KEY, json.dumps(content))

    def _stamp(self, key: str) -> list[int]:
        """Return what changes when a file is replaced, empty if there is none."""
        try:
            status = self._store.status(key)
        except RecordError:
            return []
        return [] if status is None else [status.st_ino, status.st_ctime_ns, status.st_size]
