"""Pictures that `maia visualize` and `maia attribute` made of a unit, as its page shows them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from agents.records.run_files import RecordError
from experiments.report.gallery import Gallery, Picture
from experiments.report.pages import figure
from experiments.report.records import RunDirectory, mapping, number, sequence, text


@dataclass(frozen=True, slots=True)
class MadePictures:
    """Pictures of one command: what it is called, what its settings and figures are, and the pictures."""

    title: str
    about: str
    pictures: list[Picture]


def made_pictures(run: RunDirectory, folder: str, gallery: Gallery) -> Iterator[MadePictures]:
    """Yield the pictures that a run keeps of the unit in a folder; a record that is damaged is left out."""
    for key in sorted(run.store.keys(f"units/{folder}/pictures")):
        try:
            record = mapping(run.store.read(key))
        except (OSError, RecordError):
            continue
        if sequence(record.get("images")):
            yield _visualized(record, gallery) if "objective" in record else _attributed(record, gallery)


def _visualized(record: dict[str, Any], gallery: Gallery) -> MadePictures:
    known = [value for each in sequence(record.get("exemplars")) if (value := number(each)) is not None]
    reach = f"between {min(known):.2f} and {max(known):.2f}" if known else "values that are not on record"
    about = (
        f"An optimizer made these in {_shown(record.get('steps'))} steps, objective "
        f"{text(record.get('objective'))}, learning rate {_shown(record.get('learning_rate'))}. Numbers are "
        f"activations. The strongest images of {text(record.get('dataset'))} reach {reach}, and its mean is "
        f"{figure(number(record.get('mean')))}. Optimized images are unlike those that the network was "
        "trained on: they are hints, not evidence."
    )
    shown = list(_pictures(record, gallery, "seed", "activation"))
    return MadePictures("Feature visualizations", about, shown)


def _attributed(record: dict[str, Any], gallery: Gallery) -> MadePictures:
    output, method = text(record.get("output")), text(record.get("method"))
    shown = list(_pictures(record, gallery, "source", "value"))
    if method == "attention":
        about = "From the token at which the unit is largest, in red. Numbers are activations."
        return MadePictures("Where its head looks", about, shown)
    title = f"Where it acts on {output}" if output else "Where its value comes from"
    numbers = f"values of {output}" if output else "activations"
    return MadePictures(title, f"By {method}: red raises it, blue lowers it. Numbers are {numbers}.", shown)


def _pictures(record: dict[str, Any], gallery: Gallery, named: str, value: str) -> Iterator[Picture]:
    stored = mapping(record.get("stored"))
    for image in map(mapping, sequence(record.get("images"))):
        caption = text(image.get(named)) or f"{named} {_shown(image.get(named))}"
        yield gallery.picture(
            stored.get(text(image.get("file"))), caption=caption, activation=number(image.get(value))
        )


def _shown(value: Any) -> str:
    return "unknown" if number(value) is None else f"{number(value):g}"
