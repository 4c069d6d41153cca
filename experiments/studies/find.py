"""`maia find`: which units of a layer are selective for a concept that a person names.

Images of the concept, of everyday things and of everyday places measure all units of the layer at once. A
unit counts by the worse of two comparisons: an empty place differs from any thing in that nothing is there,
and a thing from any place in that something is. Units are ranked on one half of the images and judged on the
other, so that the best of a thousand is not best by luck.
"""

from __future__ import annotations

import random
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.errors import BackendError, MaiaError, UsageError
from actors.generation.base import MadeImage
from actors.vision.networks.zoo import check_name
from actors.vision.readout.base import Unit
from actors.vision.readout.units import Readout, parse_unit
from agents.critic.stimuli import control_subjects, lacks_something, prompts_for
from agents.study.faults import raise_infrastructure_errors
from experiments.records.lookup import is_run
from experiments.setup.console import Console
from experiments.setup.selection import Selection
from tools.toolbox import seed_for

if TYPE_CHECKING:
    from experiments.setup.workbench import Workbench

PLACES = (
    "a forest", "a meadow", "a desert", "a beach", "a snowy field", "the sea", "the sky", "the night sky",
    "a sunset", "a city", "a road", "a room", "a brick wall", "a wooden floor", "a stone floor", "mud",
)  # fmt: skip
FALSE_DISCOVERY_RATE = 0.05
"""Expected share of false discoveries among the units that are called selective."""
MAX_IMAGES = 500
"""Images of a concept that may be asked for."""
_MIN_IMAGES = 4
"""Images of a group that a comparison needs."""
_CONCEPT = "the concept"


@dataclass(frozen=True, slots=True)
class ConceptQuery:
    """A concept that units of a layer may be selective for."""

    concept: str
    model: str
    layer: str
    n_images: int = 40
    """Images of the concept that are asked for."""
    top: int = 10
    """Units to return."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class UnitScore:
    """How selective a unit is for the concept."""

    unit: str
    index: int
    auroc: float
    """The smaller of the areas under the ROC curve against things and against places."""
    q: float
    """The adjusted p-value of the claim that the unit prefers the concept to both."""
    mean_concept: float
    mean_things: float
    mean_places: float


@dataclass(frozen=True, slots=True)
class SelectiveUnits:
    """The units of a layer that prefer a concept most."""

    concept: str
    model: str
    layer: str
    n_images: list[int]
    """Images of the concept, of things, of places."""
    n_units: int
    notes: list[str]
    """How the images and units differ from what was asked, in sentences."""
    units: list[UnitScore]


@dataclass(frozen=True, slots=True)
class ImageGroup:
    """The images of one kind of subject, and what became of those that are missing."""

    kind: str
    asked: int
    images: list[MadeImage]
    lost: set[str]
    """Why images are missing."""
    notes: set[str]
    """What is unusual about images that are there."""

    def shortfall(self) -> list[str]:
        """Return a sentence on missing images, if there are any."""
        missing = self.asked - len(self.images)
        if missing <= 0:
            return []
        return [
            f"{missing} of {self.asked} images of {self.kind} could not be made as asked, and were left out: "
            + _some(self.lost)
        ]


async def find_units(console: Console, selection: Selection, query: ConceptQuery) -> SelectiveUnits:
    """Return the `top` units, chosen on one half of the images, in the order of their areas under the ROC
    curve on the other.

    Raises:
        UsageError: If the layer does not exist, or no image of the concept could be made.
        BackendError: If no unit of the layer is finite on the images.
    """
    from experiments.setup.workbench import Workbench

    if not query.concept.strip():
        raise UsageError("there is no concept to find.", 'Name one, such as "forested backgrounds".')
    selected = selection.load()
    if (network := selected.known_network(query.model)) is not None:
        network.check(query.layer, "0")
    async with Workbench.open(
        selected.profile, cache=selected.cache, model=query.model, notify=console.say
    ) as bench:
        first = await bench.vision.unit(parse_unit(query.layer, "0", await bench.vision.class_names()))
        readout = Readout.of(first)
        n_units = bench.vision.known.info(readout.layer).n_units
        units = [readout.unit(index) for index in range(n_units)]
        return await _measure(console, bench, query, units)


def check_order(model: str, layer: str, concept: str) -> None:
    """Refuse arguments that name no network and layer, or name them in another order.

    Raises:
        UsageError: With the order in which `maia find` takes them.
    """
    try:
        check_name(model)
    except UsageError as error:
        first = layer or concept
        if not first:
            raise error
        if not is_run(Path(first)):
            try:
                check_name(first)
            except UsageError:
                raise error from None
        rest = f"{concept} " if layer else ""
        raise UsageError(
            f"{model!r} is neither a run nor a network; {first!r} is, and the concept comes last.",
            f"Write: maia find {first} {rest}{shlex.quote(model)}",
        ) from None
    if not layer:
        raise UsageError(
            f"{model} is a network: name its layer, too.",
            f"Write: maia find {model} LAYER {shlex.quote(concept)}; or name the --out folder of a run.",
        )


async def confirm_units(
    console: Console, selection: Selection, query: ConceptQuery, units: Sequence[Unit]
) -> SelectiveUnits:
    """Return how selective these units of any layers are for the concept, as `find_units` measures it.

    Raises:
        UsageError: If one of them does not exist, or no image of the concept could be made.
        BackendError: If none of them is finite on the images.
    """
    from experiments.setup.workbench import Workbench

    selected = selection.load()
    async with Workbench.open(
        selected.profile, cache=selected.cache, model=query.model, notify=console.say
    ) as bench:
        known = [await bench.vision.unit(unit) for unit in units]
        return await _measure(console, bench, query, known)


async def _measure(
    console: Console, bench: Workbench, query: ConceptQuery, units: Sequence[Unit]
) -> SelectiveUnits:
    """Return the units that prefer the concept most, by images that are made of it and of other subjects."""
    vision = bench.vision
    groups = await _make_groups(console, bench, query, len(units))
    images = [made.image for group in groups for made in group.images]
    activations = await vision.activations(units, images, agent="find")
    layers = ", ".join(dict.fromkeys(unit.layer for unit in units))
    ends = np.cumsum([len(group.images) for group in groups])[:-1]
    ranked = rank([f"{vision.name}/{unit}" for unit in units], *np.split(activations, ends, axis=1))
    if not ranked:
        raise BackendError(
            f"no unit of {layers!r} is finite on all of the {len(images)} images.",
            "Set vision.dtype to float32, and check the network's weights.",
        )
    notes = [*sorted(groups[0].notes), *(note for group in groups for note in group.shortfall())]
    if n_left := len(units) - len(ranked):
        notes.append(f"{n_left} of {len(units)} units are not finite on all of the images, and were left out")
    best = sorted(ranked[: query.top], key=lambda score: -score.auroc)
    return SelectiveUnits(
        concept=query.concept,
        model=query.model,
        layer=layers,
        n_images=[len(group.images) for group in groups],
        n_units=len(units),
        notes=notes,
        units=[replace(score, index=units[score.index].index) for score in best],
    )


async def _make_groups(
    console: Console, bench: Workbench, query: ConceptQuery, n_units: int
) -> list[ImageGroup]:
    """Return images of the concept, of other things and of other places.

    Raises:
        UsageError: If too few images of one of them could be made.
    """
    rng, n_images = random.Random(query.seed), query.n_images
    things, others = control_subjects([query.concept]), places(query.concept)
    if warning := too_few(n_units, n_images, len(things)):
        console.warn(warning)
    controls = {
        "other things": rng.sample(things, k=min(n_images, len(things))),
        "other places": list(islice(cycle(rng.sample(others, k=len(others))), n_images)),
    }
    shown = repr(shorten(query.concept, 60))
    console.say(
        f"making {n_images} images of {shown}, "
        + " and ".join(f"{len(subjects)} of {kind}" for kind, subjects in controls.items())
    )
    groups = []
    for kind, subjects in {_CONCEPT: [query.concept] * n_images, **controls}.items():
        group = await _make_group(bench, kind, prompts_for(subjects, rng), query.seed)
        if len(group.images) < _MIN_IMAGES:
            name, fix = (shown, "Reword it.") if kind == _CONCEPT else (kind, "")
            raise UsageError(f"too few images of {name} could be made: {_some(group.lost)}.", fix)
        groups.append(group)
    return groups


def places(concept: str) -> list[str]:
    """Return everyday places that the concept does not name, in any form of the word: forested, woods."""
    named = _words(concept)
    return [
        place
        for place in PLACES
        if not any(a.startswith(b) or b.startswith(a) for a in _words(place) for b in named)
    ]


def _words(text: str) -> set[str]:
    return {word.removesuffix("s") for word in re.findall(r"[a-z]{3,}", text.lower()) if word != "the"}


def rank(
    names: Sequence[str], positive: np.ndarray, things: np.ndarray, places: np.ndarray
) -> list[UnitScore]:
    """Return the scores of units, best first by the even images; `auroc` and means are of the odd ones.

    A unit that is not finite on all images has none: it can be compared with none. `positive` (U, P),
    `things` (U, C) and `places` (U, D) are activations. `q` is the Benjamini-Hochberg adjustment over all
    units of the larger p of two one-sided Mann-Whitney tests: that a unit is above both is claimed, so both
    must hold.
    """
    from scipy.stats import false_discovery_control

    groups = (positive, things, places)
    finite = np.flatnonzero(np.all([np.isfinite(group).all(1) for group in groups], axis=0))
    if not len(finite):
        return []
    positive, things, places = (group[finite] for group in groups)
    controls = (things, places)
    ranked = np.min([_auroc(positive[:, ::2], control[:, ::2]) for control in controls], axis=0)
    judged, against = positive[:, 1::2], [control[:, 1::2] for control in controls]
    auroc = np.min([_auroc(judged, control) for control in against], axis=0)
    p_values = [_p_values(judged, control) for control in against]
    q = false_discovery_control(np.max([np.where(np.isfinite(p), p, 1.0) for p in p_values], axis=0))
    means = [group.mean(1) for group in (judged, *against)]
    order = np.lexsort((-(means[0] - np.maximum(means[1], means[2])), -ranked))
    return [
        UnitScore(
            names[finite[row]],
            int(finite[row]),
            float(auroc[row]),
            float(q[row]),
            *(float(mean[row]) for mean in means),
        )
        for row in order
    ]


def _auroc(positive: np.ndarray, control: np.ndarray) -> np.ndarray:
    """Return each unit's chance that an image of the concept drives it more than another; ties count half."""
    from scipy.stats import rankdata

    n, m = positive.shape[1], control.shape[1]
    ranks = rankdata(np.concatenate([positive, control], axis=1), axis=1)
    area: np.ndarray = (ranks[:, :n].sum(1) - n * (n + 1) / 2) / (n * m)
    return area


def too_few(n_units: int, n_images: int, n_things: int) -> str:
    """Return a warning if with so few images no unit could be called selective, else "".

    The best case is a unit that alone separates all images: among several, each has a smaller q. There are at
    most `n_things` images of other things, however many images are asked for.
    """
    rate = FALSE_DISCOVERY_RATE
    if (best := _least_q(n_units, n_images, n_things)) < rate:
        return ""
    larger = range(n_images, MAX_IMAGES + 1)
    enough = next((n for n in larger if _least_q(n_units, n, n_things) < rate), None)
    advice = (
        f"Ask for --images {enough} or more."
        if enough
        else "No number of images that may be asked for would do."
    )
    return (
        f"with {n_images} images a unit of {n_units:,} that alone answers to the concept cannot be told from "
        f"chance: its q would be {best:.2g} at best, and less than {rate} is needed. {advice}"
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

    test = mannwhitneyu(judged, controls, alternative="greater", axis=-1, method="asymptotic")
    p_values: np.ndarray = test.pvalue
    return p_values


async def _make_group(bench: Workbench, kind: str, prompts: list[str], seed: int) -> ImageGroup:
    """Return the images that show what was asked.

    A picture without its subject would count against every unit that is selective for it, and one that was to
    show another thing may be nothing but a background.
    """
    seeds = [seed_for(seed, "find", prompt, index) for index, prompt in enumerate(prompts)]
    results = await bench.context.studio.generate(prompts, seeds, agent="find")
    raise_infrastructure_errors(results)
    made = [result for result in results if isinstance(result, MadeImage)]
    lacking = [image for image in made if lacks_something(image)]
    images = [image for image in made if not lacks_something(image)]
    lost = {str(result) for result in results if isinstance(result, MaiaError)} | _notes(lacking)
    return ImageGroup(kind, len(prompts), images, lost, _notes(images))


def _notes(images: Sequence[MadeImage]) -> set[str]:
    return {note for image in images for note in image.provenance.notes}


def _some(reasons: set[str]) -> str:
    """Return as many reasons as fit a line."""
    return "; ".join(reason.rstrip(".") for reason in sorted(reasons)[:3])


def shorten(text: str, limit: int) -> str:
    """Return a text of at most `limit` characters that shows where it was cut."""
    return text if len(text) <= limit else f"{text[: limit - 4]} ..."


def _format_activation(activation: float) -> str:
    """Return an activation as it fits a column: of some networks they have thirty digits."""
    return f"{activation:.2f}" if abs(activation) < 1e6 else f"{activation:.2e}"


def table(result: SelectiveUnits) -> Any:
    """Return the result as a table for a terminal; what may be chance is dim."""
    from rich.table import Table

    from experiments.records.names import UnitName
    from experiments.setup.console import counted

    concept = shorten(result.concept, 60)
    shown = Table(
        title=f"{concept} in {result.layer}, {counted(result.n_units, 'unit')}",
        title_justify="left",
        caption=f"measured on images that did not choose the units: {_significance(result.units)}",
        caption_justify="left",
        box=None,
    )
    for name in ("unit", "AUROC", "q", "mean on the concept", "on other things", "on other places"):
        shown.add_column(name, justify="right")
    several = "," in result.layer
    for score in result.units:
        means = (score.mean_concept, score.mean_things, score.mean_places)
        shown.add_row(
            UnitName.parse(score.unit).short if several else str(score.index),
            f"{score.auroc:.2f}",
            f"{score.q:.2g}",
            *map(_format_activation, means),
            style=None if score.q < FALSE_DISCOVERY_RATE else "dim",
        )
    return shown


def _significance(scores: Sequence[UnitScore]) -> str:
    """Return how many of the units are selective beyond chance, in words."""
    rate, n = FALSE_DISCOVERY_RATE, len(scores)
    n_selective = sum(score.q < rate for score in scores)
    if n_selective == n:
        return f"all of these are selective (q < {rate})"
    if n_selective:
        return f"{n_selective} of the {n} are selective (q < {rate}); the others may be chance"
    return f"none of these is surely selective (q < {rate}): all may be chance, or need more --images"
