"""Image makers as a `Backend` (`actors.serving.backend`): what may be shared, batched and answered from
memory.

An image is keyed by its maker, the maker's settings, what was asked, and the seed. So the same request is
made once, across agents (in flight and in memory) and across runs (on disk).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Protocol

from actors.errors import MaiaError
from actors.generation.base import EditRequest, GenerateRequest, ImageMaker, MadeImage
from actors.generation.store import ImageStore
from actors.serving.backend import Backend, BackendFacts, RequestT
from actors.serving.blocking import DeviceThread
from actors.serving.lru import LruCache

ImageRequest = GenerateRequest | EditRequest
ImageOrError = MadeImage | MaiaError


class AsyncImageMaker(Protocol):
    """An `ImageMaker` that does not block, and says how many of its calls may run at once."""

    name: str
    settings: str
    max_batch: int
    slots: int

    async def generate(self, requests: Sequence[GenerateRequest]) -> list[ImageOrError]: ...

    async def edit(self, requests: Sequence[EditRequest]) -> list[ImageOrError]: ...

    def describe(self) -> BackendFacts: ...

    async def close(self) -> None: ...


class ThreadedImageMaker:
    """A blocking maker as an `AsyncImageMaker`: its calls run in one thread, in batches of its size."""

    slots = 1

    def __init__(self, maker: ImageMaker) -> None:
        self._maker = maker
        self.name, self.settings, self.max_batch = maker.name, maker.settings, maker.max_batch
        self._thread = DeviceThread("image-maker")

    async def generate(self, requests: Sequence[GenerateRequest]) -> list[ImageOrError]:
        return await self._in_batches(self._maker.generate, requests)

    async def edit(self, requests: Sequence[EditRequest]) -> list[ImageOrError]:
        return await self._in_batches(self._maker.edit, requests)

    async def _in_batches(
        self, make: Callable[[Sequence[RequestT]], list[ImageOrError]], requests: Sequence[RequestT]
    ) -> list[ImageOrError]:
        made: list[ImageOrError] = []
        for start in range(0, len(requests), self.max_batch):
            made += await self._thread.run(make, requests[start : start + self.max_batch])
        return made

    def describe(self) -> BackendFacts:
        describe = getattr(self._maker, "describe", None)
        return describe() if describe else {"name": self.name, "settings": self.settings}

    async def close(self) -> None:
        self._thread.close()


class GenerationBackend(Backend[ImageRequest, MadeImage]):
    """Makes images with one maker and edits them with the same or another."""

    def __init__(
        self,
        generator: AsyncImageMaker,
        editor: AsyncImageMaker,
        *,
        remembered_bytes: int = 0,
        store: ImageStore | None = None,
    ) -> None:
        self._generator, self._editor = generator, editor
        self.name = generator.name if editor is generator else f"{generator.name} + {editor.name}"
        # A device and an endpoint in one pair take turns: with the endpoint's many slots every request for
        # the device would be sealed alone, and never batched.
        self.slots = min(generator.slots, editor.slots)
        self.max_batch = max(generator.max_batch, editor.max_batch)
        self._store = store
        self._remembered: LruCache[MadeImage] = LruCache(remembered_bytes)

    def key(self, request: ImageRequest) -> Hashable:
        maker = self._maker(request)
        if isinstance(request, GenerateRequest):
            return (maker.name, maker.settings, "generate", request.prompt, request.seed)
        # Two edits of the same pixels may differ where one maker knows how they came about.
        recipe = repr(sorted(request.provenance.recipe.items())) if request.provenance else "[]"
        known = hashlib.blake2b(recipe.encode(), digest_size=8).hexdigest()
        return (
            maker.name,
            maker.settings,
            "edit",
            request.image.id,
            request.instruction,
            known,
            request.seed,
        )

    def bucket(self, request: ImageRequest) -> Hashable:
        return "generate" if isinstance(request, GenerateRequest) else ("edit", request.image.size)

    def lookup(self, request: ImageRequest) -> MadeImage | None:
        return self._remembered.get(self.key(request))

    async def run(self, batch: Sequence[ImageRequest]) -> list[ImageOrError]:
        """Return one image or typed failure per request, in order."""
        results: list[ImageOrError | None] = list(await asyncio.to_thread(self._stored, batch))
        generate = [
            (i, r) for i, r in enumerate(batch) if results[i] is None and isinstance(r, GenerateRequest)
        ]
        edit = [(i, r) for i, r in enumerate(batch) if results[i] is None and isinstance(r, EditRequest)]
        fresh: dict[int, ImageOrError] = {}
        if generate:
            made = await self._generator.generate([request for _, request in generate])
            fresh |= zip((i for i, _ in generate), made, strict=True)
        if edit:
            made = await self._editor.edit([request for _, request in edit])
            fresh |= zip((i for i, _ in edit), made, strict=True)
        kept = await asyncio.to_thread(self._keep, batch, fresh)
        answers = [kept[i] if result is None else result for i, result in enumerate(results)]
        for request, made_image in zip(batch, answers, strict=True):
            if isinstance(made_image, MadeImage):
                free = replace(made_image, dollars=0.0)  # it is paid for once
                self._remembered.put(self.key(request), free, made_image.image.pixels.nbytes)
        return answers

    def describe(self) -> BackendFacts:
        facts = {"generator": self._generator.describe()}
        if self._editor is not self._generator:
            facts["editor"] = self._editor.describe()
        return facts

    async def close(self) -> None:
        await self._generator.close()
        if self._editor is not self._generator:
            await self._editor.close()

    def _maker(self, request: ImageRequest) -> AsyncImageMaker:
        return self._generator if isinstance(request, GenerateRequest) else self._editor

    def _stored(self, batch: Sequence[ImageRequest]) -> list[MadeImage | None]:
        return [self._store.get(self.key(request)) if self._store else None for request in batch]

    def _keep(self, batch: Sequence[ImageRequest], fresh: dict[int, ImageOrError]) -> dict[int, ImageOrError]:
        if self._store is None:
            return fresh
        return {
            index: self._store.put(self.key(batch[index]), made) if isinstance(made, MadeImage) else made
            for index, made in fresh.items()
        }
