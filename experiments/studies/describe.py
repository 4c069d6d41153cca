"""`maia describe`: one unit of one network, from a command line to a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.errors import MaiaError, UsageError
from agents.evidence.verdict import HOLDING, MEANINGS, finding_of, verdict_of
from agents.records.journal import slug
from agents.records.record_types import FailureRecord, Manifest, StudyResult, load_record
from agents.records.store import Store
from experiments.records.names import stand_ins
from experiments.records.roles import RecordedRole
from experiments.setup.console import Console, counted, plain
from experiments.setup.run_folder import claim_run, open_run
from experiments.setup.selection import Selected
from experiments.studies.unit_request import UnitRequest

if TYPE_CHECKING:
    from agents.study.rounds import Round
    from experiments.setup.workbench import Workbench

_FIGURES = 3
"""Figures of the evidence that the terminal explains; the page explains all."""


async def describe_unit(console: Console, request: UnitRequest) -> dict[str, Any]:
    """Study one unit and return its result with the paths of what was written.

    With `repeat` above 1 it is the answer that is pooled from what all studies measured. An interrupted study
    is resumed; one that is finished is read.

    Raises:
        UsageError: If anything that was asked for does not exist or cannot work.
    """
    selected = request.load()
    run = request.out or Path("runs") / slug(f"{request.model} {request.layer} {request.unit}")
    repeat = {"repeat": request.repeat} if request.repeat > 1 else {}
    manifest = selected.manifest(
        "describe", model=request.model, layer=request.layer, unit=request.unit, seed=request.seed, **repeat
    )
    store = open_run(selected.profile.dataset, run, manifest)
    finished = record = _finished(store)
    if record is None:
        record = await _study(console, selected, store, manifest, request.model)
    else:
        console.say(f"{run} holds this study's result already")
    return record | {"paths": _paths(run, record, anew=finished is None)}


def _round_line(number: int, finished: Round, repeats: int) -> str:
    """Return a line on a finished round of study `number`, 0 for the pooled answer of several."""
    if finished.review is not None:
        finding = finding_of(finished.review.evidence) or "answered"
        outcome = finding if finished.review.accepted else f"sent back after its tests ({finding} so far)"
    elif finished.program is None:
        outcome = "no program"
    else:
        outcome = f"program {finished.outcome.status}" if finished.outcome else "program"
    guess = f": {finished.hypotheses[0]}" if finished.hypotheses else ""
    which = "" if repeats == 1 else f"study {number}, " if number else "all studies together, "
    return f"{which}round {finished.number}, {outcome}{guess}"


async def _study(
    console: Console, selected: Selected, store: Store, manifest: Manifest, model: str
) -> dict[str, Any]:
    from agents.records.work import WorkItem, write_plan
    from agents.repeats.repeated_study import study_repeatedly
    from agents.study.study import StudyRequest, Supervision
    from agents.tasks.describe_unit import DescribeUnit
    from experiments.setup import photograph_notice as photographs
    from experiments.setup.workbench import Workbench

    repeats = manifest.repeat
    async with Workbench.open(
        selected.profile, cache=selected.cache, model=model, notify=console.say
    ) as bench:
        subject = await bench.subject(manifest.layer, manifest.unit)
        claim_run(store, manifest, bench.context.facts)
        item = WorkItem(subject.id, manifest.layer, manifest.unit, seed=manifest.seed, repeats=repeats)
        write_plan(store, [item])
        console.say("searching the data set for exemplars")
        with console.progress("exemplars") as progress:
            await subject.prepare(progress)
        await _warn_of_skipped(console, bench, manifest)
        if "notice" in bench.context.facts:
            console.say(await photographs.of_unit(bench.context.observers, subject))
        console.say("studying the unit" + (f" {repeats} times" if repeats > 1 else ""))
        task = DescribeUnit()
        try:
            result = await study_repeatedly(
                bench.context,
                StudyRequest(subject, task, manifest.seed),
                store,
                repeats=repeats,
                at_once=repeats,
                supervision=Supervision(
                    on_round=lambda number, finished: console.say(_round_line(number, finished, repeats))
                ),
            )
            return result.to_json()
        except UsageError:
            raise
        except MaiaError as error:
            console.fail(error)
            return FailureRecord.of(subject.id, task.name, error).to_json()


async def _warn_of_skipped(console: Console, bench: Workbench, manifest: Manifest) -> None:
    """Warn of images of the data set that could not be read; the pass over it has been made."""
    from actors.vision.readout.units import Readout, parse_unit
    from experiments.studies.exemplars import warn_of_skipped

    vision = bench.vision
    unit = await vision.unit(parse_unit(manifest.layer, manifest.unit, await vision.class_names()))
    readout = Readout.of(unit)
    exemplars = await vision.layer_exemplars([readout], bench.dataset)
    warn_of_skipped(console, bench.dataset, exemplars[readout].skipped)


def _finished(store: Store) -> dict[str, Any] | None:
    results = (
        load_record(store, f"units/{folder}/done.json", StudyResult) for folder in store.folders("units")
    )
    return next((result.to_json() for result in results if result is not None), None)


def _paths(run: Path, record: dict[str, Any], *, anew: bool) -> dict[str, str]:
    from experiments.report import write_unit_page

    folder = slug(record["unit"])
    page = write_unit_page(run, folder, anew=anew)
    return {"run": str(run), "unit": str(run / "units" / folder), "report": str(page)}


def card(record: dict[str, Any]) -> str:
    """Return a result in a few lines for a terminal; model-written text is made safe."""
    lines = [""]
    if replaced := stand_ins(record.get("facts") or {}):
        roles = " and ".join(filter(None, (", ".join(replaced[:-1]), replaced[-1])))
        lines.append(f"[yellow]stand-ins[/yellow] answered as {roles}: rules and a fixed vocabulary")
    if record["status"] == "answered":
        lines += [f"[bold]{plain(record['label'])}[/bold]", plain(record["description"]), ""]
        answered = record.get("answered") or []
        if record.get("labels") and set(answered) - set(record["labels"]):
            whole = plain(" OR ".join(answered))
            lines += [
                f"the answer was {whole}, and the description is of all of it; the label is what stood its "
                "tests"
            ]
    else:
        lines += [f"[bold]no label[/bold]: the study ended with {record['status']}", ""]
    lines += _evidence(record)
    lines += [plain(sentence) for sentence in RecordedRole.of(record).sentences()[:1]]
    lines += _repeats(record)
    if "rounds" in record:
        images = record["images_made"] + record.get("images_tested", 0)
        rounds = record["rounds"] + sum(repeat.get("rounds", 0) for repeat in record.get("repeats", ()))
        lines.append(f"{counted(rounds, 'round')}, {images:,} images made and tested")
    lines.append(f"report: {record['paths']['report']}")
    return "\n".join(lines)


def _evidence(record: dict[str, Any]) -> list[str]:
    """Return the verdict with its sentence, three figures with what they mean, and the values of others."""
    from experiments.report.figures import figures_of, reason

    verdict = verdict_of(record)
    color = "green" if verdict in HOLDING else "yellow"
    lines = [f"[{color}]{verdict}[/{color}]: {MEANINGS[verdict]}"]
    if sentence := reason(record.get("evidence")):
        lines.append(plain(sentence))
    figures = figures_of(record.get("evidence"))
    lines += [f"  {figure.name}: {figure.value} - {figure.meaning}" for figure in figures[:_FIGURES]]
    others = "; ".join(f"{figure.name}: {figure.value}" for figure in figures[_FIGURES:])
    return lines + ([f"  {others}"] if others else [])


def _repeats(record: dict[str, Any]) -> list[str]:
    """Return how far the labels of several studies agree, and what each of them is."""
    repeats = record.get("repeats") or []
    if not repeats:
        return []
    agreement = (record.get("agreement") or {}).get("value")
    measured = "not measured: that needs two labels that were put to a test"
    if agreement is not None:
        measured = (
            f"{agreement:.2f} of the images of each other's tests are told apart by a blind witness who "
            "knows the label (0.50 is chance)"
        )
    return [f"agreement of {len(repeats)} studies: {measured}"] + [
        f"  {repeat['number']}: {plain(' OR '.join(repeat.get('labels') or ()) or 'no label')} "
        f"({plain(repeat.get('verdict') or 'no verdict')})"
        for repeat in repeats
    ]
