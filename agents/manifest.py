"""What a run directory is about: written once, and compared before anything is added to it."""

from __future__ import annotations

import json
from typing import Any

from actors.errors import UsageError
from agents.store import Store

KEY = "manifest.json"


def check(store: Store, manifest: dict[str, Any]) -> None:
    """Make sure that the directory is unclaimed, or claimed for this very manifest.

    Raises:
        UsageError: Showing each difference, if the directory belongs to another configuration.
    """
    present = store.get(KEY)
    if present is None:
        return
    old, new = json.loads(present), json.loads(_encode(manifest))
    different = list(_differences("", _told(old), _told(new)))
    if different:
        raise UsageError(
            f"{store.root} holds a run of another configuration: " + "; ".join(different[:6]) + ".",
            "Give this run its own --out, or repeat the earlier command to go on with it.",
        )


def claim(store: Store, manifest: dict[str, Any]) -> None:
    """Write the manifest unless it is there; raises like `check`. Call it once all that was asked for exists."""
    store.put(KEY, _encode(manifest))
    check(store, manifest)


def _told(manifest: dict[str, Any]) -> dict[str, Any]:
    """Leave out the file that the settings were read from: it may be moved, and `settings` say what was in it."""
    return {key: value for key, value in manifest.items() if key != "config"}


def _encode(manifest: dict[str, Any]) -> bytes:
    return json.dumps(manifest, sort_keys=True, indent=1, ensure_ascii=False).encode()


def _differences(path: str, old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(f"{path}.{key}" if path else key, old.get(key), new.get(key))
    elif old != new:
        yield f"{path} was {json.dumps(old)}, now {json.dumps(new)}"
