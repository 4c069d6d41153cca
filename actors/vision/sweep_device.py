"""The replica's side of a sweep: loads a step's images while the device works, and keeps its part of the result.

Steps may come in any order and go to any replica. A replica writes its part to the sweep's folder when
half a minute has passed or when it is told to, and begins another: parts are never written twice, and a replica
that dies costs the steps since its last. Whoever merges the parts runs again what is in none of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from actors import runtime
from actors.errors import BackendError, MaiaError
from actors.vision.requests import SweepAck, SweepStep
from actors.vision.settings import VisionSettings
from actors.vision.sweep import Partial, SweepPlan, Tally
from actors.vision.taps import spatial_max
from actors.vision.units import Readout

if TYPE_CHECKING:
    import torch

    from actors.vision.backend import VisionBackend

_log = logging.getLogger(__name__)

_HAND_OVER_EVERY_S = 30.0
_HELD_STEPS = 3
_HELD_SWEEPS = 4

Loaded = np.ndarray | str
"""Pixels, or why there are none."""


class SweepDevice:
    """Sweeps in progress on one device. Torch runs in the backend's thread, images are loaded in others."""

    def __init__(
        self,
        backend: VisionBackend,
        settings: VisionSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._clock = clock
        n_loaders = max(2, (settings.placement.threads or runtime.available_cores()) // 2)
        self._loaders = ThreadPoolExecutor(n_loaders, thread_name_prefix="sweep-load")
        self._sweeps: dict[str, _Sweep] = {}
        self._loading: OrderedDict[tuple[str, int, int], list[Future[Loaded]]] = OrderedDict()

    async def step(self, step: SweepStep) -> SweepAck | MaiaError:
        """Take one step's images into this replica's part; a step that is in it already costs nothing."""
        sweep = self._sweeps.get(step.folder)
        if sweep is None:
            try:
                plan = await asyncio.to_thread(SweepPlan.load, Path(step.folder))
            except OSError as error:
                return BackendError(
                    f"the plan of the sweep in {step.folder} cannot be read: {error}",
                    "Replicas on other machines need the cache folder on a shared file system.",
                )
            sweep = self._sweeps.setdefault(step.folder, _Sweep(plan, Path(step.folder), self._clock()))
            while len(self._sweeps) > _HELD_SWEEPS:
                del self._sweeps[next(iter(self._sweeps))]
        if step.start in sweep.done and not step.hand_over:
            return SweepAck(0)
        loading = self._loading.pop((step.folder, step.start, step.stop), None)
        if loading is None:
            loading = self._load(sweep.plan, step.start, step.stop)
        if step.then is not None and step.then[0] not in sweep.done:
            ahead = (step.folder, *step.then)
            if ahead not in self._loading:
                self._loading[ahead] = self._load(sweep.plan, *step.then)
            while len(self._loading) > _HELD_STEPS:
                for future in self._loading.popitem(last=False)[1]:
                    future.cancel()
        loaded = await asyncio.gather(*(asyncio.wrap_future(future) for future in loading))
        skipped = await self._backend.on_device(self._add, sweep, step, loaded)
        return SweepAck(skipped)

    def close(self) -> None:
        self._loaders.shutdown(wait=True, cancel_futures=True)

    def _load(self, plan: SweepPlan, start: int, stop: int) -> list[Future[Loaded]]:
        return [self._loaders.submit(_load_one, plan, int(index)) for index in plan.indices[start:stop]]

    def _add(self, sweep: _Sweep, step: SweepStep, loaded: Sequence[Loaded]) -> int:
        """Run one step's images and take in what they did. In the device's thread."""
        if step.start in sweep.done:
            if step.hand_over:
                sweep.hand_over(self._clock())
            return 0
        plan = sweep.plan
        pixels = [image for image in loaded if not isinstance(image, str)]
        good = np.array([not isinstance(image, str) for image in loaded])
        for index, image in zip(plan.indices[step.start : step.stop], loaded, strict=True):
            if isinstance(image, str):
                sweep.part.skipped[int(index)] = image
        if pixels:
            # Grouped by input size: only networks that take images at their own size have more than one.
            sizes = [self._backend.network.preprocess.input_size(*image.shape[:2]) for image in pixels]
            places = np.flatnonzero(good)
            for size in dict.fromkeys(sizes):
                rows = [row for row, other in enumerate(sizes) if other == size]
                self._run(sweep, step.start, places[rows], [pixels[row] for row in rows])
        sweep.part.done.add(step.start)
        sweep.done.add(step.start)
        if step.hand_over or self._clock() - sweep.began > _HAND_OVER_EVERY_S:
            sweep.hand_over(self._clock())
        return int(len(loaded) - good.sum())

    def _run(self, sweep: _Sweep, start: int, places: np.ndarray, images: Sequence[np.ndarray]) -> None:
        import torch

        plan = sweep.plan
        positions = start + places
        stop = int(positions[-1]) + 1
        taken: list[tuple[Tally, torch.Tensor, np.ndarray, torch.Tensor | None]] = []

        def take(readout: Readout) -> Callable[[torch.Tensor], None]:
            def read(units: torch.Tensor) -> None:
                n_positions = units.shape[2] * units.shape[3]
                samples = plan.samples(n_positions)
                tally = sweep.tally(readout, units.shape[1], samples, units.device)
                slots = plan.slots(samples)[positions]
                chosen = np.flatnonzero(slots >= 0)
                rows = None
                if len(chosen):
                    where = plan.positions(start, stop, samples, n_positions)[places[chosen]]
                    rows = torch.from_numpy(slots[chosen, None] * samples + np.arange(samples))
                    tally.sample(rows.flatten(), _at(units, chosen, where))
                taken.append((tally, spatial_max(units), chosen, rows))

            return read

        self._backend.forward(images, {readout: take(readout) for readout in plan.readouts})
        finite = torch.stack([torch.isfinite(maxima.sum(1)).cpu() for _, maxima, _, _ in taken]).all(0)
        indices = torch.from_numpy(plan.indices[positions])
        for index in indices[~finite].tolist():
            sweep.part.skipped[index] = "its activations are not finite"
        for tally, maxima, chosen, rows in taken:
            if rows is not None and not finite.all():
                tally.drop_samples(rows[~finite[chosen]].flatten())
            if finite.any():
                tally.add(maxima[finite.to(maxima.device)], indices[finite].to(maxima.device))


def _at(units: torch.Tensor, images: np.ndarray, positions: np.ndarray) -> torch.Tensor:
    """Return (m * S, U) of maps (n, U, h, w): `images` (m,), of each the flat `positions` (m, S)."""
    import torch

    n_positions = units.shape[2] * units.shape[3]
    rows = units.permute(0, 2, 3, 1)
    if rows.is_contiguous():
        flat = torch.from_numpy((images[:, None] * n_positions + positions).ravel()).to(units.device)
        return rows.flatten(0, 2).index_select(0, flat)
    y, x = np.divmod(positions, units.shape[3])
    return rows[torch.from_numpy(images)[:, None], torch.from_numpy(y), torch.from_numpy(x)].flatten(0, 1)


class _Sweep:
    """One sweep on this replica: the part in progress, and every step that was taken in since the start."""

    def __init__(self, plan: SweepPlan, folder: Path, now: float) -> None:
        self.plan = plan
        self.done: set[int] = set()
        self._folder = folder
        self._begin(now)

    def _begin(self, now: float) -> None:
        self.part = Partial(set(), {}, {})
        self.began = now

    def tally(self, readout: Readout, n_units: int, samples: int, device: torch.device) -> Tally:
        if readout not in self.part.tallies:
            n_chosen = min(len(self.plan.indices), self.plan.rows // samples)
            self.part.tallies[readout] = Tally(n_units, self.plan.k, n_chosen * samples, device)
        return self.part.tallies[readout]

    def hand_over(self, now: float) -> None:
        if self.part.done:
            self.part.save(self._folder / f"part-{uuid.uuid4().hex}.npz")
        self._begin(now)


def _load_one(plan: SweepPlan, index: int) -> Loaded:
    try:
        return plan.dataset.load(index).pixels
    except (
        Exception
    ) as error:  # decoders and user's data sets raise anything; the image is named, not the run ended
        return f"{type(error).__name__}: {error}"[:300]
