"""One cheap question to a chat endpoint, asked as agents ask: with a system message and two small images.

It goes through the real backend, so that what the endpoint refuses is found out in the same way as in a run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from actors.chat.base import ChatRequest, Message
from actors.chat.hosted.openai_compatible import OpenAIBackend
from actors.chat.reply import ChatReply
from actors.chat.settings import OpenAIChat
from actors.images import Image

_COLORS = {"red": (220, 20, 20), "blue": (20, 40, 220)}
SYSTEM = "You answer in a few words."
_SIDE = 64
_MAX_TOKENS = 64


@dataclass(frozen=True, slots=True)
class ChatProbe:
    """The result of one question."""

    reply: ChatReply
    seconds: float
    named_colors: bool
    """Whether the reply names the colors of both images. If not, the model is blind, or weak."""
    suggested: Mapping[str, Any]
    """Settings that say from the start what the endpoint was found to take; {} where it takes everything."""


def question(sees_images: bool) -> ChatRequest:
    """Return the question."""
    pictures = [Image.from_pixels(np.full((_SIDE, _SIDE, 3), color, np.uint8)) for color in _COLORS.values()]
    ask = "Name the color of each of these two images, one word for each, and nothing else."
    parts: tuple[str | Image, ...] = (ask, *pictures) if sees_images else ("Say: ready.",)
    return ChatRequest(
        (Message("system", (SYSTEM,)), Message("user", parts)),
        conversation="probe",
        max_tokens=_MAX_TOKENS,
        seed=0,
    )


async def ask(
    settings: OpenAIChat, *, within_s: float, environ: Mapping[str, str] = os.environ, **collaborators: Any
) -> ChatProbe:
    """Ask the endpoint once; faults that usually pass are tried once more within `within_s` seconds.

    Raises:
        MaiaError: As `OpenAIBackend.complete`; EndpointStopError for a key, account or model that cannot
            work.
    """
    # Not in a batch, which would be billed, and answered long after `within_s`.
    brief = settings.model_copy(update={"max_attempts": 2, "deadline_s": within_s, "batch": None})
    backend = OpenAIBackend(brief, environ=environ, **collaborators)
    started = time.monotonic()
    try:
        reply = await backend.complete(question(settings.sees_images))
        suggested = backend.suggested_settings()
    finally:
        await backend.close()
    text = reply.text.lower()
    return ChatProbe(reply, time.monotonic() - started, all(color in text for color in _COLORS), suggested)
