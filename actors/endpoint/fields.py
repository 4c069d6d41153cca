"""Finds the optional fields of a request that a server's complaint names."""

from __future__ import annotations

import re

from actors.endpoint.error_body import ErrorBody

OPTIONAL = (
    "max_completion_tokens",
    "max_tokens",
    "temperature",
    "seed",
    "stop",
    "detail",
    "reasoning_effort",
    "cache_control",
    "service_tier",
    "stream_options",
    "stream",
    "response_format",
)
"""Fields without which a request still asks the same."""

_ALIASES = {
    "reasoning_effort": r"reasoning[ _-]?effort|support thinking|thinking (is )?not supported",
    "cache_control": r"cache[ _-]?control",
}
_COMPLAINT = re.compile(
    r"unsupported|not supported|unknown|unrecogni[sz]ed|unexpected|not permitted|not allowed|deprecated|"
    r"extra|invalid|"
    r"does not support|doesn't support|cannot find field|no longer|must|should|not accept|only|too "
    r"(large|high|big)|removed",
    re.I,
)
_PLAINLY = {
    field: re.compile(
        rf"\b(param\w*|arguments?|fields?|propert(y|ies)|inputs?|keys?|options?)\b[^.;]{{0,25}}[: ]{field}\b|"
        rf"((^|[;.:] )|\w\.){field}\b(?=:| (is|are|was|must|should|can)\b)|\b{field}=",
        re.I,
    )
    for field in OPTIONAL
    if "_" not in field
}
"""A field of one word, without quotes: after a word for fields, as what a sentence begins with, or with its
value."""
_LIMIT = re.compile(
    r"(?:at most|max\w*(?: value)?(?: is| of)?|less than or equal to|<=|up to|limit(?: is| of)?|not "
    r"exceed)\D{0,20}(\d+)",
    re.I,
)


def named_fields(body: ErrorBody) -> frozenset[str]:
    """Return the optional fields that a complaint is about: by its `param` or `loc`, quoted, or in camel
    case."""
    if not (_COMPLAINT.search(body.plain) or body.fields):
        return frozenset()
    named = {
        field for field in OPTIONAL if _plain(field) in {_plain(name.split(".")[-1]) for name in body.fields}
    }
    words = _plain(body.plain)
    for field in OPTIONAL:
        # One word, such as "seed", stands in many sentences: it must be named as a field.
        if "_" in field and _plain(field) in words:
            named.add(field)
    named |= {field for field, words in _PLAINLY.items() if words.search(body.plain)}
    named |= {field for field, words in _ALIASES.items() if re.search(words, body.plain, re.I)}
    if body.fields and (own := {field for field in named if field == _param(body)}):
        return frozenset(own)
    return frozenset(named)


def named_token_limit(body: ErrorBody) -> int | None:
    """Return the longest answer that a server says it gives, None where it says none."""
    limits = [int(number) for number in _LIMIT.findall(body.plain)]
    return min((limit for limit in limits if limit > 0), default=None)


def _param(body: ErrorBody) -> str:
    return body.values.get("param", "").lower()


def _plain(name: str) -> str:
    return name.replace("_", "").lower()
