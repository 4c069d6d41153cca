"""Tokens and dollars of one call: as the endpoint reports them, else estimated and marked so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actors.chat.base import Message
from actors.chat.reply import Usage
from actors.endpoint.prices import TokenPrice, count_of

CHARS_PER_TOKEN = 4
"""English text and code with the tokenizers of today's large models: a rule of thumb, used for limits."""
_TOKENS_PER_MESSAGE = 4
_PROMPT, _COMPLETION = ("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")
_CACHED = ("prompt_cache_hit_tokens", "cached_tokens")
"""Spellings of cached prompt tokens at the top of `usage`: DeepSeek's and Kimi's."""
_MAX_DOLLARS = 1e4


def estimate_prompt(messages: Sequence[Message], image_tokens: int) -> int:
    """Return about how many prompt tokens the messages are."""
    return sum(
        _TOKENS_PER_MESSAGE + estimate_text(message.text) + image_tokens * len(message.images)
        for message in messages
    )


def estimate_text(text: str) -> int:
    """Return about how many tokens a text is, rounded up."""
    return -(-len(text) // CHARS_PER_TOKEN)


def read_usage(
    reported: Any, estimated_prompt: int, text: str, price: TokenPrice | None, requests: int
) -> Usage:
    """Return the usage in a response's `usage` field; what it does not say is estimated. No `price`: it is
    unknown.

    Some servers count thoughts in the total only, so what the total has beyond the prompt was completion. A
    `cost` that the server names (OpenRouter) is what was charged, whatever the price list says.
    """
    fields = reported if isinstance(reported, dict) else {}
    prompt, completion = (
        next((count for name in names if (count := count_of(fields.get(name))) is not None), None)
        for names in (_PROMPT, _COMPLETION)
    )
    total = count_of(fields.get("total_tokens"))
    estimated = prompt is None or completion is None
    if prompt is not None and completion is not None and total is not None:
        completion = max(completion, total - prompt)
    details = fields.get("prompt_tokens_details")
    named = (details.get("cached_tokens") if isinstance(details, dict) else None, *map(fields.get, _CACHED))
    cached = next((count for count in map(count_of, named) if count is not None), 0)
    prompt = estimated_prompt if prompt is None else prompt
    completion = estimate_text(text) if completion is None else completion
    cached = min(cached, prompt)
    cost = fields.get("cost")
    if not isinstance(cost, int | float) or isinstance(cost, bool) or not 0 <= cost < _MAX_DOLLARS:
        cost = None if price is None else price.dollars(prompt, cached, completion)
    unpriced = requests if cost is None else 0
    return Usage(prompt, cached, completion, requests, float(cost or 0.0), estimated, unpriced)
