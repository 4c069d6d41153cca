"""From an edit instruction in plain English to the changes it asks for.

Knows nothing of images: a `Change` names what it is about in words, and `edit` finds that in a picture.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from actors.embedded.drawing.grammar import Reader
from actors.embedded.drawing.layout import Wish
from actors.embedded.drawing.lexicon import Token, read
from actors.embedded.drawing.vocabulary import PLAIN, normal

MAX_CHANGES = 6
"""Changes carried out of one instruction; further ones are reported."""


@dataclass(frozen=True, slots=True)
class Target:
    """Which objects a change is about: by concept or category, "" for the main one, and by color if said."""

    name: str = ""
    color: str | None = None
    everything: bool = False

    @property
    def words(self) -> str:
        if self.everything:
            return "everything"
        return " ".join(filter(None, (self.color, self.name or "object")))


@dataclass(frozen=True, slots=True)
class Change:
    """One thing to do. Which of the fields count depends on `kind`.

    replace: target, wishes. recolor: target, color. remove: target. resize: target, factor. move: target,
    positions, or relation and anchor. count: target, count. flip: target. exchange: target, anchor.
    add: wishes, each with a relation to `anchor` where one is named. background: background, color.
    """

    kind: str
    target: Target = Target()
    anchor: Target | None = None
    wishes: tuple[Wish, ...] = ()
    color: str | None = None
    background: str | None = None
    positions: frozenset[str] = frozenset()
    relation: str = ""
    factor: float = 1.0
    count: int = 1


@dataclass(frozen=True, slots=True)
class Instruction:
    """What was understood, and what was not (words, and sentences about clauses)."""

    changes: tuple[Change, ...]
    undone: tuple[str, ...]
    notes: tuple[str, ...]


_VERB_WORDS = (
    "replace swap substitute exchange switch turn transform convert change make paint color colour dye tint "
    "recolor recolour add insert include draw place put give remove delete erase take get move shift enlarge "
    "shrink scale resize magnify reduce increase decrease flip mirror rotate set have let drop hide "
    "eliminate clear attach"
)
_VERBS = frozenset(_VERB_WORDS.split())
_POLITE = re.compile(
    r"^((please|now|just|then|also|next|and|can you|could you|would you|i want you to|i want to"
    r"|i would like to|lets|let us|edit the (image|picture|photo) to|modify the (image|picture|photo) to) )+"
)
_IMAGE = re.compile(r"\b(in|from|of|to|into|on) (the|this) (image|picture|photo|photograph|scene)\b")
_WHERE = re.compile(
    r"(.*?) (on top of|on|onto|to the left of|to the right of|left of|right of|next to|beside|near|above|over"
    r"|below|under|behind|in front of|to|in|inside) ((?:the|this|that|its|his|her) (?!left|right|top|bottom"
    r"|center|centre|middle|background|corner|foreground|image|picture|sky).+|it|him|her)"
)


def _relation(words: str) -> str:
    token = read(words)[0]
    if token.kind == "relation":
        return token.value
    return {"to": "near", "in": "in", "inside": "in"}.get(words, "on")


_FACTORS = {
    **dict.fromkeys(("bigger", "larger", "big", "large"), 1.5),
    **dict.fromkeys(("huge", "huger", "giant", "gigantic", "enormous"), 2.0),
    **dict.fromkeys(("much bigger", "much larger", "twice as big"), 2.0),
    **dict.fromkeys(("small", "little"), 0.6),
    **dict.fromkeys(("tiny", "tinier"), 0.4),
    "taller": 1.4, "smaller": 0.66, "much smaller": 0.45, "half as big": 0.5,
}  # fmt: skip
"""Words for a change of size, and the factor of the side that each stands for."""
_ALL = {"everything", "all", "them", "all objects", "all of them", "they", "every object", "all the objects"}
_STYLE = re.compile(
    r"\b(style|painting|sketch|drawing|cartoon|watercolou?r|black and white|sepia|anime|pixel art"
    r"|impressionist|realistic|blurry|photograph|grayscale|greyscale)\b"
)
_THAT = frozenset(
    (
        "",
        "it",
        "object",
        "subject",
        "this",
        "that",
        "thing",
        "main object",
        "main subject",
        "one",
        "him",
        "her",
    )
)


def _clauses(text: str) -> list[str]:
    """Split at "and", "then" and punctuation where another verb begins."""
    flat = re.sub(r"[,;.!?\n]+", " | ", text[:4000])
    words = [word for piece in flat.split("|") for word in [*normal(piece).split(), "|"]]
    clauses: list[list[str]] = [[]]
    for i, word in enumerate(words):
        after = words[i + 1] if i + 1 < len(words) else ""
        if word in ("|", "and", "then"):
            if after in _VERBS and clauses[-1]:
                clauses.append([])
            elif word != "|":
                clauses[-1].append(word)
            continue
        clauses[-1].append(word)
    return [" ".join(clause) for clause in clauses if clause]


def _target(words: str) -> Target | None:
    """Return what a noun phrase points at; None if it names nothing known."""
    plain = re.sub(
        r"^(the|a|an|this|that|all|every|each|of|any|some|its|color of the|colour of the)\b ?", "", words
    ).strip()
    plain = re.sub(r"^(the|of) ", "", plain)
    if words in _ALL or plain in _ALL:
        return Target(everything=True)
    if plain in _THAT:
        return Target()
    reader = Reader(read(plain))
    if reader.wishes and not reader.undrawn:
        wish = reader.wishes[0]
        return Target(wish.name, wish.color)
    colors = [token for token in read(plain) if token.kind == "color"]
    if colors and len(read(plain)) <= 2:
        return Target("", colors[0].value)
    return None


def _only(words: str, *kinds: str) -> list[Token] | None:
    """Return the meaningful tokens if each is of these kinds (small words aside); else None."""
    tokens = [t for t in read(words) if t.kind not in ("article", "filler", "preposition", "comma")]
    said = []
    for token in tokens:
        other, _, value = token.also.partition(":")
        if token.kind not in kinds and other in kinds and len(tokens) == 1:
            token = Token(other, value, token.words)
        said.append(token)
    return said if said and all(token.kind in kinds for token in said) else None


def _backdrop(words: str, color: str) -> Change:
    """Return the change of color: of the grass, if it is named; of "the background", to a plain one."""
    named = any(token.kind == "background" for token in read(words))
    return Change("background", background=None if named else PLAIN, color=color)


def _scenery(reader: Reader) -> Change:
    return Change("background", background=reader.background, color=reader.background_color)


def _is_setting(words: str) -> bool:
    return _only(words, "setting", "background") is not None


class InstructionReader:
    """Reads one clause at a time; every method returns whether it understood."""

    def __init__(self, text: str) -> None:
        self.changes: list[Change] = []
        self.undone: list[str] = []
        self.notes: list[str] = []
        clauses = _clauses(text)
        for clause in clauses[:MAX_CHANGES]:
            self._clause(_IMAGE.sub("", _POLITE.sub("", clause)).strip())
        for clause in clauses[MAX_CHANGES:]:
            self._fail(clause, f"more than {MAX_CHANGES} changes at once")
        if not clauses:
            self.notes.append("not done: the instruction has no words")

    def _clause(self, clause: str) -> None:
        for pattern, method in _PATTERNS:
            match = pattern.fullmatch(clause)
            if match is not None and getattr(self, method)(clause, *match.groups()):
                return
        self._fail(clause, "the instruction was not understood")

    def _fail(self, clause: str, reason: str) -> bool:
        self.undone += clause.split()
        self.notes.append(f"not done: {clause[:120]!r} ({reason})")
        return True

    def _do(self, change: Change) -> bool:
        self.changes.append(change)
        return True

    def _do_to(self, words: str, clause: str, change: Change) -> bool:
        """Do something to what the words point at."""
        target = _target(words)
        if target is None:
            return self._fail(clause, f"no known thing in {words!r}")
        return self._do(replace(change, target=target))

    def _new(self, words: str) -> Reader | None:
        """Read a noun phrase for something new; None if it names nothing that can be drawn."""
        reader = Reader(read(words))
        self.notes += reader.notes
        if reader.undrawn:
            self.notes.append(f"not drawn: {', '.join(dict.fromkeys(reader.undrawn))}")
            self.undone += reader.undrawn
        return reader if reader.wishes else None

    def exchange(self, clause: str, first: str, second: str) -> bool:
        one, other = _target(first), _target(second)
        return one is not None and other is not None and self._do(Change("exchange", one, anchor=other))

    def color_of(self, clause: str, words: str, color: str) -> bool:
        tokens = _only(color, "color")
        return tokens is not None and self._color(clause, words, tokens[-1].value)

    def _color(self, clause: str, words: str, color: str) -> bool:
        if _is_setting(words):
            return self._do(_backdrop(words, color))
        return self._do_to(words, clause, Change("recolor", color=color))

    def become(self, clause: str, first: str, second: str) -> bool:
        """X becomes Y, whatever Y is: color, size, number, place, or another thing."""
        if second.strip() in _FACTORS:
            return self.resize(clause, first, second)
        if _STYLE.search(second):
            return self._fail(clause, "the style of a picture cannot be changed")
        colors = [token.value for token in _only(second, "color", "setting") or () if token.kind == "color"]
        if colors:
            return self._color(clause, first, colors[0])
        setting, scenery = _is_setting(first), Reader(read(second))
        if scenery.background is not None and not scenery.wishes and (setting or _target(first) == Target()):
            return self._do(_scenery(scenery))
        if not setting and scenery.wishes:
            return self.replace(clause, first, second)
        if setting and (reader := self._new(second)) is not None and reader.background is None:
            return self._fail(clause, f"{second!r} is no known background")
        return self._fail(clause, f"nothing that can be drawn in {second!r}")

    def replace(self, clause: str, first: str, second: str) -> bool:
        if _is_setting(first):
            return self.become(clause, first, second)
        target = _target(first)
        if target is None:
            return self._fail(clause, f"no known thing in {first!r}")
        reader = self._new(second)
        if reader is None:
            if (place := Reader(read(second)).background) is not None:
                return self._fail(clause, f"{place} is a background, and cannot stand where an object stood")
            return self._fail(clause, f"nothing that can be drawn in {second!r}")
        if len(reader.wishes) > 1 and {wish.name for wish in reader.wishes} == {target.name}:
            return self._do(Change("count", target, count=len(reader.wishes)))
        return self._do(Change("replace", target, wishes=tuple(reader.wishes)))

    def replaced_by_instead(self, clause: str, second: str, first: str) -> bool:
        return self.replace(clause, first, second)

    def resize(self, clause: str, words: str, how: str) -> bool:
        factor = _FACTORS.get(how.strip())
        return factor is not None and self._do_to(words, clause, Change("resize", factor=factor))

    def grow(self, clause: str, verb: str, words: str) -> bool:
        down = verb.split()[0] in ("shrink", "reduce", "decrease") or "down" in verb
        return self.resize(clause, words, "smaller" if down else "bigger")

    def make(self, clause: str, rest: str) -> bool:
        """ "make X Y": cut where Y, a color, size, number or thing, begins."""
        words = rest.split()
        cuts = [(cut, " ".join(words[:cut]), " ".join(words[cut:])) for cut in range(1, len(words))]
        cuts = [each for each in cuts if _target(each[1]) is not None or _is_setting(each[1])]
        for cut, first, second in reversed(cuts):
            ends = second in _FACTORS or _only(second, "color") or _is_setting(second)
            if ends and not (cut > 1 and words[cut - 1] in ("much", "very", "twice", "half")):
                return self.become(clause, first, second)
        for cut, first, second in cuts:
            if words[cut] in ("a", "an", "the", "into", "look") or read(words[cut])[0].kind == "count":
                return self.become(clause, first, second)
        return False

    def add(self, clause: str, what: str) -> bool:
        definite = what.startswith(("the ", "it ", "them "))
        match = _WHERE.fullmatch(what)
        anchor, relation = None, ""
        if match is not None and (pointed := _target(match.group(3))) is not None and match.group(1):
            # "a hat on the dog": the dog is there already, only the hat is new.
            what, anchor, relation = match.group(1), pointed, _relation(match.group(2))
            if definite and (moved := _target(what)) is not None:
                return self._do(Change("move", moved, anchor=anchor, relation=relation))
        reader = Reader(read(what))
        if reader.background is not None and (definite or not reader.wishes):
            # "put the dog on the beach" moves what is there to another place.
            return self._do(_scenery(reader))
        if self._new(what) is None:
            return self._fail(clause, "nothing that can be drawn in it")
        if reader.background is not None:
            self.notes.append(f"added without changing the background to {reader.background}")
        first = reader.wishes[0]
        if definite and first.positions:
            return self._do(Change("move", Target(first.name), positions=frozenset(first.positions)))
        for wish in reader.wishes:
            if relation and wish.anchor is None:
                wish.relation = relation
        return self._do(Change("add", anchor=anchor, wishes=tuple(reader.wishes)))

    def give(self, clause: str, whom: str, what: str) -> bool:
        target, wishes = _target(whom), Reader(read(what)).wishes
        if target is None or not wishes:
            return False
        for wish in wishes:
            wish.relation = "worn by"
        return self._do(Change("add", anchor=target, wishes=tuple(wishes)))

    def give_cut(self, clause: str, rest: str) -> bool:
        """ "give the dog sunglasses": the thing given begins where its receiver ends."""
        words = rest.split()
        return any(
            words[cut - 1] not in ("the", "a", "an")
            and read(words[cut])[0].kind in ("thing", "color", "size")
            and self.give(clause, " ".join(words[:cut]), " ".join(words[cut:]))
            for cut in range(1, len(words))
        )

    def remove(self, clause: str, words: str) -> bool:
        words = re.sub(r" (from|off|in|on) .*$", "", words) if _target(words) is None else words
        if _is_setting(words):
            return self._do(Change("background", background=PLAIN))
        for phrase in words.split(" and "):
            self._do_to(phrase, clause, Change("remove"))
        return True

    def move(self, clause: str, words: str, where: str) -> bool:
        target = _target(words)
        if target is None:
            return False
        reader = Reader(read("a dog " + where))
        dog = reader.wishes[0]
        if dog.positions:
            return self._do(Change("move", target, positions=frozenset(dog.positions)))
        if dog.anchor is not None and dog.relation:
            base = reader.wishes[dog.anchor]
            anchor = Target(base.name, base.color)
            return self._do(Change("move", target, anchor=anchor, relation=dog.relation))
        return reader.background is not None and self._do(_scenery(reader))

    def move_or_add(self, clause: str, words: str, where: str) -> bool:
        """ "put the dog on the left" moves; "put a hat on the dog" adds."""
        definite = words.startswith(("the ", "this ", "that ", "all ")) or words in _THAT | _ALL
        return definite and self.move(clause, words, where)

    def flip(self, clause: str, words: str) -> bool:
        words = re.sub(r" (horizontally|around|over|left to right)$", "", words)
        return self._do_to(words, clause, Change("flip"))

    def place(self, clause: str, words: str) -> bool:
        """A clause without a verb: a place, a color, or something to add."""
        reader = Reader(read(words))
        if reader.undrawn or reader.actions:
            return False
        if reader.background is not None and not reader.wishes:
            return self._do(_scenery(reader))
        if not reader.wishes:
            return False
        self.notes.append("the instruction names no action: added what it names")
        return self.add(clause, words)


_SETTING = r"((?:the )?(?:background|scene|setting|scenery|backdrop))"
_PLACED = r"((?:to|on|onto|at|in|next|near|above|below|under|behind|beside|into|over)\b.*)"
_PATTERNS = [
    (re.compile(pattern), method)
    for pattern, method in (
        (r"(?:swap|exchange|switch) (.+) and (.+)", "exchange"),
        (r"(?:replace|swap|substitute|exchange|switch)(?: out)? (.+?) (?:with|for|by|to) (.+)", "replace"),
        (r"(?:use |show |put |draw |have )?(.+?) (?:instead of|in place of|rather than) (.+)",
         "replaced_by_instead"),
        (r"instead of (.+?) (?:put|use|show|draw|add|have) (.+)", "replace"),
        (r"(?:change|make|set|turn) (?:the )?(?:color|colour) of (.+?) (?:to |into |be )?(\w+(?: \w+)?)",
         "color_of"),
        (r"(?:change|make|set|turn) (.+?) s? ?(?:color|colour) (?:to |into |be )?(\w+(?: \w+)?)", "color_of"),
        (r"(increase|decrease|reduce) the size of (.+)", "grow"),
        (r"(?:turn|transform|convert|change|make|switch|set|morph) (.+?) "
         r"(?:into|to be|to|become|as|in to) (.+)", "become"),
        (rf"(?:change|set|switch|make|turn) {_SETTING} (.+)", "become"),
        (rf"{_SETTING} (?:should be|is|becomes|to|as) (.+)", "become"),
        (r"(.+?) (?:should be|becomes|should become|turns into) (.+)", "become"),
        (r"(?:give|dress) (.+)", "give_cut"),
        (r"(?:have|let|make) (.+?) (?:wear|wearing|hold|holding|carry) (.+)", "give"),
        (r"(?:have|let|make) (.+?) (?:look like|look|be) (.+)", "become"),
        (r"(?:make|paint|color|colour|dye|tint|recolor|recolour|turn|change|set) (.+)", "make"),
        (r"(enlarge|magnify|scale up|shrink|scale down|reduce|increase|decrease|scale) (.+)", "grow"),
        (r"(?:give|dress|attach) (?:to )?(.+?) (?:with )?((?:a|an|some|two|three) .+)", "give"),
        (rf"(?:move|shift|put|place) (.+?) {_PLACED}", "move_or_add"),
        (r"(?:add|insert|include|draw|place|put|show|attach) (?:in )?(.+)", "add"),
        (r"(?:remove|delete|erase|take away|take out|get rid of|drop|hide|eliminate|clear)(?: away)? (.+)",
         "remove"),
        (r"(?:take) (.+) (?:away|out|off)", "remove"),
        (r"(?:flip|mirror) (.+)", "flip"),
        (r"(?:as if |like |as )?(?:it is |its |it were |it was |set )?(?:be )?(.+)", "place"),
    )
]  # fmt: skip


def parse_instruction(text: str) -> Instruction:
    """Return the changes an instruction asks for; what was not understood is in `undone` and named in
    `notes`.
    """
    reader = InstructionReader(text)
    return Instruction(tuple(reader.changes), tuple(reader.undone), tuple(dict.fromkeys(reader.notes)))
