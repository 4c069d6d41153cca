"""`maia find`: which units of a layer are selective for a concept that a person names.

One set of images of the concept and one of everyday things measure all units of the layer at once. Units are
ranked on one half of the images and judged on the other, so that the best of a thousand is not best by luck.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np

from actors.errors import MaiaError, UsageError
from actors.generation.base import MadeImage
from actors.vision.units import Readout, parse_unit
from agents.stimuli import control_subjects, lacks_something, prompts_for
from experiments import config as configuration
from experiments.console import Console
from tools.toolbox import seed_for

Q = 0.05
"""Share of false finds that is let pass among the units that are called selective."""


async def find_units(
    console: Console,
    config: Path | None,
    profile_name: str | None,
    concept: str,
    model: str,
    layer: str,
    *,
    n_images: int = 40,
    top: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the `top` units, chosen on one half of the images, in the order of their areas under the ROC curve on the
    other. `notes` says in words how the images differ from what was asked.

    Raises:
        UsageError: If the layer does not exist, or no image of the concept could be made.
    """
    from experiments.workbench import Workbench

    if not concept.strip():
        raise UsageError("there is no concept to look for.", 'Name one, such as "forested backgrounds".')
    loaded = configuration.load(config)
    profile = loaded.profile(profile_name)
    async with Workbench.open(profile, cache=loaded.cache, model=model, tell=console.say) as bench:
        first = await bench.vision.unit(parse_unit(layer, "0", await bench.vision.class_names()))
        sizes = {info.name: info.n_units for info in await bench.vision.layers()}
        readout = Readout.of(first)
        rng = random.Random(seed)
        controls = rng.sample(control_subjects([concept]), k=min(n_images, len(control_subjects([concept]))))
        console.say(f"making {n_images} images of {concept!r} and {len(controls)} of other things")
        of_concept, problems = await _images(bench, prompts_for([concept] * n_images, rng), seed)
        if len(of_concept) < 4:
            told = "; ".join(sorted(problems)[:3])
            raise UsageError(f"too few images of {concept!r} could be made: {told}.", "Reword it.")
        others, more = await _images(bench, prompts_for(controls, rng), seed)
        if len(others) < 4:
            raise UsageError(f"too few images of other things could be made: {'; '.join(sorted(more)[:3])}.")
        notes = sorted(problems)
        for kind, good, asked in (
            ("the concept", of_concept, n_images),
            ("other things", others, len(controls)),
        ):
            if len(good) < asked:
                notes.append(
                    f"{asked - len(good)} of {asked} images of {kind} do not show what was asked, and were left out"
                )
        units = [readout.unit(index) for index in range(sizes[readout.layer])]
        shown = [each.image for each in (*of_concept, *others)]
        table = await bench.vision.activations(units, shown, agent="find")
        name = bench.vision.name
    chosen = rank(table[:, : len(of_concept)], table[:, len(of_concept) :])[:top]
    rows = sorted(chosen, key=lambda row: -row["auroc"])
    return {
        "concept": concept,
        "model": model,
        "layer": readout.layer,
        "n_images": [len(of_concept), len(others)],
        "n_units": len(units),
        "notes": notes,
        "units": [{"unit": f"{name}/{units[row['index']]}", **row} for row in rows],
    }


def rank(positive: np.ndarray, control: np.ndarray) -> list[dict[str, Any]]:
    """Return one row a unit, best first by the even images; `auroc` and means are of the odd ones.

    `positive` (U, P) and `control` (U, C) are activations. `p` is one-sided Mann-Whitney on the odd images,
    `q` its Benjamini-Hochberg adjustment over all units.
    """
    from scipy.stats import false_discovery_control, mannwhitneyu

    ranked = _auroc(positive[:, ::2], control[:, ::2])
    judged_positive, judged_control = positive[:, 1::2], control[:, 1::2]
    auroc = _auroc(judged_positive, judged_control)
    p = mannwhitneyu(judged_positive, judged_control, alternative="greater", axis=1).pvalue
    p = np.where(np.isfinite(p), p, 1.0)
    q = false_discovery_control(p)
    order = np.lexsort((-(judged_positive.mean(1) - judged_control.mean(1)), -ranked))
    return [
        {
            "index": int(unit),
            "auroc": float(auroc[unit]),
            "q": float(q[unit]),
            "mean_concept": float(judged_positive[unit].mean()),
            "mean_control": float(judged_control[unit].mean()),
        }
        for unit in order
    ]


def _auroc(positive: np.ndarray, control: np.ndarray) -> np.ndarray:
    """Return each unit's chance that an image of the concept drives it more than another, ties counting half."""
    from scipy.stats import rankdata

    n, m = positive.shape[1], control.shape[1]
    ranks = rankdata(np.concatenate([positive, control], axis=1), axis=1)
    area: np.ndarray = (ranks[:, :n].sum(1) - n * (n + 1) / 2) / (n * m)
    return area


async def _images(bench: Any, prompts: list[str], seed: int) -> tuple[list[MadeImage], set[str]]:
    """Return the images that show what was asked, and in words what could not be made, or not as asked.

    A picture without its subject would count against every unit that is selective for it, and one that was to show
    another thing may be nothing but a background.
    """
    seeds = [seed_for(seed, "find", prompt, index) for index, prompt in enumerate(prompts)]
    made = await bench.laboratory.studio.generate(prompts, seeds, agent="find")
    problems = {str(each) for each in made if isinstance(each, MaiaError)}
    images = [each for each in made if isinstance(each, MadeImage)]
    problems |= {note for each in images for note in each.provenance.notes}
    return [each for each in images if not lacks_something(each)], problems


def table(found: dict[str, Any]) -> Any:
    """Return the result as a table for a terminal; what may be chance is dim."""
    from rich.table import Table

    from experiments.console import plain

    surely = sum(row["q"] < Q for row in found["units"])
    told = (
        f"{surely} of the {len(found['units'])} are selective (q < {Q}); the others may be chance"
        if surely < len(found["units"])
        else f"all of these are selective (q < {Q})"
    )
    shown = Table(
        title=f"{plain(found['concept'])} in {plain(found['layer'])}, {found['n_units']} units",
        caption=f"measured on images that did not choose the units: {told}",
    )
    for name in ("unit", "AUROC", "q", "mean on the concept", "mean on other things"):
        shown.add_column(name, justify="right")
    for row in found["units"]:
        shown.add_row(
            str(row["index"]),
            f"{row['auroc']:.2f}",
            f"{row['q']:.2g}",
            f"{row['mean_concept']:.2f}",
            f"{row['mean_control']:.2f}",
            style=None if row["q"] < Q else "dim",
        )
    return shown
