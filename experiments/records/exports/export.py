"""`maia export`: a run's results in the formats that other programs read.

Made from the run directory alone; nothing is changed there. `neuronpedia` follows the fields of Neuronpedia's
features and explanations as far as they mean something for images; `inspect` is a log that Inspect's viewer
opens.
"""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.errors import MissingDependencyError, UsageError
from agents.evidence.verdict import abstained, reason_of, verdict_of
from agents.records import run_files
from agents.records.journal import Blobs
from agents.records.label_card import kind_of, label_card
from agents.records.record_types import StudyResult
from agents.records.store import Store, finite
from agents.records.work import WorkItem
from experiments.records import roles
from experiments.records.exports.inspect_log import inspect_log, log_name
from experiments.records.exports.run import Run
from experiments.records.names import UnitName
from experiments.records.results import as_parquet
from experiments.records.roles import RecordedRole
from experiments.setup.console import printable

ENDINGS: dict[str, str] = {
    "jsonl": "jsonl",
    "csv": "csv",
    "parquet": "parquet",
    "neuronpedia": "neuronpedia.jsonl",
}
_LONGEST_NOTE = 10_000
"""Characters of the description that stand beside each label."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written of a run."""

    run: str
    format: str
    path: str
    units: int
    bytes: int
    problems: list[str]
    """What is damaged and was left out, a sentence each."""


def export(folder: Path, wanted: str, out: Path | None = None, *, images: bool = False) -> Exported:
    """Write a run in one format and return where and how much.

    `images` puts the pictures of transcripts into an `inspect` log; otherwise their files are named.

    Raises:
        UsageError: If there is no such run or format, or nothing to export.
        MissingDependencyError: If the format needs a package that is not installed.
    """
    writers: dict[str, Callable[[Run], bytes]] = {
        "jsonl": _jsonl,
        "csv": _csv,
        "parquet": _parquet,
        "neuronpedia": _neuronpedia,
        "inspect": lambda run: inspect_log(run, images),
    }
    if wanted not in writers:
        raise UsageError(f"there is no format {wanted!r}.", f"Formats: {', '.join(writers)}.")
    run = Run.open(folder)
    data = writers[wanted](run)
    path = out or folder / (log_name(run) if wanted == "inspect" else f"export.{ENDINGS[wanted]}")
    _write(folder, path, data)
    units = sum(1 for _ in run.rows())
    return Exported(str(folder), wanted, str(path), units, len(data), list(dict.fromkeys(run.problems)))


def _write(folder: Path, path: Path, data: bytes) -> None:
    """Write a file, whole or not at all. In the run's folder no link is followed; elsewhere the path is the
    person's.

    Raises:
        RecordError: If a folder of the run that it belongs in is a link.
        UsageError: If it cannot be written.
    """
    try:
        if path.is_relative_to(folder):
            run_files.replace_file(folder, path.relative_to(folder).as_posix(), data)
        elif path.exists() and not path.is_file():
            path.write_bytes(data)  # a terminal or a pipe
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            run_files.replace_file(path.parent, path.name, data)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}).", "Choose another --out.") from error


def _lines(rows: Iterator[dict[str, Any]]) -> bytes:
    return "".join(
        json.dumps(finite(row), sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n" for row in rows
    ).encode()


def _jsonl(run: Run) -> bytes:
    return _lines(run.rows())


def _csv(run: Run) -> bytes:
    """Return one line a unit: what a spreadsheet can use. Columns that Parquet has as well have the same
    names.
    """
    target = io.StringIO(newline="")
    columns = (
        *("unit", "layer", "name", "verdict", "kind", "label", "answered", "description"),
        *("auroc", "auroc_low", "auroc_high", "e_value", "margin", "rounds", "images_made", "images_tested"),
        *("strength", "coverage", "held_back_auroc", "reason", "tier", "why"),
        *roles.COLUMNS,
        *("cost_tokens", "cost_dollars", "error"),
    )
    writer = csv.DictWriter(target, columns)
    writer.writeheader()
    for row in run.rows():
        evidence, cost = row.get("evidence") or {}, row.get("cost") or {}
        low, high = evidence.get("auroc_interval") or (None, None)
        flat = (
            {name: row.get(name) for name in columns}
            | RecordedRole.of(row).columns()
            | {
                "kind": kind_of(row),
                "reason": reason_of(evidence) or None,
                "strength": (evidence.get("strength") or {}).get("share"),
                "coverage": (evidence.get("coverage") or {}).get("share"),
                "held_back_auroc": (evidence.get("held_back") or {}).get("auroc"),
                # The description is of the whole answer, of which the label is what stood its tests.
                "answered": " OR ".join(row.get("answered") or row.get("labels") or ()) or None,
                "auroc": evidence.get("auroc"),
                "auroc_low": low,
                "auroc_high": high,
                "e_value": evidence.get("e_value"),
                "margin": evidence.get("margin"),
                "cost_tokens": cost.get("tokens"),
                "cost_dollars": cost.get("dollars"),
                "error": (row.get("error") or {}).get("message"),
            }
        )
        writer.writerow({name: _harmless(value) for name, value in flat.items()})
    return target.getvalue().encode()


def _harmless(value: Any) -> Any:
    """Keep a spreadsheet from taking model-written text for a formula, and a terminal for orders."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    # Formulas may begin after blanks, and with signs of full width.
    begins = unicodedata.normalize("NFKC", text.lstrip()[:1]) in ("=", "+", "-", "@")
    return f"'{text}" if begins or text[:1].isspace() else text


def _parquet(run: Run) -> bytes:
    table = as_parquet(list(run.rows()))
    if table is None:
        raise MissingDependencyError("Parquet needs pyarrow.", 'pip install "maia[parquet]"')
    return table


def _masked(store: Store, image_id: str) -> dict[str, str]:
    """Return where the masked image is, or the mask that is to be laid over the image."""
    if store.has(mask := Blobs.mask_key(image_id)):
        return {"mask": mask}
    return {"maskedImage": Blobs.key(image_id)}


def _logits(role: RecordedRole) -> dict[str, Any]:
    """Return the outputs that the unit raises and lowers as Neuronpedia has them; nothing of a unit without a
    role.
    """
    if role.found is None:
        return {}
    sides = {"pos": role.found.raised, "neg": role.found.lowered}
    names = {f"{side}_str": [each.name for each in effects] for side, effects in sides.items()}
    return names | {f"{side}_values": [each.effect for each in effects] for side, effects in sides.items()}


def _neuronpedia(run: Run) -> bytes:
    """Return one feature a line, with its explanations and strongest images."""

    def feature(item: WorkItem, record: StudyResult) -> dict[str, Any]:
        name, values = UnitName.parse(item.unit), record.to_json()
        card = record.card or label_card(record)
        scores = [
            {"scoreTypeName": f"maia_{key}", "value": card[key]}
            for key in ("auroc", "auprc", "pearson", "margin")
            if isinstance(card.get(key), int | float)
        ]
        return {
            "modelId": record.facts.get("model") or name.model,
            "layer": name.layer,
            "index": "" if name.index is None else str(name.index),
            "maxActApprox": (record.background or {}).get("maximum"),
            "verdict": verdict_of(values),
            "kind": kind_of(values | {"card": card}),
            "explanations": [
                {
                    "description": label,
                    "typeName": "maia",
                    "explanationModelName": record.facts.get("interpreter", ""),
                    "notes": (record.description or "")[:_LONGEST_NOTE],
                    "scores": scores,
                }
                for label in (() if abstained(values.get("evidence")) else record.labels)
            ],
            **_logits(RecordedRole.of(values)),
            "activations": [
                {
                    "image": Blobs.key(exemplar.source),
                    **_masked(run.store, exemplar.image),
                    "maxValue": exemplar.activation,
                }
                for exemplar in record.exemplars
                if exemplar.source
            ],
        }

    def features() -> Iterator[dict[str, Any]]:
        for item, record in run.records():
            with run.kept():
                yield feature(item, record)

    return _lines(features())
