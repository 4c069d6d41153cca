"""Nothing is sent that the budget has no room for, and near it agents are asked to conclude."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from actors.chat.base import ChatRequest, Message
from actors.chat.reply import ChatReply, Usage
from actors.endpoint.faults import EndpointError
from actors.errors import MaiaError
from actors.generation.base import MadeImage
from actors.images import Image, Provenance
from agents.records.journal import Journal
from agents.records.run_files import RecordError
from agents.records.store import Store
from agents.study.budget import (
    BudgetSettings,
    BudgetSpentError,
    Cost,
    Ledger,
    UnitAccount,
    UnitBudgetError,
    spent_so_far,
    spent_under,
)
from agents.study.metered import MeteredChat, MeteredStudio, Rate

ASK = ChatRequest((Message("user", ("x" * 400,)),), max_tokens=100)


class Chat:
    name, sees_images = "chat", True

    def __init__(self, fault: MaiaError | None = None) -> None:
        self.calls, self._fault = 0, fault

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.calls += 1
        if self._fault is not None:
            raise self._fault
        return ChatReply("yes", usage=Usage(prompt_tokens=100, completion_tokens=7, requests=1, dollars=0.5))


async def test_a_call_beyond_the_budget_is_not_sent() -> None:
    ledger = Ledger(BudgetSettings(tokens=150))
    chat = Chat()
    with pytest.raises(BudgetSpentError, match="150 tokens has no room"):
        await MeteredChat(chat, ledger, Rate()).complete(ASK)
    assert chat.calls == 0
    assert ledger.reserved == Cost()


async def test_unspent_reservations_are_released() -> None:
    ledger = Ledger(BudgetSettings(tokens=1000))
    await MeteredChat(Chat(), ledger, Rate()).complete(ASK)
    assert (ledger.spent.tokens, ledger.spent.requests, ledger.reserved) == (107, 1, Cost())


async def test_a_call_waits_for_others_to_settle_before_it_is_refused() -> None:
    ledger = Ledger(BudgetSettings(tokens=300))
    await ledger.reserve(Cost(tokens=250))
    second = asyncio.create_task(ledger.reserve(Cost(tokens=100)))
    await asyncio.sleep(0)
    assert not second.done()
    await ledger.settle(Cost(tokens=250), Cost(tokens=50))
    await second
    assert ledger.reserved.tokens == 100


async def test_attempts_in_doubt_are_counted_as_paid() -> None:
    ledger = Ledger(BudgetSettings())
    chat = MeteredChat(Chat(EndpointError("no.", "", 3, 2)), ledger, Rate(prompt=1, completion=1))
    with pytest.raises(EndpointError):
        await chat.complete(ASK)
    most = Rate(prompt=1, completion=1).most(ASK)
    assert (ledger.spent.requests, ledger.spent.tokens) == (3, 2 * most.tokens)


@pytest.mark.parametrize(("spent", "near"), [(0, False), (500, False), (890, False), (901, True)])
async def test_the_limit_is_near_at_nine_tenths(spent: int, near: bool) -> None:
    ledger = Ledger(BudgetSettings(tokens=1000), Cost(tokens=spent))
    assert bool(await ledger.near()) is near


async def test_the_limit_is_near_when_two_more_of_the_largest_call_do_not_fit() -> None:
    ledger = Ledger(BudgetSettings(tokens=1000))
    await ledger.reserve(Cost(tokens=340))
    assert "1000 tokens is nearly spent" in await ledger.settle(Cost(tokens=340), Cost(tokens=340))


async def test_time_is_a_budget_too() -> None:
    now = [0.0]
    ledger = Ledger(BudgetSettings(hours=1), elapsed_s=lambda: now[0])
    assert await ledger.near() == ""
    now[0] = 3400.0
    assert "time of 1 hours" in await ledger.near()
    now[0] = 3601.0
    with pytest.raises(BudgetSpentError, match="1 hours"):
        await ledger.reserve(Cost(requests=1))


async def test_a_spent_unit_budget_stops_that_unit_only() -> None:
    run = Ledger(BudgetSettings(tokens=10_000))
    unit = Ledger(BudgetSettings(tokens=50), what="unit", error=UnitBudgetError)
    account = UnitAccount(unit, run)
    with pytest.raises(UnitBudgetError, match=r"unit_budget\.tokens"):
        await account.reserve(Cost(tokens=51))
    assert run.reserved == Cost()


async def test_a_units_budget_that_no_first_call_fits_stops_the_run_and_fails_no_unit() -> None:
    unit = Ledger(BudgetSettings(tokens=50), what="unit", error=UnitBudgetError)
    with pytest.raises(BudgetSpentError, match=r"50 tokens has no room for a first call, which may take 51"):
        await unit.reserve(Cost(tokens=51, requests=1))
    await unit.settle(Cost(), Cost(tokens=5, requests=1))
    with pytest.raises(UnitBudgetError, match=r"5 spent, and the call may take 51"):
        await unit.reserve(Cost(tokens=51, requests=1))


async def test_near_the_runs_limit_no_unit_begins_and_one_that_has_concludes() -> None:
    run = Ledger(BudgetSettings(images=10), Cost(images=10))
    account = UnitAccount(Ledger(BudgetSettings()), run)
    with pytest.raises(BudgetSpentError):
        await account.open(started=False)
    await account.open(started=True)
    assert "10 images" in account.reason


async def test_an_account_is_rebuilt_from_the_records_with_calls_in_doubt_as_paid(tmp_path: Path) -> None:
    store = Store(tmp_path)
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "requests": 1, "dollars": 0.25}
    store.put("units/a/calls/1.request-1", b'{"tokens": 999, "dollars": 9}')
    store.put("units/a/calls/1.answer", json.dumps({"text": "", "usage": usage}).encode())
    store.put("units/b/calls/2.request-1", b'{"tokens": 70, "dollars": 0.5}')
    for name in ("request-1", "unbilled-1"):
        store.put(f"units/b/calls/3.{name}", b'{"tokens": 5000, "dollars": 7}')
    store.put("units/c/calls/4.request-1", b'{"tokens": 100, "dollars": 1}')
    store.put("units/c/calls/4.request-2", b'{"tokens": 100, "dollars": 1}')
    store.put("units/c/calls/4.answer", json.dumps({"text": "", "usage": usage}).encode())
    for number, made in ((1, 3), (2, 5)):
        record = {"round": number, "reply": {"text": ""}, "toolbox": {"images_made": made}}
        store.put(f"units/b/rounds/{number:04d}.json", json.dumps(record).encode())
    assert spent_so_far(store, "units/b") == Cost(dollars=0.5, tokens=70, requests=1, images=5)
    assert spent_so_far(store, "units/c") == Cost(dollars=1.25, tokens=112, requests=2)
    assert spent_so_far(store) == Cost(dollars=2, tokens=194, requests=4, images=5)
    assert spent_so_far(store, "units/a") == Cost(dollars=0.25, tokens=12, requests=1)


def test_damaged_records_are_counted_at_their_maximum_or_reported(tmp_path: Path) -> None:
    """A damaged answer counts as its request predicted; a damaged charge, round or request is named."""
    store = Store(tmp_path)
    store.put("units/a/calls/1.request-1", b'{"tokens": 999, "dollars": 9}')
    store.put("units/a/calls/1.answer", b'{"usage": {"dollars": "none"}}')
    assert spent_so_far(store) == Cost(dollars=9, tokens=999, requests=1)
    for key in ("charged/1.json", "rounds/0001.json", "calls/2.request-1", "calls/3.answer", "survey.json"):
        store.put(f"units/b/{key}", b"[")
        problems: list[str] = []
        assert spent_so_far(store, problems=problems) == Cost(dollars=9, tokens=999, requests=1)
        assert [key in problem for problem in problems] == [True]
        with pytest.raises(RecordError, match=key):
            spent_so_far(store)
        store.remove(f"units/b/{key}")


@pytest.mark.parametrize("name", BudgetSettings.model_fields)
@pytest.mark.parametrize(
    "key", ["charged/1.json", "rounds/0001.json", "calls/2.request-1", "calls/3.answer", "survey.json"]
)
def test_a_damaged_charge_is_refused_under_a_budget_and_reported_without_one(
    name: str, key: str, tmp_path: Path
) -> None:
    """Whoever damages what was paid must not get a second budget."""
    store = Store(tmp_path)
    store.put(f"units/b/{key}", b"[")
    assert key in spent_under(store, BudgetSettings())[1][0]
    with pytest.raises(RecordError, match=rf"{key}.*What the run has spent is not known"):
        spent_under(store, BudgetSettings.model_validate({name: 5}))


async def test_the_final_answer_is_asked_for_while_what_is_set_aside_for_it_still_fits() -> None:
    ledger = Ledger(BudgetSettings(tokens=9000))
    most = Cost(tokens=4000)
    asked = ""
    while not asked:  # each call takes much less than it may take
        await ledger.reserve(most)
        asked = await ledger.settle(most, Cost(tokens=700))
    await ledger.reserve(most)
    assert ledger.spent.tokens + most.tokens <= 9000


class PaidStudio:
    """Makes one image a price; a failure in its place may have been billed."""

    def __init__(self, *outcomes: MadeImage | MaiaError) -> None:
        self.outcomes = list(outcomes)

    async def generate(self, prompts: list[str], seeds: list[int], *, agent: str = "") -> list[object]:
        assert len(prompts) == len(seeds) == len(self.outcomes)
        return self.outcomes


def made(dollars: float | None) -> MadeImage:
    image = Image.from_pixels(np.zeros((2, 3, 3), np.uint8))
    return MadeImage(image, Provenance("generated"), dollars)


async def test_paid_images_are_on_the_account_and_on_record_as_soon_as_they_are_made(tmp_path: Path) -> None:
    """A failed call that may have been billed counts at the expected price; an unknown price is no zero."""
    store = Store.open(tmp_path)
    journal = Journal(store, "u")
    ledger = Ledger(BudgetSettings(dollars=1.0))
    doubtful = EndpointError("it broke", "", 1, 1)
    studio = PaidStudio(made(0.04), made(None), made(0.0), doubtful)
    metered = MeteredStudio(studio, ledger, 0.1, journal.record_image_charge)
    await metered.generate(["a"] * 4, [0] * 4)
    assert ledger.spent == Cost(dollars=pytest.approx(0.14), images=3, unpriced=1)
    assert ledger.reserved == Cost()
    assert journal.image_charges() == Usage(dollars=pytest.approx(0.14), unpriced=1)
    assert spent_so_far(store) == Cost(dollars=pytest.approx(0.14), unpriced=1)


async def test_images_that_a_budget_in_dollars_has_no_room_for_are_not_made() -> None:
    metered = MeteredStudio(PaidStudio(), Ledger(BudgetSettings(dollars=0.5)), 0.2)
    with pytest.raises(BudgetSpentError, match=r"0\.5 dollars"):
        await metered.generate(["a", "b", "c"], [0, 1, 2])
