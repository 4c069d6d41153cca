"""What is done with a run: watch it, stop it, play it again, show it, hand it on."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from actors.errors import UsageError
from experiments.cli.folders import (
    ExportedRun,
    OpenRun,
    RunArgument,
    RunOrUnitPath,
    RunRecords,
    UnitPath,
    Url,
    here,
    out_option,
    read,
    run_argument,
)
from experiments.cli.options import (
    Json,
    RunModel,
    Shared,
    TrustRun,
    default_run,
    examples,
    seed_option,
    shared_options,
    trust_of,
)
from experiments.cli.running import run, show_study
from experiments.setup.console import Console, counted

commands = typer.Typer()

Anywhere = Annotated[Any, run_argument("The --out folder, or URL, of a run.")]


_PROBLEMS_SHOWN = 20


@commands.command(epilog=examples("maia status runs/b6", "maia status runs/b6 --json"))
def status(run_directory: RunRecords, json: Json = False) -> None:
    """Say how far a run is. Also while another process works on it, and after one died."""
    from experiments.records.status import card
    from experiments.records.status import status as state_of
    from experiments.runs.found import experiments_table, found_units, table

    console = Console(quiet=json)
    current = state_of(run_directory)
    if json:
        console.result(current.as_json())
    else:
        found = (*table(found_units(run_directory)), *experiments_table(run_directory))
        console.show(*found, card(current))


@commands.command(epilog=examples("maia cancel runs/b6"))
def cancel(run_directory: Anywhere, json: Json = False) -> None:
    """Ask a run to stop. Its agents finish their round, and everything done stays valid."""
    from experiments.records.status import cancel as ask_to_stop

    console = Console(quiet=json)
    result: dict[str, Any]
    if isinstance(run_directory, Url):
        from agents.records.remote import ask_to_stop as ask_owner_of

        result = {"run": run_directory.text, "asked": ask_owner_of(run_directory.text)}
    else:
        result = asdict(ask_to_stop(run_directory))
    if json:
        console.result(result)
    elif result["asked"]:
        console.show("asked to stop; `maia status` says when it has")
    else:
        console.show("no process works on this run")


@commands.command(
    epilog=examples('maia note runs/b6/blocks.6:91 "try it on night scenes"', "maia note runs/demo -")
)
def note(
    unit: Annotated[
        Path,
        typer.Argument(
            help="DIR/UNIT: an --out folder and a unit of it, as layer:number.",
            parser=here,
            metavar="DIR/UNIT",
        ),
    ],
    text: Annotated[str, typer.Argument(help="What to tell the agent; - reads standard input.")],
    person: Annotated[str, typer.Option(help="Who writes: shown with the note.")] = "person",
    json: Json = False,
) -> None:
    """Leave a note for a study. Its agent reads it before its next round, also in another process."""
    from agents.study.notes import MOST_CHARACTERS
    from experiments.records.leave_note import note_for
    from experiments.records.lookup import find_unit

    console = Console(quiet=json)
    found = find_unit(unit)
    words = sys.stdin.read(MOST_CHARACTERS + 1) if text == "-" else text
    kept = note_for(found, words, person)
    if json:
        console.result({"unit": found.item.unit, **kept.to_json()})
    else:
        console.show(
            f"note {kept.number} for {found.item.unit}: read before its next round, or when the run is "
            "resumed",
            markup=False,
        )


@commands.command(epilog=examples("maia replay runs/b6/blocks.6:91", "maia replay runs/b6"))
@shared_options(quiet_json=True)
def replay(
    shared: Shared,
    unit: RunOrUnitPath,
) -> None:
    """Play recorded units again without models. Says where one comes out differently.

    Programs run in the sandbox of the profile; the run can only lower its limits.
    """
    from experiments.records.lookup import is_run
    from experiments.runs.replay import replay_units

    played = run(replay_units(shared.console, unit, shared.selection))
    diverged = [replayed for replayed in played if replayed.divergence]
    if shared.json:
        units = [asdict(replayed) for replayed in played]
        whole = is_run(unit) or len(played) > 1
        shared.console.result({"units": units, "diverged": len(diverged)} if whole else units[0])
    else:
        for replayed in diverged:
            shared.console.show(f"{replayed.unit} diverged in {replayed.divergence}", markup=False)
        if not diverged:
            rounds = sum(replayed.rounds - replayed.taken_over for replayed in played)
            of = "" if len(played) == 1 else f" of {len(played)} units"
            if taken_over := played[0].taken_over:
                of = f" since the {taken_over} that the branch took over"
            shared.console.show(f"all {rounds} rounds{of} came out as on record")
        if any(replayed.reworded for replayed in played):
            shared.console.show(
                "the API page or the task was worded otherwise then, and the replies are those to it"
            )
    if diverged:
        raise typer.Exit(1)


@commands.command(
    epilog=examples("maia branch runs/b6/blocks.6:91 --from-round 3 --profile hosted --out runs/branch")
)
@shared_options()
def branch(
    shared: Shared,
    unit: UnitPath,
    out: Annotated[Path, out_option("Run directory of the branch.")],
    from_round: Annotated[int, typer.Option(min=1, help="The first round that is played anew.")] = 1,
    seed: Annotated[int | None, seed_option("Seed of what follows [default: the same].")] = None,
    model: RunModel = None,
    trust: TrustRun = False,
) -> None:
    """Study a unit anew from one of its rounds. With another profile or seed, or with the run's."""
    from experiments.runs.replay import BranchRequest
    from experiments.runs.replay import branch as study_branch

    request = BranchRequest(unit, from_round, out, seed, model)
    work = study_branch(shared.console, shared.selection, request, trust_of(trust))
    show_study(shared, run(work, out))


@commands.command(
    epilog=examples(
        "maia report runs/b6",
        "maia report runs/b6/blocks.6:91 --single-file",
        "maia report runs/demo --single-file --out robot.html --address https://example.org/robot.html",
    )
)
def report(
    run_directory: OpenRun,
    single_file: Annotated[
        bool, typer.Option("--single-file", help="Write the page of DIR/UNIT as one file that can be sent.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="File of --single-file [default: UNIT.html].", parser=here, metavar="FILE"),
    ] = None,
    address: Annotated[
        str, typer.Option(help="Where the file will be published: then it names its preview image.")
    ] = "",
    json: Json = False,
) -> None:
    """Write the static report of a run. What did not change is left as it is."""
    console = Console(quiet=json)
    if single_file:
        from experiments.report.single_file import write_shared

        written = write_shared(run_directory, out, address)
        if json:
            console.result({"page": str(written.page), "preview": written.preview and str(written.preview)})
            return
        console.show(f"page: {written.page} ({written.page.stat().st_size / 1e6:.1f} MB)")
        if written.preview is not None:
            console.show(f"preview: {written.preview}")
        return
    if out is not None or address:
        raise UsageError("--out and --address belong to --single-file.", "Add --single-file.")
    from experiments.atlas.front_page import write_report

    page = write_report(run_directory)
    if json:
        console.result({"run": str(run_directory), "report": str(page)})
    else:
        console.show(f"report: {page}")


@commands.command(
    epilog=examples("maia gallery runs/b6 runs/audit --out docs/gallery", "maia gallery runs/b6 --units 20")
)
def gallery(
    run_directories: Annotated[
        list[Path],
        typer.Argument(help="The --out folders of runs: studies, audits.", parser=here, metavar="DIR..."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the page.", parser=here, metavar="DIR")] = Path(
        "gallery"
    ),
    units: Annotated[int, typer.Option(min=1, max=200, help="Units of each run, the best first.")] = 12,
    json: Json = False,
) -> None:
    """Write one page of what runs have found. For readers who have installed nothing."""
    from experiments.runs.gallery import write_gallery

    console = Console(quiet=json)
    written = write_gallery(run_directories, out, units)
    if json:
        console.result(asdict(written))
        return
    shown = f"{counted(written.units, 'unit')}, {counted(written.findings, 'finding')}"
    console.show(f"{shown}, {written.bytes / 1e6:.1f} MB\npage: {written.page}", markup=False)


@commands.command(epilog=examples("maia atlas runs/lite0", "maia atlas runs/lite0 --out ~/public/lite0"))
def atlas(
    run_directory: OpenRun,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the page [default: atlas in the run].", parser=here, metavar="DIR"),
    ] = None,
    json: Json = False,
) -> None:
    """Write a map of all units of a run, with a search. It is the front page of a large run's report, too."""
    from experiments.atlas.front_page import write_atlas

    console = Console(quiet=json)
    with console.waiting("placing the labels on a map"):
        written = write_atlas(run_directory, out)
    for problem in written.problems[:_PROBLEMS_SHOWN]:
        console.warn(problem)
    if json:
        console.result(asdict(written))
        return
    named = f"{written.labeled:,} with a label, {counted(written.labels, 'distinct label')}"
    console.show(
        f"{counted(written.units, 'unit')} of {counted(written.layers, 'layer')}, "
        f"{named}\natlas: {written.page}",
        markup=False,
    )


@commands.command(epilog=examples("maia view runs/b6", "maia view runs/b6 --read-only --port 8080 --no-open"))
@shared_options("data", "class_names")
def view(
    shared: Shared,
    run_directory: RunArgument,
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, show_default=False, help="Port on the loopback address [default: a free one]."
        ),
    ] = 0,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open a browser.")] = True,
    read_only: Annotated[bool, typer.Option("--read-only", help="Without the playground.")] = False,
    trust: TrustRun = False,
) -> None:
    """Serve a run's report on this machine. Live while the run is at work, with a playground for its units.

    Its models start with the first trial. A run at a URL has no playground.
    """
    from experiments.records.trust import Trust
    from experiments.setup.config import load
    from experiments.web.view import ViewRequest
    from experiments.web.view import view as serve

    def copied() -> bool:
        try:
            cache = load(shared.selection.config).cache
        except UsageError as error:
            shared.console.warn(f"no playground: {error}")
            return True
        return run_directory.resolve().is_relative_to(cache.resolve())

    playground = None if read_only or copied() else shared.selection
    request = ViewRequest(run_directory, port, open_browser, playground)
    # Ctrl-C is how a view ends.
    with contextlib.suppress(KeyboardInterrupt):
        run(serve(shared.console, request, Trust(trust), json=shared.json))


@commands.command(
    epilog=examples(
        "maia export runs/b6 --format csv --out b6.csv", "maia export runs/b6 --format inspect --images"
    )
)
def export(
    run_directory: ExportedRun,
    format: Annotated[
        str, typer.Option("--format", "-f", help="jsonl, csv, parquet, neuronpedia or inspect.")
    ] = "jsonl",
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write; its folders are made [default: export.* in the run; needed for a run at a "
            "URL].",
            parser=here,
            # Read first: a run at a URL need not be fetched to be refused.
            is_eager=True,
            metavar="FILE",
        ),
    ] = None,
    images: Annotated[
        bool, typer.Option(help="Put the pictures of transcripts into an inspect log.")
    ] = False,
    json: Json = False,
) -> None:
    """Write a run's results for other programs."""
    from experiments.records.exports.export import export as write

    console = Console(quiet=json)
    written = write(run_directory, format, out, images=images)
    for problem in written.problems[:_PROBLEMS_SHOWN]:
        console.warn(problem)
    if json:
        console.result(asdict(written))
    else:
        console.show(f"{counted(written.units, 'unit')}: {written.path}", markup=False)


@commands.command(
    epilog=examples("maia diff runs/b6 runs/b6-other-checkpoint", "maia diff runs/a runs/b --json")
)
def diff(
    first: RunArgument,
    second: Annotated[Path, run_argument("Another run over the same units or layers.", read)],
    json: Json = False,
) -> None:
    """Show what changed between two runs. Labels, verdicts and scores of two models or checkpoints, say."""
    from experiments.records.diff import diff as compare
    from experiments.records.diff import table

    console = Console(quiet=json)
    difference = compare(first, second)
    if json:
        console.result(asdict(difference))
    else:
        console.show(table(difference))


@commands.command(
    epilog=examples("maia compare runs/resnet18 runs/resnet50", "maia compare runs/a runs/b --json")
)
def compare(
    first: RunRecords,
    second: Annotated[Path, run_argument("Another run, of any network.", read)],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the page and compare.json [default: runs/compare-...].",
            parser=here,
            metavar="DIR",
        ),
    ] = None,
    seed: Annotated[int, seed_option("Seed of the permutations.")] = 0,
    json: Json = False,
) -> None:
    """Compare two runs by what their labels mean. Of any networks and layers."""
    from experiments.atlas.comparison import compare as compare_runs
    from experiments.atlas.comparison import table
    from experiments.atlas.comparison_page import write

    console = Console(quiet=json)
    with console.waiting("comparing labels"):
        comparison = compare_runs(first, second, seed)
        page = write(comparison, out or default_run(f"compare {first.name} {second.name}"))
    for problem in comparison.problems[:_PROBLEMS_SHOWN]:
        console.warn(problem)
    if json:
        console.result(asdict(comparison))
    else:
        console.show(table(comparison))
        console.show(f"page: {page}", markup=False)
