"""The built-in scientist: a rule-based stand-in for a language model, behind the same chat interface.

It is a pure function of the messages (and of the request's seed): it sees what a model would see, writes
the programs that a model would write, and can be resumed or replayed like one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from actors.chat.base import ChatReply, ChatRequest, Message
from actors.chat.builtin.appraisal import Appraisal
from actors.chat.builtin.audit import BiasAudit
from actors.chat.builtin.contexts import read_contexts
from actors.chat.builtin.describing import UnitStudy
from actors.chat.builtin.eyes import Eyes
from actors.chat.builtin.pooling import is_pooling, pooled_answer
from actors.chat.builtin.proposing import is_proposing, proposed_contexts
from actors.chat.builtin.reading import Reading, read
from actors.chat.builtin.selective import SelectivityTest
from actors.chat.builtin.words import Term, Words

MODEL = "builtin:scientist (embedded stand-in)"


class Scientist:
    """Answers conversations that ask for a study. `eyes` may be None: then only blind descriptions are used."""

    name = MODEL
    sees_images = True

    def __init__(self, words: Words, eyes: Eyes | None = None) -> None:
        self._words, self._eyes = words, eyes

    async def complete(self, request: ChatRequest) -> ChatReply:
        return self.reply(request)

    def reply(self, request: ChatRequest) -> ChatReply:
        """Return the next assistant turn. Blocking: about a second of computation late in a study."""
        return ChatReply(self.next_turn(request), model=MODEL)

    def next_turn(self, request: ChatRequest) -> str:
        if is_pooling(request.messages):
            return pooled_answer(request.messages)
        if is_proposing(request.messages):
            return proposed_contexts(request.messages, self._words, random.Random(request.seed or 0))
        reading = read(request.messages, self._words)
        rng = random.Random(f"{request.seed or 0}/{reading.rounds}")
        return self._study(reading, request.messages, rng)()

    def _study(self, reading: Reading, messages: Sequence[Message], rng: random.Random) -> Callable[[], str]:
        if reading.task == "audit":
            return BiasAudit(reading, read_contexts(messages), self._words, rng).next_turn
        if reading.task == "selective":
            return SelectivityTest(reading, read_contexts(messages), self._words, rng).next_turn
        appraisal = Appraisal(reading, self._words, self._context(reading))
        return UnitStudy(appraisal, self._words, rng).next_turn

    def _context(self, reading: Reading) -> Sequence[frozenset[Term]]:
        images = [each.image for each in reading.exemplars if each.image is not None]
        if self._eyes is None or not images or len(images) != len(reading.exemplars):
            return ()
        return [seen.terms(self._words) for seen in self._eyes.look(images, whole=True)]
