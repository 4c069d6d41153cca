"""How often labels of synthetic neurons are right, by kind of unit, and in lines for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agents.evidence.statistics import wilson_interval
from agents.evidence.verdict import HOLDING
from experiments.paper.gym.score import Score

KINDS = ("mono", "or", "given", "confounded", "dead", "constant", "random", "noisy")
PAPER_2AFC = 0.73
"""Share of comparisons that MAIA's label won against MILAN's on synthetic neurons (Table 1)."""


@dataclass(frozen=True, slots=True)
class FirstRight:
    """When the leading hypothesis first named the truth alone: the round, and the images made by then."""

    round: int
    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OneShotLabel(Score):
    """What one look at the exemplars answers, and how right it is."""

    labels: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class NeuronRow(Score):
    """A unit's truth, its labels and how right they are; a row of `synthetic.json`.

    `rounds` and `images` are None where the study failed.
    """

    unit: str
    kind: str
    truth: str
    status: str
    labels: list[str]
    confirmed: bool
    verdict: str
    found_kind: str | None
    e_value: float | None
    rounds: int | None
    images: int | None
    first_right: FirstRight | None
    one_shot: OneShotLabel | None = None
    reachable: bool = True
    """Whether the image maker can draw what drives the unit."""


@dataclass(frozen=True, slots=True)
class KindSummary:
    """The units of one kind: how many labels are right, with Wilson's 95% interval of the share.

    Recall, precision and operator are means, of kinds with a meaning; `images_until_right` is the median
    number of images after which the leading hypothesis was first right. `one_shot_share` is the baseline's.
    """

    n: int
    right: int
    share: float
    interval: tuple[float, float]
    failed: int
    recall: float | None = None
    precision: float | None = None
    operator: float | None = None
    images_until_right: float | None = None
    one_shot_share: float | None = None

    @classmethod
    def of(cls, rows: Sequence[NeuronRow]) -> KindSummary:
        n, right = len(rows), sum(row.right for row in rows)
        one_shot = [row.one_shot.right for row in rows if row.one_shot is not None]
        means: dict[str, float] = {}
        if rows[0].recall is not None:
            means = {
                name: float(np.mean([getattr(row, name) for row in rows]))
                for name in ("recall", "precision", "operator")
            }
            images = [row.first_right.images for row in rows if row.first_right]
            if images:
                means["images_until_right"] = float(np.median(images))
        if one_shot:
            means["one_shot_share"] = float(np.mean(one_shot))
        failed = sum(row.status == "failed" for row in rows)
        return cls(n, right, right / n, wilson_interval(right, n), failed, **means)

    def __str__(self) -> str:
        low, high = self.interval
        cells = ""
        if self.recall is not None:
            cells = f"{self.recall:6.2f} {self.precision:9.2f} {self.operator:8.2f}"
        if self.one_shot_share is not None:
            cells += f" {self.one_shot_share:8.2f}"
        if self.images_until_right is not None:
            cells += f" {self.images_until_right:6.0f}"
        return f"{self.right:4d}/{self.n:<4d}  {low:.2f} to {high:.2f}    {cells}"


@dataclass(frozen=True, slots=True)
class TwoAlternativeChoice:
    """The comparison with the baseline: the label nearer to the truth (concept F1) wins, a tie counts half.

    Judged from the truth itself, so the order in which the two are shown cannot matter.
    """

    n: int
    wins: int
    ties: int
    rate: float
    interval: tuple[float, float]
    paper: float = PAPER_2AFC

    @classmethod
    def of(cls, rows: Sequence[NeuronRow]) -> TwoAlternativeChoice:
        leads = [row.f1 - row.one_shot.f1 for row in rows if row.one_shot is not None]
        n, wins, ties = len(leads), sum(lead > 0 for lead in leads), sum(lead == 0 for lead in leads)
        points = wins + ties / 2
        return cls(n, wins, ties, points / n, wilson_interval(points, n))


@dataclass(frozen=True, slots=True)
class OutOfReach:
    """Units that no image of the image maker can drive: of how many a label was said to hold, and how many
    were called out of reach.
    """

    n: int
    held: int
    called: int
    held_interval: tuple[float, float]
    called_interval: tuple[float, float]

    @classmethod
    def of(cls, rows: Sequence[NeuronRow]) -> OutOfReach:
        n = len(rows)
        held = sum(row.verdict in HOLDING for row in rows)
        called = sum(row.verdict == "out of reach" for row in rows)
        return cls(n, held, called, wilson_interval(held, n), wilson_interval(called, n))


@dataclass(frozen=True, slots=True)
class SyntheticSummary:
    """Shares by kind of unit, and the comparison with the one-shot baseline; None where nothing was
    compared.
    """

    by_kind: dict[str, KindSummary]
    two_afc: TwoAlternativeChoice | None
    out_of_reach: OutOfReach | None


@dataclass(frozen=True)
class SyntheticResult:
    """What `synthetic.json` holds."""

    facts: dict[str, Any]
    seed: int
    left_out: dict[str, str]
    """Why units were not studied, by name."""
    coverage: dict[str, int]
    """How many of the neurons that Table A4 prints were studied."""
    rows: list[NeuronRow]
    summary: SyntheticSummary
    experiment: str = field(default="synthetic", kw_only=True)


def summarize(rows: Sequence[NeuronRow]) -> SyntheticSummary:
    """Return the figures over all units."""
    beyond = [row for row in rows if not row.reachable]
    within = [row for row in rows if row.reachable]
    groups = {kind: [row for row in within if row.kind == kind] for kind in KINDS}
    groups["nuisance"] = [row for row in within if row.recall is None]
    scored = [row for row in within if row.one_shot is not None and row.kind in ("mono", "or", "given")]
    return SyntheticSummary(
        {kind: KindSummary.of(group) for kind, group in groups.items() if group},
        TwoAlternativeChoice.of(scored) if scored else None,
        OutOfReach.of(beyond) if beyond else None,
    )


def table(result: SyntheticResult) -> str:
    """Return the summary in lines for a terminal."""
    summary, coverage = result.summary, result.coverage
    lines = [
        "",
        f"{'kind':12} {'right':>9}  {'95% interval':15} {'recall':>6} {'precision':>9} {'operator':>8} "
        f"{'one-shot':>8} {'images':>6}",
        *(f"{kind:12} {group}" for kind, group in summary.by_kind.items()),
    ]
    if choice := summary.two_afc:
        low, high = choice.interval
        lines.append(
            f"against one look at the exemplars: {choice.rate:.2f} ({low:.2f} to {high:.2f}) of {choice.n} "
            f"comparisons, {choice.ties} ties; the paper's figure is {choice.paper:.2f}"
        )
    if beyond := summary.out_of_reach:
        lines.append(
            f"of {beyond.n} units whose concepts the image maker cannot draw, {beyond.called} were called "
            f"out of reach, and of {beyond.held} a label was said to hold"
        )
    lines.append(
        f"{coverage['studied']} of the {coverage['printed']} neurons that Table A4 prints were studied"
    )
    if result.left_out:
        lines.append(f"left out, because the detector does not know them: {', '.join(result.left_out)}")
    return "\n".join(lines)
