"""Where weights come from, against a hub on loopback; how large they are; and what goes wrong, in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actors import hub
from actors.errors import MissingDependencyError, UsageError
from tests.fake_hub import COMMIT, FakeHub, point_at, set_constants


def save(folder: Path, **tensors: np.ndarray) -> Path:
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = save(tmp_path / "model", weight=np.zeros((3, 5), np.float32), count=np.zeros(2, np.int64))
    (folder / "pytorch_model.bin").write_bytes(b"the same again")
    return folder


def test_a_model_is_fetched_once_and_then_found_in_the_cache(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeHub({"owner/name": model}) as server:
        point_at(server.url, tmp_path / "cache", monkeypatch)
        folder = hub.resolve("owner/name")
        assert sorted(server.fetched) == ["config.json", "model.safetensors"]
        assert hub.resolve("owner/name") == folder
        assert len(server.fetched) == 2
    assert hub.resolve("owner/name") == folder  # the hub is gone
    assert hub.identity("owner/name", folder) == f"owner/name@{COMMIT[:16]}"
    assert (folder / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_weights_in_the_old_format_are_fetched_where_there_are_no_others(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model / "model.safetensors").unlink()
    with FakeHub({"owner/name": model}) as server:
        point_at(server.url, tmp_path / "cache", monkeypatch)
        folder = hub.resolve("owner/name")
    assert (folder / "pytorch_model.bin").is_file()
    assert hub.resolve("owner/name") == folder


@pytest.mark.parametrize(
    ("name", "revision", "words"),
    [
        ("owner/typo", None, "no model 'owner/typo'"),
        ("owner/name", "v9", "'owner/name' at revision 'v9'"),
        ("owner/gated", None, "only approved accounts"),
        ("not/a/valid/id", None, "not/a/valid/id"),
    ],
)
def test_a_model_that_the_hub_does_not_give_is_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, revision: str | None, words: str
) -> None:
    models = {"owner/name": model, "owner/gated": model}
    with FakeHub(models, gated=frozenset({"owner/gated"})) as server:
        point_at(server.url, tmp_path / "cache", monkeypatch)
        with pytest.raises(hub.ModelNotFoundError) as error:
            hub.resolve(name, revision)
    assert words in str(error.value)
    assert error.value.fix


def test_an_unreachable_hub_is_reported_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeHub({}) as server:
        gone = server.url
    point_at(gone, tmp_path / "cache", monkeypatch)
    with pytest.raises(hub.HubUnreachableError, match="'owner/name' is not in the local cache"):
        hub.resolve("owner/name")


def test_an_offline_hub_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_at("http://127.0.0.1:9", tmp_path / "cache", monkeypatch)
    set_constants(monkeypatch, HF_HUB_OFFLINE=True)
    with pytest.raises(hub.HubUnreachableError, match="HF_HUB_OFFLINE"):
        hub.resolve("owner/name")


def test_a_local_folder_is_taken_as_it_is(model: Path) -> None:
    assert hub.resolve(str(model)) == model
    assert hub.identity(str(model), model).startswith("model@")
    with pytest.raises(hub.ModelNotFoundError, match="does not exist"):
        hub.resolve("./no/such/folder")
    with pytest.raises(hub.ModelNotFoundError, match="not a folder"):
        hub.resolve(str(model / "config.json"))


def test_other_failures_of_loading_name_the_model() -> None:
    with (
        pytest.raises(UsageError, match="'owner/name' could not be loaded: ValueError: odd"),
        hub.translated_errors("owner/name"),
    ):
        raise ValueError("odd")
    with pytest.raises(hub.TooLittleMemoryError), hub.translated_errors("owner/name"):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
    with pytest.raises(MissingDependencyError), hub.translated_errors("owner/name"):
        raise MissingDependencyError("passes unchanged")


def test_a_missing_package_is_named_with_its_install_line() -> None:
    hub.require("this", "json")
    with pytest.raises(
        MissingDependencyError, match=r"this needs the packages no_such_a, no_such_b\. .*maia\[models\]"
    ):
        hub.require("this", "json", "no_such_a", "no_such_b")


def test_weights_are_weighed_as_they_will_be_loaded(model: Path) -> None:
    assert hub.weights_bytes(model) == 15 * 4 + 2 * 8
    assert hub.weights_bytes(model, float_bytes=2) == 15 * 2 + 2 * 8


def test_one_form_of_a_pipelines_weights_is_weighed(tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    save(folder / "unet", weight=np.zeros(100, np.float32))
    (folder / "unet" / "model.fp16.safetensors").write_bytes(
        (save(tmp_path / "half", weight=np.zeros(100, np.float16)) / "model.safetensors").read_bytes()
    )
    save(folder, weight=np.zeros(999, np.float32))
    (folder / "model_index.json").write_text("{}")
    assert hub.weights_bytes(folder) == 400
    assert hub.weights_bytes(folder, variant="fp16") == 200


def test_memory_is_checked_with_room_to_spare() -> None:
    hub.check_memory("m", 100, "cpu", free=120)
    with pytest.raises(
        hub.TooLittleMemoryError, match=r"'m' needs about 2\.4 GiB on cpu and 2\.0 GiB is free"
    ):
        hub.check_memory("m", 2 << 30, "cpu", free=2 << 30)
    assert (hub.free_bytes("cpu") or 1) > 0
    assert hub.free_bytes("mps") is None


def test_the_digest_follows_the_weights(tmp_path: Path) -> None:
    one = save(tmp_path / "one", weight=np.zeros(9, np.float32))
    same = save(tmp_path / "same", weight=np.zeros(9, np.float32))
    other = save(tmp_path / "other", weight=np.ones(9, np.float32))
    assert hub.weights_digest(one) == hub.weights_digest(same) != hub.weights_digest(other)


def test_the_digest_of_a_large_file_samples_all_of_it(tmp_path: Path) -> None:
    """Of 100 MiB, 64 places are read: a change of 2 MiB is among them anywhere."""
    size, change = 100 << 20, 2 << 20
    digests = set()
    for start in (None, 0, size // 2, size - change):
        folder = tmp_path / str(start)
        folder.mkdir()
        with (folder / "model.bin").open("wb") as file:
            file.truncate(size)
            if start is not None:
                file.seek(start)
                file.write(b"x" * change)
        digests.add(hub.weights_digest(folder))
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("CUDA out of memory."), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_running_out_of_memory_is_recognised(error: Exception, wanted: bool) -> None:
    assert hub.is_out_of_memory(error) is wanted
