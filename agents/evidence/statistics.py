"""The statistics of evidence: how well activations separate two groups of images, and how sure that is.

Pure functions on float arrays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np


def auroc(positives: Sequence[float], controls: Sequence[float]) -> float:
    """Return P(positive > control), ties counted half, in [0, 1].

    Raises:
        ValueError: If a group is empty.
    """
    if not len(positives) or not len(controls):
        raise ValueError("auroc needs at least one value in each group")
    difference = np.subtract.outer(np.asarray(positives, float), np.asarray(controls, float))
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def auroc_interval(
    value: float, n_positives: float, n_controls: float, z: float = 1.96
) -> tuple[float, float]:
    """Return a confidence interval for an AUROC that stays sensible at 0 and 1.

    Newcombe (2006), method 5: the Hanley-McNeil variance with both group sizes replaced by their mean,
    taken at the limit itself, and solved for the limit.
    """
    mean_size = (n_positives + n_controls) / 2

    def variance(theta: float) -> float:
        spread = 1 + (mean_size - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return theta * (1 - theta) * spread / (n_positives * n_controls)

    def limit(low: float, high: float, sign: int) -> float:
        for _ in range(60):
            middle = (low + high) / 2
            outside = sign * (middle - value) > z * math.sqrt(variance(middle))
            if sign > 0:
                low, high = (low, middle) if outside else (middle, high)
            else:
                low, high = (middle, high) if outside else (low, middle)
        return (low + high) / 2

    return limit(0.0, value, -1), limit(value, 1.0, 1)


def standardized_margin(positives: Sequence[float], controls: Sequence[float]) -> float:
    """Return (mean positive - mean control) / controls' standard deviation; 0.0 if that is 0 (CoSy's MAD)."""
    spread = float(np.std(controls))
    if spread == 0.0:
        return 0.0
    return float((np.mean(positives) - np.mean(controls)) / spread)


def e_value(positives: Sequence[float], controls: Sequence[float]) -> float:
    """Return the evidence that a positive tends to exceed its control, from pairs in order.

    A bet on each pair with stakes set by the earlier pairs only: a martingale of mean 1 when
    P(positive > control) <= 1/2 given the past, so E >= 1/alpha may be claimed at level alpha at any
    stopping time (Ville's inequality). A tie bets nothing.
    """
    wealth, wins, seen = 1.0, 0.5, 1.0
    for positive, control in zip(positives, controls, strict=False):
        if positive == control:
            continue
        stake = max(0.0, 2 * wins / seen - 1)
        won = positive > control
        wealth *= 1 + stake if won else 1 - stake
        wins, seen = wins + won, seen + 1
    return wealth


def rank_e_value(positives: Sequence[float], controls: Sequence[float]) -> float:
    """Return the evidence that positives tend to exceed controls, from groups of one positive and some
    controls.

    Both in an order that does not depend on their values. If the two are exchangeable, a positive's rank r
    among the k of its group is uniform, so that k / (r (1 + 1/2 + ... + 1/k)) is 1 in the mean whatever the
    values are, ties taking the mean of their ranks' terms; the groups share nothing, and their product is an
    e-value. Each of the fewer kind meets many of the other.
    """
    values, others = np.asarray(positives, float), np.asarray(controls, float)
    if len(others) < len(values):
        values, others = -others, -values  # each control meets many positives
    n = len(values)
    if n == 0:
        return 1.0
    size = len(others) // n
    terms = 1 / np.arange(1, size + 2)
    terms *= len(terms) / terms.sum()
    groups = others[: n * size].reshape(n, size)
    above = (groups > values[:n, None]).sum(axis=1)
    equal = (groups == values[:n, None]).sum(axis=1)
    return float(np.prod([terms[a : a + e + 1].mean() for a, e in zip(above, equal, strict=True)]))


def weighted_auroc(values: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> float | None:
    """Return P(positive > control) in the population that a sample with these weights stands for (Hajek);
    None without a group.

    All of shape (n,); `positive` is bool, a weight is 1 / the probability of being drawn. Ties count half.
    """
    above, below = values[positive], values[~positive]
    products = np.outer(weights[positive], weights[~positive])
    if not products.size:
        return None
    difference = np.subtract.outer(above, below)
    return float((products * ((difference > 0) + 0.5 * (difference == 0))).sum() / products.sum())


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the 95% percentile interval of a mean."""
    sample = np.asarray(values, float)
    means = np.random.default_rng(seed).choice(sample, (draws, len(sample))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def wilson_interval(successes: float, trials: float, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's confidence interval for a proportion; (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    center = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (center - half) / scale), min(1.0, (center + half) / scale)


def benjamini_hochberg(p_values: Sequence[float]) -> np.ndarray:
    """Return q-values float64 (n,): the smallest false-discovery rate at which each would be claimed."""
    values = np.asarray(p_values, float)
    order = np.argsort(values)
    ranked = values[order] * len(values) / np.arange(1, len(values) + 1)
    adjusted = np.minimum.accumulate(ranked[::-1])[::-1]
    result = np.empty_like(values)
    result[order] = np.minimum(adjusted, 1.0)
    return result


def e_benjamini_hochberg(e_values: Sequence[float], rate: float = 0.05) -> np.ndarray:
    """Return which claims hold at a false-discovery rate, bool (n,), however the tests depend on each other.

    The k largest, for the greatest k whose smallest is at least n / (rate k) (Wang and Ramdas 2022). Valid
    for tests that stopped when they liked, as e-values are.
    """
    values = np.asarray(e_values, float)
    n = len(values)
    ordered = np.sort(values)[::-1]
    # Divided, not multiplied: an e-value may be the largest number there is.
    enough = np.flatnonzero(ordered >= n / (rate * np.arange(1, n + 1)))
    if not len(enough):
        return np.zeros(n, bool)
    kept: np.ndarray = values >= ordered[enough[-1]]
    return kept


def average_precision(positives: Sequence[float], controls: Sequence[float]) -> float:
    """Return the area under the precision-recall curve in [0, 1]; equal activations are taken together.

    Raises:
        ValueError: If a group is empty.
    """
    if not len(positives) or not len(controls):
        raise ValueError("average_precision needs at least one value in each group")
    values = np.r_[np.asarray(positives, float), np.asarray(controls, float)]
    truth = np.r_[np.ones(len(positives)), np.zeros(len(controls))]
    area = before = 0.0
    for threshold in np.unique(values)[::-1]:
        chosen = values >= threshold
        recall = float(truth[chosen].sum()) / len(positives)
        area += (recall - before) * float(truth[chosen].mean())
        before = recall
    return area


def permutation_p_values(
    tests: Sequence[tuple[Sequence[float], Sequence[float]]],
    *,
    margin: float = 0.0,
    among: int | None = None,
    seed: int = 0,
    rate: float = 0.05,
) -> np.ndarray:
    """Return two-sided p-values, float64 (n,), of the null that two means differ by no more than `margin`.

    Values are exchanged between the groups after the first was moved by what the null allows; the difference
    is in units of its standard error (Janssen 1997), so that groups of unlike spread and size keep the level,
    too.

    A p-value of N draws is never below 1 / (N + 1), which many tests together make too coarse for a single
    true effect. So each test is drawn until 20 draws have reached what was observed (Besag and Clifford
    1991), and those that no draws come near until Benjamini-Hochberg at `rate` claims all of them: for one
    among n, 20 n / rate draws. `among` is that n where these tests are not all, the others being taken to
    have p = 1.

    Raises:
        ValueError: If a group has fewer than two values.
    """
    if any(len(group) < 2 for test in tests for group in test):
        raise ValueError("a permutation test needs at least two values in each group")
    rng = np.random.default_rng(seed)
    n = len(tests) if among is None else among
    pairs = [_moved(first, second, margin) for first, second in tests]
    reached, drawn = np.zeros(len(tests), int), np.zeros(len(tests), int)
    undecided, draws = np.arange(len(tests)), 0
    wanted = _FIRST_DRAWS
    while len(undecided):
        for number in undecided.tolist():
            reached[number] += _exceedances(*pairs[number], rng, wanted - draws)
        draws = wanted
        drawn[undecided] = draws
        undecided = undecided[reached[undecided] < _ENOUGH]
        # From here on each of them has p <= 20 / draws <= rate * rank / n.
        claimed = math.ceil(_ENOUGH * n / (rate * max(1, len(undecided))))
        if draws >= claimed:
            break
        wanted = min(draws * _GROWTH, claimed)
    return np.asarray((1 + reached) / (1 + drawn), float)


def _moved(first: Sequence[float], second: Sequence[float], margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the groups, the smaller one first, as they would be without the part of their difference that is
    allowed.
    """
    one, other = np.asarray(first, float), np.asarray(second, float)
    one = one - np.clip(one.mean() - other.mean(), -margin, margin)
    return (one, other) if len(one) <= len(other) else (other, one)


_FIRST_DRAWS = 200
_GROWTH = 8
_ENOUGH = 20
_SIDE_BY_SIDE = 2048


def _exceedances(first: np.ndarray, second: np.ndarray, rng: np.random.Generator, draws: int) -> int:
    """Return in how many of `draws` exchanges the means differ at least as surely as they do."""
    values = np.concatenate([first, second])
    values -= values.mean()
    values /= np.abs(values).max() or 1.0
    n, rest, squares = len(first), len(second), values**2
    total = squares.sum()

    def differences(sums: np.ndarray, squared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the squared difference of the means and its variance, of groups with these sums; all sum to
        0.
        """
        one, other = sums / n, -sums / rest
        spread = (squared / n - one**2) / (n - 1) + ((total - squared) / rest - other**2) / (rest - 1)
        return (one - other) ** 2, np.maximum(spread, 0.0)

    observed, spread = differences(values[:n].sum(), squares[:n].sum())
    columns = np.arange(min(draws, _SIDE_BY_SIDE))
    deck = np.repeat(values[:, None], len(columns), axis=1)
    exceedances = 0
    while draws > 0:
        sums, squared = np.zeros(len(columns)), np.zeros(len(columns))
        for place in range(n):  # Fisher and Yates, stopped when the smaller group is dealt
            other = rng.integers(place, len(values), len(columns))
            dealt = deck[other, columns]
            deck[other, columns] = deck[place]
            deck[place] = dealt
            sums += dealt
            squared += dealt**2
        seen, spreads = differences(sums[:draws], squared[:draws])
        # Multiplied out: without any spread a quotient would be none.
        exceedances += int((seen * spread >= observed * spreads * (1 - 1e-9) - 1e-15).sum())
        draws -= len(columns)
    return exceedances


def detectable_difference(
    spread: float, stages: Sequence[tuple[int, int, float]], *, margin: float = 0.0, power: float = 0.8
) -> float:
    """Return the difference of means that passes every stage with probability `power`, by the t-test's
    approximation.

    A stage is the sizes of its two groups, and the two-sided level at which it must differ by more than
    `margin`; at level 1 the difference seen has only to be larger. Stages see images of their own.
    """
    from scipy.special import stdtrit

    normal = NormalDist()
    steps = [
        (spread * math.sqrt(1 / first + 1 / second), float(stdtrit(first + second - 2, 1 - alpha / 2)))
        for first, second, alpha in stages
    ]

    def passes(difference: float) -> float:
        return math.prod(
            normal.cdf((difference - margin) / error - needed) if error else float(difference > margin)
            for error, needed in steps
        )

    low, high = margin, margin + 1.0
    while passes(high) < power:
        high += high - margin
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if passes(middle) >= power else (middle, high)
    return high
