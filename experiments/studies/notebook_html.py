"""What a notebook shows: images with their activations and prompts, units, answers and label cards as HTML.

All text is escaped, and images are small JPEGs inside the page: a notebook can be sent as it is.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import PIL.Image
from markupsafe import Markup

from actors.images import data_url
from agents.evidence.verdict import HOLDING, MEANINGS, TESTED, reason_of, verdict_of
from agents.records.label_card import kind_of
from experiments.records.headline import headline
from experiments.report.figures import figures_of
from tools.album import Album
from tools.sandbox.child.effects import Effects
from tools.sandbox.child.image_handle import ImageHandle

SHOWN = 60
"""Images of one list that are shown; the rest is counted."""
_SIDE = 160
_COLORS: dict[str, str] = {
    **dict.fromkeys(TESTED, "#9a6700"),
    **dict.fromkeys(HOLDING, "#1a7f37"),
    "failed": "#b42318",
}
_PLAIN = "#57606a"
_FIGURES = 3
"""Figures of a result that a terminal shows."""
_NEXT = "Experiment further, and answer again."


@dataclass(frozen=True, slots=True)
class CaptionedPicture:
    """An image with its activation, what was asked for, and, of an edited one, the image before."""

    image: PIL.Image.Image
    value: str = ""
    words: str = ""
    before: CaptionedPicture | None = None


class Origins:
    """How the images of a study came about, by their content ids."""

    def __init__(self, album: Callable[[], Album]) -> None:
        self._album = album

    def shown(self, images: Sequence[Any], values: Sequence[str] = ()) -> list[CaptionedPicture]:
        """Return images with their prompts; an edited one has the image before beside it, and its value where
        that is among them.
        """
        values = values or [""] * len(images)
        own = [self._unmasked(image) for image in images]
        known = {name: place for place, name in enumerate(own) if name}
        found = []
        for image, value, name in zip(images, values, own, strict=True):
            origin = self._album().provenance.get(name)
            words = "" if origin is None else origin.edits[-1] if origin.edits else origin.prompt
            before = None
            if origin is not None and origin.source == "edited":
                if (place := known.get(origin.parent)) is not None:
                    before = CaptionedPicture(images[place], values[place])
                elif (parent := self._album().find(origin.parent)) is not None:
                    before = CaptionedPicture(parent.to_pil())
            found.append(CaptionedPicture(image, value, words, before))
        return found

    def _unmasked(self, image: Any) -> str:
        name = getattr(image, "id", None) or ""
        origin = self._album().provenance.get(name)
        return origin.parent if origin is not None and origin.source == "masked" else name


class _Viewed:
    """What a tool returned, with a way to look at it. `pictures` are the images that are shown."""

    origins: Origins | None = None

    def seen_by(self, origins: Origins | None) -> Self:
        """Let the images be shown with how they came about."""
        self.origins = origins
        return self

    def pictures(self) -> list[CaptionedPicture]:
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return gallery(self.pictures())

    def _shown(self, images: Sequence[Any], values: Sequence[str] = ()) -> list[CaptionedPicture]:
        if self.origins is not None:
            return self.origins.shown(images, values)
        return [
            CaptionedPicture(image, value)
            for image, value in zip(images, values or [""] * len(images), strict=True)
        ]


class Pictures(_Viewed, list[ImageHandle]):
    """Images in a list."""

    def pictures(self) -> list[CaptionedPicture]:
        return self._shown(self)


class MeasuredImages(_Viewed, tuple[list[float], list[ImageHandle]]):
    """Activations and masked images, two lists as the tools return them."""

    def pictures(self) -> list[CaptionedPicture]:
        activations, images = self
        return self._shown(images, [f"{activation:.2f}" for activation in activations])


class ShownExemplars(_Viewed, list[tuple[float, ImageHandle]]):
    """The data set's strongest images."""

    def pictures(self) -> list[CaptionedPicture]:
        return [CaptionedPicture(image, f"{activation:.2f}") for activation, image in self]


class ChosenExemplars(_Viewed, list[tuple[float, ImageHandle, str]]):
    """Images of the data set, each with why it was chosen."""

    def pictures(self) -> list[CaptionedPicture]:
        return [CaptionedPicture(image, f"{activation:.2f}", why) for activation, image, why in self]


class ShownEffects(_Viewed, Effects):
    """What an intervention did: the means, and each image with its figures."""

    @classmethod
    def of(cls, effects: Effects) -> ShownEffects:
        return cls(**{each.name: getattr(effects, each.name) for each in fields(effects)})

    def pictures(self) -> list[CaptionedPicture]:
        return [CaptionedPicture(effect.image, "", repr(effect)) for effect in self.images]

    def _repr_html_(self) -> str:
        return Markup("<p>{}</p>{}").format(self.summary, Markup(gallery(self.pictures())))


class ObserverText(str):
    """Text of an observer, with its lines."""

    def _repr_html_(self) -> str:
        return Markup('<div style="white-space:pre-wrap;max-width:60em">{}</div>').format(str(self))


class LabelCard(dict[str, Any]):
    """A study's result. `text` is the same card for a terminal."""

    def __init__(self, record: dict[str, Any]) -> None:
        super().__init__(record)

    def __repr__(self) -> str:
        lines = [f"{headline(self) or 'no label'}: {verdict_of(self)}. {MEANINGS[verdict_of(self)]}"]
        if reason := reason_of(self.get("evidence") or {}):
            lines.append(reason)
        figures = figures_of(self.get("evidence"))[:_FIGURES]
        return "\n".join([*lines, *(f"  {each.name}: {each.value} - {each.meaning}" for each in figures)])

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
            headline(self) or f"no label: {self.get('status')}",
            verdict_of(self),
            self.get("description") or "",
            rows,
        )


class Examined:
    """What came of an answer: `accepted`, or the objection, after which a person may continue."""

    def __init__(
        self, label: str, verdict: Any, record: LabelCard | None, images: Sequence[PIL.Image.Image] = ()
    ) -> None:
        self.label, self.verdict, self.record, self.images = label, verdict, record, images
        self.accepted = verdict is None or verdict.accepted

    def pictures(self) -> list[CaptionedPicture]:
        """Return the images that the objection speaks of."""
        return [] if self.record is not None else [CaptionedPicture(image) for image in self.images]

    def _finding(self) -> str:
        return self.verdict.evidence.verdict or "not confirmed"

    def __repr__(self) -> str:
        if self.record is not None:
            return repr(self.record)
        return f"{self.label}: sent back, {self._finding()} so far.\n{self.verdict.objection}\n{_NEXT}"

    def _repr_html_(self) -> str:
        if self.record is not None:
            return self.record._repr_html_()
        card = _card(self.label, self._finding(), self.verdict.objection, [("sent back", _NEXT)])
        return card + gallery(self.pictures())


class ReportPage(type(Path())):  # type: ignore[misc]
    """The path of a page; a notebook shows it as a link."""

    def _repr_html_(self) -> str:
        return Markup('<a href="{}" target="_blank">{}</a>').format(self.as_posix(), self.name)


def gallery(items: Iterable[CaptionedPicture]) -> str:
    """Return images with their words under each; those after the first `SHOWN` are counted."""
    listed = list(items)
    figures = [_figure(shown) for shown in listed[:SHOWN]]
    if len(listed) > SHOWN:
        figures.append(Markup("<p>and {} more</p>").format(len(listed) - SHOWN))
    return Markup('<div style="display:flex;flex-wrap:wrap;gap:8px">{}</div>').format(
        Markup("").join(figures)
    )


def mixed(items: Iterable[Any], origins: Origins) -> str:
    """Return texts and images in their order, as `tools.display` was given them."""
    parts: list[Markup] = []
    for pictures, run in itertools.groupby(flat(items), lambda item: isinstance(item, PIL.Image.Image)):
        if pictures:
            parts.append(Markup(gallery(origins.shown(list(run)))))
        else:
            words = "\n".join(str(item) for item in run)
            parts.append(Markup('<div style="white-space:pre-wrap">{}</div>').format(words))
    return Markup("").join(parts)


def flat(items: Iterable[Any]) -> Iterator[Any]:
    """Yield what lists and dicts hold, item by item, in order."""
    for item in items:
        if isinstance(item, list | tuple):
            yield from flat(item)
        elif isinstance(item, dict):
            for key, value in item.items():
                yield f"{key}:"
                yield from flat([value])
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


def _figure(shown: CaptionedPicture) -> Markup:
    if shown.before is None:
        return _one(shown)
    row = Markup('<div style="display:flex;align-items:center;gap:4px">{}→{}</div>').format(
        _one(shown.before), _one(replace(shown, words=""))
    )
    return Markup('<figure style="margin:0;text-align:center">{}{}</figure>').format(row, _words(shown))


def _one(shown: CaptionedPicture) -> Markup:
    alt_text = f"image, activation {shown.value}" if shown.value else "image"
    return Markup(
        '<figure style="margin:0;text-align:center;max-width:{0}px"><img src="{1}" alt="{2}" '
        'style="max-width:{0}px"><figcaption><b style="font-variant-numeric:tabular-nums">{3}</b>{4}'
        "</figcaption></figure>"
    ).format(_SIDE, thumbnail(shown.image), alt_text, shown.value, _words(shown))


def _words(shown: CaptionedPicture) -> Markup:
    return Markup('<div style="font-size:85%">{}</div>').format(shown.words) if shown.words else Markup("")


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
