"""A run directory belongs to one configuration, wherever that was read from."""

from __future__ import annotations

import pytest

from actors.errors import UsageError
from agents.manifest import check, claim
from agents.store import Store


def test_another_configuration_is_refused_with_the_difference(tmp_path):
    store = Store.open(tmp_path)
    claim(store, {"model": "net", "settings": {"dataset": "a", "rounds": 3}})
    with pytest.raises(UsageError, match=r'settings\.dataset was "a", now "b"') as refusal:
        check(store, {"model": "net", "settings": {"dataset": "b", "rounds": 3}})
    assert "rounds" not in refusal.value.message


def test_the_same_settings_from_another_file_are_the_same_configuration(tmp_path):
    store = Store.open(tmp_path)
    claim(store, {"model": "net", "settings": {"rounds": 3}})
    check(store, {"model": "net", "settings": {"rounds": 3}, "config": "/elsewhere/lab.yaml"})
