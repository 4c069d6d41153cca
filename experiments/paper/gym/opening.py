"""The gym as a profile has it: its data set with what drives the chosen units, its detector, and who lacks
which concepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.chat.settings import BuiltinChat
from actors.embedded.drawing.withheld import Withheld
from actors.errors import UsageError
from actors.generation.settings import ScenesGeneration
from actors.vision.data.datasets import open_dataset
from actors.vision.data.distinct import distinct
from experiments.paper.gym.dataset import GymDataset, check_shown
from experiments.paper.gym.neurons import GymUnit, everything, planted
from experiments.paper.gym.subjects import Gym
from experiments.setup.config import Profile
from tools.synthetic import ConceptDetector, ConceptTable


def without(profile: Profile, withheld: Withheld) -> Profile:
    """Return the profile whose image maker and models lack some concepts; data set and units keep them.

    Raises:
        UsageError: If one of them is no stand-in of the embedded world: nothing can be taken from it.
    """
    if withheld.share == 0:
        return profile
    roles = profile.chat
    interpreter, observers = roles.interpreter, roles.observers or roles.interpreter
    if not (
        isinstance(profile.generation, ScenesGeneration)
        and isinstance(interpreter, BuiltinChat)
        and isinstance(observers, BuiltinChat)
    ):
        raise UsageError(
            "concepts can be withheld from the embedded image maker and models alone.",
            "Use --profile embedded, or leave out --withheld.",
        )
    lacking = {"withheld": withheld}
    chat = roles.model_copy(
        update={
            "interpreter": interpreter.model_copy(update=lacking),
            "observers": observers.model_copy(update=lacking),
        }
    )
    generation = profile.generation.model_copy(update=lacking)
    return profile.model_copy(update={"generation": generation, "chat": chat})


def lacked(profile: Profile) -> frozenset[str]:
    """Return the concepts that the profile's image maker cannot draw, as far as that is known."""
    return getattr(profile.generation, "withheld", Withheld()).concepts()


def open_gym(
    detector: ConceptDetector, profile: Profile, cache: Path, seed: int, units: Sequence[GymUnit]
) -> tuple[Gym, str]:
    """Return the gym over a detector, and the fingerprint of its data set.

    Where the profile's data set is scenes, what drives these units is planted in it.

    Raises:
        UsageError: If no scene can show what a unit waits for.
    """
    kind, _, rest = profile.dataset.partition(":")
    dataset: Any = distinct(open_dataset(profile.dataset), cache)
    if kind == "scenes":
        size = int(rest.split(":")[0]) if rest else len(dataset)
        check_shown(planted([unit for unit in units if unit not in everything()]))
        dataset = GymDataset(size, seed, planted(units))
    table = ConceptTable(detector, dataset, cache / "concepts")
    return Gym(detector, dataset, table, held_out=profile.vision.held_out), dataset.fingerprint


async def studied(gym: Gym, units: Sequence[GymUnit]) -> tuple[list[GymUnit], dict[str, str]]:
    """Return the units whose concepts the detector knows, and why any other of the gym's own is left
    out.

    Raises:
        UsageError: Naming the nearest words, if it does not know a concept of a unit that was asked for in
            words of its own, or knows none of the units.
    """
    known, unknown = await gym.covered(units)
    own = {unit.name for unit in everything()}
    if strange := [why for name, why in unknown.items() if name not in own]:
        raise UsageError("; ".join(strange))
    if not known:
        raise UsageError(
            "the detector knows the concepts of none of these units.", "; ".join(unknown.values())
        )
    return known, unknown
