"""`maia mcp`: from a command line to a server."""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from actors.cluster.connection import connect, disconnect, retake_signals
from actors.hub import require
from actors.vision.networks.zoo import check_name
from experiments.mcp_server.studies import ASKED, Bench, OpenBench, OutsideRun, OutsideStudies
from experiments.setup import preflight
from experiments.setup.config import Profile
from experiments.setup.console import Console
from experiments.setup.selection import Selected, Selection


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """What clients are to study, and where their studies are kept."""

    model: str
    selection: Selection
    out: Path
    seed: int = 0
    rounds: int = 60
    """Experiments and answers of one study."""
    port: int | None = None
    """Serve HTTP on this port of the loopback address, 0 for a free one; None serves standard input."""


def for_clients(profile: Profile, rounds: int) -> Profile:
    """Return a profile as clients need it: its interpreter is not asked, and programs have one dialect."""
    observers = profile.chat.observers or profile.chat.interpreter
    return profile.model_copy(
        update={
            "chat": profile.chat.model_copy(update={"interpreter": observers, "observers": observers}),
            "interpreter": profile.interpreter.model_copy(update={"max_rounds": rounds}),
            "sandbox": profile.sandbox.model_copy(update={"dialect": "maia2"}),
        }
    )


def outside_run(request: ServerRequest, selected: Selected) -> tuple[OutsideRun, OpenBench]:
    """Return the run of a server's studies, and what starts their models."""
    profile = for_clients(selected.profile, request.rounds)
    manifest = replace(selected, profile=profile).manifest(
        "mcp", model=request.model, seed=request.seed, asked=ASKED
    )
    run = OutsideRun(
        request.out,
        profile.dataset,
        manifest,
        profile.sweep.budget,
        profile.sweep.unit_budget,
        request.seed,
    )
    return run, bench_opener(profile, selected.cache, request.model)


def bench_opener(profile: Profile, cache: Path, model: str) -> OpenBench:
    """Return what starts the models of a profile, with `model` as the network under study."""

    @asynccontextmanager
    async def open_bench(notify: Callable[[str], None]) -> AsyncIterator[Bench]:
        # Importing the libraries and starting Ray takes long: in threads, so that clients are answered.
        notify("loading libraries")
        module = await asyncio.to_thread(importlib.import_module, "experiments.setup.workbench")
        await asyncio.to_thread(preflight.check, profile, model)
        if not profile.ray.in_process:
            notify("starting Ray")
        ours = await asyncio.to_thread(connect, profile.ray)
        retake_signals()
        try:
            async with module.Workbench.open(profile, cache=cache, model=model, notify=notify) as bench:
                yield bench
        finally:
            if ours:
                await asyncio.to_thread(disconnect)

    return open_bench


async def serve(console: Console, request: ServerRequest, *, json: bool = False) -> None:
    """Serve until the client leaves, or HTTP until interrupted.

    Raises:
        UsageError: If the profile, network, port or token cannot be used, or the protocol's package is
            missing.
    """
    require("maia mcp", "mcp", "uvicorn", install='pip install "maia[mcp]"')
    check_name(request.model)
    selected = request.selection.load()
    run, open_bench = outside_run(request, selected)
    from experiments.mcp_server.server import build_server
    from experiments.mcp_server.transport import listen, serve_http, serve_stdio, token_of

    async with OutsideStudies(run, open_bench) as studies:
        server = build_server(studies)
        if request.port is None:
            await serve_stdio(server)
            return
        token, where = token_of(selected.cache, dict(os.environ))

        def ready(url: str) -> None:
            if json:
                console.result({"url": url, "token": where})
            else:
                console.show(f"{url}\ntoken: {where} (Ctrl-C ends)", markup=False)

        await serve_http(server, listen(request.port), token, ready)
