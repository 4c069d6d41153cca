"""Is it true? Units and biases that are known, other methods, and judges."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from actors.errors import UsageError
from experiments.cli.costs import ask_endpoints, ask_endpoints_for, confirm_cost, count_results
from experiments.cli.folders import OpenRun, here, out_option
from experiments.cli.options import (
    Json,
    RunModel,
    Shared,
    TrustRun,
    Yes,
    examples,
    seed_option,
    shared_options,
    trust_of,
)
from experiments.cli.running import run, show_report
from experiments.setup.console import Console

commands = typer.Typer()


def _show(shared: Shared, record: dict[str, Any], text: str, run_directory: Path) -> None:
    """Print a result: with --json as one object, else as text and where its report is."""
    if shared.json:
        shared.console.result(record)
        return
    shared.console.show(text, markup=False)
    show_report(shared.console, run_directory)


@commands.command(
    epilog=examples(
        "maia synthetic --units mono --limit 5 --out runs/synthetic",
        "maia synthetic --units 'violin;horse OR violin'",
    )
)
@shared_options()
def synthetic(
    shared: Shared,
    units: Annotated[
        str,
        typer.Option(
            help="all, or divided by semicolons: mono, or, given, confounded, nuisance, formulas such as "
            "'dog OR car'."
        ),
    ] = "all",
    out: Annotated[Path, out_option("Run directory.")] = Path("runs/synthetic"),
    seed: Annotated[int, seed_option("Seed of data set and studies.")] = 0,
    baseline: Annotated[
        bool, typer.Option(help="Also label from one look at the exemplars, to compare.")
    ] = True,
    limit: Annotated[int | None, typer.Option(min=1, help="Study only the first so many.")] = None,
    withheld: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.95,
            help="Share of the embedded vocabulary that image maker and models lack, drawn by the seed.",
        ),
    ] = 0.0,
    yes: Yes = False,
) -> None:
    """Describe synthetic neurons, whose truth is known. The labels are scored against it."""

    def studies() -> int:
        from experiments.paper.gym.neurons import choose

        return len(choose(units)[:limit]) - count_results(out)

    confirm_cost(shared.selection, yes, studies, folder=out)
    from experiments.paper.synthetic_neurons import SyntheticRequest, describe_synthetic
    from experiments.paper.synthetic_summary import table

    request = SyntheticRequest(units, seed, baseline, limit, withheld)
    result = run(describe_synthetic(shared.console, shared.selection, request, out=out), out)
    record = {key: value for key, value in asdict(result).items() if key != "rows"}
    _show(shared, record, table(result), out)


@commands.command(
    name="planted-biases", epilog=examples("maia planted-biases --networks 1 --out runs/planted")
)
@shared_options()
def planted_biases(
    shared: Shared,
    networks: Annotated[int, typer.Option(min=1, help="Classifiers, of eight classes each.")] = 3,
    out: Annotated[Path, out_option("Run directory.")] = Path("runs/planted-biases"),
    seed: Annotated[int, seed_option("Seed of classes, biases and images.")] = 0,
    images: Annotated[
        int,
        typer.Option(
            min=2, help="Images of each class in each context, before what stands out is shown again."
        ),
    ] = 12,
    agents: Annotated[bool, typer.Option(help="Also let an agent audit each class.")] = False,
    yes: Yes = False,
) -> None:
    """Audit classifiers whose biases are known. Reports the share found and the false alarms."""
    if not out.exists():
        ask_endpoints(shared.selection)
    from experiments.paper.gym.biases import BiasDesign
    from experiments.paper.planted_biases import PlantedRequest
    from experiments.paper.planted_biases import planted_biases as measure
    from experiments.paper.planted_page import table

    if agents:
        studies = sum(len(BiasDesign.drawn(seed + number).classes) for number in range(networks))
        confirm_cost(shared.selection, yes, lambda: studies - count_results(out), task="audit", folder=out)
    request = PlantedRequest(networks, seed, images, agents)
    result = run(measure(shared.console, shared.selection, request, out=out), out)
    _show(shared, asdict(result), table(result), out)
    if not result.finished:
        raise typer.Exit(130)


@commands.command(
    name="robust-features",
    epilog=examples(
        "maia robust-features --trainings 1 --out runs/robust",
        "maia robust-features --data ~/spawrious --json",
    ),
)
@shared_options()
def robust_features(
    shared: Shared,
    data: Annotated[
        Path | None, typer.Option(help="Folder of Spawrious' O2O-easy [default: a set of scenes is drawn].")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Classes of the scenes, with commas between them.")
    ] = None,
    places: Annotated[
        str | None, typer.Option(help="Each class's own place, in their order, then the one they share.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(help="What the network knows before: world, imagenet or nothing [default: by the set]."),
    ] = None,
    trainings: Annotated[int, typer.Option(min=1, help="Trainings, each with a seed of its own.")] = 5,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes of a training over its images [default: 1].")
    ] = None,
    top: Annotated[int, typer.Option(min=2, help="Units that the agent judges.")] = 50,
    limit: Annotated[
        int | None, typer.Option(min=2, help="At most so many images of each cell of a folder.")
    ] = None,
    out: Annotated[Path, out_option("Run directory.")] = Path("runs/robust-features"),
    seed: Annotated[int, seed_option("Seed of the set and of all studies.")] = 0,
    yes: Yes = False,
) -> None:
    """Keep units that follow the object and not its place. This is Table 2 of the paper."""
    if not out.exists():
        ask_endpoints(shared.selection)
    from experiments.paper.robust_features import RobustOptions
    from experiments.paper.robust_features import robust_features as compare
    from experiments.paper.robust_features_page import table

    options = RobustOptions(data, classes, places, start, trainings, epochs, top, seed, limit)
    request = options.request()

    def studies() -> int:
        return trainings * top - count_results(out)

    confirm_cost(shared.selection, yes, studies, task="selective", folder=out)
    result = run(compare(shared.console, shared.selection, request, out=out), out)
    _show(shared, asdict(result), table(result), out)
    if not result.finished:
        raise typer.Exit(130)


Against = Annotated[
    list[str] | None,
    typer.Option(help="NAME=DIR or NAME=FILE.json: another method's labels of the same units."),
]


def _methods(against: list[str] | None) -> dict[str, Path]:
    """Return the files of other methods by name: a name of its own for each."""
    from experiments.paper.evaluation.run_labels import NULL, OURS

    methods: dict[str, Path] = {}
    for text in against or []:
        name, divider, path = text.partition("=")
        if not (name and divider and path):
            raise UsageError(f"--against must be NAME=DIR or NAME=FILE.json, got {text!r}")
        if name in (OURS, NULL):
            raise UsageError(
                f"--against cannot call a method {name!r}: results call one of their own so.",
                "Give it another name.",
            )
        if name in methods:
            raise UsageError(f"--against names {name!r} twice.", "Give each method a name of its own.")
        methods[name] = here(path)
    return methods


@commands.command(epilog=examples("maia evaluate runs/sweep --against people=labels.json"))
@shared_options("data")
def evaluate(
    shared: Shared,
    run_directory: OpenRun,
    against: Against = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many units.")] = None,
    controls: Annotated[int, typer.Option(min=2, help="Images of the data set to compare with.")] = 60,
    cosy: Annotated[int, typer.Option(min=2, help="Images of each label for CoSy's measures.")] = 20,
    seed: Annotated[int, seed_option("Seed of prompts and images.")] = 0,
    model: RunModel = None,
    trust: TrustRun = False,
) -> None:
    """Measure how well a run's labels predict its units. This is Table A3 of the paper, and more."""
    methods = _methods(against)
    ask_endpoints_for(shared.selection, run_directory)
    from experiments.paper.evaluation.evaluate import EvaluationRequest, Sizes
    from experiments.paper.evaluation.evaluate import evaluate as measure
    from experiments.paper.evaluation.page import table

    request = EvaluationRequest(
        run_directory, methods, limit, Sizes(controls, cosy), seed, model, trust_of(trust)
    )
    result = run(measure(shared.console, shared.selection, request))
    _show(shared, asdict(result), table(result), run_directory)
    if any("error" in row for row in result.rows):
        raise typer.Exit(1)


@commands.command(
    epilog=examples('maia ablate synthetic --units "dog; blue; dog OR car" --out runs/ablation')
)
@shared_options()
def ablate(
    shared: Shared,
    model: Annotated[str, typer.Argument(help="Network, or `synthetic` for neurons whose truth is known.")],
    layer: Annotated[str, typer.Argument(help="Layer of the network.")] = "",
    units: Annotated[
        str, typer.Option(help="sample:8, 0-63, 3,17; of synthetic: mono; or; formulas.")
    ] = "sample:8",
    variants: Annotated[
        str, typer.Option(help="Variants to compare with the whole system, with commas between them.")
    ] = "exemplars-only,generated-only,one-shot",
    swap: Annotated[
        str | None, typer.Option(help="A profile whose image generator is tried as well.")
    ] = None,
    out: Annotated[Path, out_option("Run directory.")] = Path("runs/ablation"),
    seed: Annotated[int, seed_option("Seed of everything.")] = 0,
    yes: Yes = False,
) -> None:
    """Compare the whole system with less than the system. On the same units, as in Table A5 of the paper."""
    if not out.exists():
        ask_endpoints(shared.selection)
    from experiments.cli.costs import count_units
    from experiments.paper.ablate import Ablation
    from experiments.paper.ablate import ablate as compare
    from experiments.paper.ablation_page import table
    from experiments.paper.gym.neurons import choose
    from experiments.paper.variants import FULL

    chosen = tuple(name.strip() for name in variants.split(",") if name.strip())
    if model != "synthetic" and not layer:
        raise UsageError("a network needs a layer.", "Write maia ablate MODEL LAYER.")
    asked = Ablation(
        model, layer, "all" if model == "synthetic" and units == "sample:8" else units, chosen, swap, seed
    )

    def studies() -> int:
        if model == "synthetic":
            count = sum(unit.formula is not None for unit in choose(asked.units))
        else:
            count = run(count_units(shared.selection, model, [layer], units))
        systems = len({FULL.name, *chosen}) + (swap is not None)
        return count * systems - count_results(out)

    confirm_cost(shared.selection, yes, studies, model=model, folder=out)
    result = run(compare(shared.console, shared.selection, asked, out=out), out)
    _show(shared, asdict(result), table(result), out)


@commands.command(epilog=examples("maia judge runs/sweep --against people=labels.json --name ada"))
def judge(
    run_directory: OpenRun,
    against: Against = None,
    name: Annotated[str, typer.Option(help="The judge's name, one word.")] = "judge",
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, show_default=False, help="Port on the loopback address [default: a free one]."
        ),
    ] = 0,
    seed: Annotated[int, seed_option("Seed of order and sides.")] = 0,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open a browser.")] = True,
    json: Json = False,
) -> None:
    """Let a person compare labels blindly. A page of this machine shows them without their source."""
    from experiments.paper.judge import JudgeRequest, table
    from experiments.paper.judge import judge as serve

    console = Console()
    request = JudgeRequest(run_directory, _methods(against), name, seed, port, open_browser)
    result = run(serve(console, request))
    if json:
        console.result(result.to_json())
    else:
        console.show(table(result), markup=False)
