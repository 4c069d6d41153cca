"""What a run directory is about: written once, and compared before anything is added to it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from actors.errors import UsageError
from actors.vision.datasets import canonical, is_path
from agents.store import Store, parse

KEY = "manifest.json"
STUDIED = "studied.json"
_NAMES = {
    "network": "network (its weights, modules or preprocessing)",
    "dataset": "data set (its files' names, sizes or content)",
}
_ON_THE_WAY = frozenset(
    {
        "config",
        "base_url",
        "api_key_env",
        "headers_env",
        "price",
        "max_concurrent",
        "requests_per_minute",
        "tokens_per_minute",
        "connect_timeout_s",
        "attempt_timeout_s",
        "deadline_s",
        "max_attempts",
        "backoff_s",
        "backoff_max_s",
        "breaker_failures",
        "breaker_pause_s",
        "outage_patience_s",
        "batch",
        "device",
        "compile",
        # No longer written down, but in what was.
        "map_memory_mb",
    }
)
"""Where settings were read from, where a model is and how hard it is driven: written down, and free to change between
two commands. A server moves, a rate turns out too high, a batch too large, and what was paid for is gone on with."""


def check(store: Store, manifest: dict[str, Any]) -> None:
    """Make sure that the directory is unclaimed, or claimed for this very manifest.

    Raises:
        UsageError: Showing each difference, if the directory belongs to another configuration.
    """
    present = store.get(KEY)
    if present is None:
        return
    old, new = _told(parse(present, store.root / KEY)), _told(json.loads(_encode(manifest)))
    before, now = _dataset(old), _dataset(new)
    if is_path(before) and is_path(now) and (store.has(STUDIED) or canonical(before) == canonical(now)):
        # It may be written otherwise, or lie elsewhere by now: its fingerprint tells whether it is the same one.
        new["settings"]["dataset"] = old["settings"]["dataset"]
    different = list(_differences("", old, new))
    if different:
        raise UsageError(
            f"{store.root} holds a run of another configuration: " + "; ".join(different[:6]) + ".",
            "Give this run its own --out, or repeat the earlier command to go on with it.",
        )


def claim(store: Store, manifest: dict[str, Any]) -> None:
    """Write the manifest unless it is there; raises like `check`. Call it once all that was asked for exists."""
    store.put(KEY, _encode(manifest))
    check(store, manifest)


def check_studied(store: Store, facts: Mapping[str, Any], names: Collection[str] = tuple(_NAMES)) -> None:
    """Make sure that network and data set are, by their fingerprints, those that the directory was begun with.

    A file of weights may change under its name, and a folder of images under its path. `names` are those that count.

    Raises:
        UsageError: If one is another.
    """
    present = store.get(STUDIED)
    old: dict[str, Any] = {} if present is None else parse(present, store.root / STUDIED)
    changed = [
        f"the {told} was {old[name]}, now {facts.get(name)}"
        for name, told in _NAMES.items()
        if name in names and name in old and old[name] != facts.get(name)
    ]
    if changed:
        raise UsageError(
            f"{store.root} was begun with something else under the same name: {'; '.join(changed)}.",
            "Put back what was there, or give this run its own --out.",
        )


def claim_studied(store: Store, facts: Mapping[str, Any]) -> None:
    """Write down what is studied unless it is there; raises like `check_studied`."""
    store.put(STUDIED, _encode({name: facts[name] for name in _NAMES if name in facts}))
    check_studied(store, facts)


def _dataset(manifest: dict[str, Any]) -> str:
    """Return the data set that a manifest names; one that names none counts as no path."""
    settings = manifest.get("settings")
    named = settings.get("dataset") if isinstance(settings, dict) else None
    return named if isinstance(named, str) else "scenes"


def _told(manifest: Any) -> Any:
    """Leave out what may differ between two commands of one run."""
    if isinstance(manifest, dict):
        return {key: _told(value) for key, value in manifest.items() if key not in _ON_THE_WAY}
    return manifest


def _encode(manifest: dict[str, Any]) -> bytes:
    return json.dumps(manifest, sort_keys=True, indent=1, ensure_ascii=False).encode()


def _differences(path: str, old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(f"{path}.{key}" if path else key, old.get(key), new.get(key))
    elif old != new:
        yield f"{path} was {json.dumps(old)}, now {json.dumps(new)}"
