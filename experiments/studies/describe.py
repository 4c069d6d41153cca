"""`maia describe`: one unit of one network, from a command line to a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.errors import MaiaError, UsageError
from actors.vision.networks.layer_cache import recall
from agents.evidence.verdict import HOLDING, MEANINGS, finding_of, verdict_of
from agents.records.journal import slug
from agents.records.manifest import check, check_studied, claim, claim_studied
from agents.records.record_types import StudyResult, read_record
from agents.records.store import Store
from agents.repeats.repeated_study import study_repeatedly
from agents.study.interpreter import Round
from agents.study.study import failure
from agents.tasks.describe_unit import DescribeUnit
from experiments.setup import config as configuration
from experiments.setup import photograph_notice as photographs
from experiments.setup.config import Profile
from experiments.setup.console import Console, plain
from experiments.setup.preflight import check_out
from experiments.setup.science import science

if TYPE_CHECKING:
    from experiments.setup.workbench import Workbench


async def describe_unit(
    console: Console,
    config: Path | None,
    profile_name: str | None,
    model: str,
    layer: str,
    unit: str,
    *,
    out: Path | None = None,
    seed: int = 0,
    data: str | None = None,
    class_names: Path | None = None,
    few_images: bool = False,
    repeat: int = 1,
) -> dict[str, Any]:
    """Study one unit and return its result with the paths of what was written.

    Studied several times (`repeat`), it is the answer that was pooled from what all the studies measured. A
    study that was interrupted goes on where it was; one that is finished is read.

    Raises:
        UsageError: If anything that was asked for does not exist or cannot work.
    """
    loaded = configuration.load(config)
    profile = loaded.profile(profile_name).given(data, class_names, few_images)
    if (network := recall(loaded.cache, model, profile.vision)) is not None:
        network.check(layer, unit)
    run = out or Path("runs") / slug(f"{model} {layer} {unit}")
    check_out(profile.dataset, run)
    store = Store.open(run)
    manifest = {
        "command": "describe",
        "model": model,
        "layer": layer,
        "unit": unit,
        "seed": seed,
        "profile": profile_name or loaded.default_profile,
        "config": loaded.named_file,
        "settings": science(profile),
    } | ({"repeat": repeat} if repeat > 1 else {})
    check(store, manifest)
    record = _finished(store)
    if record is None:
        record = await _study(console, loaded.cache, profile, store, manifest)
    else:
        console.say(f"{run} holds this study's result already")
    return record | {"paths": _paths(run, record)}


async def _study(
    console: Console, cache: Path, profile: Profile, store: Store, manifest: dict[str, Any]
) -> dict[str, Any]:
    from experiments.setup.workbench import Workbench

    repeats = manifest.get("repeat", 1)

    def on_round(number: int, finished: Round) -> None:
        if finished.verdict is not None:
            found = finding_of(finished.verdict.evidence) or "answered"
            told = found if finished.verdict.accepted else f"sent back after its tests ({found} so far)"
        elif finished.program is None:
            told = "no program"
        else:
            told = f"program {finished.outcome.status}" if finished.outcome else "program"
        guess = f": {finished.hypotheses[0]}" if finished.hypotheses else ""
        which = "" if repeats == 1 else f"study {number}, " if number else "all studies together, "
        console.say(f"{which}round {finished.number}, {told}{guess}")

    async with Workbench.open(profile, cache=cache, model=manifest["model"], tell=console.say) as bench:
        subject = await bench.subject(manifest["layer"], manifest["unit"])
        # Only now: a mistyped unit must not claim the folder.
        check_studied(store, bench.laboratory.facts)
        claim(store, manifest)
        claim_studied(store, bench.laboratory.facts)
        console.say("searching the data set for exemplars")
        with console.progress("exemplars") as progress:
            await subject.prepare(progress)
        await _tell_skipped(console, bench, manifest)
        if "notice" in bench.laboratory.facts:
            console.say(await photographs.of_unit(bench.laboratory.observers, subject))
        console.say("studying the unit" + (f" {repeats} times" if repeats > 1 else ""))
        task = DescribeUnit()
        try:
            return await study_repeatedly(
                bench.laboratory,
                subject,
                task,
                store,
                seed=manifest["seed"],
                repeats=repeats,
                at_once=repeats,
                on_round=on_round,
            )
        except UsageError:
            raise
        except MaiaError as error:
            console.fail(error)
            return failure(subject, task, error)


async def _tell_skipped(console: Console, bench: Workbench, manifest: dict[str, Any]) -> None:
    """Warn of images of the data set that could not be read; the pass over it has been made."""
    from actors.vision.readout.units import Readout, parse_unit
    from experiments.studies.exemplars import tell_skipped

    vision = bench.vision
    unit = await vision.unit(parse_unit(manifest["layer"], manifest["unit"], await vision.class_names()))
    readout = Readout.of(unit)
    found = await vision.layer_exemplars([readout], bench.dataset)
    tell_skipped(console, bench.dataset, found[readout].skipped)


def _finished(store: Store) -> dict[str, Any] | None:
    records = (
        read_record(store, f"units/{folder}/done.json", StudyResult) for folder in store.folders("units")
    )
    return next((record for record in records if record is not None), None)


def _paths(run: Path, record: dict[str, Any]) -> dict[str, str]:
    from experiments.report import write_unit_page

    folder = slug(record["unit"])
    page = write_unit_page(run, folder)
    return {"run": str(run), "unit": str(run / "units" / folder), "report": str(page)}


def card(record: dict[str, Any]) -> str:
    """Return a result in a few lines for a terminal; model-written text is made safe."""
    lines = [""]
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
    lines += _repeats(record)
    if "rounds" in record:
        images = record["images_made"] + record.get("images_tested", 0)
        rounds = record["rounds"] + sum(each.get("rounds", 0) for each in record.get("repeats", ()))
        lines.append(f"{rounds} rounds, {images} images made and tested")
    lines.append(f"report: {record['paths']['report']}")
    return "\n".join(lines)


def _evidence(record: dict[str, Any]) -> list[str]:
    """Return the verdict with its sentence, and the figures that it rests on with what they mean."""
    from experiments.report.figures import figures_of, reason

    verdict = verdict_of(record)
    colour = "green" if verdict in HOLDING else "yellow"
    lines = [f"[{colour}]{verdict}[/{colour}]: {MEANINGS[verdict]}"]
    if told := reason(record.get("evidence")):
        lines.append(plain(told))
    lines += [f"  {each.name}: {each.value} - {each.told}" for each in figures_of(record.get("evidence"))]
    return lines


def _repeats(record: dict[str, Any]) -> list[str]:
    """Return how far the labels of several studies agree, and what each of them is."""
    found = record.get("repeats") or []
    if not found:
        return []
    agreement = (record.get("agreement") or {}).get("value")
    told = "not measured: that needs two labels that were put to a test"
    if agreement is not None:
        told = (
            f"{agreement:.2f} of the images of each other's tests are told apart by a blind witness who "
            "knows the label (0.50 is chance)"
        )
    return [f"agreement of {len(found)} studies: {told}"] + [
        f"  {each['number']}: {plain(' OR '.join(each.get('labels') or ()) or 'no label')} "
        f"({plain(each.get('verdict') or 'no verdict')})"
        for each in found
    ]
