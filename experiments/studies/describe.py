"""`maia describe`: one unit of one network, from a command line to a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.errors import MaiaError
from agents.evidence.verdict import HOLDING, MEANINGS, verdict_of
from agents.records.journal import slug, unit_folder
from agents.records.record_types import OUT_OF_BUDGET, FailureRecord, Manifest, StudyResult, load_record
from agents.records.store import Store
from experiments.records.headline import headline
from experiments.records.names import enumerated, stand_ins
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


@dataclass(frozen=True, slots=True)
class StudiedUnit:
    """A unit's result, and where the run, the unit's records and its page are."""

    result: StudyResult | FailureRecord
    run: Path
    unit: Path
    report: Path

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values, with the paths."""
        paths = {"run": str(self.run), "unit": str(self.unit), "report": str(self.report)}
        return self.result.to_json() | {"paths": paths}


async def describe_unit(console: Console, request: UnitRequest) -> StudiedUnit:
    """Study one unit and return its result.

    With `repeat` above 1 it is the answer that is pooled from what all studies measured. An interrupted study
    is resumed; one that is finished is read.

    Raises:
        UsageError: If anything that was asked for does not exist or cannot work.
    """
    from experiments.report import write_unit_page

    selected = request.load()
    run = request.out or Path("runs") / slug(f"{request.model} {request.layer} {request.unit}")
    repeat = {"repeat": request.repeat} if request.repeat > 1 else {}
    manifest = selected.manifest(
        "describe", model=request.model, layer=request.layer, unit=request.unit, seed=request.seed, **repeat
    )
    store = open_run(selected.profile.dataset, run, manifest)
    finished = _finished(store)
    result: StudyResult | FailureRecord
    if finished is None:
        result = await _study(console, selected, store, manifest, request.model)
    else:
        result = finished
        console.say(f"{run} holds this study's result already")
    folder = slug(result.unit)
    page = write_unit_page(run, folder, anew=finished is None)
    return StudiedUnit(result, run, run / "units" / folder, page)


def _round_line(number: int, finished: Round, repeats: int) -> str:
    """Return a line on a finished round of study `number`, 0 for the pooled answer of several."""
    if finished.review is not None:
        finding = finished.review.evidence.verdict or "answered"
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
) -> StudyResult | FailureRecord:
    from agents.records.work import WorkItem, write_plan
    from agents.repeats.repeated_study import study_repeatedly
    from agents.study.budget import (
        BudgetSpentError,
        Ledger,
        SpendingLimits,
        UnitAccount,
        UnitBudgetError,
        spent_under,
    )
    from agents.study.faults import CONCERNS_ALL
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
        task, limits = DescribeUnit(), selected.profile.sweep
        try:
            spent, _ = spent_under(store, limits.budget)
            ledger = Ledger(limits.budget, spent)
            account = await UnitAccount.resume(store, subject.id, SpendingLimits(ledger, limits.unit_budget))
            return await study_repeatedly(
                bench.context,
                StudyRequest(subject, task, manifest.seed),
                store,
                repeats=repeats,
                at_once=repeats,
                supervision=Supervision(
                    account,
                    account,
                    lambda number, finished: console.say(_round_line(number, finished, repeats)),
                ),
            )
        except CONCERNS_ALL:
            raise  # not the study's: it is resumed
        except MaiaError as error:
            if not any(store.keys(unit_folder(subject.id))):
                raise  # nothing is on record that a page could show
            console.fail(error)
            spent_up = isinstance(error, BudgetSpentError | UnitBudgetError)
            status = OUT_OF_BUDGET if spent_up else "failed"
            return FailureRecord.of(subject.id, task.name, error, status)


async def _warn_of_skipped(console: Console, bench: Workbench, manifest: Manifest) -> None:
    """Warn of images of the data set that could not be read; the pass over it has been made."""
    from actors.vision.readout.units import Readout, parse_unit
    from experiments.studies.exemplars import warn_of_skipped

    vision = bench.vision
    unit = await vision.unit(parse_unit(manifest.layer, manifest.unit, await vision.class_names()))
    readout = Readout.of(unit)
    exemplars = await vision.layer_exemplars([readout], bench.dataset)
    warn_of_skipped(console, bench.dataset, exemplars[readout].skipped)


def _finished(store: Store) -> StudyResult | None:
    results = (
        load_record(store, f"units/{folder}/done.json", StudyResult) for folder in store.folders("units")
    )
    return next((result for result in results if result is not None), None)


def card(result: StudyResult | FailureRecord, report: Path) -> str:
    """Return a result in a few lines for a terminal; model-written text is made safe."""
    lines = [""]
    ended = isinstance(result, StudyResult)
    study = result if isinstance(result, StudyResult) else StudyResult(unit=result.unit, status="failed")
    if replaced := stand_ins(study.facts):
        lines.append(
            f"[yellow]stand-ins[/yellow] answered as {enumerated(replaced)}: rules and a fixed vocabulary"
        )
    if study.status == "answered":
        lines += [f"[bold]{plain(headline(study.to_json()))}[/bold]", plain(str(study.description)), ""]
        if study.labels and set(study.answered) - set(study.labels):
            whole = plain(" OR ".join(study.answered))
            lines += [
                f"the answer was {whole}, and the description is of all of it; the label is what stood its "
                "tests"
            ]
    else:
        lines += [f"[bold]no label[/bold]: the study ended with {study.status}", ""]
    values = study.to_json()
    if result.status == OUT_OF_BUDGET:
        lines[-2:] = ["[yellow]out of budget[/yellow]: raise it in the profile, and repeat the command"]
    else:
        lines += _evidence(values)
    lines += [plain(role)] if (role := RecordedRole.of(values).headline()) else []
    lines += _repeats(study)
    if ended:
        images = study.images_made + study.images_tested
        rounds = study.rounds + sum(repeat.rounds for repeat in study.repeats)
        lines.append(f"{counted(rounds, 'round')}, {images:,} images made and tested")
    lines.append(f"report: {report}")
    return "\n".join(lines)


def _evidence(record: dict[str, Any]) -> list[str]:
    """Return the verdict with its sentence, three figures with what they mean, the values of others, and
    warnings.
    """
    from experiments.report.figures import figures_of, reason
    from experiments.report.records import mapping, sequence, text

    verdict = verdict_of(record)
    color = "green" if verdict in HOLDING else "yellow"
    lines = [f"[{color}]{verdict}[/{color}]: {MEANINGS[verdict]}"]
    if sentence := reason(record.get("evidence")):
        lines.append(plain(sentence))
    figures = figures_of(record.get("evidence"))
    lines += [f"  {figure.name}: {figure.value} - {figure.meaning}" for figure in figures[:_FIGURES]]
    others = "; ".join(f"{figure.name}: {figure.value}" for figure in figures[_FIGURES:])
    warnings = [text(each) for each in sequence(mapping(record.get("card")).get("warnings"))]
    return [
        *lines,
        *([f"  {others}"] if others else []),
        *(f"[yellow]warning[/yellow]: {plain(each)}" for each in warnings if each),
    ]


def _repeats(study: StudyResult) -> list[str]:
    """Return how far the labels of several studies agree, and what each of them is."""
    if not study.repeats:
        return []
    agreement = None if study.agreement is None else study.agreement.value
    measured = "not measured: that needs two labels that were put to a test"
    if agreement is not None:
        measured = (
            f"{agreement:.2f} of the images of each other's tests are told apart by a blind witness who "
            "knows the label (0.50 is chance)"
        )
    return [f"agreement of {len(study.repeats)} studies: {measured}"] + [
        f"  {repeat.number}: {plain(' OR '.join(repeat.labels) or 'no label')} "
        f"({plain(repeat.verdict or 'no verdict')})"
        for repeat in study.repeats
    ]
