"""What a run directory is about: written once, and compared before anything is added to it."""

from __future__ import annotations

import json
from typing import Any

from actors.errors import UsageError
from agents.store import Store

KEY = "manifest.json"


def claim(store: Store, manifest: dict[str, Any]) -> None:
    """Write the manifest, or make sure that the one there says the same.

    Raises:
        UsageError: Showing each difference, if the directory belongs to another configuration.
    """
    text = json.dumps(manifest, sort_keys=True, indent=1, ensure_ascii=False)
    if store.put(KEY, text.encode()):
        return
    present = json.loads(store.get(KEY) or b"{}")
    different = list(_differences("", present, json.loads(text)))
    if different:
        raise UsageError(
            f"{store.root} holds a run of another configuration: " + "; ".join(different[:6]) + ".",
            "Give this run its own --out, or repeat the earlier command to go on with it.",
        )


def _differences(path: str, old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(f"{path}.{key}" if path else key, old.get(key), new.get(key))
    elif old != new:
        yield f"{path} was {json.dumps(old)}, now {json.dumps(new)}"
