"""`maia estimate`: what a sweep will take, before anything is spent: calls, tokens, dollars, device time, hours.

Everything follows from the configuration and a handful of assumptions, all of which are told and can be replaced
by what an earlier run measured. `at_most` is what the configuration's own limits allow.
"""

from __future__ import annotations

import ipaddress
import json
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from actors.chat.pricing import dollars, estimate_text
from actors.chat.settings import ChatSettings, OpenAIChat
from actors.errors import MaiaError, UsageError
from agents.tasks.describe_unit import DescribeUnit
from experiments.config import Profile
from tools.sandbox import api_page


@dataclass(frozen=True)
class Assumptions:
    """What a configuration does not say. Times are of one device, or one request to an endpoint."""

    rounds: float = 8
    """Rounds of a study."""
    images_a_round: float = 10
    """Images that are made in a round, and shown to the interpreter."""
    observation_tokens: float = 250
    """Tokens of text in an observation."""
    reply_tokens: float = 450
    """Tokens of an interpreter's reply."""
    looks: float = 10
    """Images of a study that its agent has described."""
    look_tokens: float = 60
    """Tokens of a description."""
    answers: float = 1.2
    """Answers of a study that are examined."""
    seconds_a_reply: float = 8.0
    """Seconds until an interpreter has replied."""
    seconds_a_look: float = 2.0
    """Seconds until an observer has replied."""
    seconds_an_image: float = 2.5
    """Seconds of a device for an image that is generated or edited."""
    seconds_a_pass: float = 0.004
    """Seconds of a device for an image that is shown to the network."""


_DRAWN_S = 0.005
"""Seconds for a scene of the embedded world, which needs no model."""
_QUICK_S = 0.05
"""Seconds for a reply of the built-in models."""
_WORDS_OF_A_LOOK = 120
_RETESTS = 2
"""Times that one answer may be confirmed again: the labels that were borne out, and a simpler one in their place."""


def assume(values: Sequence[str], base: Assumptions | None = None) -> Assumptions:
    """Return assumptions changed by `NAME=NUMBER` texts.

    Raises:
        UsageError: If a text has another form or names no assumption.
    """
    known = {field.name for field in fields(Assumptions)}
    changed = {}
    for text in values:
        name, equals, value = text.partition("=")
        try:
            changed[name] = float(value)
        except ValueError:
            equals = ""
        if not equals or name not in known or changed[name] < 0:
            raise UsageError(
                f"an assumption is written NAME=NUMBER, got {text!r}.", f"Names: {', '.join(sorted(known))}."
            )
    return replace(base or Assumptions(), **changed)


def assumptions_of(profile: Profile) -> Assumptions:
    """Return the assumptions that suit a profile: its stand-ins answer at once."""
    found = Assumptions()
    roles = profile.chat
    if roles.interpreter.backend == "builtin":
        found = replace(found, seconds_a_reply=_QUICK_S)
    if (roles.observers or roles.interpreter).backend == "builtin":
        found = replace(found, seconds_a_look=_QUICK_S)
    if profile.generation.backend == "scenes":
        found = replace(found, seconds_an_image=_DRAWN_S)
    if profile.vision.placement.num_gpus == 0:
        found = replace(found, seconds_a_pass=0.03)
    return found


def measured(run: Path, base: Assumptions) -> Assumptions:
    """Return `base` with what the finished studies of an earlier run took in place of what was assumed.

    Raises:
        UsageError: If the run has no finished study.
    """
    paths = sorted((run / "units").glob("*/done.json"))
    records = [json.loads(path.read_bytes()) for path in paths]
    records = [record for record in records if record.get("rounds")]
    if not records:
        raise UsageError(f"{run} holds no finished study.", "Name the --out folder of an earlier run.")
    rounds = [record["rounds"] for record in records]
    images = [record["images_made"] for record in records]
    calls = [(record["usage"]["interpreter"], record["rounds"]) for record in records]
    replies = sum(usage["completion_tokens"] for usage, _ in calls)
    found = replace(
        base,
        rounds=statistics.fmean(rounds),
        images_a_round=sum(images) / sum(rounds),
    )
    return replace(found, reply_tokens=replies / sum(rounds)) if replies else found


def estimate(profile: Profile, n_units: int, assumed: Assumptions) -> dict[str, Any]:
    """Return what studying `n_units` takes, as plain values; dollars are None where a price is not configured."""
    likely = _study(profile, assumed)
    settings = profile.interpreter
    most = _study(
        profile,
        replace(
            assumed,
            rounds=settings.max_rounds,
            images_a_round=(settings.max_images or 1000) / settings.max_rounds,
            observation_tokens=settings.max_text_shown / 4,
            reply_tokens=settings.max_tokens,
            answers=settings.max_examinations,
        ),
        most=True,
    )
    passes = _dataset_size(profile)
    data = (passes or 0) * assumed.seconds_a_pass
    hours, bound = _hours(profile, n_units, likely, data)
    notes = _notes(profile, passes)
    return {
        "units": n_units,
        "likely": {**_times(likely, n_units, data), "hours": hours, "bound_by": bound},
        "at_most": _within(profile, _times(most, n_units, data)),
        "assumes": asdict(assumed),
        "notes": notes,
    }


@dataclass(frozen=True)
class _Cost:
    """What one study takes."""

    interpreter_calls: float
    observer_calls: float
    prompt_tokens: float
    cached_tokens: float
    completion_tokens: float
    dollars: float | None
    images: float
    generation_s: float
    vision_s: float
    waiting_s: float


def _study(profile: Profile, assumed: Assumptions, *, most: bool = False) -> _Cost:
    roles = profile.chat
    interpreter, observer = roles.interpreter, roles.observers or roles.interpreter
    prompt, cached, completion = _conversation(interpreter, assumed)
    confirmed, witnessed = _confirmation(profile, assumed, most)
    looks = assumed.looks + witnessed
    look_prompt = looks * (_WORDS_OF_A_LOOK + _image_tokens(observer))
    look_completion = looks * assumed.look_tokens
    parts = [
        _dollars(interpreter, prompt, cached, completion),
        _dollars(observer, look_prompt, 0, look_completion),
    ]
    made = assumed.rounds * assumed.images_a_round + confirmed
    return _Cost(
        interpreter_calls=assumed.rounds,
        observer_calls=looks,
        prompt_tokens=prompt + look_prompt,
        cached_tokens=cached,
        completion_tokens=completion + look_completion,
        dollars=None if None in parts else sum(part or 0.0 for part in parts),
        images=made,
        generation_s=made * assumed.seconds_an_image,
        vision_s=(made + 15) * assumed.seconds_a_pass,
        waiting_s=assumed.rounds * assumed.seconds_a_reply + assumed.seconds_a_look * (assumed.rounds + 2),
    )


def _conversation(settings: ChatSettings, assumed: Assumptions) -> tuple[float, float, float]:
    """Return prompt tokens, those of them that a prefix cache holds, and completion tokens of one study.

    Each round sends the whole conversation again; all but its newest part was sent before.
    """
    opening = estimate_text(api_page()) + estimate_text(DescribeUnit().opening())
    added = (
        assumed.reply_tokens + assumed.observation_tokens + assumed.images_a_round * _image_tokens(settings)
    )
    rounds = assumed.rounds
    prompt = rounds * opening + added * rounds * (rounds - 1) / 2
    fresh = opening + added * max(rounds - 1, 0)
    return prompt, max(prompt - fresh, 0.0), rounds * assumed.reply_tokens


def _confirmation(profile: Profile, assumed: Assumptions, most: bool) -> tuple[float, float]:
    """Return how many images a study's confirmation makes and has looked at."""
    test = profile.confirmation
    if test is None:
        return 0.0, 0.0
    each, tests = (test.max_images, 1 + _RETESTS) if most else (test.min_images, 1)
    witnessed = assumed.answers * 2 * each * tests
    probes = 3 * test.probe * (assumed.answers if most else 1)
    return witnessed + probes, witnessed + 1


def _image_tokens(settings: ChatSettings) -> int:
    return getattr(settings, "image_tokens", 85)


def _dollars(settings: ChatSettings, prompt: float, cached: float, completion: float) -> float | None:
    """Return the price of tokens, None if somebody charges for them and the configuration does not say what."""
    price = getattr(settings, "price", None)
    if price is None:
        return None if charges(settings) else 0.0
    known = cached if price.cached is not None else 0
    return dollars(price, round(prompt), round(known), round(completion))


def charges(settings: ChatSettings) -> bool:
    """Say whether a model may cost money: an endpoint with a key that is not on this machine."""
    if not isinstance(settings, OpenAIChat) or settings.api_key_env is None:
        return False
    host = urlsplit(settings.base_url).hostname or ""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def _times(cost: _Cost, n_units: int, data_s: float) -> dict[str, Any]:
    total = {
        name: round(getattr(cost, name) * n_units)
        for name in (
            *("interpreter_calls", "observer_calls", "prompt_tokens", "cached_tokens"),
            *("completion_tokens", "images"),
        )
    }
    return {
        **total,
        "dollars": None if cost.dollars is None else round(cost.dollars * n_units, 2),
        "device_seconds": {
            "generation": round(cost.generation_s * n_units, 1),
            "vision": round(cost.vision_s * n_units + data_s, 1),
        },
    }


def _within(profile: Profile, most: dict[str, Any]) -> dict[str, Any]:
    """Return the most that a run takes, which is never more than its budget."""
    limit = profile.sweep.budget.dollars
    if limit is not None and (most["dollars"] is None or most["dollars"] > limit):
        most["dollars"] = limit
    return most


def _hours(profile: Profile, n_units: int, cost: _Cost, data_s: float) -> tuple[float, str]:
    """Return the hours that the slowest part takes, and which it is: the others work meanwhile."""
    at_once = min(n_units, max(1, profile.sweep.hosts) * profile.sweep.agents) or 1
    replicas = profile.generation.placement.max_replicas
    parts = {
        "waiting for replies": n_units * cost.waiting_s / at_once,
        "making images": n_units * cost.generation_s / replicas,
        "the network under study": n_units * cost.vision_s / profile.vision.placement.max_replicas,
    }
    chat = profile.chat.interpreter
    tokens = cost.prompt_tokens + cost.completion_tokens
    if limit := getattr(chat, "requests_per_minute", None):
        parts["the endpoint's requests a minute"] = n_units * cost.interpreter_calls / limit * 60
    if limit := getattr(chat, "tokens_per_minute", None):
        parts["the endpoint's tokens a minute"] = n_units * tokens / limit * 60
    slowest = max(parts, key=lambda name: parts[name])
    return round((parts[slowest] + data_s) / 3600, 3), slowest


def _dataset_size(profile: Profile) -> int | None:
    """Return the number of images of the data set, None where only a download would tell."""
    from actors.vision.datasets import open_dataset

    if profile.dataset.startswith("hf:"):
        return None
    try:
        return len(open_dataset(profile.dataset))
    except MaiaError:
        return None


def _notes(profile: Profile, passes: int | None) -> list[str]:
    notes = []
    roles = {"interpreter": profile.chat.interpreter}
    if profile.chat.observers is not None:
        roles["observers"] = profile.chat.observers
    for role, settings in roles.items():
        if charges(settings) and getattr(settings, "price", None) is None:
            notes.append(f"dollars are unknown: chat.{role}.price is not configured")
    if "openai-images" in (
        profile.generation.backend,
        getattr(getattr(profile.generation, "editor", None), "backend", ""),
    ):
        notes.append("what an images endpoint charges is not counted")
    if passes is None:
        notes.append(f"the size of {profile.dataset} is unknown here: its pass is not counted")
    if getattr(getattr(profile.chat.interpreter, "price", None), "cached", None) is not None:
        notes.append("the endpoint's prefix cache is assumed to hold all earlier rounds")
    return notes


def card(found: dict[str, Any]) -> str:
    """Return an estimate in a few lines for a terminal."""
    likely, most = found["likely"], found["at_most"]

    def money(value: float | None) -> str:
        return "unknown" if value is None else f"${value:,.2f}"

    lines = [
        f"[bold]{found['units']} units[/bold]: about {money(likely['dollars'])}, {likely['hours']:.2g} hours "
        f"(bound by {likely['bound_by']}); at most {money(most['dollars'])}",
        f"{likely['interpreter_calls']:,} calls of the interpreter, {likely['observer_calls']:,} of observers",
        f"{likely['prompt_tokens']:,} prompt tokens ({likely['cached_tokens']:,} sent before), "
        f"{likely['completion_tokens']:,} completion tokens",
        f"{likely['images']:,} images; {likely['device_seconds']['generation']:,.0f} device seconds to make them, "
        f"{likely['device_seconds']['vision']:,.0f} to show them and the data set to the network",
        "assumes: " + ", ".join(f"{name}={value:g}" for name, value in found["assumes"].items()),
    ]
    return "\n".join([*lines, *(f"[yellow]note:[/yellow] {note}" for note in found["notes"])])


async def count_units(
    config: Path | None, profile_name: str | None, model: str, layers: Sequence[str], units: str, seed: int
) -> int:
    """Return how many units a run would look at; the network is loaded only if `units` does not tell.

    A name, such as a class's, counts as one.

    Raises:
        UsageError: If a layer or unit does not exist, as far as it was looked at.
    """
    from experiments.layers import list_layers
    from experiments.units import choose

    parts = [part.strip() for part in units.split(",")]
    numbers = [part for part in parts if re.fullmatch(r"all|sample:\d+|\d+|\d+-\d+", part)]
    names = len(parts) - len(numbers)
    if "all" not in parts:
        counted = len(choose(",".join(numbers), 1 << 40, seed)) if numbers else 0
        return len(layers) * (counted + names)
    sizes = {each["name"]: each["n_units"] for each in await list_layers(config, profile_name, model)}
    for layer in layers:
        if layer not in sizes:
            raise UsageError(f"{model} has no layer {layer!r}.", f"`maia layers {model}` lists them.")
    return sum(len(choose(",".join(numbers), sizes[layer], seed)) for layer in layers)


def unfinished(run: Path) -> int | None:
    """Return how many units of a planned run have no result yet, None if nothing is planned."""
    from agents.journal import slug
    from agents.store import Store
    from agents.work import read_plan

    plan = read_plan(Store(run)) if run.is_dir() else None
    if plan is None:
        return None
    return sum(not (run / "units" / slug(item.unit) / "done.json").exists() for item in plan)


def approve(found: dict[str, Any], limit: float, *, yes: bool, ask: Callable[[str], bool] | None) -> str:
    """Return a sentence on what is about to be spent; a run that may cost more than `limit` needs a yes.

    `ask` puts a question to a person, None where nobody is there.

    Raises:
        UsageError: If nobody says yes.
    """
    dollars = found["likely"]["dollars"]
    units = "1 unit is" if found["units"] == 1 else f"{found['units']} units are"
    told = f"{units} expected to cost " + (
        "an unknown amount" if dollars is None else f"about ${dollars:,.2f}"
    )
    if dollars is not None and dollars <= limit:
        return told
    why = "no price is configured" if dollars is None else f"ask_above_dollars is {limit:g}"
    if yes or (ask is not None and ask(f"{told} ({why}). Go on?")):
        return told
    raise UsageError(
        f"{told}, and nobody agreed to it ({why}).",
        "Repeat with --yes, raise ask_above_dollars in the profile, or look at `maia estimate`.",
    )
