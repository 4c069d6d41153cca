"""The replica's side of a sweep: loads a step's images while the device works, and keeps its part of the
result.

Steps may come in any order and go to any replica. A replica writes its part to the sweep's folder when half a
minute has passed or when it is told to, and begins another: parts are never written twice, and a replica that
dies costs the steps since its last. Whoever merges the parts runs again what is in none of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar

import numpy as np

from actors import runtime
from actors.errors import BackendError, MaiaError
from actors.vision.readout.requests import SweepAck, SweepStep
from actors.vision.readout.taps import spatial_max
from actors.vision.readout.units import Readout
from actors.vision.settings import VisionSettings
from actors.vision.sweep.accumulators import Draw, Partial, SweepPlan, Tally

if TYPE_CHECKING:
    import torch

    from actors.vision.networks.network import Network
    from actors.vision.sweep.compiled import CompiledPass

_log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

_HAND_OVER_EVERY_S = 30.0
_HELD_STEPS = 3
_HELD_SWEEPS = 4
_LOOKED_AT = 8
"""Images that tell a unit that is never finite from an image on which units are not."""


@dataclass(frozen=True)
class Taken:
    """A readout's tally, and what some images are to add to it: maxima float32 (n, U), and samples (m *
    samples, U) of those that are drawn.
    """

    tally: Tally
    maxima: torch.Tensor
    draw: Draw
    sampled: torch.Tensor | None

    def count(self, indices: torch.Tensor, which: torch.Tensor) -> None:
        """Add the images `which`, bool (n,), of the data set's `indices`, int64 (n,)."""
        whole = bool(which.all())
        if self.sampled is not None:
            if whole:
                self.tally.sample(self.draw.target, self.sampled)
            else:
                kept = which.numpy()[self.draw.images]
                by_image = self.sampled.unflatten(0, (len(kept), self.draw.samples))
                self.tally.sample(self.draw.rows(kept), by_image[kept].flatten(0, 1))
        if whole:
            self.tally.add(self.maxima, indices)
        elif which.any():
            self.tally.add(self.maxima[which.to(self.maxima.device)], indices[which])


Loaded = np.ndarray | str
"""Pixels, or why there are none."""


class ForwardPass(Protocol):
    """What a sweep needs of the backend that holds the network."""

    network: Network
    device: torch.device
    forwards: int
    """Images that have passed the network."""

    async def on_device(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in the device's thread, in inference mode; the other methods are called there."""
        ...

    def forward(
        self, images: Sequence[np.ndarray], reads: dict[Readout, Callable[[torch.Tensor], None]]
    ) -> None:
        """Run images, uint8 (H, W, 3), and hand each readout its units' maps (n, U, h, w)."""
        ...

    def batch(self, images: Sequence[np.ndarray]) -> torch.Tensor: ...

    def check_works(self, error: Exception) -> None: ...

    def compiled(self, readouts: Sequence[Readout]) -> CompiledPass: ...

    def n_positions(self, readout: Readout) -> int: ...


class SweepDevice:
    """Sweeps in progress on one device. Torch runs in the backend's thread, images are loaded in others."""

    def __init__(
        self,
        backend: ForwardPass,
        settings: VisionSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._settings = settings
        self._clock = clock
        n_loaders = max(2, (settings.placement.threads or runtime.available_cores()) // 2)
        self._loaders = ThreadPoolExecutor(n_loaders, thread_name_prefix="sweep-load")
        self._sweeps: dict[str, _Sweep] = {}
        self._loading: OrderedDict[tuple[str, int, int], list[Future[Loaded]]] = OrderedDict()

    async def step(self, step: SweepStep) -> SweepAck | MaiaError:
        """Take one step's images into this replica's part; a step that is in it already costs nothing."""
        folder = Path(step.folder)
        sweep = self._sweeps.get(step.folder)
        try:
            begun = await asyncio.to_thread(SweepPlan.begun, folder)
            plan = (
                await asyncio.to_thread(SweepPlan.load, folder)
                if sweep is None or sweep.begun != begun
                else None
            )
        except OSError as error:
            return BackendError(
                f"the plan of the sweep in {step.folder} cannot be read: {error}",
                "Replicas on other machines need the cache folder on a shared file system.",
            )
        sweep = self._sweeps.get(step.folder)  # others may have come while the disk was read
        if sweep is None or sweep.begun != begun:
            assert plan is not None
            sweep = self._sweeps[step.folder] = _Sweep(plan, folder, begun, self._clock())
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
            try:
                for size in dict.fromkeys(sizes):
                    rows = [row for row, other in enumerate(sizes) if other == size]
                    self._run(sweep, step.start, places[rows], [pixels[row] for row in rows])
            except BaseException:
                # Some of the step may be counted: taken into the same part again, it would count twice.
                sweep.give_up(self._clock())
                raise
        sweep.part.done.add(step.start)
        sweep.done.add(step.start)
        if step.hand_over or self._clock() - sweep.began > _HAND_OVER_EVERY_S:
            sweep.hand_over(self._clock())
        return int(len(loaded) - good.sum())

    def _run(self, sweep: _Sweep, start: int, places: np.ndarray, images: Sequence[np.ndarray]) -> None:
        """Take in images, and leave out those on which the network fails: tried together, in halves, alone."""
        positions = start + places
        try:
            taken = self._measure(sweep, positions, images)
        except MaiaError:
            raise
        except Exception as error:
            # Its traceback would keep what the failed pass had computed, and memory may be what is short.
            failure = error.with_traceback(None)
        else:
            self._count(sweep, positions, *taken)
            return
        if len(images) > 1:
            half = len(images) // 2
            self._run(sweep, start, places[:half], images[:half])
            self._run(sweep, start, places[half:], images[half:])
            return
        self._backend.check_works(failure)
        index = int(sweep.plan.indices[positions[0]])
        sweep.part.skipped[index] = f"the network fails on it: {type(failure).__name__}: {failure}"[:300]

    def _measure(
        self, sweep: _Sweep, positions: np.ndarray, images: Sequence[np.ndarray]
    ) -> tuple[list[Taken], torch.Tensor]:
        """Return what images do to each readout, and on which of them all units are finite, bool (n,) in the
        host's memory.

        Nothing is counted yet.
        """
        plan = sweep.plan
        run = self._eager
        if self._settings.compile and self._backend.network.preprocess.size is not None:
            run = self._compiled
        taken = run(sweep, positions, images)
        finite = _finite(taken)
        if not finite.all():
            if sweep.broken is None:
                sweep.broken = self._broken(plan)
                sweep.mark()
            taken = [replace(each, maxima=each.maxima.masked_fill(each.tally.broken, 0.0)) for each in taken]
            finite = _finite(taken)
        return taken, finite

    def _count(
        self, sweep: _Sweep, positions: np.ndarray, taken: Sequence[Taken], finite: torch.Tensor
    ) -> None:
        """Add images to every tally, without those on which something is not finite.

        Raises:
            BackendError: If that failed half way: some tallies may have an image that others lack.
        """
        import torch

        indices = torch.from_numpy(sweep.plan.indices[positions])
        try:
            for each in taken:
                each.count(indices, finite)
        except Exception as error:
            self._backend.check_works(error)
            raise BackendError(
                f"what a step of the sweep found could not be counted: {type(error).__name__}: {str(error)[:300]}",
                "Run again to go on from what is done.",
            ) from error
        for index in indices[~finite].tolist():
            sweep.part.skipped[index] = "its activations are not finite"

    def _broken(self, plan: SweepPlan) -> dict[Readout, torch.Tensor]:
        """Return which units are finite on none of a few images spread over the data set, bool (U,).

        The same for every replica. Where nothing at all is finite, images or weights are to blame: then none
        is.
        """
        import torch

        finite: dict[Readout, torch.Tensor] = {}

        def take(readout: Readout) -> Callable[[torch.Tensor], None]:
            def read(units: torch.Tensor) -> None:
                fine = torch.isfinite(spatial_max(units)).any(0)
                finite[readout] = finite[readout] | fine if readout in finite else fine

            return read

        spread = np.linspace(0, len(plan.indices) - 1, min(_LOOKED_AT, len(plan.indices))).astype(int)
        for index in plan.indices[spread]:
            image = _load_one(plan, int(index))
            if isinstance(image, str):
                continue
            try:
                self._backend.forward([image], {readout: take(readout) for readout in plan.readouts})
            except Exception:
                continue  # an image on which the network fails tells nothing, and is left out in its own step
        if not any(bool(fine.any()) for fine in finite.values()):
            return {}
        return {readout: ~fine for readout, fine in finite.items()}

    def _eager(self, sweep: _Sweep, positions: np.ndarray, images: Sequence[np.ndarray]) -> list[Taken]:
        draws: dict[int, Draw] = {}
        taken: list[Taken] = []

        def take(readout: Readout) -> Callable[[torch.Tensor], None]:
            def read(units: torch.Tensor) -> None:
                n_positions = units.shape[2] * units.shape[3]
                if n_positions not in draws:
                    draws[n_positions] = sweep.plan.draw(positions, n_positions)
                draw = draws[n_positions]
                tally = sweep.tally(readout, units.shape[1], draw.samples, units.device)
                sampled = draw.of(units) if len(draw.images) else None
                taken.append(Taken(tally, spatial_max(units), draw, sampled))

            return read

        self._backend.forward(images, {readout: take(readout) for readout in sweep.plan.readouts})
        return taken

    def _compiled(self, sweep: _Sweep, positions: np.ndarray, images: Sequence[np.ndarray]) -> list[Taken]:
        """Do the same in one graph. It was compiled for whole steps, so a short one is filled up."""
        import torch

        plan, n = sweep.plan, len(images)
        counts = {self._backend.n_positions(readout) for readout in plan.readouts}
        # A readout may bring its layer's positions down to one, as a class's probability does.
        draws = {places: plan.draw(positions, places) for places in {1, *counts}}
        flat = {}
        for places, draw in draws.items():
            everywhere = np.zeros((plan.step, draw.samples), np.int64)
            everywhere[draw.images] = draw.positions
            everywhere += np.arange(plan.step)[:, None] * places
            flat[places] = torch.from_numpy(everywhere.ravel()).to(self._backend.device)
        found = self._backend.compiled(plan.readouts)(
            self._backend.batch([*images, *[images[-1]] * (plan.step - n)]), flat
        )
        self._backend.forwards += n
        taken: list[Taken] = []
        for readout, (maxima, sampled, n_positions) in zip(plan.readouts, found, strict=True):
            draw = draws[n_positions]
            tally = sweep.tally(readout, maxima.shape[1], draw.samples, maxima.device)
            if len(draw.images) < plan.step:
                by_image = sampled.unflatten(0, (plan.step, draw.samples))
                sampled = by_image[torch.from_numpy(draw.images)].flatten(0, 1)
            taken.append(Taken(tally, maxima[:n], draw, sampled if len(draw.images) else None))
        return taken


def _finite(taken: Sequence[Taken]) -> torch.Tensor:
    """Return on which images all units are finite, bool (n,), in the host's memory."""
    import torch

    return torch.isfinite(torch.cat([each.maxima for each in taken], dim=1).sum(1)).cpu()


class _Sweep:
    """One sweep on this replica: the part in progress, and every step that was taken in since the start."""

    def __init__(self, plan: SweepPlan, folder: Path, begun: str, now: float) -> None:
        self.plan, self.begun = plan, begun
        self.done: set[int] = set()
        self.broken: dict[Readout, torch.Tensor] | None = None
        """Units that are never finite, once an image was not; None before."""
        self._folder = folder
        self._begin(now)

    def _begin(self, now: float) -> None:
        self.part = Partial(set(), {}, {})
        self.began = now

    def tally(self, readout: Readout, n_units: int, samples: int, device: torch.device) -> Tally:
        if readout not in self.part.tallies:
            n_chosen = min(len(self.plan.indices), self.plan.rows // samples)
            self.part.tallies[readout] = Tally(n_units, self.plan.k, n_chosen * samples, device)
            self.mark()
        return self.part.tallies[readout]

    def mark(self) -> None:
        """Tell the part's tallies which units are broken."""
        for readout, tally in self.part.tallies.items():
            if self.broken and readout in self.broken:
                tally.broken = self.broken[readout]

    def give_up(self, now: float) -> None:
        """Forget the part in progress and that its steps were done: they are run again."""
        self.done -= self.part.done
        self._begin(now)

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
