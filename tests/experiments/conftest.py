"""A configuration for quick runs: few scenes, a cache that the whole session shares, no Ray unless asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.experiments.browser import browser, chromium

__all__ = ["browser", "chromium"]

CONFIG = """
default_profile: embedded
profiles:
  embedded:
    dataset: scenes:300:1
    ray: {address: RAY}
    vision: {batch: 16, placement: {threads: 1}}
    chat:
      interpreter: {backend: builtin, model: scientist}
      observers: {backend: builtin, model: observer}
  brief:
    extends: embedded
    interpreter: {max_rounds: 4}
    confirmation: {min_images: 6, max_images: 6, block: 6, probe: 0, held_back_looks: 20}
  openai:
    extends: brief
    chat:
      interpreter:
        backend: openai
        model: fake-vlm
        base_url: BASE_URL
        api_key_env: FAKE_KEY
      observers: {backend: builtin, model: observer}
"""


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def config_file(tmp_path, shared_cache, monkeypatch):
    """Return a function that writes the configuration and gives its path."""
    monkeypatch.setenv("MAIA_CACHE", str(shared_cache))

    def write(base_url: str = "http://127.0.0.1:9/v1", ray: str = "none") -> Path:
        path = tmp_path / "ray_config.yaml"
        path.write_text(CONFIG.replace("BASE_URL", base_url).replace("RAY", ray))
        return path

    return write
