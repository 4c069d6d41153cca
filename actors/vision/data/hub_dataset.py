"""Images of a data set of the `datasets` library: of the Hugging Face hub, or a local folder in one of its
formats.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from actors.errors import UsageError
from actors.hub import require
from actors.images import (
    LOADED_SIDE,
    Image,
    ImageDecodeError,
    Preview,
    Provenance,
    decode,
    decode_pixels,
    preview,
)
from actors.vision.data.labels import ColumnSettings, Labels, from_columns

_SPELLING = "hf:ID[/CONFIG][:SPLIT[:COLUMN]]"
_USUAL_SPLIT = "validation"
_USUAL_COLUMNS = ("image", "img", "jpg", "png", "webp", "pixel_values")


def is_saved(folder: Path) -> bool:
    """Return whether `save_to_disk` wrote the folder."""
    return any(os.path.isfile(folder / name) for name in ("dataset_dict.json", "state.json"))  # noqa: PTH113


def has_tables(folder: Path) -> bool:
    """Return whether there are files of Parquet or Arrow below a folder."""
    return any(next(folder.rglob(f"*.{kind}"), None) is not None for kind in ("parquet", "arrow"))


@dataclass
class HubDataset:
    """A split of a data set of the `datasets` library.

    `path` is a hub id or a folder: one that `save_to_disk` wrote, or any that `load_dataset` reads (Parquet,
    Arrow, image folders, WebDataset). Without a `split` it is `validation`, or the only one; without a
    `column`, the one of images.
    """

    path: str
    split: str = ""
    column: str = ""
    config: str | None = None
    revision: str | None = None
    name: str = field(init=False)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        """Find the data set, its split and its column.

        Raises:
            MissingDependencyError: If `datasets` is not installed.
            UsageError: If there is no such data set, or what is meant is not clear.
        """
        require("a data set of the datasets library", "datasets", install='pip install "maia[datasets]"')
        self.split = self.split or self._only_split()
        self.name = f"{self.path}{f'/{self.config}' if self.config else ''}:{self.split}"
        self.column = self.column or _image_column(self.name, self._table)
        if self.column not in self._table.column_names:
            raise UsageError(
                f"{self.name} has no column {self.column!r}.",
                f"It has {', '.join(self._table.column_names)}.",
            )
        self.fingerprint = hashlib.blake2b(self._table._fingerprint.encode(), digest_size=12).hexdigest()

    @classmethod
    def named(cls, text: str, image_column: str = "") -> HubDataset:
        """Return the data set ID[/CONFIG][:SPLIT[:COLUMN]]; of a folder, what follows its path is the
        configuration.

        `image_column` is the column where the text names none.

        Raises:
            UsageError: As the constructor does.
        """
        path, *rest = text.split(":")
        if len(rest) > 2:
            raise UsageError(f"write {_SPELLING}, got 'hf:{text}'")
        config: str | None = None
        folder = Path(path).expanduser()
        if not folder.exists():
            before, _, last = path.rpartition("/")
            if before and (before.count("/") == 1 or Path(before).expanduser().is_dir()):
                path, config = before, last
        if Path(path).expanduser().is_dir():
            path = str(Path(path).expanduser().resolve())
        split, column = (*rest, "", "")[:2]
        return cls(path, split, column or image_column, config)

    def _only_split(self) -> str:
        """Return the split that is meant where none is named."""
        import datasets

        if is_saved(Path(self.path)):
            loaded = self._asked(lambda: datasets.load_from_disk(self.path))
            splits = list(loaded) if isinstance(loaded, datasets.DatasetDict) else ["all"]
        else:
            splits = self._asked(
                lambda: datasets.get_dataset_split_names(self.path, self.config, revision=self.revision)
            )
        if _USUAL_SPLIT in splits or len(splits) == 1:
            return _USUAL_SPLIT if _USUAL_SPLIT in splits else splits[0]
        written = f"hf:{self.path}{f'/{self.config}' if self.config else ''}"
        raise UsageError(
            f"{written} has the splits {', '.join(splits)}.",
            f"Name the one to use, such as {written}:{splits[-1]}.",
        )

    @cached_property
    def _table(self) -> Any:
        """The rows as the library gives them."""
        import datasets

        if not is_saved(Path(self.path)):
            return self._asked(
                lambda: datasets.load_dataset(
                    self.path, self.config, split=self.split, revision=self.revision
                )
            )
        loaded = self._asked(lambda: datasets.load_from_disk(self.path))
        if not isinstance(loaded, datasets.DatasetDict):
            return loaded
        if self.split not in loaded:
            raise UsageError(f"{self.path} has no split {self.split!r}.", f"It has {', '.join(loaded)}.")
        return loaded[self.split]

    @cached_property
    def _rows(self) -> Any:
        """The column of images, encoded."""
        import datasets

        try:
            return self._table.select_columns(self.column).cast_column(
                self.column, datasets.Image(decode=False)
            )
        except Exception as error:  # pyarrow raises a dozen kinds
            raise UsageError(
                f"the column {self.column!r} of {self.name} holds no images: "
                f"{type(error).__name__}: {str(error)[:200]}",
                f"Name another as {_SPELLING}. It has {', '.join(self._table.column_names)}.",
            ) from error

    def _asked(self, what: Callable[[], Any]) -> Any:
        """Return what the library's call returns; its errors become a UsageError with what to do."""
        try:
            return what()
        except Exception as error:  # a dozen kinds: unknown id, split, format, no network
            split = f" (split {self.split!r})" if self.split else ""
            raise UsageError(
                f"the data set {self.path!r}{split} cannot be loaded: "
                f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
                self._fix(str(error)),
            ) from error

    def _fix(self, why: str) -> str:
        import datasets

        if self.config and Path(self.path).is_dir():
            return f"There is no folder {self.path}/{self.config} either."
        if "onfig" in why:
            with contextlib.suppress(Exception):  # the hub may be out of reach
                names: Sequence[str] = datasets.get_dataset_config_names(self.path, revision=self.revision)
                return f"Its configurations: {', '.join(names)}. Write one as hf:{self.path}/{names[0]}."
        return f"Write {_SPELLING}, or a folder's path in place of ID."

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name not in ("_rows", "_table")}

    def __len__(self) -> int:
        return len(self._table)

    def load(self, index: int) -> Image:
        return decode(self._encoded(index), LOADED_SIDE)

    def pixels(self, index: int) -> np.ndarray:
        return decode_pixels(self._encoded(index), LOADED_SIDE)

    def preview(self, index: int) -> Preview:
        return preview(self._encoded(index))

    def _encoded(self, index: int) -> bytes:
        value = self._rows[index][self.column]
        if not value or not (value.get("bytes") or value.get("path")):
            raise ImageDecodeError(f"row {index} of {self.name} has no image")
        try:
            return value.get("bytes") or Path(value["path"]).read_bytes()
        except OSError as error:
            raise ImageDecodeError(f"row {index} of {self.name}: {error}") from error

    def provenance(self, index: int) -> Provenance:
        return Provenance("dataset", maker=self.name, recipe={"row": index})

    def labels(self, columns: ColumnSettings) -> Labels:
        """Return the class and the attributes of each row: a column of classes, and others of few values.

        Raises:
            UsageError: If there is no such column, or none of classes.
        """
        import datasets

        features = self._table.features
        scalar = [
            name
            for name, feature in features.items()
            if isinstance(feature, datasets.ClassLabel | datasets.Value)
        ]
        levels = {
            name: features[name].names for name in scalar if isinstance(features[name], datasets.ClassLabel)
        }
        texts = ScalarColumns(self._table.with_format(None), scalar, levels)
        label = columns.label or (next(iter(levels)) if len(levels) == 1 else "")
        return from_columns(self.name, texts, columns.model_copy(update={"label": label}), levels=levels)


class ScalarColumns(Mapping[str, Sequence[str | None]]):
    """The scalar columns of a table as text. A column is read when it is asked for."""

    def __init__(self, table: Any, names: Sequence[str], levels: Mapping[str, Sequence[str]]) -> None:
        self._table, self._names, self._levels = table, names, levels

    def __getitem__(self, name: str) -> list[str | None]:
        return [_level(value, self._levels.get(name)) for value in self._table.select_columns([name])[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _level(value: Any, names: Sequence[str] | None) -> str | None:
    """Return a value as text, that of a column of classes by its name; -1 is none of them."""
    if value is None or (names is not None and not 0 <= value < len(names)):
        return None
    return str(value) if names is None else names[value]


def _image_column(name: str, table: Any) -> str:
    """Return the column of images: the only one of that type, else one of a usual name."""
    import datasets

    typed = [column for column, feature in table.features.items() if isinstance(feature, datasets.Image)]
    if len(typed) == 1:
        return typed[0]
    for column in _USUAL_COLUMNS:
        if column in (typed or table.column_names):
            return column
    raise UsageError(
        f"{name} has {'no column' if not typed else 'several columns'} of images.",
        f"Name one as {_SPELLING}. It has {', '.join(typed or table.column_names)}.",
    )
