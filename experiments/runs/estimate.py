"""`maia estimate`: what a sweep will take, before anything is spent: calls, tokens, dollars, device time,
hours.

Everything follows from the configuration and a handful of assumptions, which are shown and can be replaced by
what earlier runs took (`comparable_runs`). `low` is where studies happen to be short; `at_most` is what the
configuration's own limits allow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from actors.chat.hosted.usage import estimate_text
from actors.chat.settings import IMAGE_TOKENS, ChatSettings, known_price
from actors.errors import MaiaError
from actors.generation.settings import dollars_per_image
from agents.critic.assessor import witness_questions
from agents.tasks.describe_unit import DescribeUnit
from experiments.records.numbers import duration
from experiments.runs.assumptions import Assumptions
from experiments.setup.config import Profile
from experiments.setup.console import money
from experiments.setup.spending import unpriced
from tools.sandbox import api_page

_TENTH = 1.28
"""Standard deviations below the mean that nine in ten exceed."""
_PROCESSOR = "this machine's processor"
EXEMPLAR_PASSES = 15
"""Images of a study that are shown to the network and not made: the exemplars."""
_DESCRIPTION_PROMPT_TOKENS = 120
_LABELS = 4
"""Labels of one answer, where the most is asked for."""
_RETESTS = 2
"""Times that one answer may be confirmed again: the labels that were borne out, and a simpler one in their
place.
"""
_PROBES = 2
"""Groups of images for each answer beside its test: a second measurement, and a skeptic's rival."""
_PROBES_PER_LABEL = 4
"""Such groups for each label: a narrower word, a synonym, and two of a broader word, of which the witness is
asked, too.
"""
_PARTS = 2
"""Parts of a label that are shown by themselves, where the most is asked for."""


@dataclass(frozen=True, slots=True)
class DeviceSeconds:
    """Seconds of the devices that make images, and that run the network under study."""

    generation: float
    vision: float


@dataclass(frozen=True, slots=True)
class RunTotals:
    """What a run takes."""

    interpreter_calls: int
    observer_calls: int
    prompt_tokens: int
    cached_tokens: int
    """Those of the prompt tokens that were sent before."""
    completion_tokens: int
    images: int
    dollars: float | None
    """None where a price is unknown."""
    dollars_known: float
    """US dollars of what has a known price."""
    device_seconds: DeviceSeconds
    hours: float


@dataclass(frozen=True, slots=True)
class RunEstimate:
    """What a run of `units` studies is expected to take."""

    units: int
    low: RunTotals
    likely: RunTotals
    at_most: RunTotals
    bound_by: str
    """The part that takes longest."""
    assumes: Assumptions
    notes: list[str]
    like: list[str] = field(default_factory=list)
    """Earlier runs that the assumptions come from."""
    repeat: int = 1
    """Studies of each unit."""


def estimate(profile: Profile, n_units: int, assumed: Assumptions, cache: Path | None = None) -> RunEstimate:
    """Return what studying `n_units` takes. `cache` may know how many images of the data set are distinct."""
    settings = profile.interpreter
    assumed = replace(assumed, rounds=min(assumed.rounds, settings.max_rounds))
    # 90% of such runs take more: their mean varies, and so does the mean that it is predicted from.
    spread = _TENTH * assumed.rounds_spread * math.sqrt(1 / max(n_units, 1) + 1 / max(assumed.studies, 1))
    low = _study(profile, replace(assumed, rounds=max(assumed.rounds - spread, 1.0)))
    likely = _study(profile, assumed)
    most = _study(profile, _upper_bounds(profile, assumed), most=True)
    passes, copies = _dataset_size(profile, cache)
    data_s = (passes or 0) * assumed.seconds_per_pass

    def totals(cost: _Cost) -> RunTotals:
        return _totals(profile, cost, n_units, data_s, assumed.startup_s)

    return RunEstimate(
        units=n_units,
        low=totals(low),
        likely=totals(likely),
        at_most=_within_budget(profile, totals(most)),
        bound_by=_hours(profile, n_units, likely, data_s)[1],
        assumes=assumed,
        notes=_notes(profile, passes, data_s, copies),
    )


def _upper_bounds(profile: Profile, assumed: Assumptions) -> Assumptions:
    """Return assumptions of a study that reaches every limit of its settings."""
    settings = profile.interpreter
    return replace(
        assumed,
        rounds=settings.max_rounds,
        images_per_round=(settings.max_images or 1000) / settings.max_rounds,
        observation_tokens=settings.max_text_shown / 4,
        reply_tokens=settings.max_tokens,
        answers=settings.max_examinations if assumed.answers else 0,
    )


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
    confirmed, witnessed = confirmation_images(profile, assumed, most)
    descriptions = assumed.rounds * assumed.descriptions_per_round + witnessed
    read = 0 if observer.backend == "builtin" else descriptions
    look_prompt = read * (_DESCRIPTION_PROMPT_TOKENS + _image_tokens(observer))
    look_completion = read * assumed.description_tokens
    made = assumed.survey_images + assumed.rounds * assumed.images_per_round + confirmed
    image_price = dollars_per_image(profile.generation)
    parts = [
        _token_dollars(interpreter, prompt, cached, completion),
        _token_dollars(observer, look_prompt, 0, look_completion),
        None if image_price is None else made * image_price,
    ]
    return _Cost(
        interpreter_calls=assumed.rounds,
        observer_calls=descriptions,
        prompt_tokens=prompt + look_prompt,
        cached_tokens=cached,
        completion_tokens=completion + look_completion,
        dollars=sum(part or 0.0 for part in parts),
        unpriced=None in parts,
        images=made,
        generation_s=made * assumed.seconds_per_image,
        vision_s=(made * assumed.passes_per_image + EXEMPLAR_PASSES) * assumed.seconds_per_pass,
        thinking_s=assumed.rounds * assumed.interpreter_latency_s + descriptions * assumed.observer_latency_s,
        # Descriptions of one round are made concurrently, and so are those of a confirmation's block.
        waiting_s=assumed.rounds * (assumed.interpreter_latency_s + assumed.observer_latency_s)
        + 2 * assumed.observer_latency_s,
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
        assumed.reply_tokens + assumed.observation_tokens + assumed.images_per_round * _image_tokens(settings)
    )
    rounds = assumed.rounds
    prompt = rounds * opening + added * rounds * (rounds - 1) / 2
    fresh = opening + added * max(rounds - 1, 0)
    return prompt, max(prompt - fresh, 0.0), rounds * assumed.reply_tokens


def confirmation_images(profile: Profile, assumed: Assumptions, most: bool = False) -> tuple[float, float]:
    """Return how many images a study's confirmation makes and has described."""
    test = profile.confirmation
    if test is None or not assumed.answers:
        return 0.0, 0.0
    n_images, tests = (test.max_images, 1 + _RETESTS) if most else (test.min_images, 1)
    witnessed = assumed.answers * 2 * n_images * tests
    labels, answers = (_LABELS, assumed.answers) if most else (1, 1)
    # The built-in observer does not say what words mean: then a label is cut at its prepositions.
    words = (profile.chat.observers or profile.chat.interpreter).backend != "builtin"
    own = (_PROBES_PER_LABEL if words else 1) + (_PARTS if most else 0)
    probes = test.probe * answers * (_PROBES + labels * own)
    broader = 2 * test.probe * answers * labels if words else 0
    descriptions = witnessed + broader + 1 + assumed.answers * witness_questions(test, labels)
    return witnessed + probes, descriptions


def held_out_passes(profile: Profile) -> int:
    """Return the passes of images that are held out, made once for all units of a layer.

    An estimate has them in the pass over the whole data set, of which agents see the rest.
    """
    size, _ = _dataset_size(profile, None)
    if profile.confirmation is None or size is None:
        return 0
    return min(profile.confirmation.held_back, profile.vision.held_out.count(size))


def _image_tokens(settings: ChatSettings) -> int:
    return getattr(settings, "image_tokens", IMAGE_TOKENS)


def _token_dollars(settings: ChatSettings, prompt: float, cached: float, completion: float) -> float | None:
    """Return the price of tokens; None where the model charges and its price is unknown."""
    price = known_price(settings)
    if price is None:
        return None
    return price.dollars(prompt, cached if price.cached is not None else 0.0, completion)


def _totals(profile: Profile, cost: _Cost, n_units: int, data_s: float, startup_s: float) -> RunTotals:
    """Return what `n_units` studies take, with a pass over the data set of `data_s` seconds."""
    dollars = round(cost.dollars * n_units, 2)
    return RunTotals(
        interpreter_calls=round(cost.interpreter_calls * n_units),
        observer_calls=round(cost.observer_calls * n_units),
        prompt_tokens=round(cost.prompt_tokens * n_units),
        cached_tokens=round(cost.cached_tokens * n_units),
        completion_tokens=round(cost.completion_tokens * n_units),
        images=round(cost.images * n_units),
        dollars=None if cost.unpriced else dollars,
        dollars_known=dollars,
        device_seconds=DeviceSeconds(
            generation=round(cost.generation_s * n_units, 1),
            vision=round(cost.vision_s * n_units + data_s, 1),
        ),
        hours=_hours(profile, n_units, cost, data_s + startup_s)[0],
    )


def _within_budget(profile: Profile, most: RunTotals) -> RunTotals:
    """Return the most that a run takes, which is never more than its budget."""
    budget = profile.sweep.budget
    if budget.dollars is not None and (most.dollars is None or most.dollars > budget.dollars):
        most = replace(most, dollars=budget.dollars)
    if budget.hours is not None and most.hours > budget.hours:
        most = replace(most, hours=budget.hours)
    return most


def _hours(profile: Profile, n_units: int, cost: _Cost, before_s: float) -> tuple[float, str]:
    """Return the hours that the slowest part takes, and which it is: the others work meanwhile.

    What runs on this machine's processor shares it; devices and endpoints work side by side.
    """
    # A cluster that was not joined yet has at least one node.
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

    The number is None where only a download would show it.
    """
    from actors.vision.data.datasets import open_dataset
    from actors.vision.data.distinct import known_count

    if profile.dataset.startswith("hf:"):
        return None, False
    try:
        dataset = open_dataset(profile.dataset, profile.columns.image)
        n = known_count(dataset, cache)
        return (len(dataset), True) if n is None else (n, False)
    except MaiaError:
        return None, False


def _notes(profile: Profile, passes: int | None, data_s: float, copies: bool) -> list[str]:
    notes = []
    if passes and copies:
        notes.append(f"the data set is taken to hold no copies among its {passes:,} images")
    if passes and data_s >= 1:
        notes.append(
            f"{duration(data_s)} of the network's are the pass over the {passes:,} images of the data "
            "set, which is not made again where the cache holds it"
        )
    notes += [f"the price of {model} is unknown" for model in unpriced(profile)]
    if passes is None:
        notes.append(f"the size of {profile.dataset} is unknown here: its pass is not counted")
    if getattr(getattr(profile.chat.interpreter, "price", None), "cached", None) is not None:
        notes.append("the endpoint's prefix cache is assumed to hold all earlier rounds")
    return notes


def table(result: RunEstimate) -> Any:
    """Return an estimate for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from experiments.setup.console import counted

    repeat = f", each studied {result.repeat} times" if result.repeat > 1 else ""
    shown = Table(title=counted(result.units, "unit") + repeat, title_justify="left", box=None)
    for column in ("", "low", "likely", "at most"):
        shown.add_column(column, justify="right" if column else "left")
    columns = (result.low, result.likely, result.at_most)
    for name, format_value in _ROWS.items():
        shown.add_row(name, *map(format_value, columns))
    assumes = ", ".join(f"{name}={value:.3g}" for name, value in asdict(result.assumes).items())
    source = ", ".join(result.like) or "no earlier run: assumptions of the profile"
    notes = [
        f"bound by {result.bound_by}",
        f"predicted from {source}",
        f"assumes {assumes}",
        *(f"note: {note}" for note in result.notes),
    ]
    return Group(shown, Text(), *map(Text, notes))


_ROWS: Mapping[str, Callable[[RunTotals], str]] = {
    "dollars": lambda totals: money(totals.dollars_known, totals.dollars is None),
    "time": lambda totals: duration(3600 * totals.hours),
    "calls of the interpreter": lambda totals: f"{totals.interpreter_calls:,}",
    "calls of observers": lambda totals: f"{totals.observer_calls:,}",
    "prompt tokens": lambda totals: f"{totals.prompt_tokens:,}",
    "  of these sent before": lambda totals: f"{totals.cached_tokens:,}",
    "completion tokens": lambda totals: f"{totals.completion_tokens:,}",
    "images made": lambda totals: f"{totals.images:,}",
    "device time to make images": lambda totals: duration(totals.device_seconds.generation),
    "device time of the network": lambda totals: duration(totals.device_seconds.vision),
}
