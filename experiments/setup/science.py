"""The settings that a result depends on."""

from __future__ import annotations

from typing import Any

from actors.vision.data.dataset_names import canonical
from experiments.setup.config import Profile

_NOT_SCIENCE = {
    "ray",
    "description",
    "placement",
    "store",
    "remembered_mb",
    "bank_folder",
    "embedding",
    "bank_memory_mb",
    "map_memory_mb",
    "sweep",
    "ask_above_dollars",
    "few_images",
}
"""Settings that say where and how fast things run, not what comes out."""


def science(profile: Profile) -> dict[str, Any]:
    """Return the settings that a result depends on, as plain JSON values."""

    def keep(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: keep(item) for key, item in value.items() if key not in _NOT_SCIENCE}
        return value

    kept: dict[str, Any] = keep(profile.model_dump(mode="json"))
    return kept | {"dataset": canonical(profile.dataset)}
