from __future__ import annotations

import pytest

from actors.chat.base import Message
from actors.chat.hosted.usage import estimate_prompt, estimate_text, read_usage
from actors.chat.reply import Usage
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


@pytest.mark.parametrize(
    ("reported", "cached", "completion"),
    [
        ({"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1850}, 0, 850),
        ({"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 623}, 0, 603),
        ({"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 218}, 0, 198),
        ({"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 0}, 0, 198),
        ({"prompt_tokens": 20, "completion_tokens": 5, "cached_tokens": 16}, 16, 5),
        ({"prompt_tokens": 20, "completion_tokens": 5, "prompt_cache_hit_tokens": 12}, 12, 5),
        ({"prompt_tokens": 20, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 8}}, 8, 5),
    ],
)
def test_thoughts_that_only_the_total_counts_are_completion(
    reported: dict[str, object], cached: int, completion: int
) -> None:
    """xAI and Gemini leave thoughts out of `completion_tokens`; cached tokens have three spellings."""
    usage = read_usage(reported, 7, "", TokenPrice(), 1)
    assert (usage.cached_tokens, usage.completion_tokens) == (cached, completion)


@pytest.mark.parametrize(
    ("cost", "dollars"), [(0.0123, 0.0123), (0, 0.0), (-1, 2.0), (True, 2.0), ("x", 2.0)]
)
def test_a_cost_that_the_server_names_is_what_was_charged(cost: object, dollars: float) -> None:
    """OpenRouter's is exact; nonsense is not believed, and a named cost needs no price list."""
    reported = {"prompt_tokens": 10**6, "completion_tokens": 0, "cost": cost}
    usage = read_usage(reported, 7, "", TokenPrice(prompt=2.0), 1)
    assert usage.dollars == pytest.approx(dollars)
    assert read_usage({**reported, "cost": 0.5}, 7, "", None, 1).unpriced == 0
