"""From messages to the JSON of chat completions, the same bytes for the same messages.

Prefix caches compare bytes, so nothing here depends on time, on what else was sent, or on the rest of
the conversation. Each image is encoded once; base64 of a JPEG is kept by content id.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import NotRequired, TypedDict

import PIL.Image

from actors.chat.base import Message
from actors.chat.settings import OpenAIChat
from actors.images import Image, data_url
from actors.serving.lru import LruCache

_CACHE_BYTES = 256 * 2**20
"""The pictures of a few hundred conversations: with less, each call would encode most of its own again."""


class ImageUrl(TypedDict):
    """An image as a data URL."""

    url: str
    detail: NotRequired[str]


class EncodedPart(TypedDict):
    """One part of a message: `type` is "text" or "image_url", the field of that name holds it."""

    type: str
    text: NotRequired[str]
    image_url: NotRequired[ImageUrl]
    cache_control: NotRequired[dict[str, str]]


class EncodedMessage(TypedDict):
    """One message of a request to a chat endpoint."""

    role: str
    content: str | list[EncodedPart]
    reasoning_content: NotRequired[str]
    reasoning: NotRequired[str]


def as_utf8(text: str) -> str:
    """Return the text with lone surrogates, which a program may print and no encoder takes, replaced by
    `?`."""
    return text.encode("utf-8", "replace").decode("utf-8")


class MessageEncoder:
    """Encodes conversations for one endpoint; remembers encoded images up to `cache_bytes`."""

    def __init__(self, settings: OpenAIChat, cache_bytes: int = _CACHE_BYTES) -> None:
        self._settings = settings
        self._urls: LruCache[str] = LruCache(cache_bytes)
        self.encoded = 0
        """Images that were really encoded, for tests and benchmarks."""

    def encode(
        self, messages: Sequence[Message], *, detail: bool = True, marks: bool = True
    ) -> list[EncodedMessage]:
        """Return the `messages` field of the request; `detail` and `marks` are left out of it if False."""
        encoded = [self._message(message, detail) for message in messages]
        if self._settings.cache_breakpoints and marks and encoded:
            for position in {0, len(encoded) - 1}:
                _mark(encoded[position])
        return encoded

    def bytes(self, messages: Sequence[Message]) -> int:
        """Return about how many bytes the messages are when they are sent."""
        return sum(
            len(part.encode("utf-8", "replace")) if isinstance(part, str) else len(self._url(part))
            for message in messages
            for part in message.parts
        )

    def _message(self, message: Message, detail: bool) -> EncodedMessage:
        if message.images:
            parts = [self._part(part, detail) for part in message.parts]
            return {"role": message.role, "content": parts}
        # A plain string: endpoints for text-only models take nothing else.
        encoded: EncodedMessage = {"role": message.role, "content": as_utf8(message.text)}
        if self._settings.send_thoughts is not None and message.thoughts:
            encoded[self._settings.send_thoughts] = as_utf8(message.thoughts)
        return encoded

    def _part(self, part: str | Image, detail: bool) -> EncodedPart:
        if isinstance(part, str):
            return {"type": "text", "text": as_utf8(part)}
        url: ImageUrl = {"url": self._url(part)}
        if self._settings.detail is not None and detail:
            url["detail"] = self._settings.detail
        return {"type": "image_url", "image_url": url}

    def _url(self, image: Image) -> str:
        url = self._urls.get(image.id)
        if url is not None:
            return url
        settings = self._settings
        buffer = io.BytesIO()
        within_limits(image.to_pil(), settings).save(buffer, "JPEG", quality=settings.jpeg_quality)
        url = data_url(buffer.getvalue(), "image/jpeg")
        self.encoded += 1
        self._urls.put(image.id, url, len(url))
        return url


def within_limits(picture: PIL.Image.Image, settings: OpenAIChat) -> PIL.Image.Image:
    """Return a picture as models take it: thin ones padded with gray, small ones enlarged, large ones
    shrunk."""
    width, height = picture.size
    longest, shortest = max(height, width), min(height, width)
    least = max(1, min(settings.image_least_side, settings.image_side // 4))
    padded = max(shortest, math.ceil(longest / min(settings.image_max_aspect, settings.image_side / least)))
    scale = min(settings.image_side / longest, max(1.0, least / padded))
    if settings.image_pixels is not None:
        scale = min(scale, math.sqrt(settings.image_pixels / (longest * padded)))
    if padded > shortest:
        size = (longest, padded) if width >= height else (padded, longest)
        page = PIL.Image.new("RGB", size, (128, 128, 128))
        page.paste(picture, ((size[0] - width) // 2, (size[1] - height) // 2))
        picture = page
    if scale == 1:
        return picture
    target = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(target, PIL.Image.Resampling.LANCZOS, reducing_gap=2.0)


def _mark(message: EncodedMessage) -> None:
    content = message["content"]
    parts: list[EncodedPart] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    parts[-1]["cache_control"] = {"type": "ephemeral"}
    message["content"] = parts
