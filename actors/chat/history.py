"""What of a long conversation is sent again.

An append-only conversation is the cheapest where the endpoint caches prefixes: each round then costs
its own tokens and a tenth of the rest. Where it does not, every image is paid for again in every round,
and old images are the part that can be missed: their titles, activations and descriptions stay.
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.chat.base import Message
from actors.images import Image

LEFT_OUT = "[image left out: shown earlier in this conversation]"
NOT_SHOWN = "[image: not shown; this model cannot see]"


def without_images(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the messages with every image replaced by `NOT_SHOWN`."""
    return tuple(
        Message(message.role, tuple(part if isinstance(part, str) else NOT_SHOWN for part in message.parts))
        for message in messages
    )


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
            message = Message(message.role, tuple(parts))
        kept.append(message)
    return tuple(kept)
