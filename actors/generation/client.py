"""Makes and edits images for many agents through one pool: list in, list out, failures in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actors.errors import MaiaError, UsageError
from actors.generation.base import EditRequest, GenerateRequest, MadeImage
from actors.images import Image, Provenance
from actors.serving.backend import Priority
from actors.serving.pool import Pool


class PoolImageMaker:
    """Image makers in a pool. Each image is a request of its own, so that lists of many agents mix."""

    def __init__(self, pool: Pool[Any, MadeImage]) -> None:
        self._pool = pool

    async def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        agent: str = "",
        priority: Priority = Priority.INTERACTIVE,
    ) -> list[MadeImage | MaiaError]:
        """Return one image or typed failure for each prompt and its seed, in order.

        Several images of one prompt are the prompt several times with different seeds: all come back,
        none is chosen.

        Raises:
            UsageError: If there is not one seed for each prompt.
        """
        _same_length(prompts=prompts, seeds=seeds)
        requests = [GenerateRequest(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        return await self._pool.outcomes(requests, agent=agent, priority=priority)

    async def edit(
        self,
        images: Sequence[Image],
        instructions: Sequence[str],
        seeds: Sequence[int],
        provenances: Sequence[Provenance | None] | None = None,
        *,
        agent: str = "",
        priority: Priority = Priority.INTERACTIVE,
    ) -> list[MadeImage | MaiaError]:
        """Return each image changed by its instruction, or a typed failure, in order.

        `provenances` is what is known of the images; None stands for nothing known.

        Raises:
            UsageError: If the lists differ in length.
        """
        known: Sequence[Provenance | None] = [None] * len(images) if provenances is None else provenances
        _same_length(images=images, instructions=instructions, seeds=seeds, provenances=known)
        requests = [
            EditRequest(image, instruction, seed, provenance)
            for image, instruction, seed, provenance in zip(images, instructions, seeds, known, strict=True)
        ]
        return await self._pool.outcomes(requests, agent=agent, priority=priority)


def _same_length(**lists: Sequence[object]) -> None:
    if len({len(values) for values in lists.values()}) > 1:
        lengths = ", ".join(f"{len(values)} {name}" for name, values in lists.items())
        raise UsageError(f"lists must have the same length, got {lengths}.")
