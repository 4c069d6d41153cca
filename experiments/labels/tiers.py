"""`maia sweep --agents`: which units are given agents, by labels that `maia label` made without any.

A label is doubtful where none was accepted, where it separates the images badly, where another fits nearly as
well, or where it leaves most of the strong images unexplained. Doubtful units come first: the ones that do
most to the network's outputs, then those whose strong images are most alike. Labels that are not doubtful are
put to the critic's test, and an agent follows only where one is left and the label fails. Doubtful units
whose strong images are no more alike than chance makes them come last: anything drives a unit without
meaning, and an agent would find nothing.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from actors.errors import UsageError
from actors.vision.networks.layer_cache import KnownNetwork
from agents.records.run_files import RecordError, parse_json
from agents.records.store import Store
from agents.tasks.describe_unit import LONGEST_TOLD
from experiments.atlas.catalog import CatalogUnit
from experiments.atlas.search_index import SearchIndex
from experiments.labels.layer import LEAST_MARGIN, LabelSettings
from experiments.labels.record import (
    FILE,
    NOTHING_FITS,
    UnitLabel,
    by_earlier_rules,
    lines,
    parse_labels,
    read_labels,
    read_summary,
)
from experiments.labels.run import LabelRequest, label_units
from experiments.records.names import UnitName
from experiments.records.tiers import UnitTier
from experiments.report.records import mapping, number, text
from experiments.setup.console import Console
from experiments.setup.selection import Selection

LEAST_AUROC = 0.7
"""A label that separates images worse than this is doubtful; the critic would not confirm it either."""
LEAST_COVERAGE = 0.5
"""Share of the unit's strong images that its label must explain."""
LEAST_COMMON = 5.0
"""Standard errors by which strong images must be more alike than chance makes them, for an agent to find what
they have in common.
"""
_JOINED = re.compile(r" OR ")
_NOTHING_IN_COMMON = "its strong images have nothing in common that embeddings show"
_PARENTHESES = str.maketrans("", "", "()")


@dataclass(frozen=True, slots=True)
class AgentChoice:
    """Which units are given agents: `doubtful`, the first `number`, or those whose labels match `query`."""

    kind: Literal["doubtful", "top", "budget", "query"]
    text: str
    """As it was asked for."""
    number: int | None = None
    query: str = ""

    @classmethod
    def parse(cls, text: str, affordable: int | None = None) -> AgentChoice | None:
        """Return the choice that a text names, None for `all`. `affordable`: agents that a budget pays.

        Raises:
            UsageError: If it has none of the forms.
        """
        kind, _, rest = text.strip().partition(":")
        rest = rest.strip()
        if text.strip() == "all":
            return None
        if text.strip() == "doubtful":
            return cls("doubtful", "doubtful")
        if kind == "top" and re.fullmatch(r"\d{1,9}", rest):
            return cls("top", f"top:{int(rest)}", int(rest))
        if kind == "query" and rest:
            return cls("query", f"query:{rest}", query=rest)
        if kind == "budget" and budget_of(text) is not None:
            return cls("budget", f"budget:{rest}", affordable)
        raise UsageError(
            f"agents are given to all, doubtful, top:NUMBER, budget:DOLLARS or query:TEXT, got {text!r}.",
            "Correct --agents.",
        )

    def most(self, units: int) -> int:
        """Return how many of so many units are given an agent at most."""
        return units if self.number is None else min(units, self.number)


def budget_of(text: str) -> float | None:
    """Return the US dollars of `budget:DOLLARS`, None of another text."""
    found = re.fullmatch(r"\s*budget:\s*(\d{1,9}(?:\.\d{1,4})?)\s*", text)
    return float(found[1]) if found else None


def doubt_of(label: UnitLabel | None) -> str:
    """Return why a unit's label is doubtful, "" if it is not."""
    if label is None:
        return "it has no label by embeddings"
    if label.label is None:
        q = "" if label.q is None else f" (q {label.q:.2f})"
        if label.reason == NOTHING_FITS and label.best:
            return f"of the words {label.reason}{q}"
        return f"{label.best!r} is not accepted as its label: {label.reason}" if label.best else label.reason
    if label.auroc is None or label.auroc < LEAST_AUROC:
        return f"its label by embeddings separates images badly (AUROC {label.auroc or 0.5:.2f})"
    if label.margin is not None and label.margin < LEAST_MARGIN * (label.correlation or 0.0):
        return f"{label.runner_up!r} fits nearly as well as its label by embeddings"
    if label.coverage is not None and label.coverage < LEAST_COVERAGE:
        return f"its label by embeddings explains {label.coverage:.0%} of its strong images"
    return ""


def is_common(label: UnitLabel | None) -> bool:
    """Return whether a unit's strong images have something in common, or nothing is known of them."""
    return label is None or label.common is None or label.common >= LEAST_COMMON


def proposed(label: UnitLabel | None) -> tuple[str, ...]:
    """Return the labels that the critic can test: the parts of an OR, each in words of a prompt."""
    if label is None or not label.label:
        return ()
    # An OR within an AND cannot be taken apart.
    parts = [label.label] if "(" in label.label else _JOINED.split(label.label)
    return tuple(map(_spoken, parts))


def hypotheses_of(label: UnitLabel | None) -> tuple[str, ...]:
    """Return what an agent is told of a unit's labels, accepted or not: best label, its rival, best word."""
    if label is None:
        return ()
    known = (label.label, label.best, label.runner_up, label.wpmi_label)
    spoken = (_spoken(each)[:LONGEST_TOLD] for each in known if each)
    return tuple(dict.fromkeys(spoken))


def _spoken(formula: str) -> str:
    """Return a formula in words of a prompt."""
    text = formula.translate(_PARENTHESES).replace(" AND NOT ", " without ")
    return text.replace(" AND ", " with ").replace(" OR ", " or ")


@dataclass(frozen=True)
class LabelTiers:
    """Decides by the labels of a run of `maia label`: one that is named, or one beside the sweep's."""

    choice: AgentChoice
    labels: Path | None = None
    """A run of `maia label`."""
    vocabulary: str = "everyday"
    effects: Mapping[tuple[str, int], float] = field(default_factory=dict)
    """What units do to the outputs, by layer and number: those that do most come first."""
    settings: LabelSettings = field(default_factory=LabelSettings)
    tell: bool = False
    """Whether agents are told the labels and their rivals as hypotheses."""
    label: Callable[[Console, LabelRequest], Awaitable[object]] = label_units

    @property
    def text(self) -> str:
        return self.choice.text

    async def prepare(
        self, console: Console, selection: Selection, model: str, layers: Sequence[str], run: Path
    ) -> None:
        """Label the layers in a run of its own, beside `run`, unless one is named or the run has them."""
        if self.labels is not None:
            read_labels(self.labels)
            return
        known = _labels_in(Store(run)) or _labels_in(Store(beside(run)))
        if set(layers) <= {label.layer for label in known}:
            return
        console.say(f"labeling {', '.join(layers)} by embeddings, in {beside(run)}")
        text = ",".join(layers)
        request = LabelRequest(model, text, self.vocabulary, selection, "max", self.settings, beside(run))
        await self.label(console, request)

    def decide(
        self, store: Store, network: KnownNetwork, fingerprint: str, units: Sequence[str]
    ) -> list[UnitTier]:
        """Return what each unit is given, those first that need an agent most. The labels are copied into the
        run.

        Raises:
            UsageError: If the labels are of another network, or lack a layer of the units.
        """
        labels = self._labels(store, network, fingerprint, units)
        doubts = {unit: doubt_of(label) for unit, label in labels.items()}
        order = sorted(labels, key=lambda unit: self._urgency(unit, labels[unit], doubts[unit]))
        matching = self._matching(labels) if self.choice.kind == "query" else set()
        left, tiers = self.choice.most(len(order)), []
        for place, unit in enumerate(order):
            wanted = unit in matching if self.choice.kind == "query" else place < left
            if self.choice.kind == "doubtful" and doubts[unit] and not is_common(labels[unit]):
                wanted, doubts[unit] = False, f"{doubts[unit]}; {_NOTHING_IN_COMMON}"
            tier = self._tier(unit, labels[unit], doubts[unit], wanted)
            tiers.append(replace(tier, hypotheses=hypotheses_of(labels[unit])) if self.tell else tier)
        return tiers

    def _tier(self, unit: str, label: UnitLabel | None, doubt: str, wanted: bool) -> UnitTier:
        said, kind = proposed(label), self.choice.kind
        if kind == "query" and wanted:
            return UnitTier(unit, "agent", f"its labels match {self.choice.query!r}", said)
        if doubt:
            spent = f"{doubt}; {self.choice.text} gives its agents to other units"
            return UnitTier(unit, "agent" if wanted else "nothing", doubt if wanted else spent, said)
        sure = "its label by embeddings is not doubtful"
        if wanted and kind != "query":
            return UnitTier(unit, "test, then agent", f"{sure}: an agent is asked if it fails the test", said)
        return UnitTier(unit, "test", f"{sure}, and {self.choice.text} gives its agents to other units", said)

    def _urgency(self, unit: str, label: UnitLabel | None, doubt: str) -> tuple[int, float, float]:
        name = UnitName.parse(unit)
        effect = self.effects.get((name.layer, name.index or 0), 0.0)
        if label is None:
            return 0, -effect, 0.0
        if not doubt:
            return 1, -effect, label.correlation or 0.0
        alike = label.clarity if label.common is None else label.common
        return 0 if is_common(label) else 2, -effect, -(alike or 0.0)

    def _matching(self, labels: Mapping[str, UnitLabel | None]) -> set[str]:
        known = [_catalogued(unit, label) for unit, label in labels.items() if label is not None]
        return {hit.unit for hit in SearchIndex.of(known).search(self.choice.query, len(known))}

    def _labels(
        self, store: Store, network: KnownNetwork, fingerprint: str, units: Sequence[str]
    ) -> dict[str, UnitLabel | None]:
        names = {unit: UnitName.parse(unit) for unit in units}
        layers = {name.layer for name in names.values()}
        known = _labels_in(store)
        if self.labels is not None or not layers <= {label.layer for label in known}:
            source = self.labels or beside(store.root)
            if read_summary(source).network != fingerprint:
                raise UsageError(
                    f"the labels in {source} are of another network than {network.name}.",
                    "Name labels of this network, or none: --labels.",
                )
            known = [label for label in read_labels(source) if label.layer in layers]
            missing = layers - {label.layer for label in known}
            if missing:
                raise UsageError(
                    f"{source} has no labels of {', '.join(sorted(missing))}.",
                    f"Make them: `maia label {network.name} --layers {','.join(sorted(layers))}`.",
                )
            whole = [replace(each, unit=f"{network.name}/{each.layer}:{each.index}") for each in known]
            store.replace(FILE, lines(whole))
        by_place = {(label.layer, label.index): label for label in known}
        return {unit: by_place.get((name.layer, name.index or 0)) for unit, name in names.items()}


def beside(run: Path) -> Path:
    """Return where the labels of a sweep are made: a run of their own."""
    return run.with_name(f"{run.name}-labels")


def _labels_in(store: Store) -> list[UnitLabel]:
    """Return the labels that a run has, none if they are by earlier rules: they are made again then."""
    try:
        known = parse_labels(store.get(FILE) or b"")
    except ValueError as error:
        raise UsageError(
            f"{store.root / FILE} is damaged.", "Remove it: it is made again from the labels."
        ) from error
    return [] if by_earlier_rules(known) else known


def _catalogued(unit: str, label: UnitLabel) -> CatalogUnit:
    name = UnitName.parse(unit)
    others = (each for each in (label.best, label.runner_up, label.wpmi_label) if each)
    return CatalogUnit(name.id, name.layer, name.index, name.short, label.label or "", rivals=tuple(others))


def effects_in(run: Path) -> dict[tuple[str, int], float]:
    """Return by layer and number the share by which units change the outputs, from a run of `maia roles`.

    Raises:
        UsageError: If it holds no roles.
    """
    try:
        table = Store(run).table("roles.jsonl")
        if table is None:
            raise FileNotFoundError
        rows = [mapping(parse_json(line, run / "roles.jsonl")) for line in table.splitlines()]
    except (OSError, RecordError) as error:
        raise UsageError(f"{run} has no roles that can be read.", "Make them with `maia roles`.") from error
    found = {}
    for row in rows:
        norm, name = number(mapping(row.get("role")).get("norm")), UnitName.parse(text(row.get("unit")))
        if norm is not None and name.index is not None:
            found[name.layer, name.index] = norm
    return found
