"""One pass over a data set for all units at once: exact top k, quantiles from a sample, moments.

The results do not depend on the shards of the data set, on their order, or on where a run is resumed: ties go
to the smaller index, and the sampled images and positions follow from a hash of the image's index. The state
does not grow with the data set.

Shapes: U units; n images of a chunk; R rows of the reservoir; k exemplars a unit.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from actors.files import replacing, write_if_absent
from actors.vision.readout.base import ImageDataset
from actors.vision.readout.units import Readout
from actors.vision.sweep.activations import Reduce

if TYPE_CHECKING:
    import torch

LEVELS = (0.5, 0.9, 0.95, 0.99, 0.995, 0.999)
"""Quantile levels that a sweep keeps."""

RESERVOIR_ROWS = 8192
_CHUNK = 256
HALF_MAX = 65504.0
"""The largest float16: samples are kept in half precision."""
_SWEEP_ID_FILE = "begun"
_EMPTY_KEY = -(2**63)
"""A key below every real one."""


@dataclass(frozen=True)
class Draw:
    """The reservoir sample's part of some images: the same for all layers with as many positions."""

    images: np.ndarray
    """int64 (m,): places among the images."""
    slots: np.ndarray
    """int64 (m,): their places in the reservoir, in rows of `samples`."""
    positions: np.ndarray
    """int64 (m, samples): flat positions in an image's map."""
    n_positions: int

    @property
    def samples(self) -> int:
        return int(self.positions.shape[1])

    def rows(self, which: np.ndarray | slice = slice(None)) -> torch.Tensor:
        """Return the reservoir's rows of all images or some, int64 (their number * samples,)."""
        import torch

        return torch.from_numpy((self.slots[which, None] * self.samples + np.arange(self.samples)).ravel())

    @cached_property
    def target(self) -> slice | torch.Tensor:
        """The reservoir's rows, as a slice if they are contiguous: it is copied several times as fast."""
        rows = self.rows()
        first, last = int(rows[0]), int(rows[-1])
        in_order = last - first + 1 == len(rows) and bool((np.diff(self.slots) > 0).all())
        return slice(first, last + 1) if in_order else rows

    @cached_property
    def flat(self) -> torch.Tensor:
        """Indices into all positions of all images, int64 (m * samples,)."""
        import torch

        return torch.from_numpy((self.images[:, None] * self.n_positions + self.positions).ravel())

    def of(self, units: torch.Tensor) -> torch.Tensor:
        """Return (m * samples, U) activations of maps (n, U, h, w) in any memory layout."""
        positions_first = units.permute(0, 2, 3, 1)
        flat = self.flat.to(units.device)
        if positions_first.is_contiguous():
            return positions_first.flatten(0, 2).index_select(0, flat)
        return positions_first.flatten(1, 2)[flat // self.n_positions, flat % self.n_positions]


@dataclass(frozen=True)
class SweepPlan:
    """A sweep: its images (`indices` into the data set), its readouts, and its steps of `step` images."""

    dataset: ImageDataset
    indices: np.ndarray
    readouts: tuple[Readout, ...]
    k: int = 15
    step: int = 32
    rows: int = RESERVOIR_ROWS
    keep: Reduce | None = None
    """What is kept of every image, if anything: each unit's spatial maximum, or its mean."""

    def save(self, folder: Path) -> str:
        """Write the plan, and the sweep's id unless the folder has one, so that a sweep is resumed; return
        the plan's digest.
        """
        write_if_absent(folder / _SWEEP_ID_FILE, uuid.uuid4().hex.encode())
        data = pickle.dumps(self)
        with replacing(folder / "plan.pickle") as file:
            file.write(data)
        return _digest(data)

    @staticmethod
    def sweep_id(folder: Path) -> str:
        """Return the id of the sweep in the folder, which is new if the folder was removed and made again."""
        return (folder / _SWEEP_ID_FILE).read_text()

    @staticmethod
    def load(folder: Path, digest: str) -> SweepPlan:
        """Return the plan that `save` wrote: a pickle can run code, and others may write to a shared cache.

        Raises:
            OSError: If it cannot be read, or is another one.
        """
        data = (folder / "plan.pickle").read_bytes()
        if _digest(data) != digest:
            raise OSError(f"{folder / 'plan.pickle'} is not what this sweep wrote there")
        plan = pickle.loads(data)
        assert isinstance(plan, SweepPlan)
        return plan

    def steps(self) -> list[tuple[int, int]]:
        n = len(self.indices)
        return [(start, min(start + self.step, n)) for start in range(0, n, self.step)]

    def samples(self, n_positions: int) -> int:
        """Return how many positions of an image are sampled: more where there are few images."""
        if n_positions == 1:
            return 1
        return int(np.clip(self.rows // max(1, len(self.indices)), 4, 16))

    def slots(self, samples: int) -> np.ndarray:
        """Return each image's place in the reservoir, -1 for images that are not sampled; int64 (images,)."""
        n_chosen = min(len(self.indices), self.rows // samples)
        if n_chosen not in self._slots:
            order = np.argsort(self._hashes, kind="stable")
            chosen = np.sort(order[:n_chosen])
            slots = np.full(len(self.indices), -1, np.int64)
            slots[chosen] = np.arange(n_chosen)
            self._slots[n_chosen] = slots
        return self._slots[n_chosen]

    def positions(self, start: int, stop: int, samples: int, n_positions: int) -> np.ndarray:
        """Return int64 (stop - start, samples) positions: another draw for each image, the same for all
        units.
        """
        draws = _splitmix(self._hashes[start:stop, None] + np.arange(1, samples + 1, dtype=np.uint64))
        return (draws % np.uint64(n_positions)).astype(np.int64)

    def draw(self, places: np.ndarray, n_positions: int) -> Draw:
        """Return what is sampled of the images at `places`, int64 (n,) ascending, of the plan's indices."""
        samples = self.samples(n_positions)
        slots = self.slots(samples)[places]
        chosen = np.flatnonzero(slots >= 0)
        start, stop = int(places[0]), int(places[-1]) + 1
        where = self.positions(start, stop, samples, n_positions)[places[chosen] - start]
        return Draw(chosen, slots[chosen], where, n_positions)

    @cached_property
    def _hashes(self) -> np.ndarray:
        return _splitmix(self.indices.astype(np.uint64))

    @cached_property
    def _slots(self) -> dict[int, np.ndarray]:
        return {}

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _splitmix(values: np.ndarray) -> np.ndarray:
    """Return a well-mixed hash of uint64 values (the finalizer of Steele et al.'s SplitMix64)."""
    with np.errstate(over="ignore"):
        z = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def sort_keys(values: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Return int64 keys whose order is that of float32 `values`, ties by the smaller of `indices`
    (0..2^32-1).
    """
    import torch

    bits = (values + 0.0).view(torch.int32)  # adding 0 makes -0 and 0 one value
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << 32) | (0xFFFFFFFF - indices)


def from_keys(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the float32 values and int64 indices of `sort_keys`."""
    import torch

    ordered = (keys >> 32).to(torch.int32)
    bits = ordered ^ ((ordered >> 31) & 0x7FFFFFFF)
    return bits.view(torch.float32), 0xFFFFFFFF - (keys & 0xFFFFFFFF)


class ReadoutAccumulator:
    """The running statistics of one readout: top k and moments of per-image activations, the mean of maps,
    and a reservoir sample of activations at positions.
    """

    def __init__(self, n_units: int, k: int, rows: int, device: torch.device | str = "cpu") -> None:
        import torch

        self.keys = torch.full((n_units, k), _EMPTY_KEY, dtype=torch.int64, device=device)
        self.n_images = 0
        wide = torch.float64 if torch.device(device).type != "mps" else torch.float32
        self.mean = torch.zeros(n_units, dtype=wide, device=device)
        self.m2 = torch.zeros(n_units, dtype=wide, device=device)
        self.map_total = torch.zeros(n_units, dtype=wide, device=device)
        """The sum over images of the mean over an image's positions; NaN where a part lacks it."""
        self.reservoir = torch.empty((rows, n_units), dtype=torch.float16, device=device)
        self.filled = torch.zeros(rows, dtype=torch.bool)
        self.never_finite = torch.zeros(n_units, dtype=torch.bool, device=device)
        """Units that are never finite: they count as 0, so that no image is skipped because of them."""
        self._chunk = torch.empty((_CHUNK, n_units), dtype=torch.float32, device=device)
        self._chunk_indices = torch.empty(_CHUNK, dtype=torch.int64, device=device)
        self._buffered = 0
        self._last_index = -1
        self._in_order = True

    def add(self, maxima: torch.Tensor, indices: torch.Tensor) -> None:
        """Add float32 (n, U) maxima of the images `indices`, int64 (n,)."""
        for some, their in zip(maxima.split(_CHUNK), indices.split(_CHUNK), strict=True):
            end = self._buffered + len(some)
            if end > _CHUNK:
                self.fold()
                end = len(some)
            self._chunk[self._buffered : end] = some
            self._chunk_indices[self._buffered : end] = their
            self._buffered = end

    def add_map_means(self, means: torch.Tensor) -> None:
        """Add float32 (n, U) means over positions, of the images whose maxima are added."""
        self.map_total += means.sum(0, dtype=self.map_total.dtype)

    def map_mean(self) -> np.ndarray:
        """Return the mean over positions and images, each image counted once, float32 (U,)."""
        self.fold()
        mean: np.ndarray = (self.map_total / max(1, self.n_images)).cpu().numpy().astype(np.float32)
        return mean

    def sample(self, rows: torch.Tensor | slice, values: torch.Tensor) -> None:
        """Put (m, U) activations at positions into the reservoir's `rows`; beyond half precision's range they
        are infinite.
        """
        self.reservoir[rows] = values.to(self.reservoir.dtype)
        self.filled[rows] = True

    def fold(self) -> None:
        """Add the buffered maxima to the top k and the moments."""

        if not self._buffered:
            return
        chunk, indices = self._chunk[: self._buffered], self._chunk_indices[: self._buffered]
        self._buffered = 0
        # Seen in order, a later image never wins a tie: dead units cost nothing.
        in_order = int(indices[0]) > self._last_index and bool((indices.diff() > 0).all())
        self._last_index = max(self._last_index, int(indices.max()))
        self._take_best(chunk, indices, in_order)
        mean = chunk.mean(0)
        m2 = (chunk - mean).square_().sum(0)
        if not bool(m2.isfinite().all()):
            # Squares of very large activations do not fit into single precision.
            wide = chunk.to(self.mean.dtype)
            mean = wide.mean(0)
            m2 = (wide - mean).square_().sum(0)
        self._add_moments(len(chunk), mean.to(self.mean.dtype), m2.to(self.m2.dtype))

    def _take_best(self, chunk: torch.Tensor, indices: torch.Tensor, in_order: bool) -> None:
        import torch

        k = self.keys.shape[1]
        if self.n_images >= k:
            worst = from_keys(self.keys.amin(1))[0]
            wins = (chunk > worst) if in_order else (chunk >= worst)
            units, rows = wins.T.contiguous().nonzero(as_tuple=True)
            counts = wins.sum(0)
            most = int(counts.max())
            if most <= 4 * k:
                # Few images get among the top k once they are many: only those are compared.
                place = torch.arange(len(units), device=units.device) - (counts.cumsum(0) - counts)[units]
                fresh = torch.full((len(counts), most), _EMPTY_KEY, dtype=torch.int64, device=units.device)
                fresh[units, place] = sort_keys(chunk[rows, units], indices[rows])
                self.keys = torch.cat([self.keys, fresh], dim=1).topk(k, dim=1).values
                return
        fresh = sort_keys(chunk.T.contiguous(), indices)
        self.keys = torch.cat([self.keys, fresh], dim=1).topk(k, dim=1).values

    def _add_moments(self, n: int, mean: torch.Tensor, m2: torch.Tensor) -> None:
        """Combine means and squared deviations of two samples (Chan, Golub and LeVeque 1979)."""
        total = self.n_images + n
        delta = mean - self.mean
        self.mean += delta * (n / total)
        self.m2 += m2 + delta.square() * (self.n_images * n / total)
        self.n_images = total

    def merge(self, other: ReadoutAccumulator) -> None:
        """Add another accumulator of the same readout over other images."""
        import torch

        self.fold()
        other.fold()
        self.never_finite |= other.never_finite.to(self.never_finite.device)
        both = torch.cat([self.keys, other.keys.to(self.keys.device)], dim=1)
        self.keys = both.topk(self.keys.shape[1], dim=1).values
        self.map_total += other.map_total.to(self.map_total.device)
        if other.n_images:
            self._add_moments(other.n_images, other.mean.to(self.mean.device), other.m2.to(self.m2.device))
        rows = other.filled.nonzero()[:, 0]
        self.reservoir[rows] = other.reservoir[rows].to(self.reservoir.device)
        self.filled[rows] = True

    def state_bytes(self) -> int:
        """Return the memory of the state without the chunk in progress, which is shared by many images."""
        tensors = (self.keys, self.mean, self.m2, self.map_total, self.reservoir, self.filled)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def top(self) -> tuple[np.ndarray, np.ndarray]:
        """Return float32 values and int64 indices (U, k), best first; index -1 if there were fewer images."""
        self.fold()
        keys = self.keys.sort(dim=1, descending=True).values
        values, indices = from_keys(keys)
        none = keys == _EMPTY_KEY
        values[none], indices[none] = float("-inf"), -1
        return values.cpu().numpy(), indices.cpu().numpy()

    def quantiles(self, levels: Iterable[float] = LEVELS) -> np.ndarray:
        """Return float32 (U, levels): the sample's quantiles over positions and images, between order
        statistics.
        """
        levels = np.asarray(list(levels))
        rows = self.filled.nonzero()[:, 0]
        n_units = self.reservoir.shape[1]
        if len(rows) == 0:
            return np.full((n_units, len(levels)), np.nan, np.float32)
        place = levels * (len(rows) - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, len(rows) - 1)
        kth = np.unique(np.concatenate([low, high]))
        weight = (place - low)[None].astype(np.float32)
        result = np.empty((n_units, len(levels)), np.float32)
        whole = len(rows) == len(self.filled)
        for start in range(0, n_units, 1024):
            block = self.reservoir[:, start : start + 1024]
            block = block if whole else block[rows.to(block.device)]
            sample = np.ascontiguousarray(block.T.float().cpu().numpy()).clip(-HALF_MAX, HALF_MAX)
            sample.partition(kth, axis=1)
            result[start : start + 1024] = sample[:, low] * (1 - weight) + sample[:, high] * weight
        return result

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the state as arrays; `restore` is the inverse."""
        self.fold()
        rows = self.filled.nonzero()[:, 0]
        return {
            "keys": self.keys.cpu().numpy(),
            "mean": self.mean.cpu().numpy(),
            "m2": self.m2.cpu().numpy(),
            "map_total": self.map_total.cpu().numpy(),
            "n_images": np.array(self.n_images),
            "rows": rows.numpy(),
            "reservoir": self.reservoir[rows.to(self.reservoir.device)].cpu().numpy(),
            "n_rows": np.array(len(self.filled)),
            "last_index": np.array(self._last_index),
            "broken": self.never_finite.cpu().numpy(),
        }

    @classmethod
    def restore(
        cls, arrays: Mapping[str, np.ndarray], device: torch.device | str = "cpu"
    ) -> ReadoutAccumulator:
        import torch

        n_units, k = arrays["keys"].shape
        accumulator = cls(n_units, k, int(arrays["n_rows"]), device)
        accumulator.keys = torch.tensor(arrays["keys"], device=device)
        accumulator.mean = torch.tensor(arrays["mean"], device=device, dtype=accumulator.mean.dtype)
        accumulator.m2 = torch.tensor(arrays["m2"], device=device, dtype=accumulator.m2.dtype)
        total = arrays.get("map_total", np.full(n_units, np.nan))  # parts of earlier versions have none
        accumulator.map_total = torch.tensor(total, device=device, dtype=accumulator.map_total.dtype)
        accumulator.n_images = int(arrays["n_images"])
        rows = torch.tensor(arrays["rows"])
        accumulator.reservoir[rows.to(accumulator.reservoir.device)] = torch.tensor(
            arrays["reservoir"], device=device
        )
        accumulator.filled[rows] = True
        accumulator._last_index = int(arrays["last_index"])
        accumulator.never_finite = torch.tensor(arrays["broken"], device=device)
        return accumulator


@dataclass
class SweepPart:
    """A part of a sweep: which steps (by start) are in it, its accumulators, and the images that could not be
    read.
    """

    done: set[int]
    accumulators: dict[Readout, ReadoutAccumulator]
    skipped: dict[int, str]

    def save(self, path: Path) -> None:
        arrays: dict[str, np.ndarray] = {}
        for place, accumulator in enumerate(self.accumulators.values()):
            arrays |= {f"{place}.{name}": array for name, array in accumulator.arrays().items()}
        facts = {
            "done": sorted(self.done),
            "readouts": [[r.layer, r.kind, r.source] for r in self.accumulators],
            "skipped": {str(index): reason for index, reason in self.skipped.items()},
        }
        arrays["facts"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        with replacing(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> SweepPart:
        with np.load(path, allow_pickle=False) as stored:
            facts = json.loads(stored["facts"].tobytes())
            accumulators = {}
            for place, (layer, kind, source) in enumerate(facts["readouts"]):
                arrays = {
                    name.partition(".")[2]: stored[name]
                    for name in stored.files
                    if name.startswith(f"{place}.")
                }
                accumulators[Readout(layer, kind, source)] = ReadoutAccumulator.restore(arrays)
        skipped = {int(index): reason for index, reason in facts["skipped"].items()}
        return cls(set(facts["done"]), accumulators, skipped)

    def merge(self, other: SweepPart) -> None:
        self.done |= other.done
        self.skipped |= other.skipped
        for readout, accumulator in other.accumulators.items():
            if readout in self.accumulators:
                self.accumulators[readout].merge(accumulator)
            else:
                self.accumulators[readout] = accumulator


def disjoint_parts(folder: Path) -> tuple[list[Path], set[int]]:
    """Return stored parts of which no two have a step in common, and the steps in them.

    A step that was sent twice, because its replica seemed dead, may be in two parts; then the smaller part
    is left out, and what is only in it has to be run again.
    """
    steps: dict[Path, set[int]] = {}
    for path in sorted(folder.glob("part-*.npz")):
        with np.load(path, allow_pickle=False) as stored:
            steps[path] = set(json.loads(stored["facts"].tobytes())["done"])
    chosen: list[Path] = []
    done: set[int] = set()
    for path in sorted(steps, key=lambda path: (-len(steps[path]), path.name)):
        if not steps[path] & done:
            chosen.append(path)
            done |= steps[path]
    return chosen, done


def merge_parts(folder: Path) -> SweepPart:
    """Return the parts stored in `folder` as one."""
    whole = SweepPart(set(), {}, {})
    for path in disjoint_parts(folder)[0]:
        whole.merge(SweepPart.load(path))
    return whole
