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
        f"{text(record.get('objective'))}, learning rate {_shown(record.get('learning_rate'))}. "
        f"The strongest images of {text(record.get('dataset'))} reach {reach}, and its mean is "
        f"{figure(number(record.get('mean')))}. Optimized images are unlike those that the network was "
        "trained on: they are hints, not evidence."
    )
    return MadePictures(
        "Feature visualizations", about, list(_pictures(record, gallery, "seed", "activation"))
    )


def _attributed(record: dict[str, Any], gallery: Gallery) -> MadePictures:
    output = text(record.get("output"))
    what = f"its effect on {output}" if output else "its value"
    method = text(record.get("method"))
    if method == "attention":
        about = "Where the unit's attention head looks, from the token at which the unit is largest, in red."
        return MadePictures("Attention", about, list(_pictures(record, gallery, "source", "value")))
    about = f"Where in an image {what} comes from, by {method}: red raises it, blue lowers it."
    return MadePictures("Attributions", about, list(_pictures(record, gallery, "source", "value")))


def _pictures(record: dict[str, Any], gallery: Gallery, named: str, value: str) -> Iterator[Picture]:
    stored = mapping(record.get("stored"))
    for image in map(mapping, sequence(record.get("images"))):
        caption = text(image.get(named)) or f"{named} {_shown(image.get(named))}"
        yield gallery.picture(
            stored.get(text(image.get("file"))), caption=caption, activation=number(image.get(value))
        )


def _shown(value: Any) -> str:
    return "unknown" if number(value) is None else f"{number(value):g}"
