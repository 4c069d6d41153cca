"""A label is worth what it says about its own unit beyond what it would say about any other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from actors.images import Image
from actors.serving.backend import Priority
from actors.vision.readout.base import Unit
from agents.records.journal import Journal, JournalError, slug
from agents.records.store import Store
from agents.records.work import WorkItem
from experiments.records.cross_unit import IMAGES, LABELS, ComparedUnit, compare, percentiles, sample


def labeled(index: int, label: str, *activations: float) -> ComparedUnit:
    return ComparedUnit(
        f"net/a:{index}", Unit("a", index), (label,), activations or (1.0,), (f"{index:032x}",)
    )


def test_a_label_is_compared_with_those_of_other_units_on_their_images():
    units = [labeled(0, "dog", 4.0, 6.0), labeled(1, "cat", 1.0), labeled(2, "car", 2.0)]
    means = np.array([[5.0, 4.0, 1.0], [9.0, 1.0, 0.0], [2.0, 2.0, 2.0]])
    ranks = percentiles(units, units, means)
    assert [ranks[unit.id].percentile for unit in units] == [1.0, 0.5, 0.5]
    assert ranks["net/a:0"].n == 2
    nearest = ranks["net/a:0"].nearest
    assert [near.label for near in nearest] == ["cat", "car"]
    assert nearest[0].unit == "net/a:1"
    assert nearest[0].share == pytest.approx(0.75)
    assert ranks["net/a:2"].nearest[0].share is None, "nothing to have a share of"


def test_the_same_words_are_not_another_label():
    units = [labeled(0, "a dog"), labeled(1, "A  Dog"), labeled(2, "car")]
    ranks = percentiles(units, units, np.zeros((3, 3)))
    assert [ranks[unit.id].n for unit in units] == [1, 1, 2]


def test_labels_on_whose_images_a_unit_is_not_finite_are_left_out_of_its_comparison():
    units = [labeled(0, "dog", 4.0), labeled(1, "cat", 1.0), labeled(2, "car", 2.0)]
    means = np.array([[5.0, np.nan, 1.0], [9.0, 1.0, 0.0], [np.inf, np.nan, 2.0]])
    ranks = percentiles(units, units, means)
    assert [ranks[unit.id].n if unit.id in ranks else 0 for unit in units] == [1, 2, 0]
    assert ranks["net/a:0"].percentile == 1.0


def test_a_layer_of_one_label_has_nothing_to_compare():
    units = [labeled(0, "dog"), labeled(1, "dog")]
    assert percentiles(units, units, np.zeros((2, 2))) == {}


def test_of_a_large_layer_the_same_labels_are_always_chosen():
    units = [labeled(index, f"thing {index}") for index in range(2 * LABELS)]
    assert len(sample(units)) == LABELS
    assert sample(units) == sample(units)
    assert sample(units[:5]) == units[:5]


class Brightness:
    """A network of two units: one likes bright images, one dark ones."""

    async def class_names(self) -> list[str]:
        return []

    async def activations(self, units, images, *, agent, priority):
        assert priority is Priority.CONFIRMATION
        assert len(images) <= 64
        bright = np.array([image.pixels.mean() for image in images], np.float32)
        return np.stack([bright if unit.index == 0 else 255 - bright for unit in units])


def write_study(store: Store, index: int, label: str, level: int, n: int) -> WorkItem:
    item = WorkItem(f"net/a:{index}", "a", str(index))
    images = [Image.from_pixels(np.full((4, 4, 3), level + place, np.uint8)) for place in range(n)]
    trials = [
        {"image": image.id, "activation": 5.0 if index == 2 else float(level if index == 0 else 255 - level)}
        for image in images
    ]
    record = {"unit": item.unit, "labels": [label], "evidence": {"positives": trials}}
    Journal(store, item.unit).blobs.put(images)
    store.put(f"units/{slug(item.unit)}/done.json", json.dumps(record).encode())
    return item


async def test_a_run_is_compared_from_its_own_records(tmp_path):
    store = Store.open(tmp_path)
    plan = [write_study(store, 0, "light", 200, 40), write_study(store, 1, "dark", 10, 40)]
    plan += [write_study(store, 2, "grey", 100, 40), WorkItem("net/a:3", "a", "3")]
    await compare(Brightness(), store, plan)
    found = json.loads((tmp_path / "crosswise.json").read_text())
    assert {unit: rank["percentile"] for unit, rank in found.items()} == {
        "net/a:0": 1.0,
        "net/a:1": 1.0,
        "net/a:2": 0.0,
    }
    assert found["net/a:0"]["nearest"][0]["label"] == "grey"
    first = [100 + place for place in range(IMAGES)]
    assert found["net/a:0"]["nearest"][0]["mean"] == pytest.approx(np.mean(first))


async def test_an_image_that_is_gone_is_an_error_with_its_name(tmp_path):
    store = Store.open(tmp_path)
    plan = [write_study(store, 0, "light", 200, 2), write_study(store, 1, "dark", 10, 2)]
    victim = next(key for key in store.keys("blobs"))
    (tmp_path / victim).unlink()
    with pytest.raises(JournalError, match=Path(victim).stem):
        await compare(Brightness(), store, plan)
