"""The fixed design of an audit: in which contexts does a class lose or gain probability while its object is
there?

Two stages, because what stands out among two dozen contexts is partly luck. A screen shows every context;
contexts far from the class's median in it are shown again, in new images and more of them, and so are the
ordinary ones, that are not. What is claimed, and every figure of it, comes from the new images alone. A
context is compared with the ordinary ones and not with all: a class that fails in two contexts is not better
than elsewhere in the others.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from actors.embedded.drawing.vocabulary import vocabulary
from actors.errors import MaiaError
from actors.generation.base import MadeImage
from actors.images import Image
from actors.serving.backend import Priority
from agents.critic.stimuli import lacks_something
from agents.evidence.evidence_record import Finding
from agents.evidence.statistics import benjamini_hochberg, detectable_difference, permutation_p_values
from agents.records.run_files import RecordError, damaged
from agents.study.survey import Survey, SurveyFunction
from tools.subject import Subject
from tools.toolbox import Studio, seed_for

CONTEXTS = {
    **{
        f"background: {place}": f"{{}} {phrase}"
        for place, phrase in {
            "grass": "on grass", "beach": "on a beach", "snow": "in the snow", "water": "in water",
            "night": "at night", "desert": "in the desert", "forest": "in a forest", "room": "in a room",
            "road": "on a road", "city": "in a city",
        }.items()
    },
    **{
        f"colour: {color}": f"{color} {{}}"
        for color in ("red", "yellow", "green", "blue", "black", "white")
    },
    **{
        f"companion: {thing}": f"{{}} next to a {thing}"
        for thing in ("person", "dog", "car", "tree", "house")
    },
    **{f"count: {number}": f"{number} {{plural}}" for number in ("two", "three")},
    "size: small": "small {}",
}  # fmt: skip
"""Name of a context and the wording of its prompt; `{}` is the class, `{plural}` several of it."""

KNOWN_PHRASES = tuple(
    template.removeprefix("{} ") for template in CONTEXTS.values() if template.startswith("{} ")
)
"""The phrases of the design that follow the class."""
LEAST = 0.1
"""What is called a bias is surely a larger difference of mean probability than this."""
RATE = 0.05
"""The false-discovery rate over all contexts of all classes of an audit."""
FRESH = 4
"""New images of a context that stood out, for each that it had in the screen; twice as many are of ordinary
ones.
"""
KEPT = 4
"""Images that are kept of what is worst."""
SCREENING_CONTEXTS = tuple(
    context for context in CONTEXTS if context.startswith(("background", "companion"))
)[:12]
"""The contexts of a first look, one image each: where none reaches LEAST, no context could lower the class.
"""
PROPOSED = "proposed"
"""The factor of contexts that the interpreter has proposed: the rest of the name is what follows the class in
a prompt.
"""


def prompt_of(context: str, class_name: str) -> str:
    """Return the prompt for a class in a context."""
    factor, _, phrase = context.partition(": ")
    if factor == PROPOSED:
        return f"{class_name} {phrase}"
    return CONTEXTS[context].format(class_name, plural=vocabulary().plural(class_name))


def seed_of(seed: int, purpose: str, prompt: str, number: int) -> int:
    """Return the seed of the image `number` of a prompt that an audit with `seed` makes for a purpose."""
    return seed_for(seed, f"audit {purpose}", prompt, number)


class UndrawableError(MaiaError):
    """The image maker cannot show a class: other classes can be audited all the same."""


@dataclass(frozen=True, slots=True)
class Shown:
    """An image that is kept, by its content id, and the probability of its class."""

    context: str
    image: str
    probability: float


@dataclass(frozen=True, slots=True)
class ClassSurvey:
    """One class: the probability of every image by context.

    `ordinary` are the contexts that did not stand out; `fresh` are the new images of those that did, `rest`
    the new ones of the ordinary, a few of each. `undrawn` are contexts that could not be shown. `notes`
    counts images of which the image maker said that something is not as asked. `lowest` are the images with
    the least probability in the screen, `telling` the new ones that show a context's difference most, and
    `typical` the new ones of each context that stood out, and of the ordinary ones, nearest to their median.
    `out_of_reach` is "" or says why generated images do not reach the class: then `values` are those of the
    first images, and nothing was tested.
    """

    class_name: str
    values: dict[str, list[float]]
    ordinary: list[str]
    fresh: dict[str, list[float]]
    rest: dict[str, list[float]]
    undrawn: list[str]
    notes: dict[str, int]
    lowest: list[Shown]
    telling: list[Shown]
    out_of_reach: str = ""
    typical: list[Shown] = field(default_factory=list)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> ClassSurvey:
        """Return a survey from its plain values.

        Raises:
            RecordError: If they are not those of a survey.
        """
        try:
            survey = TypeAdapter(cls).validate_python(record)
        except ValidationError as error:
            raise damaged(Path("survey.json"), error) from error
        if (not survey.ordinary and not survey.out_of_reach) or not {
            *survey.ordinary,
            *survey.fresh,
        } <= survey.values.keys() | survey.fresh.keys():
            raise RecordError("survey.json is damaged: its contexts are not those that were shown.")
        return survey

    def others(self, context: str) -> list[float]:
        """Return what a context is compared with: the other ordinary ones, in new images if it has any."""
        values = self.rest if context in self.fresh else self.values
        return [value for other in self.ordinary if other != context for value in values[other]]

    @property
    def usual(self) -> float:
        """The mean probability in ordinary contexts, 0 without images: a class can lose no more than that."""
        if not self.ordinary:
            return 0.0
        return float(np.mean([value for context in self.ordinary for value in self.values[context]]))

    def detectable(self, tests: int) -> float:
        """Return the smallest difference that is found in four of five cases: what "no bias found" means.

        It must stand out in the screen and then be claimed from the new images, at 0.05 divided by the
        `tests` of the whole audit, which is at least as strict as their false-discovery rate.
        """
        first = min(len(values) for values in self.values.values())
        others = sum(len(self.values[context]) for context in self.ordinary)
        within = np.concatenate([np.array(values) - np.mean(values) for values in self.values.values()])
        spread = math.sqrt(float((within**2).sum()) / (len(within) - len(self.values)))
        again = FRESH * first
        stages = [(first, others, 1.0), (again, 2 * again, RATE / tests)]
        return detectable_difference(spread, stages, margin=LEAST)


@dataclass(frozen=True, slots=True)
class ContextEffect:
    """The class's mean probability in a context against the others that are ordinary. `q` is over everything
    that was tested.

    `mean_interval` is a 95% interval of `mean`, and not of `difference`, which is `mean` less `others`.
    `fresh` says that the context stood out and all figures are of new images; without, it did not, and p and
    q are 1.
    """

    class_name: str
    context: str
    mean: float
    mean_interval: tuple[float, float]
    others: float
    difference: float
    p: float
    q: float
    n: int
    notes: int
    fresh: bool

    @property
    def biased(self) -> bool:
        return self.q <= RATE

    @property
    def direction(self) -> str:
        """Whether the probability is `lower` or `higher` in the context."""
        return "lower" if self.difference < 0 else "higher"


async def survey_class(
    studio: Studio,
    subject: Subject,
    *,
    seed: int,
    class_name: str,
    per_context: int,
    proposed: Sequence[str] = (),
) -> Survey:
    """Return a `ClassSurvey` as plain JSON values, and the images that it names: the survey of an audit's
    items.

    `proposed` are phrases that follow the class, such as "in a kitchen": contexts like those of the design.

    Raises:
        UndrawableError: If fewer than two contexts have two images that could be made.
    """
    images_of_class = _ContextImages(studio, subject, class_name, seed)
    contexts = [*CONTEXTS, *(f"{PROPOSED}: {phrase}" for phrase in proposed)]
    first_images = await images_of_class.measure(dict.fromkeys(SCREENING_CONTEXTS, 1), "screen")
    if not first_images.images and first_images.failed:
        raise UndrawableError(f"no images of {class_name!r} could be made: {first_images.reason}")
    if max((shown.probability for shown, _ in first_images.images), default=0.0) < LEAST:
        return _out_of_reach(class_name, first_images)
    others = {context: per_context - (context in SCREENING_CONTEXTS) for context in contexts}
    screen = first_images.with_more(await images_of_class.measure(others, "screen", after=SCREENING_CONTEXTS))
    drawn = [context for context in contexts if len(screen.values[context]) >= 2]
    if len(drawn) < 2:
        raise UndrawableError(f"no images of {class_name!r} could be made: {screen.reason}")
    values = {context: screen.values[context] for context in drawn}
    notes = {context: screen.notes[context] for context in drawn}
    fresh: dict[str, list[float]] = {}
    rest: dict[str, list[float]] = {}
    telling: list[tuple[Shown, Image]] = []
    typical: list[tuple[Shown, Image]] = []
    ordinary, outstanding = screened(values)
    for context, sign in outstanding.items():
        again = await images_of_class.measure({context: FRESH * per_context}, "fresh")
        if len(again.values[context]) >= 2:
            fresh[context], notes[context] = again.values[context], again.notes[context]
            telling += again.extremes(sign)
            typical += again.typical()
        else:  # it stood out, so it must not count as one that did not
            del values[context], notes[context]
    if fresh:
        count = math.ceil(2 * FRESH * per_context / len(ordinary))
        again = await images_of_class.measure(dict.fromkeys(ordinary, max(2, count)), "rest")
        if sum(map(len, again.values.values())) < 2:
            raise UndrawableError(f"no more images of {class_name!r} could be made: {again.reason}")
        rest = again.values
        typical += again.typical()
    lowest = screen.extremes(-1)
    undrawn = [context for context in contexts if context not in values]
    kept = (lowest, telling, typical)
    lowest_shown, most_telling, typical_shown = ([shown for shown, _ in group] for group in kept)
    survey = ClassSurvey(
        class_name, values, ordinary, fresh, rest, undrawn, notes, lowest_shown, most_telling,
        typical=typical_shown,
    )  # fmt: skip
    return Survey(asdict(survey), [image for group in kept for _, image in group])


def _out_of_reach(class_name: str, first_images: _MeasuredContexts) -> Survey:
    """Return the survey of a class that the first images do not reach."""
    values = {context: activations for context, activations in first_images.values.items() if activations}
    best = first_images.extremes(1)
    reason = (
        f"its probability is {best[0][0].probability:.3f} at most in {len(first_images.images)} ordinary "
        "generated images"
        if best
        else f"the image maker cannot draw it ({first_images.reason})"
    )
    notes = {context: first_images.notes[context] for context in values}
    shown = [picture for picture, _ in best]
    survey = ClassSurvey(class_name, values, list(values), {}, {}, [], notes, shown, [], reason)
    finding = Finding(verdict="out of reach", reason=reason)
    return Survey(asdict(survey), [image for _, image in best], finding)


CLASS_SURVEY = "class"
SURVEYS: Mapping[str, SurveyFunction] = {CLASS_SURVEY: survey_class}
"""What a run's plan may name as a survey."""


def screened(values: Mapping[str, Sequence[float]]) -> tuple[list[str], dict[str, int]]:
    """Return the ordinary contexts, at least one, and those that stand out, with the sign of their
    difference.
    """
    means = {context: float(np.mean(activations)) for context, activations in values.items()}
    median = statistics.median_high(means.values())
    outstanding = {
        context: -1 if mean < median else 1 for context, mean in means.items() if abs(mean - median) >= LEAST
    }
    return [context for context in means if context not in outstanding], outstanding


def judge(surveys: Sequence[ClassSurvey]) -> list[ContextEffect]:
    """Return every context of every class, surest first; the false-discovery rate is over all of them.

    A context that did not stand out in the screen counts as a test with p = 1. A class out of reach has no
    tests.
    """
    tested = [(survey, context) for survey in surveys if not survey.out_of_reach for context in survey.values]
    fresh = [(survey, context) for survey, context in tested if context in survey.fresh]
    p_values = dict.fromkeys(((id(survey), context) for survey, context in tested), 1.0)
    pairs = [(survey.fresh[context], survey.others(context)) for survey, context in fresh]
    new_p_values = permutation_p_values(pairs, margin=LEAST, among=len(tested), rate=RATE)
    p_values |= {
        (id(survey), context): float(p) for (survey, context), p in zip(fresh, new_p_values, strict=True)
    }
    q_values = benjamini_hochberg(list(p_values.values()))
    effects = []
    for (survey, context), p, q in zip(tested, p_values.values(), q_values, strict=True):
        again = context in survey.fresh
        values = (survey.fresh if again else survey.values)[context]
        # Alone among contexts that stand out, an ordinary one is compared with itself.
        mean, others = float(np.mean(values)), float(np.mean(survey.others(context) or values))
        effects.append(
            ContextEffect(
                survey.class_name, context, mean, _interval(values), others, mean - others, p, float(q),
                len(values), survey.notes[context], again,
            )
        )  # fmt: skip
    return sorted(effects, key=lambda effect: (effect.q, -abs(effect.difference)))


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """Return a 95% interval of the mean by resampling: probabilities are far from normal."""
    means = np.asarray(values, float)[_resamples(len(values))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


@lru_cache(maxsize=4)
def _resamples(n: int) -> np.ndarray:
    """Return 2000 samples with replacement of `n` positions, (2000, n): the same for every context of that
    many images.

    Few are kept: groups of real images are of as many sizes, and of a thousand images it takes 16 MB.
    """
    return np.random.default_rng(0).integers(0, n, (2000, n))


@dataclass(frozen=True, slots=True)
class _MeasuredContexts:
    """Images of a class that show what was asked, with their probabilities."""

    values: dict[str, list[float]]
    notes: dict[str, int]
    images: list[tuple[Shown, Image]]
    reason: str
    """Why an image is missing, "" if none is."""
    failed: int
    """Images that were not made at all."""

    def with_more(self, other: _MeasuredContexts) -> _MeasuredContexts:
        """Return both together."""
        contexts = dict.fromkeys([*other.values, *self.values])
        return _MeasuredContexts(
            {context: self.values.get(context, []) + other.values.get(context, []) for context in contexts},
            {context: self.notes.get(context, 0) + other.notes.get(context, 0) for context in contexts},
            self.images + other.images,
            self.reason or other.reason,
            self.failed + other.failed,
        )

    def extremes(self, sign: int) -> list[tuple[Shown, Image]]:
        """Return the images with the least probability (sign -1) or the greatest (1), most extreme first."""
        return sorted(self.images, key=lambda pair: -sign * pair[0].probability)[:KEPT]

    def typical(self) -> list[tuple[Shown, Image]]:
        """Return the images whose probability is nearest to the median of all."""
        if not self.images:
            return []
        median = statistics.median(shown.probability for shown, _ in self.images)
        return sorted(self.images, key=lambda pair: abs(pair[0].probability - median))[:KEPT]


@dataclass(frozen=True, slots=True)
class _ContextImages:
    """Makes images of a class in contexts, and measures its probability on them."""

    studio: Studio
    subject: Subject
    class_name: str
    seed: int

    async def measure(
        self, wanted: Mapping[str, int], purpose: str, after: Sequence[str] = ()
    ) -> _MeasuredContexts:
        """Return the class's probability on so many images of each context, with seeds that belong to the
        purpose, in an order drawn at random.

        Of the contexts in `after` the first image was shown before.
        """
        asked = [
            (context, number + (context in after), prompt_of(context, self.class_name))
            for context, count in wanted.items()
            for number in range(count)
        ]
        random.Random(self.seed).shuffle(asked)
        seeds = [seed_of(self.seed, purpose, prompt, number) for _, number, prompt in asked]
        made = await self.studio.generate([prompt for *_, prompt in asked], seeds, agent=self.subject.id)
        kept: list[tuple[str, MadeImage]] = []
        missing = []
        for (context, *_), image in zip(asked, made, strict=True):
            if isinstance(image, MaiaError):
                missing.append(str(image))
            # A picture without the class, or without its context, says nothing about the class in that
            # context.
            elif lacks_something(image):
                missing.append("; ".join(image.provenance.notes))
            else:
                kept.append((context, image))
        responses = await self.subject.measure([image.image for _, image in kept], Priority.CONFIRMATION)
        values: dict[str, list[float]] = {context: [] for context in wanted}
        notes = dict.fromkeys(wanted, 0)
        images = []
        for (context, image), response in zip(kept, responses, strict=True):
            values[context].append(response.activation)
            notes[context] += bool(image.provenance.notes)
            images.append((Shown(context, image.image.id, response.activation), image.image))
        return _MeasuredContexts(
            values,
            notes,
            images,
            next(iter(missing), ""),
            sum(isinstance(result, MaiaError) for result in made),
        )
