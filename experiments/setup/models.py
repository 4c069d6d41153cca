"""`maia models`: the networks and backends that can be named, and whether they could be used here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from actors.serving.backend import Readiness
from experiments.setup import config as configuration
from experiments.setup.preflight import availability


@dataclass(frozen=True, slots=True)
class ModelState:
    """Whether a profile's model can be used here, and in a sentence why (not)."""

    state: Readiness
    reason: str


@dataclass(frozen=True, slots=True)
class ModelListing:
    """The networks that can be named, and every profile's models by role."""

    sources: list[str]
    aliases: dict[str, str]
    layer_aliases: dict[str, dict[str, str]]
    pattern: str
    timm: list[str]
    """Names of timm that match `pattern`."""
    timm_total: int
    weights_here: list[str]
    profiles: dict[str, dict[str, ModelState]]

    def to_json(self) -> dict[str, Any]:
        profiles = {
            name: {role: {"state": model.state, "told": model.reason} for role, model in roles.items()}
            for name, roles in self.profiles.items()
        }
        return asdict(self) | {"profiles": profiles}


def list_models(config: Path | None, pattern: str) -> ModelListing:
    """Return the networks whose names match `pattern` and every profile's models."""
    from actors.vision.networks.zoo import LAYER_ALIASES, MODEL_ALIASES, SOURCES
    from actors.vision_libraries import import_timm

    timm = import_timm()
    loaded = configuration.load(config)
    profiles = {}
    for name, profile in loaded.profiles.items():
        checks = availability(profile)
        profiles[name] = {role: ModelState(*check) for role, check in checks.items()}
    return ModelListing(
        sources=sorted(SOURCES),
        aliases=dict(MODEL_ALIASES),
        layer_aliases={model: dict(layers) for model, layers in LAYER_ALIASES.items()},
        pattern=pattern,
        timm=timm.list_models(pattern) if pattern else [],
        timm_total=len(timm.list_models()),
        weights_here=["tf_efficientnet_lite0", "tf_efficientnet_lite2", "concept-net"],
        profiles=profiles,
    )


def table(listing: ModelListing) -> Any:
    """Return the list for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from experiments.setup.console import mark

    if listing.pattern:
        # A name asks for a network: the rest is what `maia models` says alone.
        return "\n".join(
            [
                f"networks of timm that match {listing.pattern}: {len(listing.timm)}",
                *listing.timm,
            ]
            if listing.timm
            else [
                f"no network of timm matches {listing.pattern}: write * for anything, as in "
                f"'*{listing.pattern.strip('*')}*'"
            ]
        )
    networks = Table(title="networks under study", title_justify="left", box=None)
    networks.add_column("write")
    networks.add_column("for")
    networks.add_row(", ".join(listing.weights_here), "their weights are on this machine")
    for alias, name in listing.aliases.items():
        if alias not in listing.weights_here:
            networks.add_row(alias, name)
    networks.add_row(
        "NAME or timm:NAME", f"one of {listing.timm_total} networks of timm (maia models PATTERN)"
    )
    networks.add_row("hf-hub:OWNER/NAME", "a network that timm saved on the hub")
    networks.add_row("torchvision:NAME", "a network of torchvision")
    networks.add_row("hf:OWNER/NAME or hf:FOLDER", "a network of transformers")
    networks.add_row("hf:OWNER/NAME#MODULE", "a module inside, such as the vision tower of a larger model")
    networks.add_row(
        "open_clip:NAME:WEIGHTS", "the vision tower of a model of open_clip, where it is installed"
    )
    networks.add_row("python:MODULE:FACTORY", "your own")
    networks.add_row("NAME@FILE", "any of them, with a checkpoint of yours")
    models = Table(title="models of the profiles", title_justify="left", box=None)
    for column in ("", "profile", "role", "found"):
        models.add_column(column)
    for profile, roles in listing.profiles.items():
        for role, check in roles.items():
            models.add_row(mark(check.state), profile, role, Text(check.reason))
    return Group(networks, Text(), models)
