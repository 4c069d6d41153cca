"""The page of `maia compare`, and its files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from agents.records.store import Store
from experiments.atlas.comparison import MeaningComparison, figures
from experiments.atlas.front_page import write_report
from experiments.records.names import UnitName
from experiments.report.schema import Block, DataTable, Page, TableColumn, Text, columns

FILE = "compare.json"
_MOST = 500
_MOST_ALONE = 100


def write(comparison: MeaningComparison, out: Path) -> Path:
    """Write `compare.json` and the page into a folder, and return the page.

    Raises:
        UsageError: If the folder cannot be written.
    """
    store = Store.open(out)
    encoded = json.dumps(asdict(comparison), indent=1, ensure_ascii=False)
    store.replace(FILE, encoded.encode("utf-8", "replace"))
    page(comparison).save(out, "meaning")
    write_report(out)
    return out / "report" / "experiments" / "meaning.html"


def page(comparison: MeaningComparison) -> Page:
    """Return the comparison as a page."""
    short = [Path(run).name or run for run in comparison.runs]
    sentences = [f"{line[:1].upper()}{line[1:]}." for line in figures(comparison)]
    blocks: list[Block] = [
        DataTable(
            title="Layers",
            columns=(*columns("layer", "says the same as", "units", digits=0), TableColumn(name="share")),
            rows=tuple((pair.first, pair.second, pair.units, pair.share) for pair in comparison.layers),
            note="Of the labeled units of the first layer, those with a counterpart label in the second.",
        ),
        DataTable(
            title="Counterparts",
            columns=(*columns("unit", "label", "counterpart", "its label", "similarity", "shared exemplars"),
                     TableColumn(name="p", digits=3), TableColumn(name="q", digits=3)),
            rows=tuple(
                (UnitName.parse(each.unit).short, each.label, UnitName.parse(each.counterpart).short,
                 each.counterpart_label, each.similarity, each.shared, each.p, each.q)
                for each in comparison.counterparts[:_MOST]
            ),
            note=f"At most {_MOST} are shown. p: share of the second run's units with as many exemplars "
            "in common; q: false-discovery rate over all counterparts.",
        ),
    ]  # fmt: skip
    for name, labels in zip(short, comparison.alone, strict=True):
        more = f", and {len(labels) - _MOST_ALONE:,} more" if len(labels) > _MOST_ALONE else ""
        said = "; ".join(labels[:_MOST_ALONE]) + more
        blocks.append(Text(title=f"Labels without a counterpart: {name}", paragraphs=(said or "none",)))
    return Page(
        title=f"{short[0]} and {short[1]}, by meaning", summary=" ".join(sentences), blocks=tuple(blocks)
    )
