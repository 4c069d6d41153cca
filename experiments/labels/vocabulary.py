"""The words that a unit's label may be made of."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actors.embedded.photographs.taxonomy import imagenet
from actors.embedding.client import PoolEmbedder
from actors.errors import MaiaError, UsageError

EVERYDAY = Path(__file__).parent / "assets" / "everyday.txt"
_SAME = 0.98
"""Cosine of two words' embeddings from which the second is left out, as a synonym."""
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class WordList:
    """Words, each once. `digest` changes with them."""

    name: str
    words: tuple[str, ...]

    @property
    def digest(self) -> str:
        return hashlib.blake2b("\n".join(self.words).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class EmbeddedVocabulary:
    """The words that an embedder knows, without synonyms: `vectors` float32 (K, d), unit-norm.

    `unknown` words it could not embed, `synonyms` were left out.
    """

    words: tuple[str, ...]
    vectors: np.ndarray
    unknown: tuple[str, ...]
    synonyms: int


def read_vocabulary(name: str) -> WordList:
    """Return the vocabulary `everyday`, `imagenet`, or that of a file with one word or phrase a line.

    Raises:
        UsageError: If the file cannot be read, or holds fewer than two words.
    """
    if name == "imagenet":
        return WordList(name, _distinct(node.name for node in imagenet().spoken))
    path = EVERYDAY if name == "everyday" else Path(name).expanduser()
    if name == "wordnet" and not path.exists():
        raise UsageError(
            "WordNet's nouns do not come with this program.",
            "Write the words that you want into a file, one a line: --vocabulary FILE.",
        )
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the vocabulary {name} cannot be read: {error}.",
            "Name everyday, imagenet, or a text file (UTF-8) with one word or phrase a line.",
        ) from error
    words = _distinct(line.strip() for line in lines if not line.startswith("#"))
    long = next((word for word in words if len(word) > _LONGEST), None)
    if long is not None:
        raise UsageError(
            f"{name} has a line of {len(long)} characters: {long[:40]!r}...",
            "A vocabulary has one word or phrase a line.",
        )
    if len(words) < 2:
        raise UsageError(f"{name} has {len(words)} words; at least 2 are needed.", "Add some, one a line.")
    return WordList("everyday" if path == EVERYDAY else path.name, words)


def _distinct(words: object) -> tuple[str, ...]:
    """Return words without repetitions in other letters, in order."""
    first: dict[str, str] = {}
    for word in words:  # type: ignore[attr-defined]
        clean = " ".join("".join(char if char.isprintable() else " " for char in word).split())
        if clean:
            first.setdefault(clean.casefold(), clean)
    return tuple(first.values())


async def embed(vocabulary: WordList, embedder: PoolEmbedder) -> EmbeddedVocabulary:
    """Return the words of a vocabulary that the embedder knows.

    Raises:
        UsageError: If it knows fewer than two.
        MaiaError: If it fails on a word in another way.
    """
    outcomes = await embedder.texts(vocabulary.words)
    known: list[str] = []
    rows: list[np.ndarray] = []
    unknown: list[str] = []
    for word, outcome in zip(vocabulary.words, outcomes, strict=True):
        if isinstance(outcome, UsageError):
            unknown.append(word)
        elif isinstance(outcome, MaiaError):
            raise outcome
        else:
            known.append(word)
            rows.append(outcome)
    if len(known) < 2:
        raise UsageError(
            f"{embedder.facts.name} knows {len(known)} of the {len(vocabulary.words)} words of "
            f"{vocabulary.name}. {embedder.facts.stand_in}".rstrip(),
            "Use other words, or an image-text model: `embedding` in the profile.",
        )
    vectors = np.stack(rows)
    kept = _without_synonyms(vectors)
    words = tuple(np.array(known, object)[kept].tolist())
    return EmbeddedVocabulary(words, vectors[kept], tuple(unknown), len(known) - len(words))


def _without_synonyms(vectors: np.ndarray, rows: int = 1024) -> np.ndarray:
    """Return which words mean something else than all words before them, bool (K,)."""
    kept = np.ones(len(vectors), bool)
    for start in range(0, len(vectors), rows):
        same = vectors[start : start + rows] @ vectors.T > _SAME
        kept[start : start + rows] = ~np.tril(same, start - 1).any(1)
    return kept


def words_of(vocabulary: EmbeddedVocabulary, concepts: Sequence[int]) -> tuple[str, ...]:
    return tuple(vocabulary.words[each] for each in concepts)
