"""The built-in models behind the machinery's seam."""

from __future__ import annotations

from dataclasses import replace

from actors.chat.base import ChatRequest, Message
from actors.chat.settings import BuiltinChat
from actors.chat.tasks import DescribeUnitTask
from actors.embedded.chat_model import BuiltinBackend

REQUEST = ChatRequest(
    (Message("system", ("the API",)), Message("user", ("[DESCRIPTION] [LABEL]",))), "a", seed=1
)


async def test_the_scientist_answers_through_its_backend() -> None:
    backend = BuiltinBackend(BuiltinChat(model="scientist"))
    try:
        (reply,) = await backend.run([REQUEST])
    finally:
        await backend.close()
    assert "dataset_exemplars" in reply.text
    assert reply.model == "builtin:scientist (embedded stand-in)"


async def test_equal_conversations_are_one_piece_of_work() -> None:
    backend = BuiltinBackend(BuiltinChat(model="observer"))
    try:
        again = ChatRequest(REQUEST.messages, "another name", seed=1)
        assert backend.key(REQUEST) == backend.key(again)
        assert backend.key(REQUEST) != backend.key(ChatRequest(REQUEST.messages, "a", seed=2))
        assert backend.key(REQUEST) != backend.key(replace(REQUEST, task=DescribeUnitTask()))
        assert backend.max_batch > 1
    finally:
        await backend.close()


def test_the_factory_builds_it_from_settings() -> None:
    from actors.chat.factory import build_backend

    assert build_backend(BuiltinChat(model="observer")).name == "builtin:observer"
