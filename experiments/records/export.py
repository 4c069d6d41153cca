"""`maia export`: a run's results in the formats that other programs read.

Made from the run directory alone; nothing is changed there. `neuronpedia` follows the fields of Neuronpedia's
features and explanations as far as they mean something for images; `inspect` is a log that Inspect's viewer
opens.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from actors.errors import MissingDependencyError, UsageError
from actors.images import data_url, encode_jpeg
from agents.evidence.verdict import TESTED, abstained, reason_of, verdict_of
from agents.records import run_files
from agents.records.journal import Blobs, Journal
from agents.records.label_card import kind_of, label_card
from agents.records.manifest import EXTENT
from agents.records.manifest import KEY as MANIFEST
from agents.records.record_types import Manifest, ShownImage, StudyResult
from agents.records.run_files import RecordError
from agents.records.store import Store, finite
from agents.records.work import WorkItem, build_task, read_plan
from agents.study.notes import note_text
from experiments.records import roles
from experiments.records.lookup import finished_studies, name_runs_below, read_manifest
from experiments.records.names import UnitName, without_home
from experiments.records.results import as_parquet, result
from experiments.records.roles import RecordedRole
from experiments.setup.console import printable
from tools.sandbox import api_page

ENDINGS: dict[str, str] = {
    "jsonl": "jsonl",
    "csv": "csv",
    "parquet": "parquet",
    "neuronpedia": "neuronpedia.jsonl",
}
_IMAGE_SIDE = 224
_LONGEST_NOTE = 10_000
"""Characters of the description that stand beside each label."""
_SHOWN_BY_PROGRAM = "(What the program displayed, logged and printed, in its own words:)"


@dataclass(frozen=True)
class Run:
    """A run as it is exported: its folder, what it was about, and its finished and failed units."""

    store: Store
    manifest: Manifest
    items: list[WorkItem]
    problems: list[str] = field(default_factory=list)
    """What is damaged, a sentence each."""

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Raises: UsageError: If there is no run in the folder, or nothing in it has come to an end."""
        manifest, store = read_manifest(folder), Store(folder)
        problems: list[str] = []
        items = read_plan(store) or [_item(record) for record in finished_studies(store, problems)]
        run = cls(store, Manifest.model_validate(without_home(manifest.to_json())), items, problems)
        if not any(True for _ in run.rows()):
            if problems:
                raise RecordError(problems[0])
            if runs := name_runs_below(folder):
                raise UsageError(f"{folder} has no units of its own, but runs in it.", f"Export one. {runs}")
            raise UsageError(f"no unit of {folder} has a result yet.", "Repeat this once one has.")
        return run

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the row of each unit that has come to an end, as in `results.jsonl`."""
        for item in self.items:
            if (row := result(self.store, item)) is not None:
                yield _given_away(row)

    def records(self) -> Iterator[tuple[WorkItem, StudyResult]]:
        """Yield the whole record of each unit with a result; what is wrong with a damaged one goes to
        `problems`.
        """
        for item in self.items:
            with self.kept():
                if (done := Journal(self.store, item.unit).done()) is not None:
                    yield item, done.model_copy(update={"facts": without_home(done.facts)})

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Leave out what is damaged, and say so."""
        try:
            yield
        except RecordError as error:
            self.problems.append(error.message)


def _given_away(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record that names no home folder; what agents wrote stays as it is."""
    return record | {key: without_home(record[key]) for key in ("facts", "error") if key in record}


def _item(record: StudyResult) -> WorkItem:
    """Return the item of a unit of a run without a plan, such as one of `maia describe`."""
    name = UnitName.parse(record.unit)
    index = "" if name.index is None else str(name.index)
    return WorkItem(record.unit, name.layer, index, seed=record.seed)


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
        "inspect": lambda run: _inspect(run, images),
    }
    if wanted not in writers:
        raise UsageError(f"there is no format {wanted!r}.", f"Formats: {', '.join(writers)}.")
    run = Run.open(folder)
    data = writers[wanted](run)
    path = out or folder / (_inspect_name(run) if wanted == "inspect" else f"export.{ENDINGS[wanted]}")
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


def _inspect_name(run: Run) -> str:
    """Return where Inspect's viewer finds a log: it lists files that begin with a time, in a folder."""
    began = _created(run).strftime("%Y-%m-%dT%H-%M-%S+00-00")
    command = re.sub(r"[^a-z-]", "", run.manifest.command or "study")[:40]
    return f"inspect/{began}_maia-{command}_{_identity(run)}.json"


_FIRST = "leases/0001/claim.json"
"""Who began the run, and when: written once, where the manifest is written again for a run that is given more
units.
"""


def _identity(run: Run) -> str:
    """Return what names the run, however many units it comes to have."""
    claim = run.store.get(_FIRST)
    # Without a claim, two runs of one configuration differ in their units.
    left_out = () if claim is None else EXTENT
    about = {key: value for key, value in run.manifest.to_json().items() if key not in left_out}
    return hashlib.blake2b(
        (claim or b"") + json.dumps(about, sort_keys=True).encode(), digest_size=11
    ).hexdigest()


def _created(run: Run) -> datetime:
    status = run.store.status(_FIRST) or run.store.status(MANIFEST)
    return datetime.fromtimestamp(status.st_mtime if status else 0, UTC)


def _inspect(run: Run, images: bool) -> bytes:
    """Return an evaluation log of Inspect: a sample a unit, with its conversation and its scores."""
    records = list(run.records())
    facts = records[0][1].facts if records else {}
    model = str(facts.get("interpreter") or "unknown")
    identity, created = _identity(run), _created(run).isoformat()
    aurocs = [value for _, record in records if (value := _auroc(record)) is not None]
    confirmed = [value for _, record in records if (value := _confirmed(record)) is not None]
    log = {
        "version": 2,
        "status": "success",
        "eval": {
            "created": created,
            "eval_id": identity,
            "run_id": identity,
            "task_id": identity,
            "task": f"maia/{run.manifest.command or 'study'}",
            "dataset": {"name": run.manifest.model or "", "samples": len(records)},
            "model": model,
            "config": {},
            "metadata": {"manifest": run.manifest.to_json(), "facts": facts},
        },
        "plan": {"name": "maia", "steps": []},
        "results": {
            "total_samples": len(records),
            "completed_samples": len(records),
            "scores": [
                _score_of_run(name, values)
                for name, values in (("auroc", aurocs), ("confirmed", confirmed))
                if values
            ],
        },
        "stats": {"started_at": created, "completed_at": created, "model_usage": {}},
        "samples": list(_samples(run, records, model, images)),
    }
    return json.dumps(finite(log), ensure_ascii=False, indent=1).encode()


def _auroc(record: StudyResult) -> float | None:
    value = None if record.evidence is None else record.evidence.auroc
    return None if value is None else float(value)


def _confirmed(record: StudyResult) -> float | None:
    """Return whether a label is confirmed, None if none was put to a test that could decide."""
    verdict = verdict_of(record.to_json())
    return float(verdict == "confirmed") if verdict in TESTED else None


def _score_of_run(name: str, values: list[float]) -> dict[str, Any]:
    metrics = {"mean": {"name": "mean", "value": sum(values) / len(values)}}
    return {"name": name, "scorer": name, "params": {}, "metrics": metrics, "scored_samples": len(values)}


def _samples(
    run: Run, records: Sequence[tuple[WorkItem, StudyResult]], model: str, images: bool
) -> Iterator[dict[str, Any]]:
    for item, record in records:
        with run.kept():
            yield _sample(run, item, record, model, images)


def _api_page(manifest: Manifest) -> str:
    """Return the API page that the agents of a run were shown; a damaged setting counts as the usual one."""
    recorded = (manifest.settings.get(key) for key in ("sandbox", "interpreter"))
    sandbox, interpreter = (each if isinstance(each, dict) else {} for each in recorded)
    dialect, interventions = sandbox.get("dialect"), interpreter.get("max_interventions", 0) != 0
    return api_page("paper" if dialect == "paper" else "maia2", interventions)


def _sample(run: Run, item: WorkItem, record: StudyResult, model: str, images: bool) -> dict[str, Any]:
    journal = Journal(run.store, item.unit)
    messages: list[dict[str, Any]] = []
    # An item without a task was measured and never talked about.
    if item.task:
        messages.append({"role": "system", "content": _api_page(run.manifest)})
        messages.append({"role": "user", "content": build_task(item).opening()})
    for round_record in journal.rounds():
        messages += [{"role": "user", "content": note_text(note)} for note in round_record.notes]
        messages.append({"role": "assistant", "content": round_record.reply.text, "source": "generate"})
        if round_record.observation:
            parts = [_part(journal, part, images) for part in round_record.observation]
            if round_record.program is not None:
                parts = [{"type": "text", "text": _SHOWN_BY_PROGRAM}, *parts]
            messages.append({"role": "user", "content": parts})
    label, values = record.label or "", record.to_json()
    scores: dict[str, Any] = {}
    if (auroc := _auroc(record)) is not None:
        interval = record.evidence.auroc_interval if record.evidence else None
        interval_text = "95% interval {:.2f} to {:.2f}, ".format(*interval) if interval else ""
        scores["auroc"] = {"value": auroc, "answer": label, "explanation": f"{interval_text}on fresh images"}
    if (confirmed := _confirmed(record)) is not None:
        scores["confirmed"] = {"value": confirmed, "answer": label}
    spoken = messages and messages[-1]["role"] == "assistant"
    last = messages[-1]["content"] if spoken else label
    return {
        "id": item.unit,
        "epoch": 1,
        "input": item.unit,
        "target": "",
        "messages": messages,
        "output": {
            "model": model,
            "choices": [{"message": {"role": "assistant", "content": last}, "stop_reason": "stop"}],
        },
        "scores": scores,
        "metadata": {
            "verdict": verdict_of(values),
            **{key: values.get(key) for key in ("status", "label", "description", "card", "seed", "usage")},
        },
        "store": {},
        "events": [],
        "model_usage": {},
        "attachments": {},
    }


def _part(journal: Journal, part: str | ShownImage, images: bool) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not images:
        return {"type": "text", "text": f"[image {part.image}]"}
    picture = encode_jpeg(journal.blobs.get(part.image), max_side=_IMAGE_SIDE)
    return {"type": "image", "image": data_url(picture, "image/jpeg")}
