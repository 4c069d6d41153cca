"""The configuration and the profile that a command works with, and what its command line changes in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.vision.data.labels import ColumnSettings
from actors.vision.networks.layer_cache import KnownNetwork, load_known
from agents.records.record_types import Manifest
from experiments.setup import config as configuration
from experiments.setup.config import Configuration, Profile
from experiments.setup.science import science


@dataclass(frozen=True, slots=True)
class Selection:
    """What a command line selects: a configuration file, one of its profiles, and the images to study."""

    config: Path | None = None
    """The configuration file; None takes the usual one."""
    profile: str | None = None
    """The name of a profile; None takes the file's default."""
    data: str | None = None
    """The data set in place of the profile's."""
    class_names: Path | None = None
    few_images: bool = False
    columns: ColumnSettings | None = None

    def load(self) -> Selected:
        """Return the configuration with the profile as the command line changes it.

        Raises:
            ConfigError: If the file is not a valid configuration.
            UsageError: If it has no such profile, or the class names cannot be read.
        """
        loaded = configuration.load(self.config)
        profile = loaded.profile(self.profile).given(
            self.data, self.class_names, self.few_images, self.columns
        )
        return Selected(loaded, self.profile or loaded.default_profile, profile)


@dataclass(frozen=True, slots=True)
class Selected:
    """A configuration and the profile to work with."""

    configuration: Configuration
    name: str
    profile: Profile

    @property
    def cache(self) -> Path:
        return self.configuration.cache

    def known_network(self, model: str) -> KnownNetwork | None:
        """Return what an earlier command found a network to hold, None if none has loaded it."""
        return load_known(self.cache, model, self.profile.vision)

    def manifest(self, command: str, **about: Any) -> Manifest:
        """Return the manifest of a run of `command`: what it is `about`, and the settings it depends on."""
        return Manifest(
            command=command,
            **about,
            profile=self.name,
            config=self.configuration.named_file,
            settings=science(self.profile),
        )
