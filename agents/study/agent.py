"""The agent: a loop of reply, program, observation, against any chat model (MAIA, section 3).

What the model was shown and what it said is the whole state, so a run can be taken up again from its
journal. The loop ends for certain: after the last round a final answer is demanded, once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, cast

import structlog

from actors.chat.base import ChatModel, ChatRequest, Message, Part
from actors.chat.history import drop_images_in_blocks
from actors.chat.reply import ChatReply
from actors.endpoint.faults import ContextLengthError, ImagesError
from actors.errors import MaiaError
from actors.images import Image
from agents.critic.review import Review
from agents.evidence.verdict import HOLDING
from agents.records.journal import Journal
from agents.records.record_types import (
    NoteRecord,
    ReplyRecord,
    RoundRecord,
    StudyStatus,
)
from agents.records.recorded_chat import request_key
from agents.study.notes import note_text
from agents.study.rounds import Round, commit_round, merge_text, objection
from agents.study.settings import InterpreterSettings
from agents.tasks.base import FinalAnswer, Task, chat_task_of, read_hypotheses, read_program
from tools.sandbox import ExecutedProgram, ProgramOutcome, Sandbox
from tools.screen import Screen
from tools.toolbox import Toolbox

_MAX_REFUSALS = 3
_NO_REPLY = "No reply came through (it was declined or filtered). Go on with the study of this unit."
_FILTERED = "(What this observation showed was left out: the model's provider filtered it. Go on without it.)"


class Examiner(Protocol):
    """Judges a final answer before it is accepted."""

    @property
    def images(self) -> Mapping[str, Image]:
        """What it has shown to the unit, by id."""

    async def examine(self, answer: FinalAnswer, attempt: int) -> Review: ...


class StudyPausedError(MaiaError):
    """A study stopped between two rounds because it was asked to; it can be resumed."""


class Steering(Protocol):
    """How a run controls a study between two rounds."""

    def paused(self) -> bool:
        """Return whether to stop now, to be resumed later."""

    def conclude(self) -> str:
        """Return why the study should end with its next reply, such as a spent budget; "" to go on."""


class NoSteering:
    """Lets a study run to its end."""

    def paused(self) -> bool:
        return False

    def conclude(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class StudyOutcome:
    """How a study ended. `answer` is None unless `status` is "answered"."""

    status: StudyStatus
    answer: FinalAnswer | None
    review: Review | None
    rounds: tuple[RoundRecord, ...] = field(repr=False, default=())


@dataclass(frozen=True, slots=True)
class AgentParts:
    """What the agent of one study works with. Without an examiner every answer is accepted."""

    model: ChatModel
    sandbox: Sandbox
    toolbox: Toolbox
    task: Task
    journal: Journal
    api_page: str
    """The first message: what programs may call."""
    examiner: Examiner | None = None
    notes: Callable[[int], Sequence[NoteRecord]] = lambda after: ()
    """Returns what people wrote to the study after the note of that number."""


class Agent:
    """Studies one unit."""

    def __init__(
        self,
        parts: AgentParts,
        settings: InterpreterSettings | None = None,
        *,
        seed: int = 0,
        steering: Steering | None = None,
        on_round: Callable[[Round], None] = lambda _: None,
    ) -> None:
        self._model, self._sandbox, self._toolbox = parts.model, parts.sandbox, parts.toolbox
        self._task, self._journal, self._api_page = parts.task, parts.journal, parts.api_page
        self._examiner, self._notes = parts.examiner, parts.notes
        self._settings = settings or InterpreterSettings()
        self._toolbox.screen = Screen(self._settings.max_images_shown, self._settings.max_text_shown)
        self._steering = steering or NoSteering()
        self._seed, self._on_round = seed, on_round
        self._log = structlog.get_logger(__name__).bind(
            unit=self._toolbox.system.subject.id, task=self._task.name
        )
        self._messages: list[Message] = []
        self._records: list[RoundRecord] = []
        self._examinations = 0
        self._recorded = 0
        self._n_notes = 0
        self._too_long = False
        self._demanded = False
        self._review: Review | None = None

    async def run(self) -> StudyOutcome:
        """Run, or take up, the study until it ends.

        Raises:
            StudyPausedError: If it was asked to pause; everything so far is on disk.
        """
        opening = self._task.opening()
        if self._settings.max_rounds == 1:
            opening = f"{opening}\n{self._task.last_word()}"
        self._messages = [Message("system", (self._api_page,)), Message("user", (opening,))]
        await self._resume(self._journal.rounds())
        while (status := self._status()) is None:
            if self._steering.paused():
                raise StudyPausedError(f"paused after round {len(self._records)}.")
            await self._round(len(self._records) + 1)
        answer = self._task.read_answer(self._records[-1].reply.text) if status == "answered" else None
        outcome = StudyOutcome(status, answer, self._review, tuple(self._records))
        return self._earlier(outcome) or outcome

    def _earlier(self, outcome: StudyOutcome) -> StudyOutcome | None:
        """Return the outcome with the last answer that held, where the one that the study ended with does
        not, or is none.

        An answer that holds may go back for what it leaves unexplained: nothing is lost by the attempt.
        """
        if outcome.review is None or (_holds(outcome.review) and outcome.answer is not None):
            return None
        for record in reversed(self._records):
            review = record.review
            answer = self._task.read_answer(record.reply.text)
            if review is not None and answer is not None and _holds(review):
                stands = Review(accepted=True, objection="", evidence=review.evidence, labels=review.labels)
                return replace(outcome, status="answered", answer=answer, review=stands)
        return None

    def _status(self) -> StudyStatus | None:
        """Return how the study ended, None if it goes on: from the records alone, so also on resuming."""
        if self._records and self._records[-1].answered:
            return "answered"
        if self._records and self._records[-1].last:
            return "no_answer"
        recent = [record.reply.finish for record in self._records[-_MAX_REFUSALS:]]
        if len(recent) == _MAX_REFUSALS and set(recent) <= {"refused", "filtered"}:
            return "refused"
        return None

    async def _round(self, number: int) -> None:
        """Play one round and write it down. The last one only answers."""
        last = self._demanded or number >= self._settings.max_rounds
        notes = await asyncio.to_thread(self._unread_notes)
        self._add_notes(notes)
        reply = await self._reply()
        program = None if last or reply.finish != "stop" else read_program(reply.text)
        answer = self._task.read_answer(reply.text) if program is None else None
        outcome = review = None
        if program is not None:
            outcome = await self._sandbox.run(program, self._toolbox)
            observation = self._observe(outcome, premature=self._task.read_answer(reply.text) is not None)
        elif answer is not None:
            review = await self._examine(answer)
            observation = () if self._settled(review, last) else self._objection(review)
        else:
            observation = (self._nothing_to_run(reply),)
        reason = self._steering.conclude()
        demanded = (
            bool(observation) and not last and (number == self._settings.max_rounds - 1 or bool(reason))
        )
        if demanded:
            observation = (*observation, *([reason] if reason else []), self._task.last_word())
        finished = Round(
            number,
            reply,
            tuple(read_hypotheses(reply.text)),
            program,
            outcome,
            observation,
            review,
            answered=answer is not None and not observation,
            last=last,
            demanded=demanded,
            notes=tuple(notes),
        )
        self._review = review or self._review
        await self._commit(finished)

    async def _reply(self) -> ChatReply:
        """Return the model's next turn; a conversation that is too long for it is sent without old images.

        Raises:
            ContextLengthError: If even that is too long.
        """
        request = self._request(self._messages)
        if not self._too_long:
            try:
                return await self._model.complete(request)
            except (ContextLengthError, ImagesError) as error:
                self._too_long = True
                self._log.warning("old images are left out", why=error.message)
        return await self._model.complete(_without_images(request))

    def _request(self, messages: Sequence[Message]) -> ChatRequest:
        return ChatRequest(
            tuple(messages),
            conversation=self._toolbox.system.subject.id,
            max_tokens=self._settings.max_tokens,
            temperature=self._settings.temperature,
            seed=self._seed,
            task=chat_task_of(self._task, self._demanded),
        )

    async def _examine(self, answer: FinalAnswer) -> Review | None:
        if self._examiner is None:
            return None
        self._examinations += 1
        return await self._examiner.examine(answer, self._examinations)

    def _objection(self, review: Review | None) -> tuple[Part, ...]:
        """Return why an answer is sent back, and the images that show it."""
        if review is None or self._examiner is None:
            return ("",)
        return objection(review, self._examiner.images)

    def _settled(self, review: Review | None, last: bool) -> bool:
        exhausted = last or self._examinations >= self._settings.max_examinations
        return review is None or review.accepted or exhausted

    def _observe(self, outcome: ProgramOutcome, *, premature: bool) -> tuple[Part, ...]:
        """Return what the model is shown of a program: displays and log entries, prints, the error."""
        parts: list[Part] = list(self._toolbox.screen.take())
        if printed := outcome.output.rstrip():
            parts.append(_shorten(printed, self._settings.max_text_shown))
        if outcome.output_truncated:
            parts.append("(The printed output was too long and was cut.)")
        if outcome.output_lost:
            parts.append("(The program closed or replaced its output: what it printed after that is lost.)")
        if outcome.status != "ok":
            parts.append(f"The program ended with: {outcome.error}")
        parts += outcome.notes
        if not parts:
            parts.append(
                "The program ran and showed nothing. Use tools.display(...), tools.log_experiment(...) or "
                "print(...)."
            )
        if premature:
            parts.append(
                "Your reply held both a program and a final answer: the program was run, and the answer "
                "was not taken. If the observation above supports it, give the answer again without a "
                "program."
            )
        return tuple(merge_text(parts))

    @staticmethod
    def _nothing_to_run(reply: ChatReply) -> str:
        if reply.finish == "length":
            return (
                "Your reply was cut off because it was too long, and nothing was run. Write less: one short "
                "program."
            )
        if reply.finish in ("refused", "filtered"):
            return _NO_REPLY
        if not reply.text.strip() and reply.thoughts:
            return "Your reply held thoughts only. Write a program after [CODE]:, or your final answer."
        if not reply.text.strip():
            return "Your reply was empty. Write a program after [CODE]:, or your final answer."
        return (
            "Your reply held neither a program in a ```python block nor a final answer with [LABEL]:. "
            "Write one program that tests your hypotheses, or give the final answer."
        )

    async def _commit(self, finished: Round) -> None:
        # Only what this round added: the sandbox's own record grows with each program.
        programs = self._sandbox.record[self._recorded :]
        tested = self._examiner.images if self._examiner and finished.review else {}
        record = await commit_round(self._journal, self._toolbox, finished, programs, tested)
        self._extend(record.reply, finished.observation)
        self._recorded += len(record.sandbox or ())
        self._demanded = finished.demanded
        self._records.append(record)
        self._log.info(
            "round",
            round=finished.number,
            program=finished.program is not None,
            outcome=finished.outcome.status if finished.outcome else None,
            images_made=self._toolbox.images_made,
        )
        self._on_round(finished)

    def _extend(self, reply: ReplyRecord, observation: Sequence[Part]) -> None:
        """Add a recorded reply and what followed it; if it was filtered, leave out what the conversation had
        last.
        """
        text = reply.text or "(empty)"
        if reply.finish == "filtered":
            text = "(filtered)"
            self._leave_out_newest()
        self._messages.append(Message("assistant", (text,), reply.thoughts))
        if observation:
            self._messages.append(Message("user", tuple(observation)))

    def _unread_notes(self) -> Sequence[NoteRecord]:
        """Return the notes that the next reply is to: those that it read, where it is on record from a round
        that was interrupted. A note that came later waits for the round after: else the reply would be paid
        for again.
        """
        unread = self._notes(self._n_notes)
        read = (unread[:n] for n in range(len(unread), -1, -1))
        return next((notes for notes in read if unread and self._is_on_record(notes)), unread)

    def _is_on_record(self, notes: Sequence[NoteRecord]) -> bool:
        request = self._request([*self._messages[:-1], _with_notes(self._messages[-1], notes)])
        keys = (request_key(self._model.name, each) for each in (request, _without_images(request)))
        return any(self._journal.answer(key) is not None for key in keys)

    def _add_notes(self, notes: Sequence[NoteRecord]) -> None:
        """Add notes to what the model reads next: the opening, or the last observation."""
        if notes:
            self._messages[-1] = _with_notes(self._messages[-1], notes)
            self._n_notes = notes[-1].number

    def _leave_out_newest(self) -> None:
        """Replace the newest observation that is still whole: sent again, it would be filtered again."""
        for at in range(len(self._messages) - 1, 1, -1):
            message = self._messages[at]
            if message.role == "user" and message.parts not in ((_FILTERED,), (_NO_REPLY,)):
                self._messages[at] = Message("user", (_FILTERED,))
                return

    async def _resume(self, records: list[RoundRecord]) -> None:
        """Rebuild conversation, toolbox and sandbox from finished rounds."""
        if not records:
            return
        blobs = self._journal.blobs
        for record in records:
            observation = tuple(p if isinstance(p, str) else blobs[p.image] for p in record.observation)
            self._add_notes(record.notes)
            self._extend(record.reply, observation)
            if record.review is not None:
                self._examinations += 1
                self._review = record.review
        last = records[-1]
        self._demanded = last.demanded
        self._toolbox.restore(last.toolbox.model_dump(), blobs)
        programs = [
            cast(ExecutedProgram, program.to_json()) for record in records for program in record.sandbox or ()
        ]
        self._recorded = len(programs)
        if programs:
            self._sandbox.restore(programs, blobs)
        self._records = list(records)
        self._log.info("resumed", rounds=len(records))


def _with_notes(message: Message, notes: Sequence[NoteRecord]) -> Message:
    return replace(message, parts=(*message.parts, *map(note_text, notes)))


def _without_images(request: ChatRequest) -> ChatRequest:
    return replace(request, messages=drop_images_in_blocks(request.messages, 0, 1))


def _holds(review: Review) -> bool:
    return review.evidence.verdict in HOLDING


def _shorten(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... ({len(text) - 2 * half} characters left out) ...\n{text[-half:]}"
