"""The built-in observer: blind descriptions, summaries and yes/no answers in plain English.

Of drawn scenes it says what the concept net sees, of photographs what an ImageNet classifier does
(`photographs`).

What is asked is told by the conversation alone: by the system prompt's first words, else by the question.
A new kind of question is one more line in `_KINDS`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from actors.chat.base import ChatReply, ChatRequest
from actors.embedded.language.words import Term, Words, number_word, with_article
from actors.embedded.observer import photographs
from actors.embedded.observer.eyes import Eyes, Seen, SeenThing
from actors.images import Image

MODEL = "builtin:observer (embedded stand-in)"

NOTHING = "Nothing that I recognize"


@dataclass(frozen=True, slots=True)
class Question:
    """One conversation as the observer understands it."""

    role: str
    """The system prompt."""
    text: str
    """The text of the last user message."""
    images: tuple[Image, ...]


def question_of(request: ChatRequest) -> Question:
    """Return what a conversation asks: its system prompt, and the latest user message that has images."""
    role = "\n".join(message.text for message in request.messages if message.role == "system")
    users = [message for message in request.messages if message.role == "user"]
    with_images = [message for message in users if message.images]
    return Question(
        role,
        users[-1].text if users else "",
        with_images[-1].images if with_images else (),
    )


class Observer:
    """Answers questions about images. Keeps nothing between conversations, so it cannot be led."""

    name = MODEL
    sees_images = True

    def __init__(self, words: Words, eyes: Eyes) -> None:
        self._words, self._eyes = words, eyes

    async def complete(self, request: ChatRequest) -> ChatReply:
        return self.answer_all([request])[0]

    def answer_all(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        """Return a reply a request; all their images are looked at in one pass. Blocking."""
        questions = [question_of(request) for request in requests]
        looks = self._eyes.look([image for question in questions for image in question.images])
        replies = []
        for question in questions:
            seen, looks = looks[: len(question.images)], looks[len(question.images) :]
            replies.append(ChatReply(self.answer(question, seen), model=MODEL))
        return replies

    def answer(self, question: Question, seen: Sequence[Seen]) -> str:
        """Return the answer to a question, given what is seen in each of its images."""
        if not seen:
            return "There is no image to look at."
        for applies, respond in _KINDS:
            if applies(question):
                return respond(question, seen, self._words)
        return _describe(question, seen, self._words)


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


def _describe(question: Question, seen: Sequence[Seen], words: Words) -> str:
    if len(seen) == 1:
        return describe_one(seen[0], words)
    return "\n".join(f"Image {n}: {describe_one(each, words)}" for n, each in enumerate(seen, 1))


def _summarize(question: Question, seen: Sequence[Seen], words: Words) -> str:
    """Return what is common to the images, with shares; several concepts when they divide the images."""
    total = len(seen)
    if total == 1:
        return describe_one(seen[0], words)
    pictures = [each.photograph for each in seen if each.photograph is not None]
    if pictures:
        drawn = [each for each in seen if each.photograph is None]
        told = [photographs.summarize(pictures)]
        return " ".join(told + ([_summarize(question, drawn, words)] if drawn else []))
    counts = Counter(term for each in seen for term in each.terms(words))
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
    blank = sum(not each.things for each in seen)
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


def _yes_or_no(question: Question, seen: Sequence[Seen], words: Words) -> str:
    """Answer whether all that the question names is in every image, and nothing that it excepts.

    Of what it cannot know it says so.
    """
    match = _SHOWS.search(question.text)
    phrase = match["what"] if match else ""
    answers = [_shows(each, phrase, words) for each in seen]
    if False in answers:
        return "no"
    return "I cannot tell: I do not know these words." if None in answers else "yes"


def _shows(seen: Seen, phrase: str, words: Words) -> bool | None:
    """Say whether an image shows what a phrase names; None where it has words that its observer does not
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
_SHOWS = re.compile(
    r"\b(?:show|shows|contain|contains|depict|depicts|have|include)\s+(?P<what>[^?\n]+)\?", re.I
)
_WITHOUT = re.compile(r"\b(?:without|but not|except)\b", re.I)
_SUMMARIZES = re.compile(r"\s*you summari[sz]e images", re.I)
_YES_NO = re.compile(r"\byes or no\b", re.I)

_Respond = Callable[[Question, Sequence[Seen], Words], str]
_KINDS: tuple[tuple[Callable[[Question], bool], _Respond], ...] = (
    (lambda question: bool(_YES_NO.search(question.text) and _SHOWS.search(question.text)), _yes_or_no),
    (lambda question: bool(_SUMMARIZES.match(question.role)), _summarize),
    (lambda question: question.role.lstrip().lower().startswith("you describe images"), _describe),
)
"""Kinds of question, the first that applies answers; anything else about images is a description."""
