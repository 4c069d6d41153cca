"""Verdicts as pages show them: each has a key, a style class that needs no escaping, and a sentence."""

from __future__ import annotations

from agents.evidence.verdict import HOLDING, MEANINGS, TESTED
from agents.evidence.verdict import VERDICTS as WORDS

_KEYS = {
    "holds on your images": "real",
    "holds for generated images": "generated",
    "not confirmed": "unconfirmed",
    "out of reach": "unreached",
    "not interpretable": "unexplained",
    "no answer": "silent",
    "in progress": "running",
}


def key_of(word: str) -> str:
    """Return the key of a verdict."""
    return _KEYS.get(word, word)


VERDICTS = {key_of(word): word for word in WORDS}
"""Verdicts by key, best first."""
SENTENCES = {key_of(word): sentence for word, sentence in MEANINGS.items()}
"""What they mean, by key."""
LABELED = frozenset(map(key_of, (*TESTED, "untested")))
"""Keys of verdicts on a label."""
STANDING = frozenset(map(key_of, HOLDING))
"""Keys of verdicts on a label that holds."""
