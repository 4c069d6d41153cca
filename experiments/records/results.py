"""A run's results in two files that other programs read: one record a unit, as JSONL and as Parquet.

Made from the run directory alone, whole each time, and so always what the records say.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.evidence.verdict import verdict_of
from agents.records.journal import failures, read_result, unit_folder
from agents.records.run_files import RecordError
from agents.records.store import Store, finite
from agents.records.work import WorkItem
from experiments.records import cross_unit, roles


def write_results(run: Path, items: Sequence[WorkItem]) -> list[Path]:
    """Write `results.jsonl`, and `results.parquet` where pyarrow is installed; return their paths.

    Raises:
        StoreError: If the disk is full.
    """
    store = Store(run)
    try:
        across = cross_unit.read(store) or {}
    except RecordError:  # made again by the next comparison, and named by the report
        across = {}
    rows = [
        row | ({"crosswise": across[item.unit]} if item.unit in across else {})
        for item in items
        if (row := result(store, item)) is not None
    ]
    rows = [finite(row) for row in rows]
    lines = "".join(
        json.dumps(row, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n" for row in rows
    )
    files = {"results.jsonl": lines.encode()}
    if (table := as_parquet(rows)) is not None:
        files["results.parquet"] = table
    for name, data in files.items():
        store.replace(name, data)
    return [run / name for name in files]


def result(store: Store, item: WorkItem) -> dict[str, Any] | None:
    """Return one unit's row, None if it has come to no end yet. Of a unit with a damaged record, a failure
    that names it.
    """
    folder = unit_folder(item.unit)
    about = {"unit": item.unit, "layer": item.layer, "name": item.name, "folder": folder}
    try:
        record = read_result(store, item.unit)
        tried = failures(store, item.unit) if record is None else []
    except RecordError as error:
        return {**about, **damage(error), "verdict": "failed", "attempts": 0}
    if record is None:
        return (
            {**about, **tried[-1].to_json(), "verdict": "failed", "attempts": len(tried)} if tried else None
        )
    usage, values = record.total_usage(), record.to_json()
    return {
        **about,
        **{key: value for key, value in values.items() if key not in ("exemplars", "usage")},
        "verdict": verdict_of(values),
        "exemplars": [exemplar.image for exemplar in record.exemplars],
        "cost": {
            "tokens": usage.prompt_tokens + usage.completion_tokens,
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
            "requests": usage.requests,
            "dollars": None if usage.unpriced else usage.dollars,
            "estimated": usage.estimated,
        },
    }


def damage(error: RecordError) -> dict[str, Any]:
    """Return the fields of a study whose record is damaged: it counts as failed."""
    reason = {"type": type(error).__name__, "message": error.message, "fix": error.fix}
    return {"status": "failed", "error": reason}


_ROLE_TEXTS = " ".join(roles.TEXTS)
_ROLE_NUMBERS = " ".join(name for name in roles.COLUMNS if name not in roles.TEXTS)
_COLUMNS = {
    "string": "unit layer name folder task status verdict label description labels answered fields evidence "
    "card role exemplars background facts cost crosswise in_doubt error repeats agreement tier why proposal "
    f"{_ROLE_TEXTS}",
    "int64": "rounds images_made images_tested attempts seed cost_tokens cost_prompt_tokens "
    "cost_cached_tokens cost_completion_tokens cost_requests",
    "float64": f"cost_dollars {_ROLE_NUMBERS}",
    "bool": "confirmed cost_estimated",
}
"""What every table has, by type, whatever its rows hold: tables of several runs are read as one."""


def as_parquet(rows: Sequence[dict[str, Any]]) -> bytes | None:
    """Return the rows as Parquet: numbers and texts as columns, everything nested as JSON; None without
    pyarrow.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        return None

    flat = [
        {
            **row,
            **{f"cost_{key}": value for key, value in row.get("cost", {}).items()},
            **roles.RecordedRole.of(row).columns(),
        }
        for row in rows
    ]
    types = {name: kind for kind, names in _COLUMNS.items() for name in names.split()}
    names = dict.fromkeys([*types, *(name for row in flat for name in row)])
    columns = {}
    for name in names:
        values = [row.get(name) for row in flat]
        kind = types.get(name)
        if kind == "string" or any(isinstance(value, dict | list) for value in values):
            values = [
                value if value is None or isinstance(value, str) else json.dumps(value, sort_keys=True)
                for value in values
            ]
        columns[name] = pa.array(values, None if kind is None else pa.type_for_alias(kind))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data
