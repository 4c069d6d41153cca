"""What is done with every server: one question, a whole study, a question whose server is killed, and the
probe.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.chat.base import ChatRequest, Message
from actors.chat.hosted.openai_compatible import OpenAIBackend
from actors.chat.reply import ChatReply
from actors.chat.settings import OpenAIChat
from actors.endpoint.faults import EndpointDownError
from actors.images import Image
from agents.records.journal import Journal
from agents.records.recorded_chat import RecordedChat
from agents.study.agent import Agent, AgentParts, StudyOutcome
from agents.study.settings import InterpreterSettings
from agents.tasks.describe_unit import DescribeUnit
from experiments.setup.config import Profile
from experiments.setup.endpoint_check import EndpointReport, check_endpoints
from tests.agents.fakes import FakeSandbox
from tests.agents.study.test_agent import Bench, look
from tests.conformance.servers import Server
from tests.tools.fakes import FakeObservers, darken
from tools.system import SubjectSystem
from tools.toolbox import Toolbox

KEY_ENV = "SERVER_KEY"


def endpoint(server: Server, model: str, *, key: bool = False, **more: Any) -> OpenAIChat:
    """Return the settings for a model of a server; faults are tried again once, soon."""
    waits = {"backoff_s": 0.01, "max_attempts": 2, "deadline_s": 120.0}
    key_env = KEY_ENV if key else None
    return OpenAIChat(model=model, base_url=server.base_url, api_key_env=key_env, **(waits | more))


def picture(number: int) -> Image:
    """Return a small image of one gray."""
    return Image.from_pixels(np.full((64, 64, 3), number % 256, np.uint8))


async def ask(settings: OpenAIChat, *parts: str | Image, key: str = "", max_tokens: int = 8) -> ChatReply:
    """Return the answer to one question, with a system message; raises as `OpenAIBackend.complete`."""
    messages = (Message("system", ("Be brief.",)), Message("user", parts))
    backend = OpenAIBackend(settings, environ={KEY_ENV: key})
    try:
        return await backend.complete(ChatRequest(messages, max_tokens=max_tokens, seed=0))
    finally:
        await backend.close()


async def ask_a_server_that_dies(server: Server, settings: OpenAIChat, *, key: str = "") -> EndpointDownError:
    """Ask for a long answer, kill the server once it has read the question, and return the error of the
    asker.
    """
    asking = asyncio.create_task(ask(settings, "Count to a thousand.", key=key, max_tokens=4000))
    await asyncio.wait_for(asyncio.to_thread(server.wait_until_asked), 60)
    server.kill()
    with pytest.raises(EndpointDownError, match="unreachable") as down:
        await asking
    return down.value


async def study(settings: OpenAIChat, folder: Path, *, key: str = "", rounds: int = 3) -> StudyOutcome:
    """Return a whole study by the server's model, with tools and a unit that are fakes."""
    bench = Bench(folder)
    bench.sandbox = FakeSandbox(defaultdict(lambda: look))
    backend = OpenAIBackend(settings, environ={KEY_ENV: key})
    backend.sees_images = settings.sees_images  # type: ignore[attr-defined]
    journal = Journal(bench.store, bench.subject.id)
    try:
        parts = AgentParts(
            RecordedChat(backend, journal, "interpreter"),  # type: ignore[arg-type]
            bench.sandbox,
            Toolbox(SubjectSystem(bench.subject, darken), bench.studio, FakeObservers(), seed=0),
            DescribeUnit(),
            journal,
            "THE API",
        )
        return await Agent(parts, InterpreterSettings(max_rounds=rounds, max_tokens=64)).run()
    finally:
        await backend.close()


async def probe(settings: OpenAIChat, *, key: str = "") -> EndpointReport:
    """Return what `maia doctor --ask` finds out."""
    values = {"backend": "openai", **settings.model_dump(exclude_unset=True)}
    profile = Profile(chat={"interpreter": values})
    (report,) = await check_endpoints(profile, 60, {KEY_ENV: key})
    return report
