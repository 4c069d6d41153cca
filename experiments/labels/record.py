"""What a run of `maia label` keeps: a line for each unit, and a summary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from actors.errors import UsageError
from agents.records.run_files import RecordError
from agents.records.store import Store

FILE = "labels.jsonl"
SUMMARY = "labels.json"

DEAD = "dead"
NOTHING_FITS = "nothing fits"
PART = "explains only a part"
AMBIGUOUS = "another fits as well"


@dataclass(frozen=True, slots=True)
class UnitLabel:
    """A line of `labels.jsonl`: what a unit responds to, by the embeddings of images.

    `label` None: there is none, for the `reason`, and `best` is what fits least badly. The label was searched
    on one half of the images, where the correlation of the `runner_up` is less by `margin`. `correlation` (of
    label and activation), `auroc`, `auprc`, `p` and `positives` (images that show it) are from the other
    half, which only decided whether to leave out a word (`pruned`). `p`: of random units of the layer that
    get labels in the same way, and of permuted ones. `q`: the layer's false-discovery rate at which the label
    would be accepted. `wpmi`: soft WPMI of `wpmi_label`, the best single concept by it, over all images.
    `clarity` is the mean cosine of exemplars, `polysemanticity` 1 less the cosine of their two groups,
    `redundancy` the cosine to the exemplars of the unit `alike`. `coverage`: share of the other half's strong
    images that show the label (`Fit`). `left`: share of what is explained of the activations that the label
    leaves to something else (`left_over`). `common`: how much more alike strong images are than as many drawn
    at random, in standard errors; `uncovered`: the same of those that do not show the label, its concepts
    aside (`Likeness`).
    """

    unit: str
    layer: str
    index: int
    label: str | None
    reason: str
    best: str | None = None
    concepts: tuple[str, ...] = ()
    correlation: float | None = None
    auroc: float | None = None
    auprc: float | None = None
    positives: int | None = None
    p: float | None = None
    q: float | None = None
    runner_up: str | None = None
    margin: float | None = None
    wpmi_label: str | None = None
    wpmi: float | None = None
    clarity: float | None = None
    polysemanticity: float | None = None
    alike: int | None = None
    redundancy: float | None = None
    coverage: float | None = None
    left: float | None = None
    common: float | None = None
    uncovered: float | None = None
    tier: str = "embedding"


@dataclass(frozen=True, slots=True)
class LabelSummary:
    """A run of labels in figures; kept as `labels.json`."""

    model: str
    network: str
    """Fingerprint of the network."""
    dataset: str
    embedder: str
    stand_in: str
    """The limits of an embedder that is a stand-in."""
    vocabulary: str
    words: int
    """Words that were compared, without those that too few images or too many show."""
    unknown_words: int
    images: int
    skipped_images: int
    reduce: str
    layers: dict[str, dict[str, int]]
    """Units, dead units and labeled units of each layer."""
    units: int
    labeled: int
    dead: int
    seconds: float
    """Of all of it, in the process that wrote this: what an earlier one had done is not counted."""
    files: list[str]
    version: int = 2
    seconds_of: dict[str, float] = field(default_factory=dict)
    """The same in parts: `start` of the models, `pass` over the images, `labels` from what that kept. Records
    of version 1 may be without, and then their `seconds` are those of the labels.
    """


def lines(labels: list[UnitLabel]) -> bytes:
    """Return labels as they are written, one a line."""
    return "".join(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in labels).encode()


def parse_labels(text: bytes) -> list[UnitLabel]:
    """Return the labels of lines; raises ValueError for others."""
    adapter = TypeAdapter(UnitLabel)
    return [adapter.validate_json(line) for line in text.splitlines()]


def by_earlier_rules(labels: Sequence[UnitLabel]) -> bool:
    """Return whether labels are of a time when it was not asked if they explain their units whole."""
    return any(each.best and None in (each.left, each.common, each.uncovered) for each in labels)


def read_summary(run: Path) -> LabelSummary:
    """Return the figures of a run of `maia label`.

    Raises:
        UsageError: If there are none, or they are damaged.
    """
    try:
        return TypeAdapter(LabelSummary).validate_json(Store(run).get(SUMMARY) or b"")
    except (OSError, RecordError, ValidationError) as error:
        raise UsageError(f"{run} has no whole run of labels.", "Make it with `maia label`.") from error


def read_labels(run: Path) -> list[UnitLabel]:
    """Return the labels of a run of `maia label`.

    Raises:
        UsageError: If there are none, or they are damaged.
    """
    text = Store(run).table(FILE) if run.is_dir() else None
    if text is None:
        raise UsageError(f"{run} has no labels.", "Make them with `maia label`.")
    try:
        return parse_labels(text)
    except ValidationError as error:
        raise UsageError(f"{run / FILE} is damaged.", "Remove it, and run `maia label` again.") from error
