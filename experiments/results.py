"""A run's results in two files that other programs read: one record a unit, as JSONL and as Parquet.

Made from the run directory alone, whole each time, and so always what the records say.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.journal import slug
from agents.orchestrator import failures
from agents.store import Store
from agents.study import total_usage
from agents.verdict import verdict_of
from agents.work import WorkItem
from experiments.crosswise import KEY as CROSSWISE


def write_results(run: Path, items: Sequence[WorkItem]) -> list[Path]:
    """Write `results.jsonl`, and `results.parquet` where pyarrow is installed; return their paths.

    Raises:
        StoreError: If the disk is full.
    """
    store = Store(run)
    across = json.loads(store.get(CROSSWISE) or b"{}")
    rows = [
        row | ({"crosswise": across[item.unit]} if item.unit in across else {})
        for item in items
        if (row := result(store, item)) is not None
    ]
    lines = "".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows)
    files = {"results.jsonl": lines.encode()}
    if (table := as_parquet(rows)) is not None:
        files["results.parquet"] = table
    for name, data in files.items():
        store.replace(name, data)
    return [run / name for name in files]


def result(store: Store, item: WorkItem) -> dict[str, Any] | None:
    """Return one unit's row, None if it has come to no end yet."""
    folder = f"units/{slug(item.unit)}"
    about = {"unit": item.unit, "layer": item.layer, "name": item.name, "folder": folder}
    data = store.get(f"{folder}/done.json")
    if data is None:
        tried = failures(store, item.unit)
        return {**about, **tried[-1], "verdict": "failed", "attempts": len(tried)} if tried else None
    record = json.loads(data)
    usage = total_usage(record)
    return {
        **about,
        **{key: value for key, value in record.items() if key not in ("exemplars", "usage")},
        "verdict": verdict_of(record),
        "exemplars": [each["image"] for each in record["exemplars"]],
        "cost": {
            "tokens": usage.prompt_tokens + usage.completion_tokens,
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
            "requests": usage.requests,
            "dollars": usage.dollars,
            "estimated": usage.estimated,
        },
    }


def as_parquet(rows: Sequence[dict[str, Any]]) -> bytes | None:
    """Return the rows as Parquet: numbers and texts as columns, everything nested as JSON; None without pyarrow."""
    if not rows:
        return None
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        return None

    flat = [{**row, **{f"cost_{key}": value for key, value in row.get("cost", {}).items()}} for row in rows]
    names = dict.fromkeys(name for row in flat for name in row)
    columns = {}
    for name in names:
        values = [row.get(name) for row in flat]
        if any(isinstance(value, dict | list) for value in values):
            values = [None if value is None else json.dumps(value, sort_keys=True) for value in values]
        columns[name] = pa.array(values)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data
