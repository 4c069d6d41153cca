"""Objects are whole or absent, and the first writer wins."""

from __future__ import annotations

import os
import threading

import pytest

from actors.errors import UsageError
from agents.records.run_files import RecordError
from agents.records.store import Store, StoreError


def test_the_first_writer_wins_and_the_second_learns_so(tmp_path):
    store = Store.open(tmp_path / "run")
    assert store.put("a/b", b"first")
    assert not store.put("a/b", b"second")
    assert store.get("a/b") == b"first"
    assert list(store.keys("a")) == ["a/b"]


def test_of_many_writers_at_once_exactly_one_wins(tmp_path):
    store = Store.open(tmp_path)
    start, wins = threading.Barrier(8), []

    def write(name: int) -> None:
        start.wait()
        for key in range(20):
            if store.put(f"k/{key}", str(name).encode()):
                wins.append(key)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(wins) == list(range(20))


def test_an_unfinished_write_is_no_object(tmp_path):
    store = Store.open(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".0123.tmp").write_bytes(b"half")
    assert list(store.keys("a")) == []
    assert store.get("a/x") is None


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        Store.open(tmp_path / "file" / "run")


def test_a_full_disk_is_a_typed_failure_that_leaves_nothing_behind(tmp_path, monkeypatch):
    store = Store.open(tmp_path)

    def full(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match="No space left"):
        store.put("a", b"data")
    monkeypatch.undo()
    assert store.get("a") is None
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_folder_that_was_moved_away_does_not_come_to_be_a_second_time(tmp_path):
    store = Store.open(tmp_path / "run")
    store.put("units/a/done.json", b"{}")
    (tmp_path / "run").rename(tmp_path / "moved")
    for write in (store.put, store.replace):
        with pytest.raises(StoreError, match="is gone"):
            write("units/b/done.json", b"{}")
    assert not (tmp_path / "run").exists()
    (tmp_path / "moved").rename(tmp_path / "run")
    assert store.put("units/b/done.json", b"{}")


def test_no_secret_of_this_process_is_kept(tmp_path, monkeypatch):
    """Whole or in part, put or replaced; an image is kept as it is, and words that are no key are too."""
    key = "sk-door-5f3e9a1c7b88"
    monkeypatch.setenv("MY_LAB_API_KEY", key)
    monkeypatch.setenv("PLAIN_TOKEN", "required")
    store = Store.open(tmp_path)
    store.put("a.json", f'{{"model": "{key}", "why": "required"}}'.encode())
    store.replace("b.json", f"echo {key[3:14]}".encode())
    picture = b"\x89PNG\xff" + key.encode()
    store.put("c.png", picture)
    assert store.get("a.json") == b'{"model": "[redacted]", "why": "required"}'
    assert store.get("b.json") == b"echo [redacted]"
    assert store.get("c.png") == picture


def test_a_key_that_begins_like_a_path_is_a_key_unless_there_is_such_a_file(tmp_path, monkeypatch):
    """Keys in base 64 may begin with a slash, and variables may name a file that holds the key."""
    file = tmp_path / "key-of-my-lab.json"
    file.write_text("")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "/k9Qx2b7Zr+f31L0aVw")
    monkeypatch.setenv("LAB_CREDENTIALS", str(file))
    store = Store.open(tmp_path / "run")
    store.put("a", f"/k9Qx2b7Zr+f31L0aVw {file}".encode())
    assert store.get("a") == f"[redacted] {file}".encode()


def test_what_cannot_be_removed_is_a_typed_failure(tmp_path):
    store = Store.open(tmp_path)
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises((StoreError, RecordError), match="folder"):
        store.remove("folder")


def test_a_damaged_record_is_refused_in_time_that_grows_with_its_size(tmp_path):
    """A string without an end, full of escaped quotation marks, is read once and not for each of them."""
    store = Store.open(tmp_path)
    store.put("a.json", b'["' + b'\\"' * 500_000)
    with pytest.raises(RecordError, match=r"a\.json is damaged"):
        store.read("a.json")


def test_a_folder_of_a_store_is_left_by_no_link_that_comes_later(tmp_path):
    store, outside = Store.open(tmp_path / "run"), tmp_path / "outside"
    inner = store.below("variants/one")
    assert inner.put("a/b", b"kept")
    assert list(inner.keys("")) == ["a/b"]
    assert inner.folders("") == ["a"]
    outside.mkdir()
    (tmp_path / "run" / "variants" / "one").rename(tmp_path / "run" / "variants" / "moved")
    (tmp_path / "run" / "variants" / "one").symlink_to(outside)
    with pytest.raises(RecordError, match="link"):
        inner.put("c", b"lost")
    with pytest.raises(RecordError, match="link"):
        inner.get("a/b")
    assert not list(outside.iterdir())
