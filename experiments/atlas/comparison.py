"""`maia compare`: which units of one network have a counterpart in another, by what their labels mean.

Two labels are counterparts if each is the nearest to the other among the labels of its run, and they are
alike. What units do not share by chance is told by permutation: units that both runs have are compared with
the same units in another order, and so are the exemplars of counterparts, which did not choose them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.errors import UsageError
from agents.evidence.effects import RATE
from agents.evidence.statistics import benjamini_hochberg
from experiments.atlas import catalog
from experiments.atlas.catalog import CatalogUnit
from experiments.atlas.words import SIMILAR, WordVectors
from experiments.report.records import RunDirectory

PERMUTATIONS = 199
_TILE = 512


@dataclass(frozen=True, slots=True)
class Counterpart:
    """A unit of the first run and the unit of the second that says the same."""

    unit: str
    label: str
    counterpart: str
    counterpart_label: str
    similarity: float
    """Cosine of the labels' word vectors."""
    alike: int
    """Units of the second run with that label."""
    shared: float | None
    """Share of their exemplars that both have (Jaccard); None where one of them has none on record."""
    p: float | None
    """Share of the second run's units that have as many exemplars in common with the unit."""
    q: float | None
    """Smallest false-discovery rate, over all counterparts, at which they share more than by chance."""


@dataclass(frozen=True, slots=True)
class PermutationTest:
    """A figure of pairs, and the same figure where units were permuted `permutations` times."""

    pairs: int
    observed: float
    permuted: float
    """Mean over permutations."""
    p: float
    """(1 + permutations with at least as much) / (1 + permutations)."""
    permutations: int = PERMUTATIONS


@dataclass(frozen=True, slots=True)
class LayerPair:
    """Two layers that say the same: how many units of the first have a counterpart label in the second."""

    first: str
    second: str
    units: int
    share: float
    """Of the labeled units of the first."""


@dataclass(frozen=True, slots=True)
class MeaningComparison:
    """What two runs have in common, by meaning; kept as `compare.json`."""

    runs: list[str]
    models: list[str]
    labeled: list[int]
    """Units with a label."""
    matched: list[int]
    """Units with a counterpart in the other run."""
    same_unit: PermutationTest | None
    """Share of units that both runs have whose labels are alike; None where they have no unit in common."""
    exemplars: PermutationTest | None
    """Mean share of exemplars that counterparts have in common; None where no exemplars are on record."""
    layers: list[LayerPair]
    """For each layer of the first run, the layer of the second with most counterparts."""
    counterparts: list[Counterpart]
    """Most similar first."""
    alone: list[list[str]]
    """Labels of each run without a counterpart in the other, commonest first."""
    problems: list[str]
    version: int = 1


def compare(first: Path, second: Path, seed: int = 0) -> MeaningComparison:
    """Return what two runs say alike, whatever their networks.

    Raises:
        UsageError: If one of them is no run, or has no unit with a label.
    """
    runs = [RunDirectory(path) for path in (first, second)]
    sides = [_Side.of([unit for unit in catalog.read(run) if unit.label]) for run in runs]
    for path, side in zip((first, second), sides, strict=True):
        if not side.units:
            raise UsageError(f"no unit of {path} has a label yet.", "Compare runs whose units are labeled.")
    a, b = sides
    vectors = _vectors(a.labels, b.labels)
    pairs = _mutual(*vectors)
    others = {other for other, _ in pairs.values()}
    rng = np.random.default_rng(seed)
    counterparts = _counterparts(a, b, pairs)
    return MeaningComparison(
        runs=[str(first), str(second)],
        models=[str(run.manifest.get("model") or "") for run in runs],
        labeled=[len(a.units), len(b.units)],
        matched=[
            len(counterparts),
            sum(len(b.members[other]) for other in others),
        ],
        same_unit=_same_unit(a, b, vectors, rng),
        exemplars=_exemplars(a, b, pairs, rng),
        layers=_layers(a, b, pairs),
        counterparts=counterparts,
        alone=[_alone(a, set(pairs)), _alone(b, others)],
        problems=[problem for run in runs for problem in run.problems],
    )


@dataclass(frozen=True, slots=True)
class _Side:
    """One run: its labeled units, and its distinct labels with the units of each."""

    units: Sequence[CatalogUnit]
    labels: Sequence[str]
    members: Sequence[Sequence[CatalogUnit]]

    @classmethod
    def of(cls, units: Sequence[CatalogUnit]) -> _Side:
        groups: dict[str, list[CatalogUnit]] = defaultdict(list)
        for unit in units:
            groups[" ".join(unit.label.lower().split())].append(unit)
        return cls(units, list(groups), list(groups.values()))


def _vectors(first: Sequence[str], second: Sequence[str]) -> tuple[Any, Any]:
    """Return both runs' labels as sparse unit vectors of one space."""
    distinct = {label: place for place, label in enumerate(dict.fromkeys((*first, *second)))}
    matrix = WordVectors.of(list(distinct)).matrix()
    rows_first, rows_second = ([distinct[label] for label in labels] for labels in (first, second))
    return matrix[rows_first], matrix[rows_second]


def _mutual(first: Any, second: Any) -> dict[int, tuple[int, float]]:
    """Return, for each label of the first with a counterpart, that of the second and their similarity."""
    n, transposed = first.shape[0], second.T.tocsr()
    nearest, best = np.zeros(n, np.int64), np.zeros(n, np.float32)
    back = np.zeros(second.shape[0], np.float32)
    for start in range(0, n, _TILE):
        similar = (first[start : start + _TILE] @ transposed).toarray()
        nearest[start : start + _TILE] = similar.argmax(1)
        best[start : start + _TILE] = similar.max(1)
        np.maximum(back, similar.max(0), out=back)
    rounding = 1e-5
    mutual = (best >= SIMILAR) & (best >= back[nearest] - rounding)
    return {int(i): (int(nearest[i]), min(1.0, round(float(best[i]), 4))) for i in np.flatnonzero(mutual)}


def _counterparts(a: _Side, b: _Side, pairs: Mapping[int, tuple[int, float]]) -> list[Counterpart]:
    chance, found = _Chance([set(unit.exemplars) for unit in b.units if unit.exemplars]), []
    for label, (other, similarity) in pairs.items():
        others = b.members[other]
        by_name = {unit.short: unit for unit in others}
        for place, unit in enumerate(a.members[label]):
            # The unit of the same name where it is one of them; else any, in turn.
            chosen = by_name.get(unit.short, others[place % len(others)])
            shared = _shared(unit.exemplars, chosen.exemplars)
            p = None if shared is None else chance.p(set(unit.exemplars), shared)
            labels = unit.unit, unit.label, chosen.unit, chosen.label
            found.append(Counterpart(*labels, similarity, len(others), shared, p, None))
    tested = [place for place, each in enumerate(found) if each.p is not None]
    q_values = benjamini_hochberg([found[place].p or 0.0 for place in tested]).tolist()
    for place, q in zip(tested, q_values, strict=True):
        found[place] = replace(found[place], q=q)
    return sorted(found, key=lambda each: (-each.similarity, -(each.shared or 0.0), each.unit))


class _Chance:
    """Exemplars of a run's units, each a set, which a unit of another run may share by chance."""

    def __init__(self, units: Sequence[set[str]]) -> None:
        self._units = units
        self._of: dict[str, list[int]] = defaultdict(list)
        for place, exemplars in enumerate(units):
            for exemplar in exemplars:
                self._of[exemplar].append(place)

    def p(self, exemplars: set[str], shared: float) -> float:
        """Return the share of units with at least this share of exemplars in common with a unit's."""
        if not shared:
            return 1.0
        common = Counter(place for each in exemplars for place in self._of.get(each, ()))
        as_many = sum(n / len(exemplars | self._units[place]) >= shared for place, n in common.items())
        return as_many / len(self._units)


def _shared(first: Sequence[str], second: Sequence[str]) -> float | None:
    if not first or not second:
        return None
    return len(set(first) & set(second)) / len(set(first) | set(second))


def _same_unit(
    a: _Side, b: _Side, vectors: tuple[Any, Any], rng: np.random.Generator
) -> PermutationTest | None:
    """Compare the labels of the units that both runs have, and of the same units in another order."""
    rows_a = {unit.short: row for row, group in enumerate(a.members) for unit in group}
    rows_b = {unit.short: row for row, group in enumerate(b.members) for unit in group}
    both = [name for name in rows_a if name in rows_b]
    if len(both) < 2:
        return None
    first = vectors[0][[rows_a[name] for name in both]]
    second = vectors[1][[rows_b[name] for name in both]]

    def share(order: np.ndarray) -> float:
        return float((np.asarray(first.multiply(second[order]).sum(1)) >= SIMILAR).mean())

    return _test(share, len(both), rng)


def _exemplars(
    a: _Side, b: _Side, pairs: Mapping[int, tuple[int, float]], rng: np.random.Generator
) -> PermutationTest | None:
    """Compare the exemplars of counterparts, each label's units in order, and of permuted ones."""
    matched = [
        (unit.exemplars, b.members[other][place % len(b.members[other])].exemplars)
        for label, (other, _) in pairs.items()
        for place, unit in enumerate(a.members[label])
    ]
    matched = [(first, second) for first, second in matched if first and second]
    if len(matched) < 2:
        return None

    def mean(order: np.ndarray) -> float:
        shares = (_shared(matched[i][0], matched[j][1]) or 0.0 for i, j in enumerate(order.tolist()))
        return float(np.mean(list(shares)))

    return _test(mean, len(matched), rng)


def _test(figure: Any, n: int, rng: np.random.Generator) -> PermutationTest:
    observed = figure(np.arange(n))
    permuted = np.array([figure(rng.permutation(n)) for _ in range(PERMUTATIONS)])
    p = (1 + int((permuted >= observed - 1e-9).sum())) / (1 + PERMUTATIONS)
    return PermutationTest(n, observed, float(permuted.mean()), p)


def _layers(a: _Side, b: _Side, pairs: Mapping[int, tuple[int, float]]) -> list[LayerPair]:
    of_layer = Counter(unit.layer for unit in a.units)
    together: dict[str, Counter[str]] = defaultdict(Counter)
    for label, (other, _) in pairs.items():
        there = {unit.layer for unit in b.members[other]}
        for unit in a.members[label]:
            together[unit.layer].update(there)
    found = []
    for layer, n in of_layer.items():
        if together[layer]:
            second, units = together[layer].most_common(1)[0]
            found.append(LayerPair(layer, second, units, units / n))
    return found


def _alone(side: _Side, paired: set[int]) -> list[str]:
    left = [place for place in range(len(side.labels)) if place not in paired]
    return [side.members[place][0].label for place in sorted(left, key=lambda p: -len(side.members[p]))]


def figures(comparison: MeaningComparison) -> list[str]:
    """Return the comparison in sentences."""
    n_first, n_second = comparison.matched
    lines = [
        f"{n_first:,} of {comparison.labeled[0]:,} labeled units of the first have a counterpart in the "
        f"second, and {n_second:,} of {comparison.labeled[1]:,} of the second in the first"
    ]
    if (test := comparison.same_unit) is not None:
        lines.append(
            f"of {test.pairs:,} units that both have, {test.observed:.0%} are labeled alike; of permuted "
            f"units {test.permuted:.0%} (p {test.p:.3g})"
        )
    if (test := comparison.exemplars) is not None:
        lines.append(
            f"{test.pairs:,} counterparts share {test.observed:.0%} of their exemplars; permuted ones "
            f"{test.permuted:.0%} (p {test.p:.3g})"
        )
        tested = [each.q for each in comparison.counterparts if each.q is not None]
        lines.append(
            f"{sum(q <= RATE for q in tested):,} of {len(tested):,} counterparts share more exemplars than "
            f"other units do (false-discovery rate {RATE:.0%})"
        )
    else:
        lines.append("no exemplars are on record that could confirm the counterparts")
    return lines


def table(comparison: MeaningComparison, most: int = 20) -> Any:
    """Return the most similar counterparts as a table for a terminal."""
    from rich.table import Table

    from experiments.records.names import UnitName

    shown = Table(title="\n".join(figures(comparison)), title_justify="left", title_style="", box=None)
    for name in ("unit", "label", "counterpart", "its label", "similarity", "shared exemplars", "q"):
        shown.add_column(name, no_wrap=name in ("unit", "counterpart"))
    for each in comparison.counterparts[:most]:
        shown.add_row(
            UnitName.parse(each.unit).short,
            each.label[:60],
            UnitName.parse(each.counterpart).short,
            each.counterpart_label[:60],
            f"{each.similarity:.2f}",
            "–" if each.shared is None else f"{each.shared:.0%}",
            "–" if each.q is None else f"{each.q:.2g}",
        )
    return shown
