"""A secret never leaves, whole or in part, and ordinary words stay."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from actors.endpoint.faults import from_status
from actors.endpoint.secrets import PART, Secrets
from actors.endpoint.settings import EndpointSettings
from agents.records.run_files import first_fault

KEY = "sk-proj-5f3e9A1c7b-0Zq_88xVn/+2"


@given(
    st.text(max_size=30), st.integers(0, len(KEY) - PART), st.integers(PART, len(KEY)), st.text(max_size=30)
)
def test_no_part_of_eight_characters_is_left(before: str, start: int, length: int, after: str) -> None:
    """Whatever piece of the key a text holds, no eight characters of the key in a row come out."""
    shown = Secrets([KEY]).redact(f"{before}{KEY[start : start + length]}{after}")
    assert not any(KEY[at : at + PART] in shown for at in range(len(KEY) - PART + 1))


def test_a_key_across_the_cut_of_a_message_is_taken_out_before_the_cut() -> None:
    """At every offset around the longest message, nothing of the key is shown."""
    secrets = Secrets([KEY])
    for lead in range(330, 420):
        fault = from_status(400, {"error": {"message": "x" * lead + KEY}}, {}).redacted(secrets.redact)
        shown = fault.detail + fault.body.words
        assert not any(KEY[at : at + PART] in shown for at in range(len(KEY) - PART + 1))


def test_spellings_of_an_address_a_page_and_json_are_known() -> None:
    """The key is found as it is written in a URL, in HTML and in JSON."""
    secrets = Secrets(['ab"cd&ef/gh+ij'])
    for text in ("ab%22cd%26ef%2Fgh%2Bij", "ab&quot;cd&amp;ef/gh+ij", 'ab\\"cd&ef/gh+ij'):
        assert secrets.redact(text) == "[redacted]"


@given(st.binary(max_size=9), st.binary(max_size=9))
def test_a_key_inside_a_coded_text_is_known(before: bytes, after: bytes) -> None:
    """What is encoded with the key, such as `Bearer` or a user's name, shifts its letters."""
    whole = before + KEY.encode() + after
    for coded in (base64.b64encode(whole), base64.urlsafe_b64encode(whole)):
        left = Secrets([KEY]).redact(coded.decode()).replace("[redacted]", "")
        assert len(left) <= len(coded) - len(KEY) * 4 // 3 + 8


@pytest.mark.parametrize(
    "change", [str.swapcase, str.upper, str.lower, str.title, lambda key: key.encode().hex()]
)
@given(before=st.text(max_size=9), after=st.text(max_size=9))
def test_a_key_in_other_letters_is_known(change: Callable[[str], str], before: str, after: str) -> None:
    """Gateways spell headers anew, and some show bytes; letters that grow when small shift nothing."""
    shown = Secrets([KEY]).redact(f"{before}\u0130{change(KEY)}{after}")
    assert "[redacted]" in shown
    assert change(KEY)[:PART] not in shown
    assert change(KEY)[-PART:] not in shown


@pytest.mark.parametrize("key", ["EMPTY", "none", "x", "sk-no-key-required", "placeholder-of-mine"])
def test_a_placeholder_for_a_key_leaves_ordinary_words_alone(key: str) -> None:
    """Local servers are given a word as a key; texts that use such words are not damaged."""
    words = "The box Required nonetheless an EMPTYING Placeholder, as REQUIRED"
    assert Secrets([key]).redact(words) == words
    assert key not in Secrets([key]).redact(f"key {key}!")


def test_a_record_keeps_words_that_are_a_short_secret() -> None:
    """In a record, a secret of fewer than eight characters is an ordinary word."""
    assert Secrets(["none", KEY]).redact_record(f'{{"status": "none", "model": "{KEY}"}}') == (
        '{"status": "none", "model": "[redacted]"}'
    )


@pytest.mark.parametrize(
    "address",
    [f"https://me:{KEY}@host/v1", f"htps://me:{KEY}@host", f"me:{KEY}@host", f"https://host/v1?api_key={KEY}",
     f"https://host/#token={KEY}"],
)  # fmt: skip
def test_an_address_with_a_key_is_refused_without_showing_it(address: str) -> None:
    with pytest.raises(ValidationError) as refused:
        EndpointSettings(model="m", base_url=address)
    assert KEY[:PART] not in first_fault(refused.value)


def test_secrets_do_not_travel() -> None:
    """Neither the text form nor the pickle of the holder has anything of a key."""
    secrets = Secrets([KEY])
    assert KEY not in repr(secrets)
    assert KEY.encode() not in pickle.dumps(secrets)
