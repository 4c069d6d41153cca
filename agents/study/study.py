"""One unit from first message to result: the agent, its tools, its critic and its journal put together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from actors.chat.base import ChatModel, Usage
from actors.errors import MaiaError
from actors.vision.readout.base import SampleError
from agents.critic.critic import ConfirmationSettings, Critic
from agents.critic.sceptic import Sceptic
from agents.evidence.label_card import label_card
from agents.evidence.verdict import TESTED, verdict_of
from agents.records.journal import Journal, RecordedChat
from agents.records.store import Store
from agents.study.budget import Account, BudgetSettings, Ledger, MeteredChat, MeteredStudio, Rate
from agents.study.faults import NO_OBSERVATION, ToolsBrokenError
from agents.study.interpreter import (
    Interpreter,
    InterpreterSettings,
    Round,
    Steering,
    Study,
    images_tested,
)
from agents.study.observers import BlindObservers
from agents.tasks.base import Task
from tools.sandbox import SandboxServer, api_page
from tools.subject import Sampled, Subject, histogram
from tools.system import Painter, SubjectSystem
from tools.toolbox import EXEMPLARS, Studio, Toolbox

_FINISHING = 4


class _Tools(Toolbox):
    """A toolbox whose machinery may break without a program noticing."""

    async def call(self, method: str, arguments: dict[str, Any]) -> Any:
        try:
            return await super().call(method, arguments)
        except NO_OBSERVATION as fault:
            raise ToolsBrokenError(fault) from fault


@dataclass(frozen=True)
class Laboratory:
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
    """US dollars that are set aside for an image before it is made; 0 where images are free, or nobody knows.
    """
    withheld: frozenset[str] = frozenset()
    """Calls of programs that are refused, for ablations."""
    finishing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_FINISHING))
    """Places for studies that write their result down. Pictures are painted and encoded then: hundreds that
    did it at once would all end last, and hold up those that still converse.
    """


@dataclass(frozen=True, slots=True)
class Repeat:
    """One of several studies of a unit: its number from 1, and the seed of the images that all of them make
    alike.
    """

    number: int
    image_seed: int


class Workplace:
    """What one study works with, built from what the run shares: an agent's, or a person's.

    `observer` looks blind, `critic` is None where answers stand untested.
    """

    def __init__(
        self,
        laboratory: Laboratory,
        subject: Subject,
        task: Task,
        store: Store,
        *,
        seed: int = 0,
        account: Account | None = None,
        repeat: Repeat | None = None,
    ) -> None:
        self.laboratory, self.subject, self.task, self.seed = laboratory, subject, task, seed
        self.journal = Journal(store, subject.id, repeat.number if repeat else 0)
        self._purse = account or Ledger(BudgetSettings())
        self._started = time.monotonic()
        self.observer = observer = self.recorded(laboratory.observers, "observer")
        studio = MeteredStudio(
            laboratory.studio, self._purse, laboratory.dollars_per_image, self.journal.record_image_charge
        )
        self.toolbox = _Tools(
            SubjectSystem(subject, laboratory.paint),
            studio,
            BlindObservers(observer, seed=seed),
            seed=repeat.image_seed if repeat else seed,
            max_images=laboratory.settings.max_images,
            max_observations=laboratory.settings.max_observations,
            withheld=laboratory.withheld,
            keeper=self.journal.blobs,
        )
        self.critic: Critic | None = None
        if laboratory.confirmation is not None and task.names_concept:
            self.critic = Critic(
                subject,
                studio,
                seed=seed,
                settings=laboratory.confirmation,
                sceptic=Sceptic(observer, seed=seed),
                makings=self.toolbox,
            )

    def recorded(self, model: ChatModel, role: str) -> RecordedChat:
        """Return `model` with its calls paid for and written down."""
        metered = MeteredChat(model, self._purse, self.laboratory.rates.get(role, Rate()))
        return RecordedChat(metered, self.journal, role, metered.about)

    async def finish(
        self, outcome: Study, adding: Callable[[dict[str, Any]], None] = lambda _: None
    ) -> dict[str, Any]:
        """Write the result down and return it: plain JSON values; `docs/architecture.md` names its fields.

        `adding` is called with it before its verdict is told.
        """
        record = await self._result(outcome)
        usage = await asyncio.to_thread(self.journal.usage)
        record["usage"] = {
            name: asdict(usage.get(role, Usage()))
            for name, role in (("interpreter", "interpreter"), ("observers", "observer"))
        }
        charged = await asyncio.to_thread(self.journal.image_charges)
        if charged != Usage():
            record["usage"]["images"] = asdict(charged)
        adding(record)
        record["verdict"] = verdict_of(record)
        record["confirmed"] = record["verdict"] == "confirmed" if record["verdict"] in TESTED else None
        if self.task.names_concept:
            record["card"] = label_card(record)
        record["in_doubt"] = await asyncio.to_thread(self.journal.in_doubt)
        if self.critic is not None:
            await asyncio.to_thread(self.journal.blobs.put, self.critic.images.values())
        await asyncio.to_thread(self.journal.finish, record)
        self.journal.note_duration(time.monotonic() - self._started)
        return record

    async def _result(self, outcome: Study) -> dict[str, Any]:
        answer, verdict = outcome.answer, outcome.verdict
        labels = list((verdict.labels if verdict else None) or answer.labels) if answer else []
        exemplars = await self.toolbox.system.exemplars(EXEMPLARS)
        pictures = [image for each in exemplars for image in (each.masked, each.image)]
        await asyncio.to_thread(self.journal.blobs.put, pictures)
        return {
            "unit": self.subject.id,
            "task": self.task.name,
            "status": outcome.ending,
            "label": " OR ".join(labels) if answer else None,
            "labels": labels,
            "answered": list(answer.labels) if answer else [],
            "description": answer.description if answer else None,
            "fields": answer.fields if answer else {},
            "evidence": verdict.evidence if verdict and answer else None,
            "rounds": len(outcome.rounds),
            "images_made": self.toolbox.images_made,
            "images_tested": images_tested(outcome.rounds),
            "exemplars": [
                {"image": each.masked.id, "source": each.image.id, "activation": each.response.activation}
                for each in exemplars
            ],
            "background": asdict(await self.subject.background()) | await self._spread(),
            "seed": self.seed,
            "facts": self.laboratory.facts,
        }

    async def _spread(self) -> dict[str, Any]:
        """Return the histogram of activations over the data set, of subjects that know it, or why there is
        none.
        """
        if not isinstance(self.subject, Sampled):
            return {}
        try:
            found = histogram(await self.subject.sample())
        except SampleError as error:
            return {"unsampled": str(error)}  # it is for people to look at: the result stands without it
        return {} if found is None else {"histogram": found}


async def study(
    laboratory: Laboratory,
    subject: Subject,
    task: Task,
    store: Store,
    *,
    seed: int = 0,
    steering: Steering | None = None,
    account: Account | None = None,
    on_round: Callable[[Round], None] = lambda _: None,
    repeat: Repeat | None = None,
) -> dict[str, Any]:
    """Return the result of studying one unit, from the store if it is there already.

    Raises:
        MaiaError: If a backend failed for good. Nothing finished is lost: call again to go on.
    """
    place = Workplace(laboratory, subject, task, store, seed=seed, account=account, repeat=repeat)
    if (done := await asyncio.to_thread(place.journal.done)) is not None:
        return done
    sandbox = await laboratory.sandboxes.open(seed=seed)
    try:
        agent = Interpreter(
            place.recorded(laboratory.interpreter, "interpreter"),
            sandbox,
            place.toolbox,
            task,
            place.journal,
            api_page=api_page(laboratory.sandboxes.dialect),
            examiner=place.critic,
            settings=laboratory.settings,
            steering=steering,
            seed=seed,
            on_round=on_round,
        )
        outcome = await agent.run()
    except ToolsBrokenError as broken:
        raise broken.fault from None
    finally:
        await sandbox.close()
    async with laboratory.finishing:
        return await place.finish(outcome)


def failure(subject: Subject, task: Task, error: MaiaError) -> dict[str, Any]:
    """Return the result of a study that a fault ended: typed and told, never empty."""
    return {
        "unit": subject.id,
        "task": task.name,
        "status": "failed",
        "error": {"type": type(error).__name__, "message": error.message, "fix": error.fix},
    }


def total_usage(record: dict[str, Any]) -> Usage:
    """Return what a study's chat calls cost together."""
    parts = [Usage(**value) for value in record.get("usage", {}).values()]
    return sum(parts, Usage())
