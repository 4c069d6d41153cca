"""Which units the gym holds: synthetic neurons (the paper's Table A4), confounded ones, and units without
meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from actors.detection.compose import Formula, Operator
from actors.errors import UsageError

MONO = (
    "arch; bird; blue; boat; brick; bridge; bug; building; button; car window; circle; dog; eyes; "
    "feathers; flame; frog; grass; hair; hands; handle; hat; jeans; jigsaw; legs; light; neck; orange; "
    "paws; pencil; pizza; roof; shirt; shoes; sky; snake; spiral; stripes; sunglasses; tail; text; tires; "
    "tractor; vehicle; wing; yarn"
)
OR = (
    "animal, door; animal, ship; baby, dog; bird, dog; blue, yellow; bookshelf, building; cup, road; dog, "
    "car; dog, horse; dog, instrument; fire, fur; firework, whisker; hand, ear; necklace, flower; people, "
    "building; people, wood; red, purple; shoe, boat; sink, pool; skirt, water; stairs, fruit; temple, "
    "playground; truck, train; window, wheel"
)
GIVEN = (
    "ball, hand; beach, people; bird, tree; bridge, sky; building, sky; cup, handle; dog, leash; fence, "
    "animal; fish, water; grass, dog; horse, grass; instrument, hand; skyline, water; sky, bird; snow, "
    "road; suit, tie; tent, mountain; water, blue; wheel, racecar"
)
"""Table A4 of the MAIA paper as printed: 88 neurons (its text says 85). The concepts of one neuron are
divided by commas.
"""

CONFOUNDED = (
    "animal, snow; vehicle, road; fruit, wood; bird, sky; flower, grass; clothing, room; instrument, night; "
    "ball, sand"
)
"""Concept and the background that all of its data-set images have."""

SyntheticKind = Literal["mono", "or", "given", "confounded", "dead", "constant", "random", "noisy"]
NUISANCES: tuple[SyntheticKind, ...] = ("dead", "constant", "random", "noisy")
PER_NUISANCE = 3


@dataclass(frozen=True, slots=True)
class GymUnit:
    """One unit. `formula` is its truth, None for a unit without meaning.

    `background` is that of all data-set images of a confounded one.
    """

    kind: SyntheticKind
    formula: Formula | None
    background: str = ""
    seed: int = 0

    @property
    def name(self) -> str:
        """How a person asks for it, and part of its id."""
        if self.formula is None:
            return f"{self.kind} {self.seed}"
        return f"{self.formula} (always with {self.background})" if self.background else str(self.formula)


def table_a4() -> list[GymUnit]:
    """Return the neurons of Table A4, in its order."""
    units: list[GymUnit] = []
    groups: tuple[tuple[SyntheticKind, Operator, str], ...] = (
        ("mono", "mono", MONO),
        ("or", "or", OR),
        ("given", "given", GIVEN),
    )
    for kind, operator, text in groups:
        units += [GymUnit(kind, Formula(operator, concepts)) for concepts in _read(text)]
    return units


def confounded() -> list[GymUnit]:
    return [GymUnit("confounded", Formula("mono", (a,)), b) for a, b in _read(CONFOUNDED)]


def nuisances() -> list[GymUnit]:
    return [GymUnit(kind, None, seed=seed) for kind in NUISANCES for seed in range(PER_NUISANCE)]


def everything() -> list[GymUnit]:
    """Return the units that the gym has of its own: those of `all`."""
    return [*table_a4(), *confounded(), *nuisances()]


def planted(units: Sequence[GymUnit]) -> list[tuple[str, ...]]:
    """Return what must be seen, a concept alone or two together, for these units to be seen at all; in their
    order.
    """
    alone = [
        (concept,)
        for unit in units
        if unit.kind in ("mono", "or") and unit.formula
        for concept in unit.formula.concepts
    ]
    conditional = [unit.formula.concepts for unit in units if unit.kind == "given" and unit.formula]
    with_background = [
        (unit.formula.concepts[0], unit.background) for unit in units if unit.background and unit.formula
    ]
    return list(dict.fromkeys([*conditional, *with_background, *alone]))


def choose(text: str) -> list[GymUnit]:
    """Return the units that a command line names: `all`, kinds, or formulas, divided by semicolons.

    Raises:
        UsageError: If a part is no kind and no formula.
    """
    own = everything()
    chosen: list[GymUnit] = []
    for part in (part.strip() for part in text.split(";")):
        if part in ("all", ""):
            chosen += own
        elif part == "nuisance":
            chosen += nuisances()
        elif any(unit.kind == part for unit in own):
            chosen += [unit for unit in own if unit.kind == part]
        elif named := [unit for unit in own if unit.name == part]:
            chosen += named
        else:
            formula = Formula.parse(part)
            if formula.operator in ("and", "and-not") or len(formula.concepts) > 2:
                raise UsageError(f"{part!r} is not scored here.", "Write A, A OR B or A|B.")
            chosen.append(GymUnit(formula.operator, formula))  # type: ignore[arg-type]
    return list(dict.fromkeys(chosen))


def _read(text: str) -> list[tuple[str, ...]]:
    return [tuple(concept.strip() for concept in neuron.split(",")) for neuron in text.split(";")]
