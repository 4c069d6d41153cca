"""Exemplars on disk: the results of sweeps, one file per readout, by network and data set.

Images are not copied: an exemplar is an index into the data set. A file is written once, whole.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from actors.errors import UsageError
from actors.files import write_if_absent
from actors.vision.data.held_out import HeldOutShare
from actors.vision.readout.base import Exemplars, Unit
from actors.vision.readout.units import Readout
from actors.vision.sweep.activations import LayerActivations, Reduce

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LayerExemplars:
    """All units of a readout: the k strongest images, quantiles over positions, moments over images.

    `indices` int64 (U, k), -1 where the data set had fewer than k images; `activations` float32 (U, k);
    `quantiles` float32 (U, levels), of values in half precision; `mean`, `std`, `maximum` float32 (U,).
    `map_mean` float32 (U,), over positions and images; NaN in tables of earlier versions, which lack it.
    `skipped` images by index, with the reason. Of a unit that is never finite there is no exemplar, and
    everything else is NaN.
    """

    readout: Readout
    indices: np.ndarray
    activations: np.ndarray
    levels: np.ndarray
    quantiles: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    map_mean: np.ndarray
    n_images: int
    skipped: dict[int, str] = field(default_factory=dict)

    def of(self, unit: Unit, k: int) -> Exemplars:
        """Return the exemplars of one unit, `k` at most."""
        row = unit.index
        n = min(k, int((self.indices[row] >= 0).sum()))
        return Exemplars(
            unit=unit,
            indices=self.indices[row, :n],
            activations=self.activations[row, :n],
            quantiles=dict(zip(self.levels.tolist(), self.quantiles[row].tolist(), strict=True)),
            mean=float(self.mean[row]),
            std=float(self.std[row]),
            maximum=float(self.activations[row, 0]),
            map_mean=float(self.map_mean[row]),
            n_images=self.n_images,
        )

    def save(self, path: Path) -> None:
        buffer = io.BytesIO()
        facts = {
            "readout": [self.readout.layer, self.readout.kind, self.readout.source],
            "n_images": self.n_images,
            "skipped": {str(index): reason for index, reason in self.skipped.items()},
        }
        np.savez(
            buffer,
            facts=np.frombuffer(json.dumps(facts).encode(), np.uint8),
            indices=self.indices,
            activations=self.activations,
            levels=self.levels,
            quantiles=self.quantiles,
            mean=self.mean,
            std=self.std,
            map_mean=self.map_mean,
        )
        write_if_absent(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> LayerExemplars:
        # Opened here: numpy leaves a file open that is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            facts = json.loads(stored["facts"].tobytes())
            known = {each.name for each in fields(cls)}  # a later version may have more
            arrays = {name: stored[name] for name in stored.files if name in known}
        arrays.setdefault("map_mean", np.full(len(arrays["mean"]), np.nan, np.float32))
        return cls(
            readout=Readout(*facts["readout"]),
            n_images=facts["n_images"],
            skipped={int(index): reason for index, reason in facts["skipped"].items()},
            **arrays,
        )


@dataclass(frozen=True)
class ExemplarStore:
    """The exemplars of one network over one part of one data set, in a folder of their own."""

    folder: Path

    @classmethod
    def of(cls, cache: Path, network: str, dataset: str, share: HeldOutShare, n: int) -> ExemplarStore:
        """Return the store for a network's and a data set's fingerprints, without the part held out.

        `n`: images of the data set.
        """
        held_out = share.count(n)
        # Where the fraction decides, the name is what it was before small data sets held out more.
        part = "" if held_out == round(share.fraction * n) else f":{held_out}"
        name = f"{dataset}:{share.fraction:g}{part}"
        which = hashlib.blake2b(name.encode(), digest_size=12).hexdigest()
        return cls(cache / "exemplars" / network / which)

    def path(self, readout: Readout) -> Path:
        return self.folder / f"{_digest(readout)}.npz"

    def activations(self, readout: Readout, reduce: Reduce, indices: np.ndarray) -> LayerActivations | None:
        """Return a readout's activations on the images `indices`, None if they were not kept."""
        try:
            values = np.load(self.activations_path(readout, reduce), mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError) as error:
            _log.warning("the activations of %s are damaged and are computed again: %s", readout, error)
            return None
        if len(values) != len(indices):
            return None
        return LayerActivations(readout, reduce, values, indices, ~np.isnan(values[:, 0]))

    def activations_path(self, readout: Readout, reduce: Reduce) -> Path:
        return self.folder / f"{_digest(readout)}-{reduce}.npy"

    def get(self, readout: Readout, k: int) -> LayerExemplars | None:
        """Return a readout's exemplars, None if there are none, or fewer than `k` per unit."""
        path = self.path(readout)
        if not path.exists():
            return None
        try:
            stored = LayerExemplars.load(path)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            # A damaged cache costs a sweep, not the run.
            _log.warning("the exemplars in %s are damaged and are computed again: %s", path, error)
            return None
        return stored if stored.indices.shape[1] >= k and stored.n_images else None

    def put(self, exemplars: LayerExemplars) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        known = self.get(exemplars.readout, 0)
        if known is None or known.indices.shape[1] < exemplars.indices.shape[1]:
            self.path(exemplars.readout).unlink(missing_ok=True)
        exemplars.save(self.path(exemplars.readout))

    def sweep_folder(
        self, readouts: Sequence[Readout], k: int, step: int, keep: Reduce | None = None
    ) -> Path:
        """Return where an unfinished sweep over `readouts` is kept, so that it can be resumed."""
        name = json.dumps([k, step, *sorted(map(_key, readouts)), *([keep] if keep else [])])
        return self.folder / f"sweep-{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}"


def activations_path(folder: Path, readout: Readout) -> Path:
    """Return where the activations of a sweep in progress are."""
    return folder / f"activations-{_digest(readout)}.npy"


def _digest(readout: Readout) -> str:
    return hashlib.blake2b(json.dumps(_key(readout)).encode(), digest_size=12).hexdigest()


def _key(readout: Readout) -> list[str]:
    """Return what names a readout in the store: a file that was written anew is another one."""
    return [readout.layer, readout.kind, readout.source, *_state(readout.source)]


def _state(source: str) -> list[str]:
    """Return name, size and time of change of each file that a source names; nothing for what is no file."""
    path = Path(source).expanduser()
    if not source or not path.exists():
        return []
    configs = (path.with_name(name) for name in ("cfg.json", "config.json"))
    files = sorted(path.iterdir()) if path.is_dir() else [path, *configs]
    states = [(file.name, file.stat()) for file in files if file.is_file()]
    return [f"{name}:{state.st_size}:{state.st_mtime_ns}" for name, state in states]


def finish_sweep(folder: Path, digest: str, store: Path) -> int:
    """Merge the parts of the sweep whose plan has that digest into the exemplars of its readouts; return how
    many images counted.

    Raises:
        OSError: If the folder has another plan.
        UsageError: If none did. Nothing is kept then: a table of no images would say that every unit is dead.
    """
    from actors.vision.sweep.accumulators import LEVELS, SweepPlan, merge_parts

    plan = SweepPlan.load(folder, digest)
    whole = merge_parts(folder)
    n_images = max((accumulator.n_images for accumulator in whole.accumulators.values()), default=0)
    if n_images == 0:
        dataset = plan.dataset
        reason = whole.skipped[min(whole.skipped)]
        raise UsageError(
            f"no image of the data set {dataset.name!r} could be used ({len(whole.skipped)} tried). "
            f"The first: {reason}.",
            "Check that image, and the network: its input size, its weights, and vision.dtype.",
        )
    for readout, accumulator in whole.accumulators.items():
        activations, indices = accumulator.top()
        mean, quantiles = accumulator.mean.cpu().numpy().astype(np.float32), accumulator.quantiles(LEVELS)
        deviation = np.sqrt(accumulator.m2.cpu().numpy() / max(1, n_images)).astype(np.float32)
        map_mean = accumulator.map_mean()
        never_finite = accumulator.never_finite.cpu().numpy()
        indices[never_finite] = -1
        for values in (activations, mean, deviation, quantiles, map_mean):
            values[never_finite] = np.nan
        kept = ExemplarStore(store)
        if plan.keep:
            rows = np.load(activations_path(folder, readout), mmap_mode="r+", allow_pickle=False)
            rows[np.isin(plan.indices, list(whole.skipped))] = np.nan
            rows.flush()
            kept.folder.mkdir(parents=True, exist_ok=True)
            activations_path(folder, readout).replace(kept.activations_path(readout, plan.keep))
        kept.put(
            LayerExemplars(
                readout=readout,
                indices=indices,
                activations=activations,
                levels=np.array(LEVELS),
                quantiles=quantiles,
                mean=mean,
                std=deviation,
                map_mean=map_mean,
                n_images=n_images,
                skipped=whole.skipped,
            )
        )
    return n_images
