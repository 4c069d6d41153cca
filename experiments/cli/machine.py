"""What this machine has: models, layers, a cluster."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from experiments.cli.options import ConfigPath, Json, Model, ProfileName, Shared, examples, shared_options
from experiments.cli.running import run
from experiments.setup.console import Console, configure_logging

commands = typer.Typer()


@commands.command(
    epilog=examples("maia doctor", "maia doctor --profile local --json", "maia doctor --profile hosted --ask")
)
def doctor(
    profile: ProfileName = None,
    ask: Annotated[
        bool, typer.Option("--ask", help="Ask the profile's endpoints too: one cheap call each.")
    ] = False,
    save: Annotated[
        bool, typer.Option("--save", help="With --ask: write what was found out into the profile.")
    ] = False,
    json: Json = False,
    config: ConfigPath = None,
) -> None:
    """Say what this machine can run. What it cannot comes with what to do about it."""
    from experiments.setup import endpoint_check
    from experiments.setup.config import load
    from experiments.setup.doctor import examine, table
    from experiments.setup.profile_file import update_profile
    from experiments.setup.selection import Selection

    configure_logging(0)
    console = Console(quiet=json)
    loaded = load(config)
    reports: list[endpoint_check.EndpointReport] = []
    if ask or save:
        with console.waiting("asking the endpoints"):
            reports = run(endpoint_check.check_endpoints(loaded.profile(profile)))
        if not json:
            console.show(endpoint_check.table(reports))
    saved = None
    if save and (changes := endpoint_check.suggestions(reports)):
        saved = str(update_profile(loaded.path, profile or loaded.default_profile, changes))
    with console.waiting("trying what this machine has, the sandbox last"):
        report = run(examine(Selection(config, profile), reports))
    if json:
        asked = (
            {"endpoints": [endpoint.as_json() for endpoint in reports], "saved": saved} if ask or save else {}
        )
        console.result(asdict(report) | asked)
    else:
        console.show(table(report))
        if saved:
            console.show(f"written into {saved}", markup=False)
    if any(endpoint.error is not None for endpoint in reports):
        raise typer.Exit(2)
    if not report.ready:
        raise typer.Exit(1)


@commands.command(epilog=examples("maia models", "maia models 'vit_*'"))
def models(
    pattern: Annotated[
        str, typer.Argument(help="List timm's networks of this name instead, with * for anything.")
    ] = "",
    json: Json = False,
    config: ConfigPath = None,
) -> None:
    """List what can be studied. Also which models each profile would use."""
    from experiments.setup.models import list_models, table

    configure_logging(0)
    listing = list_models(config, pattern)
    console = Console(quiet=json)
    if json:
        console.result(listing.to_json())
    else:
        console.show(table(listing), markup=False)


@commands.command(epilog=examples("maia layers resnet50", "maia layers python:net.py:build --json"))
@shared_options(verbose=False, quiet_json=True)
def layers(shared: Shared, model: Model) -> None:
    """List the layers of a network whose units can be studied."""
    from experiments.studies.layers import list_layers, table

    with shared.console.waiting(f"looking for the layers of {model}"):
        infos = run(list_layers(shared.selection, model, shared.console.say))
    if shared.json:
        shared.console.result({"model": model, "layers": [asdict(info) for info in infos]})
    else:
        shared.console.show(table(model, infos))


cluster = typer.Typer(help="Start, inspect and end a Ray cluster on this machine.", no_args_is_help=True)
commands.add_typer(cluster, name="cluster")


@cluster.command(epilog=examples("maia cluster up", "maia cluster up --port 6380 --profile cluster"))
def up(
    port: Annotated[int, typer.Option(min=1024, max=65535, help="Port that others join at.")] = 6379,
    profile: ProfileName = None,
    json: Json = False,
    config: ConfigPath = None,
) -> None:
    """Start a cluster here. It runs until `maia cluster down`; the profile's `ray` section says how."""
    from actors.cluster.local_head import LocalHead
    from experiments.setup.config import load

    loaded = load(config)
    with Console(quiet=json).waiting("starting Ray"):
        facts = LocalHead(loaded.cache).up(loaded.profile(profile).ray, port)
    if json:
        Console(quiet=True).result(facts.model_dump(exclude_none=True))
    else:
        Console().show(
            f"a cluster runs at {facts.address}: set ray.address to it, or to auto on this machine"
        )
        if facts.dashboard:
            Console().show(f"dashboard and jobs: RAY_ADDRESS={facts.dashboard}")


@cluster.command(name="status", epilog=examples("maia cluster status"))
def cluster_status(json: Json = False, config: ConfigPath = None) -> None:
    """Show whether the cluster of `maia cluster up` runs."""
    from actors.cluster.local_head import LocalHead
    from experiments.setup.config import load

    facts = LocalHead(load(config).cache).status()
    if json:
        Console(quiet=True).result(
            {"running": facts is not None, **(facts.model_dump(exclude_none=True) if facts else {})}
        )
    else:
        Console().show(f"runs at {facts.address}" if facts else "no cluster of this command runs here")
    if facts is None:
        raise typer.Exit(1)


@cluster.command(epilog=examples("maia cluster down"))
def down(json: Json = False, config: ConfigPath = None) -> None:
    """End the cluster of `maia cluster up`. All its processes end; no other Ray is touched."""
    from actors.cluster.local_head import LocalHead
    from experiments.setup.config import load

    with Console(quiet=json).waiting("ending Ray"):
        ended = LocalHead(load(config).cache).down()
    if json:
        Console(quiet=True).result({"ended": ended})
    else:
        Console().show("ended" if ended else "no cluster of this command runs here")
