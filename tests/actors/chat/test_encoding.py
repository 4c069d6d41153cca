from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import PIL.Image
import pytest

from actors.chat.base import Message
from actors.chat.encoding import MessageEncoder, within_limits
from actors.chat.settings import OpenAIChat
from actors.images import Image
from tests.actors.chat.conftest import picture


def encoder(cache_bytes: int = 1 << 20, **settings: Any) -> MessageEncoder:
    return MessageEncoder(OpenAIChat(model="m", **settings), cache_bytes)


def test_an_image_is_a_jpeg_of_the_settings_size_and_quality() -> None:
    message = Message("user", (picture(1, 100, 300),))
    sizes = []
    for quality in (30, 95):
        (encoded,) = encoder(image_side=150, jpeg_quality=quality, detail="low").encode([message])
        (part,) = encoded["content"]
        assert part["image_url"]["detail"] == "low"
        head, _, data = part["image_url"]["url"].partition(",")
        assert head == "data:image/jpeg;base64"
        jpeg = base64.b64decode(data)
        assert PIL.Image.open(io.BytesIO(jpeg)).size == (150, 50)
        sizes.append(len(jpeg))
    assert sizes[0] < sizes[1]
    smooth = np.asarray(PIL.Image.open(io.BytesIO(jpeg)))
    assert smooth.shape == (50, 150, 3)


def sent_size(width: int, height: int, **settings: Any) -> tuple[int, int]:
    (encoded,) = encoder(**settings).encode([Message("user", (picture(1, height, width),))])
    data = base64.b64decode(encoded["content"][0]["image_url"]["url"].partition(",")[2])
    size: tuple[int, int] = PIL.Image.open(io.BytesIO(data)).size
    return size


@pytest.mark.parametrize(
    ("size", "settings", "sent"),
    [
        ((28, 28), {}, (56, 56)),
        ((32, 32), {"image_least_side": 112, "image_side": 448}, (112, 112)),
        ((500, 19), {}, (224, 56)),
        ((19, 500), {}, (56, 224)),
        ((1, 1), {}, (56, 56)),
        ((1, 8000), {}, (56, 224)),
        ((300, 10), {"image_side": 1024, "image_max_aspect": 5}, (300, 60)),
        ((1000, 1000), {"image_side": 1024, "image_pixels": 250_000}, (500, 500)),
        ((224, 160), {}, (224, 160)),
        ((640, 480), {}, (224, 168)),
        ((64, 32), {"image_side": 48}, (48, 24)),
    ],
)
def test_an_image_is_brought_within_what_models_take(
    size: tuple[int, int], settings: dict[str, Any], sent: tuple[int, int]
) -> None:
    """Small ones are enlarged, thin ones padded, large ones shrunk, and others are left as they are."""
    assert sent_size(*size, **settings) == sent


def test_a_thin_image_is_padded_with_gray() -> None:
    """A stripe stays a stripe, in the middle."""
    white = Image.from_pixels(np.full((20, 400, 3), 255, np.uint8))
    padded = np.asarray(within_limits(white.to_pil(), OpenAIChat(model="m")))
    assert padded.shape == (56, 224, 3)
    assert padded[0].mean() == pytest.approx(128, abs=3)
    assert padded[28].mean() == pytest.approx(255, abs=3)


def test_detail_can_be_left_out() -> None:
    (encoded,) = encoder(detail=None).encode([Message("user", (picture(1),))])
    assert set(encoded["content"][0]["image_url"]) == {"url"}


def test_text_alone_is_a_plain_string() -> None:
    assert encoder().encode([Message("user", ("a", "b"))]) == [{"role": "user", "content": "a\nb"}]


def test_an_image_is_encoded_once_while_there_is_room() -> None:
    first, second = picture(1), picture(2)
    roomy = encoder()
    for _ in range(3):
        roomy.encode([Message("user", (first, second, first))])
    assert roomy.encoded == 2
    tight = encoder(cache_bytes=1)
    once = tight.encode([Message("user", (first, second))])
    again = tight.encode([Message("user", (first, second))])
    assert tight.encoded == 4
    assert once == again


def test_marking_a_breakpoint_does_not_change_what_is_remembered() -> None:
    marked = encoder(cache_breakpoints=True)
    messages = [Message("system", ("page",)), Message("user", ("look", picture(1)))]
    first = marked.encode(messages)
    longer = marked.encode([*messages, Message("assistant", ("ok",)), Message("user", ("more",))])
    assert "cache_control" in first[1]["content"][-1]
    assert "cache_control" not in longer[1]["content"][-1]
    assert longer[3]["content"] == [{"type": "text", "text": "more", "cache_control": {"type": "ephemeral"}}]
    assert marked.encode(messages) == first
