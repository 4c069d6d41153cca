"""`maia audit`: in which contexts does a class lose or gain probability while its object is there? (MAIA 5.2)

The figures come from a design that is fixed beforehand, the same for every class
(`experiments.runs.context_survey`); an agent's free audit of the class follows, and what it says is checked
against these figures.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.grouping import all_of
from actors.vision.data.labels import ColumnSettings, Labels
from actors.vision.networks.layer_cache import KnownNetwork, recall
from actors.vision.readout.units import OUTPUT, Readout
from agents.records.journal import Journal, RecordedChat, slug
from agents.records.lease import worked_s
from agents.records.manifest import claim, widen
from agents.records.run_files import RecordError
from agents.records.store import Store
from agents.records.work import WorkItem, extend_plan, read_plan, write_plan
from agents.study import context_proposals, survey
from agents.study.budget import Ledger, MeteredChat, Rate, spent_so_far
from agents.tasks.bias import AuditClass
from experiments.audit import real_images
from experiments.audit.claims import disagreements
from experiments.audit.classes import OF_DATA, check_classes, classes_of, names_of
from experiments.audit.page import page
from experiments.audit.real_audit import (
    RealSection,
    RealSettings,
    find_labels,
    is_done,
    section,
    tell_matches,
)
from experiments.audit.real_look import AuditedClass, Generated, Look
from experiments.audit.record import AuditRecord
from experiments.runs.campaign import Campaign, Closing, check_items, check_known, result_of
from experiments.runs.context_survey import (
    CLASS_SURVEY,
    FRESH,
    KNOWN_PHRASES,
    LEAST,
    ClassSurvey,
    ContextEffect,
    judge,
)
from experiments.setup import config as configuration
from experiments.setup.console import Console, counted
from experiments.setup.run_folder import check_output_folder
from experiments.setup.science import science

if TYPE_CHECKING:
    from experiments.setup.workbench import Workbench


@dataclass(frozen=True)
class Audit:
    """What a command line asks for. Without `agents`, the fixed design is all that is measured."""

    model: str
    classes: str = "all"
    seed: int = 0
    per_context: int = 12
    agents: bool = True
    data: str | None = None
    class_names: Path | None = None
    retry_failed: bool = False
    few_images: bool = False
    columns: ColumnSettings = field(default_factory=ColumnSettings)
    real: RealSettings = field(default_factory=RealSettings)
    propose: int = 0
    """Contexts of each class that the interpreter proposes beside those of the design."""


async def audit(
    console: Console, config: Path | None, profile_name: str | None, asked: Audit, *, out: Path | None = None
) -> dict[str, Any]:
    """Audit classes of a network, write `audit.json` into the run directory and return what it holds.

    Goes on with what an earlier run left. The result's `run` says how far it came.

    Raises:
        UsageError: If the network has no such class, or another process works on the directory.
    """
    check_classes(asked.classes)
    loaded = configuration.load(config)
    profile = loaded.profile(profile_name).given(
        asked.data, asked.class_names, asked.few_images, asked.columns
    )
    labels = await find_labels(console, profile, asked.real, asked.classes.strip() == OF_DATA)
    network = recall(loaded.cache, asked.model, profile.vision)
    units: list[str] = []
    if network is not None:
        size = network.layers[network.layer(OUTPUT)]
        units = list(_ids(network, _classes(asked, labels, network, size)).values())
    run = out or Path("runs") / slug(f"audit {asked.model} {asked.classes}")
    check_output_folder(profile.dataset, run)
    store = Store.open(run)
    manifest = {
        "command": "audit",
        "model": asked.model,
        "asked": asked.classes,
        "seed": asked.seed,
        "per_context": asked.per_context,
        "fresh": FRESH,
        "agents": asked.agents,
        "profile": profile_name or loaded.default_profile,
        "config": loaded.named_file,
        "settings": science(profile),
        **asked.real.manifest(),
        **({"propose_contexts": asked.propose} if asked.propose else {}),
    }
    check_known(store, manifest, network, units)
    campaign = Campaign(console, loaded, profile, store, manifest, asked.retry_failed)
    closing = (
        Closing(partial(_real_is_done, store), partial(_look, console, store, asked)) if labels else None
    )
    finished = await campaign.run(partial(_plan, console, store, manifest, asked, labels), closing)
    record = _record(console, store, asked, manifest["profile"], finished.plan)
    result = asdict(record)
    store.replace("audit.json", json.dumps(result, indent=1, ensure_ascii=False).encode())
    page(result, LEAST).save(store.root, "audit")
    return result | {"run": finished.summary()}


def _record(
    console: Console, store: Store, asked: Audit, profile: str, plan: Sequence[WorkItem]
) -> AuditRecord:
    """Return what the run has found, from its directory."""
    names = names_of(plan)
    records, audits = _measured(console, store, plan, names)
    drawn = {names[item.unit]: item.survey_arguments["class_name"] for item in plan}
    judged = judge(audits)
    effects = [asdict(effect) | {"biased": effect.biased} for effect in judged]
    answers = {
        audited.class_name: record["description"]
        for audited, record in zip(audits, records, strict=True)
        if record.get("description")
    }
    reached = [each for each in audits if not each.out_of_reach]
    return AuditRecord(
        model=asked.model,
        profile=profile,
        facts=records[0].get("facts", {}) if records else {},
        seed=asked.seed,
        effects=effects,
        detectable={each.class_name: each.detectable(len(effects)) for each in reached},
        usual={each.class_name: each.usual for each in audits},
        out_of_reach={each.class_name: each.out_of_reach for each in audits if each.out_of_reach},
        undrawn={each.class_name: each.undrawn for each in audits if each.undrawn},
        values={each.class_name: each.values for each in audits},
        ordinary={each.class_name: each.ordinary for each in audits},
        fresh={each.class_name: each.fresh for each in audits},
        rest={each.class_name: each.rest for each in audits},
        lowest={each.class_name: each.lowest for each in audits},
        telling={each.class_name: each.telling for each in audits},
        answers=answers,
        disagreements=[
            asdict(each) | {"class_name": name}
            for name, text in answers.items()
            for each in disagreements(text, drawn[name], [e for e in effects if e["class_name"] == name])
        ],
        real=_real(console, store, judged),
    )


def _measured(
    console: Console, store: Store, plan: Sequence[WorkItem], names: Mapping[str, str]
) -> tuple[list[dict[str, Any]], list[ClassSurvey]]:
    """Return the results that there are, each with its survey; one with a damaged survey is told and left
    out.
    """
    records, audits = [], []
    for item in plan:
        if (record := result_of(store, item)) is None:
            continue
        try:
            if (found := survey.read(store, item.unit)) is not None:
                audits.append(replace(ClassSurvey.of(found.found), class_name=names[item.unit]))
                records.append(record)
        except RecordError as error:
            console.warn(f"{names[item.unit]} is left out: {error.message}")
    return records, audits


def _real(console: Console, store: Store, effects: Sequence[ContextEffect]) -> RealSection | None:
    """Return what real images say; of a damaged record it is told."""
    try:
        return section(real_images.read(store), effects)
    except RecordError as error:
        console.warn(error.message)
        return None


def _real_is_done(store: Store) -> bool:
    return is_done(store, [item.unit for item in read_plan(store) or ()])


async def _look(console: Console, store: Store, asked: Audit, bench: Workbench, plan: list[WorkItem]) -> None:
    """Look at the real images of the classes, once their generated ones have been judged."""
    names = names_of(plan)
    _, audits = _measured(console, store, plan, names)
    classes = [
        AuditedClass(
            item.unit, _index(item), names[item.unit], item.survey_arguments["class_name"], item.seed, asked.per_context
        )
        for item in plan
    ]  # fmt: skip
    generated = Generated(judge(audits), {each.class_name: each.ordinary for each in audits})
    if classes:
        await Look(console, store, bench, asked.real, classes, generated).take()


def _index(item: WorkItem) -> int:
    """Return the number of an item's class."""
    return int(item.name.rpartition(":")[2])


async def _plan(
    console: Console,
    store: Store,
    manifest: dict[str, Any],
    asked: Audit,
    labels: Labels | None,
    bench: Workbench,
) -> list[WorkItem]:
    """Return one item a class; agents are shown exemplars, so one pass over the data set finds those of all.

    `labels` are the data set's, None where it has none.
    """
    vision, readout = bench.vision, Readout(OUTPUT, "probability")
    await vision.check(readout.unit(0))
    size = next(layer.n_units for layer in await vision.layers() if layer.name == OUTPUT)
    drawn = _classes(asked, labels, vision.known, size)
    ids = _ids(vision.known, drawn)
    if labels is not None:
        await tell_matches(console, bench, asked.real, drawn)
    manifest = manifest | {"units": list(ids.values())}
    claim(store, manifest)
    plan = read_plan(store)
    planned = {item.unit for item in plan or ()}
    proposed = await _proposed(console, store, asked, bench, {ids[index]: drawn[index] for index in ids})
    wanted = _items(asked, drawn, ids, proposed)
    check_items(store, plan or (), wanted)
    ids = {index: unit for index, unit in ids.items() if unit not in planned}
    if plan is not None and not ids:
        widen(store, manifest)
        return plan
    if asked.agents:
        console.say(f"searching the data set for the exemplars of {counted(len(ids), 'class', 'classes')}")
        with console.progress("exemplars") as progress:
            await vision.layer_exemplars(
                [readout], bench.dataset, progress=lambda swept: progress(swept.done, swept.total)
            )
    items = [wanted[unit] for unit in ids.values()]
    # Claimed with fewer and killed before its plan, a run without one may have been given more as well.
    plan = write_plan(store, items) if plan is None else extend_plan(store, [*plan, *items])
    widen(store, manifest)
    return plan


async def _proposed(
    console: Console, store: Store, asked: Audit, bench: Workbench, classes: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """Return the contexts proposed for each unit, asked for before anything is measured and the same ever
    after.
    """
    if not asked.propose:
        return {}
    found = {unit: context_proposals.read(store, unit, asked.propose) for unit in classes}
    missing = [unit for unit, proposals in found.items() if proposals is None]
    lab = bench.context
    purse = Ledger(
        bench.profile.sweep.budget, spent_so_far(store, problems=[]), elapsed_s=lambda: worked_s(store)
    )
    metered = MeteredChat(lab.interpreter, purse, lab.rates.get("interpreter", Rate()))

    async def ask(unit: str) -> None:
        model = RecordedChat(metered, Journal(store, unit), "interpreter", metered.most)
        proposals = await context_proposals.propose(
            model, classes[unit], asked.propose, KNOWN_PHRASES, seed=asked.seed
        )
        found[unit] = await context_proposals.freeze(store, unit, proposals)

    if missing:
        console.say(f"asking the interpreter for contexts of {counted(len(missing), 'class', 'classes')}")
        await all_of(ask(unit) for unit in missing)
    for unit in missing:
        if (each := found[unit]) is not None and not each.phrases:
            console.warn(
                f"{classes[unit]}: the interpreter's answer has no context in the form that was asked for"
            )
    return {unit: tuple(each.phrases) for unit, each in found.items() if each is not None}


def _items(
    asked: Audit, drawn: Mapping[int, str], ids: Mapping[int, str], proposed: Mapping[str, tuple[str, ...]]
) -> dict[str, WorkItem]:
    """Return the items of the classes that are asked for, by unit."""
    return {
        unit: WorkItem(
            unit,
            OUTPUT,
            f"probability:{index}",
            task=AuditClass.name if asked.agents else "",
            arguments={"class_name": drawn[index]} if asked.agents else {},
            seed=asked.seed,
            survey=CLASS_SURVEY,
            survey_arguments={"class_name": drawn[index], "per_context": asked.per_context}
            | ({"proposed": list(proposed[unit])} if proposed.get(unit) else {}),
        )
        for index, unit in ids.items()
    }


def _classes(asked: Audit, labels: Labels | None, network: KnownNetwork, size: int) -> dict[int, str]:
    """Return the classes that are asked for, as `classes_of` does."""
    of_data = () if labels is None else real_images.match(labels, network.class_names, asked.real.names)
    return classes_of(asked.classes, asked.seed, network, size, of_data)


def _ids(network: KnownNetwork, classes: Iterable[int]) -> dict[int, str]:
    """Return the units of classes."""
    readout = Readout(OUTPUT, "probability")
    return {index: f"{network.name}/{readout.unit(index)}" for index in classes}
