"""A label that no agent gave, such as an embedding's, put to the critic's test: for the price of the images.

The same critic tests it as an agent's answer, and its e-value claims the first share of the unit's evidence:
an agent that is asked afterwards has the later ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from agents.records.record_types import StudyResult
from agents.records.store import Store
from agents.study.agent import StudyOutcome
from agents.study.budget import Account
from agents.study.study import RunContext, StudyContext, StudyRequest
from agents.tasks.base import FinalAnswer


async def examine_proposal(
    run: RunContext,
    request: StudyRequest,
    labels: Sequence[str],
    store: Store,
    account: Account | None = None,
) -> StudyResult:
    """Return the result of the critic's test of `labels`, from the store if it is there already.

    Without a critic in `run` the labels stand untested.

    Raises:
        MaiaError: If a backend failed for good. What was asked is on record: call again to go on.
    """
    context = StudyContext(run, request, store, account)
    if (known := await asyncio.to_thread(context.journal.proposal)) is not None:
        return known
    answer = FinalAnswer(tuple(labels), f"Proposed without an agent: {' OR '.join(labels)}.")
    review = None if context.critic is None else await context.critic.examine(answer, 1)
    made = 0 if review is None else review.evidence.images_made
    changes = {"tier": "embedding", "why": request.why, "images_tested": made}
    outcome = StudyOutcome("answered", answer, review)
    return await context.concluded(
        outcome, lambda result: result.model_copy(update=changes), context.journal.propose
    )
