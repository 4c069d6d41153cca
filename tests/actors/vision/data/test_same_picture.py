"""Crops of one photograph are parts of one picture; images that are alike in kind only are not."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
import pytest

from actors.images import Image
from actors.vision.data.datasets import open_dataset
from actors.vision.data.distinct import distinct
from actors.vision.data.same_picture import SamePictures, details_of, of_one_picture


def photograph(seed: int, side: int = 400) -> PIL.Image.Image:
    """Return a picture with details of all sizes, as photographs have."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(
            PIL.Image.fromarray(rng.integers(0, 256, (n, n, 3), np.uint8)).resize((side, side)), np.float32
        )
        for n in (4, 12, 40, 120)
    ]
    return PIL.Image.fromarray(np.clip(sum(layers) / 2 - 128, 0, 255).astype(np.uint8))


def crop(picture: PIL.Image.Image, left: float, top: float, share: float) -> PIL.Image.Image:
    box = [round(each * picture.width) for each in (left, top, left + share, top + share)]
    return picture.crop(tuple(box))


def same(one: PIL.Image.Image, other: PIL.Image.Image) -> bool:
    return of_one_picture(details_of(Image.from_pil(one)), details_of(Image.from_pil(other)))


@pytest.mark.parametrize("seed", range(3))
def test_crops_with_half_of_their_parts_in_common_are_of_one_picture(seed):
    picture = photograph(seed)
    assert same(crop(picture, 0, 0, 0.7), crop(picture, 0.2, 0.1, 0.7))
    assert same(crop(picture, 0.1, 0.1, 0.55), picture)
    assert same(picture, crop(picture, 0, 0, 0.8).resize((90, 90)))


def test_different_pictures_are_not_of_one():
    pictures = [photograph(seed) for seed in range(6)]
    assert not any(same(a, b) for at, a in enumerate(pictures) for b in pictures[:at])


def test_the_same_thing_on_another_ground_makes_no_picture_the_same():
    thing = photograph(9, 120)
    pictures = [photograph(seed) for seed in (1, 2)]
    for picture in pictures:
        picture.paste(thing, (140, 140))
    assert not same(*pictures)


def test_plain_images_have_nothing_in_common():
    plain = PIL.Image.new("RGB", (200, 200), (90, 120, 200))
    assert not same(plain, plain)


@pytest.fixture
def crops(tmp_path):
    """A folder with three crops each of two photographs, and a third photograph."""
    folder = tmp_path / "crops"
    folder.mkdir()
    for seed in (1, 2):
        for number, (left, top) in enumerate([(0, 0), (0.2, 0), (0.1, 0.25)]):
            crop(photograph(seed), left, top, 0.7).save(folder / f"{seed}{number}.png")
    photograph(3).save(folder / "30.png")
    return folder


def opened(folder):
    return distinct(open_dataset(str(folder)), folder.parent / "cache")


def test_the_parts_of_each_picture_have_one_number(crops):
    assert SamePictures().numbers(opened(crops), range(7)) == [0, 0, 0, 1, 1, 1, 2]


def test_parts_of_pictures_that_were_seen_have_none(crops):
    assert SamePictures().numbers(opened(crops), [1, 2, 4, 6], seen=[0]) == [None, None, 0, 1]


def write_groups(folder, groups):
    """Write a table with a column `group`; groups are by the names of images."""
    rows = [f"{name}.png,{group}" for name, group in groups.items()]
    (folder / "metadata.csv").write_text("\n".join(["file_name,group", *rows]))


CROSSED = {"10": "a", "11": "b", "12": "", "20": "a", "21": "c", "22": "c", "30": "a"}
"""Groups that cut across the photographs."""


def test_the_column_group_says_which_images_belong_together(crops):
    others = {f"4{number:02}": f"other {number}" for number in range(18)}
    for seed, name in enumerate(others):
        photograph(100 + seed, 40).save(crops / f"{name}.png")
    write_groups(crops, CROSSED | others)
    assert SamePictures().numbers(opened(crops), [0, 1, 3, 5, 6]) == [0, 1, 0, 2, 0]


def test_a_column_group_of_few_values_may_mean_subgroups_and_says_nothing(crops, caplog):
    write_groups(crops, CROSSED)
    found = SamePictures()
    for _ in range(2):
        assert found.numbers(opened(crops), range(7)) == [0, 0, 0, 1, 1, 1, 2]
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.startswith("the column 'group' of crops has 3 values")


def test_studies_compare_images_at_the_same_time(crops):
    """While one waits for a photograph, another is not kept waiting."""
    dataset, found = opened(crops), SamePictures()
    loading, go_on = threading.Event(), threading.Event()

    def load(index):
        loading.set()
        assert go_on.wait(60)
        return dataset.load(index)

    slow = copy.copy(dataset)
    slow.load = load
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(found.numbers, slow, range(7))
        try:
            assert loading.wait(60)
            assert found.numbers(dataset, range(7)) == [0, 0, 0, 1, 1, 1, 2]
        finally:
            go_on.set()
        assert first.result() == [0, 0, 0, 1, 1, 1, 2]


def test_each_photograph_is_read_once_for_many_studies(crops):
    dataset, found, read = opened(crops), SamePictures(), []
    counted = copy.copy(dataset)
    counted.load = lambda index: read.append(index) or dataset.load(index)
    found.numbers(counted, range(6))
    found.numbers(counted, range(7))
    assert sorted(read) == list(range(7))


def test_a_large_photograph_is_compared_as_a_small_one():
    picture = photograph(1, 1600)
    assert same(picture, picture.resize((200, 200)))
    assert same(crop(picture, 0, 0, 0.7), crop(picture, 0.2, 0.1, 0.7).resize((150, 150)))


def test_drawn_scenes_are_each_a_picture_of_its_own():
    assert SamePictures().numbers(open_dataset("scenes:20:0"), range(20)) == list(range(20))
