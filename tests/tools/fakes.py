"""Stand-ins that check what they are given: a subject of known numbers, a studio, observers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from actors.errors import MaiaError, RefusedError
from actors.generation.base import MadeImage
from actors.images import Image, Provenance
from actors.serving.backend import Priority
from actors.vision.readout.base import HeldOutActivations, UnitResponse
from tools.intervention import Intervention
from tools.sandbox.child.effects import Effects, ImageEffect, OutputChange
from tools.subject import ActivationStatistics, DatasetImage


def picture_of(text: str) -> Image:
    """Return an image that belongs to `text` alone."""
    rng = np.random.default_rng(int.from_bytes(text.encode()[-8:], "big") + len(text) * 7919)
    return Image.from_pixels(rng.integers(0, 256, (8, 9, 3), np.uint8))


class FakeStudio:
    """Makes an image a (prompt, seed) and remembers what each shows; refuses prompts with 'forbidden'."""

    def __init__(self) -> None:
        self.shows: dict[str, str] = {}
        self.made: list[tuple[str, int]] = []

    async def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], *, agent: str = ""
    ) -> list[MadeImage | MaiaError]:
        assert len(prompts) == len(seeds)
        results: list[MadeImage | MaiaError] = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            assert isinstance(prompt, str)
            assert 0 <= seed < 2**31
            if "forbidden" in prompt:
                results.append(RefusedError(f"the image model declined {prompt!r}."))
                continue
            self.made.append((prompt, seed))
            results.append(self._picture(prompt, seed, Provenance("generated", "fake", prompt, seed)))
        return results

    async def edit(
        self,
        images: Sequence[Image],
        instructions: Sequence[str],
        seeds: Sequence[int],
        provenances: Sequence[Provenance | None],
        *,
        agent: str = "",
    ) -> list[MadeImage | MaiaError]:
        assert len(images) == len(instructions) == len(seeds) == len(provenances)
        results: list[MadeImage | MaiaError] = []
        for image, instruction, seed in zip(images, instructions, seeds, strict=True):
            shown = f"{self.shows.get(image.id, 'something')}, then: {instruction}"
            results.append(
                self._picture(
                    shown, seed, Provenance("edited", "fake", edits=(instruction,), parent=image.id)
                )
            )
        return results

    def _picture(self, text: str, seed: int, provenance: Provenance) -> MadeImage:
        image = picture_of(f"{text}|{seed}")
        self.shows[image.id] = text
        return MadeImage(image, provenance)


class FakeSubject:
    """A unit whose activation is a function of what the studio says an image shows.

    The data set's images, all of them exemplars, show `dataset` and a number.
    """

    def __init__(
        self,
        studio: FakeStudio,
        activation: Callable[[str], float],
        name: str = "fake/unit",
        dataset: str = "dataset image",
    ) -> None:
        self.id = name
        self.priorities: list[Priority] = []
        self._studio, self._activation = studio, activation
        self._dataset = [picture_of(f"dataset {i}") for i in range(15)]
        for i, image in enumerate(self._dataset):
            studio.shows[image.id] = f"{dataset} {i}"

    async def check(self) -> None: ...

    async def prepare(self, progress: Callable[[int, int], None]) -> None: ...

    async def measure(
        self, images: Sequence[Image], priority: Priority = Priority.INTERACTIVE
    ) -> list[UnitResponse]:
        self.priorities.append(priority)
        values = [self._activation(self._studio.shows.get(image.id, "")) for image in images]
        return [UnitResponse(value, np.full((2, 2), value, np.float16)) for value in values]

    async def exemplars(self, k: int) -> list[DatasetImage]:
        return [
            DatasetImage(
                image, Provenance("dataset", "fake", str(i)), UnitResponse(5.0 - i / 10, np.ones((2, 2)))
            )
            for i, image in enumerate(self._dataset[:k])
        ]

    async def background(self) -> ActivationStatistics:
        return ActivationStatistics(0.5, 0.2, 5.0, 15, 0.9)


class IntervenableSubject(FakeSubject):
    """Has been measured on four images of a data set.

    Each intervention silences it, and lowers an output of a name that no page may take for its own.
    """

    async def explored(self, progress: Callable[[int, int], None]) -> np.ndarray:
        progress(4, 4)
        return np.array([3.0, 0.5, 1.0, 0.25], np.float32)

    async def intervene(
        self,
        images: Sequence[Image],
        intervention: Intervention,
        outputs: Sequence[str] = (),
        *,
        name_units: bool = True,
    ) -> Effects:
        assert isinstance(intervention, Intervention)
        lowered = [OutputChange("<script>snow</script>", 3.5, 1.0, -2.5, [0.75, 0.25])]
        asked = [OutputChange(name, 1.0, 1.0, 0.0, []) for name in outputs if name_units or ":" not in name]
        values = [self._activation(self._studio.shows.get(image.id, "")) for image in images]
        each = [
            ImageEffect(image, value, 0.0, [], lowered, asked, ["ski", "dog"], 2.5, 0.5)
            for image, value in zip(images, values, strict=True)
        ]
        return Effects(str(intervention), each, [], lowered, asked, 1e-7, False)


class HeldOutSubject(FakeSubject):
    """With images that are held out: each shows one of `held_out`."""

    def __init__(self, *args: Any, held_out: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held_out = [picture_of(f"held out {i}") for i in range(len(held_out))]
        self._studio.shows |= {image.id: shown for image, shown in zip(self._held_out, held_out, strict=True)}

    async def held_out(self, count: int) -> HeldOutActivations:
        n = min(count, len(self._held_out))
        shown = [self._studio.shows[image.id] for image in self._held_out[:n]]
        values = np.array([self._activation(each) for each in shown], np.float32)
        return HeldOutActivations(np.arange(n), values, len(self._held_out), 0)

    async def held_out_images(self, indices: Sequence[int]) -> list[Image]:
        return [self._held_out[index] for index in indices]

    async def held_out_pictures(self, indices: Sequence[int], k: int) -> list[int | None]:
        return list(range(len(indices)))


class FakeObservers:
    def __init__(self) -> None:
        self.described: list[tuple[str, ...]] = []

    async def describe(self, images: Sequence[Image], titles: Sequence[str]) -> str:
        assert len(images) == len(titles)
        self.described.append(tuple(titles))
        return "\n".join(f'"{title}": something' for title in titles)

    async def summarize(self, images: Sequence[Image]) -> str:
        return f"{len(images)} things"


def darken(
    image: Image, activation_map: np.ndarray, threshold: float, view: tuple[float, float, float, float]
) -> Image:
    """Paint as the real painter does in spirit: another image, of the same size, by map and threshold."""
    assert activation_map.ndim == 2
    shade = 2 if float(activation_map.max()) > threshold else 4
    return Image.from_pixels(image.pixels // shade)
