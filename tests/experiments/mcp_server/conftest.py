"""A server whose units bananas drive: fakes in place of models, a real sandbox for programs."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp")

from mcp import Client
from mcp.server import MCPServer
from mcp_types import CallToolResult, Implementation

from actors.chat.reply import ChatReply
from actors.errors import UsageError
from actors.vision.readout.base import LayerInfo
from agents.critic.critic import ConfirmationSettings
from agents.records.record_types import Manifest
from agents.study.settings import InterpreterSettings
from agents.study.study import RunContext
from experiments.mcp_server.server import build_server
from experiments.mcp_server.studies import ASKED, OutsideRun, OutsideStudies
from tests.tools.fakes import FakeStudio, FakeSubject, darken
from tools.sandbox import SandboxSettings
from tools.sandbox.kernel import KernelServer

CLIENT = Implementation(name="scripted <b>client</b>", version="1.0")


class Observer:
    """Says of images whether they show a thing, as the studio has it, and nothing else."""

    name, sees_images = "fake-observer", True

    def __init__(self, studio: FakeStudio) -> None:
        self._studio = studio

    async def complete(self, request):
        asked = request.messages[-1]
        question = re.search(r"Does this image show (.+)\? Answer", asked.text)
        if question is None:
            return ChatReply("unsure")
        return ChatReply("yes" if question[1] in self._studio.shows.get(asked.images[0].id, "") else "no")


class FakeBench:
    """Has a layer `layer` whose units bananas drive, and no other."""

    def __init__(self, context: RunContext, studio: FakeStudio) -> None:
        self.context, self._studio = context, studio

    async def layers(self) -> list[LayerInfo]:
        return [LayerInfo("layer", 8, "map", (4, 4), "Conv2d")]

    async def subject(self, layer: str, unit: str) -> FakeSubject:
        if layer != "layer":
            raise UsageError(f"the network has no layer {layer!r}.", "The layers are layer.")

        def activation(shown: str) -> float:
            return 4.0 + len(shown) % 3 if "banana" in shown else 0.1

        return FakeSubject(self._studio, activation, name=f"fake/{layer}:{unit}", dataset="banana")


@dataclass
class Place:
    """A server, a client that is connected to it, and what is behind the server."""

    studies: OutsideStudies
    server: MCPServer[Any]
    studio: FakeStudio
    client: Client
    starts: list[str]

    async def call(self, tool: str, **arguments: object) -> CallToolResult:
        return await self.client.call_tool(tool, arguments)


@pytest.fixture(scope="module")
async def sandboxes() -> AsyncIterator[KernelServer]:
    server = KernelServer(SandboxSettings())
    await server.start()
    async with server:
        yield server


Connect = Callable[..., AbstractAsyncContextManager[Place]]


@pytest.fixture
def connect(sandboxes: KernelServer, tmp_path: Path) -> Connect:
    """Return a context in which a client is connected to a server whose run is in `tmp_path / "run"`.

    `faults`: errors of the first starts of the models. `limits` are those of the interpreter.
    """

    @asynccontextmanager
    async def connected(
        studio: FakeStudio | None = None, faults: tuple[Exception, ...] = (), mode: str = "auto", **limits
    ):
        studio, starts, left = studio or FakeStudio(), [], list(faults)
        settings = InterpreterSettings(**{"max_rounds": 12, "max_images": 40, **limits})
        context = RunContext(
            interpreter=Observer(studio),
            observers=Observer(studio),
            studio=studio,
            sandboxes=sandboxes,
            paint=darken,
            settings=settings,
            confirmation=ConfirmationSettings(min_images=10, max_images=10, probe=0),
            rates={},
            facts={"model": "fake", "network": "fake-1", "dataset": "fake-data"},
        )

        @asynccontextmanager
        async def open_bench(notify):
            starts.append("started")
            if left:
                raise left.pop(0)
            yield FakeBench(context, studio)

        manifest = Manifest(command="mcp", model="fake", seed=0, asked=ASKED, settings={})
        async with OutsideStudies(OutsideRun(tmp_path / "run", "scenes", manifest), open_bench) as studies:
            server = build_server(studies, answer_s=20)
            async with Client(server, client_info=CLIENT, mode=mode) as client:
                yield Place(studies, server, studio, client, starts)

    return connected


def words(result: CallToolResult) -> str:
    """Return the text of a result."""
    return "\n".join(part.text for part in result.content if part.type == "text")
