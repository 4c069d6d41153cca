"""The folder of a run: whether it may be used, and whether it belongs to the run that a command asks for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actors.errors import UsageError
from actors.vision.data.dataset_names import is_path
from agents.records.manifest import check, check_studied, claim, claim_studied
from agents.records.record_types import Manifest
from agents.records.store import Store

_RUN_ENTRIES = frozenset({"manifest.json", "studied.json", "leases", "exemplars.json"})
"""Names in a folder by which it is known to be a run's, from its beginning."""


def open_run(dataset: str, folder: Path, manifest: Manifest) -> Store:
    """Return the store of a run that is new, or is the one that `manifest` describes.

    Raises:
        UsageError: If the folder cannot be used, or belongs to another configuration.
    """
    check_output_folder(dataset, folder)
    store = Store.open(folder)
    check(store, manifest)
    return store


def claim_run(store: Store, manifest: Manifest, facts: Mapping[str, Any]) -> None:
    """Write what the run is about and what it studies, unless it is written.

    Call it once everything that was asked for is known to exist: a mistyped unit must not claim the folder.

    Raises:
        UsageError: If the folder belongs to another configuration, network or data set.
    """
    check_studied(store, facts)
    claim(store, manifest)
    claim_studied(store, facts)


def check_output_folder(dataset: str, run: Path) -> None:
    """Refuse a folder for a run that is part of the data set, or holds other things and no run.

    Raises:
        UsageError: If it is one of these.
    """
    check_output_outside_dataset(dataset, run)
    if not run.is_dir():
        return  # made, or refused, when it is opened
    others = sorted(path.name for path in run.iterdir() if not path.name.startswith("."))
    if others and not _RUN_ENTRIES.intersection(others):
        more = ", ..." if len(others) > 3 else ""
        raise UsageError(
            f"the folder {run} holds other things ({', '.join(others[:3])}{more}) and no run.",
            f"Give the run a folder of its own, such as --out {run / 'run'}.",
        )


def check_output_outside_dataset(dataset: str, run: Path) -> None:
    """Refuse a run whose images would become part of its own data set.

    Raises:
        UsageError: If the run's folder lies inside the data set's.
    """
    check_named(dataset)
    folder = Path(dataset).expanduser().resolve()
    if is_path(dataset) and run.resolve().is_relative_to(folder):
        raise UsageError(
            f"the run's folder {run} lies inside the data set's, {folder}: its images would be taken for "
            "data.",
            "Give the run an --out elsewhere, or name a folder that holds nothing but the images.",
        )


def check_named(dataset: str) -> None:
    """Refuse a profile without a data set.

    Raises:
        UsageError: If `dataset` is empty.
    """
    if not dataset:
        raise UsageError(
            "the profile names no images.",
            "Give --data FOLDER with the images that units are studied on, or set `dataset` in the profile.",
        )


@contextmanager
def remove_if_created(folder: Path) -> Iterator[None]:
    """Remove a run directory that was created inside and holds nothing but a lease, if an error leaves."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        if missing and folder.is_dir() and _holds_only_a_lease(folder):
            shutil.rmtree(folder, ignore_errors=True)
            for parent in missing[1:]:
                if not parent.is_dir() or any(parent.iterdir()):
                    break
                parent.rmdir()
        raise


def _holds_only_a_lease(folder: Path) -> bool:
    # One that is not released is another process's, which came first and may still be at work.
    return {path.name for path in folder.iterdir()} <= {"leases"} and all(
        lease.name == "0001" and (lease / "released.json").exists() for lease in (folder / "leases").glob("*")
    )
