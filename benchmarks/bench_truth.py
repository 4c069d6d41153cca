"""Comparisons with known truth: planted biases, robust features, ablations; kept in RESULTS.md.

    python -m benchmarks.bench_truth --out runs/truth
    python -m benchmarks.bench_truth --out runs/truth --only planted-biases --networks 1

Each part is the command of that name with its usual seeds; an interrupted one goes on where it was. Synthetic
neurons have a section of their own, by `maia synthetic`.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.harness import processor
from experiments.paper.ablation_page import AblationResult
from experiments.paper.planted_judgement import Proportion
from experiments.paper.planted_page import PlantedResult
from experiments.paper.robust_features_page import RobustResult
from experiments.paper.robust_rows import SummaryRow, summarize
from experiments.setup.console import Console
from experiments.setup.selection import Selection

RESULTS = Path(__file__).parent / "RESULTS.md"
ABLATED = (
    "blue; boat; bridge; dog; flame; frog; pizza; tractor; dog OR car; baby OR dog; truck OR train; "
    "red OR purple"
)
"""Single concepts and pairs of Table A4, so that both parts of a label can be missed."""


def planted_biases(console: Console, arguments: argparse.Namespace) -> tuple[str, str]:
    from experiments.paper.planted_biases import PlantedRequest
    from experiments.paper.planted_biases import planted_biases as measure

    request = PlantedRequest(networks=arguments.networks)
    result = asyncio.run(measure(console, Selection(), request, out=arguments.out / "planted-biases"))
    return f"maia planted-biases --networks {arguments.networks}", told_planted(result)


def robust_features(console: Console, arguments: argparse.Namespace) -> tuple[str, str]:
    from experiments.paper.robust_features import RobustOptions
    from experiments.paper.robust_features import robust_features as measure

    if arguments.sets is None:
        request = RobustOptions(trainings=arguments.trainings).request()
        result = asyncio.run(measure(console, Selection(), request, out=arguments.out / "robust-features"))
        return f"maia robust-features --trainings {arguments.trainings}", told_robust(result)
    results = []
    for seed in arguments.sets:
        request, out = RobustOptions(trainings=1, seed=seed).request(), arguments.out / f"robust-{seed}"
        results.append(asyncio.run(measure(console, Selection(), request, out=out)))
    command = f"maia robust-features --trainings 1 --seed SEED` for each of `{arguments.sets}"
    return command.replace("[", "").replace("]", ""), told_robust(pooled(results))


def pooled(results: Sequence[RobustResult]) -> RobustResult:
    """Return one result of all trainings, each on a set of its own."""
    trainings = [training for result in results for training in result.trainings]
    finished = all(result.finished for result in results)
    return replace(
        results[0],
        set=f"{len(results)} sets",
        finished=finished,
        trainings=trainings,
        summary=summarize(trainings) if trainings else None,
    )


def ablation(console: Console, arguments: argparse.Namespace) -> tuple[str, str]:
    from experiments.paper.ablate import SYNTHETIC, Ablation
    from experiments.paper.ablate import ablate as measure

    asked = Ablation(SYNTHETIC, "", arguments.units)
    result = asyncio.run(measure(console, Selection(), asked, out=arguments.out / "ablation"))
    return f'maia ablate synthetic --units "{arguments.units}"', told_ablation(result)


PARTS: Mapping[str, Callable[[Console, argparse.Namespace], tuple[str, str]]] = {
    "planted-biases": planted_biases,
    "robust-features": robust_features,
    "ablation": ablation,
}


def told_planted(result: PlantedResult) -> str:
    """Return the figures of planted biases as Markdown."""
    summary = result.summary

    def row(name: str, part: Proportion, target: str) -> str:
        low, high = part.interval
        return f"| {name} | {part.hits} of {part.n} | {part.share:.2f} | {low:.2f} to {high:.2f} | {target} |"

    lines = ["| | | share | 95 % interval | target |", "|---|---:|---:|---|---|"]
    lines.append(row("planted biases found", summary.found, ">= 0.90"))
    lines += [row(f"of them, {kind}", part, "") for kind, part in summary.by_kind.items()]
    lines.append(row("unbiased classes with a false alarm", summary.false_alarms, "<= 0.05"))
    lines += [
        "",
        f"{summary.unplanted_but_real} unbiased classes have a difference that was not planted and that "
        "fresh images bear out: the trained networks are not perfect. They do not count as false alarms.",
    ]
    return "\n".join(lines)


def told_robust(result: RobustResult) -> str:
    """Return Table 2 as Markdown."""
    summary = result.summary
    if summary is None:
        return "No training was finished."
    judged = summary.judgement

    def percentiles(name: str) -> str:
        return ", ".join(_figure(getattr(training, name)) for training in result.trainings)

    lines = [
        "| subset | method | units | balanced data | test accuracy, mean ± standard deviation | validation "
        "accuracy | paper |",
        "|---|---|---:|---|---:|---:|---:|",
        *map(_robust_row, summary.rows),
        "",
        f"Of {summary.n} trainings, the agent's units are ahead of L1 of the same size in "
        f"{summary.beats_l1}, of L1's units fitted without a penalty in {summary.beats_l1_no_penalty}, and "
        f"of the 95th percentile of 100 random sets in {summary.beats_random_95}. Share of random sets "
        f"below the agent's, by training: {percentiles('percentile')}.",
        "",
        f"With one ridge for every choice: ahead of L1 of the same size in {summary.ridge_beats_l1}, of the "
        f"95th percentile of random sets in {summary.ridge_beats_random_95}; share of random sets below: "
        f"{percentiles('ridge_percentile')}.",
        "",
        f"In the network itself, with what the agent calls SPURIOUS at zero: ahead of L1 of the same size in "
        f"{summary.edited_beats_l1}, of the 95th percentile of random sets in "
        f"{summary.edited_beats_random_95}; share of random sets below: {percentiles('edited_percentile')}. "
        f"With all units at zero that it does not keep: {summary.alone_beats_l1} and "
        f"{summary.alone_beats_random_95}; {percentiles('alone_percentile')}.",
        "",
        "The judgement itself, on images of every class in every place, means over the trainings:",
        "",
        "| units | number | variance between classes | between places |",
        "|---|---:|---:|---:|",
        *(
            f"| {name} | {_figure(group.n, 1)} | {_figure(group.by_class)} | {_figure(group.by_place)} |"
            for name, group in (("kept", judged.kept), ("dropped", judged.dropped))
        ),
        "",
        "AUROC of the judgement (class part less place part, kept against dropped): "
        f"{_figure(judged.auroc)}. Classes {', '.join(result.classes)}; places {', '.join(result.places)}.",
    ]
    return "\n".join(lines)


def _robust_row(row: SummaryRow) -> str:
    spread = "" if row.spread is None else f" ± {row.spread:.3f}"
    value = "not possible" if row.accuracy is None else f"{row.accuracy:.3f}{spread}"
    paper = "" if row.paper_accuracy is None else f"{row.paper_accuracy:.3f}"
    return (
        f"| {row.subset} | {row.method} | {row.units:.0f} | {'yes' if row.balanced else 'no'} | {value} | "
        f"{_figure(row.validation, 3)} | {paper} |"
    )


def _figure(value: float | None, digits: int = 2) -> str:
    return "none" if value is None else f"{value:.{digits}f}"


def told_ablation(result: AblationResult) -> str:
    """Return the ablations as Markdown."""
    lines = [
        "| variant | units | right | concept F1 | lead of the whole system in F1 | + | − | AUROC |",
        "|---|---:|---:|---:|---|---:|---:|---:|",
    ]
    predictive = {row.method: row for row in result.summary}
    for name, score in (result.truth or {}).items():
        row = predictive.get(name)
        measured = "| | |" if row is None else f"{row.positive:.2f} | {row.negative:.2f} | {row.auroc:.2f} |"
        lines.append(
            f"| {name} | {score.n} | {score.right:.2f} | {score.f1:.2f} | {score.lead or ''} | {measured}"
        )
    lines += ["", "Leads are mean paired differences over units with 95 % bootstrap intervals."]
    return "\n".join(lines)


def keep(name: str, commands: Sequence[str], text: str, results: Path = RESULTS) -> None:
    """Write a part's section into the results, in the place of its earlier one. `commands` all measure the
    same.
    """
    heading = f"## Known truth: {name}"
    listed = " or ".join(f"`{command}`" for command in commands)
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    section = f"{heading}\n\nCommand: {listed}, {now}, built-in interpreter, {processor()}.\n\n{text}\n"
    content = results.read_text() if results.exists() else ""
    pattern = re.compile(rf"^{re.escape(heading)}\n.*?(?=^## |\Z)", re.M | re.S)
    if pattern.search(content):
        content = pattern.sub(lambda _: section + "\n", content, count=1).rstrip("\n") + "\n"
    else:
        content = f"{content.rstrip(chr(10))}\n\n{section}"
    results.write_text(content)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_truth", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/truth"), help="where the runs are kept")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--networks", type=int, default=3, help="networks with planted biases")
    parser.add_argument("--trainings", type=int, default=5, help="trainings on the spurious set")
    parser.add_argument("--sets", nargs="+", type=int, help="seeds of spurious sets, a training on each")
    parser.add_argument("--units", default=ABLATED, help="synthetic neurons of the ablations")
    arguments = parser.parse_args()
    console = Console()
    for name in arguments.only:
        started = time.monotonic()
        command, text = PARTS[name](console, arguments)
        keep(
            name,
            [command, f"python -m benchmarks.bench_truth --only {name}"],
            f"{text}\n\nTook {time.monotonic() - started:.0f} s of this process.",
        )
        print(f"{name}: kept in {RESULTS.name}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
