"""`maia label`: every unit of some layers gets a label from one pass over a data set, without an agent.

The pass keeps all units' activations on all images, and an image-text model embeds the images and the words.
What follows is linear algebra in this process.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.table import Table
from rich.text import Text

from actors.embedding.client import EmbeddingTable, PoolEmbedder
from actors.errors import UsageError
from actors.grouping import task_group
from actors.vision.client import PoolVisionClient
from actors.vision.data.held_out import split
from actors.vision.networks.layer_cache import KnownNetwork
from actors.vision.networks.zoo import check_name
from actors.vision.readout.base import ImageDataset, LayerInfo
from actors.vision.readout.units import Readout
from actors.vision.sweep.activations import LayerActivations, Reduce
from agents.records.journal import slug
from agents.records.record_types import Manifest
from agents.records.run_files import RecordError
from agents.records.store import Store
from experiments.labels.layer import RATE, EmbeddedImages, LabelSettings, LayerLabeler
from experiments.labels.record import (
    AMBIGUOUS,
    DEAD,
    FILE,
    NOTHING_FITS,
    PART,
    SUMMARY,
    LabelSummary,
    UnitLabel,
    by_earlier_rules,
    lines,
    parse_labels,
)
from experiments.labels.vocabulary import EmbeddedVocabulary, WordList, embed, read_vocabulary
from experiments.setup.console import Console, counted
from experiments.setup.preflight import open_images
from experiments.setup.run_folder import claim_run, open_run
from experiments.setup.selection import Selected, Selection

FEWEST_IMAGES = 100
_SPARE_DISK = 1.05
PARTS = ("start", "pass", "labels")
"""Of a run's time, in order."""
_WHY_NOT = {
    NOTHING_FITS: "that no word fits",
    PART: "explained only in part",
    AMBIGUOUS: "with a rival that fits as well",
}


@dataclass(frozen=True, slots=True)
class LabelRequest:
    """Which units get labels, of which words, from which images."""

    model: str
    layers: str
    """Names with commas, `all`, or a kind of module such as Conv2d."""
    vocabulary: str
    selection: Selection
    reduce: Reduce
    settings: LabelSettings
    out: Path


async def label_units(console: Console, request: LabelRequest) -> tuple[LabelSummary, list[UnitLabel]]:
    """Label the units of layers, and write `labels.jsonl` and `labels.json`; an interrupted run is resumed.

    Raises:
        UsageError: If there is no such network, layer, data set or vocabulary, there are too few images or
            too little disk, or the folder cannot be written or holds another run.
    """
    from experiments.setup.workbench import network_and_embedder

    times = [time.monotonic()]
    selected = request.selection.load()
    vocabulary = read_vocabulary(request.vocabulary)
    check_name(request.model)
    manifest = _manifest(selected, request, vocabulary)
    store = open_run(selected.profile.dataset, request.out, manifest)
    dataset = await open_images(selected.profile, selected.cache, console.say)
    models = network_and_embedder(selected.profile, selected.cache, request.model, dataset, console.say)
    async with models as (vision, embedder):
        readouts = choose_layers(request.layers, await vision.layers(), vision.known)
        explored, _ = await asyncio.to_thread(split, dataset, selected.profile.vision.held_out)
        _check_room(selected.cache, explored, len(dataset), readouts)
        words = await embed(vocabulary, embedder)
        _warn_of_words(console, vocabulary, words, embedder)
        facts = {
            "network": vision.fingerprint,
            "dataset": dataset.fingerprint,
            "embedder": embedder.facts.name,
        }
        claim_run(store, manifest, facts)
        times.append(time.monotonic())
        passed = _Pass(vision, embedder, dataset, explored, request.reduce)
        activations, embeddings = await passed.over_images(console, list(readouts), selected.cache)
    times.append(time.monotonic())
    images = await asyncio.to_thread(_common_images, activations, embeddings)
    labeler = await asyncio.to_thread(_embedded_images, images, words, embedder, request.settings)
    labels = await _labels(console, store, activations, images, labeler)
    times.append(time.monotonic())
    result = LabelSummary(
        request.model,
        vision.fingerprint,
        dataset.name,
        embedder.facts.name,
        embedder.facts.stand_in,
        vocabulary.name,
        len(labeler.names),
        len(words.unknown),
        len(images.vectors),
        len(explored) - len(images.vectors),
        request.reduce,
        {readout.layer: _counts(labels, readout.layer) for readout in readouts},
        **_counts(labels),
        seconds=times[-1] - times[0],
        files=[str(request.out / FILE)],
        seconds_of=dict(zip(PARTS, np.diff(times).tolist(), strict=True)),
    )
    store.replace(FILE, lines(labels))
    store.replace_json(SUMMARY, result)
    return result, labels


def _manifest(selected: Selected, request: LabelRequest, vocabulary: WordList) -> Manifest:
    embedding = selected.profile.embedding
    return selected.manifest(
        "label",
        model=request.model,
        layers=request.layers.split(","),
        reduce=request.reduce,
        vocabulary=[vocabulary.name, vocabulary.digest],
        embedding=embedding.model_dump(mode="json", exclude={"placement", "remembered_mb", "max_batch"}),
        scoring=asdict(request.settings) | {"device": ""},
    )


def _counts(labels: Sequence[UnitLabel], layer: str | None = None) -> dict[str, int]:
    """Return the numbers of units, of labeled ones and of dead ones, of one layer or all."""
    own = [each for each in labels if layer in (None, each.layer)]
    labeled = sum(each.label is not None for each in own)
    return {"units": len(own), "labeled": labeled, "dead": sum(each.reason == DEAD for each in own)}


def choose_layers(text: str, layers: Sequence[LayerInfo], known: KnownNetwork) -> dict[Readout, LayerInfo]:
    """Return the layers that are meant: by name, `all`, or all of a kind of module.

    Raises:
        UsageError: If there is no such layer.
    """
    by_name = {layer.name: layer for layer in layers}
    chosen: dict[Readout, LayerInfo] = {}
    for name in (part.strip() for part in text.split(",")):
        kind = [layer for layer in layers if name == "all" or layer.module.rpartition(".")[2] == name]
        for layer in kind or [by_name[known.layer(name)]]:
            chosen[Readout(layer.name)] = layer
    return chosen


def _check_room(
    cache: Path, explored: np.ndarray, n_images: int, layers: Mapping[Readout, LayerInfo]
) -> None:
    """Raise UsageError where there are too few images to split, or too little disk for the activations."""
    if len(explored) < FEWEST_IMAGES:
        raise UsageError(
            f"labels need at least {FEWEST_IMAGES} images that are not held out, got {len(explored)} of "
            f"{n_images}.",
            f"Give about {-(-FEWEST_IMAGES * n_images // max(1, len(explored))):,} images: --data.",
        )
    needed = int(4 * len(explored) * sum(layer.n_units for layer in layers.values()) * _SPARE_DISK)
    free = shutil.disk_usage(cache).free
    if needed > free:
        raise UsageError(
            f"the activations take {needed / 1e9:.1f} GB in {cache}, which has {free / 1e9:.1f} GB left.",
            "Choose fewer layers or images, or another cache folder: MAIA_CACHE.",
        )


def _warn_of_words(
    console: Console, vocabulary: WordList, words: EmbeddedVocabulary, embedder: PoolEmbedder
) -> None:
    if embedder.facts.stand_in:
        console.warn(f"embeddings are those of a stand-in. {embedder.facts.stand_in}")
    if words.unknown:
        console.warn(
            f"{len(words.unknown)} of the {counted(len(vocabulary.words), 'word')} of {vocabulary.name} are "
            f"unknown to it, such as {', '.join(words.unknown[:5])}"
        )


@dataclass(frozen=True, slots=True)
class _Pass:
    """The images that pass through the network and the embedder."""

    vision: PoolVisionClient
    embedder: PoolEmbedder
    dataset: ImageDataset
    explored: np.ndarray
    reduce: Reduce

    async def over_images(
        self, console: Console, readouts: Sequence[Readout], cache: Path
    ) -> tuple[Mapping[Readout, LayerActivations], EmbeddingTable]:
        """Return all units' activations and the embeddings; both models work at the same time."""
        done = {"measured": 0, "embedded": 0}
        with console.progress("images, measured and embedded") as progress:

            def report(what: str, n: int) -> None:
                done[what] = n
                progress(min(done.values()), len(self.explored))

            async with task_group() as group:
                measuring = group.create_task(
                    self.vision.layer_activations(
                        readouts, self.dataset, self.reduce, lambda swept: report("measured", swept.done)
                    )
                )
                embedding = group.create_task(
                    self.embedder.survey(
                        self.dataset,
                        self.dataset.fingerprint,
                        self.explored,
                        cache / "embeddings",
                        lambda n, _: report("embedded", n),
                    )
                )
        return measuring.result(), embedding.result()


@dataclass(frozen=True, slots=True)
class _CommonImages:
    """Images that were measured at all layers and embedded: their rows in the activations, int64 (n,), and
    `vectors` float32 (n, d).
    """

    rows: np.ndarray
    vectors: np.ndarray


def _common_images(
    activations: Mapping[Readout, LayerActivations], embeddings: EmbeddingTable
) -> _CommonImages:
    layers = list(activations.values())
    measured = np.logical_and.reduce([layer.measured for layer in layers])
    indices = layers[0].indices[measured]
    _, places, embedded = np.intersect1d(indices, embeddings.indices, return_indices=True)
    if len(places) < FEWEST_IMAGES:
        raise UsageError(
            f"only {len(places)} images could be measured and embedded; {FEWEST_IMAGES} are needed.",
            "Look at the images, or give more.",
        )
    return _CommonImages(np.flatnonzero(measured)[places], embeddings.vectors[embedded])


def _embedded_images(
    images: _CommonImages, words: EmbeddedVocabulary, embedder: PoolEmbedder, settings: LabelSettings
) -> EmbeddedImages:
    labeled = EmbeddedImages(images.vectors, words, embedder.facts.present_above, settings)
    if not labeled.names:
        raise UsageError(
            f"none of the {len(words.words)} words is shown by enough of the {len(images.vectors)} images, "
            "and not by most of them.",
            "Give more images, or other words.",
        )
    return labeled


async def _labels(
    console: Console,
    store: Store,
    activations: Mapping[Readout, LayerActivations],
    images: _CommonImages,
    labeler: EmbeddedImages,
) -> list[UnitLabel]:
    """Return the labels of all layers' units, in order; layers that the folder holds are read."""
    found: list[UnitLabel] = []
    with console.progress("layers") as progress:
        for done, (readout, layer) in enumerate(activations.items()):
            key = f"layers/{slug(readout.layer)}.jsonl"
            known = _read(store, key)
            if known is None:
                work = LayerLabeler(labeler, readout, layer.values, images.rows)
                known = await asyncio.to_thread(work.label)
                await asyncio.to_thread(store.replace, key, lines(known))
            found += known
            progress(done + 1, len(activations))
    return found


def _read(store: Store, key: str) -> list[UnitLabel] | None:
    """Return a layer's labels as they were written, None if there are none that can be read and used."""
    try:
        text = store.get(key)
        known = None if text is None else parse_labels(text)
    except (RecordError, ValueError):
        return None
    return None if known is None or by_earlier_rules(known) else known


def table(labels: Sequence[UnitLabel], most: int = 20) -> Table | Text:
    """Return the units whose labels fit best, for a terminal; in words if there are none."""
    shown = Table("unit", "label", "AUROC", "q", "clarity", "instead", box=None, pad_edge=False)
    fitting = [each for each in labels if each.label is not None]
    if not fitting:
        return Text(
            f"No unit got a label.{_nearest(labels)} More images or other words (--vocabulary) may help."
        )
    for each in sorted(fitting, key=lambda label: -(label.correlation or 0.0))[:most]:
        shown.add_row(
            Text(f"{each.layer}:{each.index}"),
            Text(each.label or ""),
            *("" if each.auroc is None else f"{each.auroc:.2f}", "" if each.q is None else f"{each.q:.3f}"),
            "" if each.clarity is None else f"{each.clarity:.2f}",
            Text(each.runner_up or ""),
        )
    return shown


def _nearest(labels: Sequence[UnitLabel]) -> str:
    """Return in a sentence which label was nearest to being accepted, "" where none was tried."""
    tried = [each for each in labels if each.best and each.q is not None]
    if not tried:
        return ""
    best = min(tried, key=lambda label: (label.q, -(label.correlation or 0.0)))
    why = {
        PART: f", but it {PART} of the unit",
        AMBIGUOUS: f", but {best.runner_up!r} fits as well",
    }.get(best.reason, f"; at most {RATE} is accepted")
    return f" The nearest is {best.best!r} for {best.layer}:{best.index}, at q {best.q:.2g}{why}."


def _unlabeled(labels: Sequence[UnitLabel]) -> str:
    """Return how many units got no label, and why, in words that follow those of the others."""
    reasons = Counter(each.reason for each in labels if each.label is None)
    said = [f"{n} {_WHY_NOT.get(reason, reason)}" for reason, n in reasons.most_common()]
    return f"; {reasons.total()} without a label: {', '.join(said)}" if said else ""


def figures(result: LabelSummary, labels: Sequence[UnitLabel]) -> Mapping[str, str]:
    """Return the summary of a run with these labels as lines for a terminal."""
    return {
        "units": f"{result.labeled} of {result.units} labeled{_unlabeled(labels)}",
        "images": f"{result.images:,} ({result.skipped_images} left out)",
        "words": f"{result.words:,} of {result.vocabulary} that enough images show",
        "embeddings": f"{result.embedder}. {result.stand_in}".strip(),
        "time": f"{result.seconds:.0f} s: "
        + ", ".join(f"{part} {seconds:.0f}" for part, seconds in result.seconds_of.items()),
    }
