from __future__ import annotations

import pytest

from actors.chat.base import Message, Usage
from actors.chat.pricing import estimate_prompt, estimate_text, read_usage
from actors.endpoint.prices import TokenPrice
from tests.actors.chat.conftest import picture


def test_cached_tokens_have_their_own_price() -> None:
    price = TokenPrice(prompt=2, cached=0.2, completion=8)
    assert price.dollars(1000, 600, 50) == pytest.approx((400 * 2 + 600 * 0.2 + 50 * 8) / 1e6)
    assert TokenPrice(prompt=2, completion=8).dollars(1000, 600, 0) == pytest.approx(1000 * 2 / 1e6)


def test_without_a_known_price_a_call_counts_as_unpriced_and_not_as_free() -> None:
    usage = read_usage({"prompt_tokens": 1000, "completion_tokens": 10}, 1, "", None, 2)
    assert (usage.dollars, usage.unpriced) == (0.0, 2)
    assert read_usage({"prompt_tokens": 1000, "completion_tokens": 10}, 1, "", TokenPrice(), 2).unpriced == 0


def test_an_estimate_grows_with_text_and_images() -> None:
    assert estimate_text("") == 0
    assert estimate_text("abcde") == 2
    few = estimate_prompt([Message("user", ("x" * 40,))], 85)
    more = estimate_prompt([Message("user", ("x" * 40, picture(1), picture(2)))], 85)
    assert more - few == pytest.approx(170, abs=1)


@pytest.mark.parametrize(
    "reported",
    [
        None,
        {},
        [],
        {"prompt_tokens": 7},
        {"prompt_tokens": -1, "completion_tokens": 2},
        {"prompt_tokens": "7"},
    ],
)
def test_usage_that_is_missing_or_nonsense_is_estimated(reported: object) -> None:
    usage = read_usage(reported, 100, "four", TokenPrice(prompt=1, completion=1), 2)
    assert usage.estimated
    assert usage.requests == 2
    assert usage.dollars > 0


def test_usage_in_other_spellings() -> None:
    usage = read_usage(
        {"prompt_tokens": 100, "completion_tokens": 5, "prompt_cache_hit_tokens": 60}, 1, "", TokenPrice(), 1
    )
    assert usage == Usage(100, 60, 5, 1, 0.0, False)
    over = {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 99}}
    assert read_usage(over, 1, "", None, 1).cached_tokens == 10
    null = {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": None}
    assert read_usage(null, 1, "", TokenPrice(), 1) == Usage(10, 0, 5, 1, 0.0, False)


def test_usage_adds_up() -> None:
    total = Usage(1, 2, 3, 1, 0.5) + Usage(10, 20, 30, 2, 1.0, True)
    assert total == Usage(11, 22, 33, 3, 1.5, True)
