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
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial

from actors.chat.reply import Usage
from agents.critic.witness import Witness
from agents.evidence.verdict import verdict_of
from agents.records.journal import Journal
from agents.records.record_types import (
    AgreementRecord,
    PoolingRecord,
    RepeatRecord,
    StudyResult,
    ToolboxRecord,
    UsageRecord,
    load_record,
)
from agents.records.store import Store
from agents.repeats import agreement, pooling
from agents.repeats.agreement import Agreement
from agents.study.agent import Agent
from agents.study.observers import BlindObservers
from agents.study.study import RunContext, StudyContext, StudyRequest, Supervision, study
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
    run: RunContext,
    request: StudyRequest,
    store: Store,
    *,
    repeats: int,
    at_once: int = 1,
    supervision: Supervision | None = None,
) -> StudyResult:
    """Return the pooled result of `repeats` studies of a unit, from the store if it is there already; of one,
    its own.

    The first has the seed that is asked for; `at_once` of them run at the same time.

    Raises:
        MaiaError: If a backend failed for good. Nothing finished is lost: call again to go on.
    """
    supervision = supervision or Supervision()
    done = await asyncio.to_thread(Journal(store, request.subject.id).done)
    if done is not None and done.tier == "agent":
        return done
    if repeats == 1:
        return await study(run, request, store, supervision)
    places = asyncio.Semaphore(at_once)

    async def one(number: int) -> StudyResult:
        async with places:
            seed = seed_of(request.seed, number)
            repeat = replace(request, seed=seed, repeat=number, image_seed=request.seed)
            return await study(run, repeat, store, supervision)

    # All come to their end, also where one is paused or fails: what is paid for shall be on record.
    ended = await asyncio.gather(*map(one, range(1, repeats + 1)), return_exceptions=True)
    if failed := [result for result in ended if isinstance(result, BaseException)]:
        raise failed[0]
    results = [result for result in ended if isinstance(result, StudyResult)]
    pooled = replace(request, seed=seed_of(request.seed, 0))
    context = StudyContext(run, pooled, store, supervision.account)
    return await _pool(context, store, results, supervision)


async def _pool(
    context: StudyContext, store: Store, results: Sequence[StudyResult], supervision: Supervision
) -> StudyResult:
    """Have the aggregator answer from what the studies measured, and write the result down."""
    toolboxes = await asyncio.to_thread(_toolboxes, store, context.subject.id, len(results))
    # Whoever tests the answer shall know what all the studies' images did.
    context.toolbox.restore(pooling.merge_toolboxes(toolboxes).model_dump(), context.journal.blobs)
    key = pooling_key(context.journal)
    known = await asyncio.to_thread(load_record, store, key, PoolingRecord)
    if known is None:
        known = await _evidence(context, results, toolboxes)
        data = json.dumps(known.to_json(), indent=1, ensure_ascii=False).encode()
        await asyncio.to_thread(store.put, key, data)
    task = pooling.PooledTask(context.task, known.evidence)
    aggregator = Agent(
        context.parts(pooling.NoPrograms(), task, pooling.ROLE),
        pooling.limits(context.run.settings),
        seed=context.seed,
        steering=supervision.steering,
        on_round=partial(supervision.on_round, 0),
    )
    outcome = await aggregator.run()

    def merge(result: StudyResult) -> StudyResult:
        return _merged(result, results, known.agreement)

    return await context.finish(outcome, merge)


def _merged(
    pooled: StudyResult, results: Sequence[StudyResult], agreement_record: AgreementRecord
) -> StudyResult:
    """Return the pooled result with what its studies say and took."""
    every = [pooled, *results]
    roles = dict.fromkeys(role for result in every for role in result.usage)
    usage = {
        role: sum((result.usage[role].usage() for result in every if role in result.usage), Usage())
        for role in roles
    }
    return pooled.model_copy(
        update={
            "seed": results[0].seed,
            "repeats": [_brief(number, result) for number, result in enumerate(results, 1)],
            "agreement": agreement_record,
            "images_made": sum(result.images_made for result in every),
            "images_tested": sum(result.images_tested for result in every),
            "usage": {role: UsageRecord.of(total) for role, total in usage.items()},
        }
    )


async def _evidence(
    context: StudyContext, results: Sequence[StudyResult], toolboxes: Sequence[ToolboxRecord]
) -> PoolingRecord:
    """Return what the aggregator reads, and how far the studies' labels agree."""
    measured = await _agreement(context, results)
    exemplars = await context.toolbox.system.exemplars(EXEMPLARS)
    titles = [f"{each.response.activation:.2f}" for each in exemplars]
    seen = await BlindObservers(context.observer, seed=context.seed).describe(
        [e.masked for e in exemplars], titles
    )
    text = pooling.evidence_text(
        asdict(await context.subject.background()),
        seen,
        pooling.tried_of(toolboxes),
        pooling.concepts_of(results),
        measured,
        context.seed,
    )
    return PoolingRecord(evidence=text, agreement=measured.record())


async def _agreement(context: StudyContext, results: Sequence[StudyResult]) -> Agreement:
    studies = [agreement.labeled_study(number, result) for number, result in enumerate(results, 1)]
    witness = Witness(context.observer, seed=context.seed)
    labeled = [study for study in studies if study is not None]
    wanted = {image for one in labeled for image in (*(image for image, _ in one.positives), *one.controls)}
    blobs = context.journal.blobs
    images = await asyncio.to_thread(lambda: {image: blobs.get(image) for image in wanted})
    return await agreement.measure(len(results), labeled, images.__getitem__, witness.shows)


def _toolboxes(store: Store, unit: str, repeats: int) -> list[ToolboxRecord]:
    """Return what each study's toolbox knew at its end."""
    journals = (Journal(store, unit, number).rounds() for number in range(1, repeats + 1))
    return [rounds[-1].toolbox for rounds in journals if rounds]


def _brief(number: int, result: StudyResult) -> RepeatRecord:
    """Return how the pooled result lists one study."""
    return RepeatRecord(
        number=number,
        seed=result.seed,
        status=result.status,
        labels=result.labels,
        verdict=verdict_of(result.to_json()),
        auroc=None if result.evidence is None else result.evidence.auroc,
        rounds=result.rounds,
    )
