"""A run at a URL is a run: one owner, nothing lost, and a fetched copy can be resumed."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from pathlib import Path

import pytest

from actors.errors import UsageError
from agents.records.lease import Lease
from agents.records.remote import RemoteStore, WorkingCopy, ask_to_stop, followed, is_url, mirrored
from agents.records.run_files import MAX_BYTES
from agents.records.store import Store, StoreError
from tests.object_store import s3


@pytest.fixture(scope="module")
def bucket():
    with pytest.MonkeyPatch.context() as patch, s3(patch) as url:
        yield url


@pytest.fixture(params=["memory", "file"])
def place(request, tmp_path):
    """A URL for what does not depend on the service."""
    return f"memory://{uuid.uuid4().hex}/run" if request.param == "memory" else f"file://{tmp_path}/there/run"


@pytest.fixture(params=["s3", "memory", "file"])
def url(request, tmp_path):
    """A URL of every kind, for what differs by service: claiming a key, listing, times of writing."""
    name = uuid.uuid4().hex
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/{name}/run"
    return f"memory://{name}/run" if request.param == "memory" else f"file://{tmp_path}/there/run"


def ignore(message: str) -> None: ...


def never() -> None:
    raise AssertionError("the run was not asked to stop")


async def until(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def write(folder: Path, **files: str) -> Store:
    store = Store.open(folder)
    for key, text in files.items():
        store.put(key.replace("__", "/"), text.encode())
    return store


@pytest.mark.parametrize("text", ["s3://b/x", "gs://b", "file:///x", "memory://x"])
def test_a_url_is_distinguished_from_a_folder(text):
    assert is_url(text)
    assert not is_url("runs/b6")
    assert not is_url("/a/s3://x")
    assert not is_url("C:/runs")


def test_the_first_writer_of_a_key_wins(url):
    store = RemoteStore(url)
    assert store.get("a/b") is None
    assert not store.has("a/b")
    assert list(store.keys("")) == []
    assert store.put("a/b", b"first")
    assert not store.put("a/b", b"second")
    assert store.get("a/b") == b"first"
    store.replace("a/b", b"third")
    store.replace("c", b"")
    assert store.get("a/b") == b"third"
    assert list(store.keys("")) == ["a/b", "c"]
    assert list(store.keys("a")) == ["a/b"]
    store.remove("a")
    assert list(store.keys("")) == ["c"]


@pytest.mark.slow
def test_of_many_that_put_at_once_one_wins(bucket):
    url, won = f"{bucket}/{uuid.uuid4().hex}", []
    start = threading.Barrier(6)

    def put(number: int) -> None:
        store = RemoteStore(url)
        start.wait()
        if store.put("claim", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [str(each).encode() for each in won] == [RemoteStore(url).get("claim")]


def test_a_fetched_copy_equals_the_run(url, tmp_path):
    write(tmp_path / "a", plan="p", units__u__rounds__0001="r", blobs__ab__x="image", report__index="page")
    remote = RemoteStore(url)
    first = WorkingCopy(remote, tmp_path / "a")
    assert first.push() == 4
    assert first.push() == 0, "what is there is not sent again"
    WorkingCopy(remote, tmp_path / "b").pull()
    fetched = Store(tmp_path / "b")
    assert list(fetched.keys("")) == ["blobs/ab/x", "plan", "units/u/rounds/0001"]
    assert fetched.get("units/u/rounds/0001") == b"r"
    WorkingCopy(remote, tmp_path / "c").pull(images=False)
    assert list(Store(tmp_path / "c").keys("")) == ["plan", "units/u/rounds/0001"]


@pytest.mark.slow
def test_push_copies_changed_files_and_no_unfinished_one(url, tmp_path):
    store = write(tmp_path / "a", table="1")
    (tmp_path / "a" / f".{uuid.uuid4().hex}.tmp").write_text("half")
    copy = WorkingCopy(RemoteStore(url), tmp_path / "a")
    assert copy.push() == 1
    store.replace("table", b"22")
    assert copy.push() == 1
    assert RemoteStore(url).get("table") == b"22"
    other = WorkingCopy(RemoteStore(url), tmp_path / "b")
    other.pull()
    store.replace("table", b"333")
    copy.push()
    other.pull()
    assert Store(tmp_path / "b").get("table") == b"333"
    assert other.push() == 0, "what came from there need not go back"


@pytest.mark.slow
def test_pull_keeps_the_time_of_writing(url, tmp_path):
    remote = RemoteStore(url)
    write(tmp_path / "a", plan="p", units__u__rounds__0001="r")
    WorkingCopy(remote, tmp_path / "a").push()
    copy = WorkingCopy(remote, tmp_path / "b")
    copy.pull()
    assert copy.push() == 0
    for key in ("plan", "units/u/rounds/0001"):
        assert (tmp_path / "b" / key).stat().st_mtime == pytest.approx(
            remote.objects("")[key].written, rel=0, abs=1e-4
        )


def test_push_from_the_same_folder_sends_only_what_the_url_lacks(place, tmp_path):
    store = write(tmp_path / "a", plan="p", units__u__rounds__0001="r", blobs__ab__x="image")
    WorkingCopy(RemoteStore(place), tmp_path / "a").push()
    store.put("units/u/rounds/0002", b"s")
    again = WorkingCopy(RemoteStore(place), tmp_path / "a")
    again.pull()
    assert again.push() == 1
    assert RemoteStore(place).get("units/u/rounds/0002") == b"s"


def test_pull_refuses_an_object_whose_name_leads_out_of_the_folder(bucket, tmp_path):
    url = f"{bucket}/{uuid.uuid4().hex}"
    remote = RemoteStore(url)
    remote.put("units/../../../escaped", b"")
    with pytest.raises(StoreError, match="names no file of a run"):
        WorkingCopy(remote, tmp_path / "cache" / "copy").pull()
    assert list(tmp_path.rglob("escaped")) == []


@pytest.mark.parametrize("name", ["units/u/done.json", "blobs/ab/x.png", "plan.json"])
def test_pull_refuses_an_object_that_is_too_large(name, tmp_path):
    """Whoever may write to the bucket does not fill this machine's disk or memory; a table is made again."""
    there = tmp_path / "there"
    for large in (there / "results.csv", there / name):
        large.parent.mkdir(parents=True, exist_ok=True)
        large.touch()
        os.truncate(large, MAX_BYTES + 1)  # takes no room
    remote, copy = RemoteStore(f"file://{there}"), tmp_path / "copy"
    with pytest.raises(StoreError, match=rf"holds '{name}' with more than 64 MiB"):
        WorkingCopy(remote, copy).pull()
    with pytest.raises(StoreError, match="64 MiB"):
        remote.get(name)
    (there / name).unlink()
    WorkingCopy(remote, copy).pull()
    assert [path for path in copy.rglob("*") if path.is_file()] == []


def test_pull_skips_links_pipes_and_devices(tmp_path):
    """As in a folder: what lies elsewhere on this machine is no part of a run."""
    there, outside = tmp_path / "there", tmp_path / "outside"
    write(there, manifest="{}", units__u__done="{}")
    write(outside, secret="mine")
    (there / "units" / "linked").symlink_to(outside)
    (there / "plan.json").symlink_to(outside / "secret")
    (there / "endless.json").symlink_to("/dev/zero")
    os.mkfifo(there / "crosswise.json")
    WorkingCopy(RemoteStore(f"file://{there}"), tmp_path / "copy").pull()
    fetched = {path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*")}
    assert fetched == {"manifest", "units", "units/u", "units/u/done"}


class Failing(RemoteStore):
    """Raises `error` at each upload while `broken` is set."""

    def __init__(self, url: str, error: Exception) -> None:
        super().__init__(url)
        self.error, self.broken = error, threading.Event()

    def upload(self, files) -> None:
        with self._translate_errors():
            if self.broken.is_set():
                raise self.error
        super().upload(files)


@pytest.mark.parametrize(
    "error", [FileNotFoundError("The specified bucket does not exist"), StoreError("it cannot be reached.")]
)
async def test_copying_resumes_after_the_service_failed(place, tmp_path, error):
    """A client reports a missing bucket as it reports a missing key, which must not end the copying."""
    remote, messages = Failing(place, error), []
    async with mirrored(remote, tmp_path / "a", notify=messages.append, stop=never, copy_s=0.01):
        remote.broken.set()
        write(tmp_path / "a", plan="p")
        await until(lambda: any("goes on in" in line for line in messages))
        remote.broken.clear()
        await until(lambda: RemoteStore(place).has("plan"))
    assert sum("goes on in" in line for line in messages) == 1, "it is reported once"


class Ordered(RemoteStore):
    """Notes what is uploaded, in order."""

    def upload(self, files) -> None:
        self.order = [*getattr(self, "order", []), [key for _, key in files]]
        super().upload(files)


def test_a_record_is_copied_after_the_images_that_it_names(place, tmp_path):
    write(
        tmp_path / "a",
        units__u__done="d",
        blobs__ab__x="i",
        units__u__rounds__0001="r",
        units__u__calls__k="c",
        manifest="m",
        plan="p",
        screening="s",
        report__index="page",
    )
    for name in ("units/u/done", "manifest", "plan", "screening"):
        (tmp_path / "a" / name).rename(tmp_path / "a" / f"{name}.json")
    remote = Ordered(place)
    WorkingCopy(remote, tmp_path / "a").push()
    assert remote.order == [
        ["blobs/ab/x"],
        ["units/u/calls/k"],
        ["units/u/rounds/0001"],
        ["units/u/done.json"],
        ["plan.json"],
        ["screening.json"],
        ["manifest.json"],
        ["report/index"],
    ]


@pytest.mark.slow
async def test_a_run_goes_on_from_its_url_on_another_machine(url, tmp_path):
    async with mirrored(RemoteStore(url), tmp_path / "a", notify=ignore, stop=never, copy_s=0.05):
        write(tmp_path / "a", plan="p", units__u__rounds__0001="r")
    async with mirrored(RemoteStore(url), tmp_path / "b", notify=ignore, stop=never, copy_s=0.05):
        assert Store(tmp_path / "b").get("units/u/rounds/0001") == b"r"
        write(tmp_path / "b", units__u__rounds__0002="s")
        await until(lambda: RemoteStore(url).has("units/u/rounds/0002"))
    assert RemoteStore(url).get("units/u/rounds/0002") == b"s"


async def test_a_copy_that_was_overtaken_is_set_aside_and_never_mixed_in(place, tmp_path):
    first, messages = tmp_path / "a", []
    async with mirrored(RemoteStore(place), first, notify=messages.append, stop=never):
        write(first, plan="p", units__u__rounds__0001="one")
    # The first machine is lost with a round that was not copied, and another goes on from what was.
    write(first, units__u__rounds__0002="of the first")
    async with mirrored(RemoteStore(place), tmp_path / "b", notify=messages.append, stop=never):
        write(tmp_path / "b", units__u__rounds__0002="of the second")
    assert not any("kept in" in line for line in messages)
    async with mirrored(RemoteStore(place), first, notify=messages.append, stop=never):
        assert Store(first).get("units/u/rounds/0002") == b"of the second"
    assert RemoteStore(place).get("units/u/rounds/0002") == b"of the second"
    (aside,) = tmp_path.glob("a.aside-*")
    assert Store(aside).get("units/u/rounds/0002") == b"of the first"
    assert any(str(aside) in line for line in messages)


async def test_a_copy_that_was_only_read_is_replaced_and_not_set_aside(place, tmp_path):
    reader, messages = tmp_path / "b", []
    async with mirrored(RemoteStore(place), tmp_path / "a", notify=ignore, stop=never):
        write(tmp_path / "a", plan="p", units__u__rounds__0001="r")
    async with followed(place, reader):
        assert Store(reader).has("units/u/rounds/0001")
    async with mirrored(RemoteStore(place), reader, notify=messages.append, stop=never):
        assert Store(reader).get("units/u/rounds/0001") == b"r"
    assert not list(tmp_path.glob("b.aside-*"))
    assert not any("kept in" in line for line in messages)


async def test_files_not_yet_copied_survive_a_power_cut(place, tmp_path):
    folder = tmp_path / "a"
    async with mirrored(RemoteStore(place), folder, notify=ignore, stop=never):
        write(folder, plan="p")
    write(folder, units__u__calls__k="paid for, and not copied")
    (tmp_path / "a.held").write_text("")
    async with mirrored(RemoteStore(place), folder, notify=ignore, stop=never):
        pass
    (aside,) = tmp_path.glob("a.aside-*")
    assert Store(aside).has("units/u/calls/k")


async def test_a_copy_goes_on_after_its_own_process_died_and_one_of_another_run_does_not(place, tmp_path):
    folder = tmp_path / "a"
    async with mirrored(RemoteStore(place), folder, notify=ignore, stop=never):
        write(folder, plan="p")
    write(folder, units__u__rounds__0001="not copied yet")
    async with mirrored(RemoteStore(place), folder, notify=ignore, stop=never):
        assert Store(folder).has("units/u/rounds/0001")
    assert RemoteStore(place).has("units/u/rounds/0001")
    for key in list(RemoteStore(place).keys("")):
        RemoteStore(place).fs.rm(RemoteStore(place)._path(key))
    async with mirrored(RemoteStore(place), folder, notify=ignore, stop=never):
        assert not Store(folder).has("units/u/rounds/0001"), "the URL was emptied, and is another run's"
        write(folder, plan="q")
    assert RemoteStore(place).get("plan") == b"q"


@pytest.mark.slow
async def test_a_second_process_is_refused_and_the_first_named(url, tmp_path):
    async with mirrored(RemoteStore(url), tmp_path / "a", notify=ignore, stop=never, beat_s=0.1):
        with pytest.raises(UsageError, match="is working on"):
            await refuse(url, tmp_path / "b")


async def refuse(url: str, folder: Path) -> None:
    async with mirrored(RemoteStore(url), folder, notify=ignore, stop=never):
        raise AssertionError("two at once")


async def test_a_run_is_asked_to_stop_at_its_url(place, tmp_path):
    asked = asyncio.Event()
    async with mirrored(RemoteStore(place), tmp_path / "a", notify=ignore, stop=asked.set, copy_s=0.01):
        assert ask_to_stop(place)
        await asyncio.wait_for(asked.wait(), 60)
    assert not ask_to_stop(place), "no process works there any more"


async def test_a_request_to_stop_reaches_the_process_in_the_working_copy(place, tmp_path):
    folder = tmp_path / "a"
    working = mirrored(RemoteStore(place), folder, notify=ignore, stop=never, copy_s=0.01)
    async with working, await Lease.take(Store.open(folder)) as lease:
        assert ask_to_stop(place)
        await until(lease.cancelled)


@pytest.mark.slow
async def test_readers_follow_what_is_copied(url, tmp_path):
    with pytest.raises(UsageError, match="there is no run at"):
        async with followed(url, tmp_path / "b"):
            raise AssertionError("nothing to read")
    async with mirrored(RemoteStore(url), tmp_path / "a", notify=ignore, stop=never, copy_s=0.01):
        store = write(tmp_path / "a", plan="p")
        await until(lambda: RemoteStore(url).has("plan"))
        async with followed(url, tmp_path / "b", every_s=0.01):
            assert Store(tmp_path / "b").get("plan") == b"p"
            store.put("units/u/done.json", b"d")
            await until(lambda: Store(tmp_path / "b").has("units/u/done.json"))


async def test_a_run_that_was_refused_leaves_nothing_at_its_url(place, tmp_path):
    async with mirrored(RemoteStore(place), tmp_path / "a", notify=ignore, stop=never):
        pass
    assert list(RemoteStore(place).keys("")) == []
    with pytest.raises(UsageError, match="no such layer"):
        async with mirrored(RemoteStore(place), tmp_path / "a", notify=ignore, stop=never):
            raise UsageError("no such layer")
    assert list(RemoteStore(place).keys("")) == []


async def test_a_run_that_ends_with_an_error_is_all_at_its_url(place, tmp_path):
    messages: list[str] = []

    async def fail() -> None:
        async with mirrored(RemoteStore(place), tmp_path / "a", notify=messages.append, stop=never):
            write(tmp_path / "a", plan="p")
            raise UsageError("two units failed")

    with pytest.raises(UsageError, match="two units failed"):
        await fail()
    assert messages[-1] == f"all of it is at {place}"
    assert RemoteStore(place).get("plan") == b"p"


async def test_a_service_that_cannot_be_reached_says_so_with_the_url(tmp_path, monkeypatch, bucket):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreError, match="s3://results/run cannot be reached"):
        await refuse("s3://results/run", tmp_path / "a")


async def test_a_mistyped_bucket_is_not_made(bucket, tmp_path):
    with pytest.raises(UsageError, match="there is no 'resluts'"):
        await refuse("s3://resluts/run", tmp_path / "a")


def test_a_password_in_a_url_is_refused_and_not_repeated():
    with pytest.raises(UsageError, match=r"files\.example") as refused:
        RemoteStore("ftp://ada:hunter2@files.example/run")
    assert "hunter2" not in str(refused.value)


def test_a_url_without_its_package_is_refused(monkeypatch):
    with pytest.raises(UsageError, match="cannot be used"):
        RemoteStore("foo://x/y")

    def missing(*_, **__):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(UsageError, match="not installed") as refused:
        RemoteStore("s3://x/y")
    assert "maia[s3]" in str(refused.value)
