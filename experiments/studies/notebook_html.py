"""What a notebook shows: images with their activations, units, answers and label cards as HTML.

All text is escaped, and images are small JPEGs inside the page: a notebook can be sent as it is.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any

import PIL.Image
from markupsafe import Markup

from actors.images import data_url
from agents.evidence.label_card import kind_of
from agents.evidence.verdict import HOLDING, MEANINGS, finding_of, reason_of, verdict_of
from experiments.report.figures import figures_of
from tools.sandbox.child.effects import Effects
from tools.sandbox.child.image_handle import ImageHandle

SHOWN = 60
"""Images of one list that are shown; the rest is counted."""
_SIDE = 160
_COLORS: dict[str, str] = {
    **dict.fromkeys(HOLDING, "#1a7f37"),
    **dict.fromkeys(("partial", "weak", "not confirmed"), "#9a6700"),
    "failed": "#b42318",
}
_PLAIN = "#57606a"


class Pictures(list[ImageHandle]):
    """Images in a list."""

    def _repr_html_(self) -> str:
        return gallery((image, "") for image in self)


class MeasuredImages(tuple[list[float], list[ImageHandle]]):
    """Activations and masked images, two lists as the tools return them."""

    def _repr_html_(self) -> str:
        activations, images = self
        return gallery(
            (image, f"{activation:.2f}") for activation, image in zip(activations, images, strict=True)
        )


class ShownExemplars(list[tuple[float, ImageHandle]]):
    """The data set's strongest images."""

    def _repr_html_(self) -> str:
        return gallery((image, f"{activation:.2f}") for activation, image in self)


class ShownEffects(Effects):
    """What an intervention did: the means, and each image with its figures."""

    @classmethod
    def of(cls, effects: Effects) -> ShownEffects:
        return cls(**{each.name: getattr(effects, each.name) for each in fields(effects)})

    def _repr_html_(self) -> str:
        shown = gallery((effect.image, repr(effect)) for effect in self.images)
        return Markup("<p>{}</p>{}").format(self.summary, Markup(shown))


class ObserverText(str):
    """Text of an observer, with its lines."""

    def _repr_html_(self) -> str:
        return Markup('<div style="white-space:pre-wrap;max-width:60em">{}</div>').format(str(self))


class LabelCard(dict[str, Any]):
    """A study's result. `text` is the same card for a terminal."""

    def __init__(self, record: dict[str, Any]) -> None:
        super().__init__(record)

    def __repr__(self) -> str:
        return f"<label card: {self.get('label') or self.get('status')}>"

    def _repr_html_(self) -> str:
        evidence, card = self.get("evidence") or {}, self.get("card") or {}
        rows: list[tuple[str, str]] = [
            ("verdict", f"{MEANINGS[verdict_of(self)]} {reason_of(evidence)}".strip())
        ]
        if kind_of(self):
            rows.append(("kind", f"{card['kind']}: {card['reason']}"))
        rows += [(figure.name, f"{figure.value} - {figure.meaning}") for figure in figures_of(evidence)]
        rows += [
            (name, str(self[key]))
            for name, key in (("rounds", "rounds"), ("images made", "images_made"), ("unit", "unit"))
            if key in self
        ]
        rows += [("warning", warning) for warning in card.get("warnings") or ()]
        return _card(
            self.get("label") or f"no label: {self.get('status')}",
            verdict_of(self),
            self.get("description") or "",
            rows,
        )


class Examined:
    """What came of an answer: `accepted`, or the objection, after which a person may continue."""

    def __init__(self, label: str, verdict: Any, record: LabelCard | None) -> None:
        self.label, self.verdict, self.record = label, verdict, record
        self.accepted = verdict is None or verdict.accepted

    def __repr__(self) -> str:
        settled = "the answer stands" if self.record is not None else "not yet"
        return f"<{self.label!r}: {'accepted' if self.accepted else 'sent back'}, {settled}>"

    def _repr_html_(self) -> str:
        if self.record is not None:
            return self.record._repr_html_()
        finding = finding_of(self.verdict.evidence) or "not confirmed"
        return _card(
            self.label, finding, self.verdict.objection, [("next", "experiment further and answer again")]
        )


def gallery(items: Iterable[tuple[Any, str]]) -> str:
    """Return images with a line under each; those after the first `SHOWN` are counted."""
    listed = list(items)
    figures = [_figure(image, caption) for image, caption in listed[:SHOWN]]
    if len(listed) > SHOWN:
        figures.append(Markup("<p>and {} more</p>").format(len(listed) - SHOWN))
    return Markup('<div style="display:flex;flex-wrap:wrap;gap:8px">{}</div>').format(
        Markup("").join(figures)
    )


def mixed(items: Iterable[Any]) -> str:
    """Return texts and images in their order, as `tools.display` was given them."""
    parts: list[Markup] = []
    for pictures, run in itertools.groupby(_flat(items), lambda item: isinstance(item, PIL.Image.Image)):
        if pictures:
            parts.append(Markup(gallery((image, "") for image in run)))
        else:
            words = "\n".join(str(item) for item in run)
            parts.append(Markup('<div style="white-space:pre-wrap">{}</div>').format(words))
    return Markup("").join(parts)


def _flat(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        if isinstance(item, list | tuple):
            yield from _flat(item)
        elif isinstance(item, dict):
            for key, value in item.items():
                yield f"{key}:"
                yield from _flat([value])
        else:
            yield item


def unit_card(name: str, rows: Iterable[tuple[str, str]]) -> str:
    """Return a unit with what is known of it."""
    return _card(name, "", "", list(rows))


def thumbnail(image: PIL.Image.Image) -> str:
    """Return a small JPEG of the image as a data URL."""
    picture = image.convert("RGB")
    picture.thumbnail((_SIDE, _SIDE), PIL.Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return data_url(buffer.getvalue(), "image/jpeg")


def _figure(image: PIL.Image.Image, caption: str) -> Markup:
    alt_text = f"image, activation {caption}" if caption else "image"
    return Markup(
        '<figure style="margin:0;text-align:center"><img src="{}" alt="{}" style="max-width:{}px">'
        '<figcaption style="font-variant-numeric:tabular-nums">{}</figcaption></figure>'
    ).format(thumbnail(image), alt_text, _SIDE, caption)


def _card(title: str, verdict: str, text: str, rows: Sequence[tuple[str, str]]) -> str:
    chip = Markup("")
    if verdict:
        chip = Markup(
            ' <span style="color:#fff;background:{};border-radius:1em;padding:0 .7em;font-size:80%">{}</span>'
        ).format(_COLORS.get(verdict, _PLAIN), verdict)
    table = Markup("").join(
        Markup('<tr><th style="text-align:left">{}</th><td style="text-align:left">{}</td></tr>').format(*row)
        for row in rows
    )
    return Markup(
        '<div style="border:1px solid rgba(128,128,128,.5);border-radius:8px;padding:.8em '
        '1em;max-width:50em">'
        '<div style="font-size:120%"><b>{}</b>{}</div>{}<table>{}</table></div>'
    ).format(
        title, chip, Markup('<p style="white-space:pre-wrap">{}</p>').format(text) if text else "", table
    )
