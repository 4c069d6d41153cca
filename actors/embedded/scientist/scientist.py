"""The built-in scientist: a rule-based stand-in for a language model, behind the same chat interface.

It is a pure function of the messages (and of the request's seed): it sees what a model would see, writes
the programs that a model would write, and can be resumed or replayed like one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from actors.chat.base import ChatRequest
from actors.chat.reply import ChatReply
from actors.chat.tasks import (
    AuditClassTask,
    DescribeUnitTask,
    JudgeSelectivityTask,
    PoolStudiesTask,
    ProposeContextsTask,
)
from actors.embedded.language.free_text import study_task
from actors.embedded.language.words import Words
from actors.embedded.observer.eyes import Eyes, Seen
from actors.embedded.reasoning.appraisal import Appraisal
from actors.embedded.reasoning.study_state import StudyState, ViewedExemplar, read_study
from actors.embedded.scientist.audit import BiasAudit
from actors.embedded.scientist.contexts import read_contexts
from actors.embedded.scientist.describing import UnitStudy
from actors.embedded.scientist.photo_study import PhotoStudy, Pictured
from actors.embedded.scientist.pooling import pooled_answer
from actors.embedded.scientist.proposing import proposed_contexts
from actors.embedded.scientist.selective import SelectivityTest

MODEL = "builtin:scientist (embedded stand-in)"


class Scientist:
    """Answers conversations that ask for a study. `eyes` may be None: then only blind descriptions are
    used.
    """

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
        task = request.task or study_task(request.messages, self._words)
        if isinstance(task, PoolStudiesTask):
            return pooled_answer(task)
        if isinstance(task, ProposeContextsTask):
            return proposed_contexts(task, self._words, random.Random(request.seed or 0))
        final = isinstance(task, DescribeUnitTask | AuditClassTask | JudgeSelectivityTask) and task.final
        state = read_study(request.messages, self._words, final)
        rng = random.Random(f"{request.seed or 0}/{state.rounds}")
        contexts = read_contexts(request.messages)
        if isinstance(task, AuditClassTask):
            return BiasAudit(task.class_name, state, contexts, self._words, rng).next_turn()
        if isinstance(task, JudgeSelectivityTask):
            return SelectivityTest(task, state, contexts, self._words, rng).next_turn()
        proposed = task.hypotheses if isinstance(task, DescribeUnitTask) else ()
        return self._describe_unit(state, rng, proposed)

    def _describe_unit(self, state: StudyState, rng: random.Random, proposed: Sequence[str]) -> str:
        looks = self._looks(state.exemplars)
        if _mostly_photographs(looks):
            others = self._looks(state.contrast)
            images = [
                *zip(state.exemplars, looks, strict=True),
                *zip(state.contrast, others, strict=False),
            ]
            pictured = [
                Pictured(exemplar.activation, seen.photograph)
                for exemplar, seen in images
                if seen.photograph is not None
            ]
            return PhotoStudy(state, pictured).next_turn()
        appraisal = Appraisal(state, self._words, [seen.terms(self._words) for seen in looks])
        return UnitStudy(appraisal, self._words, rng, proposed).next_turn()

    def _looks(self, exemplars: Sequence[ViewedExemplar]) -> list[Seen]:
        """Return what is seen in each whole picture; nothing where there are no eyes, or not all have
        pictures.
        """
        images = [exemplar.image for exemplar in exemplars if exemplar.image is not None]
        if self._eyes is None or not images or len(images) != len(exemplars):
            return []
        return self._eyes.look(images, whole=True)


def _mostly_photographs(looks: Sequence[Seen]) -> bool:
    return 2 * sum(seen.photograph is not None for seen in looks) > len(looks)
