"""A run of the network under study alone: its folder, its data set, and what it was started with."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.vision.client import PoolVisionClient
from actors.vision.networks.zoo import check_name
from actors.vision.readout.base import ImageDataset
from agents.records.record_types import Manifest
from agents.records.store import Store
from experiments.setup.console import Console
from experiments.setup.preflight import open_images
from experiments.setup.run_folder import claim_run, open_run
from experiments.setup.selection import Selected, Selection


@dataclass(frozen=True)
class NetworkRun:
    """A run directory that is opened for one configuration, and the images that it is about."""

    console: Console
    selected: Selected
    model: str
    manifest: Manifest
    store: Store
    dataset: ImageDataset

    @classmethod
    async def open(
        cls, console: Console, selection: Selection, out: Path, command: str, *, model: str, **about: Any
    ) -> NetworkRun:
        """Return the run of `command` in the folder `out`, which its options, `about`, tell from others.

        Raises:
            UsageError: If there is no such network or data set, or the folder cannot be written or holds
                another run.
        """
        selected = selection.load()
        check_name(model)
        manifest = selected.manifest(command, model=model, **about)
        store = open_run(selected.profile.dataset, out, manifest)
        dataset = await open_images(selected.profile, selected.cache, console.say)
        return cls(console, selected, model, manifest, store, dataset)

    def network(self) -> AbstractAsyncContextManager[PoolVisionClient]:
        """Return the network, loaded while the context is open."""
        from experiments.setup.workbench import network_alone

        return network_alone(self.selected.profile, self.selected.cache, self.model, self.console.say)

    def claim(self, vision: PoolVisionClient) -> None:
        """Write what the run is about, once all that was asked for is known to exist.

        Raises:
            UsageError: If the folder belongs to another configuration, network or data set.
        """
        facts = {"network": vision.fingerprint, "dataset": self.dataset.fingerprint}
        claim_run(self.store, self.manifest, facts)
