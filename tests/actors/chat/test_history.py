from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.chat.base import Message
from actors.chat.history import LEFT_OUT, drop_images_in_blocks, without_images
from tests.actors.chat.conftest import picture

PICTURES = [picture(i, 2, 3) for i in range(30)]


def conversation(images_per_round: list[int]) -> tuple[Message, ...]:
    messages, shown = [Message("system", ("page",))], iter(PICTURES)
    for turn, n in enumerate(images_per_round):
        parts: list[object] = [f"title {turn}"]
        for _ in range(n):
            parts += [next(shown), f"activation {turn}"]
        messages.append(Message("user", tuple(parts)))  # type: ignore[arg-type]
        messages.append(Message("assistant", (f"program {turn}",)))
    return tuple(messages[:-1])


def images(messages: tuple[Message, ...]) -> list[str]:
    return [image.id for message in messages for image in message.images]


def test_a_conversation_within_the_limit_is_unchanged() -> None:
    messages = conversation([2, 3])
    assert drop_images_in_blocks(messages, 5, 2) == messages
    assert drop_images_in_blocks((), 5, 2) == ()


def test_the_oldest_images_leave_in_blocks_and_their_words_stay() -> None:
    messages = conversation([3, 3, 1])
    kept = drop_images_in_blocks(messages, 6, 2)
    assert images(kept) == [p.id for p in PICTURES[2:7]]
    assert kept[1].parts == (
        "title 0",
        LEFT_OUT,
        "activation 0",
        LEFT_OUT,
        "activation 0",
        PICTURES[2],
        "activation 0",
    )
    assert kept[2:] == messages[2:]


def test_the_newest_message_keeps_all_its_images() -> None:
    kept = drop_images_in_blocks(conversation([2, 9]), 4, 3)
    assert images(kept) == [p.id for p in PICTURES[2:11]]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.integers(1, 8), st.integers(1, 6))
def test_each_history_is_a_prefix_of_the_next_unless_a_block_leaves(
    rounds: list[int], max_images: int, block: int
) -> None:
    """Text is never lost, the newest images always stay, and the limit holds."""
    wholes = [conversation(rounds[:n]) for n in range(1, len(rounds) + 1)]
    sent = [drop_images_in_blocks(whole, max_images, block) for whole in wholes]
    dropped = [len(images(whole)) - len(images(kept)) for whole, kept in zip(wholes, sent, strict=True)]
    for n, (before, after) in enumerate(itertools.pairwise(sent)):
        assert dropped[n + 1] >= dropped[n]
        assert (after[: len(before)] == before) == (dropped[n + 1] == dropped[n])
    if max(rounds) + block <= max_images:
        assert all(count % block == 0 for count in dropped)
    for newest, whole, kept, count in zip(rounds, wholes, sent, dropped, strict=True):
        assert len(images(kept)) <= max(max_images, newest)
        assert images(kept) == images(whole)[count:]
        said = [part for message in kept for part in message.parts if part != LEFT_OUT]
        assert [part for part in said if isinstance(part, str)] == [
            part for message in whole for part in message.parts if isinstance(part, str)
        ]


@pytest.mark.parametrize("n", [0, 2])
def test_without_images(n: int) -> None:
    kept = without_images(conversation([n]))
    assert images(kept) == []
    assert len(kept[1].parts) == 1 + 2 * n
