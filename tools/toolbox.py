"""`tools` on the host's side: everything that an agent's program can ask for, by name.

The sandbox checks names and argument types before it calls; this class knows nothing of processes
or wire formats, nor of language models (the blind observers are passed in).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from actors.errors import MaiaError, UsageError
from actors.generation.base import MadeImage
from actors.images import Image, Provenance
from tools.experiment_log import ExperimentLog
from tools.system import Measurement, System

EXEMPLARS = 15
"""Exemplars of a unit, as in MAIA."""

Shown = str | Image
"""A piece of what a program showed its agent."""


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


class ToolError(MaiaError):
    """A tool could not do what a program asked; the program sees the message as an exception."""


def seed_for(run_seed: int, *parts: object) -> int:
    """Return a 31-bit seed from a run's seed and whatever else names the draw."""
    text = "\x1f".join(str(part) for part in (run_seed, *parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") >> 1


@dataclass(slots=True)
class Album:
    """The images one agent has met, with how each came about."""

    provenance: dict[str, Provenance] = field(default_factory=dict)
    images: dict[str, Image] = field(default_factory=dict)
    _told: dict[str, str] = field(default_factory=dict)

    def told(self) -> dict[str, str]:
        """Return every image's provenance as JSON; each is written once, however many rounds tell it."""
        for key, value in self.provenance.items():
            if key not in self._told:
                self._told[key] = value.to_json()
        return dict(self._told)

    def add(self, image: Image, provenance: Provenance) -> None:
        self.images.setdefault(image.id, image)
        self.provenance.setdefault(image.id, provenance)

    def under_mask(self, image: Image) -> Image:
        """Return the whole picture of a masked one: an edit of a darkened picture would test the darkening."""
        provenance = self.provenance.get(image.id)
        if provenance is not None and provenance.source == "masked":
            return self.images.get(provenance.parent, image)
        return image


class Toolbox:
    """The tools of one agent: they share its log, its album and its seeds.

    The n-th use of a prompt gets the n-th seed of that prompt: asking again draws a fresh image, and
    two agents that ask the same get the same image, made once. `withheld` are calls that are refused, for ablations.
    """

    def __init__(
        self,
        system: System,
        studio: Studio,
        observers: Observers,
        *,
        seed: int,
        n_exemplars: int = EXEMPLARS,
        max_images: int | None = None,
        withheld: Collection[str] = (),
    ) -> None:
        self.system = system
        self.log_book = ExperimentLog()
        self.album = Album()
        self.shown: list[Shown] = []
        self.images_made = 0
        self._studio, self._observers = studio, observers
        self._seed, self._n_exemplars, self._max_images = seed, n_exemplars, max_images
        self._withheld = frozenset(withheld)
        self._draws: Counter[str] = Counter()

    async def call(self, method: str, arguments: dict[str, Any]) -> Any:
        """Answer one call of a program.

        Raises:
            ToolError: In words for the agent, when the call cannot be done.
        """
        handler = getattr(self, f"_do_{method}", None)
        if handler is None:
            raise ToolError(f"There is no tool named {method!r}.")
        if method in self._withheld:
            raise ToolError("This tool is not available in this study. Do without it.")
        return await handler(**arguments)

    def take_shown(self) -> list[Shown]:
        """Return what was displayed and logged since the last call, in order, and forget it."""
        shown, self.shown = self.shown, []
        return shown

    def snapshot(self) -> dict[str, Any]:
        """Return, as plain JSON values, what a resumed agent's toolbox must know again."""
        return {
            "draws": dict(self._draws),
            "images_made": self.images_made,
            "activation_threshold": self.log_book.activation_threshold,
            "log": [
                [
                    {"title": e.title, "activation": e.activation, "image": e.image.id, "text": e.text}
                    for e in entries
                ]
                for entries in self.log_book.experiments
            ],
            "provenance": self.album.told(),
        }

    def restore(self, snapshot: dict[str, Any], images: dict[str, Image]) -> None:
        """Take up a snapshot; `images` must hold every logged image by id."""
        self._draws = Counter(snapshot["draws"])
        self.images_made = snapshot["images_made"]
        self.log_book = ExperimentLog(activation_threshold=snapshot["activation_threshold"])
        for entries in snapshot["log"]:
            self.log_book.add(
                [e["activation"] for e in entries],
                [images[e["image"]] for e in entries],
                [e["title"] for e in entries],
                [e["text"] for e in entries],
            )
        self.album = Album(
            {key: Provenance.from_json(text) for key, text in snapshot["provenance"].items()}, dict(images)
        )

    # What follows answers the wire names of the sandbox's method table.

    async def _do_measure(self, images: list[Image]) -> dict[str, Any]:
        if not images:
            raise ToolError("call_neuron needs at least one image.")
        return self._told(await self.system.measure(images))

    async def _do_exemplars(self) -> dict[str, Any]:
        found = await self.system.exemplars(self._n_exemplars)
        if found:
            self.log_book.activation_threshold = sum(m.response.activation for m in found) / len(found)
        return self._told(found)

    def _told(self, measurements: Sequence[Measurement]) -> dict[str, Any]:
        for each in measurements:
            self.album.add(each.image, each.provenance or Provenance("program"))
            self.album.add(each.masked, Provenance("masked", parent=each.image.id))
        return {
            "activations": [each.shown_activation for each in measurements],
            "images": [each.masked for each in measurements],
        }

    async def _do_text2image(self, prompts: list[str], n: int = 1) -> dict[str, Any]:
        wanted = [prompt for prompt in prompts for _ in range(n)]
        self._admit(len(wanted))
        draws = self._draws.copy()
        seeds = []
        for prompt in wanted:
            seeds.append(seed_for(self._seed, "generate", prompt, draws[prompt]))
            draws[prompt] += 1
        made = await self._studio.generate(wanted, seeds, agent=self.system.subject.id)
        images, notes = self._accept(made, wanted)
        # Only now: a call that failed is repeated with the same seeds, so nothing is made twice.
        self._draws = draws
        return {"images": images, "notes": notes}

    async def _do_edit(self, images: list[Image], instructions: list[str]) -> dict[str, Any]:
        if len(images) != len(instructions):
            raise ToolError(
                f"edit_images needs one instruction an image, got {len(images)} images and "
                f"{len(instructions)} instructions."
            )
        self._admit(len(images))
        images = [self.album.under_mask(image) for image in images]
        seeds = [
            seed_for(self._seed, "edit", image.id, text)
            for image, text in zip(images, instructions, strict=True)
        ]
        known = [self.album.provenance.get(image.id) for image in images]
        made = await self._studio.edit(images, instructions, seeds, known, agent=self.system.subject.id)
        edited, notes = self._accept(made, instructions)
        return {"images": edited, "notes": notes}

    async def _do_describe(self, images: list[Image], titles: list[str]) -> str:
        if len(titles) != len(images):
            raise ToolError(
                f"describe_images needs one title an image, got {len(images)} images and {len(titles)} titles."
            )
        return await self._observers.describe(images, titles)

    async def _do_summarize(self, images: list[Image]) -> str:
        if not images:
            raise ToolError("summarize_images needs at least one image.")
        return await self._observers.summarize(images)

    async def _do_log(
        self, activations: list[float], images: list[Image], titles: list[str], texts: list[str] | str
    ) -> dict[str, Any]:
        try:
            entries = self.log_book.add(
                activations, images, titles, [texts] if isinstance(texts, str) else texts
            )
        except UsageError as error:
            raise ToolError(str(error)) from error
        for entry in entries:
            self.shown += [f"{entry.title}: activation {entry.activation:.2f}", entry.image]
            if entry.text:
                self.shown.append(entry.text)
        if reminder := self.log_book.reminder(entries):
            self.shown.append(reminder)
        return {}

    async def _do_display(self, items: list[Shown]) -> dict[str, Any]:
        self.shown += items
        return {}

    async def _do_state(self) -> dict[str, Any]:
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
        if self._max_images is not None and self.images_made + count > self._max_images:
            left = self._max_images - self.images_made
            raise ToolError(
                f"This study may make {self._max_images} images and {left} are left, but {count} were asked for. "
                "Ask for fewer, or conclude from what you have."
            )

    def _accept(
        self, made: Sequence[MadeImage | MaiaError], asked: Sequence[str]
    ) -> tuple[list[Image], list[str]]:
        """Keep what was made, or raise one error that names every request that failed."""
        failed = [(text, each) for text, each in zip(asked, made, strict=True) if isinstance(each, MaiaError)]
        if failed:
            told = "; ".join(f"{text!r}: {error}" for text, error in failed[:5])
            raise ToolError(
                f"{len(failed)} of {len(made)} images could not be made: {told}. Leave these out and repeat the "
                "call: the others are kept and cost nothing."
            )
        images, notes = [], []
        for text, each in zip(asked, made, strict=True):
            assert isinstance(each, MadeImage)
            self.album.add(each.image, each.provenance)
            images.append(each.image)
            notes += [f"{text!r}: {note}" for note in each.provenance.notes]
        self.images_made += len(images)
        return images, notes
