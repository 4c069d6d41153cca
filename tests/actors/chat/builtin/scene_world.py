"""The embedded world itself, in-process: real pictures, masks, observer and detector, a unit of known formula."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from actors.chat.base import ChatRequest, Message, Part
from actors.chat.builtin.embedded_words import embedded_words
from actors.chat.builtin.eyes import NetEyes
from actors.chat.builtin.observer import Observer
from actors.detection.base import Detection, DetectRequest
from actors.detection.compose import Formula, compose
from actors.detection.scenes import ScenesDetector
from actors.errors import MaiaError
from actors.generation.base import EditRequest, GenerateRequest, MadeImage
from actors.generation.scenes import IMAGE_SIZE, ScenesMaker
from actors.images import Image, Provenance
from actors.masks import paint
from actors.scenes.concept_net import ConceptNet
from actors.scenes.render import render
from actors.scenes.sampling import random_scene

EXEMPLARS = 15


class SceneLab:
    """What all units share: maker, detector, observer, and a data set of which only small facts are kept."""

    def __init__(self, net: ConceptNet, formulas: Sequence[Formula], size: int, seed: int = 0) -> None:
        """Draw `size` scenes, a few of them for each formula, and measure every formula on all in one pass."""
        self.maker, self.detector = ScenesMaker(), ScenesDetector(net=net)
        self.eyes = NetEyes(net)
        self.observer = Observer(embedded_words(), self.eyes)
        self._net, self._formulas = net, list(formulas)
        rng = random.Random(seed)
        # Every concept of a unit is in the data set, as it would be in a large one.
        planted = [
            (" and ".join(f"a {c}" for c in chosen), rng.getrandbits(30))
            for formula in formulas
            for _ in range(12)
            for chosen in (formula.concepts if formula.operator != "or" else (rng.choice(formula.concepts),),)
        ]
        draws = np.random.default_rng(seed)
        images = [Image.from_pixels(render(random_scene(draws), IMAGE_SIZE)) for _ in range(size)]
        made = self.maker.generate([GenerateRequest(prompt, number) for prompt, number in planted])
        self.dataset = images + [each.image for each in made if isinstance(each, MadeImage)]
        self._values = np.zeros((len(self.dataset), len(self._formulas)))
        for start in range(0, len(self.dataset), 32):
            part = self.dataset[start : start + 32]
            for column, found in enumerate(self.measure_all(self._formulas, part)):
                self._values[start : start + len(part), column] = [each.score for each in found]

    def measure_all(self, formulas: Sequence[Formula], images: Sequence[Image]) -> list[list[Detection]]:
        """Return, for each formula, its detection in each image; every image passes the net once."""
        asked = [(image, f, concept) for f in formulas for image in images for concept in f.concepts]
        found = iter(self.detector.detect([DetectRequest(image, concept) for image, _, concept in asked]))
        results: list[list[Detection]] = []
        for formula in formulas:
            results.append([])
            for image in images:
                parts = [next(found) for _ in formula.concepts]
                assert all(isinstance(part, Detection) for part in parts), parts
                results[-1].append(compose(formula, parts, image_id=image.id))  # type: ignore[arg-type]
        return results

    def measure(self, formula: Formula, images: Sequence[Image]) -> list[Detection]:
        return self.measure_all([formula], images)[0]

    def strongest(self, formula: Formula) -> list[Image]:
        order = np.argsort(-self._values[:, self._formulas.index(formula)], kind="stable")
        return [self.dataset[index] for index in order[:EXEMPLARS]]


@dataclass
class SceneWorld:
    """What one study's programs can touch: a unit of the lab."""

    lab: SceneLab
    formula: Formula
    shown: list[Part] = field(default_factory=list)
    images_made: int = 0
    activation_threshold: float | None = None

    def __post_init__(self) -> None:
        self._provenance: dict[str, Provenance] = {}
        self._draws: dict[str, int] = {}

    def call_neuron(self, images: Sequence[Image]) -> tuple[list[float], list[Image]]:
        found = self.lab.measure(self.formula, images)
        masked = [
            paint(image, each.mask.astype(np.float32), 0.5) for image, each in zip(images, found, strict=True)
        ]
        return [round(each.score, 2) for each in found], masked

    def dataset_exemplars(self, system: object) -> list[tuple[float, Image]]:
        assert system is self
        activations, masked = self.call_neuron(self.lab.strongest(self.formula))
        return list(zip(activations, masked, strict=True))

    def text2image(self, prompts: Sequence[str]) -> list[Image]:
        requests = []
        for prompt in prompts:
            self._draws[prompt] = self._draws.get(prompt, 0) + 1
            seed = random.Random(f"{prompt}/{self._draws[prompt]}").getrandbits(31)
            requests.append(GenerateRequest(prompt, seed))
        return self._kept(self.lab.maker.generate(requests))

    def edit_images(self, images: Sequence[Image], instructions: Sequence[str]) -> list[Image]:
        requests = [
            EditRequest(image, text, 1, self._provenance.get(image.id))
            for image, text in zip(images, instructions, strict=True)
        ]
        return self._kept(self.lab.maker.edit(requests))

    def _kept(self, made: Sequence[MadeImage | MaiaError]) -> list[Image]:
        images = []
        for each in made:
            assert isinstance(each, MadeImage), each
            self._provenance[each.image.id] = each.provenance
            images.append(each.image)
        self.images_made += len(images)
        return images

    def describe_images(self, images: Sequence[Image], titles: Sequence[str]) -> str:
        replies = self.lab.observer.answer_all([_ask("You describe images.", image) for image in images])
        return "\n".join(
            f'"{title}": {" ".join(reply.text.split())}' for title, reply in zip(titles, replies, strict=True)
        )

    def summarize_images(self, images: Sequence[Image]) -> str:
        return self.lab.observer.answer_all([_ask("You summarise images.", *images)])[0].text

    def display(self, *items: object) -> None:
        for item in items:
            self.shown.append(item if isinstance(item, (str, Image)) else str(item))


def _ask(role: str, *images: Image) -> ChatRequest:
    return ChatRequest((Message("system", (role,)), Message("user", ("What is there?", *images))))
