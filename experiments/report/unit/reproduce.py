"""The command that studies a unit again, into a folder of its own, with the run's profile, its file, data set
and seed.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from agents.records.journal import slug
from experiments.report.records import RunDirectory, UnitRecords, mapping, number, sequence, text


def command(run: RunDirectory, unit: UnitRecords) -> str:
    """Return the command for a shell; "" if the records do not say enough."""
    manifest, done = run.manifest, mapping(unit.done)
    asked = text(manifest.get("command"))
    model = text(manifest.get("model")) or text(mapping(done.get("facts")).get("model")) or unit.name.model
    words = _studying(asked, model, run, unit)
    if not model or not words:
        return ""
    if asked == "session" and (person := text(manifest.get("person"))):
        words += ["--person", person]
    if profile := text(manifest.get("profile")):
        words += ["--profile", profile]
    if config := text(manifest.get("config")):
        words += ["--config", config]
    dataset = text(mapping(manifest.get("settings")).get("dataset"))
    if dataset and asked != "synthetic":
        words += ["--data", dataset]
    seed = number(done.get("seed", manifest.get("seed")))
    if seed is not None:
        words += ["--seed", f"{seed:.0f}"]
    if repeats := sequence(done.get("repeats")):
        words += ["--repeat", str(len(repeats))]
    # Into the run's own folder, the command would only read what is there.
    words += ["--out", f"runs/again-{slug(unit.name.short)}"]
    return " ".join(map(_quoted, ["maia", *words]))


def _quoted(word: str) -> str:
    """Return a word for a shell, which is to expand the home folder at its beginning."""
    return f"~/{shlex.quote(word[2:])}" if word.startswith("~/") and len(word) > 2 else shlex.quote(word)


def _design(manifest: Mapping[str, Any]) -> list[str]:
    """Return the options of an audit, other than its classes."""
    images, proposed = number(manifest.get("per_context")), number(manifest.get("propose_contexts"))
    words = [] if images is None else ["--images", f"{images:.0f}"]
    words += [f"--propose-contexts={proposed:.0f}"] if proposed else []
    words += [] if manifest.get("agents", True) else ["--figures-only"]
    columns, real = mapping(mapping(manifest.get("settings")).get("columns")), mapping(manifest.get("real"))
    named = {
        "--label-column": text(columns.get("label")),
        "--image-column": text(columns.get("image")),
        "--attributes": ",".join(map(text, sequence(columns.get("attributes")))),
        "--label-names": ",".join(
            f"{label}={text(name)}" for label, name in mapping(real.get("names")).items()
        ),
    }
    words += [word for option, value in named.items() if value for word in (option, value)]
    if (limit := number(real.get("per_class"))) is not None:
        words += ["--real-images", f"{limit:.0f}"]
    return [*words, "--witness"] if real.get("everything") is True else words


def _studying(asked: str, model: str, run: RunDirectory, unit: UnitRecords) -> list[str]:
    """Return the words that name the question and the unit, none if they are not on record."""
    name, manifest = unit.name, run.manifest
    item = run.plan.get(name.id, {})
    called = text(item.get("name"))
    if asked == "synthetic":
        formula = name.id.partition("/")[2]
        return [asked, "--units", formula] if formula else []
    if asked == "audit":
        # Its unit is `probability:NUMBER`; a class is asked for by its number.
        return [asked, model, "--classes", called.rpartition(":")[2], *_design(manifest)] if called else []
    if asked == "mcp":  # an agent from outside studied it: no command makes it do so again
        return []
    study = "session" if asked == "session" else "describe"
    if text(manifest.get("layer")) and text(manifest.get("unit")):
        return [study, model, text(manifest["layer"]), text(manifest["unit"])]
    if text(item.get("layer")) and called:
        return [study, model, text(item["layer"]), called]
    if name.index is None:
        return []
    if name.kind == "channel":
        return [study, model, name.layer, str(name.index)]
    source = f"{name.source}:" if name.source else ""
    return [study, model, name.layer, f"{name.kind}:{source}{name.index}"]
