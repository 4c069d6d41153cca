"""Selects what of a long conversation is sent again.

An append-only conversation is the cheapest where the endpoint caches prefixes: each round then costs
its own tokens and a tenth of the rest. Where it does not, every image is paid for again in every round,
and old images are the part that can be missed: their titles, activations and descriptions stay.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import replace

from actors.chat.base import Message, Part
from actors.images import Image

LEFT_OUT = "[image left out: shown earlier in this conversation]"
TOO_MANY = "[image left out: more images than the model takes at once]"
NOT_SHOWN = "[image: not shown; this model cannot see]"


def without_images(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the messages with every image replaced by `NOT_SHOWN`."""
    return tuple(_replaced(message, lambda _: True, NOT_SHOWN) for message in messages)


def leave_out(messages: Sequence[Message], image_ids: Container[str], words: str) -> tuple[Message, ...]:
    """Return the messages with each of these images replaced by `words`."""
    return tuple(_replaced(message, lambda image: image.id in image_ids, words) for message in messages)


def _replaced(message: Message, chosen: Callable[[Image], bool], words: str) -> Message:
    parts = tuple(words if isinstance(part, Image) and chosen(part) else part for part in message.parts)
    return replace(message, parts=parts)


def keep_images(messages: Sequence[Message], most: int) -> tuple[Message, ...]:
    """Return the messages with at most `most` images: the oldest leave first, and of the newest message the
    last.

    A fifth of `most` leaves at once, so that several rounds in a row begin with the same bytes
    (`drop_images_in_blocks`).
    """
    kept = drop_images_in_blocks(messages, most, max(1, most // 5))
    over = sum(len(message.images) for message in kept) - most
    if over <= 0:
        return kept
    newest = kept[-1]
    allowed = len(newest.images) - over
    parts: list[Part] = []
    for part in newest.parts:
        if isinstance(part, Image):
            allowed -= 1
            part = part if allowed >= 0 else TOO_MANY
        parts.append(part)
    return (*kept[:-1], replace(newest, parts=tuple(parts)))


def fold_system(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the messages with a leading system message put in front of the first user's words.

    Some models' templates know no system role.
    """
    if len(messages) < 2 or messages[0].role != "system" or messages[1].role != "user":
        return tuple(messages)
    return (Message("user", (*messages[0].parts, *messages[1].parts)), *messages[2:])


def drop_images_in_blocks(messages: Sequence[Message], max_images: int, block: int) -> tuple[Message, ...]:
    """Return the messages with the oldest images replaced by `LEFT_OUT`, at most `max_images` left.

    Images leave `block` at a time, so that between two such steps each conversation sent is a prefix of
    the next. The newest message keeps all its images, since its reader has not seen them yet.
    """
    total = sum(len(message.images) for message in messages)
    over = total - max_images
    if over <= 0:
        return tuple(messages)
    newest = len(messages[-1].images)
    to_drop = min(-(-over // block) * block, total - newest)
    kept: list[Message] = []
    for message in messages:
        if to_drop > 0 and message.images:
            parts = list(message.parts)
            for i, part in enumerate(parts):
                if to_drop > 0 and isinstance(part, Image):
                    parts[i] = LEFT_OUT
                    to_drop -= 1
            message = replace(message, parts=tuple(parts))
        kept.append(message)
    return tuple(kept)
