"""A person's study of a unit, written down as an agent's is, so that both are read and judged alike.

The person stands where the model stands: a program and its observation make a round, an answer goes to the
same critic under the same rules. Nothing here knows where the programs run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from actors.chat.base import Part
from actors.chat.reply import ChatReply
from actors.errors import UsageError
from agents.critic.review import Review
from agents.records.record_types import RoundRecord, StudyResult
from agents.study.agent import StudyOutcome
from agents.study.rounds import Round, commit_round, merge_text, objection
from agents.study.study import StudyContext
from tools.sandbox import ExecutedProgram, ProgramOutcome
from tools.sandbox.base import RecordedAnswer
from tools.screen import Screen

_MAX_IMAGES_SHOWN, _MAX_TEXT_SHOWN = 1000, 1_000_000
"""What one program of a person may show: far more than fits into a model's context."""


class PersonsStudy:
    """Takes up what is on record with `open`; then experiments and answers, in any number and order."""

    def __init__(self, context: StudyContext, person: str) -> None:
        self.context, self.person = context, person
        self.result: StudyResult | None = None
        self._records: list[RoundRecord] = []
        self._review: Review | None = None
        self._hypotheses: tuple[str, ...] = ()

    @property
    def rounds(self) -> int:
        """Finished rounds."""
        return len(self._records)

    @property
    def answered(self) -> bool:
        """An answer stands: nothing may follow it but its result."""
        return self.result is not None or bool(self._records and self._records[-1].answered)

    async def open(self) -> None:
        """Take up the rounds and the result on record, if there are any; an answer that stands gets its
        result.
        """
        journal, toolbox = self.context.journal, self.context.toolbox
        toolbox.screen = Screen(_MAX_IMAGES_SHOWN, _MAX_TEXT_SHOWN)
        toolbox.blind = False
        self.result = await asyncio.to_thread(journal.done)
        self._records = await asyncio.to_thread(journal.rounds)
        for record in self._records:
            self._hypotheses = tuple(record.hypotheses) or self._hypotheses
            if record.review is not None:
                self._review = record.review
        if self._records:
            snapshot = self._records[-1].toolbox.model_dump()
            await asyncio.to_thread(toolbox.restore, snapshot, journal.blobs)
        if self.answered and self.result is None:
            await self._finish()

    async def experiment(
        self,
        program: str,
        outcome: ProgramOutcome,
        calls: Sequence[RecordedAnswer],
        hypotheses: Sequence[str] = (),
    ) -> None:
        """Write down a program that ran, with the answers that its calls got and the hypotheses it was to
        test.
        """
        self._refuse_if_answered()
        listed = "\n".join(f"Hypothesis_{i}: {words}" for i, words in enumerate(hypotheses, 1))
        listing = f"[HYPOTHESIS LIST]:\n{listed}\n" if hypotheses else ""
        parts = self.context.toolbox.screen.take()
        if printed := outcome.output.rstrip():
            parts.append(printed)
        if outcome.status != "ok":
            parts.append(f"The program ended with: {outcome.error}")
        ran: ExecutedProgram = {"program": program, "status": outcome.status, "calls": list(calls)}
        self._hypotheses = tuple(hypotheses) or self._hypotheses
        await self._commit(
            Round(
                self.rounds + 1,
                ChatReply(f"{listing}[CODE]:\n```python\n{program}\n```", model=self.person),
                self._hypotheses,
                program,
                outcome,
                tuple(merge_text(parts)),
            ),
            [ran],
        )

    async def answer(self, labels: Sequence[str], description: str = "") -> Review | None:
        """Put an answer to the critic; return its review, None where answers stand untested.

        As for an agent, an answer that is sent back may be followed by others, and the last that may be
        examined stands. When the answer stands, `result` holds the study's result. Where a fault kept the
        result from being written, the same answer again writes it, without another examination.

        Raises:
            UsageError: If there is an answer already, or this is none.
        """
        lines = [f"[DESCRIPTION]: {description}"] if description else []
        lines += [f"[LABEL {i}]: {label}" for i, label in enumerate(labels, 1)]
        reply = "\n".join(lines)
        if self.answered and self.result is None:
            await self._finish()
            if reply == self._records[-1].reply.text:
                return self._review
        self._refuse_if_answered()
        answer = self.context.task.read_answer(reply)
        if answer is None:
            raise UsageError(
                "an answer needs at least one label.", 'Write answer("wheels of cars"), or several labels.'
            )
        review = None
        observation: tuple[Part, ...] = ()
        if self.context.critic is not None:
            before = sum(record.review is not None for record in self._records)
            review = await self.context.critic.examine(answer, before + 1)
            self._review = review
            settled = review.accepted or before + 1 >= self.context.run.settings.max_examinations
            if not settled:
                observation = objection(review, self.context.critic.images)
        else:
            settled = True
        await self._commit(
            Round(
                self.rounds + 1,
                ChatReply(reply, model=self.person),
                (),
                None,
                None,
                observation,
                review,
                answered=settled,
            ),
            [],
        )
        if settled:
            await self._finish()
        return review

    async def _finish(self) -> None:
        """Turn the answer that stands into the result: from the records alone, so also on resuming."""
        answer = self.context.task.read_answer(self._records[-1].reply.text)
        self.result = await self.context.finish(
            StudyOutcome("answered", answer, self._review, tuple(self._records))
        )

    def _refuse_if_answered(self) -> None:
        if self.answered:
            label = f": {self.result.label!r}" if self.result is not None else ""
            raise UsageError(
                f"this study has its answer already{label}.", "Study the unit again with another --out."
            )

    async def _commit(self, finished: Round, sandbox: list[ExecutedProgram]) -> None:
        context = self.context
        tested = context.critic.images if context.critic is not None and finished.review else {}
        record = await commit_round(context.journal, context.toolbox, finished, sandbox, tested)
        self._records.append(record)
