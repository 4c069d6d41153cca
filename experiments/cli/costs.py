"""What commands ask before they spend: the endpoints whether they work, and the person whether to go on.

A run asks where it is likely to cost more than `ask_above_dollars`, and where the price of an endpoint is
unknown. Without a terminal it needs `--yes`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from actors.errors import UsageError
from experiments.cli.running import run
from experiments.setup.console import Console, money

if TYPE_CHECKING:
    from agents.records.record_types import Manifest
    from experiments.labels.tiers import AgentChoice
    from experiments.runs.estimate import RunEstimate
    from experiments.setup.selection import Selection


def ask_endpoints(selection: Selection) -> None:
    """Ask a profile's endpoints whether they can work, before anything that takes time is loaded or made.

    Raises:
        UsageError: If one of them surely cannot.
    """
    from experiments.setup.spending import endpoints

    profile = selection.load().profile
    if endpoints(profile):
        from experiments.setup.endpoint_check import require_endpoints

        run(require_endpoints(profile, Console().say))


def ask_endpoints_for(selection: Selection, recorded: Path) -> None:
    """Do as `ask_endpoints` for a command on a recorded run, unless the run names a profile that the person
    has not chosen.
    """
    from experiments.records.lookup import read_manifest
    from experiments.setup import config as configuration

    chosen = (selection.profile, configuration.load(selection.config).default_profile)
    name = selection.profile or read_manifest(recorded).profile
    if not name or name in chosen:
        ask_endpoints(replace(selection, profile=name or None))


def confirm_cost(
    selection: Selection,
    yes: bool,
    count: Callable[[], int],
    *,
    model: str = "",
    task: str = "describe",
    folder: Path | None = None,
) -> None:
    """Ask the profile's endpoints whether they can work, then the person if studies may cost more than the
    profile allows; `count` returns how many are left.

    The cost is predicted from earlier studies of the same `task`, of the network `model` first. Of a run that
    has a `folder` and nothing left to study, nobody is asked.

    Raises:
        UsageError: If an endpoint cannot work, the folder holds other things, or the cost is not confirmed.
    """
    from experiments.setup.run_folder import check_output_folder
    from experiments.setup.spending import endpoints, may_charge

    selected = selection.load()
    if not endpoints(selected.profile):
        return
    if folder is not None:
        check_output_folder(selected.profile.dataset, folder)
    left = count() if folder is not None and folder.exists() else None
    if left != 0:
        ask_endpoints(selection)
    if not may_charge(selected.profile):
        return
    from experiments.runs.comparable_runs import EstimateSources, PredictedStudies, estimate_run

    predicted = PredictedStudies(model, selected.name, task)
    sources = EstimateSources(cache=selected.cache)
    estimated = estimate_run(selected.profile, count() if left is None else left, predicted, sources)
    ask = None
    if sys.stdin.isatty() and sys.stderr.isatty():

        def ask(question: str) -> bool:
            return typer.confirm(question, err=True)

    Console().say(confirm(estimated, selected.profile.ask_above_dollars, yes=yes, ask=ask))


def affordable(selection: Selection, model: str, agents: str) -> int | None:
    """Return how many studies are likely to cost what `--agents budget:DOLLARS` allows, None of other texts.

    Raises:
        UsageError: If a price is unknown, or studies are free.
    """
    from experiments.labels.tiers import budget_of
    from experiments.runs.comparable_runs import EstimateSources, PredictedStudies, estimate_run

    if (dollars := budget_of(agents)) is None:
        return None
    selected = selection.load()
    sources = EstimateSources(cache=selected.cache)
    study = estimate_run(selected.profile, 1, PredictedStudies(model, selected.name), sources).likely.dollars
    if not study:
        why = "the price of a study is unknown" if study is None else "studies of this profile are free"
        raise UsageError(f"{agents} cannot be kept: {why}.", "Write --agents doubtful or top:NUMBER.")
    return int(dollars // study)


def units_left(
    selection: Selection,
    folder: Path,
    model: str,
    layers: str | None,
    asked: str,
    choice: AgentChoice | None = None,
) -> int:
    """Return how many units a sweep of `layers` in `folder` has still to give agents, or without them an
    audit's classes. `choice`: which of the units are given one, at most.
    """
    from agents.records.record_types import Manifest

    def count() -> int:
        names = (layers or "output").split(",")
        units = int(run(count_units(selection, model, names, asked)))
        return units if choice is None else choice.most(units)

    extent = Manifest(asked=asked) if layers is None else Manifest(asked=asked, layers=layers.split(","))
    return unfinished(folder, extent, count, "all" if choice is None else choice.text)


def count_results(folder: Path) -> int:
    """Return how many studies have a result in the runs below a folder."""
    return sum(1 for _ in folder.glob("**/units/*/done.json"))


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


def unfinished(folder: Path, asked: Manifest, count: Callable[[], int], agents: str = "all") -> int:
    """Return how many units a run has still to give agents: all that are counted if nothing is planned yet.

    `asked` is what its manifest would say of its units, and `agents` which of them are given agents; asked
    for in other words, it may be given more.
    """
    from agents.records.manifest import recorded, widened
    from agents.records.store import Store
    from agents.records.work import read_plan, settled

    store = Store(folder)
    plan = read_plan(store) if folder.is_dir() else None
    if plan is None:
        return count()
    open_items = [item for item in plan if not settled(store, item)]
    left = sum(bool(item.task) for item in open_items)
    known, chosen = recorded(store).units, recorded(store).agents or "all"
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
