"""The layers of one network by the names that people use, and the readers of their units.

Says what can be read and edited, and refuses the rest in words; measures nothing.
"""

from __future__ import annotations

from actors.errors import UsageError
from actors.vision.networks.network import Network
from actors.vision.readout.places import split_place
from actors.vision.readout.requests import Ask, VisionRequest
from actors.vision.readout.taps import TappedModule
from actors.vision.readout.units import OUTPUT, Readout, UnitReader, reader


class LayerReaders:
    """Finds layers and readers of a network whose layers were recorded."""

    def __init__(self, network: Network, tapped: TappedModule) -> None:
        self._network, self.tapped = network, tapped
        self._readers: dict[Readout, UnitReader] = {}

    def layer(self, name: str) -> str:
        """Return the layer, or the part of one, that `name` or its alias stands for; it may not exist."""
        if name in self.tapped.taps or name in self._network.aliases:
            return self._network.aliases.get(name, name)
        layer, place = split_place(name)
        return place.of(self._network.aliases.get(layer, layer))

    def call_index(self, layer: str) -> int:
        """Return the place of a layer's call in the order of a pass."""
        return self.tapped.tap(layer).recorded.call_index

    def depth(self, readout: Readout) -> int:
        """Return the place of a readout's layer in the order of a pass."""
        return self.call_index(self.layer(readout.layer))

    def reader(self, readout: Readout) -> UnitReader:
        """Return what reads the units of a readout.

        Raises:
            UsageError: If there is no such layer or kind, or a file does not fit.
        """
        unit_reader = self._readers.get(readout)
        if unit_reader is None:
            layer = self.layer(readout.layer)
            if layer not in self.tapped.taps and split_place(layer)[0] not in self.tapped.taps:
                raise UsageError(
                    f"{self._network.name} has no layer {readout.layer!r}.", "List them with `maia layers`."
                )
            unit_reader = self._readers[readout] = reader(readout, self.tapped.tap(layer).info)
        return unit_reader

    def key(self, readout: Readout) -> str:
        """Return what a readout's values are kept under."""
        return f"{readout.kind}:{self.layer(readout.layer)}:{self.reader(readout).digest}"

    def n_positions(self, readout: Readout) -> int:
        """Return how many positions a readout's layer has."""
        return self.tapped.tap(self.layer(readout.layer)).n_positions

    def check(self, ask: Ask) -> None:
        """Raise UsageError where a unit that is asked for does not exist."""
        n_units = self.reader(ask.readout).n_units
        beyond = [index for index in ask.indices or () if not 0 <= index < n_units]
        if beyond:
            raise UsageError(
                f"units of {ask.readout.layer!r} are numbered 0 to {n_units - 1}, got {beyond[0]}."
            )

    def check_edits(self, request: VisionRequest) -> None:
        """Raise UsageError where an edit cannot be made, or changes nothing that is asked for."""
        for edit in request.edits:
            self.check(Ask(edit.readout, (edit.index,)))
            layer = self.layer(edit.readout.layer)
            tap, unit_reader = self.tapped.tap(layer), self.reader(edit.readout)
            if tap.recorded.module == OUTPUT or (unit_reader.read is not None and unit_reader.edit is None):
                raise UsageError(
                    f"a {edit.readout.kind} of {layer!r} cannot be edited: nothing is computed from it.",
                    "Edit a unit of a layer in front of the output, and read the output.",
                )
            if (n_calls := tap.recorded.n_calls) > 1:
                raise UsageError(
                    f"{layer!r} is called {n_calls} times in a pass, and which output to edit is not clear.",
                    "Edit a unit of a module that is called once, such as the block that it is in.",
                )
            if edit.where.box is not None and not tap.info.shape:
                raise UsageError(
                    f"the positions of {layer!r} have no known places in the image for a box to select.",
                    "Edit all positions, or a share of the unit's largest value.",
                )
            for ask in request.asks:
                if self.depth(ask.readout) < tap.recorded.call_index:
                    raise UsageError(
                        f"an edit at {layer!r} has no effect on {ask.readout.layer!r}, "
                        "which is computed before it.",
                        "Read a layer behind it.",
                    )
