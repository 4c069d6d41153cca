"""A seat for agents from outside."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from actors.errors import UsageError
from experiments.cli.costs import confirm_cost
from experiments.cli.folders import out_option
from experiments.cli.options import Model, Shared, Yes, default_run, examples, seed_option, shared_options
from experiments.cli.running import run

commands = typer.Typer()


@commands.command(
    epilog=examples(
        "claude mcp add maia -- maia mcp tf_efficientnet_lite0",
        "maia mcp resnet50 --data ~/photographs --http --port 8765",
    )
)
@shared_options("data", "class_names", "few_images")
def mcp(
    shared: Shared,
    model: Model = "tf_efficientnet_lite0",
    http: Annotated[
        bool, typer.Option("--http", help="Serve HTTP on this machine, with a token, not standard input.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port for --http; 0 takes a free one.")] = 8765,
    out: Annotated[Path | None, out_option("Run directory [default: runs/mcp-<model>].")] = None,
    seed: Annotated[int, seed_option("Seed of all images.")] = 0,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Experiments and answers of one study.")] = 60,
    yes: Yes = False,
) -> None:
    """Serve outside agents by MCP. They study units with the same tools, limits and critic."""
    if shared.json and not http:
        raise UsageError("standard output belongs to the protocol.", "Use --json with --http.")
    confirm_cost(shared.selection, yes, lambda: 1, model=model)
    from experiments.mcp_server.serve import ServerRequest, serve

    folder = out or default_run(f"mcp {model}")
    request = ServerRequest(model, shared.selection, folder, seed, rounds, port if http else None)
    # Ctrl-C is how a server ends.
    with contextlib.suppress(KeyboardInterrupt):
        run(serve(shared.console, request, json=shared.json))
