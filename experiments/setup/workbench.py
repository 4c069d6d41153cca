"""Everything a run needs, built in one visible place from a profile: cluster, pools, tools, models.

async with Workbench.open(profile, cache=..., model=...) as bench:
    subject = await bench.subject("blocks.5", "42")
    result = await study(bench.context, StudyRequest(subject, DescribeUnit()), store)
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from actors.chat.base import ChatModel
from actors.chat.client import PoolChatModel, TextOnlyChat
from actors.chat.settings import (
    IMAGE_TOKENS,
    BuiltinChat,
    ChatSettings,
    OpenAIChat,
    TransformersChat,
    known_price,
)
from actors.detection.client import PoolDetector
from actors.embedded.photographs.classifier import independent_classifier
from actors.embedding.client import PoolEmbedder
from actors.embedding.factory import available as embedding_available
from actors.embedding.settings import BuiltinEmbedding
from actors.endpoint.settings import EndpointSettings
from actors.errors import UsageError
from actors.generation.client import PoolImageMaker
from actors.generation.settings import dollars_per_image
from actors.masks import paint
from actors.packaged import PackagedNetwork
from actors.serving.cluster import Cluster
from actors.serving.replica_pool import ReplicaPool
from actors.settings import Placement, Settings
from actors.vision.client import PoolVisionClient
from actors.vision.data.class_match import ImageClasses
from actors.vision.data.datasets import open_dataset
from actors.vision.data.distinct import distinct
from actors.vision.networks import layer_cache as known
from actors.vision.networks.offline import check_weights
from actors.vision.networks.zoo import check_name
from actors.vision.readout.base import ImageDataset, LayerInfo
from actors.vision.readout.units import parse_unit
from actors.vision.sweep.driver import Notify
from agents.study.metered import Rate
from agents.study.observers import BlindObservers
from agents.study.study import RunContext
from agents.study.unit_role import RoleFinder
from experiments.setup import photograph_notice as photographs
from experiments.setup import preflight
from experiments.setup.config import Profile
from experiments.setup.endpoint_check import require_endpoints
from experiments.setup.spending import notices
from tools import sandbox
from tools.sandbox import SandboxServer
from tools.subject import NetworkUnit, Subject


def _quiet(_: str) -> None: ...


@dataclass(frozen=True)
class _Running:
    """What a workbench is assembled from once it runs."""

    cluster: Cluster
    pools: Mapping[str, ReplicaPool[Any, Any]]
    sandboxes: SandboxServer


@dataclass(frozen=True)
class Workbench:
    """A running set-up. Made by `open` or `join`; everything in it ends with the `async with` block."""

    profile: Profile
    cluster: Cluster
    dataset: ImageDataset
    context: RunContext
    pools: Mapping[str, ReplicaPool[Any, Any]]
    """The models' replicas, by role."""

    @property
    def addresses(self) -> dict[str, str]:
        """Where another process finds each role's replicas, for `join`."""
        return {role: pool.address for role, pool in self.pools.items()}

    network: PoolVisionClient | None = None
    """The network under study; None in a set-up that was opened without one."""
    classes: ImageClasses | None = None
    """The classes of the data set's images that the network has, of a set-up with a network."""
    detector: PoolDetector | None = None
    """Finds concepts; only in a set-up without a network, where synthetic neurons are studied."""

    @property
    def vision(self) -> PoolVisionClient:
        assert self.network is not None, "opened without a network under study"
        return self.network

    @classmethod
    @asynccontextmanager
    async def open(
        cls, profile: Profile, *, cache: Path, model: str | None, notify: Notify = _quiet
    ) -> AsyncIterator[Workbench]:
        """Start what `profile` names, with `model` as the network under study.

        Without a model, the concept detector stands in its place: what is studied are synthetic neurons.

        `notify` gets one sentence on each step.

        Raises:
            UsageError: If something cannot work as configured; nothing is left running.
        """
        preflight.check(profile, model)
        for notice in notices(profile):
            notify(f"warning: {notice}")
        preflight.check_cache(cache)
        await require_endpoints(profile, notify)
        dataset = await preflight.open_images(profile, cache, notify)
        async with AsyncExitStack() as stack:
            if not profile.ray.in_process:
                notify("starting Ray")
            cluster = await stack.enter_async_context(Cluster.start(profile.ray))
            # All pools load their models at the same time: starting costs as much as the slowest.
            notify(f"loading {model or 'the concept detector'} and the models of the profile")
            pools = {
                role: await stack.enter_async_context(pool)
                for role, pool in _pools(cluster, profile, cache, model)
            }
            notify("testing the sandbox")
            sandboxes = await stack.enter_async_context(await sandbox.start(profile.sandbox))
            await _keep_observers_apart(stack, cluster, profile, model, pools)
            running = _Running(cluster, pools, sandboxes)
            bench = await cls._assemble(profile, cache, model, dataset, running)
            if bench.network is not None:
                _notify_of(bench.network, notify)
            if bench.network is not None and not bench.network.batch_invariant:
                notify(
                    f"warning: activations of {bench.network.name} depend on the rest of the batch or are "
                    "not deterministic (dropout active? batch statistics?); no finding is surer than that"
                )
            yield await bench._warned_of_photographs(notify)

    async def _warned_of_photographs(self, notify: Notify) -> Workbench:
        """Say what the embedded observers make of the data set, if they are to look at photographs; keep it
        in the facts.
        """
        roles = self.profile.chat
        drawn = self.dataset.fingerprint.startswith("scenes:")
        if self.network is None or drawn or not isinstance(roles.observers or roles.interpreter, BuiltinChat):
            return self
        notice = await photographs.of_dataset(self.context.observers, self.dataset)
        if not notice:
            return self
        notify(f"warning: {notice}")
        facts = self.context.facts | {"notice": notice}
        return replace(self, context=replace(self.context, facts=facts))

    @classmethod
    @asynccontextmanager
    async def join(
        cls, profile: Profile, *, cache: Path, model: str | None, addresses: Mapping[str, str]
    ) -> AsyncIterator[Workbench]:
        """Work with the models that another process's workbench has started, and a sandbox server of one's
        own.

        Raises:
            UsageError: If the models are gone, or no sandbox works on this machine.
        """
        whole = await asyncio.to_thread(open_dataset, profile.dataset, profile.columns.image)
        dataset = await asyncio.to_thread(distinct, whole, cache)
        async with AsyncExitStack() as stack:
            cluster = await stack.enter_async_context(Cluster.start(profile.ray))
            pools = {role: cluster.attach(address) for role, address in addresses.items()}
            sandboxes = await stack.enter_async_context(await sandbox.start(profile.sandbox))
            yield await cls._assemble(profile, cache, model, dataset, _Running(cluster, pools, sandboxes))

    @classmethod
    async def _assemble(
        cls, profile: Profile, cache: Path, model: str | None, dataset: ImageDataset, running: _Running
    ) -> Workbench:
        roles, pools = profile.chat, running.pools
        interpreter, observers, sight = await _chat_models(profile, pools)
        vision = None if model is None else await _connect(pools["vision"], profile, cache, model)
        detector = PoolDetector(pools["detection"]) if "detection" in pools else None
        studied = {"model": model, "network": vision.fingerprint} if vision else {}
        if detector:
            studied = {"model": "synthetic", "network": await detector.name()}
        context = RunContext(
            interpreter=interpreter,
            observers=observers,
            studio=PoolImageMaker(pools["generation"]),
            sandboxes=running.sandboxes,
            paint=paint,
            settings=profile.interpreter,
            confirmation=profile.confirmation,
            roles=None if profile.role is None else RoleFinder(profile.role),
            rates={
                "interpreter": _rate(roles.interpreter),
                "observer": _rate(roles.observers or roles.interpreter),
            },
            dollars_per_image=dollars_per_image(profile.generation) or 0.0,
            facts={
                **studied,
                "dataset": dataset.fingerprint,
                "generator": (await pools["generation"].describe()).backend["generator"]["name"],
                "interpreter": interpreter.name,
                "sight": sight,
                "observers": observers.name,
                **await _eyes(roles.observers or roles.interpreter, pools["observers"]),
                "sandbox": running.sandboxes.tier,
                "versions": _versions(),
            },
        )
        names = await vision.class_names() if vision else []
        classes = ImageClasses(dataset, profile.columns, names) if vision else None
        return cls(profile, running.cluster, dataset, context, pools, vision, classes, detector)

    async def layers(self) -> list[LayerInfo]:
        """Return the layers of the network under study, in the order of the forward pass."""
        return await self.vision.layers()

    async def subject(self, layer: str, unit: str) -> Subject:
        """Return the unit that these words name.

        Raises:
            UsageError: If the network has no such layer or unit; names the nearest, or the range.
        """
        parsed = parse_unit(layer, unit, await self.vision.class_names())
        assert self.classes is not None, "opened without a network under study"
        subject = NetworkUnit(self.vision, parsed, self.dataset, classes=self.classes)
        await subject.check()
        return subject


@asynccontextmanager
async def network_alone(
    profile: Profile, cache: Path, model: str, notify: Notify = _quiet
) -> AsyncIterator[PoolVisionClient]:
    """Yield the network under study, for commands that need nothing else.

    Raises:
        UsageError: If there is no such network, or it cannot be loaded.
    """
    check_name(model)
    if profile.ray.on_this_machine:
        check_weights(model, profile.vision)
    preflight.check_cache(cache)
    async with Cluster.start(profile.ray) as cluster, _vision_pool(cluster, profile, cache, model) as pool:
        vision = await _connect(pool, profile, cache, model)
        _notify_of(vision, notify)
        yield vision


@asynccontextmanager
async def network_and_embedder(
    profile: Profile, cache: Path, model: str, dataset: ImageDataset, notify: Notify = _quiet
) -> AsyncIterator[tuple[PoolVisionClient, PoolEmbedder]]:
    """Yield the network under study and the profile's embedder, for commands that need nothing else.

    Raises:
        UsageError: If one of them cannot be loaded.
    """
    check_name(model)
    if profile.ray.on_this_machine:
        check_weights(model, profile.vision)
        state, reason = embedding_available(profile.embedding)
        if state == "missing":
            raise UsageError(f"the profile's embedding cannot be used here: {reason}")
    preflight.check_cache(cache)
    settings, eyes = profile.embedding, None
    if isinstance(settings, BuiltinEmbedding):
        eyes = independent_classifier(model)
        if settings.sees == "auto":
            drawn = dataset.fingerprint.startswith("scenes:")
            settings = settings.model_copy(update={"sees": "scenes" if drawn else "photographs"})
    async with (
        Cluster.start(profile.ray) as cluster,
        _vision_pool(cluster, profile, cache, model) as pool,
        cluster.pool(
            "embedding",
            "actors.embedding.factory:build_backend",
            {"settings": settings, "folder": cache / "embeddings" / "bank", "photographs": eyes},
            settings.placement,
        ) as embedding,
    ):
        vision = await _connect(pool, profile, cache, model)
        _notify_of(vision, notify)
        yield vision, await PoolEmbedder.connect(embedding)


def _notify_of(vision: PoolVisionClient, notify: Notify) -> None:
    """Say what was taken from a file of weights, and what not: `@FILE` names only the file; and, later on,
    what sweeps decide.
    """
    vision.notify = notify
    if vision.weights.startswith("checkpoint"):
        notify(f"weights: {vision.weights}")


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


async def _connect(
    pool: ReplicaPool[Any, Any], profile: Profile, cache: Path, model: str
) -> PoolVisionClient:
    """Connect, and keep for the next command what the network was found to hold."""
    vision = await PoolVisionClient.connect(pool, _bank(profile, cache), profile.vision.held_out)
    await asyncio.to_thread(known.save_known, cache, model, vision.known, profile.vision)
    return vision


def _bank(profile: Profile, cache: Path) -> Path:
    return profile.vision.bank_folder or cache / "vision"


def _pools(
    cluster: Cluster, profile: Profile, cache: Path, model: str | None
) -> Iterator[tuple[str, ReplicaPool[Any, Any]]]:
    """Start one pool a role; the interpreter has one of its own unless it is the observers' model."""
    if model is not None:
        yield "vision", _vision_pool(cluster, profile, cache, model)
    else:
        detection = profile.detection
        yield (
            "detection",
            cluster.pool(
                "detection",
                "actors.detection.factory:build_backend",
                {"settings": detection},
                detection.placement,
            ),
        )
    generation = profile.generation
    if generation.store is None:
        generation = generation.model_copy(update={"store": str(cache / "images")})
    yield (
        "generation",
        cluster.pool(
            "generation",
            "actors.generation.factory:build_backend",
            {"settings": generation},
            generation.placement,
            secrets(generation),
        ),
    )
    for role, chat in _chat_roles(profile).items():
        yield role, _chat_pool(cluster, role, chat, independent_classifier(model or ""))


def _chat_roles(profile: Profile) -> dict[str, ChatSettings]:
    """Return the chat models that need replicas of their own."""
    roles = profile.chat
    chats = {"observers": roles.observers or roles.interpreter}
    if roles.observers is not None and roles.observers != roles.interpreter:
        chats["interpreter"] = roles.interpreter
    return chats


async def _keep_observers_apart(
    stack: AsyncExitStack,
    cluster: Cluster,
    profile: Profile,
    model: str | None,
    pools: dict[str, ReplicaPool[Any, Any]],
) -> None:
    """Start the built-in models anew, with another network for photographs, if the studied one has the same
    weights.
    """
    builtin = {role: chat for role, chat in _chat_roles(profile).items() if isinstance(chat, BuiltinChat)}
    if model is None or not builtin:
        return
    eyes = independent_classifier(model, (await pools["vision"].describe()).backend.get("head", ""))
    if eyes != independent_classifier(model):
        for role, chat in builtin.items():
            pools[role] = await stack.enter_async_context(_chat_pool(cluster, role, chat, eyes))


def _chat_pool(
    cluster: Cluster, role: str, settings: ChatSettings, eyes: PackagedNetwork | None
) -> ReplicaPool[Any, Any]:
    """`eyes` is the network that sees photographs for a built-in model."""
    return cluster.pool(
        f"chat-{role}",
        "actors.chat.factory:build_backend",
        {"settings": settings, "photographs": eyes if isinstance(settings, BuiltinChat) else None},
        getattr(settings, "placement", Placement()),
        secrets(settings),
    )


async def _chat_models(
    profile: Profile, pools: Mapping[str, ReplicaPool[Any, Any]]
) -> tuple[ChatModel, ChatModel, str]:
    """Return the interpreter, the observers, and through whose descriptions the interpreter sees images."""
    roles, hosts = profile.chat, profile.sweep.hosts
    observers = await _chat(pools["observers"], roles.observers or roles.interpreter, hosts)
    interpreter = observers
    if "interpreter" in pools:
        interpreter = await _chat(pools["interpreter"], roles.interpreter, hosts)
    if interpreter.sees_images:
        return interpreter, observers, "its own"
    eyes = BlindObservers(observers) if observers.sees_images else None
    sight = f"blind descriptions by {observers.name}" if eyes else "none: no image could be shown"
    return TextOnlyChat(interpreter, eyes.describe_one if eyes else None), observers, sight


async def _chat(
    pool: ReplicaPool[Any, Any], settings: ChatSettings, hosts: int | Literal["per-node"]
) -> ChatModel:
    """Return the model behind a pool, in one of so many `hosts` that share it."""
    match settings:
        case OpenAIChat():
            unqueued_calls = 0
            if hosts != "per-node" and not (settings.requests_per_minute or settings.tokens_per_minute):
                unqueued_calls = settings.max_concurrent // max(1, hosts)
            return PoolChatModel(pool, settings.model, settings.sees_images, unqueued_calls=unqueued_calls)
        case BuiltinChat():
            return PoolChatModel(pool, f"builtin:{settings.model}", True)
        case TransformersChat():
            facts = (await pool.describe()).backend
            return PoolChatModel(pool, settings.model, bool(facts.get("sees_images", settings.sees_images)))


async def _eyes(settings: ChatSettings, pool: ReplicaPool[Any, Any]) -> dict[str, str]:
    """Return which network sees photographs for a built-in observer; nothing of other models, which see all
    images.
    """
    if not isinstance(settings, BuiltinChat):
        return {}
    return {"photographs": (await pool.describe()).backend.get("photographs") or "taken for drawn scenes"}


def _rate(settings: ChatSettings) -> Rate:
    image_tokens = getattr(settings, "image_tokens", IMAGE_TOKENS)
    price = known_price(settings)
    if price is None:
        return Rate(0, 0, image_tokens, known=False)
    return Rate(price.prompt, price.completion, image_tokens)


def secrets(settings: Settings) -> dict[str, str]:
    """Return the environment variables with keys that a backend's settings name, for its process alone."""
    names: set[str] = set()
    for part in (settings, *(getattr(settings, field) for field in type(settings).model_fields)):
        if isinstance(part, EndpointSettings):
            names |= {part.api_key_env or "", *part.headers_env.values()}
    return {name: os.environ[name] for name in names if name in os.environ}


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("maia", "torch", "timm", "ray")}
