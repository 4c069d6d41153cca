"""A world without pixels: `system` and `tools` whose images are lists of what they show.

Images carry their true content in a side table, units are functions of that content, and the blind observers
misread now and then. Programs of the scientist are run as they are, in-process, for tests only.
"""

from __future__ import annotations

import contextlib
import io
import random
import re
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from actors.chat.base import ChatRequest, Message, Part
from actors.embedded.language.words import Words, number_word
from actors.embedded.observer.eyes import Seen, SeenThing
from actors.embedded.reasoning.stimuli import Stimulus, Thing
from actors.embedded.scientist.scientist import Scientist
from actors.images import Image

Unit = Callable[[Stimulus, random.Random], float]
"""Activation for a content; the generator is seeded by the image, so one image has one activation."""


@dataclass
class World:
    """Everything that one study's programs can touch. `looks_at`: terms in the mask of a strong image."""

    words: Words
    unit: Unit
    seed: int = 0
    looks_at: Callable[[Stimulus], Stimulus] = lambda content: content
    dataset_size: int = 3000
    recall: float = 0.92
    confusion: float = 0.04
    obedience: float = 0.98
    activation_threshold: float | None = None
    shown: list[Part] = field(default_factory=list)
    images_made: int = 0
    dataset: Callable[[random.Random, Words], Stimulus] | None = None

    def __post_init__(self) -> None:
        self._content: dict[str, Stimulus] = {}
        self._masked: dict[str, str] = {}
        self._rng = random.Random(self.seed)
        self._prompts: dict[str, Stimulus] = {}
        self._exemplars: list[tuple[float, Image]] | None = None

    # What the programs call

    def call_neuron(self, images: Sequence[Image]) -> tuple[list[float], list[Image]]:
        assert images
        return [self._activation(image) for image in images], [self._mask(image) for image in images]

    def dataset_exemplars(self, system: object) -> list[tuple[float, Image]]:
        assert system is self
        if self._exemplars is None:
            rng = random.Random(self.seed + 1)
            draw = self.dataset or random_scene
            images = [self._new(draw(rng, self.words)) for _ in range(self.dataset_size)]
            scored = sorted(((self._activation(image), n) for n, image in enumerate(images)), reverse=True)
            self._exemplars = [(value, self._mask(images[n])) for value, n in scored[:15]]
            self.activation_threshold = sum(value for value, _ in self._exemplars) / 15
        return self._exemplars

    def text2image(self, prompts: Sequence[str]) -> list[Image]:
        assert all(isinstance(prompt, str) for prompt in prompts)
        made = []
        for prompt in prompts:
            content = self.read_prompt(prompt)
            if self._rng.random() > self.obedience and content.things:
                others = tuple(self._rng.choice(list(self.words.concepts)) for _ in content.things)
                content = Stimulus(tuple(Thing(name) for name in others), content.background)
            made.append(self._new(content))
        self.images_made += len(made)
        return made

    def edit_images(self, images: Sequence[Image], instructions: Sequence[str]) -> list[Image]:
        assert len(images) == len(instructions)
        self.images_made += len(images)
        return [
            self._new(self._edited(self.whole(image), text))
            for image, text in zip(images, instructions, strict=True)
        ]

    def describe_images(self, images: Sequence[Image], titles: Sequence[str]) -> str:
        assert len(images) == len(titles)
        return "\n".join(
            f'"{title}": {self._described(image)}' for title, image in zip(titles, images, strict=True)
        )

    def summarize_images(self, images: Sequence[Image]) -> str:
        return f"{len(images)} pictures of various things."

    def display(self, *items: object) -> None:
        for item in items:
            self.shown.append(item if isinstance(item, (str, Image)) else str(item))

    # The truth behind

    def read_prompt(self, prompt: str) -> Stimulus:
        """Return what a prompt asks for, read by the vocabulary alone."""
        things: list[Thing] = []
        background = ""
        for phrase in re.split(r" and (?=(?:an?|two|three|four|five|six) )", prompt):
            count = next((n for n in range(2, 7) if phrase.startswith(number_word(n) + " ")), 1)
            color = ""
            for term in self.words.find(phrase):
                if term.kind == "color":
                    color = term.name
                elif term.kind == "concept":
                    things.append(Thing(term.name, color, count))
                elif term.kind == "background":
                    background = term.name
        return Stimulus(
            tuple(things), background or random.Random(prompt).choice(list(self.words.backgrounds))
        )

    def _new(self, content: Stimulus) -> Image:
        pixels = np.frombuffer(len(self._content).to_bytes(12, "big"), np.uint8).reshape(2, 2, 3)
        image = Image.from_pixels(pixels)
        self._content[image.id] = content
        return image

    def _mask(self, image: Image) -> Image:
        masked = self._new(self.looks_at(self._content[image.id]))
        self._masked[masked.id] = image.id
        return masked

    def visible(self, image: Image) -> Stimulus:
        return self._content[image.id]

    def whole(self, image: Image) -> Stimulus:
        return self._content[self._masked.get(image.id, image.id)]

    def _activation(self, image: Image) -> float:
        return round(self.unit(self.whole(image), random.Random(f"{self.seed}{image.id}")), 2)

    def _described(self, image: Image) -> str:
        said = []
        content = self._content[image.id]
        for thing in content.things:
            if self._rng.random() < self.recall:
                name = thing.concept
                if self._rng.random() < self.confusion:
                    name = self._rng.choice(list(self.words.concepts))
                colors = self.words.concepts[thing.concept].colors
                said.append(f"a {thing.color or (colors[0] if colors else '')} {name}")
        if content.background:
            said.append(f"the background is {content.background}")
        return ", ".join(said) + "." if said else "Nothing is recognized."

    def _edited(self, content: Stimulus, instruction: str) -> Stimulus:
        terms = self.words.find(instruction)
        concepts = [term.name for term in terms if term.kind == "concept"]
        if instruction.startswith("replace"):
            assert concepts[0] in [thing.concept for thing in content.things], instruction
            return content.swap(concepts[0], Thing(concepts[1]))
        if "background" in instruction:
            return content.on(next(term.name for term in terms if term.kind == "background"))
        assert instruction.startswith("change the color"), instruction
        color = next(term.name for term in reversed(terms) if term.kind == "color")
        return content.swap(concepts[0], Thing(concepts[0], color))


class WorldEyes:
    """Eyes in the world without pixels, as imperfect as its describer."""

    def __init__(self, world: World) -> None:
        self._world = world

    def look(self, images: Sequence[Image], whole: bool = False) -> list[Seen]:
        rng = random.Random(0)
        contents = [self._world.whole(image) if whole else self._world.visible(image) for image in images]
        return [
            Seen(
                tuple(
                    SeenThing(
                        thing.concept, thing.color or self._world.words.concepts[thing.concept].colors[0]
                    )
                    for thing in content.things
                    if rng.random() < self._world.recall
                ),
                content.background,
            )
            for content in contents
        ]


def random_scene(rng: random.Random, words: Words) -> Stimulus:
    names = rng.sample(list(words.concepts), rng.choice((1, 1, 2, 2, 3)))
    colors = list(words.colors)
    things = tuple(Thing(name, rng.choice(colors) if rng.random() < 0.3 else "") for name in names)
    return Stimulus(things, rng.choice(list(words.backgrounds)))


@dataclass
class Outcome:
    """How a study ended."""

    answer: str
    rounds: int
    images: int
    messages: list[Message]

    @property
    def labels(self) -> list[str]:
        return [
            line.split("]:", 1)[1].strip() for line in self.answer.splitlines() if line.startswith("[LABEL")
        ]


def study(
    scientist: Scientist,
    world: World,
    opening: str,
    *,
    seed: int = 0,
    max_rounds: int = 15,
    last_word: str = "This was the last experiment. Give your final answer now: [DESCRIPTION]: and [LABEL]:",
) -> Outcome:
    """Run the loop of an interpreter in-process until the scientist answers."""
    messages = [Message("system", ("the API",)), Message("user", (opening,))]
    variables: dict[str, object] = {"system": world, "tools": world}
    for round_number in range(1, max_rounds + 1):
        text = scientist.next_turn(ChatRequest(tuple(messages), seed=seed))
        messages.append(Message("assistant", (text,)))
        if "```python" not in text:
            return Outcome(text, round_number, world.images_made, messages)
        parts = run(text, variables, world)
        if round_number == max_rounds - 1:
            parts.append(last_word)
        messages.append(Message("user", tuple(parts)))
    raise AssertionError("the scientist did not answer on demand")


def run(text: str, variables: dict[str, object], world: World) -> list[Part]:
    """Run the program of a turn and return the observation."""
    program = text.split("```python\n", 1)[1].split("```", 1)[0]
    printed = io.StringIO()
    error = ""
    with contextlib.redirect_stdout(printed):
        try:
            exec(compile(program, "program", "exec"), variables)
        except Exception:
            error = traceback.format_exc(limit=1)
    parts, world.shown = world.shown, []
    for text in filter(None, (printed.getvalue().rstrip(), error)):
        parts.append(text)
    return parts or ["The program ran and showed nothing."]
