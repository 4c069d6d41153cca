"""Studies: one unit, layers, classes; by agents or by a person."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.folders import EarlierRun, out_option
from experiments.cli.options import (
    LARGEST_SEED,
    ClassNames,
    ConfigPath,
    Data,
    FewImages,
    Json,
    Model,
    ProfileName,
    Repeat,
    Verbose,
    Yes,
    approve,
    default_run,
    end,
    examples,
    finished_studies,
    run,
    units_left,
)
from experiments.setup.console import Console, configure_logging
from experiments.setup.selection import Selection

commands = typer.Typer()


@commands.command(
    epilog=examples(
        "maia describe tf_efficientnet_lite0 blocks.6 91",
        'maia describe resnet50 output "golden retriever" --profile hosted',
        "maia describe python:net.py:build 1 7 --data ~/images --json",
        "maia describe tf_efficientnet_lite0 blocks.6 91 --repeat 3",
    )
)
def describe(
    model: Model,
    layer: Annotated[
        str, typer.Argument(help="Layer, as `maia layers MODEL` lists them; `output` for classes.")
    ],
    unit: Annotated[
        str, typer.Argument(help="Unit of the layer: a number from 0, or a class name for `output`.")
    ],
    profile: ProfileName = None,
    out: Annotated[Path | None, out_option("Run directory [default: runs/<model>-<layer>-<unit>].")] = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the whole study.")] = 0,
    data: Data = None,
    yes: Yes = False,
    class_names: ClassNames = None,
    few_images: FewImages = False,
    repeat: Repeat = 1,
    json: Json = False,
    config: ConfigPath = None,
    verbose: Verbose = 0,
) -> None:
    """Find out what drives one unit, and how sure that is."""
    from experiments.studies.describe import describe_unit
    from experiments.studies.unit_request import UnitRequest

    configure_logging(verbose)
    console = Console()
    folder = out or default_run(f"{model} {layer} {unit}")
    if not finished_studies(folder):
        approve(config, profile, yes, lambda: repeat, model=model)
    selection = Selection(config, profile, data, class_names, few_images)
    work = describe_unit(console, UnitRequest(model, layer, unit, selection, folder, seed, repeat))
    record = run(work, folder)
    if json:
        console.result(record)
    else:
        from experiments.studies.describe import card

        console.show(card(record))
    if record["status"] == "failed":
        raise typer.Exit(1)


@commands.command(
    epilog=examples(
        "maia sweep tf_efficientnet_lite0 blocks.6 --units sample:6 --out runs/b6",
        "maia sweep resnet50 layer3,layer4 --profile hosted --yes",
    )
)
def sweep(
    model: Model,
    layers: Annotated[str, typer.Argument(help="Layers, separated by commas; `output` for classes.")],
    units: Annotated[
        str, typer.Option(help="all, 0-63, 3,17 or sample:100 (the same sample for the same seed).")
    ] = "all",
    profile: ProfileName = None,
    out: Annotated[Path | None, out_option("Run directory [default: runs/<model>-<layers>-<units>].")] = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of all studies.")] = 0,
    data: Data = None,
    class_names: ClassNames = None,
    few_images: FewImages = False,
    repeat: Repeat = 1,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Study failed units again.")] = False,
    yes: Yes = False,
    json: Json = False,
    config: ConfigPath = None,
    verbose: Verbose = 0,
) -> None:
    """Study whole layers. Repeated on the same directory, it goes on where it was; more units or layers may
    be added.
    """
    from experiments.records.status import card
    from experiments.studies.sweep import Sweep
    from experiments.studies.sweep import sweep as study_units

    configure_logging(verbose)
    console = Console()
    folder = out or default_run(f"{model} {layers} {units}")

    def count() -> int:
        return repeat * units_left(config, profile, folder, model, layers, units)

    approve(config, profile, yes, count, model=model)
    selection = Selection(config, profile, data, class_names, few_images)
    request = Sweep(model, tuple(layers.split(",")), units, seed, retry_failed, repeat)
    summary = run(study_units(console, selection, request, out=folder), folder)
    if json:
        console.result(summary)
    else:
        console.show(card(summary))
        console.show(f"results: {', '.join(summary['results'])}\nreport: {summary['report']}")
    end(summary)


@commands.command(
    epilog=examples(
        "maia audit tf_efficientnet_lite0 --classes umbrella,hourglass --out runs/audit",
        "maia audit resnet50 --classes data --data ~/photographs --figures-only",
        "maia audit python:net.py:build --data waterbirds --label-names 0=landbird,1=waterbird --attributes "
        "place",
    )
)
def audit(
    model: Model,
    classes: Annotated[
        str,
        typer.Option(
            help="all, data (those of the data set), a class's name, 281-285, 3,17, sample:20, or several "
            "with commas."
        ),
    ] = "all",
    out: Annotated[Path | None, out_option("Run directory [default: runs/audit-<model>-<classes>].")] = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of all images and studies.")] = 0,
    images: Annotated[
        int,
        typer.Option(
            min=2, help="Images of each class in each context, before what stands out is shown again."
        ),
    ] = 12,
    propose_contexts: Annotated[
        int,
        typer.Option(
            min=0,
            max=24,
            help="Contexts of each class that the interpreter names before anything is measured.",
        ),
    ] = 0,
    figures_only: Annotated[
        bool, typer.Option("--figures-only", help="Measure the fixed design alone, without agents.")
    ] = False,
    data: Data = None,
    label_column: Annotated[
        str | None,
        typer.Option(
            help="Column of the data set with the class of each image [default: label, y, class ...]."
        ),
    ] = None,
    image_column: Annotated[
        str | None, typer.Option(help="Column of the data set that names its image files, or holds images.")
    ] = None,
    attributes: Annotated[
        str | None,
        typer.Option(help="Columns to form subgroups by, with commas [default: those of 2 to 20 values]."),
    ] = None,
    label_names: Annotated[
        str | None,
        typer.Option(help="The network's class of each label: 0=landbird,1=waterbird, or a file of names."),
    ] = None,
    real_images: Annotated[
        int, typer.Option(min=1, max=20_000, help="Labelled images of each class that are measured at most.")
    ] = 2000,
    witness: Annotated[
        bool,
        typer.Option(
            "--witness",
            help="Ask the observers about all contexts of the design on real images, not only of findings.",
        ),
    ] = False,
    class_names: ClassNames = None,
    few_images: FewImages = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Audit failed classes again.")] = False,
    yes: Yes = False,
    profile: ProfileName = None,
    json: Json = False,
    config: ConfigPath = None,
    verbose: Verbose = 0,
) -> None:
    """Find contexts in which classes lose or gain probability. Where --data has labels, on real images, too.

    Repeated on the same directory, it goes on; more classes may be added.
    """
    from actors.vision.data.class_match import read_pairs
    from actors.vision.data.labels import ColumnSettings
    from experiments.audit.classes import OF_DATA
    from experiments.audit.real_audit import RealSettings, count_classes
    from experiments.audit.run import Audit
    from experiments.audit.run import audit as audit_classes
    from experiments.audit.table import table
    from experiments.records.status import card
    from experiments.setup.config import load

    configure_logging(verbose)
    console = Console()
    named = tuple(each.strip() for each in (attributes or "").split(",") if each.strip())
    columns = ColumnSettings(image=image_column or "", label=label_column or "", attributes=named)
    real = RealSettings(
        read_pairs(label_names) if label_names else {}, real_images, everything=witness, approved=yes
    )
    folder = out or default_run(f"audit {model} {classes}")
    if not figures_only:

        def count() -> int:
            if classes.strip() != OF_DATA or folder.exists():
                return units_left(config, profile, folder, model, None, classes)
            chosen = load(config).profile(profile).given(data, columns=columns)
            return int(run(count_classes(console, chosen, real)))

        approve(config, profile, yes, count, model=model, task="audit")
    asked = Audit(
        model, classes, seed, images, not figures_only, data, class_names, retry_failed, few_images, columns, real,
        propose_contexts,
    )  # fmt: skip
    result = run(audit_classes(console, config, profile, asked, out=folder), folder)
    if json:
        console.result(result)
    else:
        console.show(table(result), markup=False)
        console.show(card(result["run"]))
        console.show(f"results: {', '.join(result['run']['results'])}\nreport: {result['run']['report']}")
    end(result["run"])


@commands.command(
    epilog=examples(
        "maia session tf_efficientnet_lite0 blocks.6 91",
        "maia session resnet50 layer3 117 --person ada --json < study.py",
    )
)
def session(
    model: Model,
    layer: Annotated[str, typer.Argument(help="Layer, as `maia layers MODEL` lists them.")],
    unit: Annotated[str, typer.Argument(help="Unit of the layer, as for `maia describe`.")],
    profile: ProfileName = None,
    out: Annotated[
        Path | None,
        out_option("Run directory; an existing one is resumed [default: a new one]."),
    ] = None,
    person: Annotated[str, typer.Option(help="Who studies: written into the record.")] = "person",
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of all images.")] = 0,
    data: Data = None,
    yes: Yes = False,
    class_names: ClassNames = None,
    few_images: FewImages = False,
    json: Json = False,
    config: ConfigPath = None,
    verbose: Verbose = 0,
) -> None:
    """Study a unit yourself, with the agents' tools. It is recorded as theirs; a program may come from a
    pipe.
    """
    from experiments.studies.session import Session, SessionRequest, talk

    configure_logging(verbose)
    console = Console()
    approve(config, profile, yes, lambda: 1, model=model)
    request = SessionRequest(
        model, layer, unit, out, profile, config, data, class_names, few_images, seed, person, console.say
    )
    with Session.start(request) as study:
        with contextlib.redirect_stdout(sys.stderr if json else sys.stdout):
            went_well = talk(study, sys.stdin)
        rounds, result = study.rounds, study.result
        # Who asked for nothing, or whose program failed before it did, has left nothing to show.
        page = study.report() if rounds or result else None
    if json:
        report = None if page is None else str(page)
        console.result({"run": str(study.run), "rounds": rounds, "report": report, "result": result})
    elif page is None:
        console.show("nothing was measured, so there is no report")
    elif result is None:
        console.show(f"{rounds} round{'' if rounds == 1 else 's'}\nreport: {page}", markup=False)
    else:
        from experiments.studies.describe import card

        console.show(card(result | {"paths": {"report": str(page)}}))
    if not went_well:
        raise typer.Exit(1)


@commands.command(epilog=examples('maia find "forested backgrounds" tf_efficientnet_lite0 blocks.6'))
def find(
    concept: Annotated[
        str, typer.Argument(help='What units should be selective for: "forested backgrounds".')
    ],
    model: Model,
    layer: Annotated[str, typer.Argument(help="Layer, as `maia layers MODEL` lists them.")],
    images: Annotated[
        int, typer.Option(min=8, max=500, help="Images of the concept; many units need many images.")
    ] = 40,
    top: Annotated[int, typer.Option(min=1, help="Units to show.")] = 10,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the images.")] = 0,
    profile: ProfileName = None,
    json: Json = False,
    config: ConfigPath = None,
    verbose: Verbose = 0,
) -> None:
    """Find the units of a layer that answer to a concept."""
    from experiments.studies.find import ConceptQuery, find_units, table

    configure_logging(verbose)
    console = Console()
    query = ConceptQuery(concept, model, layer, images, top, seed)
    result = run(find_units(console, Selection(config, profile), query))
    if json:
        console.result(asdict(result))
    else:
        for note in result.notes:
            console.warn(note)
        console.show(table(result))


@commands.command(epilog=examples("maia exemplars tf_efficientnet_lite0 --layers blocks.5,blocks.6 --k 20"))
def exemplars(
    model: Model,
    layers: Annotated[str, typer.Option(help="Layers with commas between them.")],
    data: Data = None,
    few_images: FewImages = False,
    k: Annotated[int, typer.Option(min=1, max=1000, help="Exemplars of each unit.")] = 15,
    out: Annotated[Path | None, out_option("Folder for the tables [default: runs/exemplars-...].")] = None,
    profile: ProfileName = None,
    json: Json = False,
    config: ConfigPath = None,
    verbose: Verbose = 0,
) -> None:
    """Find the strongest images of all units of some layers. One pass over a data set finds them all."""
    from experiments.studies.exemplars import ExemplarRequest, find_exemplars

    configure_logging(verbose)
    console = Console(quiet=json)
    folder = out or default_run(f"exemplars {model} {layers.replace(',', ' ')}")
    selection = Selection(config, profile, data, few_images=few_images)
    tables = run(find_exemplars(console, ExemplarRequest(model, layers, selection, k, folder)), folder)
    if json:
        console.result(asdict(tables))
    else:
        console.show(*(f"{layer}: {file}" for layer, file in tables.files.items()))


@commands.command(
    epilog=examples(
        "maia estimate tf_efficientnet_lite0 blocks.6 --units sample:100 --profile hosted",
        "maia estimate resnet50 layer3 --like runs/b6 --assume rounds=12",
    )
)
def estimate(
    model: Model,
    layers: Annotated[str, typer.Argument(help="Layers, separated by commas; `output` for classes.")],
    units: Annotated[str, typer.Option(help="all, 0-63, 3,17 or sample:100.")] = "all",
    repeat: Repeat = 1,
    like: EarlierRun = None,
    assume: Annotated[
        list[str] | None, typer.Option(help="NAME=NUMBER in place of an assumption; may be repeated.")
    ] = None,
    profile: ProfileName = None,
    json: Json = False,
    config: ConfigPath = None,
) -> None:
    """Say what a sweep would take. Calls, tokens, dollars, device time and hours, before anything is spent."""
    from experiments.cli import confirm_cost as approval
    from experiments.runs.estimate import assume as check
    from experiments.runs.estimate import table
    from experiments.runs.precedents import Wanted
    from experiments.setup.config import load

    configure_logging(0)
    console = Console(quiet=json)
    loaded = load(config)
    check(assume or [])
    with console.waiting(f"counting the units of {model}"):
        count = run(approval.count_units(config, profile, model, layers.split(","), units))
    wanted = Wanted(model, profile or loaded.default_profile)
    found = approval.predict(
        loaded.profile(profile), count * repeat, wanted, like=like, assumes=assume or (), cache=loaded.cache
    )
    found |= {"units": count, "repeat": repeat}
    if repeat > 1:
        found["notes"] = [
            *found["notes"],
            "how the studies of a unit agree, and one pooled answer, are not counted",
        ]
    if json:
        console.result(found)
    else:
        console.show(table(found))
