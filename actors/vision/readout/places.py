"""Places: which part of a layer a unit is read at, written behind the last @ of the layer's name.

`blocks.9` is the output of that module, of which the patches are read. `blocks.9@cls` is the class token of
the same output, `blocks.9@in` the module's input, `blocks.9.attn@head3+cls` what head 3 gives for the class
token. The words are a closed list: whatever else follows an @ is part of the layer's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from actors.errors import UsageError

CLS = "cls"
REGISTERS = "registers"
MEAN = "mean"
ALL = "all"
_PATCHES = "patches"
_TOKENS = rf"{CLS}|register[0-9]{{1,4}}|{REGISTERS}|{MEAN}|{_PATCHES}|{ALL}"
WORDS = rf"(?:in|head[0-9]{{1,4}})(?:\+(?:{_TOKENS}))?|{_TOKENS}"
"""A pattern of all places."""


@dataclass(frozen=True, slots=True)
class Place:
    """A part of a layer.

    `site`: "" is the module's output, "in" its input, "head" what head `head` of an attention gives before
    the output projection (`hook_z` of TransformerLens). `tokens`: "" are the patches, or a map's positions;
    "cls", "register0" and so on are single tokens; "registers" and "all" several; "mean" is the mean of the
    patches.
    """

    site: str = ""
    head: int = 0
    tokens: str = ""

    def __str__(self) -> str:
        site = f"head{self.head}" if self.site == "head" else self.site
        return "+".join(word for word in (site, self.tokens) if word)

    def note(self, *, looks: bool = False) -> str:
        """Return what people are told of a unit that is read here, "" of one at patches or a map.

        `looks`: masks show where its head looks (`VisionBackend.looks`).
        """
        tokens, site = self._tokens_in_words(), self._site_in_words()
        where = " of ".join(filter(None, [tokens, site]))
        if not where:
            return ""
        if looks:
            start = {"": "the token at which the unit is largest", MEAN: "all patches"}
            seen_from = start.get(self.tokens, tokens)
            return f"Read at {where}: masks show where the head looks from {seen_from}."
        return f"Read at {where}" + (
            ": it has no place in the image, and images are shown whole." if tokens else "."
        )

    def _tokens_in_words(self) -> str:
        words = {REGISTERS: "the register tokens", MEAN: "the mean over positions", ALL: "all tokens"}
        words[CLS] = "the class token"
        return words.get(self.tokens) or self.tokens.replace("register", "register token ")

    def _site_in_words(self) -> str:
        return {"": "", "in": "the input of the layer", "head": f"head {self.head}"}[self.site]

    def of(self, layer: str) -> str:
        """Return the name of this part of a layer."""
        words = str(self)
        return f"{layer}@{words}" if words else layer


def split_place(name: str) -> tuple[str, Place]:
    """Return the layer and the place that a name consists of; a name without a place is all layer."""
    layer, _, text = name.rpartition("@")
    if not layer or not re.fullmatch(WORDS, text):
        return name, Place()
    site = head = tokens = ""
    for word in text.split("+"):
        if word == "in":
            site = word
        elif word.startswith("head"):
            site, head = "head", word.removeprefix("head")
        elif word.startswith("register") and word != REGISTERS:
            tokens = f"register{int(word.removeprefix('register'))}"
        elif word != _PATCHES:
            tokens = word
    return layer, Place(site, int(head or 0), tokens)


@dataclass(frozen=True, slots=True)
class Places:
    """The places of a layer beside its patches, as far as they are known.

    `prefix` names the tokens before the patches, in order: "cls", "register0" and so on, "" for others.
    `has_positions`: it has patches, or a map. `n_inputs` channels has its input, 0 if that cannot be read.
    """

    prefix: tuple[str, ...] = ()
    has_positions: bool = False
    heads: int = 0
    head_width: int = 0
    n_inputs: int = 0

    @property
    def registers(self) -> int:
        return sum(name.startswith("register") for name in self.prefix)

    def words(self) -> Iterator[str]:
        """Yield the places in short, for people."""
        if CLS in self.prefix:
            yield CLS
        if self.registers:
            yield "register0" if self.registers == 1 else f"register0-{self.registers - 1}"
            yield REGISTERS
        if self.has_positions:
            yield MEAN
        if self.prefix:
            yield ALL
        if self.heads:
            yield "head0" if self.heads == 1 else f"head0-{self.heads - 1}"
        if self.n_inputs:
            yield "in"

    def span(self, tokens: str) -> slice | None:
        """Return where tokens lie in a sequence; None for the patches, and their mean."""
        if tokens == ALL:
            return slice(None)
        if tokens == REGISTERS:
            first = self.prefix.index("register0")
            return slice(first, first + self.registers)
        if tokens in self.prefix:
            return slice(self.prefix.index(tokens), self.prefix.index(tokens) + 1)
        return None

    def check(self, layer: str, place: Place) -> None:
        """Raise UsageError if a layer does not have the place; says what there is instead."""
        if place.site == "head" and place.head >= self.heads:
            numbered = f"its heads are numbered 0 to {self.heads - 1}" if self.heads else "it has no heads"
            raise self._refusal(layer, place, numbered)
        if place.site == "in" and not self.n_inputs:
            raise self._refusal(layer, place, "its input cannot be read, or is of other positions")
        tokens = place.tokens
        known = self.has_positions if tokens == MEAN else bool(self.prefix) if tokens == ALL else True
        if tokens == REGISTERS:
            known = self.registers > 0
        elif tokens not in ("", MEAN, ALL):
            known = tokens in self.prefix
        if not known:
            what = {
                MEAN: "it has no positions to take the mean of, or they are not known",
                ALL: "no tokens before the patches are known in it",
            }
            raise self._refusal(layer, place, what.get(tokens, "no such token is known in it"))

    def _refusal(self, layer: str, place: Place, reason: str) -> UsageError:
        words = ", ".join(f"@{word}" for word in self.words())
        fix = f"There are {layer} and {words}." if words else f"There is {layer} alone."
        if place.site == "head" and not self.heads:
            fix += " Heads are those of an attention module with an output projection of its own."
        elif not any(self.prefix) and (place.tokens == CLS or place.tokens.startswith("register")):
            fix += (
                " A network of your own names its tokens in its factory: "
                'wrap(module, prefix_tokens=["cls", "register0"]).'
            )
        return UsageError(f"{layer!r} has no place {str(place)!r}: {reason}.", fix)


NO_PLACES = Places()
