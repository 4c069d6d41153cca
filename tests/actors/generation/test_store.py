from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from actors.errors import UsageError
from actors.generation.base import MadeImage
from actors.generation.store import ImageStore
from actors.images import Image, Provenance

KEY = ("maker", "settings", "generate", "a dog", 0)


def made(value: int = 7, **known: object) -> MadeImage:
    image = Image.from_pixels(np.full((3, 5, 3), value, np.uint8))
    return MadeImage(image, Provenance("generated", "maker", "a dög", 0, **known))  # type: ignore[arg-type]


def test_a_stored_image_comes_back_with_its_provenance(tmp_path: Path) -> None:
    wanted = made(recipe={"sprites": [{"name": "dog", "x": 0.5}]}, notes=("no 'quokka'",), edits=("red",))
    store = ImageStore(tmp_path)
    assert store.get(KEY) is None
    assert store.put(KEY, wanted) is wanted
    assert ImageStore(tmp_path).get(KEY) == wanted


def test_the_first_image_of_a_request_stays_the_canonical_one(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    store.put(KEY, made(1))
    assert store.put(KEY, made(2)) == made(1)
    assert store.get(KEY) == made(1)


def test_all_concurrent_writers_return_the_first_image(tmp_path: Path) -> None:
    start, kept = threading.Barrier(8), []

    def write(value: int) -> None:
        start.wait()
        kept.append(ImageStore(tmp_path).put(KEY, made(value)).image)

    writers = [threading.Thread(target=write, args=(value,)) for value in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(set(kept)) == 1
    assert len(kept) == 8
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".png"]


@pytest.mark.parametrize("damage", [b"", b"not a png", None])
def test_a_damaged_file_counts_as_absent_and_is_replaced(tmp_path: Path, damage: bytes | None) -> None:
    store = ImageStore(tmp_path)
    store.put(KEY, made(1))
    (path,) = (path for path in tmp_path.rglob("*.png"))
    path.write_bytes(path.read_bytes()[:-30] if damage is None else damage)
    assert store.get(KEY) is None
    assert store.put(KEY, made(2)) == made(2)
    assert store.get(KEY) == made(2)


def test_a_picture_without_provenance_counts_as_absent(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    store.put(KEY, made(1))
    (path,) = (path for path in tmp_path.rglob("*.png"))
    PIL.Image.new("RGB", (4, 4)).save(path)
    assert store.get(KEY) is None


def test_an_image_that_cannot_be_kept_is_still_an_image(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "store")
    (tmp_path / "store").rmdir()
    (tmp_path / "store").write_text("a file where the folder was")
    assert store.put(KEY, made()) == made()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="image store"):
        ImageStore(tmp_path / "file" / "store")


def test_the_files_are_pictures_that_any_viewer_opens(tmp_path: Path) -> None:
    ImageStore(tmp_path).put(KEY, made(7))
    (path,) = tmp_path.rglob("*.png")
    with PIL.Image.open(path) as picture:
        assert picture.size == (5, 3)
        assert picture.getpixel((0, 0)) == (7, 7, 7)
