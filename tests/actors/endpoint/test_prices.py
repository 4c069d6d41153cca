"""What endpoints charge: known, counted by the answer, or unknown, and never zero for want of knowledge."""

from __future__ import annotations

import datetime

import pytest
from pydantic import ValidationError

from actors.chat.settings import OpenAIChat
from actors.endpoint.catalogue import catalogue
from actors.endpoint.prices import ImagePrice, ImageTokenPrice, TokenPrice
from actors.generation.settings import OpenAIGeneration, OpenAIImages, ScenesGeneration, dollars_per_image

BY_QUALITY = ImagePrice(image={"low": 0.01, "high": 0.2})


def test_an_image_costs_what_its_quality_says_and_without_one_the_dearest():
    assert BY_QUALITY.charged("low", None) == 0.01
    assert BY_QUALITY.charged(None, {}) == 0.2
    assert ImagePrice(image=0.04).charged("high", None) == 0.04


def test_tokens_that_the_answer_counts_win_over_a_fixed_price():
    price = ImagePrice(image=0.5, tokens=ImageTokenPrice(text=5, image=8, output=30))
    usage = {"input_tokens": 60, "input_tokens_details": {"image_tokens": 40}, "output_tokens": 272}
    assert price.charged("low", usage) == pytest.approx((20 * 5 + 40 * 8 + 272 * 30) / 1e6)
    for nonsense in (None, [], {}, {"output_tokens": -1}, {"output_tokens": "nine"}):
        assert price.charged("low", nonsense) == 0.5


def test_without_a_count_a_price_for_tokens_is_unknown():
    price = ImagePrice(tokens=ImageTokenPrice(output=30))
    assert price.expected("low") is None
    assert price.charged("low", None) is None


@pytest.mark.parametrize("price", [{}, {"image": -1}, {"image": {"low": -1}}])
def test_a_price_that_says_nothing_or_is_negative_is_refused(price):
    with pytest.raises(ValidationError):
        ImagePrice(**price)


def test_a_configured_price_wins_then_the_machine_is_free_then_the_list_is_asked():
    own = TokenPrice(prompt=7)
    assert OpenAIChat(model="gpt-6-luna", price=own).known_price == own
    assert OpenAIChat(model="gpt-6-luna").known_price == TokenPrice(prompt=0.1, cached=0.01, completion=0.5)
    assert OpenAIChat(model="gpt-6-luna-2026-08-01").known_price is not None
    assert OpenAIChat(model="nobodys").known_price is None
    assert OpenAIChat(model="nobodys", base_url="http://127.0.0.1:1/v1").known_price == TokenPrice()
    # The same name at another host is another offer.
    assert OpenAIChat(model="gpt-6-luna", base_url="https://gateway.example/v1").known_price is None


def test_the_expected_price_is_the_larger_of_maker_and_editor():
    maker = OpenAIGeneration(model="m", price=ImagePrice(image=0.1))
    editor = {"backend": "openai-images", "model": "e", "price": {"image": 0.3}}
    assert dollars_per_image(maker) == 0.1
    assert dollars_per_image(OpenAIGeneration(model="m", price=maker.price, editor=editor)) == 0.3
    unknown = {"backend": "openai-images", "model": "e"}
    assert dollars_per_image(OpenAIGeneration(model="m", price=maker.price, editor=unknown)) is None
    assert dollars_per_image(ScenesGeneration()) == 0.0
    assert OpenAIImages(model="dall-e-3").known_price is None


def test_every_model_of_the_list_has_a_provider_and_every_end_a_successor_that_goes_on():
    listed = catalogue()
    for models in (listed.chat, listed.images):
        going_on = {each.id for each in models if each.ends is None}
        assert {each.provider for each in models} <= listed.providers.keys()
        assert {each.successor for each in models if each.ends is not None} <= going_on


def test_a_model_that_ends_soon_or_has_ended_is_named_with_its_successor():
    model = catalogue().find_chat("api.openai.com", "gpt-4o")
    assert model is not None
    assert model.notice(datetime.date(2026, 5, 1)) == ""
    assert "ends on 2027-01-14; use gpt-6.1-sol" in model.notice(datetime.date(2026, 12, 1))
    assert "has ended on 2027-01-14" in model.notice(datetime.date(2027, 2, 1))
