"""One unit from first message to result: the agent, its tools, its critic and its journal put together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from actors.chat.base import ChatModel
from actors.chat.reply import Usage
from actors.images import Image
from actors.vision.readout.base import SampleError
from agents.critic.critic import ConfirmationSettings, Critic
from agents.critic.skeptic import Skeptic
from agents.evidence.verdict import TESTED, verdict_of
from agents.records.journal import Journal, images_tested
from agents.records.label_card import label_card
from agents.records.record_types import (
    EvidenceRecord,
    ExemplarRecord,
    ProposalRecord,
    RoleRecord,
    StudyResult,
    UsageRecord,
)
from agents.records.recorded_chat import RecordedChat
from agents.records.store import Store
from agents.study.agent import Agent, AgentParts, Steering, StudyOutcome
from agents.study.budget import Account, BudgetSettings, Ledger
from agents.study.faults import NO_OBSERVATION, ToolsBrokenError
from agents.study.metered import MeteredChat, MeteredStudio, Rate
from agents.study.observers import BlindObservers
from agents.study.rounds import Round
from agents.study.settings import InterpreterSettings
from agents.study.unit_role import RoleFinder
from agents.tasks.base import Task
from tools.sandbox import Sandbox, SandboxServer, api_page
from tools.subject import OfClass, Sampled, Subject, histogram
from tools.system import Painter, SubjectSystem
from tools.toolbox import EXEMPLARS, Studio, Toolbox, ToolLimits

_FINISHING = 4


class _Tools(Toolbox):
    """A toolbox that ends the study, with `ToolsBrokenError`, at faults that no program should see."""

    async def call(self, method: str, arguments: dict[str, Any]) -> Any:
        try:
            return await super().call(method, arguments)
        except NO_OBSERVATION as fault:
            raise ToolsBrokenError(fault) from fault


@dataclass(frozen=True)
class RunContext:
    """What every study of a run shares. Built in one place by the experiment that runs it."""

    interpreter: ChatModel
    observers: ChatModel
    studio: Studio
    sandboxes: SandboxServer
    paint: Painter
    settings: InterpreterSettings
    confirmation: ConfirmationSettings | None
    rates: dict[str, Rate]
    """What "interpreter" and "observer" charge; a role that is missing is free."""
    facts: dict[str, Any]
    """Versions, model names and fingerprints: written into every result."""
    dollars_per_image: float = 0.0
    """US dollars that are set aside for an image before it is made; 0 where images are free, or their price
    is unknown.
    """
    roles: RoleFinder | None = None
    """Measures what each unit does to the network; None where that is not asked for."""
    withheld: frozenset[str] = frozenset()
    """Calls of programs that are refused, for ablations."""
    finishing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_FINISHING))
    """Places for studies that write their result down. Pictures are painted and encoded then: hundreds that
    did it at once would all end last, and hold up those that still converse.
    """

    @property
    def limits(self) -> ToolLimits:
        """What one study may ask of its tools."""
        settings = self.settings
        none = frozenset() if settings.interventions else {"intervene"}
        return ToolLimits(
            settings.max_images,
            settings.max_observations,
            settings.max_interventions,
            self.withheld | none,
        )

    @property
    def api_page(self) -> str:
        """What agents read of the calls that they have."""
        return api_page(self.sandboxes.dialect, "intervene" not in self.limits.withheld)


@dataclass(frozen=True, slots=True)
class StudyRequest:
    """What is to be studied: a unit, the question about it, and the seed of everything random."""

    subject: Subject
    task: Task
    seed: int = 0
    repeat: int = 0
    """Number of one of several studies of the unit, from 1; 0 for the only one, and for the pooled answer."""
    image_seed: int | None = None
    """Seed of the images, which several studies of a unit make alike; None is `seed`."""
    why: str = ""
    """Why the unit is given an agent, in a run where not all units are."""


@dataclass(frozen=True, slots=True)
class Supervision:
    """How a run supervises a study: what it may spend, when it stops, and who hears of its rounds.

    `on_round` gets the study's number (`StudyRequest.repeat`, 1 for the only study, 0 for a pooled answer).
    """

    account: Account | None = None
    steering: Steering | None = None
    on_round: Callable[[int, Round], None] = lambda number, finished: None


class StudyContext:
    """What one study works with, built from what the run shares: an agent's, or a person's.

    `observer` is blind, `critic` is None where answers stand untested.
    """

    def __init__(
        self, run: RunContext, request: StudyRequest, store: Store, account: Account | None = None
    ) -> None:
        self.run, self.subject, self.task, self.seed = run, request.subject, request.task, request.seed
        self.journal = Journal(store, request.subject.id, request.repeat)
        self._account = account or Ledger(BudgetSettings())
        self._started = time.monotonic()
        self._why = request.why
        self._proposal = self.journal.proposal()
        self.observer = observer = self.recorded(run.observers, "observer")
        studio = MeteredStudio(
            run.studio, self._account, run.dollars_per_image, self.journal.record_image_charge
        )
        self.toolbox = _Tools(
            SubjectSystem(self.subject, run.paint),
            studio,
            BlindObservers(observer, seed=self.seed),
            seed=self.seed if request.image_seed is None else request.image_seed,
            limits=run.limits,
            keeper=self.journal.blobs,
        )
        self.critic: Critic | None = None
        if run.confirmation is not None and self.task.names_concept:
            self.critic = Critic(
                self.subject,
                studio,
                seed=self.seed,
                settings=run.confirmation,
                skeptic=Skeptic(observer, seed=self.seed),
                agent_images=self.toolbox,
            )
            self.critic.earlier = 0 if self._proposal is None else 1

    def recorded(self, model: ChatModel, role: str) -> RecordedChat:
        """Return `model` with its calls paid for and written down."""
        metered = MeteredChat(model, self._account, self.run.rates.get(role, Rate()))
        return RecordedChat(metered, self.journal, role, metered.most)

    def parts(self, sandbox: Sandbox, task: Task, api_page: str) -> AgentParts:
        """Return what an agent works with here."""
        model = self.recorded(self.run.interpreter, "interpreter")
        return AgentParts(
            model, sandbox, self.toolbox, task, self.journal, api_page, self.critic, self.journal.notes
        )

    async def finish(
        self, outcome: StudyOutcome, merge: Callable[[StudyResult], StudyResult] = lambda result: result
    ) -> StudyResult:
        """Write the result down and return it. `merge` may change it before its verdict is derived."""

        def write(result: StudyResult) -> StudyResult:
            self.journal.finish(result)
            self.journal.note_duration(time.monotonic() - self._started)
            return result

        return await self.concluded(outcome, merge, write)

    async def concluded(
        self,
        outcome: StudyOutcome,
        merge: Callable[[StudyResult], StudyResult],
        write: Callable[[StudyResult], StudyResult],
    ) -> StudyResult:
        """Return what `write` returns, in a thread, for the result with its verdict; the images that it names
        are written down before.

        From its images to its record a result keeps one place: with a place for each, all studies that end
        together would write their images before the first of them wrote its record.
        """
        evidence = outcome.review.evidence if outcome.review is not None and outcome.answer else None
        role = await self._role(evidence)
        async with self.run.finishing:
            result = merge(await self._result(outcome, evidence, role))
            verdict = verdict_of(result.to_json())
            confirmed = verdict == "confirmed" if verdict in TESTED else None
            result = result.model_copy(update={"verdict": verdict, "confirmed": confirmed})
            if self.critic is not None:
                await asyncio.to_thread(self.journal.blobs.put, self.critic.images.values())
            card = {"card": label_card(result)} if self.task.names_concept else {}
            return await asyncio.to_thread(write, result.model_copy(update=card))

    async def _role(self, evidence: EvidenceRecord | None) -> RoleRecord | None:
        """Return what the unit does to the network, from the journal if it is there; one of several studies
        leaves that to the pooled answer.
        """
        if self.run.roles is None or self.journal.repeat:
            return None
        known = await asyncio.to_thread(self.journal.role)
        if known is not None:
            return known

        def picture(image_id: str) -> Image:
            made = None if self.critic is None else self.critic.images.get(image_id)
            return self.journal.blobs.get(image_id) if made is None else made

        found = await self.run.roles.find(self.subject, evidence, picture)
        return found if found.status == "failed" else await asyncio.to_thread(self.journal.keep_role, found)

    async def _result(
        self, outcome: StudyOutcome, evidence: EvidenceRecord | None, role: RoleRecord | None
    ) -> StudyResult:
        """Return the result without what is derived from it: verdict and card."""
        answer, review = outcome.answer, outcome.review
        proposal = None if self.journal.repeat else self._proposal
        optional: dict[str, Any] = {
            "role": role,
            "tier": "agent" if self._why else None,
            "why": self._why,
            "proposal": proposal and ProposalRecord(labels=proposal.labels, verdict=proposal.verdict),
        }
        labels = list((review.labels if review else None) or answer.labels) if answer else []
        return StudyResult(
            unit=self.subject.id,
            task=self.task.name,
            status=outcome.status,
            label=" OR ".join(labels) if answer else None,
            labels=labels,
            answered=list(answer.labels) if answer else [],
            description=answer.description if answer else None,
            fields=answer.fields if answer else {},
            evidence=evidence,
            rounds=len(outcome.rounds),
            images_made=self.toolbox.images_made,
            images_tested=images_tested(outcome.rounds) + (proposal.images_tested if proposal else 0),
            exemplars=await self._exemplars(),
            background=asdict(await self.subject.background()) | await self._spread(),
            usage=await self._usage(),
            in_doubt=await asyncio.to_thread(self.journal.in_doubt),
            seed=self.seed,
            facts=self.run.facts | await self._class_name() | await self._masks(),
            **{name: value for name, value in optional.items() if value},
        )

    async def _class_name(self) -> dict[str, str]:
        name = await self.subject.class_name() if isinstance(self.subject, OfClass) else ""
        return {"class_name": name} if name else {}

    async def _masks(self) -> dict[str, str]:
        exemplars = await self.toolbox.system.exemplars(EXEMPLARS)
        return {"masks": "attention"} if any(one.looks is not None for one in exemplars) else {}

    async def _exemplars(self) -> list[ExemplarRecord]:
        exemplars = await self.toolbox.system.exemplars(EXEMPLARS)
        pictures = [image for one in exemplars for image in (one.masked, one.image)]
        await asyncio.to_thread(self.journal.blobs.put, pictures)
        return [
            ExemplarRecord(image=one.masked.id, source=one.image.id, activation=one.response.activation)
            for one in exemplars
        ]

    async def _usage(self) -> dict[str, UsageRecord]:
        usage = await asyncio.to_thread(self.journal.usage)
        roles = {"interpreter": "interpreter", "observers": "observer"}
        charges = {name: usage.get(role, Usage()) for name, role in roles.items()}
        charged = await asyncio.to_thread(self.journal.image_charges)
        if charged != Usage():
            charges["images"] = charged
        return {name: UsageRecord.of(charge) for name, charge in charges.items()}

    async def _spread(self) -> dict[str, Any]:
        """Return the histogram of activations over the data set, of subjects that know it, or why there is
        none.
        """
        if not isinstance(self.subject, Sampled):
            return {}
        try:
            counts = histogram(await self.subject.sample())
        except SampleError as error:
            return {"unsampled": str(error)}  # it is for display: the result stands without it
        return {} if counts is None else {"histogram": counts}


async def study(
    run: RunContext, request: StudyRequest, store: Store, supervision: Supervision | None = None
) -> StudyResult:
    """Return the result of studying one unit, from the store if it is there already.

    Raises:
        MaiaError: If a backend failed for good. Nothing finished is lost: call again to go on.
    """
    supervision = supervision or Supervision()
    context = StudyContext(run, request, store, supervision.account)
    if (done := await asyncio.to_thread(context.journal.done)) is not None and done.tier == "agent":
        return done
    sandbox = await run.sandboxes.open(seed=request.seed)
    return await converse(context, request, sandbox, supervision)


async def converse(
    context: StudyContext, request: StudyRequest, sandbox: Sandbox, supervision: Supervision
) -> StudyResult:
    """Return the result of an agent's study that has none yet; closes the sandbox.

    Raises:
        MaiaError: As `study` does.
    """
    run = context.run
    try:
        agent = Agent(
            context.parts(sandbox, request.task, run.api_page),
            run.settings,
            seed=request.seed,
            steering=supervision.steering,
            on_round=partial(supervision.on_round, request.repeat or 1),
        )
        outcome = await agent.run()
    except ToolsBrokenError as broken:
        raise broken.fault from None
    finally:
        await sandbox.close()
    return await context.finish(outcome)
