"""`maia evaluate DIR`: how well the labels of a run predict its units (MAIA 4.1, Table A3), beside the
paper's figures.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import numpy as np

from actors.chat.settings import BuiltinChat
from actors.errors import MaiaError, UsageError
from actors.grouping import task_group
from actors.images import Image
from actors.vision.data.reserve import split
from agents.critic.skeptic import Skeptic
from agents.critic.stimuli import share_words
from agents.evidence.statistics import bootstrap_interval
from agents.records.journal import slug
from agents.records.manifest import check_studied
from agents.records.record_types import EvaluationRow, read_record
from agents.records.run_files import RecordError
from agents.records.store import Store
from agents.records.work import WorkItem, read_plan
from agents.study.faults import CONCERNS_ALL
from agents.tasks.describe_unit import NOT_INTERPRETABLE
from experiments.paper.gym.neurons import choose
from experiments.paper.predictive import Evaluation, compare
from experiments.paper.prompts import ChatPromptWriter, PromptWriter, TemplatePromptWriter
from experiments.paper.published import TABLE_A3
from experiments.records.lookup import finished_studies, read_manifest
from experiments.records.trust import Trust, dataset_of, network_of, units_of
from experiments.report.schema import Bar, Bars, Cell, DataTable, Estimate, Page, TableColumn
from experiments.setup import config as configuration
from experiments.setup.config import Configuration, Profile
from experiments.setup.console import Console
from experiments.setup.science import science
from experiments.setup.spending import may_charge
from experiments.setup.workbench import Workbench
from tools.subject import Subject

OURS = "maia"
NULL = "another unit's label"
MEASURES = (
    "positive", "negative", "auroc", "margin", "cosy_auc", "cosy_mad", "pearson", "auprc", "f1", "iou"
)  # fmt: skip
AT_ONCE = 4
_LAYERS_OF_SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class Labelled:
    """One unit with each method's label. `name` is how the subject is asked for."""

    unit: str
    layer: str
    name: str
    labels: dict[str, str]


@dataclass(frozen=True)
class Sizes:
    """How many images: data-set controls, and CoSy's of each label."""

    controls: int = 60
    cosy: int = 20


async def evaluate(
    console: Console,
    config: Path | None,
    profile_name: str | None,
    run: Path,
    *,
    against: Mapping[str, Path],
    limit: int | None = None,
    sizes: Sizes | None = None,
    seed: int = 0,
    model: str | None = None,
    data: str | None = None,
    trust: Trust | None = None,
) -> dict[str, Any]:
    """Measure the labels of a run and of other methods, write `evaluation.json` and a page into it, and
    return it.

    `against` are other runs of the same units, or JSON files of labels by unit id or `layer:number`. What was
    measured already is read.

    Raises:
        UsageError: If the run has no labels, or another method has none for its units.
    """
    loaded = configuration.load(config)
    manifest = _manifest(run)
    trust = trust or Trust()
    profile = _profile(loaded, profile_name, manifest)
    dataset = dataset_of(manifest, profile.dataset, data, trust)
    profile = profile.given(
        dataset, few_images=True
    )  # whether they were enough was settled when the run began
    labelled = gather(run, against)
    omitted = left_out(run, labelled)
    for each in omitted:
        console.say(each)
    units = with_null(labelled[:limit], seed)
    if not units:
        raise UsageError(
            f"{run} has no labels to evaluate.",
            "Units get labels by `maia describe`, `sweep` and `synthetic`.",
        )
    store = Store.open(run)
    synthetic = manifest.get("model") == "synthetic"
    network = None if synthetic else network_of(manifest, model, trust)
    units_of(((unit.layer, unit.name) for unit in units), trust)
    async with Workbench.open(profile, cache=loaded.cache, model=network, notify=console.say) as bench:
        # Labels of other weights predict nothing about these.
        check_studied(store, bench.context.facts, ("network",))
        subject_of = await subjects(bench, loaded.cache, manifest)
        evaluation = await prepare(bench, sizes or Sizes(), seed)
        rows = await measure(console, evaluation, units, subject_of, store)
    result = {
        "experiment": "evaluation",
        "model": manifest.get("model"),
        "prompts": evaluation.writer.name,
        "seed": seed,
        "left_out": omitted,
        "rows": rows,
        "summary": summarise(rows),
    }
    store.replace("evaluation.json", json.dumps(result, indent=1, ensure_ascii=False).encode())
    page(result).save(run, "evaluation")
    return result


def _profile(loaded: Configuration, named: str | None, manifest: Mapping[str, Any]) -> Profile:
    """Return the profile that the person named, else the run's, unless that may charge: nobody has asked for
    it then.

    Raises:
        UsageError: If the run names one that may charge.
    """
    recorded = manifest.get("profile")
    profile = loaded.profile(named or recorded)
    if named is None and recorded not in (None, loaded.default_profile) and may_charge(profile):
        raise UsageError(
            f"the run names the profile {recorded!r}, whose models may charge; a run does not choose what you pay for.",
            f"Name it yourself: --profile {recorded}.",
        )
    return profile


def _manifest(run: Path) -> dict[str, Any]:
    manifest = read_manifest(run)
    if not manifest.get("model"):
        raise UsageError(
            f"{run} is a run of {manifest.get('command') or 'another version'!r}, which has no units with labels."
        )
    return manifest


def gather(run: Path, against: Mapping[str, Path]) -> list[Labelled]:
    """Return the units of a run that have a label by it and by every other method.

    Raises:
        UsageError: If a method has no label for any of them.
    """
    records = records_of(run)
    others = {name: _labels(path) for name, path in against.items()}
    found = []
    for item, record in records:
        labels = {OURS: label_of(record)}
        for name, known in others.items():
            key = next((k for k in (item.unit, f"{item.layer}:{item.name}") if k in known), None)
            labels[name] = known[key] if key is not None else ""
        if all(labels.values()):
            found.append(Labelled(item.unit, item.layer, item.name, labels))
    for name, known in others.items():
        if found or not records:
            break
        raise UsageError(f"{name} ({len(known)} labels) and {run} have no labelled unit in common.")
    return found


def left_out(run: Path, labelled: Sequence[Labelled]) -> list[str]:
    """Return in sentences how many studied units are not among the `labelled` ones, and why."""
    damaged: list[str] = []
    records = records_of(run, damaged)
    silent = sum(not label_of(record) for _, record in records)
    others = len(records) - silent - len(labelled)
    told = [f"left out: {problem}" for problem in damaged]
    if silent:
        told.append(f"left out, for their studies ended without a label: {silent} of {len(records)} units")
    if others:
        told.append(f"left out, for not every other method has a label: {others} of {len(records)} units")
    return told


def records_of(run: Path, problems: list[str] | None = None) -> list[tuple[WorkItem, dict[str, Any]]]:
    """Return the items of a run with their results; what is wrong with one that is damaged goes to
    `problems`.
    """
    store, manifest = Store(run), _manifest(run)
    found = finished_studies(store, [] if problems is None else problems)
    records = {record.unit: record.to_json() for record in found}
    plan = read_plan(store) or [
        WorkItem(unit, manifest.get("layer", _LAYERS_OF_SYNTHETIC), manifest.get("unit", ""))
        for unit in records
    ]
    return [(item, records[item.unit]) for item in plan if item.unit in records]


def label_of(record: Mapping[str, Any]) -> str:
    """Return a unit's label, "" where the study ended without one, or was asked for something else than a
    label.
    """
    if record.get("task", "describe") != "describe":
        return ""
    labels = record.get("labels") or []
    if all(NOT_INTERPRETABLE in label.lower() or label.lower() == "dead" for label in labels):
        return ""
    return " OR ".join(labels)


def _labels(path: Path) -> dict[str, str]:
    """Return labels by unit of another run, or of a JSON file."""
    if path.is_dir():
        return {item.unit: label for item, record in records_of(path) if (label := label_of(record))}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"{path} cannot be read as labels: {reason}.", 'Write {"layer:unit": "label"}.'
        ) from error
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise UsageError(f"{path} must hold one object of labels by unit.", 'Write {"layer:unit": "label"}.')
    return found


def with_null(units: Sequence[Labelled], seed: int) -> list[Labelled]:
    """Return the units with a control: the label of another unit of the layer that names something else.

    A unit for which there is none goes without.
    """
    rng = np.random.default_rng((seed, 83))
    result = []
    for unit in units:
        own = unit.labels[next(iter(unit.labels))]
        others = [
            each.labels[next(iter(each.labels))]
            for each in units
            if each.layer == unit.layer and not share_words(each.labels[next(iter(each.labels))], own)
        ]
        null = {NULL: str(rng.choice(others))} if others else {}
        result.append(Labelled(unit.unit, unit.layer, unit.name, {**unit.labels, **null}))
    return result


async def subjects(
    bench: Workbench, cache: Path, manifest: Mapping[str, Any]
) -> Callable[[Labelled], Awaitable[Subject]]:
    """Return what finds the subject of a unit of a run: of a network, or of the gym."""
    if bench.network is not None:

        async def of_network(unit: Labelled) -> Subject:
            return await bench.subject(unit.layer, unit.name)

        return of_network
    from experiments.paper.gym.opening import open_gym

    assert bench.detector is not None, "a set-up without a network has the concept detector"
    units = [each for name in manifest["units"] for each in choose(name)]
    gym, _ = open_gym(bench.detector, bench.profile, cache, manifest.get("seed", 0), units)
    known = {gym.subject(each).id: each for each in units}

    async def of_gym(unit: Labelled) -> Subject:
        return gym.subject(known[unit.unit])

    return of_gym


async def prepare(bench: Workbench, sizes: Sizes, seed: int) -> Evaluation:
    """Return who takes part in an evaluation: the observers' model writes the prompts where it is a language
    model.
    """
    roles = bench.profile.chat
    observers = bench.context.observers
    made_by = (await bench.pools["generation"].describe()).backend
    measured_with = {
        "by": {who: bench.context.facts.get(who) for who in ("network", "generator", "observers")},
        # Of its facts those that decide images: others count what the generator has done so far.
        "made by": {
            maker: [made_by[maker].get("model"), made_by[maker].get("settings")]
            for maker in ("generator", "editor")
            if maker in made_by
        },
        "science": science(bench.profile),
    }
    stand_in = isinstance(roles.observers or roles.interpreter, BuiltinChat)
    writer: PromptWriter = TemplatePromptWriter(seed) if stand_in else ChatPromptWriter(observers, seed=seed)
    return Evaluation(
        bench.context.studio,
        writer,
        Skeptic(observers, seed=seed),
        await asyncio.to_thread(_controls, bench, sizes.controls, seed),
        sizes.cosy,
        seed,
        measured_with,
    )


def _controls(bench: Workbench, count: int, seed: int) -> list[Image]:
    """Return images of the reserved part of the data set, which no agent has seen."""
    explored, reserved = split(bench.dataset, bench.profile.vision.held_back)
    pool = reserved if len(reserved) >= 2 else explored
    chosen = np.random.default_rng((seed, 89)).permutation(pool)
    images: list[Image] = []
    for index in chosen:
        if len(images) == count:
            break
        try:
            images.append(bench.dataset.load(int(index)))
        except MaiaError:
            continue
    return images


def _measured(store: Store, key: str) -> dict[str, Any] | None:
    """Return what was measured before; a damaged record is measured again, though it stays."""
    try:
        return read_record(store, key, EvaluationRow)
    except RecordError:
        return None


async def measure(
    console: Console,
    evaluation: Evaluation,
    units: Sequence[Labelled],
    subject_of: Callable[[Labelled], Awaitable[Subject]],
    store: Store,
) -> list[dict[str, Any]]:
    """Return a row a unit, from the store where it was measured before; a failure is a row that says so."""
    rows: dict[str, dict[str, Any]] = {}
    room = anyio.CapacityLimiter(AT_ONCE)

    async def one(unit: Labelled) -> None:
        async with room:
            facts = [unit.labels, evaluation.writer.name, evaluation.cosy, evaluation.seed]
            facts += [[image.id for image in evaluation.controls], evaluation.facts]
            digest = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=6).hexdigest()
            key = f"evaluation/{slug(unit.unit)}-{digest}.json"
            row: dict[str, Any] = {"unit": unit.unit, "layer": unit.layer, "labels": unit.labels}
            if (known := await asyncio.to_thread(_measured, store, key)) is not None:
                rows[unit.unit] = known
                return
            try:
                row |= await compare(evaluation, await subject_of(unit), unit.labels)
            except CONCERNS_ALL:
                raise
            except MaiaError as error:
                # On record for this run, and tried again by the next.
                rows[unit.unit] = row | {"error": {"type": type(error).__name__, "message": str(error)}}
                console.warn(f"{unit.unit}: {error}")
                return
            await asyncio.to_thread(store.put, key, json.dumps(row, ensure_ascii=False).encode())
            rows[unit.unit] = row
            console.say(f"{len(rows)} of {len(units)} evaluated: {unit.unit}")

    async with task_group() as group:
        for unit in units:
            group.create_task(one(unit))
    return [rows[unit.unit] for unit in units]


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean of every measure by layer and method, layers in order of the rows and then all
    together.

    Activations of units of different scale are averaged as in the paper; the other measures have no scale.
    """
    done = [row for row in rows if "methods" in row]
    layers = list(dict.fromkeys(row["layer"] for row in done))
    groups = [(layer, [row for row in done if row["layer"] == layer]) for layer in layers]
    if len(layers) > 1:
        groups.append(("average", done))
    table = []
    for layer, chosen in groups:
        for method in dict.fromkeys(name for row in chosen for name in row["methods"]):
            found = [row["methods"][method] for row in chosen if method in row["methods"]]
            measures: dict[str, Any] = {}
            for measure in MEASURES:
                values = [each[measure] for each in found if each[measure] is not None]
                measures[measure] = float(np.mean(values)) if values else None
            table.append({"layer": layer, "method": method, "n": len(found), **measures})
    return table


def difference(
    rows: Sequence[Mapping[str, Any]], first: str, second: str, measure: str, seed: int = 0
) -> dict[str, Any] | None:
    """Return the mean paired difference of two methods over units with a 95 % bootstrap interval, None
    without pairs.
    """
    pairs = [
        (row["methods"][first][measure], row["methods"][second][measure])
        for row in rows
        if "methods" in row and first in row["methods"] and second in row["methods"]
    ]
    values = np.array([a - b for a, b in pairs if a is not None and b is not None])
    return None if not len(values) else interval(values, seed)


def interval(values: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Return the mean of values float (N,) with its 95 % bootstrap interval over them."""
    low, high = bootstrap_interval(values, 4000, seed)
    mean = float(values.mean())
    return {"mean": mean, "interval": [min(low, mean), max(high, mean)], "n": len(values)}


def page(result: Mapping[str, Any]) -> Page:
    """Return the page of an evaluation: Table A3's form, the paper's rows where it studied this network."""
    paper = TABLE_A3.get(str(result["model"]), {})
    columns = [TableColumn(name="layer"), TableColumn(name="method"), TableColumn(name="units", digits=0)]
    columns += [TableColumn(name="+", source="ours"), TableColumn(name="−", source="ours")]
    columns += [TableColumn(name="+", source="paper"), TableColumn(name="−", source="paper")]
    rows: list[tuple[Cell, ...]] = []
    for each in result["summary"]:
        rows.append(
            (each["layer"], each["method"], each["n"], each["positive"], each["negative"], None, None)
        )
    for layer, methods in paper.items():
        for method, (up, down) in methods.items():
            rows.append((layer, f"{method} (the paper's)", None, None, None, up, down))
    measures = tuple(
        (each["layer"], each["method"], each["n"], *(each[name] for name in MEASURES[2:]))
        for each in result["summary"]
    )
    bars = tuple(
        Bar(name=each["layer"], series=f"{each['method']}, {sign}", value=each[key])
        for each in result["summary"]
        for sign, key in (("+", "positive"), ("−", "negative"))
        if each[key] is not None
    )
    note = (
        "The paper's rows are of its own units, images and prompts."
        if paper
        else "The paper did not study this network: its figures for others are in `experiments/paper/published.py`."
    )
    differences = tuple(
        (
            method,
            name,
            Estimate(value=found["mean"], low=found["interval"][0], high=found["interval"][1]),
            found["n"],
        )
        for method in dict.fromkeys(each["method"] for each in result["summary"])
        for name in ("auroc", "margin", "cosy_auc", "pearson")
        if method != OURS and (found := difference(result["rows"], OURS, method, name)) is not None
    )
    return Page(
        title="Predictive evaluation",
        summary=". ".join(
            [
                f"Prompts by {result['prompts']}; every label of a unit is paired with the pooled prompts of all methods",
                *(each[0].upper() + each[1:] for each in result.get("left_out", ())),
            ]
        )
        + ".",
        blocks=(
            DataTable(title="Table A3", columns=tuple(columns), rows=tuple(rows), note=note),
            Bars(title="Mean activation by layer", axis="activation", bars=bars),
            DataTable(
                title="Other measures",
                columns=(TableColumn(name="layer"), TableColumn(name="method"), TableColumn(name="units", digits=0),
                         *(TableColumn(name=name, source="ours") for name in MEASURES[2:])),
                rows=measures,
                note="cosy_auc and cosy_mad pass neither of the two known sanity checks, pearson, auprc, f1 and iou both.",
            ),
            DataTable(
                title="Ahead of the others, unit by unit",
                columns=(TableColumn(name="other method"), TableColumn(name="measure"), TableColumn(name="difference", source="ours"),
                         TableColumn(name="units", digits=0)),
                rows=differences,
                note="Mean paired difference with a 95 % bootstrap interval over units.",
            ),
        ),
    )  # fmt: skip


def table(result: Mapping[str, Any]) -> str:
    """Return the summary in lines for a terminal."""
    lines = ["", f"prompts: {result['prompts']}"]
    lines.append(f"{'layer':20} {'method':22} {'units':>5} " + " ".join(f"{name:>9}" for name in MEASURES))
    for each in result["summary"]:
        cells = " ".join(f"{each[m]:9.2f}" if each[m] is not None else f"{'–':>9}" for m in MEASURES)
        lines.append(f"{each['layer'][:20]:20} {each['method'][:22]:22} {each['n']:5d} {cells}")
    failed = [row for row in result["rows"] if "error" in row]
    if failed:
        lines.append(f"{len(failed)} units could not be evaluated: {failed[0]['error']['message']}")
    return "\n".join(lines)
