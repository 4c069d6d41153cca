"""What a run and each of its units may spend, reserved before a call is sent and settled after it.

One ledger holds a run's account for all hosts. Near a limit nothing new is started and agents are asked for
their final answers; at the limit calls are refused. After a crash the account is rebuilt from the records,
which count calls in doubt as paid.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from itertools import repeat
from typing import Protocol

from actors.chat.reply import Usage
from actors.errors import MaiaError
from agents.records.journal import doubtful, images_tested, unit_folder
from agents.records.record_types import (
    AnswerRecord,
    CallRecord,
    RoundRecord,
    SurveyRecord,
    UsageRecord,
    load_record,
)
from agents.records.run_files import RecordError
from agents.records.store import Store
from agents.study.settings import BudgetSettings

_NEAR = 0.9
"""The part of a limit at which agents are asked to conclude: what is left pays for their last replies."""
_FIELDS = ("dollars", "tokens", "requests", "images")
"""What a cost is made of and a budget may limit."""


class BudgetSpentError(MaiaError):
    """The run's budget has no room for the next call: it stops, and can be resumed with a larger one."""

    in_doubt = 0
    """Attempts that may have been billed: none, as for every call that is refused here."""


class UnitBudgetError(MaiaError):
    """One unit's budget has no room for its next call; other units go on."""

    in_doubt = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """What something costs, or may cost."""

    dollars: float = 0.0
    tokens: int = 0
    requests: int = 0
    images: int = 0
    unpriced: int = 0
    """Requests and images whose price is unknown: they are not in `dollars`."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def __sub__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, each.name) - getattr(other, each.name) for each in fields(self)))

    @classmethod
    def of(cls, usage: Usage) -> Cost:
        tokens = usage.prompt_tokens + usage.completion_tokens
        return cls(usage.dollars, tokens, usage.requests, unpriced=usage.unpriced)


class Account(Protocol):
    """Where costs are asked for; held here or in another process."""

    async def reserve(self, cost: Cost) -> None:
        """Set `cost` aside.

        Raises:
            BudgetSpentError, UnitBudgetError: If there is no room for it.
        """

    async def settle(self, reserved: Cost, spent: Cost) -> str:
        """Replace a reservation by what was really spent; return as `near`."""

    async def near(self) -> str:
        """Return which limit is near, in words for the agent; "" while there is room."""


class Ledger:
    """An account in this process. `spent` is what was spent before; `elapsed_s` returns the time worked."""

    def __init__(
        self,
        limits: BudgetSettings,
        spent: Cost | None = None,
        *,
        what: str = "run",
        error: Callable[[str, str], MaiaError] = BudgetSpentError,
        elapsed_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.limits, self.spent = limits, spent or Cost()
        self.reserved = Cost()
        self._what, self._error, self._elapsed_s = what, error, elapsed_s
        self._largest = Cost()
        self._settled = asyncio.Event()

    async def reserve(self, cost: Cost) -> None:
        while True:
            for name, limit in self._limits():
                if getattr(cost, name) and getattr(self.spent + cost, name) > limit:
                    raise self._refusal(name, limit, cost)
            if self._hours_left() <= 0:
                raise self._refusal("hours", self.limits.hours or 0)
            committed = self.spent + self.reserved + cost
            if all(
                getattr(committed, name) <= limit for name, limit in self._limits() if getattr(cost, name)
            ):
                break
            # What others have set aside is more than they will spend: there may be room when they settle.
            await self._settled.wait()
        self.reserved = self.reserved + cost
        self._largest = Cost(*(max(getattr(self._largest, name), getattr(cost, name)) for name in _FIELDS))

    async def settle(self, reserved: Cost, spent: Cost) -> str:
        self.reserved = self.reserved - reserved
        self.spent = self.spent + spent
        self._settled.set()
        self._settled = asyncio.Event()
        return await self.near()

    async def near(self) -> str:
        committed = self.spent + self.reserved
        for name, limit in self._limits():
            used = getattr(committed, name)
            # Room for one more call and the final answer after it, by what is set aside for a call: with
            # less, the final answer would be refused. On a large budget a tenth is more.
            if used >= _NEAR * limit or (used and used + 2 * getattr(self._largest, name) > limit):
                return f"The {self._what}'s budget of {limit:g} {name} is nearly spent."
        if self.limits.hours is not None and self._hours_left() <= (1 - _NEAR) * self.limits.hours:
            return f"The {self._what}'s time of {self.limits.hours:g} hours is nearly over."
        return ""

    def _limits(self) -> list[tuple[str, float]]:
        return [(name, limit) for name in _FIELDS if (limit := getattr(self.limits, name)) is not None]

    def _hours_left(self) -> float:
        hours = self.limits.hours
        return float("inf") if hours is None else hours - self._elapsed_s() / 3600

    def _refusal(self, name: str, limit: float, cost: Cost | None = None) -> MaiaError:
        what = f"the {self._what}'s budget of {limit:g} {name}"
        fix = f"Raise {'sweep.budget' if self._what == 'run' else 'sweep.unit_budget'}.{name} and resume."
        if cost is None:
            return self._error(f"{what} has no room for the next call.", fix)
        most = getattr(cost, name)
        if self._what == "unit" and cost.requests and not self.spent.requests:
            # The next unit's first call is as large: this is no unit's failure.
            return BudgetSpentError(f"{what} has no room for a first call, which may take {most:g}.", fix)
        spent = getattr(self.spent, name)
        return self._error(
            f"{what} has no room for the next call ({spent:g} spent, and the call may take {most:g}).", fix
        )


@dataclass(frozen=True, slots=True)
class SpendingLimits:
    """What the studies of a process may spend: together, from the run's account, and each by itself."""

    account: Account = field(default_factory=lambda: Ledger(BudgetSettings()))
    unit: BudgetSettings = field(default_factory=BudgetSettings)
    clock: Callable[[], float] = time.monotonic
    """Seconds, by which a unit's hours are kept."""


class UnitAccount:
    """One unit's account within a run's; also steers its study, whose agent must conclude near a limit."""

    def __init__(
        self,
        unit: Ledger,
        run: Account,
        note: Callable[[Cost], None] = lambda _: None,
        pausing: Callable[[], bool] = lambda: False,
    ) -> None:
        """`note` gets everything that is spent; `pausing` says whether studies are to pause."""
        self._unit, self._run, self._note = unit, run, note
        self.paused = pausing
        self.reason = ""

    @classmethod
    async def resume(
        cls,
        store: Store,
        unit: str,
        limits: SpendingLimits,
        note: Callable[[Cost], None] = lambda _: None,
        pausing: Callable[[], bool] = lambda: False,
    ) -> UnitAccount:
        """Return a unit's account with what the unit has spent so far.

        Raises:
            BudgetSpentError: If the run is near a limit and this unit has no round yet.
        """
        folder, clock = unit_folder(unit), limits.clock
        started = clock()
        spent = await asyncio.to_thread(spent_so_far, store, folder)
        ledger = Ledger(
            limits.unit, spent, what="unit", error=UnitBudgetError, elapsed_s=lambda: clock() - started
        )
        account = cls(ledger, limits.account, note, pausing)
        first = (f"{folder}/{below}rounds/0001.json" for below in ("", "repeats/1/"))
        await account.open(started=any(map(store.has, first)))
        return account

    async def open(self, *, started: bool) -> None:
        """Check the limits before the first round.

        Raises:
            BudgetSpentError: If the run is near a limit and this unit has not started.
        """
        reason = await self._run.near()
        if reason and not started:
            raise BudgetSpentError(reason, "Raise sweep.budget and resume; finished units are kept.")
        self.reason = reason or await self._unit.near()

    async def reserve(self, cost: Cost) -> None:
        await self._unit.reserve(cost)
        try:
            await self._run.reserve(cost)
        except MaiaError:
            await self._unit.settle(cost, Cost())
            raise

    async def settle(self, reserved: Cost, spent: Cost) -> str:
        self._note(spent)
        here = await self._unit.settle(reserved, spent)
        self.reason = await self._run.settle(reserved, spent) or here
        return self.reason

    async def near(self) -> str:
        return self.reason

    def conclude(self) -> str:
        return self.reason


def spent_so_far(store: Store, folder: str = "units", problems: list[str] | None = None) -> Cost:
    """Return what the records below `folder` say was spent; an attempt without a known outcome counts as
    paid.

    So does one whose answer is damaged. Where a damaged record leaves the sum too small, `problems` gets a
    sentence.

    Raises:
        RecordError: If a damaged record leaves the sum too small, and `problems` is None.
    """
    keys = list(store.keys(folder))
    calls = [key for key in keys if "/calls/" in key]
    in_doubt = Counter(doubtful(calls))
    total, damaged = Cost(), list[RecordError]()
    for key in keys:
        try:
            total += _recorded_cost(store, key)
        except RecordError as error:
            call, _, kind = key.rpartition(".")
            if kind == "answer" and f"{call}.request-1" in keys:
                in_doubt[call] += 1
            else:
                damaged.append(error)
    for call, attempts in in_doubt.items():
        if attempts > 0:
            try:
                about = load_record(store, f"{call}.request-1", CallRecord) or CallRecord()
            except RecordError as error:
                damaged.append(error)
                continue
            attempt = Cost(about.dollars, about.tokens, 1, unpriced=about.unpriced)
            total += sum(repeat(attempt, attempts), Cost())
    for rounds in sorted(_rounds_in(keys)):
        total += _images_of(store, rounds, damaged)
    if damaged and problems is None:
        raise damaged[0]
    if problems is not None:
        problems += [error.message for error in damaged]
    return total


def spent_under(store: Store, limits: BudgetSettings) -> tuple[Cost, list[str]]:
    """Return what was spent by a run that has these limits, and in sentences which damaged records hide more.

    Raises:
        RecordError: If a part is hidden and there is any limit, which could be passed unnoticed.
    """
    problems: list[str] = []
    spent = spent_so_far(store, problems=problems)
    if problems and limits.limited:
        raise RecordError(
            f"{problems[0]} What the run has spent is not known, and it has a budget.",
            "Restore the record from a copy, or resume without a budget.",
        )
    return spent, problems


def _recorded_cost(store: Store, key: str) -> Cost:
    """Return what one record by itself shows was paid or made: an answer, a charge or a survey."""
    above, _, name = key.rpartition("/")
    if name.endswith(".answer") and above.endswith("/calls"):
        answer = load_record(store, key, AnswerRecord)
        return Cost() if answer is None else Cost.of(answer.usage.usage())
    if above.endswith("/charged"):
        return Cost.of((load_record(store, key, UsageRecord) or UsageRecord()).usage())
    if name == "survey.json":
        survey = load_record(store, key, SurveyRecord)
        return Cost() if survey is None else Cost(images=survey.images)
    return Cost()


def _rounds_in(keys: Sequence[str]) -> set[str]:
    """Return the folders of rounds among keys."""
    return {key.rpartition("/")[0] for key in keys if re.fullmatch(r".*/rounds/[0-9]+\.json", key)}


def _images_of(store: Store, rounds: str, damaged: list[RecordError]) -> Cost:
    """Return the images that were made in a unit's rounds and tested by its examiner."""
    records = []
    for key in store.keys(rounds):
        try:
            if (record := load_record(store, key, RoundRecord)) is not None:
                records.append(record)
        except RecordError as error:
            damaged.append(error)
    made = records[-1].toolbox.images_made if records else 0
    return Cost(images=made + images_tested(records))
