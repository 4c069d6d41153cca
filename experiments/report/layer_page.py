"""The page of one layer: its units together, those with similar labels next to each other.

Similarity is that of words (TF-IDF over the beginnings of words), which needs no model and can be
checked by eye. It finds labels that say the same in the same words; synonyms stay apart.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agents.evidence.statistics import e_benjamini_hochberg
from agents.records.journal import slug
from experiments.report import pages, plots
from experiments.report.records import RunDirectory, text
from experiments.report.summary import Summary
from experiments.report.verdicts import LABELED, STANDING, VERDICTS

SIMILAR = 0.6
"""Cosine similarity of two labels from which they are shown as one group."""

FALSE_DISCOVERIES = 0.05
"""Expected share of chance findings among a layer's labels that are said to stand."""

_STOP = {
    "a",
    "an",
    "and",
    "in",
    "of",
    "on",
    "or",
    "the",
    "to",
    "with",
    "by",
    "for",
    "at",
    "from",
    "its",
    "their",
}


@dataclass(frozen=True, slots=True)
class Group:
    """Units whose labels say much the same; `words` is the label nearest to all others."""

    words: str
    units: list[Summary]

    @property
    def best(self) -> float | None:
        return max((unit.auroc for unit in self.units if unit.auroc is not None), default=None)


def write_all(run: RunDirectory, summaries: Sequence[Summary]) -> dict[str, str]:
    """Write a page for each layer with two units or more, begun or planned; return addresses by layer."""
    by_layer: dict[str, list[Summary]] = defaultdict(list)
    for summary in summaries:
        by_layer[summary.layer].append(summary)
    addresses = {}
    for layer, units in by_layer.items():
        if max(len(units), run.planned(layer)) > 1:
            addresses[layer] = f"layers/{slug(layer)}.html"
            pages.write(run.store, f"report/{addresses[layer]}", _page(run, layer, units))
    return addresses


def group_labels(units: Sequence[Summary]) -> list[Group]:
    """Return units with labels in groups, the largest first.

    Average-link clustering by label similarity; equal labels are one point, so it takes the number of
    distinct labels squared.
    """
    labeled = [unit for unit in units if unit.label and unit.verdict in LABELED]
    by_label: dict[str, list[Summary]] = defaultdict(list)
    for unit in labeled:
        by_label[" ".join(unit.label.lower().split())].append(unit)
    labels = list(by_label)
    groups = []
    for members in _clusters(labels):
        inside = [unit for index in members for unit in by_label[labels[index]]]
        inside.sort(key=lambda unit: -(unit.auroc or 0.0))
        groups.append(Group(inside[0].label, inside))
    return sorted(groups, key=lambda group: (-len(group.units), -(group.best or 0.0)))


def _clusters(labels: Sequence[str]) -> list[list[int]]:
    if len(labels) < 2:
        return [[index] for index in range(len(labels))]
    from scipy.cluster.hierarchy import fcluster, linkage

    above = similarity(labels)[np.triu_indices(len(labels), 1)]
    cluster_ids = fcluster(linkage(np.clip(1 - above, 0, None), "average"), 1 - SIMILAR, "distance")
    clusters: dict[int, list[int]] = defaultdict(list)
    for index, cluster in enumerate(cluster_ids):
        clusters[int(cluster)].append(index)
    return list(clusters.values())


def similarity(labels: Sequence[str]) -> np.ndarray:
    """Return cosine similarities float64 (n, n) of TF-IDF vectors of the labels' words."""
    counts = [Counter(terms(label)) for label in labels]
    known = sorted({term for words in counts for term in words})
    place = {term: column for column, term in enumerate(known)}
    vectors = np.zeros((len(labels), max(1, len(known))))
    for row, words in enumerate(counts):
        for term, count in words.items():
            vectors[row, place[term]] = count
    frequency = (vectors > 0).sum(axis=0)
    vectors *= np.log((1 + len(labels)) / (1 + frequency)) + 1
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.where(length == 0, 1, length)
    return np.asarray(vectors @ vectors.T)


def terms(label: str) -> list[str]:
    """Return the words that count, cut so that the forms of one word are mostly the same."""
    words = [word for word in re.findall(r"[^\W_]{2,}", label.lower()) if word not in _STOP]
    return [(word.removesuffix("s") if len(word) > 3 else word)[:6] for word in words]


def standing(units: Sequence[Summary]) -> tuple[list[Summary], list[Summary]]:
    """Return the units whose labels stand, and those whose labels do not, at the layer's false-discovery
    rate.

    Over all units of which a label was tested, by the e-values of their tests: many units tried, some would
    pass by chance. A study that gave its label up counts as a test without evidence, and so does one whose
    label does not hold: left out, it would make the others look better.
    """
    labeled = [unit for unit in units if unit.verdict in LABELED and unit.e_value is not None]
    given_up = [unit for unit in units if unit.tested and unit not in labeled]
    values = [(unit.e_value or 0.0) if unit.verdict in STANDING else 0.0 for unit in labeled]
    values += [0.0] * len(given_up)
    held = e_benjamini_hochberg(values, FALSE_DISCOVERIES)[: len(labeled)]
    return (
        [unit for unit, holds in zip(labeled, held, strict=True) if holds],
        [unit for unit, holds in zip(labeled, held, strict=True) if not holds],
    )


def _agreement(units: Sequence[Summary]) -> dict[str, float] | None:
    """Return how far the labels of units that were studied several times agree; None where there are none."""
    values = [unit.agreement for unit in units if unit.agreement is not None]
    return {"n": len(values), "mean": float(np.mean(values)), "least": min(values)} if values else None


def _page(run: RunDirectory, layer: str, units: Sequence[Summary]) -> str:
    groups = group_labels(units)
    grouped = {unit.slug for group in groups for unit in group.units}
    scores = [unit.auroc for unit in units if unit.auroc is not None]
    labeled = sum(len(group.units) for group in groups)
    shared = sum(len(group.units) for group in groups if len(group.units) > 1)
    counts = Counter(unit.verdict for unit in units)
    stand, fall = standing(units)
    return pages.render(
        "layer.html",
        run_name=text(run.manifest.get("name")) or run.root.resolve().name,
        root="../",
        layer=layer,
        total=len(units),
        verdicts=VERDICTS,
        counts=[(verdict, counts[verdict]) for verdict in VERDICTS if counts[verdict]],
        groups=[group for group in groups if len(group.units) > 1],
        single=[group.units[0] for group in groups if len(group.units) == 1],
        others=[unit for unit in units if unit.slug not in grouped],
        labeled=labeled,
        stand=len(stand),
        fall=fall,
        rate=FALSE_DISCOVERIES,
        shared=shared,
        agreement=_agreement(units),
        n_groups=len(groups),
        scores=plots.histogram(
            scores, 0.0, 1.0, 20, "AUROC on fresh images", f"AUROC of {len(scores)} units of {layer}"
        )
        if scores
        else None,
    )
