"""Labels of a data set: the class of each image, and attributes such as the place.

They come from class folders, tables with the images (`metadata.csv`, CelebA's lists) and columns of the
`datasets` library. Labels are names; `actors.vision.data.class_match` matches them with a network's classes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from actors.errors import UsageError
from actors.settings import Settings
from actors.vision.data.tables import Table, file_column, matched, no_column

_LABELS = (
    "label", "labels", "y", "class", "class_name", "class_label", "target", "category", "fine_label",
    "label_name",
)  # fmt: skip
_SPLITS = ("split", "partition", "subset", "fold")
_TRAINING = ("train", "training")
_SPLIT_FOLDERS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing"})
MOST_LEVELS = 20
"""Values of a column that is taken for an attribute without being asked for."""
MOST_ASKED_LEVELS = 100


class ColumnSettings(Settings):
    """Which columns of a data set say what; empty: those of a usual name."""

    image: str = ""
    """The column that names image files, or holds images."""
    label: str = ""
    """The column of classes; `folder1`, `folder2` are the folders that an image lies in, the outermost first.
    """
    attributes: tuple[str, ...] = ()
    """Columns to form subgroups by; empty takes every column of 2 to 20 values."""


@dataclass(frozen=True)
class Column:
    """A value per image: `values` int64 (n,) are indices into `levels`, -1 for an unknown value."""

    levels: tuple[str, ...]
    values: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[str | None], levels: Sequence[str] = ()) -> Column:
        """Return the column of these texts; without `levels`, those that occur, numbers in their order."""
        known = list(levels) or sorted({text for text in texts if text}, key=_order)
        place = {level: index for index, level in enumerate(known)}
        return cls(tuple(known), np.array([place.get(text or "", -1) for text in texts], np.int64))

    def take(self, indices: np.ndarray) -> Column:
        return Column(self.levels, self.values[indices])

    def counts(self) -> dict[str, int]:
        """Return the number of images by level."""
        return {level: int((self.values == index).sum()) for index, level in enumerate(self.levels)}


@dataclass(frozen=True)
class Labels:
    """The class of each image and its attributes; `source` names the column or folders of the classes.

    `split` is the column that divides the data set into training and test, None if there is none.
    """

    label: Column
    attributes: Mapping[str, Column]
    source: str
    split: Column | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.label.levels

    def take(self, indices: np.ndarray) -> Labels:
        """Return the labels of some images."""
        split = None if self.split is None else self.split.take(indices)
        attributes = {name: column.take(indices) for name, column in self.attributes.items()}
        return Labels(self.label.take(indices), attributes, self.source, split)

    def training(self) -> np.ndarray:
        """Return which images are of the training split, bool (n,)."""
        if self.split is None:
            return np.zeros(len(self.label.values), bool)
        # WILDS and CelebA write 0, 1, 2 for training, validation, test.
        numbered = set(self.split.levels) <= {"0", "1", "2"}
        wanted = ("0",) if numbered else _TRAINING
        chosen = [index for index, level in enumerate(self.split.levels) if level.lower() in wanted]
        return np.isin(self.split.values, chosen)


@runtime_checkable
class LabeledDataset(Protocol):
    """A data set with labels."""

    def labels(self, columns: ColumnSettings) -> Labels:
        """Return the labels.

        Raises:
            UsageError: If it has none, or no such column; those that are there are named.
        """


def labels_of(dataset: Any, columns: ColumnSettings) -> Labels:
    """Return a data set's labels; raises as `LabeledDataset.labels`."""
    if not isinstance(dataset, LabeledDataset):
        raise UsageError(f"the data set {dataset.name!r} has no labels.", HOW)
    return dataset.labels(columns)


HOW = (
    "Give class folders, a table with a column of files (metadata.csv), or a data set with a column of "
    "classes (docs/data.md)."
)


def from_files(name: str, images: Sequence[str], tables: Sequence[Table], columns: ColumnSettings) -> Labels:
    """Return the labels of image files, given by their paths in the data set's folder, and of its tables.

    Raises:
        UsageError: As `LabeledDataset.labels`.
    """
    texts: dict[str, list[str | None]] = {}
    sources: dict[str, str] = {}
    files = []
    for table in tables:
        if (column := file_column(table.columns, columns.image)) is None:
            continue
        rows = matched(images, table, column)
        if not any(rows):
            continue
        files.append(column)
        for column_name in table.columns:
            sources.setdefault(column_name, table.name)
            known = texts.setdefault(column_name, [None] * len(images))
            for index, row in enumerate(rows):
                if row is not None and known[index] is None:
                    known[index] = row.get(column_name)
    if columns.image and not files:
        there = dict.fromkeys(column for table in tables for column in table.columns)
        raise no_column(f"no table of {name!r}", columns.image, there, "--image-column")
    for column, values in _folders(images).items():
        texts.setdefault(column, values)
        sources.setdefault(column, "folders")
    return from_columns(name, texts, columns, sources=sources, files=files)


def from_columns(
    name: str,
    texts: Mapping[str, Sequence[str | None]],
    columns: ColumnSettings,
    *,
    sources: Mapping[str, str] | None = None,
    files: Sequence[str] = (),
    levels: Mapping[str, Sequence[str]] | None = None,
) -> Labels:
    """Return labels from columns of text, one value an image; None is nothing.

    `sources` says where a column was found, `files` are columns that name files, `levels` the known values of
    a column.

    Raises:
        UsageError: As `LabeledDataset.labels`.
    """
    known, there = levels or {}, [column for column in texts if column not in files]
    for asked, option in (
        (columns.label, "--label-column"),
        *((a, "--attributes") for a in columns.attributes),
    ):
        if asked and asked not in there:
            raise no_column(f"the data set {name!r}", asked, there, option)
    if not (label := columns.label or _label_column(there)):
        raise UsageError(
            f"no column of the data set {name!r} is known to hold classes.",
            f"It has {', '.join(there)}: name one with --label-column." if there else HOW,
        )
    split = next((column for column in there if column.lower() in _SPLITS and column != label), None)
    parts = None if split is None else Column.of(texts[split], known.get(split, ()))
    if parts and split and split.lower() == "fold" and all(level.isdigit() for level in parts.levels):
        parts = None  # the folds of a cross-validation: none of them is the training set
    attributes = {}
    for column in columns.attributes or [column for column in there if column not in (label, split)]:
        values = Column.of(texts[column], known.get(column, ()))
        if columns.attributes and len(values.levels) > MOST_ASKED_LEVELS:
            raise UsageError(
                f"the column {column!r} of {name!r} has {len(values.levels):,} values; "
                f"an attribute has at most {MOST_ASKED_LEVELS}.",
                "Name columns that divide the images into groups.",
            )
        # A column that names every image differently divides nothing.
        dividing = 2 <= len(values.levels) <= min(MOST_LEVELS, int((values.values >= 0).sum()) - 1)
        if columns.attributes or dividing:
            attributes[column] = values
    source = (sources or {}).get(label, "")
    origin = f"column {label!r}" + (f" of {source}" if source else "")
    return Labels(
        Column.of(texts[label], known.get(label, ())),
        attributes,
        "class folders" if source == "folders" else origin,
        parts,
    )


def _label_column(columns: Sequence[str]) -> str:
    """Return the column of a usual name, else the outermost folder, "" if there is neither."""
    by_name = {column.lower(): column for column in reversed(columns)}
    return next((by_name[name] for name in (*_LABELS, "folder1") if name in by_name), "")


def _folders(images: Sequence[str]) -> dict[str, list[str | None]]:
    """Return the folders of images as columns: `folder1` the outermost, without those of splits, of tars and
    of all images.
    """
    columns: dict[str, list[str | None]] = {}
    own = [[part for part in image.split("/")[:-1] if not part.endswith(".tar")] for image in images]
    named = [[part for part in parts if part.lower() not in _SPLIT_FOLDERS] for parts in own]
    # What all images lie in divides nothing, unless there is nothing else.
    shared = len(os.path.commonprefix(named))  # noqa: RUF071 (it compares the parts of lists, too)
    shared = shared if any(len(parts) > shared for parts in named) else 0
    for index, parts in enumerate(own):
        splits = [part for part in parts if part.lower() in _SPLIT_FOLDERS]
        for number, part in enumerate(named[index][shared:], 1):
            columns.setdefault(f"folder{number}", [None] * len(images))[index] = part
        if splits:
            columns.setdefault("split", [None] * len(images))[index] = splits[0].lower()
    return columns


def _order(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text
