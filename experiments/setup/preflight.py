"""What is checked before anything is started, so that a mistyped word costs a moment and leaves nothing
behind.

Only a loaded network knows its layers and units: those are refused later, and once.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

from actors.chat.factory import available as chat_available
from actors.detection.factory import available as detection_available
from actors.embedding.factory import available as embedding_available
from actors.errors import UsageError
from actors.generation.factory import available as generation_available
from actors.serving.backend import Readiness
from actors.vision.data.datasets import open_dataset
from actors.vision.data.distinct import DistinctDataset, distinct, known_count
from actors.vision.data.folder import FolderDataset, format_counts
from actors.vision.networks.offline import check_weights
from actors.vision.networks.zoo import check_name
from actors.vision.readout.base import ImageDataset
from experiments.setup.config import Profile
from experiments.setup.run_folder import check_named
from experiments.setup.spending import check_budget


def availability(profile: Profile) -> dict[str, tuple[Readiness, str]]:
    """Return, by role, whether a profile's models could be used here, and in one sentence why (not)."""
    roles = profile.chat
    return {
        "interpreter": chat_available(roles.interpreter),
        "observers": chat_available(roles.observers or roles.interpreter),
        "generation": generation_available(profile.generation),
        "detection": detection_available(profile.detection),
        "embedding": embedding_available(profile.embedding),
    }


def check(profile: Profile, model: str | None) -> None:
    """Make sure that, as far as can be known without a model, the named models can work.

    Without a `model` the concept detector is what is studied; with one it is not needed. Only `maia label`
    needs the embedder. What runs on the
    nodes of a cluster that is joined finds packages, keys and files there, so that it cannot be known here
    whether it can.

    Raises:
        UsageError: If there is no such network, its weights cannot be had, or one of the profile's models
            cannot be used here.
    """
    if model is not None:
        check_name(model)
    check_budget(profile)
    if not profile.ray.on_this_machine:
        return
    if model is not None:
        check_weights(model, profile.vision)
    for role, (state, reason) in availability(profile).items():
        needed = role != "embedding" and (role != "detection" or model is None)
        if state == "missing" and needed:
            raise UsageError(
                f"the profile's {role} cannot be used here: {reason}",
                "`maia doctor`, with the same --profile, says more.",
            )


FEW_IMAGES = 200
"""Distinct images below which thresholds and shares are rough."""
TOO_FEW_IMAGES = 30
"""Distinct images below which most of what is said of a unit is chance."""


async def open_images(profile: Profile, cache: Path, notify: Callable[[str], None]) -> ImageDataset:
    """Return the profile's data set without copies, once it is known to have enough images; `notify` gets
    what to know of it.

    Raises:
        UsageError: If there is no such data set, or it has fewer than TOO_FEW_IMAGES distinct images and the
            profile does not allow `few_images`.
    """
    stopped = threading.Event()

    def go_on(_: int, __: int) -> None:
        if stopped.is_set():
            raise UsageError("stopped")

    check_named(profile.dataset)
    whole = await asyncio.to_thread(open_dataset, profile.dataset, profile.columns.image)
    if len(whole) > _SOON_SEEN and known_count(whole, cache) is None:
        notify(f"searching the {len(whole):,} images of {whole.name} for copies, once")
    try:
        dataset = await asyncio.to_thread(distinct, whole, cache, go_on)
    finally:
        stopped.set()
    if isinstance(whole, FolderDataset) and (
        others := await asyncio.to_thread(whole.passed_over, profile.columns)
    ):
        notify(f"passed over in {whole.name}: {format_counts(others)}")
    counted = f"{len(dataset):,} distinct images"
    if isinstance(dataset, DistinctDataset):
        for bits, n in sorted(dataset.scaled.items()):
            notify(
                f"{n:,} images of {dataset.name} hold {bits}-bit values in 16 bits: white is {2**bits - 1:,}"
            )
        counted += _without(dataset)
    if len(dataset) < TOO_FEW_IMAGES and not profile.few_images:
        raise UsageError(
            f"the data set {dataset.name!r} has {counted}; at least {TOO_FEW_IMAGES} are needed.",
            f"Give it more (from {FEW_IMAGES} on results are steady), or accept it with --few-images (in a "
            "profile: few_images: true).",
        )
    if len(dataset) < FEW_IMAGES:
        notify(
            f"warning: the data set {dataset.name} has {counted}: exemplars and thresholds are rough below "
            f"{FEW_IMAGES}, and a label may say what the images have in common"
        )
    elif isinstance(dataset, DistinctDataset) and len(dataset) < dataset.n_files:
        notify(f"the data set {dataset.name} has {counted}")
    return dataset


def check_cache(folder: Path) -> None:
    """Return if the cache can be written here.

    Raises:
        UsageError: If it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise UsageError(
            f"the cache {folder} cannot be written ({error.strerror}).",
            "Set MAIA_CACHE, or cache_dir in the configuration, to a folder of your own.",
        ) from error


_SOON_SEEN = 2000


def _without(dataset: DistinctDataset) -> str:
    """Return what of a data set's files does not count, as words in brackets."""
    left_out = []
    if dataset.n_copies:
        left_out.append(f"{dataset.n_copies:,} copies or near-copies")
    if dataset.unreadable:
        first = next(iter(dataset.unreadable.values()))
        left_out.append(f"{len(dataset.unreadable):,} that cannot be read, the first: {first}")
    return f" (and {'; '.join(left_out)})" if left_out else ""
