"""`maia gallery`: one page of what runs have found, for readers who have installed nothing.

The page and its images make a folder that opens from a file and from any web server, and loads nothing from
elsewhere. It says whose images and words these are, and how its units were chosen.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from actors.errors import UsageError
from agents.records.run_files import RecordError
from agents.records.store import Store
from experiments.report import experiment_page, pages
from experiments.report.evidence import numbers as evidence_numbers
from experiments.report.figures import Figure, figures_of
from experiments.report.gallery import Gallery, Picture, StimulusEdit
from experiments.report.records import RunDirectory, UnitRecords, mapping, number, sequence, text
from experiments.report.schema import Contrast
from experiments.report.summary import Summary, summarize, verdict_of
from experiments.report.unit.rounds import rounds_of, strongest_edits
from experiments.report.unit_page import stand_ins
from experiments.report.verdicts import VERDICTS
from experiments.setup.console import counted

UNITS = 12
"""Units of a gallery, unless another number is asked for."""
_EXEMPLARS = 6
_FINDINGS = 6
"""Findings of one audit that are shown."""
_SIDE_IMAGES = 3
"""Images of each side of a finding."""
_QUALITY = 76
"""Of pictures, 0 to 100: the run keeps them without loss."""
GALLERY_ASSETS = ("report.css", "theme.js", "lightbox.js", "icon.svg")
"""Files of the report that a gallery is shown with."""
_IMAGE = re.compile(r'(?:src|data-plain)="images/([0-9a-f]{8,64}\.(?:webp|png))"')


@dataclass(frozen=True, slots=True)
class GalleryUnit:
    """One unit of the page."""

    run: str
    summary: Summary
    figures: list[Figure]
    exemplars: list[Picture]
    edits: list[StimulusEdit]


@dataclass(frozen=True, slots=True)
class GalleryRun:
    """Where units and findings of the page come from."""

    network: str
    profile: str
    weights: str
    """"trained", "random", or "" where that is not recorded."""
    total: str
    """How many of its units have which verdict."""


@dataclass(frozen=True, slots=True)
class GalleryAudit:
    """The findings of one audit."""

    title: str
    summary: str
    findings: list[tuple[Contrast, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class WrittenGallery:
    """What was written, and how much."""

    page: str
    units: int
    findings: int
    images: int
    bytes: int
    """Of the whole folder."""


def write_gallery(folders: Sequence[Path], out: Path, most: int = UNITS) -> WrittenGallery:
    """Write `index.html` and its images into a folder: the best `most` units of each run, and the findings of
    audits.

    Raises:
        UsageError: If there is no such run, nothing was found in any, or the folder cannot be written.
    """
    runs = [RunDirectory(folder) for folder in folders]
    made = [_Selection(run).chosen(most) for run in runs]
    units = [unit for chosen in made for unit in chosen]
    audits = [audit for run in runs for audit in _audits(run)]
    if not units and not audits:
        raise UsageError(
            f"nothing was found in {', '.join(map(str, folders))} yet.",
            "Name the --out folder of a run with results: maia status DIR.",
        )
    page = pages.render(
        "gallery.html",
        run_name="Gallery",
        root="",
        runs=_sources(runs),
        units=units,
        audits=audits,
        stand_ins=list({role: (role, name) for run in runs for role, name in stand_ins(run)}.values()),
        verdicts=VERDICTS,
    )
    try:
        return _write(runs, out, page, len(units), sum(len(audit.findings) for audit in audits))
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}.", "Name another --out.") from error


class _Selection:
    """The units of a run that a gallery shows: best first, each label once before any comes again."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run

    def chosen(self, most: int) -> list[GalleryUnit]:
        if self._run.manifest.get("command") == "audit":
            return []
        ranked = sorted(self._finished(), key=self._rank)
        seen: Counter[str] = Counter()
        times: list[tuple[int, int, str]] = []
        for slug, done in ranked:
            label = text(done.get("label"))
            times.append((seen[label], len(times), slug))
            seen[label] += 1
        return [self._unit(self._run.unit(slug)) for _, _, slug in sorted(times)[:most]]

    def _finished(self) -> list[tuple[str, dict[str, Any]]]:
        found = []
        for slug in self._run.slugs():
            with contextlib.suppress(OSError, RecordError):
                done = mapping(self._run.store.read(f"units/{slug}/done.json"))
                if text(done.get("label")):
                    found.append((slug, done))
        return found

    def _rank(self, found: tuple[str, dict[str, Any]]) -> tuple[int, float]:
        from agents.evidence.verdict import VERDICTS as WORDS
        from agents.evidence.verdict import verdict_of as word_of

        _, done = found
        return WORDS.index(word_of(done)), -(evidence_numbers(done.get("evidence")).auroc or 0.0)

    def _unit(self, unit: UnitRecords) -> GalleryUnit:
        done = unit.done or {}
        gallery = Gallery(unit.rounds, _locator(self._run, bare=unit.name.of_class))
        exemplars = [
            gallery.picture(
                exemplar.get("image"),
                caption=f"exemplar {rank}",
                activation=number(exemplar.get("activation")),
                under=exemplar.get("source"),
            )
            for rank, exemplar in enumerate(map(mapping, sequence(done.get("exemplars"))[:_EXEMPLARS]), 1)
        ]
        edits = strongest_edits(list(rounds_of(unit, gallery)), 1)
        figures = figures_of(done.get("evidence"))
        return GalleryUnit(self._run.root.name, summarize(self._run, unit), figures, exemplars, edits)


def _locator(run: RunDirectory, *, bare: bool = False) -> Any:
    """Return what says where the page has the layers of an image, by the names of their files."""

    def locate(image_id: Any) -> list[str]:
        layers = [f"images/{Path(layer).name}" for layer in run.image(image_id)]
        return layers[:1] if bare else layers

    return locate


def _sources(runs: Iterable[RunDirectory]) -> list[GalleryRun]:
    """Return what each run says of itself; runs of one network, weights and profile are named once."""
    totals: dict[GalleryRun, list[str]] = {}
    for about in map(_about, runs):
        totals.setdefault(replace(about, total=""), []).append(about.total)
    return [replace(about, total=". ".join(filter(None, all_of))) for about, all_of in totals.items()]


def _about(run: RunDirectory) -> GalleryRun:
    manifest = run.manifest
    trained = mapping(mapping(manifest.get("settings")).get("vision")).get("pretrained")
    verdicts = Counter(verdict_of(run.unit(slug)) for slug in _studied(run))
    tally = ", ".join(f"{verdicts[key]:,} {word}" for key, word in VERDICTS.items() if verdicts[key])
    return GalleryRun(
        network=text(manifest.get("model")),
        profile=text(manifest.get("profile")),
        weights={True: "trained", False: "random"}.get(trained, "") if isinstance(trained, bool) else "",
        total=f"{counted(verdicts.total(), 'unit')}: {tally}" if verdicts else "",
    )


def _studied(run: RunDirectory) -> list[str]:
    return [] if run.manifest.get("command") == "audit" else run.slugs()


def _audits(run: RunDirectory) -> list[GalleryAudit]:
    """Return the findings on the pages of a run's experiments, the largest differences first."""
    locate, found = _locator(run), []
    for key in experiment_page.keys(run):
        page, _ = experiment_page.read(run.store.get(key) or b"")
        contrasts = [block for block in page.blocks if isinstance(block, Contrast)] if page else []
        if page is None or not contrasts:
            continue
        largest = sorted(contrasts, key=lambda each: -abs(each.difference.value))[:_FINDINGS]
        drawn = [(each, {"sides": [_side(side.images, locate) for side in each.sides]}) for each in largest]
        found.append(GalleryAudit(page.title, page.summary, drawn))
    return found


def _side(images: Sequence[Any], locate: Any) -> list[Picture]:
    return [
        Picture(layers[0], each.caption or "image", each.caption, each.activation, masks=tuple(layers[1:]))
        for each in images[:_SIDE_IMAGES]
        if (layers := locate(each.image))
    ]


def _write(runs: Sequence[RunDirectory], out: Path, page: str, units: int, findings: int) -> WrittenGallery:
    store = Store.open(out)
    pages.write(store, "index.html", page)
    for name in GALLERY_ASSETS:
        store.replace(f"assets/{name}", (pages.ASSETS / name).read_bytes())
    named = dict.fromkeys(_IMAGE.findall(page))
    smaller = pages.SmallerPictures(_QUALITY, method=6)
    for name in named:
        data = _blob([run.store for run in runs], name)
        store.replace(f"images/{name}", data if name.endswith(".png") else smaller.of(data))
    for key in store.keys("images"):
        name = key.removeprefix("images/")
        if name not in named and _IMAGE.fullmatch(f'src="{key}"'):
            store.remove(key)  # of an earlier gallery
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return WrittenGallery(str(out / "index.html"), units, findings, len(named), size)


def _blob(stores: Sequence[Store], name: str) -> bytes:
    return next((data for store in stores if (data := store.get(f"blobs/{name[:2]}/{name}"))), b"")
