"""`maia synthetic`: describe units whose truth is known, and count how often the system is right (MAIA 4.2)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import numpy as np

from actors.embedded.drawing.withheld import Withheld
from actors.errors import MaiaError
from actors.grouping import task_group
from agents.evidence.label_card import kind_of
from agents.evidence.statistics import wilson_interval
from agents.evidence.verdict import HOLDING, is_confirmed, verdict_of
from agents.records.journal import Journal
from agents.records.manifest import check, check_studied, claim, claim_studied
from agents.records.record_types import FailureRecord, RoundRecord
from agents.records.store import Store
from agents.study.faults import CONCERNS_ALL
from agents.study.study import RunContext, StudyRequest, study
from agents.tasks.describe_unit import DescribeUnit
from experiments.paper.gym.drawn import reachable
from experiments.paper.gym.neurons import GymUnit, choose, table_a4
from experiments.paper.gym.opening import lacked, open_gym, studied, without
from experiments.paper.gym.score import named_by, same, score, senses
from experiments.paper.gym.subjects import Gym
from experiments.paper.variants import FULL, ONE_SHOT, Variant
from experiments.setup import config as configuration
from experiments.setup.config import Profile
from experiments.setup.console import Console
from experiments.setup.run_folder import check_output_folder
from experiments.setup.science import science
from experiments.setup.workbench import Workbench
from tools.synthetic import ConceptDetector

AT_ONCE = 4
"""Studies that go on at the same time."""
KINDS = ("mono", "or", "given", "confounded", "dead", "constant", "random", "noisy")
PAPER_2AFC = 0.73
"""Share of comparisons that MAIA's label won against MILAN's on synthetic neurons (Table 1)."""


async def describe_synthetic(
    console: Console,
    config: Path | None,
    profile_name: str | None,
    *,
    units: str,
    out: Path,
    seed: int = 0,
    baseline: bool = True,
    limit: int | None = None,
    withheld: float = 0.0,
) -> dict[str, Any]:
    """Study the units, score their labels, write `synthetic.json` into `out` and return what it holds.

    `withheld` is the share of the embedded vocabulary that image maker and models lack. An interrupted run
    goes on where it was.

    Raises:
        UsageError: If no unit can be studied with this profile's detector, or `out` is another run.
    """
    loaded = configuration.load(config)
    profile = without(loaded.profile(profile_name), Withheld(share=withheld, seed=seed))
    chosen = choose(units)[:limit]
    check_output_folder(profile.dataset, out)
    store = Store.open(out)
    manifest = {
        "command": "synthetic",
        "model": "synthetic",
        "units": [unit.name for unit in chosen],
        "seed": seed,
        "profile": profile_name or loaded.default_profile,
        "config": loaded.named_file,
        "settings": science(profile),
    }
    check(store, manifest)
    async with Workbench.open(profile, cache=loaded.cache, model=None, notify=console.say) as bench:
        assert bench.detector is not None
        return await measure(
            console,
            bench.context,
            bench.detector,
            profile,
            chosen,
            store,
            manifest,
            cache=loaded.cache,
            seed=seed,
            baseline=baseline,
        )


async def measure(
    console: Console,
    context: RunContext,
    detector: ConceptDetector,
    profile: Profile,
    chosen: Sequence[GymUnit],
    store: Store,
    manifest: dict[str, Any],
    *,
    cache: Path,
    seed: int,
    baseline: bool,
) -> dict[str, Any]:
    """Study the units in this context; as `describe_synthetic`."""
    gym, fingerprint = open_gym(detector, profile, cache, seed, chosen)
    known, unknown = await studied(gym, chosen)
    own = replace(context, facts={**context.facts, "dataset": fingerprint})
    check_studied(store, own.facts)
    claim(store, manifest)
    claim_studied(store, own.facts)
    for name, why in unknown.items():
        console.say(f"left out: {name}: {why}")
    console.say(f"looking through the data set for the concepts of {len(known)} units")
    with console.progress("data set") as progress:
        await gym.prepare(known, progress)
    rows = await _compare(console, own, gym, known, store, seed, baseline)
    lacking = lacked(profile)
    for unit, row in zip(known, rows, strict=True):
        row["reachable"] = reachable(unit, lacking)
    result = {
        "experiment": "synthetic",
        "facts": own.facts,
        "seed": seed,
        "left_out": unknown,
        "coverage": coverage(known),
        "rows": rows,
        "summary": summarise(rows),
    }
    store.replace("synthetic.json", json.dumps(result, indent=1, ensure_ascii=False).encode())
    return result


async def _compare(
    console: Console,
    context: RunContext,
    gym: Gym,
    units: Sequence[GymUnit],
    store: Store,
    seed: int,
    baseline: bool,
) -> list[dict[str, Any]]:
    records = await study_all(console, FULL, context, gym, units, store, seed)
    others: dict[str, dict[str, Any]] = {}
    if baseline:
        meaningful = [unit for unit in units if unit.formula is not None]
        folder = Store.open(store.root / "baselines" / ONE_SHOT.name)
        others = await study_all(console, ONE_SHOT, context, gym, meaningful, folder, seed)
    rows = []
    for unit in units:
        record = records[unit.name]
        labels = record.get("labels") or []
        row = {
            "unit": record["unit"],
            "kind": unit.kind,
            "truth": unit.name,
            "status": record["status"],
            "labels": labels,
            "confirmed": is_confirmed(record),
            "verdict": verdict_of(record),
            "found_kind": kind_of(record),
            "e_value": (record.get("evidence") or {}).get("e_value_corrected"),
            "rounds": record.get("rounds"),
            "images": record.get("images_made"),
            **score(unit, labels),
            "first_right": first_right(unit, Journal(store, record["unit"]).rounds()),
        }
        if unit.name in others:
            other = others[unit.name].get("labels") or []
            row["one_shot"] = {"labels": other, **score(unit, other)}
        rows.append(row)
    return rows


async def study_all(
    console: Console,
    variant: Variant,
    context: RunContext,
    gym: Gym,
    units: Sequence[GymUnit],
    store: Store,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Return each unit's record by name; a study that failed has a record that says so."""
    records: dict[str, dict[str, Any]] = {}
    room = anyio.CapacityLimiter(AT_ONCE)
    own = variant.of(context)

    async def one(unit: GymUnit) -> None:
        async with room:
            subject, task = gym.subject(unit), DescribeUnit()
            try:
                result = await study(own, StudyRequest(subject, task, seed), store)
                record = result.to_json()
            except CONCERNS_ALL:
                raise
            except MaiaError as error:
                record = FailureRecord.of(subject.id, task.name, error).to_json()
            records[unit.name] = record
            told = record.get("label") or record["status"]
            console.say(f"{len(records)} of {len(units)} ({variant.name}) {unit.kind} {unit.name}: {told}")

    async with task_group() as group:
        for unit in units:
            group.create_task(one(unit))
    return records


def first_right(unit: GymUnit, rounds: Sequence[RoundRecord]) -> dict[str, int] | None:
    """Return the round, and the images made by then, in which the leading hypothesis first named the truth
    alone.
    """
    if unit.formula is None:
        return None
    truth = [senses(concept)[-1:] for concept in unit.formula.concepts]
    for record in rounds:
        if not record.hypotheses:
            continue
        named = named_by([record.hypotheses[0]])
        wanted = [each[0] for each in truth if each]
        known = [each for each in named if not each <= {"unit", "driven"}]
        if (
            known
            and all(any(same(a, b) for b in wanted) for a in known)
            and all(any(same(a, b) for b in known) for a in wanted)
        ):
            return {"round": record.round, "images": record.toolbox.images_made}
    return None


def coverage(known: Sequence[GymUnit]) -> dict[str, int]:
    """Return how many of the neurons of Table A4 are among the units that can be studied."""
    printed = table_a4()
    return {"studied": len(set(printed) & set(known)), "printed": len(printed)}


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return shares with Wilson's 95 % intervals by kind of unit, and the comparison with the one-shot
    baseline.
    """
    beyond = [row for row in rows if not row.get("reachable", True)]
    rows = [row for row in rows if row.get("reachable", True)]
    by_kind = {}
    for kind in [*KINDS, "nuisance"]:
        chosen = [
            row for row in rows if row["kind"] == kind or (kind == "nuisance" and row["recall"] is None)
        ]
        if chosen:
            by_kind[kind] = _shares(chosen)
    judged = [row for row in rows if "one_shot" in row]
    scored = [row for row in judged if row["kind"] in ("mono", "or", "given")]
    return {
        "by_kind": by_kind,
        "two_afc": _two_afc(scored) if scored else None,
        "out_of_reach": _beyond(beyond) if beyond else None,
    }


def _beyond(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return of how many units that no image of the image maker can drive a label was said to hold, and how
    many were called out of reach.
    """
    n = len(rows)
    counts = {
        "held": sum(row["verdict"] in HOLDING for row in rows),
        "called": sum(row["verdict"] == "out of reach" for row in rows),
    }
    intervals = {f"{name}_interval": list(wilson_interval(count, n)) for name, count in counts.items()}
    return {"n": n, **counts, **intervals}


def _shares(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    right = sum(row["right"] for row in rows)
    shares: dict[str, Any] = {
        "n": len(rows),
        "right": right,
        "share": right / len(rows),
        "interval": list(wilson_interval(right, len(rows))),
        "failed": sum(row["status"] == "failed" for row in rows),
    }
    if rows[0]["recall"] is not None:
        found = [row["first_right"]["images"] for row in rows if row["first_right"]]
        shares |= {
            "recall": float(np.mean([row["recall"] for row in rows])),
            "precision": float(np.mean([row["precision"] for row in rows])),
            "operator": float(np.mean([row["operator"] for row in rows])),
            "images_until_right": float(np.median(found)) if found else None,
        }
    judged = [row["one_shot"]["right"] for row in rows if "one_shot" in row]
    if judged:
        shares["one_shot_share"] = float(np.mean(judged))
    return shares


def _two_afc(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Compare with the baseline: the label nearer to the truth (concept F1) wins, a tie counts half.

    Judged from the truth itself, so the order in which the two are shown cannot matter.
    """
    wins = sum(row["f1"] > row["one_shot"]["f1"] for row in rows)
    ties = sum(row["f1"] == row["one_shot"]["f1"] for row in rows)
    rate = (wins + ties / 2) / len(rows)
    return {
        "n": len(rows),
        "wins": wins,
        "ties": ties,
        "rate": rate,
        "interval": list(wilson_interval(wins + ties / 2, len(rows))),
        "paper": PAPER_2AFC,
    }


def table(result: Mapping[str, Any]) -> str:
    """Return the summary in lines for a terminal."""
    lines = [
        "",
        f"{'kind':12} {'right':>9}  {'95 % interval':15} {'recall':>6} {'precision':>9} {'operator':>8} {'one-shot':>8} {'images':>6}",
    ]
    for kind, each in result["summary"]["by_kind"].items():
        low, high = each["interval"]
        extra = (
            ""
            if each.get("recall") is None
            else f"{each['recall']:6.2f} {each['precision']:9.2f} {each['operator']:8.2f}"
        )
        if "one_shot_share" in each:
            extra += f" {each['one_shot_share']:8.2f}"
        if each.get("images_until_right") is not None:
            extra += f" {each['images_until_right']:6.0f}"
        lines.append(f"{kind:12} {each['right']:4d}/{each['n']:<4d}  {low:.2f} to {high:.2f}    {extra}")
    if afc := result["summary"]["two_afc"]:
        low, high = afc["interval"]
        lines.append(
            f"against one look at the exemplars: {afc['rate']:.2f} ({low:.2f} to {high:.2f}) of {afc['n']} comparisons, "
            f"{afc['ties']} ties; the paper's figure is {afc['paper']:.2f}"
        )
    if beyond := result["summary"].get("out_of_reach"):
        lines.append(
            f"of {beyond['n']} units whose concepts the image maker cannot draw, {beyond['called']} were called out of reach, and "
            f"of {beyond['held']} a label was said to hold"
        )
    found = result["coverage"]
    lines.append(f"{found['studied']} of the {found['printed']} neurons that Table A4 prints were studied")
    if result["left_out"]:
        lines.append(f"left out, because the detector does not know them: {', '.join(result['left_out'])}")
    return "\n".join(lines)
