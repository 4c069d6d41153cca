"""One unit in a client's hands: the built-in agent's conversation, with the client's calls as replies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.chat.base import ChatModel, ChatRequest, Part
from actors.errors import MaiaError, UsageError
from agents.evidence.verdict import MEANINGS, verdict_of
from agents.records.record_types import RoundRecord, StudyResult
from agents.study.agent import Steering
from agents.study.budget import Cost
from agents.study.metered import Rate
from agents.study.rounds import Round
from agents.study.study import StudyContext, StudyRequest, Supervision, converse
from experiments.mcp_server import programs
from experiments.mcp_server.answers import (
    BudgetLeft,
    OutcomeFigure,
    OutsideOutcome,
    StudyPhase,
    StudyUpdate,
)
from experiments.mcp_server.interruptible import InterruptibleSandbox
from experiments.mcp_server.outside_model import OutsideModel, Turn
from experiments.records.headline import headline

_log = logging.getLogger(__name__)
_CLOSING_S = 5.0
"""Seconds in which a program that is ended by closing its study is written down."""
_KEPT = frozenset({"ok", "error", "memory", "forbidden"})
"""Ends of a program after which its variables are still there."""


class FreeRate(Rate):
    """Of a model that somebody else pays for: nothing is set aside while its reply is awaited."""

    def most(self, request: ChatRequest) -> Cost:
        return Cost()


@dataclass(frozen=True, slots=True)
class PreparedStudy:
    """What a study works with, once its network runs and its unit is known."""

    context: StudyContext
    request: StudyRequest
    steering: Steering


Prepare = Callable[[ChatModel, Callable[[str], None]], Awaitable[PreparedStudy]]
"""Returns what a study works with, given its interpreter and who hears of each step."""
WriteReport = Callable[[str], Awaitable[Path | None]]
"""Writes the pages of a unit that has a result, and returns the unit's."""


class OutsideStudy:
    """Begins to work when it is made. One call at a time: the next waits for the result of the one before."""

    def __init__(
        self, id: str, layer: str, unit: str, model: OutsideModel, prepare: Prepare, write_report: WriteReport
    ) -> None:
        self.id, self.layer, self.unit, self.model = id, layer, unit, model
        self._prepare, self._write_report = prepare, write_report
        self._doing = "starting"
        self._prepared: PreparedStudy | None = None
        self._sandbox: InterruptibleSandbox | None = None
        self._known: dict[str, None] = {}
        self._hypotheses: tuple[str, ...] = ()
        self._testing = self._closed = False
        self.rounds = 0
        """Finished rounds, as far as they are known."""
        self._report: Path | None = None
        self._task = asyncio.create_task(self._run())

    @property
    def unit_id(self) -> str | None:
        """The unit's id, once it is known."""
        return None if self._prepared is None else self._prepared.request.subject.id

    @property
    def state(self) -> StudyPhase:
        if self._closed or self._task.cancelled():
            return "closed"
        if self._task.done():
            return "failed" if self._task.exception() is not None else "ended"
        if self.model.turn is not None:
            return "ready"
        if self._sandbox is None:
            return "starting"
        return "testing" if self._testing else "running"

    @property
    def over(self) -> bool:
        """Whether no call can follow."""
        return self._closed or self._task.done()

    # What a client does.

    def propose(self, hypotheses: Sequence[str]) -> None:
        """Note what could explain the unit: the next experiment is recorded as a test of it.

        Raises:
            UsageError: If they cannot be written down.
        """
        self._hypotheses = programs.checked_hypotheses(hypotheses)

    def run(self, program: str, uses: Sequence[str] = ()) -> None:
        """Begin an experiment; `uses` names the images that must be known.

        Raises:
            UsageError: If the study cannot take one now, or the program cannot be written down.
        """
        if self._turn().final:
            raise UsageError(
                "there are no experiments left in this study.", "Give the final answer with `answer`."
            )
        programs.check_known(uses, self._known)
        self.model.reply(programs.experiment(program, self._hypotheses))
        self._hypotheses = ()
        self._doing = "running the program"

    def answer(self, labels: Sequence[str], description: str) -> None:
        """Give the answer to the critic.

        Raises:
            UsageError: If the study cannot take one now, or this is none.
        """
        self._turn()
        assert self._prepared is not None, "a turn waits only in a study that is prepared"
        self.model.reply(programs.answer(labels, description, self._prepared.request.task))
        self._testing, self._doing = True, "testing the answer on fresh images"

    def interrupt(self) -> bool:
        """End the program that runs; return whether there was one. An answer under test stays."""
        return self._sandbox is not None and self._sandbox.interrupt()

    async def wait(self, seconds: float) -> bool:
        """Return whether the study awaits a call or is over, after at most so many seconds."""
        if self.model.turn is None and not self.over:
            waiting = asyncio.ensure_future(self.model.waiting.wait())
            await asyncio.wait({self._task, waiting}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
        return self.model.turn is not None or self.over

    async def close(self) -> None:
        """Stop, and keep what was done: the study can be opened again."""
        if self.interrupt():
            await self.wait(_CLOSING_S)
        self._closed = not self._task.done()
        self._task.cancel()
        await asyncio.wait([self._task])

    def failure(self) -> BaseException | None:
        """Return the error that ended the study, if one did."""
        return self._task.exception() if self._task.done() and not self._task.cancelled() else None

    # What it is answered.

    def update(self) -> StudyUpdate:
        """Return how the study stands."""
        turn = self.model.turn
        return StudyUpdate(
            study=self.id,
            state=self.state,
            doing="" if turn is not None or self.over else self._progress(),
            rounds=self.rounds,
            left=self._left(),
            must_answer=turn is not None and turn.final,
            images=[image for image, _ in programs.seen_images(self.shown())],
            outcome=self._outcome(),
        )

    @property
    def api_page(self) -> str:
        """What programs may call, once it is known."""
        return "" if self._prepared is None else self._prepared.context.run.api_page

    async def journal(self) -> list[RoundRecord]:
        """Return the finished rounds that are on record."""
        if self._prepared is None:
            return []
        return await asyncio.to_thread(self._prepared.context.journal.rounds)

    def shown(self) -> tuple[Part, ...]:
        """Return what the last round showed, if the next call is awaited."""
        return () if self.model.turn is None else self.model.turn.shown

    def _turn(self) -> Turn:
        if self.model.turn is None:
            raise self._refusal()
        return self.model.turn

    def _refusal(self) -> UsageError:
        if self.state == "ended":
            return UsageError(
                "this study has its answer.", "Read it with `status`, or open the study of another unit."
            )
        if self.over:
            return UsageError("this study is closed.", "Go on with it by `open_study` of the same unit.")
        return UsageError(f"the study is at work ({self._doing}).", "Call `wait` for the result first.")

    def _progress(self) -> str:
        if self._prepared is None or self.state == "starting":
            return self._doing
        return f"{self._doing}; {self._prepared.context.toolbox.images_made} images made so far"

    def _left(self) -> BudgetLeft | None:
        if self._prepared is None:
            return None
        toolbox, limits = self._prepared.context.toolbox, self._prepared.context.run.settings

        def left(limit: int | None, used: int) -> int | None:
            return None if limit is None else max(0, limit - used)

        return BudgetLeft(
            rounds=max(0, limits.max_rounds - self.rounds),
            images=left(limits.max_images, toolbox.images_made),
            descriptions=left(limits.max_observations, toolbox.observations),
            interventions=left(limits.max_interventions, toolbox.interventions),
        )

    def _outcome(self) -> OutsideOutcome | None:
        if self.state != "ended":
            return None
        from experiments.report.figures import figures_of, reason

        record = self._task.result().to_json()
        verdict, evidence = verdict_of(record), record.get("evidence")
        return OutsideOutcome(
            label=record.get("label"),
            headline=headline(record),
            verdict=verdict,
            meaning=MEANINGS[verdict],
            reason=reason(evidence),
            figures=[OutcomeFigure(name=each.name, value=each.value) for each in figures_of(evidence)],
            report=None if self._report is None else str(self._report),
        )

    # How it works.

    async def _run(self) -> StudyResult:
        try:
            result = await self._study()
            self._doing = "writing the report"
            try:
                self._report = await self._write_report(result.unit)
            except Exception:  # the result is on record, whatever becomes of its pages
                _log.exception("the report of the study %s could not be written", self.id)
            return result
        except MaiaError:
            raise
        except Exception as error:
            _log.exception("the study %s met a fault in the program", self.id)
            raise MaiaError(f"the program failed: {type(error).__name__}.", "Its log has more.") from error

    async def _study(self) -> StudyResult:
        prepared = await self._prepare(self.model, self._note)
        context, request = prepared.context, prepared.request
        self._prepared = prepared
        if (done := await asyncio.to_thread(context.journal.done)) is not None:
            return done
        for record in await asyncio.to_thread(context.journal.rounds):
            self._count(record.round, record.outcome.status if record.outcome else None, record.observation)
        self._note("searching the data set for exemplars")
        await request.subject.prepare(self._search)
        server = context.run.sandboxes
        self._sandbox = InterruptibleSandbox(await server.open(seed=request.seed), server.tier)
        supervision = Supervision(steering=prepared.steering, on_round=self._finish)
        return await converse(context, request, self._sandbox, supervision)

    def _note(self, sentence: str) -> None:
        self._doing = sentence

    def _search(self, done: int, total: int) -> None:
        self._doing = f"searching the data set for exemplars: {done} of {total} images"

    def _finish(self, _: int, finished: Round) -> None:
        self._testing = False
        status = None if finished.outcome is None else finished.outcome.status
        self._count(finished.number, status, finished.observation)

    def _count(self, number: int, status: str | None, observation: Sequence[object]) -> None:
        """Count a finished round; what a program that died had named is not there any more."""
        self.rounds = number
        if status in _KEPT:
            self._known.update(dict.fromkeys(programs.names_in(observation)))
