"""Builds that the `datasets` library made itself are read: splits, configurations and columns found or asked
for.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from actors.errors import UsageError
from actors.vision.data.datasets import open_dataset
from actors.vision.data.folder import FolderDataset
from actors.vision.data.hub_dataset import HubDataset
from tests.actors.vision.data.test_folder import shard, some

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def _caches_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def table(n: int = 4, column: str = "picture") -> object:
    features = datasets.Features(
        {column: datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    rows = {column: [some(seed) for seed in range(n)], "label": [0, 1] * (n // 2)}
    return datasets.Dataset.from_dict(rows, features=features)


def assert_holds(dataset: object, n: int = 4) -> None:
    """Also after it has travelled to another process."""
    dataset = pickle.loads(pickle.dumps(dataset))
    assert isinstance(dataset, HubDataset)
    assert len(dataset) == n
    for index in range(n):
        assert np.array_equal(dataset.load(index).pixels, np.asarray(some(index)))
        assert dataset.preview(index).thumbnail.shape == (16, 16, 3)


def test_a_folder_of_save_to_disk_is_read_with_or_without_the_prefix(tmp_path: Path) -> None:
    """Its column of images is found by its type, whatever it is called."""
    table().save_to_disk(tmp_path / "saved")  # type: ignore[attr-defined]
    for text in (f"{tmp_path}/saved", f"hf:{tmp_path}/saved"):
        assert_holds(open_dataset(text))


def test_of_several_splits_one_has_to_be_named(tmp_path: Path) -> None:
    """`validation` is the usual one; without it the splits are listed."""
    datasets.DatasetDict({"train": table(), "test": table(2)}).save_to_disk(tmp_path / "two")
    with pytest.raises(UsageError, match="has the splits train, test"):
        open_dataset(f"hf:{tmp_path}/two")
    assert_holds(open_dataset(f"hf:{tmp_path}/two:test"), 2)
    with pytest.raises(UsageError, match="no split 'dev'"):
        open_dataset(f"hf:{tmp_path}/two:dev")
    datasets.DatasetDict({"train": table(2), "validation": table()}).save_to_disk(tmp_path / "usual")
    assert_holds(open_dataset(f"{tmp_path}/usual"))


def test_a_folder_of_parquet_is_read_with_its_only_split(tmp_path: Path) -> None:
    """As it is downloaded from the hub: data/train-00000-of-00001.parquet."""
    (tmp_path / "set" / "data").mkdir(parents=True)
    table().to_parquet(tmp_path / "set" / "data" / "train-00000-of-00001.parquet")  # type: ignore[attr-defined]
    assert_holds(open_dataset(f"{tmp_path}/set"))
    with pytest.raises(UsageError, match=r"the column 'label' of .* holds no images"):
        open_dataset(f"hf:{tmp_path}/set:train:label").load(0)
    with pytest.raises(UsageError, match="no column 'photo'"):
        open_dataset(f"hf:{tmp_path}/set:train:photo")


def test_of_several_configurations_one_has_to_be_named(tmp_path: Path) -> None:
    """The error lists them in the spelling that a command takes."""
    lines = ["---", "configs:"]
    for name in ("small", "large"):
        (tmp_path / "set" / name).mkdir(parents=True)
        table().to_parquet(tmp_path / "set" / name / "train.parquet")  # type: ignore[attr-defined]
        lines += [f"- config_name: {name}", f"  data_files: {name}/*.parquet"]
    (tmp_path / "set" / "README.md").write_text("\n".join([*lines, "---", ""]))
    with pytest.raises(UsageError, match="configurations: small, large"):
        open_dataset(f"hf:{tmp_path}/set")
    assert_holds(open_dataset(f"hf:{tmp_path}/set/large"))
    with pytest.raises(UsageError, match=r"no folder .*/set/medium either"):
        open_dataset(f"hf:{tmp_path}/set/medium")


def test_class_folders_and_shards_are_read_by_the_library_too(tmp_path: Path) -> None:
    """Both ways to the same files give the same images."""
    for name, seed in (("cat", 0), ("cat", 1), ("dog", 2), ("dog", 3)):
        (tmp_path / "classes" / name).mkdir(parents=True, exist_ok=True)
        some(seed).save(tmp_path / "classes" / name / f"{seed}.png")
    (tmp_path / "shards").mkdir()
    shard(tmp_path / "shards" / "0.tar", range(4))
    for folder in ("classes", "shards"):
        assert isinstance(open_dataset(f"{tmp_path}/{folder}"), FolderDataset)
        assert_holds(open_dataset(f"hf:{tmp_path}/{folder}"))


def test_a_column_of_bytes_is_read_by_its_usual_name(tmp_path: Path) -> None:
    """Parquet that others wrote, without the library's own types."""
    from tests.actors.vision.pictures import encoded

    plain = datasets.Dataset.from_dict({"id": [0, 1], "image": [encoded(some(seed)) for seed in range(2)]})
    (tmp_path / "plain").mkdir()
    plain.to_parquet(tmp_path / "plain" / "train.parquet")
    assert_holds(open_dataset(f"{tmp_path}/plain"), 2)


def test_of_several_columns_of_images_one_has_to_be_named(tmp_path: Path) -> None:
    """They are listed."""
    rows = {"before": [some(0)], "after": [some(1)]}
    features = datasets.Features({"before": datasets.Image(), "after": datasets.Image()})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "pairs")
    with pytest.raises(UsageError, match=r"several columns of images.*before, after"):
        open_dataset(f"{tmp_path}/pairs")
    assert_holds(open_dataset(f"hf:{tmp_path}/pairs:all:before"), 1)
