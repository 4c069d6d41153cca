"""Labels for all units, by embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from experiments.cli.folders import out_option
from experiments.cli.options import Model, Shared, default_run, examples, seed_option, shared_options
from experiments.cli.running import run

commands = typer.Typer()


@commands.command(
    epilog=examples(
        "maia label tf_efficientnet_lite0 --layers blocks.5,blocks.6",
        "maia label resnet50 --layers Conv2d --data ~/photographs --vocabulary words.txt",
    )
)
@shared_options("data", "few_images", quiet_json=True)
def label(
    shared: Shared,
    model: Model,
    layers: Annotated[
        str, typer.Option(help="Layers with commas, all, or a kind of module such as Conv2d.")
    ] = "all",
    vocabulary: Annotated[
        str, typer.Option(help="everyday, imagenet, wordnet, or a file with one word or phrase a line.")
    ] = "everyday",
    reduce: Annotated[
        Literal["max", "mean"], typer.Option(help="Of a unit's map, the spatial maximum or the mean.")
    ] = "max",
    length: Annotated[int, typer.Option(min=1, max=3, help="Words of a label at most.")] = 3,
    share: Annotated[
        float,
        typer.Option(
            min=0.001, max=0.5, help="Share of images that show a word, where cosines are not calibrated."
        ),
    ] = 0.05,
    seed: Annotated[int, seed_option("Seed of the halves of the images, and of random units.")] = 0,
    out: Annotated[Path | None, out_option("Folder for labels.jsonl [default: runs/label-...].")] = None,
) -> None:
    """Label all units of layers by embeddings, without agents. One pass over the images."""
    from actors.runtime import pick_device
    from experiments.labels.layer import LabelSettings
    from experiments.labels.run import LabelRequest, figures, label_units, table

    folder = out or default_run(f"label {model} {layers}")
    # Sums are in float64, which Apple's GPUs have not.
    device = str(found) if (found := pick_device()).type == "cuda" else "cpu"
    settings = LabelSettings(length, share, seed=seed, device=device)
    request = LabelRequest(model, layers, vocabulary, shared.selection, reduce, settings, folder)
    result, found = run(label_units(shared.console, request), folder)
    lines = [f"{name}: {line}" for name, line in figures(result, found).items()]
    shared.show(result, table(found), *lines, f"results: {', '.join(result.files)}")
