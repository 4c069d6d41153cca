"""What an experiment hands to the report: a page of words, tables, plots and images, as plain JSON values.

An experiment builds a `Page` and saves it as `experiments/<name>.json` of its run directory, on its own or
under the key "page" beside its raw results. The report renders every such file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from agents.records.store import Store
from experiments.report import pages


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Estimate(_Part):
    """A number with its interval, both ends or neither."""

    value: FiniteFloat
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Estimate:
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval needs both of its ends")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(
                f"an interval's low end must not exceed its high end, got {self.low} to {self.high}"
            )
        return self

    @classmethod
    def of(cls, value: float, interval: Sequence[float]) -> Estimate:
        """Return a number with its interval, which resampling and rounding may put a hair beside it."""
        low, high = interval
        return cls(value=value, low=min(low, value), high=max(high, value))


class TableColumn(_Part):
    """`source`: whose numbers these are, so that the paper's and ours are distinguished at a glance."""

    name: str
    digits: int = Field(2, ge=0, le=10)
    """Decimals of its numbers."""
    source: Literal["", "paper", "ours"] = ""


Cell = Estimate | str | int | FiniteFloat | None
"""None is a value that was not measured, and is shown as a dash."""


def columns(*names: str, digits: int = 2, source: Literal["", "paper", "ours"] = "") -> list[TableColumn]:
    """Return columns of one kind, in order."""
    return [TableColumn(name=name, digits=digits, source=source) for name in names]


class Text(_Part):
    """Words: a heading, paragraphs, or both."""

    kind: Literal["text"] = "text"
    title: str = ""
    paragraphs: tuple[str, ...] = ()
    notice: str = ""
    """What must not be overlooked: which models stood in for others."""


class DataTable(_Part):
    kind: Literal["table"] = "table"
    title: str = ""
    columns: tuple[TableColumn, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    @model_validator(mode="after")
    def _rectangular(self) -> DataTable:
        for number, row in enumerate(self.rows, 1):
            if len(row) != len(self.columns):
                raise ValueError(f"row {number} has {len(row)} cells for {len(self.columns)} columns")
        return self


class Bar(Estimate):
    """`name` is the row it stands in, `series` its color: bars of one name stand together."""

    name: str
    series: str = ""


class Bars(_Part):
    """Values with intervals, one row a name: means by method, probabilities by context."""

    kind: Literal["bars"] = "bars"
    title: str = ""
    axis: str = ""
    bars: tuple[Bar, ...]
    note: str = ""
    palette: tuple[str, ...] = ()
    """Series that keep their colors from plot to plot, whether or not a plot has them; [] is in order of
    appearance.
    """
    reference: FiniteFloat | None = None
    """A value that is drawn as a line across all bars."""
    reference_name: str = ""


class Point(_Part):
    """`low` and `high` are the interval of `y`."""

    x: FiniteFloat
    y: FiniteFloat
    name: str = ""
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None


class Series(_Part):
    name: str
    points: tuple[Point, ...]


class ScatterPlot(_Part):
    """`diagonal` draws y = x, where both axes measure the same."""

    kind: Literal["scatter"] = "scatter"
    title: str = ""
    x: str
    y: str
    series: tuple[Series, ...]
    diagonal: bool = False
    note: str = ""


class Lines(_Part):
    """Points joined in order of x, their intervals as a band."""

    kind: Literal["lines"] = "lines"
    title: str = ""
    x: str
    y: str
    series: tuple[Series, ...]
    note: str = ""


class CaptionedImage(_Part):
    """A stored image by its content id."""

    image: str
    caption: str = ""
    activation: FiniteFloat | None = None


class ImageGrid(_Part):
    """Images side by side: worst examples, exemplars of several methods."""

    kind: Literal["figures"] = "figures"
    title: str = ""
    figures: tuple[CaptionedImage, ...]
    note: str = ""


class ContrastSide(_Part):
    """One side of a contrast: what it is, its mean, and images of it."""

    name: str
    mean: Estimate
    images: tuple[CaptionedImage, ...] = ()


class FindingCheck(_Part):
    """Whether something else bears a finding out; None: it could not tell."""

    name: str
    words: str
    holds: bool | None = None


class Contrast(_Part):
    """A finding: the difference of two sides, images of both beside each other, and what bears it out."""

    kind: Literal["contrast"] = "contrast"
    title: str = ""
    difference: Estimate
    sides: tuple[ContrastSide, ContrastSide]
    checks: tuple[FindingCheck, ...] = ()
    note: str = ""


Block = Annotated[
    Text | Contrast | DataTable | Bars | ScatterPlot | Lines | ImageGrid, Field(discriminator="kind")
]


class Page(_Part):
    """One experiment's or one audit's page; `blocks` in reading order."""

    title: str = Field(min_length=1)
    summary: str = ""
    """The result in one or two sentences."""
    blocks: tuple[Block, ...] = ()

    def save(self, run_dir: Path, name: str) -> Path:
        """Write the page to `experiments/<name>.json` of a run and return its path."""
        key = f"experiments/{name}.json"
        pages.write(Store(run_dir), key, self.model_dump_json(indent=1))
        return run_dir / key
