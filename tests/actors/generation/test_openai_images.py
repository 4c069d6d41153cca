"""The real `openai` client against a real HTTP server on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from actors.endpoint.faults import EndpointError, EndpointStopError
from actors.endpoint.secrets import MissingKeyError
from actors.errors import BackendError, RefusedError, UsageError
from actors.generation.backend import GenerationBackend
from actors.generation.base import EditRequest, GenerateRequest, MadeImage
from actors.generation.client import PoolImageMaker
from actors.generation.openai_images import OpenAIImageMaker
from actors.generation.settings import OpenAIImages
from actors.images import Image, Provenance
from actors.serving.pool import LocalPool
from tests.fake_endpoint import KEY, FakeEndpoint, Fault
from tests.fake_images import IMAGE_MODEL, FakeImages


class Pauses:
    """A clock that only waiting moves, so that back-off takes no time."""

    def __init__(self) -> None:
        self.now, self.waits = 0.0, list[float]()

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@asynccontextmanager
async def at(images: FakeImages, **settings: Any) -> AsyncIterator[tuple[OpenAIImageMaker, Pauses]]:
    pauses = Pauses()
    with FakeEndpoint(routes=images.routes) as server:
        wanted = OpenAIImages(**{"model": IMAGE_MODEL, "base_url": server.base_url, **settings})
        maker = OpenAIImageMaker(
            wanted, environ={"OPENAI_API_KEY": KEY}, clock=pauses.clock, sleep=pauses.sleep
        )
        try:
            yield maker, pauses
        finally:
            await maker.close()
    assert not images.complaints
    assert images.in_flight == 0


async def one(maker: OpenAIImageMaker, prompt: str = "a dog", seed: int = 0) -> Any:
    (made,) = await maker.generate([GenerateRequest(prompt, seed)])
    return made


async def test_an_image_comes_back_with_what_was_asked_for() -> None:
    images = FakeImages()
    async with at(images, size="1024x1024", quality="low", response_format="b64_json") as (maker, _):
        made = await one(maker)
    assert isinstance(made, MadeImage)
    assert made.image.size == (4, 6)
    assert images.seen[0].fields == {
        "model": IMAGE_MODEL,
        "prompt": "a dog",
        "n": 1,
        "size": "1024x1024",
        "quality": "low",
        "response_format": "b64_json",
    }


async def test_an_image_is_charged_by_the_tokens_of_the_answer_and_once() -> None:
    """The same request again is answered from memory, and costs nothing."""
    images = FakeImages(usage={"input_tokens": 10, "output_tokens": 1000})
    price = {"tokens": {"text": 5, "output": 30}}
    async with (
        at(images, price=price) as (maker, _),
        LocalPool(GenerationBackend(maker, maker, remembered_bytes=10**6)) as pool,
    ):
        first, again = [await pool.submit(GenerateRequest("a dog", 0)) for _ in range(2)]
    assert first.dollars == pytest.approx((10 * 5 + 1000 * 30) / 1e6)
    assert again.dollars == 0
    assert len(images.seen) == 1


async def test_the_provenance_names_an_endpoint_without_seeds() -> None:
    async with at(FakeImages()) as (maker, _):
        made = await one(maker, seed=5)
    assert made.provenance.seed is None
    assert "takes no seed" in made.provenance.maker
    assert made.provenance.prompt == "a dog"


async def test_an_endpoint_with_seeds_gets_them() -> None:
    images = FakeImages()
    async with at(images, send_seed=True, extra_body={"steps": 4}) as (maker, _):
        made = await one(maker, seed=0)
    assert (images.seen[0].fields["seed"], images.seen[0].fields["steps"]) == (0, 4)
    assert made.provenance.seed == 0


async def test_a_reworded_prompt_is_noted() -> None:
    async with at(FakeImages(revise="A fluffy dog, oil on canvas")) as (maker, _):
        made = await one(maker)
    assert made.provenance.prompt == "a dog"
    assert "A fluffy dog" in made.provenance.notes[0]


async def test_an_edit_sends_the_pixels_unchanged() -> None:
    images = FakeImages()
    source = Image.from_pixels(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))
    async with at(images) as (maker, _):
        known = Provenance("generated", prompt="a dog", edits=("add a hat",))
        (made,) = await maker.edit([EditRequest(source, "make it red", 0, known)])
    assert isinstance(made, MadeImage)
    assert images.seen[0].kind == "edit"
    assert images.seen[0].fields["prompt"] == "make it red"
    assert images.seen[0].picture is not None
    assert Image.from_pil(images.seen[0].picture) == source
    assert made.provenance.edits == ("add a hat", "make it red")
    assert (made.provenance.source, made.provenance.parent) == ("edited", source.id)


async def test_an_image_behind_an_address_is_fetched_without_the_key() -> None:
    images = FakeImages(as_url=True)
    async with at(images, response_format="url") as (maker, _):
        assert isinstance(await one(maker), MadeImage)
    assert images.fetched == 1


async def test_calls_run_at_once_up_to_the_limit() -> None:
    images = FakeImages(hold=3)
    async with at(images, max_concurrent=3) as (maker, _), LocalPool(GenerationBackend(maker, maker)) as pool:
        made = await PoolImageMaker(pool).generate([f"dog {i}" for i in range(7)], list(range(7)))
    assert all(isinstance(each, MadeImage) for each in made)
    assert images.max_in_flight == 3
    assert len(images.seen) == 7


async def test_passing_faults_are_retried_and_the_asked_pause_is_kept() -> None:
    images = FakeImages.failing(Fault.error(503, "overloaded"), Fault.rate_limit("7"), Fault.html_page())
    async with at(images) as (maker, pauses):
        assert isinstance(await one(maker), MadeImage)
    assert len(images.seen) == 4
    assert sum(pauses.waits) >= 7


@pytest.mark.parametrize(
    "code", ["content_policy_violation", "moderation_blocked"], ids=["dall-e", "gpt-image"]
)
async def test_a_refusal_is_typed_and_never_retried(code: str) -> None:
    images = FakeImages.failing(Fault.error(400, "Your request was rejected by the safety system", code))
    async with at(images) as (maker, _):
        made = await one(maker)
    assert isinstance(made, RefusedError)
    assert len(images.seen) == 1


async def test_a_black_image_is_a_refusal() -> None:
    async with at(FakeImages(black=True)) as (maker, _):
        assert isinstance(await one(maker), RefusedError)


@pytest.mark.parametrize(
    "body",
    [
        {"data": None},
        {"data": [{}]},
        {"data": [{"b64_json": "%%%"}]},
        {"data": [{"url": "file:///etc/passwd"}]},
    ],
)
async def test_an_answer_without_an_image_ends_as_a_failure(body: dict[str, Any]) -> None:
    images = FakeImages.failing(*[Fault("status", 200, body)] * 2)
    async with at(images, max_attempts=2) as (maker, _):
        assert isinstance(await one(maker), EndpointError)
    assert len(images.seen) == 2


@pytest.mark.parametrize("body", [{"data": []}, {"data": [{"error": {"message": "flagged by moderation"}}]}])
async def test_an_image_that_is_withheld_is_refused_and_not_paid_for_again(body: dict[str, Any]) -> None:
    images = FakeImages.failing(Fault("status", 200, body))
    async with at(images) as (maker, _):
        assert isinstance(await one(maker), RefusedError)
    assert len(images.seen) == 1


async def test_bytes_that_are_no_image_are_a_failure() -> None:
    images = FakeImages.failing(Fault("status", 200, {"data": [{"b64_json": "aGVsbG8="}]}))
    async with at(images) as (maker, _):
        made = await one(maker)
    assert isinstance(made, BackendError)
    assert "not an image" in str(made)


async def test_an_empty_prompt_is_refused_without_a_call() -> None:
    images = FakeImages()
    async with at(images) as (maker, _):
        assert isinstance(await one(maker, "  "), UsageError)
    assert images.seen == []


async def test_an_unknown_model_stops_everything() -> None:
    async with at(FakeImages(), model="no-such-model") as (maker, _):
        made = await one(maker)
    assert isinstance(made, EndpointStopError)
    assert "no-such-model" in str(made)


async def test_a_missing_key_is_named_by_its_variable_and_no_key_is_shown() -> None:
    with pytest.raises(MissingKeyError, match="MY_IMAGES_KEY"):
        OpenAIImageMaker(OpenAIImages(model="x", api_key_env="MY_IMAGES_KEY"), environ={})
    async with at(FakeImages()) as (maker, _):
        made = await one(maker)
        assert KEY not in repr((maker.describe(), maker.name, maker.settings, made.provenance))


async def test_a_field_that_the_endpoint_does_not_know_is_left_out_from_then_on() -> None:
    """A seed and a format are found out from its words; a size is the user's."""
    images = FakeImages.failing(
        Fault.error(400, "Unknown parameter: 'response_format'."),
        Fault.error(400, "Unknown parameter: 'seed'."),
    )
    async with at(images, response_format="b64_json", send_seed=True, size="1024x1024") as (maker, _):
        first, second = await one(maker, seed=3), await one(maker, seed=4)
        assert maker.describe()["not_sent"] == ["response_format", "seed"]
    assert (first.provenance.seed, second.provenance.seed) == (None, None)
    assert len(images.seen) == 4
    assert set(images.seen[-1].fields) == {"model", "prompt", "n", "size"}


async def test_a_size_that_the_endpoint_refuses_is_named() -> None:
    """Another size would make other images."""
    images = FakeImages.failing(Fault.error(400, "Invalid value: 'size' must be at least 655360 pixels"))
    async with at(images, size="512x512") as (maker, _):
        made = await one(maker)
    assert isinstance(made, EndpointError)
    assert "655360" in str(made)
