"""`maia find`: which units of a layer are selective for a concept that a person names.

Images of the concept, of everyday things and of everyday places measure all units of the layer at once. A
unit counts by the worse of two comparisons: an empty place differs from any thing in that nothing is there,
and a thing from any place in that something is. Units are ranked on one half of the images and judged on the
other, so that the best of a thousand is not best by luck.
"""

from __future__ import annotations

import random
import re
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from actors.errors import BackendError, MaiaError, UsageError
from actors.generation.base import MadeImage
from actors.vision.networks.layer_cache import recall
from actors.vision.readout.units import Readout, parse_unit
from agents.critic.stimuli import control_subjects, lacks_something, prompts_for
from agents.study.faults import raise_nobodys
from experiments.setup import config as configuration
from experiments.setup.console import Console
from tools.toolbox import seed_for

PLACES = (
    "a forest", "a meadow", "a desert", "a beach", "a snowy field", "the sea", "the sky", "the night sky", "a sunset",
    "a city", "a road", "a room", "a brick wall", "a wooden floor", "a stone floor", "mud",
)  # fmt: skip
Q = 0.05
"""Share of false finds that is let pass among the units that are called selective."""
MOST_IMAGES = 500
"""Images of a concept that may be asked for."""


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
    """Return the `top` units, chosen on one half of the images, in the order of their areas under the ROC
    curve on the other. `notes` says in words how the images differ from what was asked.

    Raises:
        UsageError: If the layer does not exist, or no image of the concept could be made.
        BackendError: If no unit of the layer is finite on the images.
    """
    from experiments.setup.workbench import Workbench

    if not concept.strip():
        raise UsageError("there is no concept to look for.", 'Name one, such as "forested backgrounds".')
    loaded = configuration.load(config)
    profile = loaded.profile(profile_name)
    if (network := recall(loaded.cache, model, profile.vision)) is not None:
        network.check(layer, "0")
    async with Workbench.open(profile, cache=loaded.cache, model=model, tell=console.say) as bench:
        first = await bench.vision.unit(parse_unit(layer, "0", await bench.vision.class_names()))
        sizes = {info.name: info.n_units for info in await bench.vision.layers()}
        readout = Readout.of(first)
        rng = random.Random(seed)
        things = control_subjects([concept])
        if note := too_few(sizes[readout.layer], n_images, len(things)):
            console.warn(note)
        controls = {
            "things": rng.sample(things, k=min(n_images, len(things))),
            "places": list(islice(cycle(rng.sample(other := places(concept), k=len(other))), n_images)),
        }
        console.say(
            f"making {n_images} images of {shorten(concept, 60)!r}, "
            + " and ".join(f"{len(subjects)} of other {kind}" for kind, subjects in controls.items())
        )
        of_concept, lost, odd = await _images(bench, prompts_for([concept] * n_images, rng), seed)
        if len(of_concept) < 4:
            raise UsageError(
                f"too few images of {shorten(concept, 60)!r} could be made: {_some(lost)}.", "Reword it."
            )
        notes = sorted(odd)
        shown = {"the concept": of_concept}
        asked, reasons = {"the concept": n_images}, {"the concept": lost}
        for kind, subjects in controls.items():
            good, lost, _ = await _images(bench, prompts_for(subjects, rng), seed)
            if len(good) < 4:
                raise UsageError(f"too few images of other {kind} could be made: {_some(lost)}.")
            shown[f"other {kind}"], asked[f"other {kind}"] = good, len(subjects)
            reasons[f"other {kind}"] = lost
        for kind, good in shown.items():
            if (missing := asked[kind] - len(good)) > 0:
                notes.append(
                    f"{missing} of {asked[kind]} images of {kind} could not be made as asked, and were left "
                    "out: " + _some(reasons[kind])
                )
        units = [readout.unit(index) for index in range(sizes[readout.layer])]
        pictures = [each.image for made in shown.values() for each in made]
        table = await bench.vision.activations(units, pictures, agent="find")
        name = bench.vision.name
    ends = np.cumsum([len(made) for made in shown.values()])[:-1]
    ranked = rank(*np.split(table, ends, axis=1))
    if not ranked:
        raise BackendError(
            f"no unit of {readout.layer!r} is finite on all of the {len(pictures)} images.",
            "Set vision.dtype to float32, and check the network's weights.",
        )
    if n_left := len(units) - len(ranked):
        notes.append(f"{n_left} of {len(units)} units are not finite on all of the images, and were left out")
    rows = sorted(ranked[:top], key=lambda row: -row["auroc"])
    return {
        "concept": concept,
        "model": model,
        "layer": readout.layer,
        "n_images": [len(made) for made in shown.values()],
        "n_units": len(units),
        "notes": notes,
        "units": [{"unit": f"{name}/{units[row['index']]}", **row} for row in rows],
    }


def places(concept: str) -> list[str]:
    """Return everyday places that the concept does not name, in whatever form of the word: forested, woods."""
    named = _words(concept)
    return [
        place
        for place in PLACES
        if not any(a.startswith(b) or b.startswith(a) for a in _words(place) for b in named)
    ]


def _words(text: str) -> set[str]:
    return {word.removesuffix("s") for word in re.findall(r"[a-z]{3,}", text.lower()) if word != "the"}


def rank(positive: np.ndarray, things: np.ndarray, places: np.ndarray) -> list[dict[str, Any]]:
    """Return one row a unit, best first by the even images; `auroc` and means are of the odd ones.

    A unit that is not finite on all images has no row: it can be compared with none. `positive` (U, P),
    `things` (U, C) and `places` (U, D) are activations. `auroc` is the worse of the two comparisons. `q` is
    the Benjamini-Hochberg adjustment over all units of the larger p of two one-sided Mann-Whitney tests: that
    a unit is above both is claimed, so both must hold.
    """
    from scipy.stats import false_discovery_control

    finite = np.flatnonzero(np.all([np.isfinite(each).all(1) for each in (positive, things, places)], axis=0))
    if not len(finite):
        return []
    positive, things, places = (each[finite] for each in (positive, things, places))
    controls = (things, places)
    ranked = np.min([_auroc(positive[:, ::2], control[:, ::2]) for control in controls], axis=0)
    judged, against = positive[:, 1::2], [control[:, 1::2] for control in controls]
    auroc = np.min([_auroc(judged, control) for control in against], axis=0)
    p_values = [_p_values(judged, control) for control in against]
    q = false_discovery_control(np.max([np.where(np.isfinite(p), p, 1.0) for p in p_values], axis=0))
    means = [each.mean(1) for each in (judged, *against)]
    order = np.lexsort((-(means[0] - np.maximum(means[1], means[2])), -ranked))
    return [
        {
            "index": int(finite[unit]),
            "auroc": float(auroc[unit]),
            "q": float(q[unit]),
            "mean_concept": float(means[0][unit]),
            "mean_things": float(means[1][unit]),
            "mean_places": float(means[2][unit]),
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


def too_few(n_units: int, n_images: int, n_things: int) -> str:
    """Return a sentence if so few images leave even a unit that tells them all apart above `Q`, "" if they do
    not.

    One that is alone in that: of several, each is surer. Of other things there are `n_things` at most,
    however many images are asked for.
    """
    if (best := _least_q(n_units, n_images, n_things)) < Q:
        return ""
    enough = next((n for n in range(n_images, MOST_IMAGES + 1) if _least_q(n_units, n, n_things) < Q), None)
    return (
        f"with {n_images} images a unit of {n_units:,} that alone answers to the concept cannot be told from "
        f"chance: its q would be {best:.2g} at best, and less than {Q} is needed. "
        + (
            f"Ask for --images {enough} or more."
            if enough
            else "No number of images that may be asked for would do."
        )
    )


def _least_q(n_units: int, n_images: int, n_things: int) -> float:
    """Return the q of the only unit that is above all controls with every image of the concept that judges
    it.
    """
    controls = np.arange(min(n_images, n_things) // 2)
    return min(1.0, float(_p_values(np.arange(n_images // 2) + len(controls), controls)) * n_units)


def _p_values(judged: np.ndarray, controls: np.ndarray) -> np.ndarray:
    """Return the one-sided p of each row: (U, P) and (U, C) give (U,).

    Always by the normal approximation: the exact one is for rows without ties, and one unit's ties must not
    change what is said of another.
    """
    from scipy.stats import mannwhitneyu

    found: np.ndarray = mannwhitneyu(
        judged, controls, alternative="greater", axis=-1, method="asymptotic"
    ).pvalue
    return found


async def _images(bench: Any, prompts: list[str], seed: int) -> tuple[list[MadeImage], set[str], set[str]]:
    """Return the images that show what was asked, why others are lost, and what is odd about those that are
    not.

    A picture without its subject would count against every unit that is selective for it, and one that was to
    show another thing may be nothing but a background.
    """
    seeds = [seed_for(seed, "find", prompt, index) for index, prompt in enumerate(prompts)]
    made = await bench.laboratory.studio.generate(prompts, seeds, agent="find")
    raise_nobodys(made)
    lost = {str(each) for each in made if isinstance(each, MaiaError)}
    images = [each for each in made if isinstance(each, MadeImage)]
    lost |= {note for each in images if lacks_something(each) for note in each.provenance.notes}
    good = [each for each in images if not lacks_something(each)]
    return good, lost, {note for each in good for note in each.provenance.notes}


def _some(reasons: set[str]) -> str:
    """Return as many reasons as fit a line."""
    return "; ".join(reason.rstrip(".") for reason in sorted(reasons)[:3])


def shorten(text: str, limit: int) -> str:
    """Return a text of at most `limit` characters that shows where it was cut."""
    return text if len(text) <= limit else f"{text[: limit - 4]} ..."


def _told(activation: float) -> str:
    """Return an activation as it fits a column: of some networks they have thirty digits."""
    return f"{activation:.2f}" if abs(activation) < 1e6 else f"{activation:.2e}"


def table(found: dict[str, Any]) -> Any:
    """Return the result as a table for a terminal; what may be chance is dim."""
    from rich.table import Table

    from experiments.setup.console import counted, plain

    surely = sum(row["q"] < Q for row in found["units"])
    if surely == len(found["units"]):
        told = f"all of these are selective (q < {Q})"
    elif surely:
        told = f"{surely} of the {len(found['units'])} are selective (q < {Q}); the others may be chance"
    else:
        told = f"none of these is surely selective (q < {Q}): all may be chance, or need more --images"
    shown = Table(
        title=f"{plain(shorten(found['concept'], 60))} in {plain(found['layer'])}, "
        f"{counted(found['n_units'], 'unit')}",
        title_justify="left",
        caption=f"measured on images that did not choose the units: {told}",
        caption_justify="left",
        box=None,
    )
    for name in ("unit", "AUROC", "q", "mean on the concept", "on other things", "on other places"):
        shown.add_column(name, justify="right")
    for row in found["units"]:
        shown.add_row(
            str(row["index"]),
            f"{row['auroc']:.2f}",
            f"{row['q']:.2g}",
            _told(row["mean_concept"]),
            _told(row["mean_things"]),
            _told(row["mean_places"]),
            style=None if row["q"] < Q else "dim",
        )
    return shown
