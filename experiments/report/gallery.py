"""Images of a study as figures: what each shows, where it came from, and how strongly it drove the unit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from experiments.report.records import mapping, number, sequence, text
from tools.sandbox.child.wire import IMAGE

_LOGGED = re.compile(r"(?P<title>.*): (?P<logged>activation )?(?P<value>[-+]?\d[\d.e+-]*)$", re.DOTALL)
_CAPTION_LIMIT = 200
_ROUNDED = 0.005 + 1e-9
"""Programs are shown two decimals, so that a number within half of the last one is the measured one."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One image of a page: `masks` are laid over what is at `href`.

    `plain` is the same image without its mask, if what is at `href` has it painted on. `href` is None if the
    image is not in the store. `note` is what was said of it. `activation` was measured; `reported` is what a
    program said it was, where that was not measured or is not the same.
    """

    href: str | None
    alt: str
    caption: str = ""
    activation: float | None = None
    reported: float | None = None
    note: str = ""
    plain: str | None = None
    masks: tuple[str, ...] = ()
    anchor: str = ""
    prompted: bool = False
    """Whether the caption is the prompt that the image was made from."""
    story: str = ""
    """How it came about."""


@dataclass(frozen=True, slots=True)
class ObservationBlock:
    """A stretch of an observation: words, or pictures that follow each other."""

    words: str = ""
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True, slots=True)
class StimulusEdit:
    """One causal test: the image before and after an instruction."""

    instruction: str
    before: Picture
    after: Picture

    @property
    def change(self) -> float | None:
        if self.before.activation is None or self.after.activation is None:
            return None
        return self.after.activation - self.before.activation


@dataclass(frozen=True, slots=True)
class StimulusIntervention:
    """One intervention: `about` says what was done, `mean` what came of it in the mean over `pictures`."""

    about: str
    mean: str
    pictures: tuple[Picture, ...]


class Gallery:
    """Knows every image of a study by id, from the records of its rounds: how it came about, how it was
    measured.

    `locate` returns the addresses of a stored image's layers as seen from the page, none if it is missing.
    """

    def __init__(self, rounds: Iterable[dict[str, Any]], locate: Callable[[Any], Sequence[str]]) -> None:
        self._locate = locate
        self._origin: dict[str, dict[str, Any]] = {}
        self._activation: dict[str, float] = {}
        self._reported: dict[str, float] = {}
        for record in rounds:
            snapshot = mapping(record.get("toolbox"))
            for image_id, origin in mapping(snapshot.get("provenance")).items():
                if image_id not in self._origin:
                    self._origin[image_id] = _origin(origin)
            for image_id, activation in measured(record.get("sandbox")):
                self._keep(self._activation, image_id, activation)
            for entry in logged(snapshot):
                self._keep(self._reported, entry.get("image"), entry.get("activation"))

    def _keep(self, known: dict[str, float], image_id: Any, activation: Any) -> None:
        """Keep an activation; what is known of a masked image holds for the image under the mask."""
        value = number(activation)
        if value is None or not isinstance(image_id, str):
            return
        known.setdefault(image_id, value)
        origin = self._origin.get(image_id, {})
        if origin.get("source") == "masked" and isinstance(origin.get("parent"), str):
            known.setdefault(origin["parent"], value)

    def picture(
        self,
        image_id: Any,
        *,
        caption: str = "",
        activation: float | None = None,
        reported: float | None = None,
        note: str = "",
        under: Any = None,
    ) -> Picture:
        """Return the figure of an image. `under` is the image under the mask, if the caller knows it.

        `activation` is a measured one that the caller knows; `reported` is what a program said.
        """
        origin = self._origin.get(image_id, {}) if isinstance(image_id, str) else {}
        parent = (
            under if under is not None else origin.get("parent") if origin.get("source") == "masked" else None
        )
        if isinstance(image_id, str):
            activation = self._activation.get(image_id) if activation is None else activation
            reported = self._reported.get(image_id) if reported is None else reported
        if reported is not None and activation is not None and abs(reported - activation) <= _ROUNDED:
            reported = None
        layers = self._locate(image_id)
        alt = caption or self.story(image_id)
        if activation is not None:
            alt = f"{alt}; activation {activation:.2f}"
        if reported is not None:
            alt = f"{alt}; {reported:.2f} reported by the program"
        plain = self._locate(parent) if parent is not None and len(layers) == 1 else ()
        return Picture(
            layers[0] if layers else None,
            alt,
            caption,
            activation,
            reported,
            note,
            plain[0] if plain else None,
            tuple(layers[1:]),
            prompted=bool(caption) and caption == text(origin.get("prompt")),
            story=self.story(image_id) if origin else "",
        )

    def _captioned(self, image_id: Any, caption: str) -> Picture:
        """Return the figure of a shown image; a caption that ends in its activation is not shown twice.

        What a caption says is the program's word: it stands as reported beside what was measured.
        """
        if match := _LOGGED.match(caption):
            value = number(_float(match["value"]))
            known = self._activation.get(image_id) if isinstance(image_id, str) else None
            if value is not None and known is not None and abs(value - known) <= _ROUNDED:
                return self.picture(image_id, caption=match["title"])
            if value is not None and match["logged"]:
                return self.picture(image_id, caption=match["title"], reported=value)
        return self.picture(image_id, caption=caption)

    def story(self, image_id: Any) -> str:
        """Return in words how an image came about."""
        if not isinstance(image_id, str):
            return "an image whose record is damaged"
        origin = self._origin.get(image_id, {})
        source = text(origin.get("source"))
        if source == "masked" and isinstance(origin.get("parent"), str) and origin["parent"] != image_id:
            parent = self._origin.get(origin["parent"], {})
            if text(parent.get("source")) != "masked":
                return f"{self.story(origin['parent'])}, masked"
        prompt, edits = (
            text(origin.get("prompt")),
            [e for e in sequence(origin.get("edits")) if isinstance(e, str)],
        )
        if source == "edited" or edits:
            edit = "; ".join(edits) or prompt
            return f"{prompt}, edited: {edit}" if prompt and prompt != edit else f"edited: {edit}"
        if prompt:
            return prompt
        return f"image from the {source}" if source == "dataset" else f"image {image_id[:8]}"

    def observation(self, parts: Sequence[Any]) -> list[ObservationBlock]:
        """Return an observation as blocks: the line before an image is its caption."""
        blocks: list[ObservationBlock] = []
        words: list[str] = []

        def flush() -> None:
            if text := "\n".join(words).strip("\n"):
                blocks.append(ObservationBlock(words=text))
            words.clear()

        for part in parts:
            if isinstance(part, str):
                words.append(part)
            elif isinstance(part, dict):
                caption = _take_caption(words)
                flush()
                picture = self._captioned(part.get("image"), caption)
                if blocks and blocks[-1].pictures:
                    blocks[-1] = replace(blocks[-1], pictures=(*blocks[-1].pictures, picture))
                else:
                    blocks.append(ObservationBlock(pictures=(picture,)))
        flush()
        return blocks

    def made(self, known: set[str], snapshot: Any) -> list[Picture]:
        """Return the generated images of `snapshot` that are not in `known`, in order."""
        ids = [i for i in mapping(mapping(snapshot).get("provenance")) if i not in known]
        return [
            self.picture(image_id, caption=self.story(image_id))
            for image_id in ids
            if self._origin.get(image_id, {}).get("source") == "generated"
        ]

    def edits(self, known: set[str], snapshot: Any) -> list[StimulusEdit]:
        """Return the edits of `snapshot` that are not in `known`, in order."""
        edits = []
        for image_id in mapping(mapping(snapshot).get("provenance")):
            origin = self._origin.get(image_id, {})
            if image_id in known or origin.get("source") != "edited":
                continue
            instructions = [edit for edit in sequence(origin.get("edits")) if isinstance(edit, str)]
            text_of_edit = instructions[-1] if instructions else text(origin.get("prompt"))
            edits.append(
                StimulusEdit(text_of_edit, self.picture(origin.get("parent")), self.picture(image_id))
            )
        return edits

    def interventions(self, programs: Any) -> list[StimulusIntervention]:
        """Return the interventions of programs, in order, by the recorded answers to calls."""
        found = []
        for answer in _answers(programs):
            effects = mapping(answer.get("effects"))
            if not (about := text(effects.get("about"))):
                continue
            floor = number(effects.get("floor"))
            noise = "" if floor is None else f"; a pass without it is reproduced to {floor:.2g}"
            if effects.get("exact") is True:
                noise = "; a pass without it is reproduced exactly"
            pictures = tuple(self._intervened(mapping(each)) for each in sequence(effects.get("images")))
            found.append(
                StimulusIntervention(about, f"{_changes(effects) or 'no output changed'}{noise}", pictures)
            )
        return found

    def _intervened(self, effect: dict[str, Any]) -> Picture:
        handle = sequence(mapping(effect.get("image")).get(IMAGE))
        before, after = number(effect.get("activation")), number(effect.get("edited"))
        caption = "" if before is None or after is None else f"unit {before:.3g} to {after:.3g}"
        top = [name for name in sequence(effect.get("top")) if isinstance(name, str)]
        first = f"first output {top[0]}, then {top[1]}" if len(set(top)) == 2 else ""
        note = "; ".join(part for part in (_changes(effect), first) if part)
        return self.picture(handle[0] if handle else None, caption=caption, note=note)


def logged(snapshot: Any) -> list[dict[str, Any]]:
    """Return all logged entries of a toolbox snapshot."""
    return [
        entry
        for entries in sequence(mapping(snapshot).get("log"))
        for entry in sequence(entries)
        if isinstance(entry, dict)
    ]


def measured(programs: Any) -> Iterator[tuple[Any, Any]]:
    """Return (image id, activation) of all that programs measured, by the recorded answers to calls."""
    for value in _answers(programs):
        activations, images = sequence(value.get("activations")), sequence(value.get("images"))
        if len(activations) == len(images):
            for image, activation in zip(images, activations, strict=True):
                handle = sequence(mapping(image).get(IMAGE))
                yield (handle[0] if handle else None), activation


def _answers(programs: Any) -> Iterator[dict[str, Any]]:
    """Return the recorded answers to the calls of programs, in order."""
    for program in sequence(programs):
        for call in sequence(mapping(program).get("calls")):
            yield mapping(mapping(call).get("value"))


def _changes(effects: dict[str, Any]) -> str:
    """Return in words which outputs were raised and lowered, and those that were asked for."""
    parts = []
    for key, what in (("raised", "raised"), ("lowered", "lowered"), ("asked", "asked for")):
        changes = [
            f"{text(each.get('name'))} {change:+.3g}"
            for each in map(mapping, sequence(effects.get(key)))
            if (change := number(each.get("change"))) is not None
        ]
        if changes:
            parts.append(f"{what} {', '.join(changes)}")
    return "; ".join(parts)


def _origin(value: Any) -> dict[str, Any]:
    """Return a provenance; a snapshot holds it as JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return mapping(value)


def _float(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _take_caption(words: list[str]) -> str:
    """Take the last line off the words before an image if it is short enough to be its caption."""
    if not words:
        return ""
    before, _, line = words[-1].rstrip("\n").rpartition("\n")
    if not line.strip() or len(line) > _CAPTION_LIMIT:
        return ""
    words[-1] = before
    return line.strip()
