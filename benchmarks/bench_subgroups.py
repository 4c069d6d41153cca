"""Audits on real images, simulated: how often the right worst group is named, and how often a fair classifier
is accused.

    python -m benchmarks.bench_subgroups [--seeds 300] [--images 1200]

Two classes, each in its own place on 95 % of its images. Elsewhere a classifier loses probability. Nothing is
trained: the figures are those of the statistics of `experiments.audit.subgroups` and
`experiments.audit.replication`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from agents.evidence.statistics import wilson_interval
from experiments.audit.context_survey import ContextEffect
from experiments.audit.real_images import Answers, RealImages, Tag
from experiments.audit.replication import replications
from experiments.audit.subgroups import Groups, findings

LOSSES = (0.0, 0.05, 0.2, 0.3, 0.5)
NAMES = ("landbird", "waterbird")


def birds(rng: np.random.Generator, n: int, loss: float) -> RealImages:
    """Return the measured images of a classifier that loses `loss` of its probability out of place."""
    label = np.arange(n) % 2
    place = np.where(rng.random(n) < 0.95, label, 1 - label)
    probability = np.clip(1 / (1 + np.exp(-rng.normal(2.2, 1.2, n))) - loss * (place != label), 0, 1)
    return RealImages(
        "birds", "", "", int(rng.integers(2**31)), [], [], list(range(n)), [NAMES[each] for each in label],
        probability.tolist(), (probability > 0.5).tolist(), {"place": Tag(["land", "water"], place.tolist())},
    )  # fmt: skip


def row(seeds: int, n: int, loss: float) -> str:
    """Return a line of the table for one loss."""
    rng = np.random.default_rng((7, round(100 * loss)))
    truth = Groups.of(birds(rng, 400_000, loss))
    accuracy = {key: float(truth.correct[rows].mean()) for key, rows in truth.groups.items()}
    right = accused = below = covered = surely = 0
    bias = []
    for _ in range(seeds):
        real = birds(rng, n, loss)
        found = findings(real, [])
        sure = {
            (each.class_name, each.context.rpartition(" ")[2]) for each in found.associations if each.biased
        }
        minority = {("landbird", "water"), ("waterbird", "land")}
        surely += sure == minority
        accused += bool(sure - minority) if loss else bool(sure)
        if (worst := found.worst) is None:
            continue
        key = worst.class_name, worst.attribute, worst.level
        right += (worst.class_name, worst.level) in minority
        below += worst.below
        covered += worst.interval[0] <= accuracy[key] <= worst.interval[1]
        least = min(each.accuracy for each in found.subgroups if each.accuracy is not None)
        bias.append((worst.accuracy - accuracy[key], least - min(accuracy.values())))
    honest, naive = np.mean(bias, axis=0)
    shares = [f"{count} of {seeds}" for count in (right, below, surely, accused, covered)]
    return f"| {loss:.2f} | {' | '.join(shares)} | {honest:+.3f} | {naive:+.3f} |"


def blurred(seeds: int, sensitivity: float, specificity: float) -> str:
    """Return a line on a finding whose context observers of these errors tell on 400 images; the true effect
    is -0.4.
    """
    rng = np.random.default_rng((11, round(100 * sensitivity), round(100 * specificity)))
    effect = ContextEffect(
        "waterbird", "background: snow", 0.4, (0.3, 0.5), 0.8, -0.4, 0.001, 0.01, 48, 0, True
    )
    verdicts, raw, corrected = [], [], []
    for _ in range(seeds):
        n, snow = 400, rng.random(400) < 0.15
        values = np.clip(0.8 - 0.4 * snow + rng.normal(0, 0.1, n), 0, 1)
        said = np.where(snow, rng.random(n) < sensitivity, rng.random(n) > specificity)
        hits, alarms = rng.binomial(12, sensitivity), rng.binomial(12, 1 - specificity)
        answers = Answers(
            "waterbird", "background: snow", list(range(n)), said.tolist(), int(hits), 12, int(alarms), 12
        )
        real = replace(
            birds(rng, n, 0.0),
            classes=["waterbird"] * n,
            probabilities=values.tolist(),
            tags={},
            answers=[answers],
        )
        (found,) = replications(real, [effect])
        verdicts.append(found.verdict)
        if found.effect is not None and found.corrected is not None:
            raw.append(found.effect)
            corrected.append(found.corrected)
    share = verdicts.count("replicated")
    low, high = wilson_interval(share, seeds)
    means = [f"{np.mean(each):+.3f}" if each else "–" for each in (raw, corrected)]
    return (
        f"| {sensitivity:.2f} | {specificity:.2f} | {share} of {seeds} ({low:.2f} to {high:.2f}) | "
        f"{means[0]} | {means[1]} |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--images", type=int, default=1200)
    asked = parser.parse_args(arguments)
    print("| loss out of place | a minority group is the worst | surely below | both associations | a false "
          "one | "
          "interval covers | bias | bias of the least of all |")  # fmt: skip
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for loss in LOSSES:
        print(row(asked.seeds, asked.images, loss), flush=True)
    print(
        "\n| sensitivity | specificity | replicated | effect seen | corrected |\n|---:|---:|---:|---:|---:|"
    )
    for sensitivity, specificity in ((1.0, 1.0), (0.9, 0.95), (0.9, 0.8), (0.6, 0.6)):
        print(blurred(asked.seeds, sensitivity, specificity), flush=True)


if __name__ == "__main__":
    main()
