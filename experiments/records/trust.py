"""What a run names of this machine, and whether the person agrees to have it loaded.

A run directory may come from a stranger. Published networks and data sets are loaded by their names; code,
weights, vectors and images of this machine are loaded only where the person names them again, or says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from actors.errors import UsageError
from actors.vision.data.dataset_names import canonical, is_path
from actors.vision.networks.zoo import local_parts
from actors.vision.readout.units import parse_unit
from agents.records.record_types import Manifest
from agents.records.run_files import RecordError, first_fault
from experiments.setup import config as configuration
from experiments.setup.selection import Selected, Selection
from experiments.setup.spending import may_charge
from tools.sandbox import SandboxSettings

AskPerson = Callable[[str], bool]
_LONGEST_NAME = 4096
"""Characters of a path, or of anything else that has a name."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_OUTCOME_CHOICES = frozenset({"dialect"})
"""Sandbox settings without a size that decide what a program does; none of them runs or allows anything."""


class Trust:
    """What the person agreed to: nothing, unless `given`; `ask` puts a question to a person, if any."""

    def __init__(self, given: bool = False, ask: AskPerson | None = None) -> None:
        self._given, self._ask = given, ask

    def agree(self, named: Iterable[str], instead: str) -> None:
        """Return if nothing is `named`, or the person agrees to have it loaded.

        `instead` says how to name it on the command line.

        Raises:
            UsageError: If that is refused; it lists what would be loaded.
        """
        wanted = list(dict.fromkeys(named))
        if not wanted or self._given:
            return
        sentence = "this run names " + " and ".join(wanted)
        if self._ask is not None and self._ask(f"{sentence}. Do you trust it, and shall it be loaded?"):
            return
        raise UsageError(
            f"{sentence}; what a run names of this machine is loaded only if you agree.",
            f"Look at it, and repeat with --trust; or {instead}.",
        )


def network_of(manifest: Manifest, named: str | None, trust: Trust) -> str:
    """Return the network of a run: the one the person `named`, or the recorded one if nothing local has to be
    loaded.

    Raises:
        RecordError: If the run names none.
        UsageError: If the person named another one, or does not agree.
    """
    recorded = _checked(manifest.model or "", "network")
    if not recorded:
        raise RecordError("the manifest of this run names no network.")
    if named is not None and named != recorded:
        raise UsageError(f"the run studied {recorded}, not {named}.", f"Write --model {recorded}.")
    if named is None:
        trust.agree(local_parts(recorded), f"name it again with --model {recorded}")
    return recorded


def units_of(units: Iterable[tuple[str, str]], trust: Trust) -> None:
    """Ask for the files of directions and dictionaries that units, given as (layer, name), are read from.

    Raises:
        UsageError: If the person does not agree.
    """
    files = []
    for layer, name in units:
        try:
            source = parse_unit(_checked(layer, "layer"), _checked(name, "unit")).source
        except UsageError:  # a class by its name; or nothing, which is refused once the network is known
            continue
        if source:
            files.append(f"the file {source}")
    trust.agree(files, "study these units in a run of your own")


def dataset_of(manifest: Manifest, own: str, named: str | None, trust: Trust) -> str:
    """Return the data set of a run: the one the person `named`, else the recorded one; `own` is the
    profile's.

    Raises:
        UsageError: If it is a folder or file that the profile does not name, and the person does not agree.
    """
    if named is not None:
        return named
    recorded = manifest.settings.get("dataset")
    if not isinstance(recorded, str) or not _checked(recorded, "data set"):
        return own
    if _is_local(recorded) and canonical(recorded) != canonical(own):
        trust.agree([f"the images of {Path(recorded).expanduser()}"], f"name them with --data {recorded}")
    return recorded


def selected_for(manifest: Manifest, selection: Selection, trust: Trust) -> Selected:
    """Return the configuration with a run's profile and images, where the command line names no others.

    Whether the images are enough was settled when the run began.

    Raises:
        ConfigError: If the file is not a valid configuration.
        UsageError: If it has no such profile, the run's may charge, or the images are on this machine and the
            person does not agree to them.
    """
    loaded = configuration.load(selection.config)
    name = selection.profile or manifest.profile or loaded.default_profile
    profile = loaded.profile(name)
    if name not in (selection.profile, loaded.default_profile) and may_charge(profile):
        raise UsageError(
            f"the run names the profile {name!r}, whose models may charge; "
            "a run does not choose what you pay for.",
            f"Name it yourself: --profile {name}.",
        )
    images = dataset_of(manifest, profile.dataset, selection.data, trust)
    return Selected(loaded, name, profile.given(images, few_images=True))


def sandbox_of(manifest: Manifest, own: SandboxSettings) -> tuple[SandboxSettings, list[str]]:
    """Return the sandbox settings of a replay, and in sentences which recorded limits are above one's `own`.

    From the record come limits that change outcomes, and only downward. Commands, executors, walls and
    whether to do without them are one's own.
    """
    recorded = manifest.settings.get("sandbox")
    if not isinstance(recorded, dict):
        return own, []
    lower: dict[str, Any] = {}
    notes = []
    for name, mine in own:
        value = recorded.get(name)
        if name in _OUTCOME_CHOICES and isinstance(value, str):
            lower[name] = value
        if not (_is_number(mine) and _is_number(value)) or value == mine:
            continue
        if value < mine:
            lower[name] = value
        else:
            notes.append(
                f"the run allowed {name} {str(value)[:20]}, the profile {mine}: programs get the latter"
            )
    try:
        return SandboxSettings.model_validate(own.model_dump() | lower), notes
    except ValidationError as error:
        raise RecordError(
            f"the sandbox settings of this run are damaged: {first_fault(error)}.",
            "Restore its manifest.json from a copy.",
        ) from error


def _checked(name: str, of: str) -> str:
    """Return the name of something that a run names; RecordError if it is no name."""
    if len(name) > _LONGEST_NAME or _CONTROL.search(name):
        raise RecordError(
            f"the name of the {of} in this run is none: it is longer than {_LONGEST_NAME:,} characters, or "
            "holds control characters.",
            "Restore manifest.json and plan.json from a copy.",
        )
    return name


def _is_local(dataset: str) -> bool:
    """Return whether a data set is of this machine: also one of the hub's that is a folder here, or has no
    owner, as the formats of files that the library takes for data sets.
    """
    if is_path(dataset):
        return True
    kind, _, named = dataset.partition(":")
    place = named.partition(":")[0]
    if kind != "hf":
        return False
    return "/" not in place or place.startswith((".", "/", "~")) or Path(place).expanduser().exists()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
