"""Sets whose places mislead: shares, exchange, balance; and folders in Spawrious' own layout."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from actors.errors import UsageError
from experiments.paper.gym import spawrious
from experiments.paper.gym.spawrious import SceneDesign, balanced, exchanged, folder_set, scene_set

SMALL = SceneDesign(
    classes=("dog", "cat", "frog"), places=("desert", "snow", "grass", "beach"), n_train=120, n_validation=90,
    n_test=33, side=24, n_crossed=30,
    wrong_labels=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return scene_set(SMALL, tmp_path_factory.mktemp("spurious"))


def test_in_training_nearly_every_class_is_in_its_own_place_or_in_the_shared_one(made):
    own = made.train.labels == made.train.places
    assert 0.8 < own.mean() < 1
    assert set(made.train.places[~own]) == {3}
    assert made.train.images.shape == (120, 24, 24, 3)
    assert made.train.images.dtype == np.uint8


def test_in_the_test_every_class_is_in_the_place_of_another(made):
    swap = exchanged(3)
    assert all(swap[index] != index for index in range(3))
    assert [swap[label] for label in made.test.labels] == list(made.test.places)


def test_every_class_is_equally_often_in_every_place_of_the_crossed_part(made, tmp_path):
    for part, n_places in (
        (made.crossed, 4),
        (folder_set(folder(tmp_path / "d"), tmp_path, side=16).crossed, 5),
    ):
        cells = list(zip(part.labels.tolist(), part.places.tolist(), strict=True))
        counts = {cells.count(cell) for cell in cells}
        assert len(counts) == 1
        assert set(part.places.tolist()) == set(range(n_places))
    assert len(made.crossed) == 24, "two images of each of 3 x 4 pairs"


def test_wrong_labels_are_as_frequent_as_asked_for_and_none_is_in_the_test(made, tmp_path):
    noisy = scene_set(replace(SMALL, wrong_labels=0.3), tmp_path)
    for part, clean in ((noisy.train, made.train), (noisy.validation, made.validation)):
        assert (part.images == clean.images).all()
        assert 0.15 < (part.labels != clean.labels).mean() < 0.45
    assert (noisy.test.labels == made.test.labels).all()
    assert (noisy.crossed.labels == made.crossed.labels).all()


def test_a_share_of_wrong_labels_that_leaves_nothing_to_learn_is_refused():
    with pytest.raises(UsageError, match=r"wrong labels must be .* got 0\.7"):
        replace(SMALL, wrong_labels=0.7).checked()


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_the_exchange_leaves_no_class_at_home(n):
    assert sorted(exchanged(n)) == list(range(n))
    assert all(place != label for label, place in enumerate(exchanged(n)))


def test_a_set_is_drawn_once_and_the_same_after_an_interruption(made, tmp_path):
    again = scene_set(SMALL, tmp_path)
    assert (again.validation.images == made.validation.images).all()
    (train,) = tmp_path.glob("*-train.npy")
    before = train.stat().st_mtime_ns
    for path in tmp_path.glob("*-test.npy"):
        path.unlink()
    third = scene_set(SMALL, tmp_path)
    assert train.stat().st_mtime_ns == before
    assert (third.test.images == made.test.images).all()


def test_a_balanced_set_has_each_class_equally_often_in_each_place_that_occurs(made):
    rows = balanced(made.validation, 60, np.random.default_rng(1))
    assert len(set(rows)) == len(rows)
    cells = list(zip(made.validation.labels[rows], made.validation.places[rows], strict=True))
    counts = {cell: cells.count(cell) for cell in set(cells)}
    assert len(counts) == 6
    assert len(set(counts.values())) == 1


@pytest.mark.parametrize(
    ("classes", "places", "message"),
    [
        (("dog", "vehicle"), ("snow", "sand", "beach"), "'vehicle'"),
        (("dog", "cat"), ("snow", "moon", "beach"), "'moon'"),
        (("dog", "cat"), ("snow", "beach"), "one place more"),
        (("dog", "puppy"), ("snow", "sand", "beach"), "must differ"),
    ],
)
def test_a_design_that_cannot_be_drawn_is_refused_by_name(classes, places, message):
    with pytest.raises(UsageError, match=message):
        SceneDesign(classes=classes, places=places).checked()


def folder(root, per_own=20, per_shared=4):
    rng = np.random.default_rng(2)
    for half in "01":
        for label, name in enumerate(spawrious.CLASSES):
            cells = (
                (spawrious.OWN_PLACES[label], per_own),
                (spawrious.TEST_PLACES[label], 5),
                ("beach", per_shared),
            )
            for place, count in cells:
                path = root / "spawrious224" / half / place / name
                path.mkdir(parents=True)
                for number in range(count):
                    pixels = rng.integers(0, 256, (10, 12, 3), np.uint8)
                    PIL.Image.fromarray(pixels).save(path / f"{number}.png")
    return root


def test_spawrious_own_folder_is_read_with_its_shares(tmp_path):
    found = folder_set(folder(tmp_path / "data"), tmp_path / "cache", side=16, seed=3)
    both = np.concatenate([found.train.places, found.validation.places])
    # 19 and 17 of 20 in the own place, and what is left to 20 in the shared one, as far as it has so many.
    assert (both == 4).sum() == 4 * (1 + 3)
    assert len(both) == 4 * (19 + 17 + 1 + 3)
    assert len(found.validation) == 16
    assert len(found.test) == 4 * 2 * 5
    assert not (found.test.labels == found.test.places).any()
    assert found.train.images.shape[1:] == (16, 16, 3)
    assert found.places == ("desert", "jungle", "dirt", "snow", "beach")


def test_a_limit_leaves_the_correlation_of_class_and_place_as_it_is(tmp_path):
    root = folder(tmp_path / "data", per_own=40, per_shared=12)
    found = folder_set(root, tmp_path / "cache", side=16, limit=10)
    places = np.concatenate([found.train.places, found.validation.places])
    labels = np.concatenate([found.train.labels, found.validation.labels])
    # 9 and 8 of 10 in the own place, the rest in the shared one.
    assert (places == labels).sum() == 4 * (9 + 8)
    assert (places == 4).sum() == 4 * (1 + 2)
    assert len(found.test) == 4 * 2 * 5


def test_a_folder_in_another_layout_is_refused_with_what_is_missing(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(UsageError, match=r"0/desert/bulldog holds no images"):
        folder_set(tmp_path, tmp_path / "cache")


def test_a_damaged_file_is_named(tmp_path):
    root = folder(tmp_path / "data")
    broken = root / "spawrious224" / "1" / "snow" / "corgi" / "3.png"
    broken.write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"snow/corgi/3\.png"):
        folder_set(root, tmp_path / "cache", side=16)
