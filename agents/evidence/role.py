"""The role of a unit in its network: which outputs it raises and lowers on the images that drive it.

The images pass clean and with the unit ablated. An output's effect is its change, clean minus ablated,
centered over all outputs, since softmax ignores what all logits share. A common cause of all images' effects
is tested by Student's t over images, and outputs are claimed at a false-discovery rate (Benjamini and
Hochberg 1995). What any change of the layer does, as long at each position and in a random direction, is the
null that the largest effect is compared with; over many units, at such a rate again. Of a network whose
outputs have no names, such as an embedding, the change of the outputs as a whole is measured.

Shapes: n images; k outputs; B controls on the first m images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from agents.evidence.effects import LEAST_IMAGES, RATE, effect_differences, mean_effects
from agents.evidence.statistics import benjamini_hochberg, wilson_interval

_TINY = float(np.finfo(np.float32).tiny)
MOST = 5
"""Outputs in each direction that are kept."""

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class OutputEffect:
    """What the unit adds to an output, in its own units (logits), in the mean over images.

    `interval` is Student's at 95%, `q` the smallest false-discovery rate at which the effect would be
    claimed.
    """

    output: int
    name: str
    effect: float
    interval: Interval
    q: float


@dataclass(frozen=True, slots=True)
class RandomChanges:
    """The unit's largest effect beside that of random changes of the same size on the same `images`.

    An effect is that of the role: the largest of any output, in the mean over images, or the change of the
    outputs as a whole. `p`: (1 + changes that do as much) / (1 + `n`). `typical`: the changes' median.
    `others`: the effect of each; none in records of earlier versions.
    """

    n: int
    images: int
    effect: float
    typical: float
    p: float
    others: tuple[float, ...] = ()


Comes = Literal["with the label", "with and without the label", "not with the label"]


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """Whether the effect comes with the label: the mean effect on fresh images of the label (`n_with`) and of
    other things (`n_without`), with Student's 95% intervals.

    `output` is the one with the strongest effect on the exemplars, None for the outputs as a whole; effects
    are positive in that effect's direction. `more`: with the label less without, with Welch's interval.
    """

    output: int | None
    name: str
    n_with: int
    n_without: int
    with_label: float
    with_interval: Interval
    without_label: float
    without_interval: Interval
    more: float
    more_interval: Interval
    comes: Comes
    raises: bool = True
    """Whether the unit raises the output; of the outputs as a whole it means nothing."""


@dataclass(frozen=True, slots=True)
class Recognition:
    """How many of the `n` exemplars of known class the network recognizes with and without the unit, as
    shares with Wilson's 95% intervals; `p` is that of McNemar's exact test.
    """

    n: int
    before: float
    before_interval: Interval
    after: float
    after_interval: Interval
    p: float


@dataclass(frozen=True, slots=True)
class Role:
    """Outputs that a unit surely raises and lowers on `n` images, strongest first; `outputs` were compared.

    `floor`: the largest change that a pass makes which edits nothing. `flips`: images whose first output is
    another one without the unit. `norm`: change of the outputs' length, as a share of it, with Student's 95%
    interval; `cosine` that of the outputs with and without the unit, in the mean. Outputs with names are
    compared as they are, or `centered`. Without names, `raised` and `lowered` are empty, and `flips` is 0.
    """

    n: int
    outputs: int
    raised: tuple[OutputEffect, ...]
    lowered: tuple[OutputEffect, ...]
    floor: float
    flips: int
    norm: float
    norm_interval: Interval = (0.0, 0.0)
    cosine: float = 1.0
    named: bool = True
    centered: bool = True
    random: RandomChanges | None = None
    faithful: Faithfulness | None = None
    recognition: Recognition | None = None
    edited: int = 0
    """Images that passed edited to measure it."""

    @property
    def claimed(self) -> bool:
        """Whether there is an effect, more than random changes have."""
        return self.affects and (self.random is None or self.random.p <= RATE)

    @property
    def affects(self) -> bool:
        """Whether there surely is an effect."""
        return bool(self.raised or self.lowered) if self.named else self.norm_interval[0] > 0


_RECORDED = TypeAdapter(Role)


def recorded(values: Any) -> Role | None:
    """Return a role from its plain values, None if they are not those of a role."""
    try:
        return _RECORDED.validate_python(values)
    except ValidationError:
        return None


def role(
    clean: np.ndarray,
    ablated: np.ndarray,
    placebo: np.ndarray,
    names: Sequence[str] = (),
    *,
    named: bool = True,
    centered: bool = True,
) -> Role | None:
    """Return the role from outputs, float (n, k); None of fewer than three images or two outputs.

    `placebo` are those of a pass in which the unit is given its own value. `named`: outputs stand for things.
    `centered`: named outputs are logits of classes that exclude each other, of which softmax ignores what all
    share.
    """
    n, n_outputs = clean.shape
    if n < LEAST_IMAGES or n_outputs < 2:
        return None
    centered = centered and named
    before, after = _compared(clean, centered), _compared(ablated, centered)
    effects = before - after
    floor = float(np.abs(_compared(placebo, centered) - before).max())
    # Differences as small as those of a pass that changes nothing are none, however alike they are.
    least = max(floor, float(np.finfo(np.float32).eps * np.abs(clean).max()))
    claimed = _claimed(effects, least, names) if named else []
    length = np.maximum(np.linalg.norm(before, axis=1), np.finfo(float).tiny)
    shares = np.where(np.abs(effects).max(1) > least, np.linalg.norm(effects, axis=1) / length, 0.0)
    lengths = length * np.linalg.norm(after, axis=1)
    cosines = (before * after).sum(1) / np.maximum(lengths, np.finfo(float).tiny)
    return Role(
        n,
        n_outputs,
        tuple(effect for effect in claimed if effect.effect > 0)[:MOST],
        tuple(effect for effect in claimed if effect.effect < 0)[:MOST],
        floor,
        int((clean.argmax(1) != ablated.argmax(1)).sum()) if named else 0,
        float(shares.mean()),
        _interval(shares),
        float(cosines.mean()),
        named,
        centered,
    )


def _claimed(effects: np.ndarray, least: float, names: Sequence[str]) -> list[OutputEffect]:
    """Return the outputs with an effect at the false-discovery rate, strongest first."""
    found = mean_effects(effects.T, least)
    return [
        OutputEffect(
            output,
            name_of(output, names),
            float(found.mean[output]),
            found.interval(output),
            float(found.q[output]),
        )
        for output in np.argsort(-np.abs(found.mean), kind="stable").tolist()
        if found.sure[output]
    ]


def name_of(output: int, names: Sequence[str]) -> str:
    """Return an output's name, its number where it has none."""
    return names[output] if output < len(names) else f"output {output}"


def random_changes(
    clean: np.ndarray, ablated: np.ndarray, controls: np.ndarray, found: Role
) -> RandomChanges | None:
    """Return the comparison with controls, float (B, m, k), on the first m images; None without controls.

    `clean` and `ablated` are float (m, k). A control whose outputs are not finite counts as doing more.
    """
    if not len(controls):
        return None
    before = _compared(clean, found.centered)

    def effect(outputs: np.ndarray) -> float:
        change = before - _compared(outputs, found.centered)
        of_one, of_all = np.abs(change.mean(0)).max(), np.linalg.norm(change, axis=1).mean()
        largest = float(of_one if found.named else of_all)
        return largest if np.isfinite(largest) else np.inf

    own, others = effect(ablated), np.array([effect(outputs) for outputs in controls])
    p = (1 + int((others >= own).sum())) / (1 + len(others)) if own > found.floor else 1.0
    listed = np.minimum(others, float(np.finfo(np.float32).max))
    return RandomChanges(
        len(others), len(clean), own, float(np.median(listed)), p, tuple(_short(each) for each in listed)
    )


def rates_among(units: Sequence[RandomChanges]) -> np.ndarray:
    """Return the smallest false-discovery rate over these units at which each would be said to do more than
    random changes, float64 (units,).

    Twenty changes alone give no p below 0.048, too much for a rate over many units. So effects are divided by
    the median of the unit's changes, and each unit's is compared with the changes of all units, each divided
    by the median of its unit's others. This takes these ratios to be distributed alike in all units.
    """
    own, pooled = np.empty(len(units)), []
    for place, unit in enumerate(units):
        others = np.array(unit.others)
        # A unit that changes nothing has p = 1.
        own[place] = unit.effect / max(unit.typical, _TINY) if unit.p < 1 else 0.0
        for left_out in range(len(others)):
            rest = float(np.median(np.delete(others, left_out)))
            pooled.append(others[left_out] / max(rest, _TINY))
    null = np.sort(np.array(pooled))
    at_least = len(null) - np.searchsorted(null, own, side="left")
    return benjamini_hochberg(((1 + at_least) / (1 + len(null))).tolist())


def faithfulness(
    with_label: tuple[np.ndarray, np.ndarray], without: tuple[np.ndarray, np.ndarray], found: Role
) -> Faithfulness | None:
    """Return whether the role's strongest effect comes with the label, from (clean, ablated) outputs, float
    (n, k) each; None of fewer than three images of either kind, or of a unit without effect.
    """
    strongest = next(iter((*found.raised, *found.lowered)), None)
    if min(len(with_label[0]), len(without[0])) < LEAST_IMAGES or (found.named and strongest is None):
        return None

    def effects(clean: np.ndarray, ablated: np.ndarray) -> np.ndarray:
        before = _compared(clean, found.centered)
        change = before - _compared(ablated, found.centered)
        if strongest is not None:
            return np.asarray(np.sign(strongest.effect) * change[:, strongest.output])
        length = np.maximum(np.linalg.norm(before, axis=1), np.finfo(float).tiny)
        least = max(found.floor, float(np.finfo(np.float32).eps * np.abs(clean).max()))
        moved = np.abs(change).max(1) > least
        return np.where(moved, np.linalg.norm(change, axis=1) / length, 0.0)

    one, other = effects(*with_label), effects(*without)
    more = effect_differences(one[None], other[None], 0.0).interval(0)
    present = _interval(one)[0] > (found.floor if found.named else 0.0)
    return Faithfulness(
        None if strongest is None else strongest.output,
        "the outputs as a whole" if strongest is None else strongest.name,
        len(one),
        len(other),
        float(one.mean()),
        _interval(one),
        float(other.mean()),
        _interval(other),
        float(one.mean() - other.mean()),
        more,
        "not with the label"
        if not present
        else "with the label"
        if more[0] > 0
        else "with and without the label",
        strongest is None or strongest.effect > 0,
    )


def recognition(clean: np.ndarray, ablated: np.ndarray, classes: Sequence[int | None]) -> Recognition | None:
    """Return how well images of known class are recognized, from outputs, float (n, k); None of fewer than
    three. `classes` are outputs, None where the class is unknown or none of the network's.
    """
    from scipy import stats

    known = [row for row, output in enumerate(classes) if output is not None]
    n = len(known)
    if n < LEAST_IMAGES:
        return None
    truth = np.array([classes[row] for row in known])
    before, after = clean[known].argmax(1) == truth, ablated[known].argmax(1) == truth
    lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
    return Recognition(
        n,
        float(before.mean()),
        wilson_interval(int(before.sum()), n),
        float(after.mean()),
        wilson_interval(int(after.sum()), n),
        float(stats.binomtest(gained, lost + gained).pvalue) if lost + gained else 1.0,
    )


def _short(value: float) -> float:
    """Return a value in the digits that a record needs."""
    return float(f"{value:.4g}")


def _compared(outputs: np.ndarray, centered: bool) -> np.ndarray:
    """Return outputs as they are compared, float64."""
    values: np.ndarray = outputs.astype(np.float64)
    return values - values.mean(1, keepdims=True) if centered else values


def _interval(values: np.ndarray) -> Interval:
    """Return Student's 95% interval of a mean."""
    return mean_effects(values[None], 0.0).interval(0)
