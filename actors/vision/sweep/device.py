"""The replica's side of a sweep: prefetches images while the device works, and accumulates its part of the
result.

Steps may come in any order and go to any replica. A replica flushes its part to the sweep's folder every half
minute and when a step asks for it, and starts another: parts are never written twice, and a replica that dies
loses the steps since its last flush. The driver runs again the steps that are in no part.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeAlias, TypeVar

import numpy as np

from actors import runtime
from actors.errors import BackendError, MaiaError
from actors.vision.data.loading import load_pixels
from actors.vision.readout.base import ImageDataset
from actors.vision.readout.requests import SweepAck, SweepStep
from actors.vision.readout.tap import spatial_max, spatial_mean
from actors.vision.readout.units import Readout
from actors.vision.settings import VisionSettings
from actors.vision.sweep.accumulators import Draw, ReadoutAccumulator, SweepPart, SweepPlan
from actors.vision.sweep.activations import Reduce, activation_rows
from actors.vision.sweep.compiled import CompileError
from actors.vision.sweep.exemplars import activations_path
from actors.vision.sweep.pass_choice import PassChoice

if TYPE_CHECKING:
    import torch

    from actors.vision.networks.network import Network
    from actors.vision.sweep.compiled import CompiledPass

P = ParamSpec("P")
T = TypeVar("T")

_FLUSH_EVERY_S = 30.0
_PREFETCHED_STEPS = 3
_LOADED_AT_ONCE = 4
"""Images that a thread loads between two messages to the event loop."""
_MAX_SWEEPS = 4
_TOLERANCE, _HALF_TOLERANCE = 1e-3, 5e-2
"""Of a layer's largest value: what a compiled pass may differ by, in single and in half precision."""
_PROBED_IMAGES = 8
"""Images that distinguish a unit that is never finite from an image on which units are not finite."""


@dataclass(frozen=True)
class ReadoutBatch:
    """A batch's maxima of one readout and means over positions, float32 (n, U) each, its sampled activations
    (m * samples, U), and the accumulator that they are for.
    """

    readout: Readout
    accumulator: ReadoutAccumulator
    maxima: torch.Tensor
    means: torch.Tensor
    draw: Draw
    sampled: torch.Tensor | None

    def accumulate(self, indices: torch.Tensor, which: torch.Tensor) -> None:
        """Add the images that `which`, bool (n,), selects, of the data set's `indices`, int64 (n,)."""
        whole = bool(which.all())
        if self.sampled is not None:
            if whole:
                self.accumulator.sample(self.draw.target, self.sampled)
            else:
                kept = which.numpy()[self.draw.images]
                by_image = self.sampled.unflatten(0, (len(kept), self.draw.samples))
                self.accumulator.sample(self.draw.rows(kept), by_image[kept].flatten(0, 1))
        if whole:
            self.accumulator.add(self.maxima, indices)
            self.accumulator.add_map_means(self.means)
        elif which.any():
            rows = which.to(self.maxima.device)
            self.accumulator.add(self.maxima[rows], indices[which])
            self.accumulator.add_map_means(self.means[rows])

    def without_never_finite(self) -> ReadoutBatch:
        """Return the batch with 0 as the maximum of the units that are never finite."""
        never = self.accumulator.never_finite
        means = self.means.masked_fill(never, 0.0)
        return replace(self, maxima=self.maxima.masked_fill(never, 0.0), means=means)

    def reduced(self, reduce: Reduce) -> np.ndarray:
        """Return each unit's maxima or means, float32 (n, U), in the host's memory."""
        values = self.maxima if reduce == "max" else self.means
        return np.asarray(values.float().cpu().numpy())


LoadedPixels: TypeAlias = "torch.Tensor | str"
"""What the network sees of an image, uint8 (1, 3, h, w), or the reason why it cannot be read."""


class ForwardPass(Protocol):
    """The part of the vision backend that a sweep uses."""

    network: Network
    device: torch.device
    forwards: int
    """Images that were run through the network."""

    async def on_device(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in the device's thread, in inference mode; the other methods are called there."""
        ...

    def forward_pixels(
        self, pixels: torch.Tensor, reads: dict[Readout, Callable[[torch.Tensor], None]]
    ) -> None:
        """Run pixels, uint8 (n, 3, h, w), and hand each readout its units' maps (n, U, h, w)."""
        ...

    def input_batch(self, pixels: torch.Tensor) -> torch.Tensor: ...

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
        cores = settings.placement.threads or runtime.available_cores()
        n_loaders = max(2, cores // 2 if backend.device.type == "cpu" else cores)
        self._loaders = ThreadPoolExecutor(n_loaders, thread_name_prefix="sweep-load")
        self._sweeps: dict[str, _Sweep] = {}
        self._loading: dict[tuple[str, int, int], list[Future[list[LoadedPixels]]]] = {}

    async def step(self, step: SweepStep) -> SweepAck | MaiaError:
        """Add one step's images to this replica's part; a step that is in it already costs nothing."""
        try:
            sweep = await self._open(step.folder, step.plan)
        except OSError as error:
            return BackendError(
                f"the plan of the sweep in {step.folder} cannot be read: {error}",
                "Replicas on other machines need the cache folder on a shared file system.",
            )
        if step.start in sweep.done and not step.flush:
            return SweepAck(0, sweep.choice.take_notices())
        loading = self._loading.pop((step.folder, step.start, step.stop), None)
        if loading is None:
            loading = self._load(sweep.plan, step.start, step.stop)
        if step.prefetch is not None and step.prefetch[0] not in sweep.done:
            self._prefetch((step.folder, *step.prefetch), sweep.plan)
        parts = await asyncio.gather(*(asyncio.wrap_future(future) for future in loading))
        loaded = [image for part in parts for image in part]
        skipped = await self._backend.on_device(self._add, sweep, step, loaded)
        return SweepAck(skipped, sweep.choice.take_notices())

    async def _open(self, folder: str, digest: str) -> _Sweep:
        """Return the sweep in `folder`, a new one if its plan was written anew; raises OSError."""
        sweep_id = await asyncio.to_thread(SweepPlan.sweep_id, Path(folder))
        sweep = self._sweeps.get(folder)
        if sweep is None or sweep.sweep_id != sweep_id:
            plan = await asyncio.to_thread(SweepPlan.load, Path(folder), digest)
            sweep = self._sweeps.get(folder)  # another step may have opened it meanwhile
        if sweep is None or sweep.sweep_id != sweep_id:
            choice = await asyncio.to_thread(self._choice, plan, Path(folder))
            sweep = self._sweeps[folder] = _Sweep(plan, Path(folder), sweep_id, self._clock(), choice)
            while len(self._sweeps) > _MAX_SWEEPS:
                del self._sweeps[next(iter(self._sweeps))]
        return sweep

    def _choice(self, plan: SweepPlan, folder: Path) -> PassChoice:
        """Return the choice of passes for the sweep in `folder`. The record is kept beside the folders of the
        network's data sets.
        """
        import torch

        device = self._backend.device
        kind = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()}"
        layers = " ".join(sorted({readout.layer for readout in plan.readouts}))
        facts = f"{device.type} {kind} {torch.__version__} {plan.step} {layers}"
        name = hashlib.blake2b(facts.encode(), digest_size=8).hexdigest()
        sized = self._backend.network.preprocess.size is not None
        return PassChoice(
            self._settings.compile if sized else "never", folder.parent.parent / f"compiled-{name}.json"
        )

    def _prefetch(self, step: tuple[str, int, int], plan: SweepPlan) -> None:
        """Start to load a step's images, and drop the oldest prefetched steps beyond a few."""
        if step not in self._loading:
            self._loading[step] = self._load(plan, *step[1:])
        while len(self._loading) > _PREFETCHED_STEPS:
            for future in self._loading.pop(next(iter(self._loading))):
                future.cancel()

    def close(self) -> None:
        self._loaders.shutdown(wait=True, cancel_futures=True)

    def _load(self, plan: SweepPlan, start: int, stop: int) -> list[Future[list[LoadedPixels]]]:
        indices = plan.indices[start:stop].tolist()
        return [
            self._loaders.submit(self.load, plan.dataset, indices[first : first + _LOADED_AT_ONCE])
            for first in range(0, len(indices), _LOADED_AT_ONCE)
        ]

    def load(self, dataset: ImageDataset, indices: Sequence[int]) -> list[LoadedPixels]:
        """Return images of a data set as the network sees them. In any thread: neither decoding nor resizing
        holds the interpreter's lock.
        """
        preprocess, pinned = self._backend.network.preprocess, self._backend.device.type == "cuda"
        loaded: list[LoadedPixels] = []
        for index in indices:
            try:
                loaded.append(preprocess.pixels([load_pixels(dataset, index)], pinned))
            except Exception as error:  # decoders and people's own data sets raise anything
                loaded.append(f"{type(error).__name__}: {error}"[:300])
        return loaded

    def _add(self, sweep: _Sweep, step: SweepStep, loaded: Sequence[LoadedPixels]) -> int:
        """Run one step's images and accumulate the results; return how many could not be read. In the
        device's thread.
        """
        if step.start in sweep.done:
            if step.flush:
                sweep.flush(self._clock())
            return 0
        plan = sweep.plan
        sweep.choice.decide((len(plan.indices) - step.stop) // step.replicas)
        pixels = [image for image in loaded if not isinstance(image, str)]
        good = np.array([not isinstance(image, str) for image in loaded])
        for index, image in zip(plan.indices[step.start : step.stop], loaded, strict=True):
            if isinstance(image, str):
                sweep.part.skipped[int(index)] = image
        if pixels:
            # Grouped by input size: only networks that take images at their own size have more than one.
            sizes = [image.shape for image in pixels]
            places = np.flatnonzero(good)
            try:
                for size in dict.fromkeys(sizes):
                    rows = [row for row, other in enumerate(sizes) if other == size]
                    self._run(sweep, step.start, places[rows], [pixels[row] for row in rows])
            except BaseException:
                # Some of the step may be accumulated, and would count twice in the same part.
                sweep.discard_part(self._clock())
                raise
        sweep.part.done.add(step.start)
        sweep.done.add(step.start)
        if step.flush or self._clock() - sweep.started_at > _FLUSH_EVERY_S:
            sweep.flush(self._clock())
        return int(len(loaded) - good.sum())

    def _run(self, sweep: _Sweep, start: int, places: np.ndarray, images: Sequence[torch.Tensor]) -> None:
        """Run and accumulate images; on a failure by halves, to skip those on which the network fails."""
        positions = start + places
        try:
            batches = self._measure(sweep, positions, images)
        except MaiaError:
            raise
        except Exception as error:
            # Its traceback would keep what the failed pass had computed, and memory may be what is short.
            failure = error.with_traceback(None)
        else:
            self._accumulate(sweep, positions, *batches)
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
        self, sweep: _Sweep, positions: np.ndarray, images: Sequence[torch.Tensor]
    ) -> tuple[list[ReadoutBatch], torch.Tensor]:
        """Return the images' batch of each readout, and on which images all units are finite, bool (n,) in
        the host's memory. Nothing is accumulated yet.
        """
        plan, started = sweep.plan, self._clock()
        batches = self._pass(sweep, positions, images)
        finite = _finite(batches)  # waits for the device
        if len(images) == plan.step:
            sweep.choice.took(self._clock() - started, len(images))
        if not finite.all():
            if sweep.never_finite is None:
                sweep.never_finite = self._find_never_finite(plan)
                sweep.share_never_finite()
            batches = [batch.without_never_finite() for batch in batches]
            finite = _finite(batches)
        return batches, finite

    def _accumulate(
        self, sweep: _Sweep, positions: np.ndarray, batches: Sequence[ReadoutBatch], finite: torch.Tensor
    ) -> None:
        """Add images to every accumulator, without those on which something is not finite.

        Raises:
            BackendError: If that failed half way: some accumulators may have an image that others lack.
        """
        import torch

        indices = torch.from_numpy(sweep.plan.indices[positions])
        try:
            for batch in batches:
                batch.accumulate(indices, finite)
                sweep.keep(batch, positions)
        except Exception as error:
            self._backend.check_works(error)
            raise BackendError(
                f"a step of the sweep could not be accumulated: {type(error).__name__}: {str(error)[:300]}",
                "Run again to resume.",
            ) from error
        for index in indices[~finite].tolist():
            sweep.part.skipped[index] = "its activations are not finite"

    def _find_never_finite(self, plan: SweepPlan) -> dict[Readout, torch.Tensor]:
        """Return which units are finite on none of a few images at even distances in the data set, bool (U,).

        They are the same on every replica. If no unit is finite on any, images or weights are at fault: then
        no unit is returned.
        """
        import torch

        finite: dict[Readout, torch.Tensor] = {}

        def take(readout: Readout) -> Callable[[torch.Tensor], None]:
            def read(units: torch.Tensor) -> None:
                fine = torch.isfinite(spatial_max(units)).any(0)
                finite[readout] = finite[readout] | fine if readout in finite else fine

            return read

        spread = np.linspace(0, len(plan.indices) - 1, min(_PROBED_IMAGES, len(plan.indices))).astype(int)
        for image in self.load(plan.dataset, plan.indices[spread].tolist()):
            if isinstance(image, str):
                continue
            try:
                self._backend.forward_pixels(image, {readout: take(readout) for readout in plan.readouts})
            except Exception:
                continue  # its own step skips an image on which the network fails
        if not any(bool(fine.any()) for fine in finite.values()):
            return {}
        return {readout: ~fine for readout, fine in finite.items()}

    def _pass(
        self, sweep: _Sweep, positions: np.ndarray, images: Sequence[torch.Tensor]
    ) -> list[ReadoutBatch]:
        """Run images in a compiled pass, if that was chosen and works, else uncompiled."""
        if not sweep.choice.compiled:
            return self._eager(sweep, positions, images)
        try:
            batches = self._compiled(sweep, positions, images)
            if not sweep.choice.checked:
                self._check_values(batches, self._eager(sweep, positions, images))
                sweep.choice.checked = True
        except CompileError as error:
            sweep.choice.failed(error)
            return self._eager(sweep, positions, images)
        return batches

    def _check_values(self, compiled: Sequence[ReadoutBatch], eager: Sequence[ReadoutBatch]) -> None:
        """Raise CompileError if a compiled pass gives other maxima or means than one that is not."""
        import torch

        tolerance = _TOLERANCE if self._settings.dtype == "float32" else _HALF_TOLERANCE
        expected = {batch.readout: batch for batch in eager}
        for batch in compiled:
            wanted = expected[batch.readout]
            allowed = tolerance * float(wanted.maxima.nan_to_num(0, 0, 0).abs().max()) + 1e-6
            if not all(
                torch.allclose(values, known, rtol=0, atol=allowed, equal_nan=True)
                for values, known in ((batch.maxima, wanted.maxima), (batch.means, wanted.means))
            ):
                raise CompileError(f"the compiled network gives other values at {batch.readout.layer!r}.")

    def _eager(
        self, sweep: _Sweep, positions: np.ndarray, images: Sequence[torch.Tensor]
    ) -> list[ReadoutBatch]:
        draws: dict[int, Draw] = {}
        batches: list[ReadoutBatch] = []

        def take(readout: Readout) -> Callable[[torch.Tensor], None]:
            def read(units: torch.Tensor) -> None:
                n_positions = units.shape[2] * units.shape[3]
                if n_positions not in draws:
                    draws[n_positions] = sweep.plan.draw(positions, n_positions)
                draw = draws[n_positions]
                accumulator = sweep.accumulator(readout, units.shape[1], draw.samples, units.device)
                sampled = draw.of(units) if len(draw.images) else None
                means = spatial_mean(units)
                batches.append(ReadoutBatch(readout, accumulator, spatial_max(units), means, draw, sampled))

            return read

        pixels = self._on_device(images)
        self._backend.forward_pixels(pixels, {readout: take(readout) for readout in sweep.plan.readouts})
        return batches

    def _on_device(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return images as one tensor on the device; pinned ones are copied without waiting."""
        import torch

        return torch.cat([image.to(self._backend.device, non_blocking=True) for image in images])

    def _compiled(
        self, sweep: _Sweep, positions: np.ndarray, images: Sequence[torch.Tensor]
    ) -> list[ReadoutBatch]:
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
        results = self._backend.compiled(plan.readouts)(
            self._backend.input_batch(self._on_device([*images, *[images[-1]] * (plan.step - n)])), flat
        )
        self._backend.forwards += n
        batches: list[ReadoutBatch] = []
        for readout, (maxima, means, sampled, n_positions) in zip(plan.readouts, results, strict=True):
            draw = draws[n_positions]
            accumulator = sweep.accumulator(readout, maxima.shape[1], draw.samples, maxima.device)
            if len(draw.images) < plan.step:
                by_image = sampled.unflatten(0, (plan.step, draw.samples))
                sampled = by_image[torch.from_numpy(draw.images)].flatten(0, 1)
            taken = sampled if len(draw.images) else None
            batches.append(ReadoutBatch(readout, accumulator, maxima[:n], means[:n], draw, taken))
        return batches


def _finite(batches: Sequence[ReadoutBatch]) -> torch.Tensor:
    """Return on which images all units are finite, bool (n,), in the host's memory."""
    import torch

    return torch.isfinite(torch.cat([batch.maxima for batch in batches], dim=1).sum(1)).cpu()


class _Sweep:
    """One sweep on this replica: the part in progress, and the steps accumulated since the start."""

    def __init__(self, plan: SweepPlan, folder: Path, sweep_id: str, now: float, choice: PassChoice) -> None:
        self.plan, self.sweep_id, self.choice = plan, sweep_id, choice
        self.done: set[int] = set()
        self.never_finite: dict[Readout, torch.Tensor] | None = None
        """Units that are never finite, bool (U,); None until a first image is not finite."""
        self._folder = folder
        self._kept: dict[Readout, np.memmap] = {}
        self._start_part(now)

    def keep(self, batch: ReadoutBatch, positions: np.ndarray) -> None:
        """Write a batch's rows into its readout's file of activations, if the plan keeps them."""
        if not self.plan.keep:
            return
        values = batch.reduced(self.plan.keep)
        if batch.readout not in self._kept:
            path = activations_path(self._folder, batch.readout)
            self._kept[batch.readout] = activation_rows(path, len(self.plan.indices), values.shape[1])
        self._kept[batch.readout][positions] = values

    def _start_part(self, now: float) -> None:
        self.part = SweepPart(set(), {}, {})
        self.started_at = now

    def accumulator(
        self, readout: Readout, n_units: int, samples: int, device: torch.device
    ) -> ReadoutAccumulator:
        """Return the part's accumulator of a readout, an empty one at first."""
        if readout not in self.part.accumulators:
            n_chosen = min(len(self.plan.indices), self.plan.rows // samples)
            self.part.accumulators[readout] = ReadoutAccumulator(
                n_units, self.plan.k, n_chosen * samples, device
            )
            self.share_never_finite()
        return self.part.accumulators[readout]

    def share_never_finite(self) -> None:
        """Set `never_finite` of the part's accumulators."""
        for readout, accumulator in self.part.accumulators.items():
            if self.never_finite and readout in self.never_finite:
                accumulator.never_finite = self.never_finite[readout]

    def discard_part(self, now: float) -> None:
        """Drop the part in progress; its steps will be run again."""
        self.done -= self.part.done
        self._start_part(now)

    def flush(self, now: float) -> None:
        """Write the part in progress to the sweep's folder and start another."""
        if self.part.done:
            for rows in self._kept.values():
                rows.flush()
            self.part.save(self._folder / f"part-{uuid.uuid4().hex}.npz")
        self._start_part(now)
