"""`tools` on the host's side: everything that an agent's program can ask for, by name.

The sandbox checks names and argument types before it calls; this class knows nothing of processes
or wire formats, nor of language models (the blind observers are passed in).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

from actors.errors import BackendError, MaiaError, OverloadedError, ReplicaLostError, UsageError
from actors.generation.base import MadeImage
from actors.images import Image, Provenance
from tools.album import Album, ImageKeeper
from tools.contrast import Which
from tools.experiment_log import ExperimentLog
from tools.intervention import Intervention, InterventionError
from tools.sandbox.base import ImageRef, ImageSource
from tools.sandbox.child.effects import values_of
from tools.screen import Screen, ShownItem
from tools.system import Measurement, SubjectSystem

EXEMPLARS = 15
"""Exemplars of a unit, as in MAIA."""


class Studio(Protocol):
    """Makes images: one result or typed failure a request, in order."""

    async def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], *, agent: str = ""
    ) -> list[MadeImage | MaiaError]: ...

    async def edit(
        self,
        images: Sequence[Image],
        instructions: Sequence[str],
        seeds: Sequence[int],
        provenances: Sequence[Provenance | None],
        *,
        agent: str = "",
    ) -> list[MadeImage | MaiaError]: ...


class Observers(Protocol):
    """Blind eyes: each call is a fresh conversation that knows no hypothesis."""

    async def describe(self, images: Sequence[Image], titles: Sequence[str]) -> str: ...

    async def summarize(self, images: Sequence[Image]) -> str: ...


class MeasuredAnswer(TypedDict):
    """The answer of `measure` and `exemplars`: activations and masked images, in one order."""

    activations: list[float]
    images: list[Image]


class ExemplarsAnswer(MeasuredAnswer):
    """The answer of `exemplars_by`."""

    notes: list[str]
    """The reason why each image was chosen."""


class MadeAnswer(TypedDict):
    """The answer of `text2image` and `edit`: images in the order of the requests, and notes on these."""

    images: list[Image]
    notes: list[str]


class EffectsAnswer(TypedDict):
    """The answer of `intervene`: the fields of `Effects`, and what the unit answers without intervention."""

    effects: dict[str, Any]
    activations: list[float]
    images: list[Image]


class StateAnswer(TypedDict):
    """The answer of `state`: what the agent logged."""

    experiment_log: list[Any]
    results_list: list[dict[str, dict[str, object]]]
    activation_threshold: float | None


@dataclass(frozen=True, slots=True)
class Made:
    """An image that an agent made and measured. `from_data`: an edit of an image of the data set, or of
    unknown origin.
    """

    image: str
    activation: float
    wording: str
    """The prompt and the instructions that it was made by."""
    from_data: bool


class ToolFailedError(MaiaError):
    """A tool could not do what a program asked; the program sees the message as an exception."""


def seed_for(run_seed: int, *parts: object) -> int:
    """Return a 31-bit seed from a run's seed and whatever else names the draw."""
    text = "\x1f".join(str(part) for part in (run_seed, *parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") >> 1


@dataclass(frozen=True, slots=True)
class ToolLimits:
    """Limits of one study: images made, images described, passes with another value of the unit (None: any
    number), and calls that it lacks.
    """

    max_images: int | None = None
    max_observations: int | None = None
    max_interventions: int | None = None
    withheld: frozenset[str] = frozenset()
    """Calls that are refused, for ablations."""


class Toolbox:
    """The tools of one agent: they share its log, its album and its seeds.

    The n-th use of a prompt gets the n-th seed of that prompt: asking again draws a fresh image, and two
    agents that ask the same get the same image, made once.
    """

    def __init__(
        self,
        system: SubjectSystem,
        studio: Studio,
        observers: Observers,
        *,
        seed: int,
        limits: ToolLimits = ToolLimits(),
        keeper: ImageKeeper | None = None,
    ) -> None:
        self.system = system
        self.log_book = ExperimentLog()
        self.album = Album(keeper)
        self.screen = Screen()
        self.images_made = 0
        self.observations = 0
        self.interventions = 0
        """Images that passed with another value of the unit."""
        self.blind = True
        """Whether the caller must not learn which unit this is: units cannot be named, nor layers be told."""
        self.measured: dict[str, float] = {}
        """Activation of each image that was shown to the unit, by its id and not by that of the masked one.
        """
        self._keeper, self._studio, self._observers = keeper, studio, observers
        self._seed, self._limits = seed, limits
        self._draws: Counter[str] = Counter()

    async def call(self, method: str, arguments: dict[str, Any]) -> Any:
        """Answer one call of a program.

        Raises:
            ToolFailedError: In words for the agent, when the call cannot be done.
        """
        handler = getattr(self, f"_do_{method}", None)
        if handler is None:
            raise ToolFailedError(f"There is no tool named {method!r}.")
        if method in self._limits.withheld:
            raise ToolFailedError("This tool is not available in this study. Do without it.")
        return await handler(**arguments)

    def made(self) -> list[Made]:
        """Return what was generated or edited, and then measured."""
        made = []
        for image_id, activation in self.measured.items():
            origin = self.album.provenance.get(image_id)
            if origin is not None and origin.source in ("generated", "edited"):
                wording = "; ".join([origin.prompt, *origin.edits] if origin.prompt else origin.edits)
                made.append(Made(image_id, activation, wording, self.album.first(image_id) != "generated"))
        return made

    async def pictures(self, ids: Sequence[str]) -> list[Image]:
        """Return images by id, in order.

        Raises:
            KeyError: If one is neither held nor kept.
        """

        def load() -> list[Image]:
            held, keeper = self.album.held, self._keeper
            return [held[id] if id in held or keeper is None else keeper[id] for id in ids]

        return await asyncio.to_thread(load)

    def snapshot(self) -> dict[str, Any]:
        """Return, as plain JSON values, what a resumed agent's toolbox must know again."""
        return {
            "draws": dict(self._draws),
            "images_made": self.images_made,
            "observations": self.observations,
            "interventions": self.interventions,
            "measured": dict(self.measured),
            "activation_threshold": self.log_book.activation_threshold,
            "log": [
                [
                    {"title": e.title, "activation": e.activation, "image": e.image.id, "text": e.text}
                    for e in entries
                ]
                for entries in self.log_book.experiments
            ],
            "provenance": self.album.record(),
        }

    def restore(self, snapshot: dict[str, Any], images: ImageSource) -> None:
        """Take up a snapshot; `images` must hold every logged image by id."""
        self._draws = Counter(snapshot["draws"])
        self.images_made = snapshot["images_made"]
        self.observations = snapshot.get("observations", 0)  # older records have none of these
        self.interventions = snapshot.get("interventions", 0)
        self.measured = dict(snapshot.get("measured", {}))
        self.log_book = ExperimentLog(activation_threshold=snapshot["activation_threshold"])
        for entries in snapshot["log"]:
            self.log_book.add(
                [e["activation"] for e in entries],
                [ImageRef.of(images[e["image"]]) for e in entries],
                [e["title"] for e in entries],
                [e["text"] for e in entries],
            )
        provenance = {key: Provenance.from_json(text) for key, text in snapshot["provenance"].items()}
        self.album = Album(self._keeper, provenance)

    # What follows answers the wire names of the sandbox's method table.

    async def _do_measure(self, images: list[Image]) -> MeasuredAnswer:
        if not images:
            raise ToolFailedError("call_neuron needs at least one image.")
        return await self._keep(await self.system.measure(images))

    async def _do_exemplars(self) -> MeasuredAnswer:
        exemplars = await self.system.exemplars(EXEMPLARS)
        if exemplars:
            activations = [exemplar.response.activation for exemplar in exemplars]
            self.log_book.activation_threshold = sum(activations) / len(activations)
        return await self._keep(exemplars)

    async def _do_exemplars_by(self, which: Which, k: int) -> ExemplarsAnswer:
        try:
            chosen = await self.system.exemplars_by(which, k, seed_for(self._seed, "exemplars", which))
        except UsageError as error:
            raise ToolFailedError(f"{error.message} {error.fix}") from error
        answer = await self._keep([measurement for measurement, _ in chosen])
        return {**answer, "notes": [note for _, note in chosen]}

    async def _do_intervene(
        self, images: list[Image], kind: str, value: Any, where: Any, outputs: list[str]
    ) -> EffectsAnswer:
        try:
            intervention = Intervention.of(kind, value, where)
            self._count_interventions(len(images) * intervention.donors)
            # As `edit`: of a darkened image the effect of the darkening would be part.
            images = await asyncio.to_thread(lambda: [self.album.under_mask(image) for image in images])
            effects = await self.system.intervene(images, intervention, outputs, name_units=not self.blind)
        except InterventionError as error:
            raise ToolFailedError(f"{error.message} {error.fix}".strip()) from error
        except (UsageError, BackendError) as error:
            if not self.blind or isinstance(error, ReplicaLostError | OverloadedError):
                raise
            raise ToolFailedError(
                "The network cannot be run with this intervention; why would tell which unit it is. Try "
                "another kind or place, or do without."
            ) from error
        activations = [round(effect.activation, 2) for effect in effects.images]
        for image, activation in zip(images, activations, strict=True):
            self.measured[image.id] = activation  # without the intervention: the image's own
            self.album.add(image, Provenance("program"))
        await self.album.spill()
        return {"effects": values_of(effects), "activations": activations, "images": images}

    async def _keep(self, measurements: Sequence[Measurement]) -> MeasuredAnswer:
        for measurement in measurements:
            image = measurement.image
            self.measured[image.id] = measurement.shown_activation
            self.album.add(image, measurement.provenance or Provenance("program"))
            self.album.add(measurement.masked, Provenance("masked", parent=image.id))
        await self.album.spill()
        return {
            "activations": [measurement.shown_activation for measurement in measurements],
            "images": [measurement.masked for measurement in measurements],
        }

    async def _do_text2image(self, prompts: list[str], n: int = 1) -> MadeAnswer:
        wanted = [prompt for prompt in prompts for _ in range(n)]
        self._admit(len(wanted))
        draws = self._draws.copy()
        seeds = []
        for prompt in wanted:
            seeds.append(seed_for(self._seed, "generate", prompt, draws[prompt]))
            draws[prompt] += 1
        made = await self._studio.generate(wanted, seeds, agent=self.system.subject.id)
        images, notes = await self._accept(made, wanted)
        # Only now: a call that failed is repeated with the same seeds, so nothing is made twice.
        self._draws = draws
        return {"images": images, "notes": notes}

    async def _do_edit(self, images: list[Image], instructions: list[str]) -> MadeAnswer:
        if len(images) != len(instructions):
            raise ToolFailedError(
                f"edit_images needs one instruction an image, got {len(images)} images and "
                f"{len(instructions)} instructions."
            )
        self._admit(len(images))
        images = await asyncio.to_thread(lambda: [self.album.under_mask(image) for image in images])
        seeds = [
            seed_for(self._seed, "edit", image.id, text)
            for image, text in zip(images, instructions, strict=True)
        ]
        known = [self.album.provenance.get(image.id) for image in images]
        made = await self._studio.edit(images, instructions, seeds, known, agent=self.system.subject.id)
        edited, notes = await self._accept(made, instructions)
        return {"images": edited, "notes": notes}

    async def _do_describe(self, images: list[Image], titles: list[str]) -> str:
        if len(titles) != len(images):
            raise ToolFailedError(
                f"describe_images needs one title an image, got {len(images)} images"
                f" and {len(titles)} titles."
            )
        self._observe(len(images))
        return await self._observers.describe(images, titles)

    async def _do_summarize(self, images: list[Image]) -> str:
        if not images:
            raise ToolFailedError("summarize_images needs at least one image.")
        self._observe(1)
        return await self._observers.summarize(images)

    async def _do_log(
        self, activations: list[float], images: list[Image], titles: list[str], texts: list[str] | str
    ) -> dict[str, object]:
        try:
            entries = self.log_book.add(
                activations,
                list(map(ImageRef.of, images)),
                titles,
                [texts] if isinstance(texts, str) else texts,
            )
        except UsageError as error:
            raise ToolFailedError(str(error)) from error
        for entry, image in zip(entries, images, strict=True):
            self.screen.show((f"{entry.title}: activation {entry.activation:.2f}", image, entry.text))
        self.screen.show((self.log_book.reminder(entries),))
        return {}

    async def _do_display(self, items: list[ShownItem]) -> dict[str, object]:
        self.screen.show(items)
        return {}

    async def _do_state(self) -> StateAnswer:
        return {
            "experiment_log": [
                [
                    {
                        "title": e.title,
                        "activation": round(e.activation, 2),
                        "image": e.image,
                        "description": e.text,
                    }
                    for e in entries
                ]
                for entries in self.log_book.experiments
            ],
            "results_list": self.log_book.results,
            "activation_threshold": self.log_book.activation_threshold,
        }

    def _admit(self, count: int) -> None:
        limit = self._limits.max_images
        if limit is not None and self.images_made + count > limit:
            left = limit - self.images_made
            raise ToolFailedError(
                f"This study may make {limit} images and {left} are left, but {count} were asked for."
                " Ask for fewer, or conclude from what you have."
            )

    def _count_interventions(self, count: int) -> None:
        limit = self._limits.max_interventions
        if limit is not None and self.interventions + count > limit:
            left = limit - self.interventions
            raise ToolFailedError(
                f"This study may pass {limit} images with interventions and {left} are left, but {count} "
                "were asked for. Use fewer images, or conclude from what you have."
            )
        self.interventions += count

    def _observe(self, count: int) -> None:
        """Count observations before they are asked for, whether or not they succeed: each costs a request."""
        limit = self._limits.max_observations
        if limit is not None and self.observations + count > limit:
            left = limit - self.observations
            raise ToolFailedError(
                f"This study may have {limit} descriptions and summaries and {left} are left, but {count}"
                " were asked for. Ask for fewer, or conclude from what you have."
            )
        self.observations += count

    async def _accept(
        self, made: Sequence[MadeImage | MaiaError], asked: Sequence[str]
    ) -> tuple[list[Image], list[str]]:
        """Keep what was made, or raise one error that names every request that failed."""
        failed = [(text, each) for text, each in zip(asked, made, strict=True) if isinstance(each, MaiaError)]
        if failed:
            reasons = "; ".join(f"{text!r}: {error}" for text, error in failed[:5])
            raise ToolFailedError(
                f"{len(failed)} of {len(made)} images could not be made: {reasons}. Leave these out "
                "and repeat the call: the others are kept and cost nothing."
            )
        images, notes = [], []
        for text, each in zip(asked, made, strict=True):
            assert isinstance(each, MadeImage)
            self.album.add(each.image, each.provenance)
            images.append(each.image)
            notes += [f"{text!r}: {note}" for note in each.provenance.notes]
        self.images_made += len(images)
        await self.album.spill()
        return images, notes
