"""What units do to a network."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from experiments.cli.folders import out_option
from experiments.cli.options import (
    Attributes,
    ImageColumn,
    LabelColumn,
    LabelNames,
    Layer,
    LayerUnit,
    Model,
    Shared,
    default_run,
    examples,
    seed_option,
    shared_options,
    with_columns,
)
from experiments.cli.running import run

if TYPE_CHECKING:
    from experiments.effects.pictures import AttributedUnit, VisualizedUnit
    from experiments.records.lookup import RecordedUnit

commands = typer.Typer()

StudiedIn = Annotated[
    Path | None,
    typer.Option(
        "--run",
        help="Run that studied the unit, as DIR or DIR/UNIT: its page shows the pictures.",
        metavar="DIR",
    ),
]


@commands.command(
    epilog=examples(
        "maia edit resnet50 --ablate layer4:3,17 --data ~/photographs",
        "maia edit resnet50 --ablate layer4:0-63 --to resample --data ~/photographs",
        "maia edit python:net.py:build --ablate features:5 --to mean --data waterbirds --label-names "
        "0=landbird,1=waterbird --attributes place",
    )
)
@shared_options("data", "class_names", "few_images", quiet_json=True)
def edit(
    shared: Shared,
    model: Model,
    ablate: Annotated[
        list[str],
        typer.Option(help="LAYER:UNITS to give another value, UNITS as 3,17 or 0-63; may be repeated."),
    ],
    to: Annotated[
        str,
        typer.Option(
            help="That value: zero, mean (of the unit's map over the data set), resample (of another image "
            "at the same positions), a number, scale:FACTOR, add:NUMBER or clamp:LOW,HIGH."
        ),
    ] = "zero",
    label_column: LabelColumn = None,
    image_column: ImageColumn = None,
    attributes: Attributes = None,
    label_names: LabelNames = None,
    per_class: Annotated[
        int, typer.Option(min=1, max=20_000, help="Labeled images of each class that are measured at most.")
    ] = 200,
    seed: Annotated[int, seed_option("Seed of the images that are drawn.")] = 0,
    out: Annotated[Path | None, out_option("Folder for edit.json [default: runs/edit-...].")] = None,
) -> None:
    """Measure a classifier's accuracy with some units ablated. By class, and by group where images have
    attributes.
    """
    from actors.vision.data.class_match import read_pairs
    from experiments.effects.edited_network import EditedNetworkRequest, edit_network, summary

    folder = out or default_run(f"edit {model} {' '.join(ablate)} {to}")
    selection = with_columns(shared.selection, image_column, label_column, attributes)
    pairs = read_pairs(label_names) if label_names else {}
    request = EditedNetworkRequest(model, ablate, to, selection, pairs, per_class, seed, folder)
    result = run(edit_network(shared.console, request), folder)
    shared.show(result, summary(result), f"result: {folder / 'edit.json'}")


@commands.command(
    epilog=examples("maia roles tf_efficientnet_lite0 blocks.6 --data ~/photographs --out runs/roles")
)
@shared_options("data", "class_names", "few_images", quiet_json=True)
def roles(
    shared: Shared,
    model: Model,
    layer: Layer,
    units: Annotated[str, typer.Option(help="all, 0-63, 3,17 or sample:100.")] = "all",
    k: Annotated[int, typer.Option(min=3, max=100, help="Exemplars of each unit.")] = 15,
    controls: Annotated[
        int,
        typer.Option(
            min=0, max=999, help="Random changes of the same size that each unit's effect is compared with."
        ),
    ] = 20,
    seed: Annotated[int, seed_option("Seed of `sample:N`.")] = 0,
    out: Annotated[Path | None, out_option("Folder for roles.jsonl [default: runs/roles-...].")] = None,
) -> None:
    """Find which outputs each unit raises and lowers. Each is ablated on the images that drive it most."""
    from experiments.effects.roles import RoleRequest, figures, find_roles, table

    folder = out or default_run(f"roles {model} {layer} {units}")
    request = RoleRequest(model, layer, units, shared.selection, k, controls, seed, folder)
    result, rows = run(find_roles(shared.console, request), folder)
    lines = [f"{name}: {line}" for name, line in figures(result).items()]
    shared.show(result, table(result, rows), *lines, f"results: {', '.join(result.files)}")


def _studied(run_directory: Path | None, model: str, layer: str, unit: str) -> RecordedUnit | None:
    from experiments.effects.kept_pictures import studied_unit

    return None if run_directory is None else studied_unit(run_directory, model, layer, unit)


def _keep(
    shared: Shared, studied: RecordedUnit | None, folder: Path, made: VisualizedUnit | AttributedUnit
) -> None:
    """Keep pictures in the run that studied their unit, and say which page shows them."""
    from experiments.effects.kept_pictures import keep

    if studied is not None:
        shared.console.say(f"the pictures are on {keep(studied, folder, made).page}")


@commands.command(
    epilog=examples(
        "maia visualize tf_efficientnet_lite0 blocks.6 91",
        "maia visualize resnet50 layer4 3 --objective max --images 4 --steps 512 --data ~/photographs",
    )
)
@shared_options("data", "class_names", "few_images", quiet_json=True)
def visualize(
    shared: Shared,
    model: Model,
    layer: Layer,
    unit: LayerUnit,
    images: Annotated[int, typer.Option(min=1, max=64, help="Images, each from noise of its own.")] = 2,
    steps: Annotated[int, typer.Option(min=1, max=100_000, help="Steps of the optimizer.")] = 256,
    objective: Annotated[
        Literal["mean", "max"],
        typer.Option(help="The unit's mean over positions, which fills the image, or its maximum."),
    ] = "mean",
    seed: Annotated[int, seed_option("Seed of the first image; the next has the next.")] = 0,
    studied_in: StudiedIn = None,
    out: Annotated[Path | None, out_option("Folder for the images [default: runs/visualize-...].")] = None,
) -> None:
    """Make images that drive a unit most. Beside them, what its exemplars reach."""
    from actors.vision.gradients.visualization import VisualizationSettings
    from experiments.effects.pictures import PictureRequest
    from experiments.effects.pictures import visualize as make

    studied = _studied(studied_in, model, layer, unit)
    folder = out or default_run(f"visualize {model} {layer} {unit} {objective} {steps}")
    request = PictureRequest(model, layer, unit, shared.selection, folder)
    settings = VisualizationSettings(steps=steps, objective=objective, seed=seed)
    result = run(make(shared.console, request, settings, images), folder)
    _keep(shared, studied, folder, result)
    best, last = max(result.exemplars), min(result.exemplars)
    shared.show(
        result,
        *(
            f"seed {image.seed}: activation {image.activation:.2f}, {folder / image.file}"
            for image in result.images
        ),
        f"the {len(result.exemplars)} strongest images of {result.dataset}: {best:.2f} to {last:.2f}, "
        f"mean of all {result.mean:.2f}",
        "optimized images are unlike those that the network was trained on: they are hints, not evidence",
    )


@commands.command(
    epilog=examples(
        "maia attribute tf_efficientnet_lite0 blocks.6 91",
        "maia attribute resnet50 layer4 3 --image dog.jpg --output 'golden retriever'",
        "maia attribute vit_small_patch16_224 blocks.9.attn@head3 7 --method attention",
    )
)
@shared_options("data", "class_names", "few_images", quiet_json=True)
def attribute(
    shared: Shared,
    model: Model,
    layer: Layer,
    unit: LayerUnit,
    image: Annotated[
        list[Path] | None, typer.Option(help="Image file; may be repeated [default: the unit's exemplars].")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(help="Class whose logit the unit acts on [default: the unit's own value]."),
    ] = None,
    method: Annotated[
        Literal["integrated-gradients", "gradient-x-input", "smoothgrad-x-input", "attention"],
        typer.Option(help="How the unit's value is attributed to pixels, or where its attention head looks."),
    ] = "integrated-gradients",
    k: Annotated[int, typer.Option(min=1, max=100, help="Exemplars.")] = 5,
    studied_in: StudiedIn = None,
    out: Annotated[Path | None, out_option("Folder for the maps [default: runs/attribute-...].")] = None,
) -> None:
    """Show where in images a unit is driven or acts. Maps of its value, or of its part in a class."""
    from experiments.effects.pictures import PictureRequest
    from experiments.effects.pictures import attribute as make

    studied = _studied(studied_in, model, layer, unit)
    words = [model, layer, unit, output or method, *map(str, image or [])]
    folder = out or default_run(" ".join(["attribute", *words]))
    request = PictureRequest(model, layer, unit, shared.selection, folder, k)
    result = run(make(shared.console, request, image or [], method, output), folder)
    _keep(shared, studied, folder, result)
    if shared.json:
        shared.console.result(asdict(result))
        return
    what = "the unit's value" if result.output is None else result.output
    for row in result.images:
        shared.console.show(f"{row.source}: {what} {row.value:.2f}, {folder / row.file}", markup=False)
    red = "red is where its head looks" if method == "attention" else "red raises it, blue lowers it"
    shared.console.show(f"{red}; the maps themselves are beside the pictures (.npy)")


@commands.command(
    epilog=examples(
        "maia wiring tf_efficientnet_lite0 blocks.4 17 --from blocks.3 --to blocks.5 --data ~/photographs",
        "maia wiring resnet50 output tench --from layer4 --all --out runs/tench",
    )
)
@shared_options("data", "class_names", "few_images", quiet_json=True)
def wiring(
    shared: Shared,
    model: Model,
    layer: Layer,
    unit: LayerUnit,
    before: Annotated[
        str | None,
        typer.Option(
            "--from", help="Earlier layer that may drive the unit: LAYER, or LAYER:latent:PATH for latents."
        ),
    ] = None,
    after: Annotated[
        str | None, typer.Option("--to", help="Later layer that the unit may drive, named in the same way.")
    ] = None,
    value: Annotated[
        str,
        typer.Option(
            help="What an ablated unit is set to: zero, mean (of its map over images), or a number."
        ),
    ] = "zero",
    k: Annotated[int, typer.Option(min=3, max=100, help="Exemplars of the unit.")] = 15,
    exact: Annotated[
        bool, typer.Option("--all", help="Ablate every unit of --from on every exemplar, unscreened.")
    ] = False,
    out: Annotated[Path | None, out_option("Folder for wiring.json [default: runs/wiring-...].")] = None,
) -> None:
    """Find the units before and behind a unit that matter. Which of an earlier layer drive it, and which of a
    later one it drives. Each is ablated on the images that drive the unit most.
    """
    from experiments.effects.wiring import WiringRequest, find_wiring, lines, tables

    folder = out or default_run(f"wiring {model} {layer} {unit}")
    request = WiringRequest(model, layer, unit, before, after, shared.selection, value, k, exact, folder)
    result = run(find_wiring(shared.console, request), folder)
    shared.show(result, *tables(result), *lines(result), f"result: {folder / 'wiring.json'}")
