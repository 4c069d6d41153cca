"""Every recorded shape of an error is understood: `endpoint_shapes.yaml` holds them, server by server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.endpoint.error_body import read_body
from actors.endpoint.faults import from_status, to_error
from actors.endpoint.fields import named_fields
from tests.actors.endpoint.shapes import SHAPES, TARGET, page, sent


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape['server']}: {shape['situation']}")
def test_a_recorded_shape_is_the_kind_that_the_table_says(shape: dict[str, Any]) -> None:
    """From the raw bytes as from the decoded body, with the limit and the wait that the words name."""
    for body in (sent(shape), shape["body"]):
        fault = from_status(shape["status"], body, {})
        assert fault.kind == shape["kind"], fault
        assert fault.image_limit == shape.get("limit")
        if "wait_s" in shape:
            assert fault.retry_after_s == pytest.approx(shape["wait_s"])
        if "field" in shape:
            assert shape["field"] in named_fields(fault.body)
        assert str(to_error(fault, "host", "model", 1, 0))


def test_the_words_are_shown_whatever_the_shape() -> None:
    """Of every shape but an empty one, the server's own words are in the error."""
    for shape in SHAPES:
        message = str(to_error(from_status(shape["status"], sent(shape), {}), "host", "model", 1, 0))
        assert "no message" not in message, shape


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            {"error": {"message": "Provider error", "metadata": {"raw": '{"detail": "too wide"}'}}},
            "Provider error; too wide",
        ),
        ({"error": "{'error': 'Invalid model name'}"}, "Invalid model name"),
        ({"message": 'GroqException - {"error": {"message": "slow"}}'}, "GroqException; slow"),
        ({"message": 'Vendor - {"error": "slow"} (request 7)'}, "Vendor; slow; (request 7)"),
        ({"message": 'You set {"image": 16}, got 21.'}, 'You set {"image": 16}, got 21.'),
        ({"title": "Unauthorized", "detail": "no"}, "Unauthorized; no"),
        ({"Message": "with a capital"}, "with a capital"),
        ({"oops": 3}, '{"oops": 3}'),
        (
            b"<html><title>Sign in</title><script>x</script><p>Please &amp; now</p>",
            "a web page: Sign in; Please & now",
        ),
        (b'"<html><title>Sign in</title>"', "a web page: Sign in"),
        ('"as a text in JSON"', "as a text in JSON"),
        ("", ""),
        (None, ""),
        ([[[[]]]], "[[[[]]]]"),
    ],
)  # fmt: skip
def test_words_are_read_from_any_depth(body: object, words: str) -> None:
    """Nested, quoted and embedded bodies come down to their words."""
    assert read_body(body).words == words


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ("Unrecognized request argument supplied: detail", {"detail"}),
        ("Unrecognized request arguments supplied: seed, detail", {"seed", "detail"}),
        ("seed is not supported", {"seed"}),
        ("the model does not support the parameter temperature", {"temperature"}),
        ("UnsupportedParamsError: temperature=0 is not supported", {"temperature"}),
        ("body.seed: Extra inputs are not permitted", {"seed"}),
        ("`inputs.temperature` must be strictly positive", {"temperature"}),
        ("Invalid image detail level", set()),
        ("The stop sequence is invalid", set()),
        ("an image must not stop here", set()),
    ],
)
def test_a_field_of_one_word_is_known_from_the_same_word_in_a_sentence(words, fields) -> None:
    """A server need not quote the field that it does not take."""
    assert named_fields(from_status(400, {"error": {"message": words}}, {}).body) == fields


def test_echoes_of_the_request_in_a_body_are_not_its_words() -> None:
    """A validation error that quotes the conversation does not turn into what the conversation spoke of."""
    echo = {
        "detail": [
            {
                "type": "missing",
                "loc": ["body", "x"],
                "msg": "Field required",
                "input": {"message": "billing"},
            }
        ]
    }
    body = read_body(echo)
    assert body.words == "Field required; at body.x"
    assert body.fields == {"x"}


def test_hostile_bodies_are_read_in_bounds() -> None:
    """Deep, wide and long bodies end, and keep words of bounded length."""
    deep: Any = "end"
    for _ in range(5000):
        deep = {"error": deep}
    for body in (deep, {"errors": ["x"] * 10**5}, "y" * 10**7, b"{" * 10**6):
        assert len(read_body(body).words) <= 1 << 16


def test_further_wordings_are_understood() -> None:
    """Other servers' words for the same things are of the same kinds."""
    wordings = yaml.safe_load((Path(__file__).parent / "endpoint_wordings.yaml").read_text())
    wrong = [
        (wanted, body) for wanted, status, body in wordings if from_status(status, body, {}).kind != wanted
    ]
    assert wrong == []


def test_the_documentation_shows_the_table() -> None:
    """If this fails: python -m tests.actors.endpoint.shapes"""
    assert TARGET.read_text(encoding="utf-8") == page()
