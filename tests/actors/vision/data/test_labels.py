"""Class and attributes of images, in the forms in which data sets carry them on disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from actors.errors import UsageError
from actors.vision.data.datasets import open_dataset
from actors.vision.data.distinct import distinct
from actors.vision.data.hub_dataset import ScalarColumns
from actors.vision.data.labels import ColumnSettings, Labels, from_columns, labels_of


def write_images(root: Path, paths: list[str]) -> None:
    rng = np.random.default_rng(len(paths))
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).save(root / path)


def read(source: Path, **columns: object) -> Labels:
    settings = ColumnSettings(**columns)
    return labels_of(open_dataset(str(source), settings.image), settings)


def named(labels: Labels) -> list[str]:
    return [labels.classes[value] if value >= 0 else "" for value in labels.label.values]


def test_class_folders_are_classes_and_split_folders_are_none(tmp_path):
    write_images(tmp_path, ["train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "loose.png"])
    write_images(tmp_path / "other", [f"set/images/{n}" for n in ("cat/1.png", "dog/2.png", "3.png")])
    assert named(read(tmp_path / "other")) == ["", "cat", "dog"]
    shutil.rmtree(tmp_path / "other")
    labels = read(tmp_path)
    assert named(labels) == ["", "cat", "dog", "cat"]
    assert labels.source == "class folders"
    assert labels.training().tolist() == [False, True, True, False]


def test_folders_within_folders_can_be_named_as_columns(tmp_path):
    write_images(
        tmp_path, [f"{place}/{kind}/{n}.png" for place in ("beach", "snow") for kind in "ab" for n in "12"]
    )
    labels = read(tmp_path, label="folder2", attributes=("folder1",))
    assert named(labels) == ["a", "a", "b", "b"] * 2
    assert labels.attributes["folder1"].counts() == {"beach": 4, "snow": 4}


WATERBIRDS = """img_id,img_filename,y,split,place,place_filename
1,001.A/a.png,1,0,1,/o/ocean/1.png
2,001.A/b.png,1,2,0,/b/bamboo/1.png
3,002.B/a.png,0,0,0,/b/bamboo/2.png
4,002.B/c.png,0,1,1,/l/lake/2.png
"""


def test_waterbirds_metadata_gives_class_place_and_split(tmp_path):
    write_images(tmp_path, ["001.A/a.png", "001.A/b.png", "002.B/a.png", "002.B/c.png"])
    (tmp_path / "metadata.csv").write_text(WATERBIRDS)
    for source in (tmp_path, tmp_path / "metadata.csv"):
        labels = read(source)
        assert named(labels) == ["1", "1", "0", "0"]
        assert labels.source == "column 'y' of metadata.csv"
        assert labels.attributes["place"].counts() == {"0": 2, "1": 2}
        assert set(labels.attributes) <= {"place", "folder1"}, "neither ids nor files divide images"
        assert labels.training().tolist() == [True, False, True, False]


def test_celeba_lists_are_joined_by_file_name_and_any_attribute_may_be_the_class(tmp_path):
    write_images(tmp_path, [f"img_align_celeba/00000{n}.png" for n in range(1, 5)])
    rows = ["1,-1", "-1,-1", "-1,1", "1,1"]
    lines = [f"00000{n}.png,{row}" for n, row in enumerate(rows, 1)]
    (tmp_path / "list_attr_celeba.csv").write_text("image_id,Blond_Hair,Male\n" + "\n".join(lines))
    (tmp_path / "list_eval_partition.csv").write_text("image_id,partition\n000001.png,0\n000003.png,2\n")
    labels = read(tmp_path, label="Blond_Hair")
    assert named(labels) == ["1", "-1", "-1", "1"]
    assert list(labels.attributes) == ["Male"]
    assert labels.training().tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("values", "training"),
    [("0012", [False] * 4), (["train", "train", "test", "test"], [True, True, False, False])],
)
def test_numbered_folds_of_a_cross_validation_are_no_training_set(tmp_path, values, training):
    write_images(tmp_path, [f"{number}.png" for number in range(4)])
    rows = [f"{number}.png,{'ab'[number % 2]},{fold}" for number, fold in enumerate(values)]
    (tmp_path / "metadata.csv").write_text("file_name,label,fold\n" + "\n".join(rows))
    labels = read(tmp_path)
    assert labels.training().tolist() == training
    assert "fold" not in labels.attributes


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_imagefolder_metadata_is_read_for_the_images_of_each_split(tmp_path, suffix):
    write_images(tmp_path, ["train/1.png", "train/2.png", "test/1.png"])
    rows = {
        "csv": "file_name,label\n1.png,cat\n2.png,dog\n",
        "jsonl": '{"file_name": "1.png", "label": "cat"}\n'
        '{"file_name": "2.png", "label": "dog", "boxes": [1]}\n',
    }
    (tmp_path / "train" / f"metadata.{suffix}").write_text(rows[suffix])
    assert named(read(tmp_path)) == ["", "cat", "dog"]


def test_the_copies_of_an_image_count_once_with_the_label_of_the_first(tmp_path):
    write_images(tmp_path / "data", ["a/1.png", "b/2.png"])
    (tmp_path / "data/b/3.png").write_bytes((tmp_path / "data/a/1.png").read_bytes())
    dataset = distinct(open_dataset(str(tmp_path / "data")), tmp_path / "cache")
    assert named(labels_of(dataset, ColumnSettings())) == ["a", "b"]


def test_a_list_of_training_code_has_the_class_after_the_path(tmp_path):
    write_images(tmp_path, ["x/1.png", "x/2 b.png"])
    (tmp_path / "list.txt").write_text("x/1.png 7\nx/2 b.png 3\n")
    assert named(read(tmp_path / "list.txt")) == ["7", "3"]


@pytest.mark.parametrize(
    ("columns", "option"),
    [
        ({"label": "kind"}, "--label-column"),
        ({"attributes": ("kind",)}, "--attributes"),
        ({"image": "kind"}, "--image-column"),
    ],
)
def test_a_column_that_is_not_there_is_refused_with_those_that_are(tmp_path, columns, option):
    write_images(tmp_path, ["1.png", "2.png"])
    (tmp_path / "metadata.csv").write_text("file_name,species,place\n1.png,a,x\n2.png,b,y\n")
    with pytest.raises(UsageError, match="no column 'kind'") as refusal:
        read(tmp_path, **columns)
    assert "species, place" in refusal.value.fix
    assert option in refusal.value.fix


def test_a_data_set_without_classes_is_refused_with_what_to_give(tmp_path):
    write_images(tmp_path, ["1.png", "2.png"])
    with pytest.raises(UsageError, match="known to hold classes") as refusal:
        read(tmp_path)
    assert "class folders" in refusal.value.fix
    with pytest.raises(UsageError, match="has no labels"):
        labels_of(open_dataset("scenes:4:0"), ColumnSettings())


def test_a_data_set_of_the_datasets_library_has_the_names_of_its_classes(tmp_path):
    datasets = pytest.importorskip("datasets")
    pictures = [PIL.Image.new("RGB", (8, 8), (n * 60, 0, 0)) for n in range(4)]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "kind": datasets.ClassLabel(names=["cat", "dog"]),
            "place": datasets.Value("string"),
        }
    )
    rows = {"image": pictures, "kind": [1, 0, -1, 1], "place": ["sea", "sea", "land", "land"]}
    datasets.Dataset.from_dict(rows, features).save_to_disk(str(tmp_path / "set"))
    labels = read(tmp_path / "set")
    assert named(labels) == ["dog", "cat", "", "dog"]
    assert labels.attributes["place"].counts() == {"land": 2, "sea": 2}


class RecordingTable:
    """A table of the `datasets` library that records which columns are read."""

    def __init__(self):
        self.read = []

    def select_columns(self, names):
        self.read += names
        return {name: ["x", "y"] for name in names}


def test_only_the_columns_that_were_asked_for_are_read_from_a_table():
    table = RecordingTable()
    columns = ScalarColumns(table, ["kind", "place", "text"], {})
    labels = from_columns("set", columns, ColumnSettings(label="kind", attributes=("place",)))
    assert list(labels.attributes) == ["place"]
    assert set(table.read) == {"kind", "place"}


def test_a_table_that_csv_cannot_read_is_skipped(tmp_path):
    write_images(tmp_path, ["cat/1.png", "dog/2.png"])
    (tmp_path / "notes.csv").write_text("file_name,label\n1.png," + "x" * 200_000)
    assert named(read(tmp_path)) == ["cat", "dog"]


def test_a_list_that_csv_cannot_read_is_refused_with_its_reason(tmp_path):
    write_images(tmp_path, ["1.png"])
    (tmp_path / "list.csv").write_text("path,label\n1.png," + "x" * 200_000)
    with pytest.raises(UsageError, match="field larger than field limit"):
        read(tmp_path / "list.csv")


def test_only_the_end_of_a_line_ends_a_row(tmp_path):
    write_images(tmp_path, ["1.png", "2.png"])
    (tmp_path / "list.csv").write_text('path,label\n1.png,"a\nb"\n2.png,c\u2028d\n')
    assert named(read(tmp_path / "list.csv")) == ["a\nb", "c\u2028d"]


@pytest.mark.parametrize("form", ["folder", "table"])
def test_names_that_are_no_text_can_be_written_down(form, tmp_path):
    if form == "folder":
        write_images(tmp_path, [os.fsdecode(b"caf\xe9/1.png"), "dog/2.png"])
    else:
        write_images(tmp_path, ["1.png", "2.png"])
        rows = ['{"file_name": "1.png", "label": "\\ud800"}', '{"file_name": "2.png", "label": "dog"}']
        (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    labels = read(tmp_path)
    assert len(labels.classes) == 2
    assert all(each.encode() for each in labels.classes)
