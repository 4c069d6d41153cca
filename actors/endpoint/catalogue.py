"""The models of hosted endpoints that this project knows: prices, end dates and successors
(`catalogue.yaml`).

A configured price always wins. A model that is not listed has no known price, and that is said.
"""

from __future__ import annotations

import datetime
import functools
import re
from pathlib import Path
from typing import Literal, TypeVar

import yaml
from pydantic import Field

from actors.endpoint.prices import ImagePrice, TokenPrice
from actors.settings import Settings

FILE = Path(__file__).with_name("catalogue.yaml")
SOON_DAYS = 90
"""Days before a model's end from which its users are warned."""
_SNAPSHOT = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8})$")


class Provider(Settings):
    """A hosted endpoint."""

    host: str
    base_url: str
    api_key_env: str


class HostedModel(Settings):
    """One model of one provider. Without `ends` no end is announced."""

    id: str
    provider: str
    ends: datetime.date | None = None
    successor: str = ""

    def notice(self, today: datetime.date) -> str:
        """Return a sentence if the model has ended or ends within `SOON_DAYS`, else ""."""
        if self.ends is None or (self.ends - today).days > SOON_DAYS:
            return ""
        when = "has ended" if self.ends <= today else "ends"
        return f"the model {self.id} {when} on {self.ends.isoformat()}; use {self.successor} instead"


class HostedChat(HostedModel):
    """A vision-language model."""

    use: tuple[Literal["interpreter", "observer"], ...] = ()
    price: TokenPrice | None = None


class HostedImages(HostedModel):
    """A model that makes or edits images."""

    use: tuple[Literal["maker", "editor"], ...] = ()
    size: str | None = None
    """The size that the price of an image is for."""
    price: ImagePrice | None = None


class LocalModel(Settings):
    """Weights for a GPU of one's own; `gpu_gb` is its memory in GB, about."""

    id: str
    gpu_gb: int
    pipeline: str | None = None
    steps: int | None = None
    use: tuple[str, ...] = ()
    licence: str = ""


_Model = TypeVar("_Model", bound=HostedModel)


class Catalogue(Settings):
    """The whole file."""

    checked: datetime.date
    """The day on which names, prices and dates were read from published lists."""
    providers: dict[str, Provider]
    chat: tuple[HostedChat, ...]
    images: tuple[HostedImages, ...]
    local_chat: tuple[LocalModel, ...] = Field(default=())
    local_images: tuple[LocalModel, ...] = Field(default=())

    def find_chat(self, host: str, model: str) -> HostedChat | None:
        """Return what is known of a chat model at a host; a dated snapshot counts as its model."""
        return self._find(self.chat, host, model)

    def find_images(self, host: str, model: str) -> HostedImages | None:
        """Return what is known of an image model at a host."""
        return self._find(self.images, host, model)

    def _find(self, models: tuple[_Model, ...], host: str, model: str) -> _Model | None:
        plain = _SNAPSHOT.sub("", model)
        of_host = [entry for entry in models if self.providers[entry.provider].host == host.partition(":")[0]]
        for name in (model, plain):
            for entry in of_host:
                if entry.id == name:
                    return entry
        return None


@functools.cache
def catalogue() -> Catalogue:
    """Return the catalogue of the package."""
    return Catalogue(**yaml.safe_load(FILE.read_text(encoding="utf-8")))
