"""The models of a profile in this process, without Ray: for benchmarks and tests of what agents conclude.

The same backends, coalescers and clients as on a cluster, so that a study here is the study there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from actors.chat import factory as chat
from actors.chat.client import PoolChatModel
from actors.detection import factory as detection
from actors.detection.client import PoolDetector
from actors.generation import factory as generation
from actors.generation.client import PoolImageMaker
from actors.masks import paint
from actors.serving.pool import LocalPool
from agents.study.study import RunContext
from experiments.setup.config import Profile
from tools import sandbox


@asynccontextmanager
async def run_context(profile: Profile) -> AsyncIterator[tuple[RunContext, PoolDetector]]:
    """Yield a run's context and the concept detector of a profile whose models can see."""
    roles = profile.chat
    async with AsyncExitStack() as stack:
        detector = await stack.enter_async_context(LocalPool(detection.build_backend(profile.detection)))
        maker = await stack.enter_async_context(LocalPool(generation.build_backend(profile.generation)))
        observer = await stack.enter_async_context(
            LocalPool(chat.build_backend(roles.observers or roles.interpreter))
        )
        interpreter = await stack.enter_async_context(LocalPool(chat.build_backend(roles.interpreter)))
        sandboxes = await stack.enter_async_context(await sandbox.start(profile.sandbox))
        studied = PoolDetector(detector)
        yield (
            RunContext(
                interpreter=PoolChatModel(interpreter, interpreter.name, True),
                observers=PoolChatModel(observer, observer.name, True),
                studio=PoolImageMaker(maker),
                sandboxes=sandboxes,
                paint=paint,
                settings=profile.interpreter,
                confirmation=profile.confirmation,
                rates={},
                facts={"model": "synthetic", "network": await studied.name(), "where": "in one process"},
            ),
            studied,
        )
