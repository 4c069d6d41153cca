"""What a profile may cost is looked at before anything is started."""

from __future__ import annotations

import datetime

import pytest

from actors.errors import UsageError
from agents.records.manifest import check, claim
from agents.records.record_types import Manifest
from agents.records.store import Store
from experiments.setup.config import load
from experiments.setup.spending import (
    DRAWN_FOR_A_PAID_MODEL,
    check_budget,
    endpoints,
    may_charge,
    notices,
    unpriced,
)

PROFILES = """
profiles:
  mine: {extends: hosted}
  drawn: {extends: embedded, chat: {interpreter: {backend: openai, model: gpt-6-luna}}}
  strange:
    extends: hosted
    chat: {interpreter: {backend: openai, model: strange}}
    generation:
      {backend: openai-images, model: odd, editor: {backend: openai-images, model: odder, price: {image: 1}}}
    sweep: {budget: {dollars: 5}}
  ending: {extends: hosted, chat: {observers: {backend: openai, model: gpt-4o-mini}}}
  server: {extends: embedded, chat: {interpreter: {backend: openai, model: x, base_url: "http://127.0.0.1:1/v1"}}}
  gateway: {extends: server, chat: {interpreter: {backend: openai, model: x, price: {prompt: 2}}}}
"""
TODAY = datetime.date(2026, 12, 1)


@pytest.fixture
def profiles(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(PROFILES)
    return load(path)


def test_endpoints_are_named_by_their_settings(profiles):
    assert set(endpoints(profiles.profile("strange"))) == {
        *("chat.interpreter", "chat.observers", "generation", "generation.editor")
    }
    assert may_charge(profiles.profile("mine"))
    assert may_charge(profiles.profile("gateway"))
    assert not may_charge(profiles.profile("server"))
    assert not may_charge(profiles.profile("embedded"))


def test_a_budget_in_dollars_is_refused_while_a_price_is_unknown(profiles):
    strange = profiles.profile("strange")
    assert unpriced(strange) == [
        "strange (set chat.interpreter.price)",
        "an image of odd (set generation.price.image)",
    ]
    with pytest.raises(UsageError, match=r"sweep\.budget\.dollars cannot be kept.*strange.*odd"):
        check_budget(strange)
    check_budget(profiles.profile("mine"))
    assert unpriced(profiles.profile("mine")) == []


def test_a_paid_model_that_would_study_drawings_and_a_model_that_ends_are_warned_about(profiles):
    assert list(notices(profiles.profile("drawn"), TODAY)) == [DRAWN_FOR_A_PAID_MODEL]
    (ending,) = notices(profiles.profile("ending"), TODAY)
    assert "chat.observers" in ending
    assert "gpt-6-luna" in ending
    for quiet in ("mine", "server", "embedded"):
        assert list(notices(profiles.profile(quiet), TODAY)) == []


def test_a_setting_that_is_newer_than_a_run_does_not_keep_it_from_going_on(tmp_path):
    store = Store.open(tmp_path)
    claim(store, Manifest(command="describe", settings={"chat": {"model": "m"}}))
    check(store, Manifest(command="describe", settings={"chat": {"model": "m", "new": 3}, "newer": {"a": 1}}))
    with pytest.raises(UsageError, match="another configuration"):
        check(store, Manifest(command="describe", settings={"chat": {"model": "other", "new": 3}}))
