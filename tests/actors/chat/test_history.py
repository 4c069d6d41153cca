from __future__ import annotations

import itertools

import pytest
from hypothesis import given
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
        messages += [Message("user", tuple(parts)), Message("assistant", (f"program {turn}",))]  # type: ignore[arg-type]
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


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.integers(1, 8), st.integers(1, 6))
def test_what_is_sent_is_mostly_a_prefix_of_what_is_sent_next(
    rounds: list[int], max_images: int, block: int
) -> None:
    """It changes only in the rounds in which a block leaves; text is never lost; the limit holds."""
    sent = [
        drop_images_in_blocks(conversation(rounds[:n]), max_images, block) for n in range(1, len(rounds) + 1)
    ]
    changes = sum(after[: len(before)] != before for before, after in itertools.pairwise(sent))
    # Twice a block where the newest message held part of it back.
    assert changes <= 2 * -(-sum(rounds) // block)
    for n, messages in enumerate(sent, 1):
        whole = conversation(rounds[:n])
        assert len(images(messages)) <= max(max_images, rounds[n - 1])
        assert images(messages) == images(whole)[len(images(whole)) - len(images(messages)) :]
        said = [part for message in messages for part in message.parts if isinstance(part, str)]
        assert [part for part in said if part != LEFT_OUT] == [
            part for message in whole for part in message.parts if isinstance(part, str)
        ]


@pytest.mark.parametrize("n", [0, 2])
def test_without_images(n: int) -> None:
    kept = without_images(conversation([n]))
    assert images(kept) == []
    assert len(kept[1].parts) == 1 + 2 * n
