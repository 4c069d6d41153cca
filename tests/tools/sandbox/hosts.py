"""A tool host of known answers that checks what it is given."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from actors.errors import BackendError
from actors.images import Image
from tools.sandbox import METHODS
from tools.sandbox.child.effects import Effects, ImageEffect, OutputChange, values_of


def picture(seed: int | str, height: int = 24, width: int = 32) -> Image:
    """Return noise that depends on the seed alone; height and width differ, so a swap is noticed."""
    number = int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=8).digest(), "big")
    return Image.from_pixels(
        np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


class FakeHost:
    """Answers like the toolbox; activations are the mean brightness, so they depend on the pixels."""

    exemplar_count = 5

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.log: list[dict[str, Any]] = []
        self.displayed: list[Any] = []
        self.threshold: float | None = None

    @property
    def methods(self) -> list[str]:
        return [method for method, _ in self.asked]

    async def call(self, method: str, arguments: dict[str, Any]) -> Any:
        assert set(arguments) == set(METHODS[method].arguments)
        self.asked.append((method, arguments))
        answer = getattr(self, f"_{method}")(**arguments)
        return answer

    def _measure(self, images: list[Image]) -> Any:
        assert all(type(image) is Image for image in images)
        assert 1 <= len(images) <= 256
        masked = [picture(f"masked {image.id}", *image.size) for image in images]
        return {"activations": [round(float(image.pixels.mean()), 2) for image in images], "images": masked}

    def _exemplars(self) -> Any:
        activations = [float(9 - index) for index in range(self.exemplar_count)]
        self.threshold = sum(activations) / len(activations)
        return {"activations": activations, "images": [picture(f"exemplar {a}") for a in activations]}

    def _exemplars_by(self, which: str, k: int) -> Any:
        activations = [float(9 - index) for index in range(k)]
        images = [picture(f"{which} {activation}") for activation in activations]
        return {"activations": activations, "images": images, "notes": [f"{which} {i + 1}" for i in range(k)]}

    def _intervene(self, images: list[Image], kind: str, value: Any, where: Any, outputs: list[str]) -> Any:
        lowered = [OutputChange("snowplow", 3.5, 1.0, -2.5, [0.75, 0.25])]
        asked = [OutputChange(name, 1.0, 1.0, 0.0, []) for name in outputs]
        each = [
            ImageEffect(image, 4.0, 0.0, [], lowered, asked, ["ski", "dog"], 2.5, 0.5) for image in images
        ]
        effects = Effects(f"{kind} {value} {where}", each, [], lowered, asked, 0.0, True)
        return {"effects": values_of(effects), "activations": [4.0] * len(images), "images": images}

    def _text2image(self, prompts: list[str], n: int) -> Any:
        assert all(type(prompt) is str for prompt in prompts)
        if "forbidden" in prompts:
            raise BackendError("the image model declined 'forbidden'.", "Ask for something else.")
        return {"images": [picture(f"{p} {i}") for p in prompts for i in range(n)], "notes": []}

    def _edit(self, images: list[Image], instructions: list[str]) -> Any:
        edited = [picture(f"{i.id} {t}", *i.size) for i, t in zip(images, instructions, strict=True)]
        return {"images": edited, "notes": ["an edit was weak"]}

    def _describe(self, images: list[Image], titles: list[str]) -> str:
        return "\n".join(
            f"{title}: an image {i.size[1]} wide" for i, title in zip(images, titles, strict=True)
        )

    def _summarize(self, images: list[Image]) -> str:
        return f"{len(images)} images of noise"

    def _log(self, activations: list[float], images: list[Image], titles: list[str], texts: Any) -> Any:
        for activation, image, title in zip(activations, images, titles, strict=True):
            assert type(activation) is float
            self.log.append({title: {"activation": activation, "image": image}})
        return {}

    def _display(self, items: list[Any]) -> Any:
        self.displayed += items
        return {}

    def _state(self) -> Any:
        texts = [next(iter(entry)) for entry in self.log]
        return {"experiment_log": texts, "results_list": self.log, "activation_threshold": self.threshold}
