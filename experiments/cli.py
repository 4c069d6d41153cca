"""The `maia` command: one thin function a command; each imports what it runs when it runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from actors.errors import MaiaError, UsageError
from experiments.console import Console, configure_logging

app = typer.Typer(
    name="maia",
    help="Interpret vision networks automatically: agents experiment on a unit until they can say what drives it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[
    str, typer.Argument(help="Network, such as tf_efficientnet_lite0, hf:OWNER/NAME, python:MODULE:FACTORY.")
]
ProfileName = Annotated[str | None, typer.Option("--profile", "-p", help="Profile of ray_config.yaml.")]
ConfigPath = Annotated[
    Path | None, typer.Option("--config", help="Configuration file [default: ./ray_config.yaml].")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Spend what it takes without asking.")]
Verbose = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="Log what happens (-vv: everything).")
]


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"maia {version('maia')}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Interpret vision networks automatically: agents experiment on a unit until they can say what drives it."""


class _Interrupts:
    """The first Ctrl-C (or SIGTERM) cancels a command, so that what is open is closed; a second ends it at once."""

    def __init__(self) -> None:
        self.count = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None

    def __call__(self, *_: object) -> None:
        self.count += 1
        if self.count > 1:
            leave_at_once()
        if self._loop is None or self._task is None:
            raise KeyboardInterrupt
        self._loop.call_soon_threadsafe(self._task.cancel)

    async def guard(self, work: Coroutine[Any, Any, Any]) -> Any:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        return await work


def leave_at_once() -> None:
    """End this process without closing anything: records are whole at any moment, and children end with it."""
    Console().say("ended at once; repeat the command to go on from here")
    os._exit(130)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a command's coroutine; Ctrl-C once cancels it, twice ends the process."""
    interrupts = _Interrupts()
    heard = [signal.SIGINT, signal.SIGTERM] if threading.current_thread() is threading.main_thread() else []
    before = {number: signal.signal(number, interrupts) for number in heard}
    try:
        with asyncio.Runner() as runner:
            try:
                return runner.run(interrupts.guard(work))
            except KeyboardInterrupt:
                # A command that answered the first one itself gave the second back to Python.
                leave_at_once()
            except asyncio.CancelledError:
                if interrupts.count:
                    raise KeyboardInterrupt from None
                raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def examples(*lines: str) -> str:
    """Return a command's examples as its help shows them, one a line."""
    # The control character keeps click from filling the lines into a paragraph.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


@app.command(
    epilog=examples(
        "maia describe tf_efficientnet_lite0 blocks.6 91",
        'maia describe resnet50 output "golden retriever" --profile openai',
        "maia describe python:net.py:build 1 7 --data ~/images --json",
    )
)
def describe(
    model: Model,
    layer: Annotated[
        str, typer.Argument(help="Layer, as `maia layers MODEL` lists them; `output` for classes.")
    ],
    unit: Annotated[
        str, typer.Argument(help="Unit of the layer: a number from 0, or a class name for `output`.")
    ],
    profile: ProfileName = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory [default: runs/<model>-<layer>-<unit>].")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the whole study.")] = 0,
    data: Annotated[
        str | None,
        typer.Option(help="Images for exemplars: a folder, FILE.npy, hf:ID [default: the profile's]."),
    ] = None,
    json: Json = False,
    config: ConfigPath = None,
    verbose: Verbose = 0,
) -> None:
    """Find out what drives one unit, and how sure that is."""
    from experiments.describe import describe_unit

    configure_logging(verbose)
    console = Console()
    record = run(describe_unit(console, config, profile, model, layer, unit, out=out, seed=seed, data=data))
    if json:
        console.result(record)
    else:
        from experiments.describe import card

        console.show(card(record))
    if record["status"] == "failed":
        raise typer.Exit(1)


@app.command(
    epilog=examples(
        "maia sweep tf_efficientnet_lite0 blocks.6 --units sample:6 --out runs/b6",
        "maia sweep resnet50 layer3,layer4 --profile openai --yes",
    )
)
def sweep(
    model: Model,
    layers: Annotated[str, typer.Argument(help="Layers, separated by commas; `output` for classes.")],
    units: Annotated[
        str, typer.Option(help="all, 0-63, 3,17 or sample:100 (the same sample for the same seed).")
    ] = "all",
    profile: ProfileName = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory [default: runs/<model>-<layers>-<units>].")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all studies.")] = 0,
    data: Annotated[
        str | None,
        typer.Option(help="Images for exemplars: a folder, FILE.npy, hf:ID [default: the profile's]."),
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Study failed units again.")] = False,
    yes: Yes = False,
    json: Json = False,
    config: ConfigPath = None,
    verbose: Verbose = 0,
) -> None:
    """Study whole layers; repeated on the same directory, it goes on where it was."""
    from experiments.status import card
    from experiments.sweep import Sweep
    from experiments.sweep import sweep as study_units

    configure_logging(verbose)
    console = Console()
    folder = out or _runs(f"{model} {layers} {units}")
    _approve(config, profile, yes, lambda: _units_left(config, profile, folder, model, layers, units))
    asked = Sweep(model, tuple(layers.split(",")), units, seed, data, retry_failed)
    summary = run(study_units(console, config, profile, asked, out=folder))
    if json:
        console.result(summary)
    else:
        console.show(card(summary))
        console.show(f"results: {', '.join(summary['results'])}\nreport: {summary['report']}")
    _end(summary)


@app.command(
    epilog=examples(
        "maia session tf_efficientnet_lite0 blocks.6 91",
        "maia session resnet50 layer3 117 --person ada --json < study.py",
    )
)
def session(
    model: Model,
    layer: Annotated[str, typer.Argument(help="Layer, as `maia layers MODEL` lists them.")],
    unit: Annotated[str, typer.Argument(help="Unit of the layer, as for `maia describe`.")],
    profile: ProfileName = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run directory; one that was begun is gone on with [default: a new one]."),
    ] = None,
    person: Annotated[str, typer.Option(help="Who studies: written into the record.")] = "person",
    seed: Annotated[int, typer.Option(min=0, help="Seed of all images.")] = 0,
    data: Annotated[
        str | None,
        typer.Option(help="Images for exemplars: a folder, FILE.npy, hf:ID [default: the profile's]."),
    ] = None,
    json: Json = False,
    config: ConfigPath = None,
    verbose: Verbose = 0,
) -> None:
    """Study a unit yourself, with the agents' tools, recorded as theirs; a program may come from a pipe."""
    from experiments.session import Session, talk

    configure_logging(verbose)
    console = Console()
    with Session.open(
        model, layer, unit, out=out, profile=profile, config=config, data=data, seed=seed,
        person=person, tell=console.say,
    ) as study:  # fmt: skip
        with contextlib.redirect_stdout(sys.stderr if json else sys.stdout):
            went_well = talk(study, sys.stdin)
        rounds, result, page = study.rounds, study.result, study.report()
    if json:
        console.result({"run": str(study.run), "rounds": rounds, "report": str(page), "result": result})
    elif result is None:
        console.show(f"{rounds} rounds\nreport: {page}", markup=False)
    else:
        from experiments.describe import card

        console.show(card(result | {"paths": {"report": str(page)}}))
    if not went_well:
        raise typer.Exit(1)


@app.command(
    epilog=examples(
        "maia estimate tf_efficientnet_lite0 blocks.6 --units sample:100 --profile openai",
        "maia estimate resnet50 layer3 --like runs/b6 --assume rounds=12",
    )
)
def estimate(
    model: Model,
    layers: Annotated[str, typer.Argument(help="Layers, separated by commas; `output` for classes.")],
    units: Annotated[str, typer.Option(help="all, 0-63, 3,17 or sample:100.")] = "all",
    like: Annotated[
        Path | None, typer.Option(help="An earlier run, whose measured rounds and tokens are taken.")
    ] = None,
    assume: Annotated[
        list[str] | None, typer.Option(help="NAME=NUMBER in place of an assumption; may be repeated.")
    ] = None,
    profile: ProfileName = None,
    json: Json = False,
    config: ConfigPath = None,
) -> None:
    """Say what a sweep would take: calls, tokens, dollars, device time, hours."""
    from experiments import estimate as foretell
    from experiments.config import load

    configure_logging(0)
    console = Console(quiet=json)
    chosen = load(config).profile(profile)
    assumed = foretell.assumptions_of(chosen)
    if like is not None:
        assumed = foretell.measured(like, assumed)
    assumed = foretell.assume(assume or [], assumed)
    count = run(foretell.count_units(config, profile, model, layers.split(","), units, 0))
    found = foretell.estimate(chosen, count, assumed)
    if json:
        console.result(found)
    else:
        console.show(foretell.card(found))


def _approve(config: Path | None, profile: str | None, yes: bool, count: Callable[[], int]) -> None:
    """Ask before studies that may cost more than their profile lets pass; `count` says how many there are to do."""
    from experiments import estimate as foretell
    from experiments.config import load

    chosen = load(config).profile(profile)
    roles = chosen.chat
    if not any(map(foretell.charges, (roles.interpreter, roles.observers or roles.interpreter))):
        return
    found = foretell.estimate(chosen, count(), foretell.assumptions_of(chosen))
    asked = None
    if sys.stdin.isatty() and sys.stderr.isatty():

        def asked(question: str) -> bool:
            return typer.confirm(question, err=True)

    Console().say(foretell.approve(found, chosen.ask_above_dollars, yes=yes, ask=asked))


def _units_left(
    config: Path | None, profile: str | None, folder: Path, model: str, layers: str, units: str
) -> int:
    """Return how many units the run in `folder` has still to study: all of them if it was never planned."""
    from experiments import estimate as foretell

    planned = foretell.unfinished(folder)
    if planned is not None:
        return planned
    return int(run(foretell.count_units(config, profile, model, layers.split(","), units, 0)))


def _finished(folder: Path) -> int:
    """Return how many studies have a result in the runs below a folder."""
    return sum(1 for _ in folder.glob("**/units/*/done.json"))


def _runs(name: str) -> Path:
    """Return the folder of a run for which nobody named one."""
    from agents.journal import slug

    return Path("runs") / slug(name)


RunDirectory = Annotated[Path, typer.Argument(help="The --out folder of a run.")]


@app.command(epilog=examples("maia status runs/b6", "maia status runs/b6 --json"))
def status(run_directory: RunDirectory, json: Json = False) -> None:
    """Say how far a run is, also while another process works on it."""
    from experiments.status import card
    from experiments.status import status as state_of

    console = Console(quiet=json)
    found = state_of(run_directory)
    if json:
        console.result(found)
    else:
        console.show(card(found))


@app.command(epilog=examples("maia cancel runs/b6"))
def cancel(run_directory: RunDirectory, json: Json = False) -> None:
    """Ask a run to stop: its agents finish their round, and everything done stays valid."""
    from experiments.status import cancel as ask_to_stop

    console = Console(quiet=json)
    asked = ask_to_stop(run_directory)
    if json:
        console.result(asked)
    elif asked["asked"]:
        console.show("asked to stop; `maia status` says when it has")
    else:
        console.show("nobody works on this run")


cluster = typer.Typer(help="Start, look at and end a Ray cluster on this machine.", no_args_is_help=True)
app.add_typer(cluster, name="cluster")


@cluster.command(epilog=examples("maia cluster up", "maia cluster up --port 6380 --profile cluster"))
def up(
    port: Annotated[int, typer.Option(min=1024, max=65535, help="Port that others join at.")] = 6379,
    profile: ProfileName = None,
    json: Json = False,
    config: ConfigPath = None,
) -> None:
    """Start a cluster here that runs until `maia cluster down`; the profile's `ray` section says how."""
    from actors.head import LocalHead
    from experiments.config import load

    loaded = load(config)
    facts = LocalHead(loaded.cache).up(loaded.profile(profile).ray, port)
    if json:
        Console(quiet=True).result(facts)
    else:
        Console().show(
            f"a cluster runs at {facts['address']}: set ray.address to it, or to auto on this machine"
        )


@cluster.command(name="status", epilog=examples("maia cluster status"))
def cluster_status(json: Json = False, config: ConfigPath = None) -> None:
    """Say whether the cluster of `maia cluster up` runs."""
    from actors.head import LocalHead
    from experiments.config import load

    facts = LocalHead(load(config).cache).status()
    if json:
        Console(quiet=True).result({"running": facts is not None, **(facts or {})})
    else:
        Console().show(f"runs at {facts['address']}" if facts else "no cluster of this command runs here")
    if facts is None:
        raise typer.Exit(1)


@cluster.command(epilog=examples("maia cluster down"))
def down(json: Json = False, config: ConfigPath = None) -> None:
    """End the cluster of `maia cluster up` with all its processes; no other Ray is touched."""
    from actors.head import LocalHead
    from experiments.config import load

    ended = LocalHead(load(config).cache).down()
    if json:
        Console(quiet=True).result({"ended": ended})
    else:
        Console().show("ended" if ended else "no cluster of this command runs here")


UnitPath = Annotated[
    Path, typer.Argument(help="DIR/UNIT: an --out folder and a unit of it, as layer:number.")
]


@app.command(epilog=examples("maia replay runs/b6/blocks.6:91"))
def replay(unit: UnitPath, json: Json = False, verbose: Verbose = 0) -> None:
    """Play a recorded unit again without models, and say where it comes out differently."""
    from experiments.replay import replay_unit

    configure_logging(verbose)
    console = Console(quiet=json)
    found = run(replay_unit(console, unit))
    if json:
        console.result(found)
    elif found["divergence"]:
        console.show(f"diverged in {found['divergence']}", markup=False)
    else:
        console.show(f"all {found['rounds']} rounds came out as on record")
    if found["divergence"]:
        raise typer.Exit(1)


@app.command(
    epilog=examples("maia branch runs/b6/blocks.6:91 --from-round 3 --profile openai --out runs/branch")
)
def branch(
    unit: UnitPath,
    out: Annotated[Path, typer.Option(help="Run directory of the branch.")],
    from_round: Annotated[int, typer.Option(min=1, help="The first round that is played anew.")] = 1,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of what follows [default: the same].")] = None,
    profile: ProfileName = None,
    json: Json = False,
    config: ConfigPath = None,
    verbose: Verbose = 0,
) -> None:
    """Go on from one of a unit's rounds in another way: another profile, another seed."""
    from experiments.replay import branch as go_on

    configure_logging(verbose)
    console = Console()
    record = run(go_on(console, config, profile, unit, from_round, out, seed=seed))
    if json:
        console.result(record)
    else:
        console.show(f"{record['label'] or record['status']}\nreport: {record['report']}", markup=False)


@app.command(epilog=examples('maia find "forested backgrounds" tf_efficientnet_lite0 blocks.6'))
def find(
    concept: Annotated[
        str, typer.Argument(help='What units should be selective for: "forested backgrounds".')
    ],
    model: Model,
    layer: Annotated[str, typer.Argument(help="Layer, as `maia layers MODEL` lists them.")],
    images: Annotated[int, typer.Option(min=8, max=500, help="Images of the concept.")] = 40,
    top: Annotated[int, typer.Option(min=1, help="Units to show.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the images.")] = 0,
    profile: ProfileName = None,
    json: Json = False,
    config: ConfigPath = None,
    verbose: Verbose = 0,
) -> None:
    """Find the units of a layer that are selective for a concept."""
    from experiments.find import find_units, table

    configure_logging(verbose)
    console = Console()
    found = run(
        find_units(console, config, profile, concept, model, layer, n_images=images, top=top, seed=seed)
    )
    if json:
        console.result(found)
    else:
        for note in found["notes"]:
            console.warn(note)
        console.show(table(found))


@app.command(epilog=examples("maia doctor", "maia doctor --profile local --json"))
def doctor(profile: ProfileName = None, json: Json = False, config: ConfigPath = None) -> None:
    """Say what this machine can run, and what to do about what it cannot."""
    from experiments.doctor import examine, table

    configure_logging(0)
    console = Console(quiet=json)
    report = run(examine(config, profile))
    if json:
        console.result(report)
    else:
        console.show(table(report))


@app.command(epilog=examples("maia layers resnet50", "maia layers python:net.py:build --json"))
def layers(model: Model, profile: ProfileName = None, json: Json = False, config: ConfigPath = None) -> None:
    """List the layers of a network whose units can be studied."""
    from experiments.layers import list_layers, table

    configure_logging(0)
    console = Console(quiet=json)
    found = run(list_layers(config, profile, model))
    if json:
        console.result({"model": model, "layers": found})
    else:
        console.show(table(model, found))


@app.command(epilog=examples("maia report runs/b6"))
def report(run_directory: RunDirectory, json: Json = False) -> None:
    """Write the static report of a run; what did not change is left as it is."""
    from experiments.report import write_site

    page = write_site(run_directory)
    console = Console(quiet=json)
    if json:
        console.result({"run": str(run_directory), "report": str(page)})
    else:
        console.show(f"report: {page}")


@app.command(
    epilog=examples(
        "maia export runs/b6 --format csv --out b6.csv", "maia export runs/b6 --format inspect --images"
    )
)
def export(
    run_directory: RunDirectory,
    format: Annotated[
        str, typer.Option("--format", "-f", help="jsonl, csv, parquet, neuronpedia or inspect.")
    ] = "jsonl",
    out: Annotated[Path | None, typer.Option(help="File to write [default: export.* in the run].")] = None,
    images: Annotated[
        bool, typer.Option(help="Put the pictures of transcripts into an inspect log.")
    ] = False,
    json: Json = False,
) -> None:
    """Write a run's results for other programs."""
    from experiments.export import export as write

    console = Console(quiet=json)
    written = write(run_directory, format, out, images=images)
    if json:
        console.result(written)
    else:
        console.show(f"{written['units']} units: {written['path']}", markup=False)


@app.command(epilog=examples("maia diff runs/b6 runs/b6-other-checkpoint", "maia diff runs/a runs/b --json"))
def diff(
    first: Annotated[Path, typer.Argument(help="The --out folder of a run.")],
    second: Annotated[Path, typer.Argument(help="Another run over the same units or layers.")],
    json: Json = False,
) -> None:
    """Show which labels, verdicts and scores changed between two runs, models or checkpoints."""
    from experiments.diff import diff as compare
    from experiments.diff import table

    console = Console(quiet=json)
    found = compare(first, second)
    if json:
        console.result(found)
    else:
        console.show(table(found))


@app.command(epilog=examples("maia view runs/b6", "maia view runs/b6 --port 8080 --no-open"))
def view(
    run_directory: RunDirectory,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on the loopback address [default: a free one].")
    ] = 0,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open a browser.")] = True,
) -> None:
    """Serve a run's report on this machine and keep it up to date while the run goes on."""
    from experiments.view import view as serve

    # Ctrl-C is how a view ends.
    with contextlib.suppress(KeyboardInterrupt):
        run(serve(Console(), run_directory, port=port, open_browser=open_browser))


@app.command(epilog=examples("maia models", "maia models 'vit_*'"))
def models(
    pattern: Annotated[
        str, typer.Argument(help="Also list timm's networks of this name, with * for anything.")
    ] = "",
    json: Json = False,
    config: ConfigPath = None,
) -> None:
    """List what can be studied, and which models each profile would use."""
    from experiments.models import list_models, table

    configure_logging(0)
    found = list_models(config, pattern)
    console = Console(quiet=json)
    if json:
        console.result(found)
    else:
        console.show(table(found))


@app.command(epilog=examples("maia exemplars tf_efficientnet_lite0 --layers blocks.5,blocks.6 --k 20"))
def exemplars(
    model: Model,
    layers: Annotated[str, typer.Option(help="Layers with commas between them.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="Images: a folder, FILE.npy, hf:ID[:SPLIT], scenes:SIZE:SEED [default: the profile's]."
        ),
    ] = None,
    k: Annotated[int, typer.Option(min=1, max=1000, help="Exemplars of each unit.")] = 15,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the tables [default: runs/exemplars-...].")
    ] = None,
    profile: ProfileName = None,
    json: Json = False,
    config: ConfigPath = None,
    verbose: Verbose = 0,
) -> None:
    """Find the strongest images of every unit of some layers, in one pass over a data set."""
    from experiments.exemplars import find_exemplars

    configure_logging(verbose)
    console = Console(quiet=json)
    result = run(find_exemplars(console, config, profile, model, layers, data=data, k=k, out=out))
    if json:
        console.result(result)
    else:
        console.show(*(f"{layer}: {file}" for layer, file in result["files"].items()))


@app.command(
    epilog=examples(
        "maia synthetic --units mono --limit 5 --out runs/synthetic",
        "maia synthetic --units 'violin;horse OR violin'",
    )
)
def synthetic(
    units: Annotated[
        str,
        typer.Option(
            help="all, or divided by semicolons: mono, or, given, confounded, nuisance, formulas such as 'dog OR car'."
        ),
    ] = "all",
    out: Annotated[Path, typer.Option(help="Run directory.")] = Path("runs/synthetic"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of data set and studies.")] = 0,
    baseline: Annotated[
        bool, typer.Option(help="Also label from one look at the exemplars, to compare.")
    ] = True,
    limit: Annotated[int | None, typer.Option(min=1, help="Study only the first so many.")] = None,
    yes: Yes = False,
    profile: ProfileName = None,
    json: Json = False,
    config: ConfigPath = None,
    verbose: Verbose = 0,
) -> None:
    """Describe synthetic neurons, whose truth is known, and score the labels against it."""
    from experiments.gym.neurons import choose
    from experiments.synthetic import describe_synthetic, table

    configure_logging(verbose)
    console = Console()
    _approve(config, profile, yes, lambda: len(choose(units)[:limit]) - _finished(out))
    result = run(
        describe_synthetic(
            console, config, profile, units=units, out=out, seed=seed, baseline=baseline, limit=limit
        )
    )
    if json:
        console.result({key: value for key, value in result.items() if key != "rows"})
    else:
        console.show(table(result))


@app.command(epilog=examples("maia audit tf_efficientnet_lite0 --classes goldfish --out runs/audit"))
def audit(
    model: Model,
    classes: Annotated[
        str, typer.Option(help="all, a class's name, 281-285, 3,17, sample:20, or several with commas.")
    ] = "all",
    out: Annotated[
        Path | None, typer.Option(help="Run directory [default: runs/audit-<model>-<classes>].")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all images and studies.")] = 0,
    images: Annotated[int, typer.Option(min=2, help="Images of each class in each context.")] = 12,
    figures_only: Annotated[
        bool, typer.Option("--figures-only", help="Measure the fixed design alone, without agents.")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(help="Images for exemplars: a folder, FILE.npy, hf:ID [default: the profile's]."),
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Audit failed classes again.")] = False,
    yes: Yes = False,
    profile: ProfileName = None,
    json: Json = False,
    config: ConfigPath = None,
    verbose: Verbose = 0,
) -> None:
    """Find the contexts in which classes lose or gain probability; repeated on the same directory, it goes on."""
    from experiments.audit import Audit, table
    from experiments.audit import audit as audit_classes
    from experiments.status import card

    configure_logging(verbose)
    console = Console()
    folder = out or _runs(f"audit {model} {classes}")
    if not figures_only:
        _approve(config, profile, yes, lambda: _units_left(config, profile, folder, model, "output", classes))
    asked = Audit(model, classes, seed, images, not figures_only, data, retry_failed)
    result = run(audit_classes(console, config, profile, asked, out=folder))
    if json:
        console.result(result)
    else:
        console.show(table(result), markup=False)
        console.show(card(result["run"]))
        console.show(f"results: {', '.join(result['run']['results'])}\nreport: {result['run']['report']}")
    _end(result["run"])


def _end(summary: dict[str, Any]) -> None:
    """End with the exit code of a run of many items."""
    if summary["paused"]:
        raise typer.Exit(130)
    if summary["stopped"] or summary["failed"] or summary["state"] != "finished":
        raise typer.Exit(1)


@app.command(
    name="robust-features",
    epilog=examples("maia robust-features", "maia robust-features --data ~/spawrious --json"),
)
def robust_features(
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of Spawrious' O2O-easy [default: a set of scenes is drawn]."),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Classes of the scenes, with commas between them.")
    ] = None,
    places: Annotated[
        str | None, typer.Option(help="Each class's own place, in their order, then the one they share.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(help="What the network knows before: world, imagenet or nothing [default: by the set]."),
    ] = None,
    trainings: Annotated[int, typer.Option(min=1, help="Trainings, each with a seed of its own.")] = 5,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes of a training over its images [default: 1].")
    ] = None,
    top: Annotated[int, typer.Option(min=2, help="Units that the agent judges.")] = 50,
    limit: Annotated[
        int | None, typer.Option(min=2, help="At most so many images of each cell of a folder.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Run directory.")] = Path("runs/robust-features"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the set and of all studies.")] = 0,
    yes: Yes = False,
    profile: ProfileName = None,
    json: Json = False,
    config: ConfigPath = None,
    verbose: Verbose = 0,
) -> None:
    """Keep the units that follow the object and drop those that follow its place: Table 2 of the paper.

    Example: maia robust-features --trainings 1 --out runs/robust
    """
    from experiments.robust_features import asked_for, table
    from experiments.robust_features import robust_features as compare

    configure_logging(verbose)
    console = Console()
    asked = asked_for(
        data, classes, places, start, trainings=trainings, epochs=epochs, top=top, seed=seed, limit=limit
    )
    _approve(config, profile, yes, lambda: trainings * top - _finished(out))
    result = run(compare(console, config, profile, asked, out=out))
    if json:
        console.result(result)
    else:
        console.show(table(result))
    if not result["finished"]:
        raise typer.Exit(130)


@app.command(name="planted-biases", epilog=examples("maia planted-biases --networks 1 --out runs/planted"))
def planted_biases(
    networks: Annotated[int, typer.Option(min=1, help="Classifiers, of eight classes each.")] = 3,
    out: Annotated[Path, typer.Option(help="Run directory.")] = Path("runs/planted-biases"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of classes, biases and images.")] = 0,
    images: Annotated[int, typer.Option(min=2, help="Images of each class in each context.")] = 12,
    agents: Annotated[bool, typer.Option(help="Also let an agent audit each class.")] = False,
    yes: Yes = False,
    profile: ProfileName = None,
    json: Json = False,
    config: ConfigPath = None,
    verbose: Verbose = 0,
) -> None:
    """Audit classifiers whose biases are known: the share found, and the false alarms."""
    from experiments.gym.biases import BiasDesign
    from experiments.planted import planted_biases as measure
    from experiments.planted import table

    configure_logging(verbose)
    console = Console()
    if agents:
        studies = sum(len(BiasDesign.drawn(seed + number).classes) for number in range(networks))
        _approve(config, profile, yes, lambda: studies - _finished(out))
    result = run(
        measure(
            console, config, profile, out=out, networks=networks, seed=seed, per_context=images, agents=agents
        )
    )
    if json:
        console.result(result)
    else:
        console.show(table(result))
    if not result["finished"]:
        raise typer.Exit(130)


Against = Annotated[
    list[str] | None,
    typer.Option(help="NAME=DIR or NAME=FILE.json: another method's labels of the same units."),
]


def _methods(against: list[str] | None) -> dict[str, Path]:
    """Return the files of other methods by name: a name of its own for each."""
    from experiments.evaluate import NULL, OURS

    found: dict[str, Path] = {}
    for text in against or []:
        name, divider, path = text.partition("=")
        if not (name and divider and path):
            raise UsageError(f"--against must be NAME=DIR or NAME=FILE.json, got {text!r}")
        if name in (OURS, NULL):
            raise UsageError(
                f"--against cannot call a method {name!r}: results call one of their own so.",
                "Give it another name.",
            )
        if name in found:
            raise UsageError(f"--against names {name!r} twice.", "Give each method a name of its own.")
        found[name] = Path(path)
    return found


@app.command(epilog=examples("maia evaluate runs/sweep --against people=labels.json"))
def evaluate(
    run_directory: RunDirectory,
    against: Against = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many units.")] = None,
    controls: Annotated[int, typer.Option(min=2, help="Images of the data set to compare with.")] = 60,
    cosy: Annotated[int, typer.Option(min=2, help="Images of each label for CoSy's measures.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and images.")] = 0,
    profile: ProfileName = None,
    json: Json = False,
    config: ConfigPath = None,
    verbose: Verbose = 0,
) -> None:
    """Measure how well a run's labels foretell its units: Table A3 of the paper, and more."""
    from experiments.evaluate import Sizes, table
    from experiments.evaluate import evaluate as measure

    configure_logging(verbose)
    console = Console()
    sizes = Sizes(controls, cosy)
    result = run(
        measure(
            console,
            config,
            profile,
            run_directory,
            against=_methods(against),
            limit=limit,
            sizes=sizes,
            seed=seed,
        )
    )
    if json:
        console.result(result)
    else:
        console.show(table(result), markup=False)
    if any("error" in row for row in result["rows"]):
        raise typer.Exit(1)


@app.command(epilog=examples('maia ablate synthetic --units "dog; blue; dog OR car" --out runs/ablation'))
def ablate(
    model: Annotated[str, typer.Argument(help="Network, or `synthetic` for neurons whose truth is known.")],
    layer: Annotated[str, typer.Argument(help="Layer of the network.")] = "",
    units: Annotated[
        str, typer.Option(help="sample:8, 0-63, 3,17; of synthetic: mono; or; formulas.")
    ] = "sample:8",
    variants: Annotated[
        str, typer.Option(help="Variants to compare with the whole system, with commas between them.")
    ] = "exemplars-only,generated-only,one-shot",
    swap: Annotated[
        str | None, typer.Option(help="A profile whose image generator is tried as well.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Run directory.")] = Path("runs/ablation"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything.")] = 0,
    yes: Yes = False,
    profile: ProfileName = None,
    json: Json = False,
    config: ConfigPath = None,
    verbose: Verbose = 0,
) -> None:
    """Compare the whole system with less than the system, on the same units: Table A5 of the paper."""
    from experiments import estimate as foretell
    from experiments.ablate import Ablation, table
    from experiments.ablate import ablate as compare
    from experiments.gym.neurons import choose
    from experiments.variants import FULL

    configure_logging(verbose)
    console = Console()
    chosen = tuple(name.strip() for name in variants.split(",") if name.strip())
    if model != "synthetic" and not layer:
        raise UsageError("a network needs a layer.", "Write maia ablate MODEL LAYER.")
    asked = Ablation(
        model, layer, "all" if model == "synthetic" and units == "sample:8" else units, chosen, swap, seed
    )

    def studies() -> int:
        if model == "synthetic":
            count = sum(unit.formula is not None for unit in choose(asked.units))
        else:
            count = run(foretell.count_units(config, profile, model, [layer], units, seed))
        systems = len({FULL.name, *chosen}) + (swap is not None)
        return count * systems - _finished(out)

    _approve(config, profile, yes, studies)
    result = run(compare(console, config, profile, asked, out=out))
    if json:
        console.result(result)
    else:
        console.show(table(result), markup=False)


@app.command(epilog=examples("maia judge runs/sweep --against people=labels.json --name ada"))
def judge(
    run_directory: RunDirectory,
    against: Against = None,
    name: Annotated[str, typer.Option(help="The judge's name, one word.")] = "judge",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on the loopback address [default: a free one].")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of order and sides.")] = 0,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open a browser.")] = True,
    json: Json = False,
) -> None:
    """Let a person compare labels without knowing whose they are, on a page of this machine."""
    from experiments.judge import judge as serve
    from experiments.judge import table

    console = Console()
    result = run(
        serve(
            console, run_directory, _methods(against), name, port=port, seed=seed, open_browser=open_browser
        )
    )
    if json:
        console.result(result)
    else:
        console.show(table(result), markup=False)


def main() -> None:
    """Run the command line: exit codes 0, 1 (something failed), 2 (wrong use), 130 (interrupted)."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        # Without standalone mode a command's exit code comes back as a value.
        if code := app(standalone_mode=False):
            sys.exit(code)
    except MaiaError as error:
        Console().fail(error)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except SystemExit as stop:
        # Typer's own answer to Ctrl-C, without a word.
        if stop.code == 130:
            _end_interrupted()
        raise
    except (KeyboardInterrupt, typer.Abort):
        _end_interrupted()
    except BaseExceptionGroup as group:
        errors = list(_leaves(group))
        known = [error for error in errors if isinstance(error, MaiaError)]
        if not known:
            raise
        Console().fail(known[0])
        sys.exit(2 if isinstance(known[0], UsageError) else 1)
    except Exception as error:
        # Typer brings a click of its own under a private name: its usage errors are known by what they can do.
        if not hasattr(error, "show") or not hasattr(error, "exit_code"):
            raise
        error.show()
        sys.exit(2)


def _end_interrupted() -> None:
    Console().say("interrupted; repeat the command to go on from here")
    sys.exit(130)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Any:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


if __name__ == "__main__":
    main()
