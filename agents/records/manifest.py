"""What a run directory is about: written first, and compared before anything is added to it.

A run of many units may be given more of them, and never fewer; everything else stays as it was.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from actors.errors import UsageError
from actors.vision.data.dataset_names import canonical, is_path
from agents.records.record_types import Manifest, encode_record, load_record
from agents.records.store import Store

KEY = "manifest.json"
STUDIED = "studied.json"
_NAMES = {
    "network": "network (its weights, modules or preprocessing)",
    "dataset": "data set (its files' names, sizes or content)",
    "embedder": "embedder (its weights or prompts)",
}
_TRANSIENT = frozenset(
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
"""Where settings were read from, where a model is and at which rate it is asked: written down, and free to
change between two commands. A server moves, a rate turns out too high, a batch too large, and the run is
resumed.
"""


EXTENT = ("asked", "layers", "units", "agents")
"""The keys of a run's units: the words of the command line, and once the network is known their ids; and
which of them are given agents.
"""
_OPTIONS = {
    "layer": "LAYER",
    "unit": "UNIT",
    "layers": "LAYERS",
    "model": "MODEL",
    "seed": "--seed",
    "repeat": "--repeat",
    "profile": "--profile",
    "per_context": "--images",
    "settings.dataset": "the dataset (--data)",
    "settings.vision.class_names": "the list of class names (--class-names)",
}
"""The option of the command line that sets a key."""
_LONG = 200
_UNITS_OPTION = {"sweep": "--units", "audit": "--classes"}


def check(store: Store, manifest: Manifest) -> None:
    """Make sure that the directory is unclaimed, or claimed for this very manifest, of which it may have
    fewer units.

    Whether it has fewer is decided by the ids of units alone: while `manifest` lacks them, as its network is
    not known yet, what was asked for is not compared.

    Raises:
        UsageError: Showing each difference, if the directory belongs to another configuration.
    """
    present = recorded(store).to_json()
    if not present:
        return
    old, new = _without_transient_keys(present), _without_transient_keys(json.loads(encode_record(manifest)))
    before, now = _dataset(old), _dataset(new)
    if is_path(before) and is_path(now) and (store.has(STUDIED) or canonical(before) == canonical(now)):
        # It may be spelled differently, or have moved: its fingerprint decides whether it is the same one.
        new["settings"]["dataset"] = old["settings"]["dataset"]
    commands = [old.get("command"), new.get("command")]
    if all(commands) and commands[0] != commands[1]:
        raise UsageError(
            f"{store.root} holds a run of `maia {commands[0]}`, and this is `maia {commands[1]}`.",
            "Give this run its own --out.",
        )
    extents = old, new
    # A run whose units are on record can be seen to keep them all; any other is what was asked for.
    grows = "units" in old and "asked" in old and "asked" in new
    if "units" not in new:  # the network is not known yet
        old.pop("units", None)
    if grows:
        old, new = ({k: v for k, v in values.items() if k not in EXTENT} for values in (old, new))
    different = list(_differences("", old, new))
    if different:
        raise UsageError(
            f"{store.root} holds a run of another configuration: " + "; ".join(different[:6]) + ".",
            "Give this run its own --out, or repeat the earlier command to resume it.",
        )
    # Last: another seed samples other units, and is the reason then.
    if grows:
        _check_extent(store, *extents)


def _check_extent(store: Store, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raise UsageError if a unit of the run is not among those that are asked for now."""
    left_out = set(old.get("units", ())) - set(new.get("units", old.get("units", ())))
    if not left_out:
        return
    option, asked = _UNITS_OPTION.get(new.get("command", ""), "asked"), old["asked"]
    differences = _differences("", *({k: values.get(k) for k in EXTENT[:2]} for values in (old, new)))
    changes = "; ".join(text.replace("asked", option, 1) for text in differences)
    changes = changes or "the same words name other units"
    layers = old.get("layers") or ()
    dropped = set(layers) - set(new.get("layers") or layers)
    as_well = [f"{_OPTIONS['layers']} {','.join(layers)},MORE"] if dropped else []
    if not dropped or asked != new["asked"]:
        as_well.append(f"{option} {asked},MORE")
    raise UsageError(
        f"{store.root} holds a run of more than is asked for now: {changes}, which leaves out "
        f"{len(left_out)} of its {len(old['units'])}.",
        f"A run can only grow. Include its existing units ({' '.join(as_well)}), or choose another --out.",
    )


def widened(store: Store, manifest: Manifest) -> bool:
    """Return whether a run is asked for in other words than before, so that it may have to be planned for
    more.
    """
    old = recorded(store).to_json()
    return old | _extent(manifest) != old


def widen(store: Store, manifest: Manifest) -> None:
    """Write down which units the run has now; raises like `check`. Call it once they are planned."""
    check(store, manifest)
    old = recorded(store).to_json()
    if (new := old | _extent(manifest)) != old:
        store.replace(KEY, encode_record(new), synced=True)


def recorded(store: Store) -> Manifest:
    """Return the manifest of a run, an empty one where it has none yet.

    Raises:
        RecordError: If it is damaged.
    """
    return load_record(store, KEY, Manifest) or Manifest()


def _extent(manifest: Manifest) -> dict[str, Any]:
    return {key: value for key, value in manifest.to_json().items() if key in EXTENT}


def claim(store: Store, manifest: Manifest) -> None:
    """Write the manifest unless it is there; raises like `check`. Call it once all inputs were found."""
    store.put(KEY, encode_record(manifest))
    check(store, manifest)


def check_studied(store: Store, facts: Mapping[str, Any], names: Collection[str] = tuple(_NAMES)) -> None:
    """Make sure that network and data set are, by their fingerprints, those that the run started with.

    A file of weights may change under its name, and a folder of images under its path. `names` are those that
    count.

    Raises:
        UsageError: If one is another.
    """
    old = store.read_object(STUDIED) or {}
    changed = [
        f"the {description} was {old[name]}, now {facts.get(name)}"
        for name, description in _NAMES.items()
        if name in names and name in old and old[name] != facts.get(name)
    ]
    if changed:
        raise UsageError(
            f"{store.root} was started with something else under the same name: {'; '.join(changed)}.",
            "Put back what was there, or give this run its own --out.",
        )


def claim_studied(store: Store, facts: Mapping[str, Any]) -> None:
    """Write down what is studied unless it is there; raises like `check_studied`."""
    store.put(STUDIED, encode_record({name: facts[name] for name in _NAMES if name in facts}))
    check_studied(store, facts)


def _dataset(manifest: dict[str, Any]) -> str:
    """Return the data set that a manifest names; one that names none counts as no path."""
    settings = manifest.get("settings")
    named = settings.get("dataset") if isinstance(settings, dict) else None
    return named if isinstance(named, str) else "scenes"


def _without_transient_keys(manifest: Any) -> Any:
    """Leave out what may differ between two commands of one run."""
    if isinstance(manifest, dict):
        return {
            key: _without_transient_keys(value) for key, value in manifest.items() if key not in _TRANSIENT
        }
    return manifest


def _differences(path: str, old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            if path.startswith("settings") and key not in old:
                continue  # a setting that did not exist when the run started
            yield from _differences(f"{path}.{key}" if path else key, old.get(key), new.get(key))
    elif old != new:
        name = _OPTIONS.get(path) or path
        if name.startswith("settings."):
            name = f"the profile's {name.removeprefix('settings.')}"
        yield f"{name} was {_brief(old)}, now {_brief(new)}"


def _brief(value: Any) -> str:
    """Return a value as a person would write it; None is "not set"."""
    if value is None:
        return "not set"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ",".join(value)
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONG else f"{text[: _LONG - 3]}..."
