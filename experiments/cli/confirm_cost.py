"""The confirmation of costs before money is spent, for every command that runs many studies.

A run asks where it is likely to cost more than `ask_above_dollars`, and where the price of an endpoint is
unknown. Without a terminal it needs `--yes`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from actors.errors import UsageError
from agents.records.manifest import recorded, widened
from agents.records.record_types import Manifest
from agents.records.store import Store
from agents.records.work import read_plan, settled
from experiments.records.tiers import ALL
from experiments.runs.estimate import RunEstimate
from experiments.setup.console import money
from experiments.setup.selection import Selection


async def count_units(selection: Selection, model: str, layers: Sequence[str], units: str) -> int:
    """Return how many units a run would study; the network is loaded only if it is not known and `units` do
    not say.

    A name, such as a class's, counts as one; samples are drawn with seed 0.

    Raises:
        UsageError: If a layer or unit is known not to exist.
    """
    from actors.vision.readout.places import split_place
    from experiments.studies.layers import list_layers
    from experiments.studies.unit_selection import at_most, choose

    parts = [part.strip() for part in units.split(",")]
    numbers = [part for part in parts if re.fullmatch(r"all|sample:\d+|\d+|\d+-\d+", part)]
    names = 0 if "all" in parts else len(parts) - len(numbers)

    def counted(size: int) -> int:
        return names + (len(choose(",".join(numbers), size, seed=0)) if numbers else 0)

    selected = selection.load()
    if (known := selected.known_network(model)) is not None:
        return sum(counted(known.info(layer).n_units) for layer in layers)
    if "all" not in parts:
        return len(layers) * (names + (at_most(",".join(numbers)) if numbers else 0))
    infos = {info.name: info for info in await list_layers(selection, model)}
    total = 0
    for text in layers:
        layer, place = split_place(text)
        if layer not in infos:
            raise UsageError(f"{model} has no layer {text!r}.", f"`maia layers {model}` lists them.")
        total += counted(infos[layer].at(place).n_units)
    return total


def unfinished(run: Path, asked: Manifest, count: Callable[[], int], agents: str = ALL) -> int:
    """Return how many units a run has still to give agents: all that are counted if nothing is planned yet.

    `asked` is what its manifest would say of its units, and `agents` which of them are given agents; asked
    for in other words, it may be given more.
    """
    store = Store(run)
    plan = read_plan(store) if run.is_dir() else None
    if plan is None:
        return count()
    open_items = [item for item in plan if not settled(store, item)]
    left = sum(bool(item.task) for item in open_items)
    known, chosen = recorded(store).units, recorded(store).agents or ALL
    if known and chosen != agents:
        return max(left, count() - sum(bool(item.task) for item in plan) + left)
    if known and widened(store, asked):
        left += max(0, count() - len(known))
    return left


def confirm(estimated: RunEstimate, limit: float, *, yes: bool, ask: Callable[[str], bool] | None) -> str:
    """Return a sentence on what is about to be spent; a run that may cost more than `limit` needs a yes.

    `limit` is in US dollars. `ask` puts a question to a person, None where there is no terminal.

    Raises:
        UsageError: If the cost is not confirmed.
    """
    if estimated.units <= 0:
        return "no unit is left to study"
    dollars = estimated.likely.dollars
    cost = money(estimated.likely.dollars_known, dollars is None)
    studies = "1 study is" if estimated.units == 1 else f"{estimated.units} studies are"
    amount = "an unknown amount" if cost == "unknown" else f"about {cost}"
    expected = f"{studies} expected to cost {amount}"
    if dollars is not None and dollars <= limit:
        return expected
    too_much = f"more than `ask_above_dollars` ({limit:g})"
    reason = "a price is unknown" if dollars is None else too_much
    if yes or (ask is not None and ask(f"{expected}: {reason}. Continue?")):
        return expected
    raise UsageError(
        f"{expected}: {reason}.",
        "Confirm with --yes, raise ask_above_dollars in the profile, or run `maia estimate`.",
    )
