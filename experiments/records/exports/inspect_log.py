"""A run as an evaluation log of Inspect: a sample for each unit, with its conversation and its scores."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from actors.images import data_url, encode_jpeg
from agents.evidence.verdict import TESTED, verdict_of
from agents.records.journal import Journal
from agents.records.record_types import Manifest, ShownImage, StudyResult
from agents.records.store import finite
from agents.records.work import WorkItem, build_task
from agents.study.notes import note_text
from experiments.records.exports.run import Run
from experiments.records.headline import headline
from tools.sandbox import api_page

_IMAGE_SIDE = 224
_SHOWN_BY_PROGRAM = "(What the program displayed, logged and printed, in its own words:)"


def log_name(run: Run) -> str:
    """Return where Inspect's viewer finds a log: it lists files that begin with a time, in a folder."""
    began = run.created.strftime("%Y-%m-%dT%H-%M-%S+00-00")
    command = re.sub(r"[^a-z-]", "", run.manifest.command or "study")[:40]
    return f"inspect/{began}_maia-{command}_{run.identity}.json"


def inspect_log(run: Run, images: bool) -> bytes:
    """Return an evaluation log of Inspect: a sample a unit, with its conversation and its scores."""
    records = list(run.records())
    facts = records[0][1].facts if records else {}
    model = str(facts.get("interpreter") or "unknown")
    identity, created = run.identity, run.created.isoformat()
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
    values = record.to_json()
    label = headline(values)
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
            "headline": label,
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
