"""Runs whose units have labels of agents, labels of embeddings and roles, as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agents.records.journal import slug
from experiments.report.records import RunDirectory

MODEL = "net"


class LabeledRun:
    """Writes a run directory: a line of a table, or a study, at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self.put("manifest.json", {"model": MODEL, "command": "sweep"})

    def put(self, key: str, record: Any) -> None:
        (self.root / key).parent.mkdir(parents=True, exist_ok=True)
        (self.root / key).write_text(json.dumps(record))

    def add(self, table: str, record: dict[str, Any]) -> None:
        with (self.root / table).open("a") as file:
            file.write(json.dumps(record) + "\n")

    def embed(self, unit: str, label: str, **more: Any) -> None:
        """Give a unit, as layer:number, the label of an embedding."""
        record = {"unit": f"{MODEL}/{unit}", "label": label, "auroc": 0.9, "q": 0.01}
        self.add("labels.jsonl", record | more)

    def study(self, unit: str, label: str, verdict: str = "confirmed", **more: Any) -> None:
        """Give a unit the result of an agent."""
        evidence = {"kind": "confirmation", "auroc": 0.95, "finding": {"verdict": verdict, "reason": ""}}
        record = {"unit": f"{MODEL}/{unit}", "status": "answered", "label": label, "labels": [label]}
        self.put(f"units/{slug(f'{MODEL}/{unit}')}/done.json", record | {"evidence": evidence} | more)

    def role(self, unit: str, raised: list[str], lowered: list[str] = ()) -> None:  # type: ignore[assignment]
        """Say which outputs a unit raises and lowers."""
        effects = {"raised": [{"name": n} for n in raised], "lowered": [{"name": n} for n in lowered]}
        self.add("roles.jsonl", {"unit": f"{MODEL}/{unit}", "role": effects})

    def open(self) -> RunDirectory:
        return RunDirectory(self.root)
