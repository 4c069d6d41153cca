"""Everything a run needs, built in one visible place from a profile: cluster, pools, tools, models.

async with Workbench.open(profile, cache=..., model=...) as bench:
    subject = await bench.subject("blocks.5", "42")
    result = await study(bench.laboratory, subject, DescribeUnit(), store)
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.chat.base import ChatModel
from actors.chat.client import PoolChatModel, WithoutSight
from actors.chat.settings import BuiltinChat, ChatSettings, OpenAIChat, TransformersChat
from actors.cluster import Cluster
from actors.endpoint.settings import EndpointSettings
from actors.generation.client import PoolImageMaker
from actors.masks import paint
from actors.pool import ReplicaPool
from actors.settings import Placement, Settings
from actors.vision.base import ImageDataset
from actors.vision.client import PoolVisionClient
from actors.vision.datasets import open_dataset
from actors.vision.units import parse_unit
from agents.observers import BlindObservers
from agents.study import Laboratory
from experiments.config import Profile
from tools import sandbox
from tools.subject import NetworkUnit, Subject

Tell = Callable[[str], None]


def _quiet(_: str) -> None: ...


@dataclass(frozen=True)
class Workbench:
    """A running set-up. Made by `open`; everything in it ends with the `async with` block."""

    profile: Profile
    cluster: Cluster
    vision: PoolVisionClient
    dataset: ImageDataset
    laboratory: Laboratory

    @classmethod
    @asynccontextmanager
    async def open(
        cls, profile: Profile, *, cache: Path, model: str, tell: Tell = _quiet
    ) -> AsyncIterator[Workbench]:
        """Start what `profile` names, with `model` as the network under study.

        `tell` gets one sentence a step.

        Raises:
            UsageError: If something cannot work as configured; nothing is left running.
        """
        dataset = open_dataset(profile.dataset)
        async with AsyncExitStack() as stack:
            tell("starting Ray")
            cluster = await stack.enter_async_context(Cluster.start(profile.ray))
            # All pools load their models at the same time: starting costs as much as the slowest.
            tell(f"loading {model} and the models of the profile")
            network = await stack.enter_async_context(_vision_pool(cluster, profile, cache, model))
            generation = profile.generation
            if generation.store is None:
                generation = generation.model_copy(update={"store": str(cache / "images")})
            studio = await stack.enter_async_context(
                cluster.pool(
                    "generation",
                    "actors.generation.factory:build_backend",
                    {"settings": generation},
                    generation.placement,
                    secrets(generation),
                )
            )
            roles = profile.chat
            observers = await _chat(stack, cluster, "observers", roles.observers or roles.interpreter)
            interpreter = observers
            if roles.observers is not None and roles.observers != roles.interpreter:
                interpreter = await _chat(stack, cluster, "interpreter", roles.interpreter)
            if not interpreter.sees_images:
                eyes = BlindObservers(observers) if observers.sees_images else None
                interpreter = WithoutSight(interpreter, eyes.look if eyes else None)
            tell("testing the sandbox")
            sandboxes = await stack.enter_async_context(await sandbox.start(profile.sandbox))
            vision = await _connect(network, profile, cache)
            laboratory = Laboratory(
                interpreter=interpreter,
                observers=observers,
                studio=PoolImageMaker(studio),
                sandboxes=sandboxes,
                paint=paint,
                settings=profile.interpreter,
                confirmation=profile.confirmation,
                facts={
                    "model": model,
                    "network": vision.fingerprint,
                    "dataset": dataset.fingerprint,
                    "generator": (await studio.describe()).get("name", ""),
                    "interpreter": interpreter.name,
                    "observers": observers.name,
                    "sandbox": sandboxes.tier,
                    "versions": _versions(),
                },
            )
            yield cls(profile, cluster, vision, dataset, laboratory)

    async def subject(self, layer: str, unit: str) -> Subject:
        """Return the unit that these words name.

        Raises:
            UsageError: If the network has no such layer or unit; names the nearest, or the range.
        """
        parsed = parse_unit(layer, unit, await self.vision.class_names())
        subject = NetworkUnit(self.vision, parsed, self.dataset)
        await subject.check()
        return subject


@asynccontextmanager
async def vision_client(
    cluster: Cluster, profile: Profile, cache: Path, model: str
) -> AsyncIterator[PoolVisionClient]:
    """Yield the network under study alone, for commands that need nothing else."""
    async with _vision_pool(cluster, profile, cache, model) as pool:
        yield await _connect(pool, profile, cache)


def _vision_pool(cluster: Cluster, profile: Profile, cache: Path, model: str) -> ReplicaPool[Any, Any]:
    return cluster.pool(
        "vision",
        "actors.vision.backend:VisionBackend",
        {
            "network": model,
            "settings": profile.vision.model_copy(update={"bank_folder": _bank(profile, cache)}),
        },
        profile.vision.placement,
    )


async def _connect(pool: ReplicaPool[Any, Any], profile: Profile, cache: Path) -> PoolVisionClient:
    return await PoolVisionClient.connect(pool, _bank(profile, cache), profile.vision.reserve)


def _bank(profile: Profile, cache: Path) -> Path:
    return profile.vision.bank_folder or cache / "vision"


async def _chat(stack: AsyncExitStack, cluster: Cluster, role: str, settings: ChatSettings) -> ChatModel:
    pool = await stack.enter_async_context(
        cluster.pool(
            f"chat-{role}",
            "actors.chat.factory:build_backend",
            {"settings": settings},
            getattr(settings, "placement", Placement()),
            secrets(settings),
        )
    )
    match settings:
        case OpenAIChat():
            return PoolChatModel(pool, settings.model, settings.sees_images)
        case BuiltinChat():
            return PoolChatModel(pool, f"builtin:{settings.model}", True)
        case TransformersChat():
            facts = await pool.describe()
            return PoolChatModel(pool, settings.model, bool(facts.get("sees_images", settings.sees_images)))


def secrets(settings: Settings) -> dict[str, str]:
    """Return the environment variables with keys that a backend's settings name, for its own process alone."""
    names: set[str] = set()
    for part in (settings, *(getattr(settings, field) for field in type(settings).model_fields)):
        if isinstance(part, EndpointSettings):
            names |= {part.api_key_env or "", *part.headers_env.values()}
    return {name: os.environ[name] for name in names if name in os.environ}


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("maia", "torch", "timm", "ray")}
