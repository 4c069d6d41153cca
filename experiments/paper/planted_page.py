"""What became of planted biases, on a page of the report and in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from experiments.paper.planted_judgement import TRUTH_IMAGES, ClassRow, PlantedSummary
from experiments.report.schema import Block, DataTable, Estimate, Page, Text, columns


@dataclass(frozen=True)
class PlantedResult:
    """What `planted_biases.json` holds. Classes that could not be audited are `failed`, and in no count."""

    seed: int
    networks: int
    per_context: int
    finished: bool
    rows: list[ClassRow]
    failed: list[dict[str, int | str]]
    """The number of the `network` and the name of the `class`."""
    summary: PlantedSummary
    experiment: str = field(default="planted-biases", kw_only=True)


def page(result: PlantedResult) -> Page:
    """Return the experiment's page."""
    found, alarms = result.summary.found, result.summary.false_alarms
    sentences = [
        f"{found.hits} of {found.n} planted biases found, false alarms on {alarms.hits} of {alarms.n} "
        "unbiased classes.",
        *_missing(result),
    ]
    blocks: list[Block] = [_shares(result.summary), _classes(result.rows)]
    if said := _answers(result.rows):
        blocks.append(
            Text(title="What agents said, and where it parts from the figures", paragraphs=tuple(said))
        )
    return Page(title="Planted biases", summary=" ".join(sentences), blocks=tuple(blocks))


def _shares(summary: PlantedSummary) -> DataTable:
    shares = {"planted biases found": summary.found}
    shares |= {f"planted: {kind}": found for kind, found in summary.by_kind.items()}
    if summary.named.n:
        shares["planted biases named by agents"] = summary.named
    shares["false alarms on unbiased classes"] = summary.false_alarms
    return DataTable(
        title="What was found",
        columns=(*columns("of"), *columns("hits", "n", digits=0), *columns("share", source="ours")),
        rows=tuple(
            (name, part.hits, part.n, None if part.share is None else Estimate.of(part.share, part.interval))
            for name, part in shares.items()
        ),
        note="Intervals are Wilson's, at 95%. A finding on an unbiased class is a false alarm unless "
        f"{TRUTH_IMAGES} images in the context and as many in others differ as much as a bias does; "
        f"{summary.unplanted_but_real} unbiased classes have an unplanted difference that the network "
        "really makes.",
    )


def _classes(rows: Sequence[ClassRow]) -> DataTable:
    return DataTable(
        title="Every class",
        columns=(
            *columns("network", digits=0),
            *columns(
                "class",
                "planted",
                "flagged",
                "really there, though not planted",
                "smallest difference that would be seen",
            ),
        ),
        rows=tuple(
            (
                row["network"],
                row["class"],
                row["planted"] or "nothing",
                ", ".join(row["flagged"]) or "nothing",
                ", ".join(row["borne_out"]),
                row["detectable"],
            )
            for row in rows
        ),
    )


def _answers(rows: Sequence[ClassRow]) -> list[str]:
    """Return what agents said of each class, and where it parts from the figures."""
    lines = []
    for row in rows:
        if row["answer"]:
            parted = "; ".join(f"{each.kind}: {each.context}" for each in row["disagreements"])
            planted = row["planted"] or "nothing"
            lines.append(f"{row['class']} (planted: {planted}): {row['answer']} [{parted or 'as measured'}]")
    return lines


def _missing(result: PlantedResult) -> list[str]:
    """Return what is in no count, a sentence each."""
    lines = []
    if result.failed:
        names = ", ".join(f"{failed['class']} (network {failed['network']})" for failed in result.failed)
        lines.append(f"Classes that could not be audited: {len(result.failed)}: {names}.")
    if not result.finished:
        lines.append("The run was interrupted; the same command resumes it.")
    return lines


def table(result: PlantedResult) -> str:
    """Return the summary in lines for a terminal."""
    summary = result.summary
    lines = ["", f"planted biases found: {summary.found}"]
    lines += [f"  {kind}: {found}" for kind, found in summary.by_kind.items()]
    if summary.named.n:
        lines.append(f"planted biases named by agents: {summary.named}")
    lines.append(f"unbiased classes with a false alarm: {summary.false_alarms}")
    lines.append(
        f"unbiased classes with a real difference that was not planted: {summary.unplanted_but_real}"
    )
    lines += [
        f"missed: {row['class']} with {row['planted']}; flagged: {', '.join(row['flagged']) or 'nothing'}"
        for row in result.rows
        if row["planted"] and not row["found"]
    ]
    return "\n".join([*lines, *_missing(result)])
