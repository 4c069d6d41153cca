"""The same request is made once: in flight, in memory, on disk; everything else is made as asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from actors.errors import MaiaError, RefusedError, UsageError
from actors.generation.backend import GenerationBackend, ThreadedImageMaker
from actors.generation.base import EditRequest, GenerateRequest, MadeImage
from actors.generation.client import PoolImageMaker
from actors.generation.store import ImageStore
from actors.images import Image, Provenance
from actors.serving.pool import LocalPool


@dataclass
class Painter:
    """An `ImageMaker` of plain colours that counts what it makes and notices calls that overlap."""

    name: str = "painter"
    settings: str = "plain"
    max_batch: int = 3
    size: int = 4
    batches: list[list[str]] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    _running: threading.Lock = field(default_factory=threading.Lock)

    def generate(self, requests: Sequence[GenerateRequest]) -> list[MadeImage | MaiaError]:
        return self._paint([(r.prompt, r.seed, Provenance("generated", prompt=r.prompt)) for r in requests])

    def edit(self, requests: Sequence[EditRequest]) -> list[MadeImage | MaiaError]:
        assert len({r.image.size for r in requests}) == 1, "images of different sizes in one batch"
        return self._paint(
            [
                (f"{r.image.id} {r.instruction}", r.seed, Provenance("edited", parent=r.image.id))
                for r in requests
            ]
        )

    def _paint(self, wanted: list[tuple[str, int, Provenance]]) -> list[MadeImage | MaiaError]:
        assert self._running.acquire(blocking=False), "two calls at once"
        try:
            assert 1 <= len(wanted) <= self.max_batch
            self.threads.add(threading.current_thread().name)
            self.batches.append([text for text, _, _ in wanted])
            return [
                RefusedError(f"no {text}")
                if text == "forbidden"
                else MadeImage(self.color(text, seed), known)
                for text, seed, known in wanted
            ]
        finally:
            self._running.release()

    def color(self, text: str, seed: int) -> Image:
        values = np.random.default_rng([seed, *text.encode()]).integers(1, 256, 3, dtype=np.uint8)
        return Image.from_pixels(np.full((self.size, self.size, 3), values, np.uint8))

    @property
    def made(self) -> int:
        return sum(map(len, self.batches))


def backend(painter: Painter, **options: object) -> GenerationBackend:
    maker = ThreadedImageMaker(painter)
    return GenerationBackend(maker, maker, **options)  # type: ignore[arg-type]


def plain(height: int, width: int, value: int = 9) -> Image:
    return Image.from_pixels(np.full((height, width, 3), value, np.uint8))


async def test_many_agents_prompts_are_batched_and_the_same_is_made_once() -> None:
    painter = Painter(max_batch=4)
    async with LocalPool(backend(painter, remembered_bytes=10**6)) as pool:
        studio = PoolImageMaker(pool)
        answers = await asyncio.gather(
            *(studio.generate(["dog", f"cat {i}"], [0, 0], agent=f"agent {i}") for i in range(5))
        )
        again = await studio.generate(["dog"], [0])
    assert painter.made == 6
    assert len(painter.batches) <= 3
    ids = {answer[0].image.id for answer in [*answers, again]}  # type: ignore[union-attr]
    assert len(ids) == 1
    assert len({answer[1].image.id for answer in answers}) == 5  # type: ignore[union-attr]
    assert len(painter.threads) == 1
    assert threading.current_thread().name not in painter.threads


async def test_n_images_of_a_prompt_with_distinct_seeds_all_come_back() -> None:
    painter = Painter()
    async with LocalPool(backend(painter)) as pool:
        made = await PoolImageMaker(pool).generate(["dog"] * 4, [0, 1, 2, 3])
    images = [result.image for result in made]  # type: ignore[union-attr]
    assert images == [painter.color("dog", seed) for seed in range(4)]


async def test_edits_are_batched_by_size_and_keyed_by_image_instruction_seed_and_recipe() -> None:
    painter = Painter(max_batch=8)
    one, other = plain(4, 4), plain(4, 6)
    async with LocalPool(backend(painter, remembered_bytes=10**6)) as pool:
        studio = PoolImageMaker(pool)
        known = Provenance("generated", recipe={"sprite": "dog"})
        made = await studio.edit(
            [one, other, one, one, one, one],
            ["red", "red", "blue", "red", "red", "red"],
            [0, 0, 0, 1, 0, 0],
            [None, None, None, None, Provenance("dataset"), known],
        )
    assert all(isinstance(each, MadeImage) for each in made)
    assert sorted(len(batch) for batch in painter.batches) == [1, 4]


async def test_failures_stay_in_their_places_and_are_not_remembered() -> None:
    painter = Painter()
    async with LocalPool(backend(painter, remembered_bytes=10**6)) as pool:
        studio = PoolImageMaker(pool)
        first, refused, last = await studio.generate(["dog", "forbidden", "cat"], [0, 0, 0])
        (again,) = await studio.generate(["forbidden"], [0])
    assert isinstance(first, MadeImage)
    assert isinstance(last, MadeImage)
    assert isinstance(refused, RefusedError)
    assert isinstance(again, RefusedError)
    assert painter.made == 4


async def test_lists_of_different_lengths_are_refused_before_anything_is_made() -> None:
    painter = Painter()
    async with LocalPool(backend(painter)) as pool:
        with pytest.raises(UsageError, match="2 prompts, 1 seeds"):
            await PoolImageMaker(pool).generate(["a", "b"], [0])
        with pytest.raises(UsageError, match="1 images, 2 instructions"):
            await PoolImageMaker(pool).edit([plain(2, 2)], ["a", "b"], [0, 1])
    assert painter.made == 0


async def test_memory_is_bounded_and_forgets_the_least_recently_used() -> None:
    painter = Painter(size=4)
    each = 4 * 4 * 3
    shared = backend(painter, remembered_bytes=2 * each)
    first, second, third = (GenerateRequest(prompt, 0) for prompt in ("one", "two", "three"))
    await shared.run([first])
    await shared.run([second])
    assert shared.lookup(first) is not None
    await shared.run([third])
    assert shared.lookup(first) is not None
    assert shared.lookup(second) is None
    await shared.close()


async def test_a_later_run_finds_on_disk_what_an_earlier_one_made(tmp_path: Path) -> None:
    requests = [GenerateRequest("dog", 0), EditRequest(plain(4, 4), "red", 1)]
    before, after = Painter(), Painter()
    first = backend(before, store=ImageStore(tmp_path))
    made = [(await first.run([request]))[0] for request in requests]
    second = backend(after, store=ImageStore(tmp_path))
    assert [(await second.run([request]))[0] for request in requests] == made
    assert (before.made, after.made) == (2, 0)
    await first.close()
    await second.close()


async def test_another_maker_or_other_settings_share_nothing(tmp_path: Path) -> None:
    painters = [Painter(), Painter(name="other"), Painter(settings="fancy")]
    for painter in painters:
        shared = backend(painter, store=ImageStore(tmp_path))
        await shared.run([GenerateRequest("dog", 0)])
        await shared.close()
    assert [painter.made for painter in painters] == [1, 1, 1]


async def test_a_generator_and_another_editor_each_get_their_own_requests() -> None:
    generator, editor = Painter(name="g", max_batch=2), Painter(name="e", max_batch=5)
    pair = GenerationBackend(ThreadedImageMaker(generator), ThreadedImageMaker(editor), remembered_bytes=0)
    made = await pair.run(
        [GenerateRequest("a", 0), EditRequest(plain(4, 4), "red", 0), *(GenerateRequest(p, 0) for p in "bcd")]
    )
    assert len(made) == 5
    assert [len(batch) for batch in generator.batches] == [2, 2]
    assert [len(batch) for batch in editor.batches] == [1]
    assert (pair.slots, pair.max_batch) == (1, 5)
    assert pair.key(GenerateRequest("a", 0))[0] == "g"  # type: ignore[index]
    await pair.close()
