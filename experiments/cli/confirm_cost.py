"""Who is asked before money is spent: one place for every command that runs many studies.

A run asks where it is likely to cost more than `ask_above_dollars`, and where nobody has said what its
endpoint charges. Without a terminal it needs `--yes`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.errors import UsageError
from actors.vision.networks.layer_cache import recall
from agents.records.journal import slug
from agents.records.manifest import recorded, widened
from agents.records.store import Store
from agents.records.work import read_plan
from experiments.runs.estimate import assume, assumptions_of, estimate
from experiments.runs.precedents import Wanted, differences, measured, precedents, suited
from experiments.setup import config as configuration
from experiments.setup.config import Profile
from experiments.setup.console import money


def predict(
    profile: Profile,
    n_units: int,
    wanted: Wanted | None = None,
    *,
    below: Path = Path("runs"),
    like: Path | None = None,
    assumes: Sequence[str] = (),
    cache: Path | None = None,
) -> dict[str, Any]:
    """Return the estimate of a run of `n_units` studies: from the run `like`, or from alike ones below a
    folder.

    `assumes` are NAME=NUMBER texts that count more than what earlier runs took. `notes` tells where those
    differ. `cache` may know how many images of the data set are distinct.

    Raises:
        UsageError: If `like` has no finished study, or a text is no assumption.
    """
    wanted = wanted or Wanted()
    assumed = suited(assumptions_of(profile), wanted.task)
    runs = precedents(profile, below, wanted) if like is None else [like]
    if runs:
        assumed = measured(runs, profile, assumed, wanted.task)
    found = estimate(profile, n_units, assume(assumes, assumed), cache)
    return found | {
        "like": [str(run) for run in runs],
        "notes": [*differences(runs, wanted), *found["notes"]],
    }


async def count_units(
    config: Path | None,
    profile_name: str | None,
    model: str,
    layers: Sequence[str],
    units: str,
    before_loading: Callable[[Profile], Awaitable[None]] | None = None,
) -> int:
    """Return how many units a run would look at; the network is loaded only if it is not known and `units` do
    not tell.

    A name, such as a class's, counts as one; samples are drawn with seed 0. `before_loading` may refuse the
    profile before a network is loaded.

    Raises:
        UsageError: If a layer or unit does not exist, as far as it was looked at.
    """
    from experiments.studies.layers import list_layers
    from experiments.studies.unit_selection import at_most, choose

    parts = [part.strip() for part in units.split(",")]
    numbers = [part for part in parts if re.fullmatch(r"all|sample:\d+|\d+|\d+-\d+", part)]
    names = 0 if "all" in parts else len(parts) - len(numbers)

    def counted(size: int) -> int:
        return names + (len(choose(",".join(numbers), size, seed=0)) if numbers else 0)

    loaded = configuration.load(config)
    profile = loaded.profile(profile_name)
    if (known := recall(loaded.cache, model, profile.vision)) is not None:
        return sum(counted(known.layers[known.layer(layer)]) for layer in layers)
    if "all" not in parts:
        return len(layers) * (names + (at_most(",".join(numbers)) if numbers else 0))
    if before_loading is not None:
        await before_loading(profile)
    sizes = {each["name"]: each["n_units"] for each in await list_layers(config, profile_name, model)}
    for layer in layers:
        if layer not in sizes:
            raise UsageError(f"{model} has no layer {layer!r}.", f"`maia layers {model}` lists them.")
    return sum(counted(sizes[layer]) for layer in layers)


def unfinished(run: Path, asked: Mapping[str, Any], count: Callable[[], int]) -> int:
    """Return how many units a run has still to study: all that are counted if nothing is planned yet.

    `asked` is what its manifest would say of its units; asked for in other words, it may be given more.
    """
    store = Store(run)
    plan = read_plan(store) if run.is_dir() else None
    if plan is None:
        return count()
    left = sum(not store.has(f"units/{slug(item.unit)}/done.json") for item in plan)
    known = recorded(store).get("units")
    if known is not None and widened(store, dict(asked)):
        left += max(0, count() - len(known))
    return left


def approve(found: dict[str, Any], limit: float, *, yes: bool, ask: Callable[[str], bool] | None) -> str:
    """Return a sentence on what is about to be spent; a run that may cost more than `limit` needs a yes.

    `ask` puts a question to a person, None where nobody is there.

    Raises:
        UsageError: If nobody says yes.
    """
    if found["units"] <= 0:
        return "no unit is left to study"
    dollars = found["likely"]["dollars"]
    studies = "1 study is" if found["units"] == 1 else f"{found['units']} studies are"
    unknown = dollars is None
    known = money(found["likely"]["dollars_known"], unknown)
    told = f"{studies} expected to cost " + ("an unknown amount" if known == "unknown" else f"about {known}")
    if dollars is not None and dollars <= limit:
        return told
    why = "a price is unknown" if unknown else f"ask_above_dollars is {limit:g}"
    if yes or (ask is not None and ask(f"{told} ({why}). Go on?")):
        return told
    raise UsageError(
        f"{told}, and nobody agreed to it ({why}).",
        "Repeat with --yes, raise ask_above_dollars in the profile, or look at `maia estimate`.",
    )
