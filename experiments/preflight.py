"""What is looked at before anything is started, so that a mistyped word costs a moment and leaves nothing behind.

Only a loaded network knows its layers and units: those are refused later, and once.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from actors.backend import Readiness
from actors.chat.factory import available as chat_available
from actors.detection.factory import available as detection_available
from actors.errors import UsageError
from actors.generation.factory import available as generation_available
from actors.vision.base import ImageDataset
from actors.vision.datasets import is_path, open_dataset
from actors.vision.zoo import check_name
from experiments.config import Profile
from experiments.spending import check_budget


def availability(profile: Profile) -> dict[str, tuple[Readiness, str]]:
    """Return, by role, whether a profile's models could be used here, and in one sentence why (not)."""
    roles = profile.chat
    return {
        "interpreter": chat_available(roles.interpreter),
        "observers": chat_available(roles.observers or roles.interpreter),
        "generation": generation_available(profile.generation),
        "detection": detection_available(profile.detection),
    }


def check(profile: Profile, model: str | None) -> ImageDataset:
    """Return the profile's data set if, as far as can be told without a model, all that is named can work.

    Without a `model` the concept detector is what is studied; with one it is not needed. What runs on the nodes of a
    cluster that is joined finds packages, keys and files there, so that nothing here tells whether it can.

    Raises:
        UsageError: If there is no such network or data set, or one of the profile's models cannot be used here.
    """
    if model is not None:
        check_name(model)
    check_budget(profile)
    _check_named(profile.dataset)
    dataset = open_dataset(profile.dataset)
    if profile.ray.address != "local":
        return dataset
    for role, (state, told) in availability(profile).items():
        if state == "missing" and not (role == "detection" and model is not None):
            raise UsageError(
                f"the profile's {role} cannot be used here: {told}",
                "`maia doctor`, with the same --profile, tells more.",
            )
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


def keep_apart(dataset: str, run: Path) -> None:
    """Refuse a run whose images would come to be a part of its own data set.

    Raises:
        UsageError: If the run's folder lies inside the data set's.
    """
    _check_named(dataset)
    folder = Path(dataset).expanduser().resolve()
    if is_path(dataset) and run.resolve().is_relative_to(folder):
        raise UsageError(
            f"the run's folder {run} lies inside the data set's, {folder}: its images would be taken for data.",
            "Give the run an --out elsewhere, or name a folder that holds nothing but the images.",
        )


def _check_named(dataset: str) -> None:
    if not dataset:
        raise UsageError(
            "the profile names no images.",
            "Give --data FOLDER with the images that units are studied on, or set `dataset` in the profile.",
        )


@contextmanager
def left_as_found(folder: Path) -> Iterator[None]:
    """Take a run directory away again that was made inside and where nothing came of it but a lease."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield
    except BaseException:
        if missing and folder.is_dir() and _nothing_but_a_lease(folder):
            shutil.rmtree(folder, ignore_errors=True)
            for parent in missing[1:]:
                if not parent.is_dir() or any(parent.iterdir()):
                    break
                parent.rmdir()
        raise


def _nothing_but_a_lease(folder: Path) -> bool:
    # One that is not released is another process's, which came first and may still be at work.
    return {each.name for each in folder.iterdir()} <= {"leases"} and all(
        each.name == "0001" and (each / "released.json").exists() for each in (folder / "leases").glob("*")
    )
