"""From messages to the JSON of chat completions, the same bytes for the same messages.

Prefix caches compare bytes, so nothing here depends on time, on what else was sent, or on the rest of
the conversation. Each image is encoded once; base64 of a JPEG is kept by content id.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from actors.chat.base import Message
from actors.chat.settings import OpenAIChat
from actors.images import Image, data_url, encode_jpeg

_CACHE_BYTES = 256 * 2**20
"""The pictures of a few hundred conversations: with less, each call would encode most of its own again."""
_EPHEMERAL = {"type": "ephemeral"}


def as_utf8(text: str) -> str:
    """Return the text with lone surrogates, which a program may print and no encoder takes, replaced by `?`."""
    return text.encode("utf-8", "replace").decode("utf-8")


class MessageEncoder:
    """Encodes conversations for one endpoint; remembers encoded images up to `cache_bytes`."""

    def __init__(self, settings: OpenAIChat, cache_bytes: int = _CACHE_BYTES) -> None:
        self._settings, self._limit = settings, cache_bytes
        self._urls: OrderedDict[str, str] = OrderedDict()
        self._held = 0
        self.encoded = 0
        """Images that were really encoded, for tests and benchmarks."""

    def encode(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Return the `messages` field of the request."""
        encoded = [self._message(message) for message in messages]
        if self._settings.cache_breakpoints and encoded:
            for position in {0, len(encoded) - 1}:
                _mark(encoded[position])
        return encoded

    def _message(self, message: Message) -> dict[str, Any]:
        if not message.images:
            # A plain string: endpoints for text-only models take nothing else.
            return {"role": message.role, "content": as_utf8(message.text)}
        return {"role": message.role, "content": [self._part(part) for part in message.parts]}

    def _part(self, part: str | Image) -> dict[str, Any]:
        if isinstance(part, str):
            return {"type": "text", "text": as_utf8(part)}
        url: dict[str, Any] = {"url": self._url(part)}
        if self._settings.detail is not None:
            url["detail"] = self._settings.detail
        return {"type": "image_url", "image_url": url}

    def _url(self, image: Image) -> str:
        url = self._urls.get(image.id)
        if url is not None:
            self._urls.move_to_end(image.id)
            return url
        settings = self._settings
        url = data_url(encode_jpeg(image, settings.jpeg_quality, settings.image_side), "image/jpeg")
        self.encoded += 1
        self._urls[image.id] = url
        self._held += len(url)
        while self._held > self._limit and len(self._urls) > 1:
            self._held -= len(self._urls.popitem(last=False)[1])
        return url


def _mark(message: dict[str, Any]) -> None:
    if isinstance(message["content"], str):
        message["content"] = [{"type": "text", "text": message["content"]}]
    message["content"][-1]["cache_control"] = _EPHEMERAL
