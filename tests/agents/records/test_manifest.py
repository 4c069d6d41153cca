"""A run directory belongs to one configuration, wherever that was read from."""

from __future__ import annotations

import json

import pytest

from actors.errors import UsageError
from agents.records.manifest import KEY, check, check_studied, claim, claim_studied, widen, widened
from agents.records.record_types import Manifest
from agents.records.run_files import RecordError
from agents.records.store import Store
from tests.refusals import refusal


def test_a_data_set_may_be_spelled_differently(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store.open(tmp_path / "run")
    claim(store, Manifest(model="net", settings={"dataset": "photos"}))
    check(store, Manifest(model="net", settings={"dataset": str(tmp_path / "photos")}))
    with pytest.raises(UsageError, match="dataset"):
        check(store, Manifest(model="net", settings={"dataset": str(tmp_path / "others")}))


def test_a_data_set_may_move_if_its_fingerprint_is_on_record(tmp_path):
    store = Store.open(tmp_path)
    manifest = {"model": "net", "settings": {"dataset": "/here/photos", "rounds": 3}}
    moved = {"model": "net", "settings": {"dataset": "/there/photos", "rounds": 3}}
    claim(store, Manifest(**manifest))
    with pytest.raises(UsageError, match="dataset"):
        check(store, Manifest(**moved))
    claim_studied(store, {"network": "aa", "dataset": "bb"})
    check(store, Manifest(**moved))
    with pytest.raises(UsageError, match="dataset"):
        check(store, Manifest(**{**moved, "settings": {"dataset": "scenes:30:0", "rounds": 3}}))


def test_another_configuration_is_refused_with_the_difference(tmp_path):
    store = Store.open(tmp_path)
    claim(store, Manifest(model="net", settings={"dataset": "a", "rounds": 3}))
    with pytest.raises(UsageError, match=r'the dataset \(--data\) was "a", now "b"') as refusal:
        check(store, Manifest(model="net", settings={"dataset": "b", "rounds": 3}))
    assert "rounds" not in refusal.value.message


def test_differences_are_reported_as_options_of_the_command_line(tmp_path):
    store = Store.open(tmp_path)
    manifest = {
        "command": "sweep",
        "model": "net",
        "seed": 0,
        "profile": "a",
        "layers": ["x", "y"],
        "asked": "0-2",
    }
    manifest |= {"units": ["net/x:0", "net/y:0"], "settings": {"interpreter": {"max_rounds": 15}}}
    claim(store, Manifest(**manifest))

    def refusal(**changes):
        with pytest.raises(UsageError) as refused:
            check(store, Manifest(**(manifest | changes)))
        return f"{refused.value.message} {refused.value.fix}"

    assert "--seed was 0, now 1" in refusal(seed=1)
    assert "the profile's interpreter.max_rounds was 15, now 9" in refusal(
        settings={"interpreter": {"max_rounds": 9}}
    )
    message = refusal(layers=["x"], units=["net/x:0"])
    assert 'LAYERS was "x,y", now "x", which leaves out 1 of its 2.' in message
    assert "(LAYERS x,y,MORE)" in message
    assert "(LAYERS x,y,MORE --units 0-2,MORE)" in refusal(layers=["x"], asked="1", units=["net/x:1"])
    assert "(--units 0-2,MORE)" in refusal(layers=["x", "y", "z"], asked="1", units=["net/z:1"])
    message = refusal(asked="0", units=["net/y:0"])
    assert '--units was "0-2", now "0", which leaves out 1 of its 2.' in message
    assert "(--units 0-2,MORE)" in message
    message = refusal(seed=1, units=["net/x:2", "net/y:2"])
    assert "--seed was 0, now 1" in message, "the seed is why a sample has other units"
    assert "leaves out" not in message
    message = refusal(units=["net/x:1", "net/y:1"])
    assert "the same words name other units, which leaves out 2 of its 2." in message
    message = refusal(command="audit")
    assert "a run of `maia sweep`, and this is `maia audit`" in message
    assert message.count("was") == 0


def test_units_are_compared_once_they_are_known(tmp_path):
    store = Store.open(tmp_path)
    manifest = {"command": "selective", "model": "net"}
    claim(store, Manifest(**(manifest | {"units": ["net/x:0"]})))
    check(store, Manifest(**manifest))
    assert not widened(store, Manifest(**manifest))
    with pytest.raises(UsageError, match="units was"):
        check(store, Manifest(**(manifest | {"units": ["net/x:0", "net/x:1"]})))


def test_a_run_may_grow_and_keeps_its_other_settings(tmp_path):
    store = Store.open(tmp_path)
    manifest = {"command": "sweep", "asked": "0-1", "layers": ["x"], "config": "old.yaml"}
    claim(store, Manifest(**(manifest | {"units": ["x:0", "x:1"]})))
    more = manifest | {"asked": "0-2", "config": "new.yaml"}
    check(store, Manifest(**more))
    assert widened(store, Manifest(**more))
    assert not widened(store, Manifest(**manifest))
    claim(store, Manifest(**(more | {"units": ["x:0", "x:1", "x:2"]})))
    assert widened(store, Manifest(**more)), (
        "claiming writes down nothing new: what is new is not planned yet"
    )
    widen(store, Manifest(**(more | {"units": ["x:0", "x:1", "x:2"]})))
    assert not widened(store, Manifest(**more))
    assert json.loads(store.get(KEY)) == more | {"units": ["x:0", "x:1", "x:2"], "config": "old.yaml"}
    with pytest.raises(UsageError, match="leaves out 1 of its 3"):
        widen(store, Manifest(**(manifest | {"units": ["x:0", "x:1"]})))


def test_a_run_without_recorded_units_is_compared_by_its_options(tmp_path):
    """As one of `maia ablate`: without ids of units, growth cannot be checked."""
    store = Store.open(tmp_path)
    manifest = {"command": "ablate", "model": "net", "layer": "x", "asked": "0-3"}
    claim(store, Manifest(**manifest))
    with pytest.raises(UsageError, match='asked was "0-3", now "0-1"'):
        check(store, Manifest(**(manifest | {"asked": "0-1"})))


def test_the_same_settings_from_another_file_are_the_same_configuration(tmp_path):
    store = Store.open(tmp_path)
    claim(store, Manifest(model="net", settings={"rounds": 3}))
    same = {"model": "net", "settings": {"rounds": 3}, "config": "/elsewhere/lab.yaml"}
    assert refusal(check, store, Manifest(**same)) == ""


def test_the_address_and_rate_of_a_model_may_change_but_not_its_name(tmp_path):
    store = Store.open(tmp_path)
    chat = {"model": "qwen", "base_url": "http://gpu-17:8000/v1", "requests_per_minute": 60, "price": None}
    vision = {"batch": 64, "dtype": "float32", "map_memory_mb": 256}
    claim(store, Manifest(settings={"chat": {"interpreter": chat}, "vision": vision}))
    moved = chat | {"base_url": "http://gpu-23:8000/v1", "requests_per_minute": 20, "price": {"prompt": 1}}
    check(
        store, Manifest(settings={"chat": {"interpreter": moved}, "vision": {"batch": 8, "dtype": "float32"}})
    )
    with pytest.raises(UsageError, match="model was"):
        check(
            store,
            {
                "settings": {
                    "chat": {"interpreter": chat | {"model": "other"}},
                    "vision": {"batch": 64, "dtype": "float32"},
                }
            },
        )


def test_changed_weights_or_images_are_refused(tmp_path):
    store = Store.open(tmp_path)
    check_studied(store, {"network": "aa", "dataset": "bb"})
    claim_studied(store, {"network": "aa", "dataset": "bb", "interpreter": "x"})
    claim_studied(store, {"network": "aa", "dataset": "bb", "interpreter": "y"})
    with pytest.raises(UsageError, match=r"network \(its weights.* was aa, now cc") as refusal:
        claim_studied(store, {"network": "cc", "dataset": "bb"})
    assert "data set" not in refusal.value.message
    with pytest.raises(UsageError, match="data set"):
        check_studied(store, {"network": "aa", "dataset": "dd"})


@pytest.mark.parametrize("data", [b"", b'{"model": ', b"\xff\xfe"])
def test_a_damaged_manifest_is_named(tmp_path, data):
    store = Store.open(tmp_path)
    (tmp_path / "manifest.json").write_bytes(data)
    with pytest.raises(RecordError, match=r"manifest\.json is damaged"):
        check(store, Manifest(model="net"))
