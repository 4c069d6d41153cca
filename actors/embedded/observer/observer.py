"""The built-in observer: blind descriptions, summaries and yes/no answers in plain English.

Of drawn scenes it says what the concept net sees, of photographs what an ImageNet classifier does
(`photographs`).

Which of these is asked for is the request's task, or else is read out of its words (`language.free_text`).
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence

from actors.chat.base import ChatRequest
from actors.chat.reply import ChatReply
from actors.chat.tasks import (
    DRAWN,
    PHOTOGRAPH,
    UNKNOWN_PHOTOGRAPH,
    CheckLabelTask,
    ClassifyMediumTask,
    SummarizeImagesTask,
)
from actors.embedded.drawing.vocabulary import with_article
from actors.embedded.language.free_text import image_task
from actors.embedded.language.words import Term, Words, number_word
from actors.embedded.observer import photographs
from actors.embedded.observer.eyes import Eyes, Seen, SeenThing
from actors.images import Image

MODEL = "builtin:observer (embedded stand-in)"

NOTHING = "Nothing that I recognize"


class Observer:
    """Answers questions about images. Keeps nothing between conversations, so it cannot be led."""

    name = MODEL
    sees_images = True

    def __init__(self, words: Words, eyes: Eyes) -> None:
        self._words, self._eyes = words, eyes

    async def complete(self, request: ChatRequest) -> ChatReply:
        return self.answer_all([request])[0]

    def answer_all(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        """Return a reply to each request; all their images are looked at in one pass. Blocking."""
        images = [latest_images(request) for request in requests]
        seen = iter(self._eyes.look(list(itertools.chain.from_iterable(images))))
        return [
            ChatReply(self.answer(request, list(itertools.islice(seen, len(shown)))), model=MODEL)
            for request, shown in zip(requests, images, strict=True)
        ]

    def answer(self, request: ChatRequest, seen: Sequence[Seen]) -> str:
        """Return the answer to a request, given what is seen in each of its images."""
        if not seen:
            return "There is no image to look at."
        match request.task or image_task(request.messages):
            case CheckLabelTask(label):
                return _yes_or_no(label, seen, self._words)
            case SummarizeImagesTask():
                return _summarize(seen, self._words)
            case ClassifyMediumTask():
                return _medium(seen[0])
            case _:
                return _describe(seen, self._words)


def latest_images(request: ChatRequest) -> tuple[Image, ...]:
    """Return the images of the latest user message that has any."""
    shown = [message.images for message in request.messages if message.role == "user" and message.images]
    return shown[-1] if shown else ()


def _medium(seen: Seen) -> str:
    if seen.photograph is None:
        return DRAWN
    return PHOTOGRAPH if seen.photograph.seen() else UNKNOWN_PHOTOGRAPH


def describe_one(seen: Seen, words: Words) -> str:
    """Return one sentence: things with number, color and place, then the background."""
    if seen.photograph is not None:
        return photographs.describe(seen.photograph)
    groups: dict[str, list[SeenThing]] = {}
    for thing in seen.things:
        groups.setdefault(thing.concept, []).append(thing)
    things = _joined([_group(name, group, words) for name, group in groups.items()])
    place = seen.background
    if place in words.backgrounds:
        place = words.backgrounds[place].name
    if things:
        return f"{things[:1].upper()}{things[1:]}" + (f"; the background is {place}." if place else ".")
    if place:
        return f"No object that I recognize; the background is {place}."
    return f"{NOTHING}; the visible part is mostly {seen.color}." if seen.color else f"{NOTHING}."


def _group(name: str, group: Sequence[SeenThing], words: Words) -> str:
    noun = words.concepts.get(name)
    colors = [color for color, _ in Counter(thing.color for thing in group if thing.color).most_common(2)]
    color = " and ".join(colors)
    if len(group) > 1:
        plural = noun.plural_name if noun else f"{name}s"
        return f"{number_word(len(group))} {color} {plural}".replace("  ", " ")
    return f"{with_article(f'{color} {name}'.strip())} {_place(group[0])}"


def _place(thing: SeenThing) -> str:
    if thing.share > 0.45:
        return "filling most of the picture"
    across = "left" if thing.x < 0.36 else "right" if thing.x > 0.64 else ""
    down = "top" if thing.y < 0.36 else "bottom" if thing.y > 0.64 else ""
    spot = " ".join(filter(None, (down, across)))
    return f"at the {spot}" if spot else "in the center"


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


def _describe(seen: Sequence[Seen], words: Words) -> str:
    if len(seen) == 1:
        return describe_one(seen[0], words)
    return "\n".join(f"Image {n}: {describe_one(each, words)}" for n, each in enumerate(seen, 1))


def _summarize(seen: Sequence[Seen], words: Words) -> str:
    """Return what is common to the images, with shares; several concepts when they divide the images."""
    total = len(seen)
    if total == 1:
        return describe_one(seen[0], words)
    pictures = [sight.photograph for sight in seen if sight.photograph is not None]
    if pictures:
        drawn = [sight for sight in seen if sight.photograph is None]
        summaries = [photographs.summarize(pictures)]
        return " ".join(summaries + ([_summarize(drawn, words)] if drawn else []))
    counts = Counter(term for sight in seen for term in sight.terms(words))
    least = max(2, round(0.12 * total))

    def shares(kind: str, at_most: int, at_least: int = least) -> list[str]:
        chosen = [(term, n) for term, n in counts.most_common() if term.kind == kind and n >= at_least]
        return [f"{n} of {total} show {_named(term)}" for term, n in chosen[:at_most]]

    said = []
    things = shares("concept", 5)
    said.append("; ".join(things) + "." if things else "No single thing is common to these images.")
    kinds = [line for line in shares("category", 4) if line not in things]
    if kinds:
        said.append("By kind: " + "; ".join(kinds) + ".")
    colors = shares("color", 3, max(2, total // 3))
    if colors:
        said.append("Colors: " + "; ".join(colors) + ".")
    places = shares("background", 3)
    if places:
        said.append("Backgrounds: " + "; ".join(places) + ".")
    blank = sum(not sight.things for sight in seen)
    if blank:
        said.append(f"In {blank} of {total} I recognize no object.")
    return " ".join(said)


def _named(term: Term) -> str:
    if term.kind == "category":
        return f"some {term.name}"
    if term.kind == "color":
        return f"something {term.name}"
    if term.kind == "background":
        return f"a background of {term.name}"
    return with_article(term.name)


def _yes_or_no(label: str, seen: Sequence[Seen], words: Words) -> str:
    """Return whether all that a label names is in every image, and nothing that it excepts; or that its words
    are not known.
    """
    answers = [_shows(sight, label, words) for sight in seen]
    if False in answers:
        return "no"
    return "I cannot tell: I do not know these words." if None in answers else "yes"


def _shows(seen: Seen, phrase: str, words: Words) -> bool | None:
    """Return whether an image shows what a phrase names; None where it has words that its observer does not
    know.
    """
    if seen.photograph is not None:
        return photographs.shows(seen.photograph, phrase)
    named, *excepted = _WITHOUT.split(phrase)
    wanted, unwanted = _asked(named, words), {term for part in excepted for term in _asked(part, words)}
    if not wanted or (excepted and not unwanted):
        return None
    shown = seen.terms(words) | {Term("tone", seen.color)}
    return wanted <= shown and not unwanted & shown


def _asked(phrase: str, words: Words) -> set[Term]:
    """Return the terms of a phrase; "blue color" may be anywhere, "blue objects" are things."""
    anywhere = set(_COLOR.findall(phrase.lower()))
    return {
        Term("tone", term.name) if term.kind == "color" and term.name in anywhere else term
        for term in words.find(phrase)
    }


_COLOR = re.compile(r"\b(\w+) colou?r\b")
_WITHOUT = re.compile(r"\b(?:without|but not|except)\b", re.I)
