"""`maia init`: a profile of one's own from a few answers."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from actors.errors import UsageError
from experiments.cli.options import Json, examples
from experiments.cli.running import run
from experiments.setup.console import Console, configure_logging

commands = typer.Typer()


@commands.command(
    epilog=examples(
        "maia init",
        "maia init --provider openai --data ~/photos --model resnet50",
        "maia init --server http://127.0.0.1:8000/v1 --gpu --data ~/photos",
    )
)
def init(
    provider: Annotated[
        str, typer.Option(help="Whose models to use: openai, gemini, anthropic ... (docs/models.md).")
    ] = "",
    server: Annotated[
        str, typer.Option(help="Address of a server of your own that speaks OpenAI's API, with /v1.")
    ] = "",
    server_model: Annotated[
        str | None, typer.Option(help="Its model [default: the only one it lists].")
    ] = None,
    key_env: Annotated[str, typer.Option(help="Environment variable with the server's key.")] = "",
    gpu: Annotated[
        bool | None, typer.Option("--gpu/--no-gpu", help="Make images on a GPU of this machine.")
    ] = None,
    data: Annotated[str, typer.Option(help="Folder of photographs that units are studied on.")] = "",
    model: Annotated[str, typer.Option(help="The network that you want to study.")] = "",
    name: Annotated[str, typer.Option(help="Name of the profile.")] = "mine",
    out: Annotated[Path, typer.Option(help="File to write; maia finds ./maia.yaml by itself.")] = Path(
        "maia.yaml"
    ),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    ask: Annotated[bool, typer.Option("--ask/--no-ask", help="Ask the endpoint whether it works.")] = True,
    json: Json = False,
) -> None:
    """Write a profile of your own. It asks four questions, or takes the answers as options, and tries the
    endpoint.
    """
    from experiments.setup.profile_file import check_free

    if not force:
        check_free(out)
    from experiments.setup.config import load
    from experiments.setup.endpoint_check import EndpointReport, check_endpoints, suggestions, table
    from experiments.setup.init import ProfileAnswers, write_profile
    from experiments.setup.profile_file import update_profile

    configure_logging(0)
    console = Console(quiet=json)
    if sys.stdin.isatty() and not (provider or server):
        provider, server, gpu, data, model = _questions(gpu, data, model)
        if server and not server_model:
            server_model = _which_model(server, key_env)
    elif not (provider or server):
        console.say(
            "nothing was asked, for there is no terminal: the profile has the embedded stand-ins; "
            "--provider or --server names a language model"
        )
    answers = ProfileAnswers(provider, server, server_model or "", key_env, bool(gpu), data)
    profile: dict[str, Any] = run(write_profile(out, name, answers, replace=force, environ=os.environ))
    reports: list[EndpointReport] = []
    if ask and "chat" in profile:
        with console.waiting("asking the endpoint"):
            reports = run(check_endpoints(load(out).profile(name)))
        if found := suggestions(reports):
            update_profile(out, name, found)
    if json:
        endpoints = [report.as_json() for report in reports]
        console.result({"file": str(out), "name": name, "profile": profile, "endpoints": endpoints})
    else:
        console.show(f"wrote {out}: profile {name}", markup=False)
        if reports:
            console.show(table(reports))
        found_by_itself = out.resolve() == (Path.cwd() / "maia.yaml").resolve()
        config = "" if found_by_itself else f" --config {shlex.quote(str(out))}"
        network = model or "tf_efficientnet_lite0"
        images = " --data FOLDER" if profile.get("dataset") == "" else ""
        following = [f"maia layers {network}{config}", f"maia describe {network} LAYER UNIT{images}{config}"]
        if any(report.error is not None for report in reports):
            following = [
                f"mend the profile in {out}, or repeat the command with other options and --force",
                f"maia doctor --ask{config}",
            ]
        console.show("\n".join(["next:", *(f"  {line}" for line in following)]), markup=False)
    if any(report.error is not None for report in reports):
        raise typer.Exit(2)


def _questions(gpu: bool | None, data: str, model: str) -> tuple[str, str, bool, str, str]:
    """Ask a person for provider, server, and what no option said; an answer that cannot be is asked for
    again.
    """
    from experiments.setup.init import check_images, provider_named

    def language_model(text: str) -> str:
        if not _is_address(text := text.strip()) and text:
            _or_again(lambda: provider_named(text))
        return text

    def images(text: str) -> str:
        _or_again(lambda: check_images(text.strip()))
        return text.strip()

    which = typer.prompt(
        "1. Language model: a provider (openai, gemini, anthropic ...), the address of your own server "
        "(http://...), or nothing for the embedded stand-ins",
        default="",
        show_default=False,
        value_proc=language_model,
        err=True,
    )
    if gpu is None:
        gpu = typer.confirm("2. Is there a GPU here to make images on?", default=False, err=True)
    data = data or typer.prompt(
        "3. Folder of photographs (nothing: drawn scenes)",
        default="",
        show_default=False,
        value_proc=images,
        err=True,
    )
    model = model or typer.prompt("4. Network to study", default="tf_efficientnet_lite0", err=True)
    server = which if _is_address(which) else ""
    return "" if server else which, server, gpu, data, model


def _is_address(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def _which_model(server: str, key_env: str) -> str:
    """Return the only model of a server, or the one that a person chooses."""
    from experiments.setup.init import listed_names, shortened

    names: list[str] = run(listed_names(server, key_env, os.environ))
    if len(names) == 1:
        return names[0]

    def known(text: str) -> str:
        if text.strip() not in names:
            raise typer.BadParameter(f"It lists {shortened(names)}.")
        return text.strip()

    question = f"   Which of its {len(names)} models ({shortened(names)})"
    return str(typer.prompt(question, value_proc=known, err=True))


def _or_again(check: Callable[[], object]) -> None:
    """Have a question asked again where its answer does not pass a check."""
    try:
        check()
    except UsageError as error:
        raise typer.BadParameter(str(error)) from error
