"""Calls of Ray actors, with errors that say what was lost."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from actors.errors import MaiaError
from actors.serving.cluster import what_ray_says
from agents.study.faults import HostLostError

T = TypeVar("T")


class HostGoneError(HostLostError):
    """A host that Ray will not bring back: it could not be built, was ended, or its node is lost."""


async def call_actor(answer: Awaitable[T], actor: str) -> T:
    """Return what an actor answers; messages call it `actor`.

    Raises:
        HostGoneError: If Ray will not bring it back.
        HostLostError: If it cannot answer now.
        MaiaError: If the call itself failed with one.
    """
    from ray import exceptions

    try:
        return await answer
    except exceptions.RayTaskError as error:
        if isinstance(error.cause, MaiaError):
            raise error.cause from None
        raise
    except (exceptions.ActorDiedError, exceptions.ActorUnschedulableError) as error:
        raise HostGoneError(f"{actor} is lost: {what_ray_says(error)}") from None
    except exceptions.RayError as error:
        raise HostLostError(f"{actor} is lost: {what_ray_says(error)}") from None
