"""An audit for a terminal: a table of what was found, and lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from experiments.audit.carriers.page import carrier_lines
from experiments.audit.claims import Disagreement
from experiments.audit.context_survey import LEAST
from experiments.audit.page import NOTHING
from experiments.audit.real.page import real_lines
from experiments.audit.record import AuditRecord
from experiments.setup.console import counted, printable

SHOWN = 20
"""Lines of each kind that a terminal is given: a thousand classes would bury what was found."""


def findings(record: AuditRecord) -> list[Any]:
    """Return a table of the largest differences, at most `SHOWN`, and their number; nothing of none."""
    ranked = sorted(record.biased, key=lambda effect: -abs(effect.difference))
    if not ranked:
        return []
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("class", "context", "probability", "(95%)", "ordinary", "difference", "q"):
        shown.add_column(name, justify="left" if name in ("class", "context") else "right")
    replications = record.real.found.replications if record.real else ()
    on_real = {(each.class_name, each.context): each.verdict for each in replications}
    if on_real:
        shown.add_column("on real images")
    for effect in ranked[:SHOWN]:
        low, high = effect.mean_interval
        cells = [
            printable(effect.class_name),
            printable(effect.context),
            f"{effect.mean:.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{effect.others:.2f}",
            f"{effect.difference:+.2f}",
            f"{effect.q:.4f}",
            *([on_real.get((effect.class_name, effect.context), "–")] if on_real else []),
        ]
        shown.add_row(*map(Text, cells), style="" if effect.difference > 0 else "red")
    more = len(ranked) - SHOWN
    rest = [f"... and {more:,} more findings: the report and audit.json have all"] if more > 0 else []
    classes = counted(len({effect.class_name for effect in ranked}), "class", "classes")
    return ["", shown, *rest, f"{counted(len(ranked), 'finding')} of {classes}, the largest first"]


def table(record: AuditRecord) -> str:
    """Return what else was found in lines: of each kind as many as fit there, and how many more there are."""
    biased = {effect.class_name for effect in record.biased}
    lines = {
        "classes without a bias that was found": [
            _no_finding(record, name) for name in record.detectable if name not in biased
        ],
        "classes out of reach": [
            f"{name}: out of reach: {why}; its contexts were not tested on generated images"
            for name, why in record.out_of_reach.items()
        ],
        "classes that were not tested in all contexts": [
            f"{name}: not tested, for want of images: {', '.join(contexts)}"
            for name, contexts in record.undrawn.items()
        ],
        "places where an agent's text and the figures part": [
            _disagreement(parted) for parted in record.disagreements
        ],
        **real_lines(record.real),
        "findings and their carriers": carrier_lines(record.carriers),
    }
    return "\n".join(["", *(line for kind, all_lines in lines.items() for line in _few(all_lines, kind))])


def _no_finding(record: AuditRecord, name: str) -> str:
    """Return what it means that no bias was found: nothing at all for a class that no image is taken for."""
    usual, highest, smallest = record.usual[name], record.highest(name), record.detectable[name]
    if highest < LEAST:
        return (
            f"{name}: {NOTHING}: its probability is {usual:.3f} in ordinary contexts and {highest:.3f} at "
            "most in any image, so that no context could lower it"
        )
    floor = f", but no loss: the class has {usual:.3f} in ordinary contexts" if usual < smallest else ""
    return (
        f"{name}: no bias found; a difference of {smallest:.3f} would have been seen in 4 of 5 cases{floor}"
    )


def _disagreement(parted: Disagreement) -> str:
    if parted.kind == "unchecked":
        return f'{parted.class_name}: not checked, for its words are not known: "{parted.context}"'
    measured = "" if parted.difference is None else f" (measured difference {parted.difference:.3f})"
    return f"{parted.class_name}: the agent's text is {parted.kind} on {parted.context}{measured}"


def _few(lines: Sequence[str], kind: str) -> list[str]:
    if len(lines) <= SHOWN:
        return list(lines)
    return [*lines[:SHOWN], f"... and {len(lines) - SHOWN} more {kind}: the report and audit.json have all"]
