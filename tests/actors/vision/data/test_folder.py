"""What people have as folders of images is read, and what is passed over is counted by name."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from actors.errors import UsageError
from actors.vision.data.datasets import open_dataset
from actors.vision.data.distinct import Previewed
from actors.vision.data.folder import FolderDataset
from actors.vision.data.labels import ColumnSettings
from tests.actors.vision.pictures import encoded, folder_of


def some(seed: int) -> PIL.Image.Image:
    patches = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return PIL.Image.fromarray(patches).resize((32, 24), PIL.Image.Resampling.NEAREST)


def shard(path: Path, seeds: range) -> None:
    """Write a tar as WebDataset has it: an image and a class beside it."""
    with tarfile.open(path, "w") as archive:
        for seed in seeds:
            for name, data in ((f"{seed:03}.png", encoded(some(seed))), (f"{seed:03}.cls", b"7")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def paths(dataset: object) -> list[str]:
    assert isinstance(dataset, FolderDataset)
    return [str(dataset.provenance(index).recipe["path"]) for index in range(len(dataset))]


def test_every_suffix_of_a_picture_is_taken_in_either_case(tmp_path: Path) -> None:
    """Those that cameras, browsers and older data sets write."""
    for suffix, kind in (
        *((".jfif", "JPEG"), (".JPE", "JPEG"), (".PPM", "PPM"), (".pgm", "PPM"), (".AVIF", "AVIF")),
        *((".TIF", "TIFF"), (".tiff", "TIFF"), (".WebP", "WEBP"), (".jp2", "JPEG2000"), (".gif", "GIF")),
    ):
        (tmp_path / f"a{suffix}").write_bytes(encoded(some(1), kind))
    dataset = FolderDataset(tmp_path)
    assert len(dataset) == 10
    assert all(dataset.load(index).size == (24, 32) for index in range(10))


def test_a_file_without_a_suffix_is_known_by_its_content(tmp_path: Path) -> None:
    """Names that are digests or numbers; text without a suffix is no picture."""
    for name in ("0a1b2c", "frame.0001", "photo.jpg_2"):
        (tmp_path / name).write_bytes(encoded(some(1), "JPEG"))
    (tmp_path / "LICENSE").write_text("free")
    dataset = FolderDataset(tmp_path)
    assert paths(dataset) == ["0a1b2c", "frame.0001", "photo.jpg_2"]
    assert dict(dataset.skipped_files) == {"without an image's suffix": 1}


def test_skipped_files_are_counted_with_what_to_do(tmp_path: Path) -> None:
    """Nothing that might be meant as data is passed over without a word."""
    (tmp_path / "a.png").write_bytes(encoded(some(1)))
    for name in ("b.svg", "c.SVG", "d.zip", "e.mp4", ".DS_Store"):
        (tmp_path / name).write_bytes(b"x")
    assert FolderDataset(tmp_path).skipped_files == {".svg": 2, ".zip (unpack them)": 1, ".mp4": 1}
    (tmp_path / "a.png").unlink()
    with pytest.raises(UsageError, match=r"2 \.svg, .*\.zip \(unpack them\)"):
        FolderDataset(tmp_path)


def test_a_table_that_names_the_images_is_not_passed_over(tmp_path: Path) -> None:
    """Labels come from it; notes and lists of other things are counted as other files."""
    folder_of(tmp_path, 2)
    folder_of(tmp_path / "more", 1)
    (tmp_path / "metadata.csv").write_text("file_name,label\n0000.png,cat\n")
    (tmp_path / "more" / "list.jsonl").write_text('{"picture": "0000.png", "label": "dog"}\n')
    (tmp_path / "notes.csv").write_text("name,wage\nAda,3\n")
    (tmp_path / "gone.csv").write_text("file_name,label\ngone.png,cat\n")
    dataset = FolderDataset(tmp_path)
    assert dataset.skipped_files == {".csv": 3, ".jsonl": 1}
    assert dataset.passed_over(ColumnSettings()) == {".csv": 2, ".jsonl": 1}
    assert dataset.passed_over(ColumnSettings(image="picture")) == {".csv": 3}


def test_a_folder_of_tars_is_read_where_it_lies(tmp_path: Path) -> None:
    """WebDataset shards: members are read by their place in the file, in any order, in any process."""
    for number in range(2):
        shard(tmp_path / f"{number}.tar", range(3 * number, 3 * number + 3))
    (tmp_path / "torn.tar").write_bytes((tmp_path / "0.tar").read_bytes()[:700])
    dataset = pickle.loads(pickle.dumps(open_dataset(str(tmp_path))))
    assert isinstance(dataset, Previewed)
    assert paths(dataset)[:4] == ["0.tar/000.png", "0.tar/001.png", "0.tar/002.png", "1.tar/003.png"]
    assert paths(open_dataset(str(tmp_path / "1.tar"))) == ["1.tar/003.png", "1.tar/004.png", "1.tar/005.png"]
    for index in (5, 0, 3):
        assert np.array_equal(dataset.load(index).pixels, np.asarray(some(index)))
    assert dataset.skipped_files[".cls"] == 6
    assert any("torn.tar" in why for why in dataset.skipped_files)


def test_images_of_earlier_runs_are_not_data(tmp_path: Path) -> None:
    """A run's folder below the data, with its blobs and report, is passed over and counted."""
    folder_of(tmp_path, 2)
    for name in ("blobs/ab", "report/images"):
        (tmp_path / "runs" / "one" / name).mkdir(parents=True)
        (tmp_path / "runs" / "one" / name / "x.png").write_bytes(encoded(some(9)))
    (tmp_path / "runs" / "one" / "manifest.json").write_text("{}")
    dataset = FolderDataset(tmp_path)
    assert paths(dataset) == ["0000.png", "0001.png"]
    assert dict(dataset.skipped_files) == {"folders of earlier runs": 1}


def test_hidden_folders_are_no_data(tmp_path: Path) -> None:
    """Copies that notebooks and version control keep are neither images nor classes."""
    for name in (".ipynb_checkpoints", "cat"):
        folder_of(tmp_path / name, 1)
    dataset = FolderDataset(tmp_path)
    assert paths(dataset) == ["cat/0000.png"]
    assert dict(dataset.skipped_files) == {"hidden folders": 1}


@pytest.mark.parametrize("name", ["", "https://a.org/images.zip", "x" * 5000])
def test_what_is_no_folder_is_refused_by_name(name: str) -> None:
    """An empty name is not the current folder, and addresses are not fetched."""
    with pytest.raises(UsageError, match="data set"):
        open_dataset(name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "# validation\nsub/0001.png\nsub/0000.png 17\nsub/gone.png\n"),
        ("list.csv", "label,path\ncat,sub/0001.png\ndog,sub/0000.png\nx,sub/gone.png\n"),
        ("list.csv", "label;path\ncat;sub/0001.png\ndog;sub\\0000.png\nx;sub/gone.png\n"),
        ("list.txt", f'"sub/0001.png"\n"sub/0000.png",17\n{"x" * 300}.png\n'),
        ("list.tsv", "file_name\tlabel\nsub/0001.png\tcat\nsub/0000.png\tdog\nsub/gone.png\tx\n"),
        (
            "metadata.jsonl",
            "".join(json.dumps({"file_name": f"sub/{n}.png"}) + "\n" for n in ("0001", "0000", "gone")),
        ),
    ],
)
def test_a_list_of_paths_is_a_data_set_in_its_order(tmp_path: Path, name: str, text: str) -> None:
    """Paths are relative to the list; what is named and not there is counted."""
    folder_of(tmp_path / "sub", 3)
    (tmp_path / name).write_text(text)
    dataset = open_dataset(str(tmp_path / name))
    assert paths(dataset) == ["sub/0001.png", "sub/0000.png"]
    assert dataset.skipped_files == {"named, but not there": 1}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "columns"),
        ("path\ngone.png\n", "names no image"),
        ("path\nhttps://a.org/b.png\n", "not fetched"),
        ("", "columns"),
    ],
)
def test_a_list_without_paths_is_refused(tmp_path: Path, text: str, words: str) -> None:
    """It is said which columns there are, or which path is missing."""
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UsageError, match=words):
        open_dataset(str(tmp_path / "list.csv"))
