"""One unit to study, as a command line or a notebook names it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from experiments.setup.selection import Selected, Selection


@dataclass(frozen=True, slots=True)
class UnitRequest:
    """A unit of a network, and how it is to be studied."""

    model: str
    layer: str
    unit: str
    """A number from 0, or a class name for the layer `output`."""
    selection: Selection = field(default_factory=Selection)
    out: Path | None = None
    """The run directory; None takes one below `runs/`."""
    seed: int = 0
    repeat: int = 1
    """Studies of the unit, each with a seed of its own."""

    def load(self) -> Selected:
        """Return the configuration and profile to work with.

        Raises:
            UsageError: If they do not exist, or the network is known to lack the layer or unit.
        """
        selected = self.selection.load()
        if (network := selected.known_network(self.model)) is not None:
            network.check(self.layer, self.unit)
        return selected
