"""What a profile may cost, checked before anything is started: unknown prices, models that end, money spent
on drawings.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator

from actors.chat.settings import OpenAIChat, known_price
from actors.endpoint.catalogue import HostedModel, catalogue
from actors.endpoint.prices import ImagePrice, TokenPrice
from actors.endpoint.settings import EndpointSettings
from actors.errors import UsageError
from actors.generation.settings import OpenAIImages, hosted_makers
from experiments.setup.config import Profile


def endpoints(profile: Profile) -> dict[str, EndpointSettings]:
    """Return the endpoints of a profile by the setting that names them."""
    roles = profile.chat
    named: dict[str, object] = {"chat.interpreter": roles.interpreter, "chat.observers": roles.observers}
    for part in hosted_makers(profile.generation):
        named["generation" if part is profile.generation else "generation.editor"] = part
    return {key: part for key, part in named.items() if isinstance(part, EndpointSettings)}


def may_charge(profile: Profile) -> bool:
    """Return whether any endpoint of the profile may cost money: one elsewhere, or with a price, as a gateway
    on this machine has."""
    free = (TokenPrice(), ImagePrice(image=0.0))
    parts = endpoints(profile).values()
    return any(isinstance(part, OpenAIChat | OpenAIImages) and part.known_price not in free for part in parts)


def unpriced(profile: Profile) -> list[str]:
    """Return what charges and has no known price, each with the setting for its price."""
    unpriced = []
    for key, part in endpoints(profile).items():
        if isinstance(part, OpenAIChat) and known_price(part) is None:
            unpriced.append(f"{part.model} (set {key}.price)")
    for part in hosted_makers(profile.generation):
        key = "generation" if part is profile.generation else "generation.editor"
        if part.known_price is None or part.known_price.expected(part.quality) is None:
            unpriced.append(f"an image of {part.model} (set {key}.price.image)")
    return unpriced


def check_budget(profile: Profile) -> None:
    """Make sure that a limit in dollars can be kept.

    Raises:
        UsageError: If there is one, and a price is unknown.
    """
    unknown = unpriced(profile)
    for name in ("budget", "unit_budget"):
        if unknown and getattr(profile.sweep, name).dollars is not None:
            raise UsageError(
                f"sweep.{name}.dollars cannot be kept: the price is unknown of {', '.join(unknown)}.",
                "Set the price, or limit tokens, requests and images instead.",
            )


def notices(profile: Profile, today: datetime.date | None = None) -> Iterator[str]:
    """Yield warnings, a sentence each, on what would be paid for in vain or will soon stop working."""
    drawn = profile.generation.backend == "scenes"
    if may_charge(profile) and drawn:
        yield DRAWN_FOR_A_PAID_MODEL
    for key, part in endpoints(profile).items():
        listed: HostedModel | None = (
            catalogue().find_chat(part.host, part.model)
            if isinstance(part, OpenAIChat)
            else catalogue().find_images(part.host, part.model)
        )
        if listed is not None and (notice := listed.notice(today or datetime.date.today())):
            yield f"{key}: {notice}"


DRAWN_FOR_A_PAID_MODEL = (
    "a paid language model would study drawn scenes: this profile's image maker is the embedded stand-in, "
    "which draws from a fixed vocabulary; set `generation` to an image model (the profile `hosted` has one)"
)
