"""Prices of endpoints: for tokens, and for images. Unknown is None, never zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from actors.settings import Settings

_MILLION = 1e6


class TokenPrice(Settings):
    """US dollars per million tokens, as the provider's price list gives them."""

    prompt: float = Field(default=0.0, ge=0)
    """Prompt tokens."""
    cached: float | None = Field(default=None, ge=0)
    """Prompt tokens that the provider found in its prefix cache; null: the same as `prompt`."""
    completion: float = Field(default=0.0, ge=0)
    """Completion tokens."""

    def dollars(self, prompt: float, cached: float, completion: float) -> float:
        """Return the price of a call; `cached` of the `prompt` tokens came from the provider's cache."""
        cached_price = self.prompt if self.cached is None else self.cached
        fresh = (prompt - cached) * self.prompt
        return (fresh + cached * cached_price + completion * self.completion) / _MILLION


class ImageTokenPrice(Settings):
    """US dollars per million tokens of a model that bills images by tokens."""

    text: float = Field(default=0.0, ge=0)
    """Tokens of the prompt's text."""
    image: float = Field(default=0.0, ge=0)
    """Tokens of images that are sent, when editing."""
    output: float = Field(ge=0)
    """Tokens of images that are made."""


class ImagePrice(Settings):
    """The price of an image: fixed, or a price for tokens where the endpoint's answers count them."""

    image: float | dict[str, float] | None = None
    """US dollars per image: one number, or one for each word of `quality` (`""` where none is set)."""
    tokens: ImageTokenPrice | None = None
    """Prices for tokens. They win over `image` where the answer says how many tokens were used."""

    @model_validator(mode="after")
    def _says_something(self) -> ImagePrice:
        values = self.image.values() if isinstance(self.image, dict) else (self.image or 0.0,)
        if self.image is None and self.tokens is None:
            raise ValueError("give `image` (dollars per image) or `tokens` (dollars per million tokens)")
        if any(value < 0 for value in values):
            raise ValueError("a price must be at least 0")
        return self

    def expected(self, quality: str | None) -> float | None:
        """Return US dollars for an image before it is made; None where only the answer has it."""
        if isinstance(self.image, dict):
            # Without a word the endpoint chooses: the dearest of its prices is the safe one.
            return self.image.get(quality or "", max(self.image.values(), default=None))
        return self.image

    def charged(self, quality: str | None, usage: object) -> float | None:
        """Return US dollars for an image that was made; `usage` is that field of the endpoint's answer."""
        if self.tokens is not None and isinstance(usage, Mapping):
            output = count_of(usage.get("output_tokens"))
            if output is not None:
                details = usage.get("input_tokens_details")
                details = details if isinstance(details, Mapping) else {}
                sent = count_of(usage.get("input_tokens")) or 0
                images = min(count_of(details.get("image_tokens")) or 0, sent)
                price = self.tokens
                return (
                    (sent - images) * price.text + images * price.image + output * price.output
                ) / _MILLION
        return self.expected(quality)


def count_of(value: Any) -> int | None:
    """Return a reported number of tokens, also one sent as a text or with a decimal point; None for what no
    call can have cost."""
    if isinstance(value, str) and value.isdecimal():
        value = int(value[:12])
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 10**9:
        return None
    return int(value)
