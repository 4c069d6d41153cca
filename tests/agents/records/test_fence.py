"""A host that was given up cannot go on when it wakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.records.fence import FencedError, FencedStore, fence
from agents.records.journal import Journal
from agents.records.recorded_chat import RecordedChat
from agents.records.store import Store
from tests.agents.records.test_journal import CountingChat, ask


def test_a_host_that_is_given_up_can_read_and_no_longer_write(tmp_path: Path) -> None:
    store, given_up, other = Store(tmp_path), FencedStore(tmp_path, "one"), FencedStore(tmp_path, "two")
    assert given_up.put("a", b"before")
    fence(store, "one")
    fence(store, "one")
    for write in (given_up.put, given_up.replace):
        with pytest.raises(FencedError):
            write("b", b"after")
    assert given_up.get("a") == b"before"
    assert not store.has("b")
    assert other.put("b", b"the one that has its work now")


async def test_an_answer_that_reaches_a_host_after_it_was_given_up_is_kept(tmp_path: Path) -> None:
    class Slow(CountingChat):
        async def complete(self, request):
            fence(Store(tmp_path), "one")
            return await super().complete(request)

    journal = Journal(FencedStore(tmp_path, "one"), "u")
    await RecordedChat(Slow(), journal, "interpreter").complete(ask("a"))
    other = CountingChat()
    await RecordedChat(other, Journal(FencedStore(tmp_path, "two"), "u"), "interpreter").complete(ask("a"))
    assert not other.asked


async def test_a_host_that_is_given_up_buys_nothing_more(tmp_path: Path) -> None:
    model = CountingChat()
    chat = RecordedChat(model, Journal(FencedStore(tmp_path, "one"), "u"), "interpreter")
    fence(Store(tmp_path), "one")
    with pytest.raises(FencedError):
        await chat.complete(ask("a"))
    assert not model.asked
