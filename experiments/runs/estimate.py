"""`maia estimate`: what a sweep will take, before anything is spent: calls, tokens, dollars, device time,
hours.

Everything follows from the configuration and a handful of assumptions, all of which are told and can be
replaced by what earlier runs took (`precedents`). `low` is where studies happen to be short; `at_most` is
what the configuration's own limits allow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from actors.chat.hosted.pricing import estimate_text
from actors.chat.settings import ChatSettings, known_price
from actors.errors import MaiaError, UsageError
from actors.generation.settings import dollars_per_image
from agents.critic.assessor import witness_questions
from agents.tasks.describe_unit import DescribeUnit
from experiments.setup.config import Profile
from experiments.setup.spending import unpriced
from tools.sandbox import api_page


@dataclass(frozen=True)
class Assumptions:
    """What a configuration does not say. Times are of one device, or one request to an endpoint."""

    rounds: float = 8
    """Rounds of a study."""
    rounds_spread: float = 4
    """Standard deviation of the rounds of a study."""
    studies: float = 1
    """Studies that these figures come from; what nobody measured is as sure as if it came from one."""
    images_a_round: float = 10
    """Images that are made in a round, and shown to the interpreter."""
    images_beforehand: float = 0
    """Images of a study's survey: made by a fixed design, and shown to no agent."""
    observation_tokens: float = 250
    """Tokens of text in an observation."""
    reply_tokens: float = 450
    """Tokens of an interpreter's reply."""
    looks_a_round: float = 1.25
    """Images that an agent has described in a round."""
    look_tokens: float = 60
    """Tokens of a description."""
    answers: float = 1.2
    """Answers of a study that are examined: 0 where they name no concept that could be."""
    seconds_a_reply: float = 8.0
    """Seconds until an interpreter has replied."""
    seconds_a_look: float = 2.0
    """Seconds until an observer has replied."""
    seconds_an_image: float = 2.5
    """Seconds of a device for an image that is generated or edited."""
    seconds_a_pass: float = 0.004
    """Seconds of a device for an image that is shown to the network."""
    passes_an_image: float = 1
    """Times that an image is shown to the network for each that is made."""
    seconds_to_start: float = 15
    """Seconds until the models are loaded."""


SCIENTIST = {
    "rounds": 11.0,
    "rounds_spread": 3.4,
    "studies": 12.0,
    "images_a_round": 22.0,
    "looks_a_round": 2.0,
}
"""What the built-in interpreter took in two sweeps of six units each of EfficientNet-lite0's `blocks.6`."""
_DRAWN_S = 0.005
"""Seconds for a scene of the embedded world, which needs no model."""
_QUICK_S = 0.05
"""Seconds for a reply of the built-in models."""
_TENTH = 1.28
"""Standard deviations below the mean that nine in ten exceed."""
_PROCESSOR = "this machine's processor"
FRESH_LOOKS = 15
"""Images of a study that are shown to the network and not made: the exemplars."""
_WORDS_OF_A_LOOK = 120
_LABELS = 4
"""Labels of one answer, where the most is asked for."""
_RETESTS = 2
"""Times that one answer may be confirmed again: the labels that were borne out, and a simpler one in their
place.
"""
_PROBES = 2
"""Groups of images for each answer beside its test: a second measurement, and a skeptic's rival."""
_PROBES_A_LABEL = 4
"""Such groups for each label: a narrower word, a synonym, and two of a broader word, of which the witness is
asked, too.
"""
_PARTS = 2
"""Parts of a label that are shown by themselves, where the most is asked for."""


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
        found = replace(found, **SCIENTIST, seconds_a_reply=_QUICK_S)
    if (roles.observers or roles.interpreter).backend == "builtin":
        found = replace(found, seconds_a_look=_QUICK_S)
    if profile.generation.backend == "scenes":
        found = replace(found, seconds_an_image=_DRAWN_S)
    if profile.vision.placement.num_gpus == 0:
        found = replace(found, seconds_a_pass=0.03)
    return found


def estimate(
    profile: Profile, n_units: int, assumed: Assumptions, cache: Path | None = None
) -> dict[str, Any]:
    """Return what studying `n_units` takes, as plain values; `dollars` is None where a price is unknown.

    `cache` may know how many images of the data set are distinct.
    """
    settings = profile.interpreter
    assumed = replace(assumed, rounds=min(assumed.rounds, settings.max_rounds))
    # 90 % of such runs take more: their mean varies, and so does the mean that it is predicted from.
    spread = _TENTH * assumed.rounds_spread * math.sqrt(1 / max(n_units, 1) + 1 / max(assumed.studies, 1))
    low = _study(profile, replace(assumed, rounds=max(assumed.rounds - spread, 1.0)))
    likely = _study(profile, assumed)
    most = _study(
        profile,
        replace(
            assumed,
            rounds=settings.max_rounds,
            images_a_round=(settings.max_images or 1000) / settings.max_rounds,
            observation_tokens=settings.max_text_shown / 4,
            reply_tokens=settings.max_tokens,
            answers=settings.max_examinations if assumed.answers else 0,
        ),
        most=True,
    )
    passes, copies = _dataset_size(profile, cache)
    data = (passes or 0) * assumed.seconds_a_pass

    def told(cost: _Cost) -> dict[str, Any]:
        hours, _ = _hours(profile, n_units, cost, data + assumed.seconds_to_start)
        return {**_times(cost, n_units, data), "hours": hours}

    return {
        "units": n_units,
        "low": told(low),
        "likely": told(likely),
        "at_most": _within(profile, told(most)),
        "bound_by": _hours(profile, n_units, likely, data)[1],
        "assumes": asdict(assumed),
        "notes": _notes(profile, passes, data, copies),
    }


@dataclass(frozen=True)
class _Cost:
    """What one study takes."""

    interpreter_calls: float
    observer_calls: float
    prompt_tokens: float
    cached_tokens: float
    completion_tokens: float
    dollars: float
    """US dollars of what has a known price."""
    unpriced: bool
    """Whether something charges whose price is unknown."""
    images: float
    generation_s: float
    vision_s: float
    thinking_s: float
    waiting_s: float


def _study(profile: Profile, assumed: Assumptions, *, most: bool = False) -> _Cost:
    roles = profile.chat
    interpreter, observer = roles.interpreter, roles.observers or roles.interpreter
    prompt, cached, completion = _conversation(interpreter, assumed)
    confirmed, witnessed = confirmation(profile, assumed, most)
    looks = assumed.rounds * assumed.looks_a_round + witnessed
    read = 0 if observer.backend == "builtin" else looks
    look_prompt = read * (_WORDS_OF_A_LOOK + _image_tokens(observer))
    look_completion = read * assumed.look_tokens
    made = assumed.images_beforehand + assumed.rounds * assumed.images_a_round + confirmed
    an_image = dollars_per_image(profile.generation)
    parts = [
        _token_dollars(interpreter, prompt, cached, completion),
        _token_dollars(observer, look_prompt, 0, look_completion),
        None if an_image is None else made * an_image,
    ]
    return _Cost(
        interpreter_calls=assumed.rounds,
        observer_calls=looks,
        prompt_tokens=prompt + look_prompt,
        cached_tokens=cached,
        completion_tokens=completion + look_completion,
        dollars=sum(part or 0.0 for part in parts),
        unpriced=None in parts,
        images=made,
        generation_s=made * assumed.seconds_an_image,
        vision_s=(made * assumed.passes_an_image + FRESH_LOOKS) * assumed.seconds_a_pass,
        thinking_s=assumed.rounds * assumed.seconds_a_reply + looks * assumed.seconds_a_look,
        # What one round has described is looked at side by side, and so is a confirmation's block.
        waiting_s=assumed.rounds * (assumed.seconds_a_reply + assumed.seconds_a_look)
        + 2 * assumed.seconds_a_look,
    )


def _conversation(settings: ChatSettings, assumed: Assumptions) -> tuple[float, float, float]:
    """Return prompt tokens, those of them that a prefix cache holds, and completion tokens of one study.

    Each round sends the whole conversation again; all but its newest part was sent before. The built-in model
    reads no tokens.
    """
    if settings.backend == "builtin":
        return 0.0, 0.0, 0.0
    opening = estimate_text(api_page()) + estimate_text(DescribeUnit().opening())
    added = (
        assumed.reply_tokens + assumed.observation_tokens + assumed.images_a_round * _image_tokens(settings)
    )
    rounds = assumed.rounds
    prompt = rounds * opening + added * rounds * (rounds - 1) / 2
    fresh = opening + added * max(rounds - 1, 0)
    return prompt, max(prompt - fresh, 0.0), rounds * assumed.reply_tokens


def confirmation(profile: Profile, assumed: Assumptions, most: bool = False) -> tuple[float, float]:
    """Return how many images a study's confirmation makes and has looked at."""
    test = profile.confirmation
    if test is None or not assumed.answers:
        return 0.0, 0.0
    each, tests = (test.max_images, 1 + _RETESTS) if most else (test.min_images, 1)
    witnessed = assumed.answers * 2 * each * tests
    labels, answers = (_LABELS, assumed.answers) if most else (1, 1)
    # The built-in observer does not say what words mean: then a label is cut at its prepositions.
    words = (profile.chat.observers or profile.chat.interpreter).backend != "builtin"
    own = (_PROBES_A_LABEL if words else 1) + (_PARTS if most else 0)
    probes = test.probe * answers * (_PROBES + labels * own)
    broader = 2 * test.probe * answers * labels if words else 0
    looks = witnessed + broader + 1 + assumed.answers * witness_questions(test, labels)
    return witnessed + probes, looks


def held_back_passes(profile: Profile) -> int:
    """Return the passes of images that are held back, made once for all units of a layer.

    An estimate has them in the pass over the whole data set, of which agents see the rest.
    """
    size, _ = _dataset_size(profile, None)
    if profile.confirmation is None or size is None:
        return 0
    return min(profile.confirmation.held_back, profile.vision.held_back.count(size))


def _image_tokens(settings: ChatSettings) -> int:
    return getattr(settings, "image_tokens", 85)


def _token_dollars(settings: ChatSettings, prompt: float, cached: float, completion: float) -> float | None:
    """Return the price of tokens; None where the model charges and its price is unknown."""
    price = known_price(settings)
    if price is None:
        return None
    return price.dollars(prompt, cached if price.cached is not None else 0.0, completion)


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
        "dollars": None if cost.unpriced else round(cost.dollars * n_units, 2),
        "dollars_known": round(cost.dollars * n_units, 2),
        "device_seconds": {
            "generation": round(cost.generation_s * n_units, 1),
            "vision": round(cost.vision_s * n_units + data_s, 1),
        },
    }


def _within(profile: Profile, most: dict[str, Any]) -> dict[str, Any]:
    """Return the most that a run takes, which is never more than its budget."""
    budget = profile.sweep.budget
    for name, limit in (("dollars", budget.dollars), ("hours", budget.hours)):
        if limit is not None and (most[name] is None or most[name] > limit):
            most[name] = limit
    return most


def _hours(profile: Profile, n_units: int, cost: _Cost, before_s: float) -> tuple[float, str]:
    """Return the hours that the slowest part takes, and which it is: the others work meanwhile.

    What runs on this machine's processor shares it; devices and endpoints work side by side.
    """
    # Of a cluster that nobody has joined yet, one node is known to be there.
    hosts = 1 if profile.sweep.hosts == "per-node" else max(1, profile.sweep.hosts)
    at_once = min(n_units, hosts * profile.sweep.agents) or 1
    parts = dict.fromkeys((_PROCESSOR,), 0.0)
    for name, seconds, placement in (
        ("making images", cost.generation_s, profile.generation.placement),
        ("the network under study", cost.vision_s, profile.vision.placement),
    ):
        if placement.num_gpus == 0:
            parts[_PROCESSOR] += n_units * seconds
        else:
            parts[name] = n_units * seconds / placement.max_replicas
    chat = profile.chat.interpreter
    if chat.backend == "builtin":
        parts[_PROCESSOR] += n_units * cost.thinking_s
    else:
        parts["waiting for replies"] = n_units * cost.waiting_s / at_once
    tokens = cost.prompt_tokens + cost.completion_tokens
    if limit := getattr(chat, "requests_per_minute", None):
        parts["the endpoint's requests a minute"] = n_units * cost.interpreter_calls / limit * 60
    if limit := getattr(chat, "tokens_per_minute", None):
        parts["the endpoint's tokens a minute"] = n_units * tokens / limit * 60
    slowest = max(parts, key=lambda name: parts[name])
    return round((parts[slowest] + before_s) / 3600, 3), slowest


def _dataset_size(profile: Profile, cache: Path | None) -> tuple[int | None, bool]:
    """Return the number of images of the data set, and whether copies among them are counted, too.

    The number is None where only a download would tell.
    """
    from actors.vision.data.datasets import open_dataset
    from actors.vision.data.distinct import counted

    if profile.dataset.startswith("hf:"):
        return None, False
    try:
        dataset = open_dataset(profile.dataset, profile.columns.image)
        n = counted(dataset, cache)
        return (len(dataset), True) if n is None else (n, False)
    except MaiaError:
        return None, False


def _notes(profile: Profile, passes: int | None, data_s: float, copies: bool) -> list[str]:
    notes = []
    if passes and copies:
        notes.append(f"the data set is taken to hold no copies among its {passes:,} images")
    if passes and data_s >= 1:
        notes.append(
            f"{data_s:,.0f} seconds of the network's are the pass over the {passes:,} images of the data "
            "set, which is not made again where the cache holds it"
        )
    notes += [f"the price of {each} is unknown" for each in unpriced(profile)]
    if passes is None:
        notes.append(f"the size of {profile.dataset} is unknown here: its pass is not counted")
    if getattr(getattr(profile.chat.interpreter, "price", None), "cached", None) is not None:
        notes.append("the endpoint's prefix cache is assumed to hold all earlier rounds")
    return notes


def table(found: dict[str, Any]) -> Any:
    """Return an estimate for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from experiments.setup.console import counted, money

    repeat = found.get("repeat", 1)
    title = counted(found["units"], "unit") + (f", each studied {repeat} times" if repeat > 1 else "")
    shown = Table(title=title, title_justify="left", box=None)
    shown.add_column("")
    for column in _RANGE:
        shown.add_column(column.replace("_", " "), justify="right")

    def amount(value: Any, form: str) -> str:
        return "unknown" if value is None else form.format(value)

    def cost(each: dict[str, Any]) -> str:
        return money(each["dollars_known"], each["dollars"] is None)

    for name, form, value in (
        ("dollars", "{}", cost),
        ("hours", "{:,.2f}", lambda each: each["hours"]),
        ("calls of the interpreter", "{:,}", lambda each: each["interpreter_calls"]),
        ("calls of observers", "{:,}", lambda each: each["observer_calls"]),
        ("prompt tokens", "{:,}", lambda each: each["prompt_tokens"]),
        ("  of these sent before", "{:,}", lambda each: each["cached_tokens"]),
        ("completion tokens", "{:,}", lambda each: each["completion_tokens"]),
        ("images made", "{:,}", lambda each: each["images"]),
        ("device seconds to make images", "{:,.0f}", lambda each: each["device_seconds"]["generation"]),
        ("device seconds of the network", "{:,.0f}", lambda each: each["device_seconds"]["vision"]),
    ):
        shown.add_row(name, *(amount(value(found[column]), form) for column in _RANGE))
    assumes = ", ".join(f"{name}={value:.3g}" for name, value in found["assumes"].items())
    source = ", ".join(found.get("like") or ()) or "no earlier run: assumptions of the profile"
    notes = [
        f"bound by {found['bound_by']}",
        f"predicted from {source}",
        f"assumes {assumes}",
        *(f"note: {note}" for note in found["notes"]),
    ]
    return Group(shown, Text(), *map(Text, notes))


_RANGE = ("low", "likely", "at_most")
