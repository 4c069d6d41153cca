"""`maia ablate`: the whole system against less than the system, on the same units (MAIA 4.3, Table A5).

The variants' labels are put to the predictive protocol together; on synthetic neurons they are also scored
against the truth. Every comparison is paired by unit, with an interval.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import numpy as np

from actors.errors import MaiaError
from actors.grouping import task_group
from actors.vision.readout.units import parse_unit
from agents.records.manifest import check, check_studied, claim, claim_studied
from agents.records.record_types import FailureRecord
from agents.records.store import Store
from agents.study.faults import CONCERNS_ALL
from agents.study.study import RunContext, StudyRequest, study
from agents.tasks.describe_unit import DescribeUnit
from experiments.paper.evaluate import (
    NULL,
    Labelled,
    Sizes,
    difference,
    interval,
    label_of,
    measure,
    prepare,
    summarise,
    with_null,
)
from experiments.paper.gym.neurons import GymUnit
from experiments.paper.gym.neurons import choose as choose_synthetic
from experiments.paper.gym.score import score
from experiments.paper.published import TABLE_A5
from experiments.paper.variants import (
    EXEMPLARS_ONLY,
    FULL,
    GENERATED_ONLY,
    ONE_SHOT,
    VARIANTS,
    Variant,
    variant,
)
from experiments.report.schema import Cell, DataTable, Estimate, Page, TableColumn
from experiments.setup import config as configuration
from experiments.setup.config import Configuration, Profile
from experiments.setup.console import Console
from experiments.setup.run_folder import check_output_folder
from experiments.setup.science import science
from experiments.setup.workbench import Workbench
from experiments.studies.unit_selection import choose
from tools.subject import Subject

SYNTHETIC = "synthetic"
USUAL = (FULL, EXEMPLARS_ONLY, GENERATED_ONLY, ONE_SHOT)
AT_ONCE = 4
_PREDICTIVE = ("positive", "negative", "auroc", "margin", "pearson")


@dataclass(frozen=True)
class Ablation:
    """What a command line asks for. `model` "synthetic" takes `units` of the gym; `swap` is a profile whose
    generator takes the place of the own one in one more variant.
    """

    model: str
    layer: str
    units: str
    variants: tuple[str, ...] = tuple(each.name for each in USUAL)
    swap: str | None = None
    seed: int = 0
    sizes: Sizes = field(default_factory=Sizes)


async def ablate(
    console: Console, config: Path | None, profile_name: str | None, asked: Ablation, *, out: Path
) -> dict[str, Any]:
    """Study the units with every variant, compare the labels, write `ablation.json` and a page, and return
    it.

    Goes on with what an earlier run left; each variant's studies are a run of their own in
    `out/variants/NAME`.

    Raises:
        UsageError: If a unit, variant or profile does not exist, or `out` is another run.
    """
    loaded = configuration.load(config)
    profile = loaded.profile(profile_name)
    chosen = [variant(name) for name in dict.fromkeys((FULL.name, *asked.variants))]
    check_output_folder(profile.dataset, out)
    store = Store.open(out)
    manifest = {
        "command": "ablate", "model": asked.model, "layer": asked.layer, "asked": asked.units,
        "variants": [each.name for each in chosen], "swap": asked.swap, "seed": asked.seed,
        "profile": profile_name or loaded.default_profile, "settings": science(profile),
    }  # fmt: skip
    check(store, manifest)
    records: dict[str, dict[str, dict[str, Any]]] = {}
    model = None if asked.model == SYNTHETIC else asked.model
    if asked.swap is not None:
        other = profile.model_copy(update={"generation": loaded.profile(asked.swap).generation})
        async with Workbench.open(other, cache=loaded.cache, model=model, notify=console.say) as bench:
            units = await _units(console, bench, loaded, other, asked)
            _claim(store, manifest, bench)
            name = f"generator of {asked.swap}"
            records[name] = await _study_all(
                console, replace(FULL, name=name), bench.context, units, store, asked
            )
    async with Workbench.open(profile, cache=loaded.cache, model=model, notify=console.say) as bench:
        units = await _units(console, bench, loaded, profile, asked)
        _claim(store, manifest, bench)
        for each in chosen:
            records[each.name] = await _study_all(console, each, bench.context, units, store, asked)
        names = [*(each.name for each in chosen), *(name for name in records if name not in VARIANTS)]
        labelled = [
            Labelled(name, unit.layer, unit.name, labels)
            for name, unit in units.items()
            if (labels := {n: text for n in names if (text := label_of(records[n][name]))}).get(FULL.name)
        ]
        console.say(f"comparing the labels of {len(labelled)} units")

        async def subject_of(unit: Labelled) -> Subject:
            return units[unit.unit].subject

        evaluation = await prepare(bench, asked.sizes, asked.seed)
        rows = await measure(console, evaluation, with_null(labelled, asked.seed), subject_of, store)
    result = {
        "experiment": "ablation",
        "model": asked.model,
        "prompts": evaluation.writer.name,
        "seed": asked.seed,
        "variants": names,
        "rows": rows,
        "summary": summarise([{**row, "layer": "all"} for row in rows]),
        "differences": _differences(rows, [*names[1:], NULL]),
        "truth": _truth(units, records, names) if asked.model == SYNTHETIC else None,
    }
    Store(out).replace("ablation.json", json.dumps(result, indent=1, ensure_ascii=False).encode())
    page(result).save(out, "ablation")
    return result


@dataclass(frozen=True)
class _Unit:
    subject: Subject
    layer: str
    name: str
    truth: GymUnit | None = None


def _claim(store: Store, manifest: dict[str, Any], bench: Workbench) -> None:
    check_studied(store, bench.context.facts)
    claim(store, manifest)
    claim_studied(store, bench.context.facts)


async def _units(
    console: Console, bench: Workbench, loaded: Configuration, profile: Profile, asked: Ablation
) -> dict[str, _Unit]:
    """Return the units by id, their exemplars found."""
    if bench.network is None:
        from experiments.paper.gym.opening import open_gym, studied

        assert bench.detector is not None, "a set-up without a network has the concept detector"
        units = [unit for unit in choose_synthetic(asked.units) if unit.formula]
        gym, _ = open_gym(bench.detector, profile, loaded.cache, asked.seed, units)
        known, unknown = await studied(gym, units)
        for name, why in unknown.items():
            console.say(f"left out: {name}: {why}")
        with console.progress("data set") as progress:
            await gym.prepare(known, progress)
        made = [_Unit(gym.subject(each), SYNTHETIC, each.name, each) for each in known]
        return {unit.subject.id: unit for unit in made}
    sizes = {layer.name: layer.n_units for layer in await bench.vision.layers()}
    first = await bench.vision.unit(parse_unit(asked.layer, "0", await bench.vision.class_names()))
    size = sizes[first.layer]
    made = [
        _Unit(await bench.subject(asked.layer, str(number)), asked.layer, str(number))
        for number in choose(asked.units, size, asked.seed)
    ]
    with console.progress("exemplars") as progress:
        await made[0].subject.prepare(progress)
    return {unit.subject.id: unit for unit in made}


async def _study_all(
    console: Console,
    chosen: Variant,
    context: RunContext,
    units: Mapping[str, _Unit],
    store: Store,
    asked: Ablation,
) -> dict[str, dict[str, Any]]:
    """Return each unit's record by id; a study that failed has a record that says so."""
    own = Store.open(store.root / "variants" / chosen.name.replace(" ", "-"))
    claim(own, {"command": "ablate", "model": asked.model, "variant": chosen.name, "seed": asked.seed})
    records: dict[str, dict[str, Any]] = {}
    room = anyio.CapacityLimiter(AT_ONCE)

    async def one(name: str, unit: _Unit) -> None:
        async with room:
            task = DescribeUnit()
            try:
                request = StudyRequest(unit.subject, task, asked.seed)
                records[name] = (await study(chosen.of(context), request, own)).to_json()
            except CONCERNS_ALL:
                raise
            except MaiaError as error:
                records[name] = FailureRecord.of(unit.subject.id, task.name, error).to_json()
            told = records[name].get("label") or records[name]["status"]
            console.say(f"{chosen.name}: {len(records)} of {len(units)}, {unit.name}: {told}")

    async with task_group() as group:
        for name, unit in units.items():
            group.create_task(one(name, unit))
    return records


def _differences(rows: Sequence[Mapping[str, Any]], others: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the whole system's paired lead over every other method, by method and measure."""
    return {
        name: {each: found for each in _PREDICTIVE if (found := difference(rows, FULL.name, name, each))}
        for name in others
    }


def _truth(
    units: Mapping[str, _Unit], records: Mapping[str, Mapping[str, dict[str, Any]]], names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return by variant: share of right labels, concept F1, and the whole system's paired lead in F1."""

    def scores(name: str) -> list[dict[str, Any]]:
        return [
            score(unit.truth, records[name][key].get("labels") or [])
            for key, unit in units.items()
            if unit.truth is not None
        ]

    full = np.array([each["f1"] for each in scores(FULL.name)])
    table = {}
    for name in names:
        found = scores(name)
        f1 = np.array([each["f1"] for each in found])
        table[name] = {
            "n": len(found),
            "right": float(np.mean([each["right"] for each in found])),
            "f1": float(f1.mean()),
            "lead": interval(full - f1) if name != FULL.name else None,
        }
    return table


def page(result: Mapping[str, Any]) -> Page:
    """Return the page of an ablation, in Table A5's form."""
    by_method = {row["method"]: row for row in result["summary"]}

    def lead(name: str, measure_name: str) -> Estimate | None:
        found = result["differences"].get(name, {}).get(measure_name)
        if found is None:
            return None
        return _measured(found)

    columns = (
        TableColumn(name="variant"), TableColumn(name="units", digits=0), TableColumn(name="+", source="ours"),
        TableColumn(name="−", source="ours"), TableColumn(name="AUROC", source="ours"),
        TableColumn(name="lead of the whole system: +", source="ours"),
        TableColumn(name="lead of the whole system: AUROC", source="ours"),
        TableColumn(name="+", source="paper"), TableColumn(name="−", source="paper"),
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = [
        (
            name, row["n"], row["positive"], row["negative"], row["auroc"],
            lead(name, "positive"), lead(name, "auroc"), None, None,
        )
        for name, row in by_method.items()
    ]  # fmt: skip
    for model, variants in TABLE_A5.items():
        for name, (up, down) in variants.items():
            rows.append((f"the paper's {model}: {name}", None, None, None, None, None, None, up, down))
    blocks: list[Any] = [
        DataTable(
            title="Table A5", columns=columns, rows=tuple(rows),
            note="Leads are mean paired differences over units with 95 % bootstrap intervals. The paper's table is of its own "
            "networks and units, and does not say which of its columns is the whole system.",
        )
    ]  # fmt: skip
    if result["truth"]:
        truth = tuple(
            (
                name,
                each["n"],
                each["right"],
                each["f1"],
                each["lead"] and _measured(each["lead"]),
            )
            for name, each in result["truth"].items()
        )
        blocks.append(
            DataTable(
                title="Against the truth",
                columns=(TableColumn(name="variant"), TableColumn(name="units", digits=0), TableColumn(name="right", source="ours"),
                         TableColumn(name="concept F1", source="ours"), TableColumn(name="lead of the whole system: F1", source="ours")),
                rows=truth,
            )
        )  # fmt: skip
    return Page(
        title="Ablations",
        summary=f"{len(result['variants'])} variants on {len(result['rows'])} units; prompts by {result['prompts']}.",
        blocks=tuple(blocks),
    )


def table(result: Mapping[str, Any]) -> str:
    """Return the comparison in lines for a terminal."""
    lines = [
        "",
        f"{'variant':24} {'units':>5} {'+':>7} {'−':>7} {'AUROC':>6}  lead of the whole system in AUROC",
    ]
    for row in result["summary"]:
        found = result["differences"].get(row["method"], {}).get("auroc")
        told = _told(found) if found else ""
        lines.append(
            f"{row['method'][:24]:24} {row['n']:5d} {row['positive']:7.2f} {row['negative']:7.2f} {row['auroc']:6.2f}  {told}"
        )
    for name, each in (result["truth"] or {}).items():
        lead = each["lead"]
        told = f", lead {_told(lead)}" if lead else ""
        lines.append(f"truth: {name}: {each['right']:.2f} right, F1 {each['f1']:.2f} of {each['n']}{told}")
    return "\n".join(lines)


def _measured(found: Mapping[str, Any]) -> Estimate:
    """Return a mean with its interval; resampling a single unit gives none."""
    low, high = found["interval"] if found["n"] > 1 else (None, None)
    return Estimate(value=found["mean"], low=low, high=high)


def _told(found: Mapping[str, Any]) -> str:
    if found["n"] == 1:
        return f"{found['mean']:+.2f} (of one unit)"
    return "{:+.2f} ({:+.2f} to {:+.2f})".format(found["mean"], *found["interval"])
