"""Studies: one unit, layers, classes; by agents or by a person."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from actors.errors import UsageError
from experiments.cli.costs import (
    affordable,
    ask_endpoints,
    ask_endpoints_for,
    confirm_cost,
    count_results,
    units_left,
)
from experiments.cli.folders import EarlierRun, here, out_option, searched_run
from experiments.cli.options import (
    Agents,
    Attributes,
    ImageColumn,
    LabelColumn,
    LabelNames,
    Layer,
    LayerUnit,
    Model,
    Repeat,
    RunModel,
    Shared,
    TrustRun,
    Yes,
    default_run,
    examples,
    seed_option,
    shared_options,
    trust_of,
    with_columns,
)
from experiments.cli.running import end, run, show_run, show_study

if TYPE_CHECKING:
    from experiments.studies.find import SelectiveUnits

commands = typer.Typer()


@commands.command(
    epilog=examples(
        "maia describe tf_efficientnet_lite0 blocks.6 91",
        'maia describe resnet50 output "golden retriever" --profile hosted',
        "maia describe python:net.py:build 1 7 --data ~/images --json",
        "maia describe tf_efficientnet_lite0 blocks.6 91 --repeat 3",
    )
)
@shared_options("data", "class_names", "few_images")
def describe(
    shared: Shared,
    model: Model,
    layer: Annotated[
        str, typer.Argument(help="Layer, as `maia layers MODEL` lists them; `output` for classes.")
    ],
    unit: Annotated[
        str, typer.Argument(help="Unit of the layer: a number from 0, or a class name for `output`.")
    ],
    out: Annotated[Path | None, out_option("Run directory [default: runs/<model>-<layer>-<unit>].")] = None,
    seed: Annotated[int, seed_option("Seed of the whole study.")] = 0,
    yes: Yes = False,
    repeat: Repeat = 1,
) -> None:
    """Find out what drives one unit, and how sure that is."""
    from experiments.studies.unit_request import UnitRequest

    folder = out or default_run(f"{model} {layer} {unit}")
    request = UnitRequest(model, layer, unit, shared.selection, folder, seed, repeat)
    request.load()  # a wrong name is told before any endpoint is asked
    if not count_results(folder):
        confirm_cost(shared.selection, yes, lambda: repeat, model=model)
    from experiments.studies.describe import describe_unit

    show_study(shared, run(describe_unit(shared.console, request), folder))


@commands.command(
    epilog=examples(
        "maia sweep tf_efficientnet_lite0 blocks.6 --units sample:6 --out runs/b6",
        "maia sweep resnet50 layer3,layer4 --profile hosted --yes",
        "maia sweep tf_efficientnet_lite0 blocks.6 --agents top:50 --out runs/tiers",
    )
)
@shared_options("data", "class_names", "few_images")
def sweep(
    shared: Shared,
    model: Model,
    layers: Annotated[str, typer.Argument(help="Layers, separated by commas; `output` for classes.")],
    units: Annotated[
        str, typer.Option(help="all, 0-63, 3,17 or sample:100 (the same sample for the same seed).")
    ] = "all",
    out: Annotated[Path | None, out_option("Run directory [default: runs/<model>-<layers>-<units>].")] = None,
    seed: Annotated[int, seed_option("Seed of all studies.")] = 0,
    repeat: Repeat = 1,
    agents: Agents = "all",
    labels: Annotated[
        Path | None, typer.Option(help="A run of maia label that decides [default: made beside the run].")
    ] = None,
    vocabulary: Annotated[
        str, typer.Option(help="Words of labels that are made first: everyday, imagenet, wordnet, or a file.")
    ] = "everyday",
    tell_labels: Annotated[
        bool,
        typer.Option(
            "--tell-labels",
            help="Give agents the labels of embeddings, and their rivals, as first hypotheses.",
        ),
    ] = False,
    roles: Annotated[
        Path | None, typer.Option(help="A run of maia roles: units that change the outputs most come first.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Study failed units again.")] = False,
    yes: Yes = False,
) -> None:
    """Study whole layers. An existing run is resumed; more units, layers or agents may be added."""
    folder = out or default_run(f"{model} {layers} {units}")
    if (known := shared.selection.load().known_network(model)) is not None:
        for layer in layers.split(","):  # a wrong name is told before any endpoint is asked
            known.info(layer)
    if not folder.exists():
        ask_endpoints(shared.selection)
    from experiments.labels.tiers import AgentChoice, LabelTiers, effects_in
    from experiments.studies.sweep import Sweep
    from experiments.studies.sweep import sweep as study_units

    choice = AgentChoice.parse(agents, affordable(shared.selection, model, agents))
    effects = {} if roles is None else effects_in(roles)
    tiers = None if choice is None else LabelTiers(choice, labels, vocabulary, effects, tell=tell_labels)
    if tell_labels and tiers is None:
        raise UsageError(
            "--tell-labels needs labels of embeddings, which --agents all does not make.",
            "Add --agents doubtful, or another choice.",
        )

    def count() -> int:
        return repeat * units_left(shared.selection, folder, model, layers, units, choice)

    confirm_cost(shared.selection, yes, count, model=model, folder=folder)
    request = Sweep(model, tuple(layers.split(",")), units, seed, retry_failed, repeat, tiers)
    summary = run(study_units(shared.console, shared.selection, request, out=folder), folder)
    if shared.json:
        shared.console.result(summary.as_json())
    else:
        show_run(shared.console, summary.run)
    end(summary.run)


@commands.command(
    epilog=examples(
        "maia audit tf_efficientnet_lite0 --classes umbrella,hourglass --out runs/audit",
        "maia audit resnet50 --classes data --data ~/photographs --figures-only",
        "maia audit python:net.py:build --data waterbirds --label-names 0=landbird,1=waterbird --attributes "
        "place",
    )
)
@shared_options("data", "class_names", "few_images")
def audit(
    shared: Shared,
    model: Model,
    classes: Annotated[
        str,
        typer.Option(
            help="all, data (those of the data set), a class's name, 281-285, 3,17, sample:20, or several "
            "with commas."
        ),
    ] = "all",
    out: Annotated[Path | None, out_option("Run directory [default: runs/audit-<model>-<classes>].")] = None,
    seed: Annotated[int, seed_option("Seed of all images and studies.")] = 0,
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
    label_column: LabelColumn = None,
    image_column: ImageColumn = None,
    attributes: Attributes = None,
    label_names: LabelNames = None,
    real_images: Annotated[
        int, typer.Option(min=1, max=20_000, help="Labeled images of each class that are measured at most.")
    ] = 2000,
    witness: Annotated[
        bool,
        typer.Option(
            "--witness",
            help="Ask the observers about all contexts of the design on real images, not only of findings.",
        ),
    ] = False,
    carriers: Annotated[
        str,
        typer.Option(
            help="Layer whose units are ablated on images of each finding, to name those that carry it: "
            "LAYER, or LAYER:latent:PATH."
        ),
    ] = "",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Audit failed classes again.")] = False,
    yes: Yes = False,
) -> None:
    """Find contexts in which classes lose or gain probability. Where --data has labels, on real images, too.

    An existing run is resumed; more classes may be added.
    """
    folder = out or default_run(f"audit {model} {classes}")
    if not folder.exists():
        ask_endpoints(shared.selection)
    from actors.vision.data.class_match import read_pairs
    from experiments.audit.classes import OF_DATA
    from experiments.audit.real.audit import RealSettings, count_classes
    from experiments.audit.run import AuditRequest
    from experiments.audit.run import audit as audit_classes
    from experiments.audit.table import findings, table

    selection = with_columns(shared.selection, image_column, label_column, attributes)
    real = RealSettings(
        read_pairs(label_names) if label_names else {}, real_images, everything=witness, approved=yes
    )
    if not figures_only:

        def count() -> int:
            if classes.strip() != OF_DATA or folder.exists():
                return units_left(shared.selection, folder, model, None, classes)
            return int(run(count_classes(shared.console, selection.load().profile, real)))

        confirm_cost(shared.selection, yes, count, model=model, task="audit", folder=folder)
    request = AuditRequest(
        model, classes, seed, images, not figures_only, propose_contexts, real, retry_failed, carriers.strip()
    )
    outcome = run(audit_classes(shared.console, selection, request, out=folder), folder)
    if shared.json:
        shared.console.result(outcome.to_json())
    else:
        shared.console.show(*findings(outcome.record))
        shared.console.show(table(outcome.record), markup=False)
        show_run(shared.console, outcome.run)
    end(outcome.run)


@commands.command(
    epilog=examples(
        "maia session tf_efficientnet_lite0 blocks.6 91",
        "maia session resnet50 layer3 117 --person ada --json < study.py",
    )
)
@shared_options("data", "class_names", "few_images")
def session(
    shared: Shared,
    model: Model,
    layer: Layer,
    unit: LayerUnit,
    out: Annotated[
        Path | None,
        out_option("Run directory; an existing one is resumed [default: a new one]."),
    ] = None,
    person: Annotated[str, typer.Option(help="Who studies: written into the record.")] = "person",
    seed: Annotated[int, seed_option("Seed of all images.")] = 0,
    yes: Yes = False,
) -> None:
    """Study a unit yourself, with the agents' tools. It is recorded as theirs; a program may come from a
    pipe.
    """
    confirm_cost(shared.selection, yes, lambda: 1, model=model)
    from experiments.studies.session import SessionRequest, StudySession
    from experiments.studies.terminal import talk

    selection = shared.selection
    request = SessionRequest(
        model=model,
        layer=layer,
        unit=unit,
        out=out,
        profile=selection.profile,
        config=selection.config,
        data=selection.data,
        class_names=selection.class_names,
        few_images=selection.few_images,
        seed=seed,
        person=person,
        notify=shared.console.say,
    )
    with StudySession.start(request) as study:
        with contextlib.redirect_stdout(sys.stderr if shared.json else sys.stdout):
            went_well = talk(study, sys.stdin)
        rounds, result = study.rounds, study.result
        # A session without a measurement has nothing to show.
        page = study.report() if rounds or result else None
    if shared.json:
        report = None if page is None else str(page)
        shared.console.result({"run": str(study.run), "rounds": rounds, "report": report, "result": result})
    elif page is None:
        shared.console.show("nothing was measured, so there is no report")
    elif result is None:
        from experiments.setup.console import counted

        done = f"{counted(rounds, 'round')}, and no answer that stands: go on with --out {study.run}"
        shared.console.show(f"{done}\nreport: {page}", markup=False)
    else:
        from agents.records.record_types import StudyResult
        from experiments.studies.describe import card

        shared.console.show(card(StudyResult.model_validate(result), page))
    if not went_well:
        raise typer.Exit(1)


@commands.command(
    epilog=examples(
        'maia find runs/b6 "forested backgrounds"',
        'maia find runs/b6 "forested backgrounds" --confirm',
        "maia find runs/b6 --image forest.jpg",
        'maia find tf_efficientnet_lite0 blocks.6 "forested backgrounds"',
    )
)
@shared_options()
def find(
    shared: Shared,
    ctx: typer.Context,
    where: Annotated[
        str,
        typer.Argument(
            help="A run, whose records are searched; or a network, whose units are measured.",
            metavar="RUN|MODEL",
        ),
    ],
    layer: Annotated[
        str,
        typer.Argument(
            help="Layer, as `maia layers MODEL` lists them; of a run it may be left out.", metavar="LAYER"
        ),
    ] = "",
    concept: Annotated[
        str,
        typer.Argument(
            help='What units should be selective for, such as "forested backgrounds".', metavar="CONCEPT"
        ),
    ] = "",
    image: Annotated[
        Path | None,
        typer.Option(
            help="A picture to look for in a run, in place of CONCEPT.", parser=here, metavar="FILE"
        ),
    ] = None,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Measure the units that a run says match on new images, too.")
    ] = False,
    images: Annotated[
        int, typer.Option(min=8, max=500, help="Images of the concept; many units need many images.")
    ] = 40,
    top: Annotated[int, typer.Option(min=1, help="Units to show.")] = 10,
    seed: Annotated[int, seed_option("Seed of the images.")] = 0,
    model: RunModel = None,
    trust: TrustRun = False,
) -> None:
    """Find the units that answer to a concept. In a run by what was said of them, in a layer by images."""
    if image is None:
        layer, concept = ("", layer) if not concept else (layer, concept)
    elif concept:
        raise UsageError("--image takes the place of CONCEPT.", "Write: maia find RUN [LAYER] --image FILE.")
    if image is not None and confirm:
        raise UsageError("images of a picture cannot be made.", "Leave --confirm out, or name a concept.")
    folder = searched_run(ctx, where)
    if folder is not None and confirm:
        ask_endpoints_for(shared.selection, folder)
    elif folder is None and image is None and concept:
        ask_endpoints(shared.selection)
    from experiments.studies import search
    from experiments.studies.find import ConceptQuery, check_order, find_units, table

    if folder is None:
        if image is not None:
            raise UsageError(f"{where!r} is no run.", "Write: maia find RUN [LAYER] --image FILE.")
        check_order(where, layer, concept)
        result = run(
            find_units(
                shared.console, shared.selection, ConceptQuery(concept, where, layer, images, top, seed)
            )
        )
        show_selective(shared, result)
        return
    query = search.RunQuery(concept, folder, layer, top, image)
    found = search.search(query, shared.selection.load().profile.embedding)
    if confirm:
        asked = ConceptQuery(concept, model or "", layer, images, top, seed)
        measured = run(search.confirm(shared.console, shared.selection, found, asked, trust_of(trust)))
        found = replace(found, confirmed=measured)
    if shared.json:
        shared.console.result(asdict(found))
        return
    for problem in found.problems:
        shared.console.warn(problem)
    shared.console.show(search.table(found))
    if found.confirmed is not None:
        for note in found.confirmed.notes:
            shared.console.warn(note)
        shared.console.show(table(found.confirmed))


def show_selective(shared: Shared, result: SelectiveUnits) -> None:
    """Show which units of a layer answer to a concept."""
    from experiments.studies.find import table

    if shared.json:
        shared.console.result(asdict(result))
        return
    for note in result.notes:
        shared.console.warn(note)
    shared.console.show(table(result))


@commands.command(epilog=examples("maia exemplars tf_efficientnet_lite0 --layers blocks.5,blocks.6 --k 20"))
@shared_options("data", "few_images", quiet_json=True)
def exemplars(
    shared: Shared,
    model: Model,
    layers: Annotated[str, typer.Option(help="Layers with commas between them.")],
    k: Annotated[int, typer.Option(min=1, max=1000, help="Exemplars of each unit.")] = 15,
    out: Annotated[Path | None, out_option("Folder for the tables [default: runs/exemplars-...].")] = None,
) -> None:
    """Find the strongest images of all units of some layers. One pass over a data set finds them all."""
    from experiments.studies.exemplars import ExemplarRequest, find_exemplars

    folder = out or default_run(f"exemplars {model} {layers.replace(',', ' ')}")
    request = ExemplarRequest(model, layers, shared.selection, k, folder)
    tables = run(find_exemplars(shared.console, request), folder)
    shared.show(tables, *(f"{layer}: {file}" for layer, file in tables.files.items()))


@commands.command(
    epilog=examples(
        "maia estimate tf_efficientnet_lite0 blocks.6 --units sample:100 --profile hosted",
        "maia estimate resnet50 layer3 --like runs/b6 --assume rounds=12",
    )
)
@shared_options(verbose=False, quiet_json=True)
def estimate(
    shared: Shared,
    model: Model,
    layers: Annotated[str, typer.Argument(help="Layers, separated by commas; `output` for classes.")],
    units: Annotated[str, typer.Option(help="all, 0-63, 3,17 or sample:100.")] = "all",
    repeat: Repeat = 1,
    agents: Agents = "all",
    like: EarlierRun = None,
    assume: Annotated[
        list[str] | None, typer.Option(help="NAME=NUMBER in place of an assumption; may be repeated.")
    ] = None,
) -> None:
    """Estimate a sweep. Calls, tokens, dollars, device time and hours, before anything is spent."""
    from experiments.cli.costs import count_units
    from experiments.labels.tiers import AgentChoice
    from experiments.runs.assumptions import parse_assumptions
    from experiments.runs.comparable_runs import EstimateSources, PredictedStudies, estimate_run
    from experiments.runs.estimate import table

    selected, assumptions = shared.selection.load(), assume or ()
    parse_assumptions(assumptions)
    with shared.console.waiting(f"counting the units of {model}"):
        count = run(count_units(shared.selection, model, layers.split(","), units))
    choice = AgentChoice.parse(agents, affordable(shared.selection, model, agents))
    count = count if choice is None else choice.most(count)
    predicted = PredictedStudies(model, selected.name)
    sources = EstimateSources(like, assumptions=assumptions, cache=selected.cache)
    estimated = estimate_run(selected.profile, count * repeat, predicted, sources)
    if choice is not None:
        note = "at most: units whose label by embeddings passes the critic's test need no agent"
        estimated = replace(estimated, notes=[*estimated.notes, note])
    if repeat > 1:
        note = "how the studies of a unit agree, and one pooled answer, are not counted"
        estimated = replace(estimated, notes=[*estimated.notes, note])
    estimated = replace(estimated, units=count, repeat=repeat)
    shared.show(estimated, table(estimated))
