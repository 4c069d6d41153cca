"""Labels as vectors without a model: the beginnings of their words, and the kinds of what they name.

A golden retriever is a dog and an animal (ImageNet's classes with the kinds of WordNet above them, and the
categories of the built-in vocabulary), so that both are found by either word, and lie near each other.
Features are weighted by their inverse document frequency, and vectors have unit norm (TF-IDF; Spaerck Jones
1972, Salton and Buckley 1988). Synonyms that neither list knows stay apart.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np

from actors.embedded.language.words import Term, embedded_words
from actors.embedded.photographs.taxonomy import WordSense, imagenet
from experiments.report.layer_page import terms

SIMILAR = 0.6
"""Cosine similarity from which two labels count as the same concept."""
LONGEST = 300
"""Characters of a text that are read: a label is a short phrase, whatever a model may have written."""
_NEXT_KIND = 0.5
"""Weight of a kind in that of the one below it."""
_OF_THE_KIND = 0.5
"""Similarity of a kind that a query names to what is of that kind, however narrow: a query "animal" to a
poodle. In a query of several words, the share of it that the kind is.
"""


def kinds(text: str) -> list[str]:
    """Return the kinds of what a text names, from narrow to wide, without the words of the text."""
    named = set(re.findall(r"[^\W_]+", text.lower()))
    found = {name: None for name, _ in _kinds(text[:LONGEST])}
    return [name for name in found if not named.issuperset(name.split())]


@lru_cache(maxsize=1 << 16)
def features(text: str) -> Mapping[str, float]:
    """Return the features of a text with their weights: words by count, kinds less the wider they are."""
    weights: dict[str, float] = defaultdict(float)
    for term in terms(text[:LONGEST]):
        weights[term] += 1.0
    for name, weight in _kinds(text[:LONGEST]):
        weights[f"kind {name}"] = max(weights[f"kind {name}"], weight)
    return weights


def _kinds(text: str) -> Iterator[tuple[str, float]]:
    for found in imagenet().find(text):
        if isinstance(found, WordSense):
            yield from _photographed(found)
    words = embedded_words()
    for term in words.find(text):
        if term.kind in ("concept", "category", "background"):
            yield from _drawn(term)


@cache
def _photographed(sense: WordSense) -> tuple[tuple[str, float], ...]:
    above = [node.name for node in imagenet().spoken if sense.classes <= node.classes]
    return tuple((name, _NEXT_KIND**depth) for depth, name in enumerate(above))


@cache
def _drawn(term: Term) -> tuple[tuple[str, float], ...]:
    above = sorted(each.name for each in embedded_words().closure(term) if each.kind == "category")
    return ((term.name, 1.0), *((name, _NEXT_KIND) for name in above))


@dataclass(frozen=True, slots=True)
class WordVectors:
    """Texts as sparse unit vectors, kept by feature (CSC) so that a query reads only the features it has.

    Column `columns[feature]` has its texts in `rows` and their weights in `weights`, from `starts[column]` to
    `starts[column + 1]`.
    """

    columns: Mapping[str, int]
    frequency: np.ndarray
    """Inverse document frequency of each feature, float32 (F,)."""
    starts: np.ndarray
    """int32 (F + 1,)."""
    rows: np.ndarray
    """int32 (N,)."""
    weights: np.ndarray
    """float32 (N,)."""
    count: int
    """Texts."""

    @classmethod
    def of(cls, texts: Sequence[str]) -> WordVectors:
        """Return the vectors of texts, which should be distinct: each counts as one document."""
        found = [features(text) for text in texts]
        columns = {
            name: place for place, name in enumerate(sorted({name for each in found for name in each}))
        }
        row = np.repeat(np.arange(len(texts), dtype=np.int32), [len(each) for each in found])
        column = np.array([columns[name] for each in found for name in each], np.int32)
        weight = np.array([value for each in found for value in each.values()], np.float32)
        seen = np.bincount(column, minlength=len(columns))
        frequency = (np.log((1 + len(texts)) / (1 + seen)) + 1).astype(np.float32)
        weight *= frequency[column]
        length = np.sqrt(np.bincount(row, weight**2, len(texts)))
        weight /= length[row].astype(np.float32)
        order = np.argsort(column, kind="stable")
        starts = np.concatenate([[0], np.cumsum(seen)]).astype(np.int32)
        return cls(columns, frequency, starts, row[order], weight[order], len(texts))

    def similarities(self, text: str) -> np.ndarray:
        """Return the cosine similarity of a text with each text, float32 (T,).

        What only the query names lengthens its vector, so that a query half of which is known is half alike.
        """
        found, scores = features(text), np.zeros(self.count, np.float32)
        least = np.zeros(self.count, np.float32)
        own = {f"kind {name}" for name, weight in _kinds(text) if weight == 1}
        n_words = max(1, len(terms(text)))
        rarest = float(np.log(1 + self.count) + 1)
        length = 0.0
        for name, weight in found.items():
            column = self.columns.get(name)
            weight *= rarest if column is None else float(self.frequency[column])
            length += weight**2
            if column is not None:
                part = slice(self.starts[column], self.starts[column + 1])
                scores[self.rows[part]] += weight * self.weights[part]
                if name in own:
                    share = len(terms(name.removeprefix("kind "))) / n_words
                    least[self.rows[part]] += _OF_THE_KIND * min(1.0, share)
        scores /= np.float32(np.sqrt(length) or 1.0)
        return np.maximum(scores, np.minimum(least, _OF_THE_KIND))

    def matrix(self) -> Any:
        """Return the vectors as a sparse matrix float32 (T, F)."""
        from scipy.sparse import csc_matrix

        shape = (self.count, len(self.columns))
        return csc_matrix((self.weights, self.rows, self.starts), shape).tocsr()
