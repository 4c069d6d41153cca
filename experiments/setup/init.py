"""`maia init`: from four answers to a profile of one's own: which language model, a GPU or not, which images,
which network.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.chat.settings import OpenAIChat
from actors.endpoint.catalogue import Catalogue, Provider, catalogue
from actors.endpoint.faults import EndpointDownError
from actors.endpoint.model_list import ListedModel, list_models
from actors.endpoint.openai_client import connect
from actors.errors import UsageError
from experiments.setup import config as configuration
from experiments.setup.console import counted
from experiments.setup.profile_file import new_file

_LIST_S = 10.0
_SHOWN = 8
_PLACEHOLDER = "unknown"
"""Of a server that is asked which models it has: no request with this name is sent."""


@dataclass(frozen=True, slots=True)
class ProfileAnswers:
    """What was asked. At most one of `provider` and `server` is set; neither means the embedded stand-ins."""

    provider: str = ""
    """A provider of the built-in list."""
    server: str = ""
    """The address of a server of one's own that speaks OpenAI's API."""
    server_model: str = ""
    """Its model; empty takes the only one that it lists."""
    key_env: str = ""
    """The variable that holds the server's key; empty sends none to a server on this machine."""
    gpu: bool = False
    data: str = ""
    """A folder of photographs; empty keeps the drawn scenes of the embedded profile, where there is no paid
    model.
    """


async def write_profile(
    path: Path, name: str, answers: ProfileAnswers, *, replace: bool = False, environ: Mapping[str, str]
) -> dict[str, Any]:
    """Write a configuration file with a profile for the answers, and return the profile.

    Raises:
        UsageError: If the file exists, or the answers cannot go together.
    """
    _check(answers)
    profile = await _profile(answers, environ)
    today = datetime.date.today().isoformat()
    header = (
        f"# Written by `maia init` on {today}. It extends the built-in profiles; docs/configuration.md has "
        "every key.\n# Names of models and prices: docs/models.md, checked on "
        f"{catalogue().checked.isoformat()}.\n"
    )
    new_file(path, name, profile, header, replace=replace)
    configuration.load(path)
    return profile


def _check(answers: ProfileAnswers) -> None:
    if answers.provider and answers.server:
        raise UsageError("a provider and a server were named.", "Give one of --provider and --server.")
    check_images(answers.data)


def check_images(data: str) -> None:
    """Make sure that images which were named exist; "" names none.

    Raises:
        UsageError: If they do not.
    """
    if data and not Path(data).expanduser().exists():
        raise UsageError(f"the images {data!r} do not exist.", "Give --data a folder of photographs.")


async def _profile(answers: ProfileAnswers, environ: Mapping[str, str]) -> dict[str, Any]:
    profile: dict[str, Any] = {"extends": "embedded", "description": _description(answers)}
    if answers.data:
        profile["dataset"] = answers.data
    elif answers.provider:
        profile["dataset"] = ""
    if answers.provider:
        provider = provider_named(answers.provider)
        profile["chat"] = _hosted_chat(answers.provider, provider)
        if not answers.gpu and (images := _hosted_images(answers.provider, provider)):
            profile["generation"] = images
    elif answers.server:
        model = answers.server_model or await _only_model(answers, environ)
        # Its model looks, too: the embedded profile's observers are a stand-in.
        profile["chat"] = {"interpreter": _own_server(answers, model), "observers": None}
    if answers.gpu:
        profile["generation"] = _local_images(catalogue())
        profile["vision"] = {"batch": 64, "placement": {"num_gpus": 0.2}}
    return profile


def _description(answers: ProfileAnswers) -> str:
    model = f"models of {answers.provider}" if answers.provider else answers.server or "embedded stand-ins"
    return f"Written by maia init: {model}{', images made on a GPU here' if answers.gpu else ''}."


def provider_named(name: str) -> Provider:
    """Return a provider of the built-in list.

    Raises:
        UsageError: If it has none of that name.
    """
    known = catalogue().providers
    if name not in known:
        raise UsageError(
            f"{name!r} is no provider of the built-in list.",
            f"Providers: {', '.join(known)}. For another, give --server URL and --key-env NAME.",
        )
    return known[name]


def _hosted_chat(name: str, provider: Provider) -> dict[str, Any]:
    def first(use: str) -> str | None:
        listed = catalogue().chat
        return next((model.id for model in listed if model.provider == name and use in model.use), None)

    reasons, observes = first("interpreter"), first("observer")
    common = {"backend": "openai", "base_url": provider.base_url, "api_key_env": provider.api_key_env}
    interpreter = {**common, "model": reasons or observes}
    return {"interpreter": interpreter, "observers": {**common, "model": observes} if observes else None}


def _hosted_images(name: str, provider: Provider) -> dict[str, Any]:
    """Return an image maker of the provider with the cheapest known quality; {} if it has none."""
    model = next(
        (listed for listed in catalogue().images if listed.provider == name and "maker" in listed.use), None
    )
    if model is None:
        return {}
    maker = {
        "backend": "openai-images",
        "model": model.id,
        "base_url": provider.base_url,
        "api_key_env": provider.api_key_env,
    }
    if model.size is not None:
        maker["size"] = model.size
    if model.price is not None and isinstance(model.price.image, dict):
        cheapest = min(model.price.image, key=model.price.image.__getitem__)
        if cheapest:
            maker["quality"] = cheapest
    return maker


def _local_images(listed: Catalogue) -> dict[str, Any]:
    model = next(entry for entry in listed.local_images if "maker" in entry.use and "editor" in entry.use)
    pipeline = {"backend": "diffusers", "model": model.id, "pipeline": model.pipeline, "steps": model.steps}
    known = {key: value for key, value in pipeline.items() if value is not None}
    return {**known, "placement": {"num_gpus": 0.6}, "editor": dict(known)}


def _own_server(answers: ProfileAnswers, model: str) -> dict[str, Any]:
    return {
        "backend": "openai",
        "model": model,
        "base_url": answers.server,
        "api_key_env": answers.key_env or None,
    }


async def listed_names(server: str, key_env: str, environ: Mapping[str, str]) -> list[str]:
    """Return the names of the models that a server lists.

    Raises:
        UsageError: If nothing answers there, the key is refused, or there is no list.
    """
    settings = OpenAIChat(**_own_server(ProfileAnswers(server=server, key_env=key_env), _PLACEHOLDER))
    connection = connect(settings, environ)
    try:
        models: tuple[ListedModel, ...] | None = await list_models(connection, settings, _LIST_S)
    except EndpointDownError as error:
        raise UsageError(error.message, error.fix) from error
    finally:
        await connection.client.close()
    if not models:
        raise UsageError(
            f"{server} gives no list of models.",
            "Check the address, which usually ends in /v1; if it is right, name the model with "
            "--server-model.",
        )
    return [model.id for model in models]


async def _only_model(answers: ProfileAnswers, environ: Mapping[str, str]) -> str:
    """Return the only model that a server lists.

    Raises:
        UsageError: If it lists none or several, or does not answer.
    """
    names = await listed_names(answers.server, answers.key_env, environ)
    if len(names) == 1:
        return names[0]
    raise UsageError(
        f"the server at {answers.server} lists {counted(len(names), 'model')}: {shortened(names)}.",
        "Name the one to use with --server-model.",
    )


def shortened(names: Sequence[str]) -> str:
    """Return the first of some names for a sentence."""
    return ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")
