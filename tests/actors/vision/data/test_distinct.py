"""Copies and near-copies of an image count once, and on one side of the split."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from actors.errors import UsageError
from actors.images import Image, Preview, preview
from actors.vision.data.datasets import ArrayDataset
from actors.vision.data.distinct import DistinctDataset, distinct, image_name, take_census
from actors.vision.data.folder import FolderDataset
from actors.vision.data.held_out import HeldOutShare, split
from tests.actors.vision.pictures import encoded, folder_of, photographs


def opened(folder: Path, cache: Path) -> DistinctDataset:
    found = distinct(FolderDataset(folder), cache)
    assert isinstance(found, DistinctDataset)
    return found


def test_parts_of_photographs_are_distinct(tmp_path: Path) -> None:
    """Sky, roof and petals: no two of 40 pictures of natural scenes are taken for one."""
    for number, picture in enumerate(photographs()):
        (tmp_path / f"{number}.png").write_bytes(encoded(picture))
    assert len(opened(tmp_path, tmp_path / "cache")) == 40


@pytest.mark.slow
@pytest.mark.parametrize("change", ["file", "png", "jpeg", "webp", "half", "twice", "turned"])
def test_a_copy_counts_once_however_it_was_made(tmp_path: Path, change: str) -> None:
    """Copied, encoded again, resized, or turned by its tag: each copy leads to its original."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    copies = {
        "file": lambda picture: encoded(picture, "JPEG", quality=95),
        "png": lambda picture: encoded(picture),
        "jpeg": lambda picture: encoded(picture, "JPEG", quality=50),
        "webp": lambda picture: encoded(picture, "WEBP", quality=60),
        "half": lambda picture: encoded(picture.reduce(2), "JPEG", quality=95),
        "twice": lambda picture: encoded(picture.resize((192, 192), PIL.Image.Resampling.BICUBIC)),
        "turned": lambda picture: encoded(picture.transpose(PIL.Image.Transpose.ROTATE_90), exif=exif),
    }
    # Of clear sky, what JPEG does is as large as the picture's own contrast.
    rich = [picture for picture in photographs() if np.asarray(picture).std((0, 1)).mean() > 10]
    for number, picture in enumerate(rich[:20]):
        (tmp_path / f"{number:02}.jpg").write_bytes(encoded(picture, "JPEG", quality=95))
        (tmp_path / f"{number:02}z.png").write_bytes(copies[change](picture))
    census = take_census(FolderDataset(tmp_path))
    assert census.leaders.tolist() == [2 * (place // 2) for place in range(40)]


class Patterns:
    """Gratings of one pixel's width: as thumbnails they are all the same gray."""

    name = fingerprint = "patterns"

    def __len__(self) -> int:
        return 2

    def load(self, index: int) -> Image:
        stripes = np.zeros((64, 64, 3), np.uint8)
        stripes[(slice(None), slice(None, None, 2)) if index else slice(None, None, 2)] = 255
        return Image.from_pixels(stripes)

    def preview(self, index: int) -> Preview:
        return preview(encoded(self.load(index).to_pil()))

    def provenance(self, index: int) -> object:
        raise AssertionError("nothing is wrong with them")


def test_patterns_with_the_same_thumbnail_are_distinct() -> None:
    """A close look decides where the thumbnails cannot."""
    assert take_census(Patterns()).leaders.tolist() == [0, 1]  # type: ignore[arg-type]


def test_plain_images_of_different_color_are_distinct(tmp_path: Path) -> None:
    """Without contrast nothing is near: only the same pixels are a copy."""
    grays = np.arange(40, 60, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    np.save(tmp_path / "x.npy", np.concatenate([grays, grays[:3]]))
    census = take_census(ArrayDataset(tmp_path / "x.npy"))
    assert census.leaders.tolist() == [*range(20), 0, 1, 2]


def test_unreadable_images_are_omitted_and_named(tmp_path: Path) -> None:
    """It is not among the images, and its reason is kept with its name."""
    folder = folder_of(tmp_path / "data", 4)
    (folder / "0001.png").write_bytes(b"no image")
    whole = (folder / "0002.png").read_bytes()
    (folder / "0002.png").write_bytes(whole[: len(whole) // 2])
    found = opened(folder, tmp_path / "cache")
    assert len(found) == 2
    assert list(found.unreadable) == ["0001.png", "0002.png"]
    assert [found.provenance(index).recipe["path"] for index in range(2)] == ["0000.png", "0003.png"]


def test_a_folder_without_a_readable_image_is_refused(tmp_path: Path) -> None:
    """The first reason is given."""
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(UsageError, match="no image of the data set"):
        distinct(FolderDataset(tmp_path), tmp_path / "cache")


def test_a_census_is_kept_and_a_damaged_one_is_made_again(tmp_path: Path) -> None:
    """The second time nothing is decoded; a damaged record is made again."""
    dataset = FolderDataset(folder_of(tmp_path / "data", 5))
    first = distinct(dataset, tmp_path / "cache")
    seen: list[int] = []
    assert (
        distinct(dataset, tmp_path / "cache", lambda done, _: seen.append(done)).fingerprint
        == first.fingerprint
    )
    assert not seen
    (kept,) = (tmp_path / "cache" / "datasets").iterdir()
    kept.write_bytes(b"damaged")
    assert (
        distinct(dataset, tmp_path / "cache", lambda done, _: seen.append(done)).fingerprint
        == first.fingerprint
    )
    assert seen == [5]


def test_a_copy_more_is_the_same_data_set(tmp_path: Path) -> None:
    """The fingerprint is of the distinct images, wherever they lie and whatever they are called."""
    here = folder_of(tmp_path / "here", 6)
    shutil.copytree(here, tmp_path / "there")
    shutil.copy(here / "0003.png", tmp_path / "there" / "9.png")
    assert opened(here, tmp_path).fingerprint == opened(tmp_path / "there", tmp_path).fingerprint
    folder_of(tmp_path / "there", 7)
    assert opened(here, tmp_path).fingerprint != opened(tmp_path / "there", tmp_path).fingerprint


@pytest.mark.parametrize(("n", "held_out"), [(1, 0), (40, 20), (300, 150), (700, 150), (1000, 200)])
def test_a_small_data_set_holds_back_more(n: int, held_out: int) -> None:
    assert HeldOutShare(0.2, 150).count(n) == held_out
    assert HeldOutShare(0.0, 150).count(n) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "fraction", "held_out"), [(22, 0.2, 4), (3, 0.2, 1), (1, 0.2, 0), (500, 0.2, 100), (50, 0.0, 0)]
)
def test_the_part_held_out_is_what_was_promised(
    tmp_path: Path, n: int, fraction: float, held_out: int
) -> None:
    """round(fraction * n) images, of which none is explored."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8))
    explored, chosen = split(distinct(ArrayDataset(tmp_path / "x.npy"), tmp_path), HeldOutShare(fraction))
    assert len(chosen) == held_out
    assert sorted([*explored, *chosen]) == list(range(n))


def test_copies_of_an_image_are_on_one_side(tmp_path: Path) -> None:
    """Twenty copies change neither which images are held out nor how many."""
    folder = folder_of(tmp_path / "data", 50)
    before = _paths(opened(folder, tmp_path))
    for number in range(20):
        shutil.copy(folder / "0007.png", folder / f"copy{number}.png")
    assert _paths(opened(folder, tmp_path)) == before


@pytest.mark.slow
def test_few_images_change_sides_when_a_folder_grows(tmp_path: Path) -> None:
    """Of 200 images held out by their content, no more than those at the limit move when 20 are added."""
    before = _paths(opened(folder_of(tmp_path / "data", 200), tmp_path))
    for number in range(20):
        picture = PIL.Image.fromarray(
            np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        )
        picture.save(tmp_path / "data" / f"a{number}.png")
    after = _paths(opened(tmp_path / "data", tmp_path))
    assert len(after) == 44
    # The limit moves by at most the images that were added.
    assert len(before - after) <= 20
    assert len({path for path in after - before if path[0] != "a"}) <= 4


def _paths(dataset: DistinctDataset) -> set[str]:
    """Return the paths of the images that are held out."""
    return {
        str(dataset.provenance(int(index)).recipe["path"]) for index in split(dataset, HeldOutShare(0.2))[1]
    }


def test_a_row_of_an_array_keeps_its_number_among_copies(tmp_path: Path) -> None:
    """Names and indices that are written down are those of the file."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", pixels[[0, 0, 0, 1, 2]])
    dataset = distinct(ArrayDataset(tmp_path / "x.npy"), tmp_path)
    assert isinstance(dataset, DistinctDataset)
    assert dataset.firsts.tolist() == [0, 3, 4]
    assert [image_name(dataset, index) for index in range(3)] == ["x[0]", "x[3]", "x[4]"]
