"""Blind means blind: no titles, no history, a fresh conversation an image."""

from __future__ import annotations

import asyncio

import pytest

from actors.chat.base import ChatRequest
from actors.chat.reply import ChatReply
from actors.endpoint.faults import EndpointStopError, ImageRejectedError
from agents.study.observers import BlindObservers
from tests.tools.fakes import picture_of


class EchoChat:
    name = "echo"
    sees_images = True

    def __init__(self, reply: ChatReply | None = None) -> None:
        self.requests: list[ChatRequest] = []
        self._reply = reply

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.requests.append(request)
        return self._reply or ChatReply(f"image {request.messages[1].images[0].id[:6]}\nindeed")


async def test_each_image_is_described_alone_and_its_title_stays_outside():
    chat = EchoChat()
    images = [picture_of("a"), picture_of("b"), picture_of("c")]
    text = await BlindObservers(chat).describe(images, ["my hypothesis: dogs", "b", "c"])
    assert [line.split(":")[0] for line in text.splitlines()] == ['"my hypothesis', '"b"', '"c"']
    assert all(
        f"image {image.id[:6]} indeed" in line for image, line in zip(images, text.splitlines(), strict=True)
    )
    for request in chat.requests:
        assert len(request.messages) == 2
        assert len(request.messages[1].images) == 1
        assert "hypothesis" not in "".join(message.text for message in request.messages)


async def test_a_summary_sees_all_images_at_once():
    chat = EchoChat()
    images = [picture_of("a"), picture_of("b")]
    await BlindObservers(chat).summarize(images)
    assert chat.requests[0].messages[1].images == tuple(images)


@pytest.mark.parametrize("reply", [ChatReply("", "refused"), ChatReply("x", "filtered"), ChatReply(" ")])
async def test_an_empty_description_is_reported(reply):
    text = await BlindObservers(EchoChat(reply)).describe([picture_of("a")], ["t"])
    assert "gave no description" in text


async def test_an_image_that_the_server_fails_on_costs_its_own_description():
    """The others are described, and the line says what happened."""

    class Choosy(EchoChat):
        async def complete(self, request: ChatRequest) -> ChatReply:
            if request.messages[1].images[0] == picture_of("b"):
                raise ImageRejectedError("the endpoint h fails on the image 12 (1x9 px).")
            return await super().complete(request)

    images = [picture_of("a"), picture_of("b")]
    first, second = (await BlindObservers(Choosy()).describe(images, ["a", "b"])).splitlines()
    assert "indeed" in first
    assert "gave no description: the endpoint h fails on the image" in second


async def test_a_fault_of_one_description_keeps_its_type():
    """A revoked key must stop the run, not fail the study as a fault of the program; looks are paid for."""

    class Failing(EchoChat):
        async def complete(self, request: ChatRequest) -> ChatReply:
            reply = await super().complete(request)
            await asyncio.sleep(0)
            if len(self.requests) == 3 and request is self.requests[1]:
                raise EndpointStopError("the key was revoked.")
            self.answered += 1
            return reply

        answered = 0

    chat = Failing()
    images = [picture_of("a"), picture_of("b"), picture_of("c")]
    with pytest.raises(EndpointStopError, match="revoked"):
        await BlindObservers(chat).describe(images, ["a", "b", "c"])
    assert chat.answered == 2
