"""Fresh images for the critic: drawn with reserved seeds, shown to the unit, and counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from actors.errors import MaiaError
from actors.generation.base import MadeImage
from actors.images import Image
from actors.serving.backend import Priority
from agents.evidence.evidence_record import Trial
from tools.subject import Subject
from tools.toolbox import Studio, seed_for


class UnmadeError(MaiaError):
    """Images of a label, or of the things that it is compared with, could not be made."""

    def __init__(self, count: int, total: int, failures: list[str]) -> None:
        super().__init__(f"{count} of {total} fresh images could not be made ({failures[0]}).")
        self.failures = failures


class FreshImages:
    """Makes images that no exploring agent can draw, and measures them.

    `kept` holds every image that was made, by id; `activations` what each of an examination did to the unit,
    in order.
    """

    def __init__(self, subject: Subject, studio: Studio, seed: int) -> None:
        self._subject, self._studio, self._seed = subject, studio, seed
        self.kept: dict[str, Image] = {}
        self.activations: list[float] = []
        self._before = 0

    def begin(self) -> None:
        """Begin an examination: its images are counted by themselves."""
        self.activations.clear()
        self._before = len(self.kept)

    @property
    def made(self) -> int:
        """Images of this examination."""
        return len(self.kept) - self._before

    async def make(
        self, prompts: Sequence[str], names: Iterable[tuple[str | int, ...]]
    ) -> list[MadeImage | MaiaError]:
        """Return an image or a failure a prompt; a name says which draw it is."""
        # The word keeps these seeds apart from all that an exploring agent can draw.
        seeds = [seed_for(self._seed, "reserved", *name) for name in names]
        made = await self._studio.generate(prompts, seeds, agent=self._subject.id)
        self.kept.update((each.image.id, each.image) for each in made if isinstance(each, MadeImage))
        return made

    async def measure(self, images: Sequence[Image]) -> list[float]:
        responses = await self._subject.measure(images, Priority.CONFIRMATION)
        activations = [response.activation for response in responses]
        self.activations += activations
        return activations

    async def probe(self, prompts: Sequence[str], purpose: str, attempt: int) -> list[float]:
        """Return the activations of one image a prompt, in order; none if one of them could not be made."""
        return [activation for _, activation in await self.pictured(prompts, purpose, attempt)]

    async def pictured(self, prompts: Sequence[str], purpose: str, attempt: int) -> list[tuple[Image, float]]:
        """As `probe`, with the images."""
        made = await self.make(prompts, ((purpose, p, attempt, i) for i, p in enumerate(prompts)))
        images = [each.image for each in made if isinstance(each, MadeImage)]
        if len(images) < len(made):
            return []
        return list(zip(images, await self.measure(images), strict=True))

    async def block(
        self, prompts: Sequence[str], labels: Sequence[str], test: tuple[str | int, ...], done: int
    ) -> list[Trial]:
        """Return a trial a prompt.

        `labels` are what each was made of, "" for a control; `test` says which test it is, and `done` how
        many images of each kind it has: each has images of its own, controls included.

        Raises:
            UnmadeError: If an image could not be made.
        """
        made = await self.make(prompts, ((*test, p, done + i) for i, p in enumerate(prompts)))
        failed = [each for each in made if isinstance(each, MaiaError)]
        if failed:
            raise UnmadeError(len(failed), len(made), [str(error) for error in failed[:5]])
        images = [each for each in made if isinstance(each, MadeImage)]
        activations = await self.measure([each.image for each in images])
        return [
            Trial(
                prompt=prompt,
                image=each.image.id,
                activation=activation,
                notes=list(each.provenance.notes),
                label=label,
                shows=None,
            )
            for prompt, each, activation, label in zip(prompts, images, activations, labels, strict=True)
        ]
