"""Carriers of biases as a block of the audit's page, and as lines for a terminal."""

from __future__ import annotations

from experiments.audit.carriers.record import BiasCarriers, CarrierSection
from experiments.report.schema import Block, Cell, DataTable, Estimate, Text, columns

_MOST = 10
"""Units of a bias at most that are shown."""


def carrier_blocks(section: CarrierSection) -> list[Block]:
    """Return the table of the units that surely carry or counteract a bias, and which biases have none."""
    rows: list[tuple[Cell, ...]] = []
    none = []
    for bias in section.found:
        units = [*bias.carriers, *bias.counteracting][:_MOST]
        if not units:
            none.append(f"{_name(bias)}: {_why_none(bias)}")
        for unit in units:
            rows.append(
                (
                    _name(bias),
                    bias.inside,
                    bias.ordinary,
                    unit.index,
                    "carries it" if unit.effect * bias.difference > 0 else "counteracts it",
                    Estimate.of(unit.effect, unit.interval),
                    unit.q,
                    bias.difference,
                    unit.difference,
                )
            )
    blocks: list[Block] = []
    if rows:
        blocks.append(
            DataTable(
                title=f"Units of {section.layer} that carry the findings",
                columns=(
                    *columns("finding"),
                    *columns("images in context", "ordinary", "unit", digits=0),
                    *columns("role"),
                    *columns("effect"),
                    *columns("q", digits=4),
                    *columns("difference", "without the unit", digits=3),
                ),
                rows=tuple(rows),
                note="Each unit is set to zero. Its effect is what it adds to the log odds of the class in "
                "the context less what it adds in ordinary ones, with Welch's 95% interval; q is over the "
                "layer's units. The differences are those of the mean probabilities on the same images.",
            )
        )
    if none:
        blocks.append(Text(title=f"Findings that no unit of {section.layer} carries", paragraphs=tuple(none)))
    return blocks


def carrier_lines(section: CarrierSection | None) -> list[str]:
    """Return a line for each bias."""
    if section is None:
        return []
    return [
        f"{_name(bias)}: "
        + (
            f"carried by {section.layer} "
            + ", ".join(f"{unit.index} ({unit.effect:+.2f})" for unit in bias.carriers[:_MOST])
            + f"; without the first, the difference {bias.difference:+.3f} is "
            f"{bias.carriers[0].difference:+.3f}"
            if bias.carriers
            else _why_none(bias)
        )
        for bias in section.found
    ]


def _name(bias: BiasCarriers) -> str:
    return f"{bias.class_name}, {bias.context}" + (" (real images)" if bias.source == "real" else "")


def _why_none(bias: BiasCarriers) -> str:
    if not bias.units or not bias.passes:
        return f"too few images ({bias.inside} in the context, {bias.ordinary} in ordinary ones)"
    return f"none of {bias.units} units surely carries it by itself"
