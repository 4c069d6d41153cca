"""Data sets give the same image for the same index, and say clearly when they cannot."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from actors.errors import MissingDependencyError, UsageError
from actors.images import ImageDecodeError
from actors.vision.data.dataset_names import canonical
from actors.vision.data.datasets import ArrayDataset, open_dataset
from actors.vision.data.folder import FolderDataset
from actors.vision.data.hub_dataset import HubDataset


def picture(path: Path, seed: int, size: tuple[int, int] = (9, 7)) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)
    return pixels


def test_a_folder_is_read_below_and_sorted_by_path(tmp_path: Path) -> None:
    second = picture(tmp_path / "b" / "2.png", 1)
    first = picture(tmp_path / "a" / "deep" / "9.PNG", 2)
    picture(tmp_path / ".hidden.png", 3)
    (tmp_path / "notes.txt").write_text("no image")
    dataset = FolderDataset(tmp_path)
    assert len(dataset) == 2
    assert np.array_equal(dataset.load(0).pixels, first)
    assert np.array_equal(dataset.load(1).pixels, second)
    assert dataset.provenance(0).recipe == {"path": "a/deep/9.PNG"}
    assert dataset.provenance(0).source == "dataset"


def test_the_fingerprint_of_a_folder_follows_its_files(tmp_path: Path) -> None:
    picture(tmp_path / "1.png", 1)
    first = FolderDataset(tmp_path).fingerprint
    assert FolderDataset(tmp_path).fingerprint == first
    picture(tmp_path / "2.png", 2)
    second = FolderDataset(tmp_path).fingerprint
    content = bytearray((tmp_path / "1.png").read_bytes())
    content[-1] ^= 1
    (tmp_path / "1.png").write_bytes(content)
    assert len({first, second, FolderDataset(tmp_path).fingerprint}) == 3


def test_a_copy_is_the_same_data_set_wherever_and_whenever_it_was_made(tmp_path: Path) -> None:
    for folder in ("here/photos", "there/again"):
        (tmp_path / folder).mkdir(parents=True)
        for seed in range(40):
            picture(tmp_path / folder / f"{seed}.png", seed)
        os.utime(tmp_path / folder / "1.png", ns=(1, 1))
        os.utime(tmp_path / "here/photos/2.png", ns=(2, 2))
    here, there = (FolderDataset(tmp_path / folder) for folder in ("here/photos", "there/again"))
    assert here.fingerprint == there.fingerprint
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "images.npy", np.zeros((2, 8, 8, 3), np.uint8))
    one, two = (ArrayDataset(tmp_path / folder / "images.npy") for folder in ("one", "two"))
    assert one.fingerprint == two.fingerprint


def test_a_corrupt_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    with pytest.raises(ImageDecodeError, match=r"bad\.jpg"):
        FolderDataset(tmp_path).load(0)


def test_a_link_to_nowhere_is_no_image(tmp_path: Path) -> None:
    picture(tmp_path / "1.png", 1)
    (tmp_path / "2.png").symlink_to(tmp_path / "gone.png")
    assert len(FolderDataset(tmp_path)) == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text(""), "not a folder"),
        (lambda path: path.mkdir(), "no image"),
    ],
)
def test_a_folder_that_gives_no_images_is_refused(tmp_path: Path, make: object, words: str) -> None:
    make(tmp_path / "data")  # type: ignore[operator]
    with pytest.raises(UsageError, match=words):
        FolderDataset(tmp_path / "data")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "data" / "1.png", 1)
    (tmp_path / "data").chmod(0)
    try:
        with pytest.raises(UsageError, match="cannot be read"):
            FolderDataset(tmp_path / "data")
    finally:
        (tmp_path / "data").chmod(0o700)


def test_an_array_holds_decoded_images_and_travels_without_them(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    dataset = ArrayDataset(tmp_path / "images.npy")
    dataset.load(0)
    parcel = pickle.dumps(dataset)
    assert len(parcel) < 1000
    assert np.array_equal(pickle.loads(parcel).load(2).pixels, pixels[2])
    assert len(dataset) == 4


@pytest.mark.parametrize(
    "array", [np.zeros((2, 3, 4, 3)), np.zeros((2, 3, 4), np.uint8), np.zeros((0, 3, 4, 3), np.uint8)]
)
def test_an_array_of_anything_else_is_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "images.npy", array)
    with pytest.raises(UsageError, match="uint8"):
        ArrayDataset(tmp_path / "images.npy")


def test_a_missing_or_damaged_array_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.npy").write_bytes(b"bad")
    for name in ("bad.npy", "none.npy"):
        with pytest.raises(UsageError, match="cannot be read"):
            ArrayDataset(tmp_path / name)


def test_a_data_set_is_opened_by_what_a_command_line_says(tmp_path: Path) -> None:
    picture(tmp_path / "1.png", 1)
    np.save(tmp_path / "x.npy", np.zeros((1, 2, 2, 3), np.uint8))
    assert isinstance(open_dataset(str(tmp_path)), FolderDataset)
    assert isinstance(open_dataset(str(tmp_path / "x.npy")), ArrayDataset)
    with pytest.raises(UsageError, match="scenes"):
        open_dataset("scenes:many")


def test_a_hub_data_set_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r"maia\[datasets\]"):
        HubDataset("owner/name")


def test_a_folder_that_links_back_to_itself_is_read_once(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "holidays").mkdir(parents=True)
    picture(folder / "a.png", 1)
    picture(folder / "holidays" / "b.png", 2)
    (folder / "holidays" / "up").symlink_to(folder)
    (folder / "again").symlink_to(folder / "holidays")
    dataset = FolderDataset(folder)
    assert [dataset.provenance(i).recipe["path"] for i in range(len(dataset))] == ["a.png", "again/b.png"]


def test_a_pipe_is_no_image_and_is_not_waited_for(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 1)
    os.mkfifo(tmp_path / "pipe.png")
    assert len(FolderDataset(tmp_path)) == 1


def test_a_file_name_that_is_no_text_is_escaped(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    path.write_bytes(b"no image")
    dataset = FolderDataset(tmp_path)
    assert str(dataset.provenance(0).recipe["path"]) == r"caf\xe9.png"
    with pytest.raises(ImageDecodeError) as caught:
        dataset.load(0)
    caught.value.message.encode()


def test_a_file_that_is_no_image_has_the_same_message_each_time(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("hello")
    dataset = FolderDataset(tmp_path)
    messages = set()
    for _ in range(2):
        with pytest.raises(ImageDecodeError) as caught:
            dataset.load(0)
        messages.add(caught.value.message)
    assert len(messages) == 1
    assert "0x" not in messages.pop()


def test_a_path_is_the_same_data_set_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert canonical("photos") == canonical(f"{tmp_path}/photos/") == canonical("./x/../photos")
    assert canonical("scenes:60:0") == "scenes:60:0"
    assert canonical("hf:cifar10:test") == "hf:cifar10:test"


def test_an_image_that_has_gone_is_named_once(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 0)
    dataset = FolderDataset(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(ImageDecodeError) as message:
        dataset.load(0)
    assert str(message.value) == f"{tmp_path / 'a.png'}: No such file or directory"
