"""What units do to a network."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.folders import out_option
from experiments.cli.options import (
    LARGEST_SEED,
    ClassNames,
    ConfigPath,
    Data,
    FewImages,
    Json,
    Model,
    ProfileName,
    Verbose,
    default_run,
    examples,
    run,
)
from experiments.setup.console import Console, configure_logging
from experiments.setup.selection import Selection

commands = typer.Typer()


@commands.command(
    epilog=examples(
        "maia edit resnet50 --ablate layer4:3,17 --data ~/photographs",
        "maia edit python:net.py:build --ablate features:5 --to mean --data waterbirds --label-names "
        "0=landbird,1=waterbird --attributes place",
    )
)
def edit(
    model: Model,
    ablate: Annotated[
        list[str],
        typer.Option(help="LAYER:UNITS to give another value, UNITS as 3,17 or 0-63; may be repeated."),
    ],
    to: Annotated[
        str, typer.Option(help="That value: zero, mean (of the unit's map over the data set), or a number.")
    ] = "zero",
    data: Data = None,
    label_column: Annotated[
        str | None, typer.Option(help="Column with the class of each image [default: label, y, class ...].")
    ] = None,
    image_column: Annotated[
        str | None, typer.Option(help="Column that names the image files, or holds images.")
    ] = None,
    attributes: Annotated[
        str | None, typer.Option(help="Columns to form groups by, with commas [default: of 2 to 20 values].")
    ] = None,
    label_names: Annotated[
        str | None,
        typer.Option(help="The network's class of each label: 0=landbird,1=waterbird, or a file of names."),
    ] = None,
    per_class: Annotated[
        int, typer.Option(min=1, max=20_000, help="Labeled images of each class that are measured at most.")
    ] = 200,
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the images that are drawn.")
    ] = 0,
    class_names: ClassNames = None,
    few_images: FewImages = False,
    out: Annotated[Path | None, out_option("Folder for edit.json [default: runs/edit-...].")] = None,
    profile: ProfileName = None,
    json: Json = False,
    config: ConfigPath = None,
    verbose: Verbose = 0,
) -> None:
    """Measure a classifier's accuracy with some units ablated. By class, and by group where images have
    attributes.
    """
    from actors.vision.data.class_match import read_pairs
    from actors.vision.data.labels import ColumnSettings
    from experiments.effects.edited_network import EditedNetworkRequest, edit_network, summary

    configure_logging(verbose)
    console = Console(quiet=json)
    named = tuple(each.strip() for each in (attributes or "").split(",") if each.strip())
    columns = ColumnSettings(image=image_column or "", label=label_column or "", attributes=named)
    folder = out or default_run(f"edit {model} {' '.join(ablate)} {to}")
    selection = Selection(config, profile, data, class_names, few_images, columns)
    pairs = read_pairs(label_names) if label_names else {}
    request = EditedNetworkRequest(model, ablate, to, selection, pairs, per_class, seed, folder)
    result = run(edit_network(console, request), folder)
    if json:
        console.result(asdict(result))
    else:
        console.show(summary(result))
        console.show(f"result: {folder / 'edit.json'}")


@commands.command(
    epilog=examples("maia roles tf_efficientnet_lite0 blocks.6 --data ~/photographs --out runs/roles")
)
def roles(
    model: Model,
    layer: Annotated[str, typer.Argument(help="Layer, as `maia layers MODEL` lists them.")],
    units: Annotated[str, typer.Option(help="all, 0-63, 3,17 or sample:100.")] = "all",
    k: Annotated[int, typer.Option(min=3, max=100, help="Exemplars of each unit.")] = 15,
    data: Data = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of `sample:N`.")] = 0,
    class_names: ClassNames = None,
    few_images: FewImages = False,
    out: Annotated[Path | None, out_option("Folder for roles.jsonl [default: runs/roles-...].")] = None,
    profile: ProfileName = None,
    json: Json = False,
    config: ConfigPath = None,
    verbose: Verbose = 0,
) -> None:
    """Find which outputs each unit raises and lowers. Each is ablated on the images that drive it most."""
    from experiments.effects.roles import RoleRequest, figures, find_roles, table

    configure_logging(verbose)
    console = Console(quiet=json)
    folder = out or default_run(f"roles {model} {layer} {units}")
    selection = Selection(config, profile, data, class_names, few_images)
    request = RoleRequest(model, layer, units, selection, k, seed, folder)
    result, rows = run(find_roles(console, request), folder)
    if json:
        console.result(asdict(result))
    else:
        console.show(table(result, rows))
        console.show(*(f"{name}: {line}" for name, line in figures(result).items()))
        console.show(f"results: {', '.join(result.files)}")
