"""Several studies of one unit, how far they agree, and one answer from all that they measured.

    units/<unit>/repeats/1/...    a study of its own, whole
    units/<unit>/pooling.json     what the aggregator reads, and the agreement
    units/<unit>/rounds, done     the aggregator's answer, tested once on images that no study saw

The studies share network, data set and the images of equal prompts; agents, critics and observers have seeds
of their own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from actors.chat.base import Usage
from agents.critic.sceptic import Sceptic
from agents.evidence.verdict import verdict_of
from agents.records.journal import Journal
from agents.records.record_types import PoolingRecord, read_record
from agents.records.store import Store
from agents.repeats import agreement, pooling
from agents.repeats.agreement import Agreement
from agents.study.budget import Account
from agents.study.interpreter import Interpreter, Round, Steering
from agents.study.observers import BlindObservers
from agents.study.study import Laboratory, Repeat, Workplace, study
from agents.tasks.base import Task
from tools.subject import Subject
from tools.toolbox import EXEMPLARS, seed_for


def seed_of(seed: int, number: int) -> int:
    """Return the seed of one of several studies, 0 for the pooled answer; the first has the seed that was
    asked for.
    """
    return seed if number == 1 else seed_for(seed, "repeat", number)


def pooling_key(journal: Journal) -> str:
    """Return where what the aggregator reads is kept."""
    return f"{journal.folder}/pooling.json"


async def study_repeatedly(
    laboratory: Laboratory,
    subject: Subject,
    task: Task,
    store: Store,
    *,
    seed: int,
    repeats: int,
    at_once: int = 1,
    steering: Steering | None = None,
    account: Account | None = None,
    on_round: Callable[[int, Round], None] = lambda number, finished: None,
) -> dict[str, Any]:
    """Return the pooled result of `repeats` studies of a unit, from the store if it is there already; of one,
    its own.

    The first has the seed itself. `on_round` gets a study's number, from 1, or 0 for the pooled answer.

    Raises:
        MaiaError: If a backend failed for good. Nothing finished is lost: call again to go on.
    """
    if (done := await asyncio.to_thread(Journal(store, subject.id).done)) is not None:
        return done
    if repeats == 1:
        return await study(
            laboratory,
            subject,
            task,
            store,
            seed=seed,
            steering=steering,
            account=account,
            on_round=partial(on_round, 1),
        )
    places = asyncio.Semaphore(at_once)

    async def one(number: int) -> dict[str, Any]:
        async with places:
            return await study(
                laboratory,
                subject,
                task,
                store,
                seed=seed_of(seed, number),
                steering=steering,
                account=account,
                on_round=partial(on_round, number),
                repeat=Repeat(number, seed),
            )

    # All come to their end, also where one is paused or fails: what is paid for shall be on record.
    ended = await asyncio.gather(*map(one, range(1, repeats + 1)), return_exceptions=True)
    if failed := [each for each in ended if isinstance(each, BaseException)]:
        raise failed[0]
    records = [each for each in ended if isinstance(each, dict)]
    place = Workplace(laboratory, subject, task, store, seed=seed_of(seed, 0), account=account)
    return await _pool(place, store, records, steering, partial(on_round, 0))


async def _pool(
    place: Workplace,
    store: Store,
    records: Sequence[dict[str, Any]],
    steering: Steering | None,
    on_round: Callable[[Round], None],
) -> dict[str, Any]:
    """Have the aggregator answer from what the studies measured, and write the result down."""
    toolboxes = await asyncio.to_thread(_toolboxes, store, place.subject.id, len(records))
    # Whoever tests the answer shall know what all the studies' images did.
    place.toolbox.restore(pooling.taken_together(toolboxes), place.journal.blobs)
    key = pooling_key(place.journal)
    known = await asyncio.to_thread(read_record, store, key, PoolingRecord)
    if known is None:
        known = await _evidence(place, records, toolboxes)
        await asyncio.to_thread(store.put, key, json.dumps(known, indent=1, ensure_ascii=False).encode())
    aggregator = Interpreter(
        place.recorded(place.laboratory.interpreter, "interpreter"),
        pooling.NoPrograms(),
        place.toolbox,
        pooling.PooledTask(place.task, known["evidence"]),
        place.journal,
        api_page=pooling.ROLE,
        examiner=place.critic,
        settings=pooling.limits(place.laboratory.settings),
        steering=steering,
        seed=place.seed,
        on_round=on_round,
    )
    outcome = await aggregator.run()

    def add(record: dict[str, Any]) -> None:
        record["seed"] = records[0]["seed"]
        record |= {
            "repeats": [_brief(n, each) for n, each in enumerate(records, 1)],
            "agreement": known["agreement"],
        }
        for name in ("images_made", "images_tested"):
            record[name] += sum(each.get(name, 0) for each in records)
        record["usage"] = _sum([record["usage"], *(each.get("usage", {}) for each in records)])

    async with place.laboratory.finishing:
        return await place.finish(outcome, add)


async def _evidence(
    place: Workplace, records: Sequence[dict[str, Any]], toolboxes: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return what the aggregator reads, and how far the studies' labels agree."""
    found = await _agreement(place, records)
    exemplars = await place.toolbox.system.exemplars(EXEMPLARS)
    titles = [f"{each.response.activation:.2f}" for each in exemplars]
    seen = await BlindObservers(place.observer, seed=place.seed).describe(
        [e.masked for e in exemplars], titles
    )
    text = pooling.evidence_text(
        asdict(await place.subject.background()),
        seen,
        pooling.tried_of(toolboxes),
        pooling.concepts_of(records),
        found,
        place.seed,
    )
    return {"evidence": text, "agreement": found.as_json()}


async def _agreement(place: Workplace, records: Sequence[dict[str, Any]]) -> Agreement:
    told = [agreement.labelled(number, record) for number, record in enumerate(records, 1)]
    witness = Sceptic(place.observer, seed=place.seed)
    labelled = [each for each in told if each is not None]
    wanted = {
        image for each in labelled for image in (*(image for image, _ in each.positives), *each.controls)
    }
    blobs = place.journal.blobs
    images = await asyncio.to_thread(lambda: {image: blobs.get(image) for image in wanted})
    return await agreement.measure(len(records), labelled, images.__getitem__, witness.shows)


def _toolboxes(store: Store, unit: str, repeats: int) -> list[dict[str, Any]]:
    """Return what each study's toolbox knew at its end."""
    journals = (Journal(store, unit, number).rounds() for number in range(1, repeats + 1))
    return [rounds[-1].get("toolbox", {}) for rounds in journals if rounds]


def _brief(number: int, record: dict[str, Any]) -> dict[str, Any]:
    """Return what the pooled result says of one study."""
    evidence = record.get("evidence") or {}
    return {
        "number": number,
        "seed": record.get("seed"),
        "status": record.get("status"),
        "labels": record.get("labels") or [],
        "verdict": verdict_of(record),
        "auroc": evidence.get("auroc"),
        "rounds": record.get("rounds", 0),
    }


def _sum(usages: Sequence[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return what several studies used, by role."""
    roles = dict.fromkeys(role for usage in usages for role in usage)
    return {
        role: asdict(sum((Usage(**usage[role]) for usage in usages if role in usage), Usage()))
        for role in roles
    }
