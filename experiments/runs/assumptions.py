"""What an estimate assumes of a study where a configuration does not say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from actors.errors import UsageError
from experiments.setup.config import Profile


@dataclass(frozen=True)
class Assumptions:
    """Figures of a study. Times are of one device, or of one request to an endpoint."""

    rounds: float = 8
    """Rounds of a study."""
    rounds_spread: float = 4
    """Standard deviation of the rounds of a study."""
    studies: float = 1
    """Studies that these figures come from; without measurements they count as one."""
    images_per_round: float = 10
    """Images that are made in a round, and shown to the interpreter."""
    survey_images: float = 0
    """Images of a study's survey: made by a fixed design, and shown to no agent."""
    observation_tokens: float = 250
    """Tokens of text in an observation."""
    reply_tokens: float = 450
    """Tokens of an interpreter's reply."""
    descriptions_per_round: float = 1.25
    """Images that an agent has described in a round."""
    description_tokens: float = 60
    """Tokens of a description."""
    answers: float = 1.2
    """Answers of a study that are examined: 0 where they name no concept that could be."""
    interpreter_latency_s: float = 8.0
    """Seconds until an interpreter has replied."""
    observer_latency_s: float = 2.0
    """Seconds until an observer has replied."""
    seconds_per_image: float = 2.5
    """Seconds of a device for an image that is generated or edited."""
    seconds_per_pass: float = 0.004
    """Seconds of a device for an image that is shown to the network."""
    passes_per_image: float = 1
    """Times that an image is shown to the network for each that is made."""
    startup_s: float = 15
    """Seconds until the models are loaded."""


_SCIENTIST = {
    "rounds": 11.0,
    "rounds_spread": 3.4,
    "studies": 12.0,
    "images_per_round": 22.0,
    "descriptions_per_round": 2.0,
}
"""What the built-in interpreter took in two sweeps of six units each of EfficientNet-lite0's `blocks.6`."""
_DRAWN_IMAGE_S = 0.005
"""Seconds for a scene of the embedded world, which needs no model."""
_BUILTIN_LATENCY_S = 0.05
"""Seconds for a reply of the built-in models."""
_PROCESSOR_PASS_S = 0.03
"""Seconds for an image that is shown to a network without a GPU."""


def parse_assumptions(values: Sequence[str], base: Assumptions | None = None) -> Assumptions:
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
    assumed = Assumptions()
    roles = profile.chat
    if roles.interpreter.backend == "builtin":
        assumed = replace(assumed, **_SCIENTIST, interpreter_latency_s=_BUILTIN_LATENCY_S)
    if (roles.observers or roles.interpreter).backend == "builtin":
        assumed = replace(assumed, observer_latency_s=_BUILTIN_LATENCY_S)
    if profile.generation.backend == "scenes":
        assumed = replace(assumed, seconds_per_image=_DRAWN_IMAGE_S)
    if profile.vision.placement.num_gpus == 0:
        assumed = replace(assumed, seconds_per_pass=_PROCESSOR_PASS_S)
    return assumed
