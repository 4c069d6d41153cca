"""The words that a unit's label may be made of."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
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
_PICTURED = {"05", "06", "08", "13", "17", "18", "19", "20", "25", "27"}
"""WordNet's files of nouns (lexnames(5WN)) for what can be pictured: animals, artifacts, parts of bodies,
food, objects, people, phenomena, plants, shapes, substances.
"""


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


def read_vocabulary(name: str, environment: Mapping[str, str] = os.environ) -> WordList:
    """Return the vocabulary `everyday`, `imagenet`, `wordnet`, or that of a file with one word or phrase a
    line.

    Raises:
        UsageError: If the file cannot be read, or holds fewer than two words; if WordNet is not installed.
    """
    if name == "imagenet":
        return WordList(name, _distinct(node.name for node in imagenet().spoken))
    if name == "wordnet" and not Path(name).exists():
        return WordList(name, _distinct(_wordnet_nouns(_wordnet_file(environment))))
    path = EVERYDAY if name == "everyday" else Path(name).expanduser()
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the vocabulary {name} cannot be read: {error}.",
            "Name everyday, imagenet, wordnet, or a text file (UTF-8) with one word or phrase a line.",
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


def _wordnet_file(environment: Mapping[str, str]) -> Path:
    """Return WordNet's database of nouns, from where its packages and NLTK keep it.

    Raises:
        UsageError: If there is none.
    """
    named = [environment[name] for name in ("WNSEARCHDIR", "WNHOME", "NLTK_DATA") if environment.get(name)]
    folders = named or ["/usr/share/wordnet", "~/nltk_data"]
    for folder in folders:
        for inside in ("", "dict", "corpora/wordnet"):
            path = Path(folder).expanduser() / inside / "data.noun"
            if path.is_file():
                return path
    raise UsageError(
        f"WordNet is not in {', '.join(folders)}.",
        'Install it (Debian: apt-get install wordnet-base; NLTK: nltk.download("wordnet"), unzipped), or '
        "name its folder in WNSEARCHDIR.",
    )


def _wordnet_nouns(path: Path) -> Iterator[str]:
    """Yield the first word of each synset of things that can be pictured, without names of persons, places
    and taxa (wndb(5WN)).
    """
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            fields = line.partition(" | ")[0].split()
            if not line.startswith(" ") and len(fields) > 4 and fields[1] in _PICTURED and "@i" not in fields:
                word = fields[4].replace("_", " ")
                if not word.startswith(("genus ", "family ", "order ", "class ")):
                    yield word


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
