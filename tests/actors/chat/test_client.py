"""The chat models of the layers above, over a scripted model and pool."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actors.chat.base import ChatModel, ChatRequest, Message
from actors.chat.client import PoolChatModel, TextOnlyChat
from actors.chat.reply import ChatReply
from actors.errors import BackendError
from actors.images import Image
from tests.actors.chat.conftest import picture


class EchoModel:
    name = "echo"
    sees_images = False

    def __init__(self) -> None:
        self.asked: list[ChatRequest] = []

    async def complete(self, request: ChatRequest) -> ChatReply:
        assert not any(message.images for message in request.messages)
        self.asked.append(request)
        return ChatReply(request.messages[-1].text)


class Describer:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.fail = 0
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, image: Image) -> str:
        self.asked.append(image.id)
        await self.go.wait()
        if self.fail:
            self.fail -= 1
            raise BackendError("the describer is down")
        return f"picture {image.id[:4]}"


def ask(*parts: Any) -> ChatRequest:
    return ChatRequest((Message("user", parts),), "unit 7", 99, 0.5, 3)


async def test_a_request_goes_to_the_pool_under_its_conversation() -> None:
    class Pool:
        async def submit(self, request: Any, *, agent: str) -> Any:
            assert agent == "unit 7"
            return ChatReply(f"pooled {request.max_tokens}")

    model: ChatModel = PoolChatModel(Pool(), "m", True)
    assert (await model.complete(ask("hi"))).text == "pooled 99"
    assert (model.name, model.sees_images) == ("m", True)


async def test_images_without_a_describer_become_a_placeholder() -> None:
    model = TextOnlyChat(EchoModel())
    assert not model.sees_images
    reply = await model.complete(ask("look:", picture(1)))
    assert reply.text == "look:\n[image: not shown; this model cannot see]"


async def test_each_image_is_described_once_and_always_in_the_same_words() -> None:
    echo, describe = EchoModel(), Describer()
    model = TextOnlyChat(echo, describe)
    first, second = picture(1), picture(2)
    reply = await model.complete(ask("a", first, "b", second, first))
    again = await model.complete(ask("a", first, "b", second, first))
    assert reply == again
    assert sorted(describe.asked) == sorted([first.id, second.id])
    assert reply.text.count(f"described by another model: picture {first.id[:4]}") == 2
    sent = echo.asked[0]
    assert (sent.conversation, sent.max_tokens, sent.temperature, sent.seed) == ("unit 7", 99, 0.5, 3)


async def test_conversations_share_a_description_that_is_under_way() -> None:
    describe = Describer()
    describe.go.clear()
    model = TextOnlyChat(EchoModel(), describe)
    one, other = (asyncio.ensure_future(model.complete(ask(picture(1)))) for _ in range(2))
    await asyncio.sleep(0)
    one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one
    describe.go.set()
    assert "picture" in (await other).text
    assert len(describe.asked) == 1


async def test_a_failed_description_fails_the_request_and_is_tried_again_by_the_next() -> None:
    describe = Describer()
    describe.fail = 1
    model = TextOnlyChat(EchoModel(), describe)
    with pytest.raises(BackendError, match="describer is down"):
        await model.complete(ask(picture(1)))
    assert "picture" in (await model.complete(ask(picture(1)))).text


async def test_text_alone_goes_through_as_it_is() -> None:
    echo = EchoModel()
    request = ask("only words")
    await TextOnlyChat(echo).complete(request)
    assert echo.asked[0] is request
