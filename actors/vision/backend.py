"""The network under study as a backend: batches of images in, maxima and small maps out.

The device belongs to one thread, in which all torch runs; the event loop only waits for it. What a pass
computes anyway is kept in the stimulus bank: the maxima of all units of every readout that was requested.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from actors import hub, runtime, vision_libraries
from actors.errors import BackendError, DeviceLostError, MaiaError, UsageError
from actors.images import Image, Provenance
from actors.packaged import head_digest
from actors.serving.backend import Backend
from actors.serving.bank import BankStatistics, StimulusBank
from actors.serving.blocking import DeviceThread
from actors.vision.gradients.attribution import Attribution, AttributionMethod, of_output, of_pixels
from actors.vision.gradients.differentiable import DifferentiableNetwork
from actors.vision.gradients.head_map import of_attention, where_it_looks
from actors.vision.gradients.visualization import Optimization, VisualizationSettings
from actors.vision.layer_readers import LayerReaders
from actors.vision.networks.network import Network, convert
from actors.vision.networks.preprocess import View
from actors.vision.pass_plan import PassRow, asked_maps, copy_maps, edits_of, plan_pass
from actors.vision.readout import requests
from actors.vision.readout.base import LayerInfo
from actors.vision.readout.edits import RowEdit
from actors.vision.readout.maps import MapCache
from actors.vision.readout.requests import (
    Ask,
    NetworkDescription,
    ReadoutActivations,
    SweepAck,
    SweepStep,
    VisionRequest,
    VisionResult,
)
from actors.vision.readout.tap import spatial_max
from actors.vision.readout.taps import Fork, TappedModule
from actors.vision.readout.units import OUTPUT, Readout, UnitReader
from actors.vision.settings import VisionSettings
from actors.vision.sweep.exemplars import finish_sweep

if TYPE_CHECKING:
    import torch

    from actors.vision.sweep.compiled import CompiledPass
    from actors.vision.sweep.device import SweepDevice

P = ParamSpec("P")
T = TypeVar("T")

MapsByRow = Mapping[int, np.ndarray | Mapping[int, np.ndarray]]
"""Maps by row of a batch: of all units (U, h, w), or of some (h, w) by unit."""

_TIMEOUT_S = 3600.0
"""Time limit of a batch, or of compiling a pass, after which the device counts as hanging."""
_ANY_SIZE = (224, 224)
"""Size of the recorded input of a network that takes images at their own size."""
_STEPS_AT_ONCE = 4
"""Steps of a visualization without a pause."""
_TIE = 1e-6
"""Less than the depths of two layers differ by."""
_RECENT_READOUTS = 32
"""Recently requested readouts, which every pass reads if it is deep enough: they are requested again."""


@dataclass(frozen=True, slots=True)
class VisionStatistics:
    """The number of images that were run through the network, and the counts of its stimulus bank."""

    forwards: int
    bank: BankStatistics


class VisionBackend(Backend[Any, Any]):
    """One network on one device; a `Backend` for `VisionRequest` and `SweepStep`."""

    slots = 1
    controls = frozenset(
        {
            "describe",
            "layers",
            "n_units",
            "note",
            "statistics",
            "finish_sweep",
            "visualize",
            "attribute",
            "looks",
        }
    )

    def __init__(self, network: str | Network, settings: VisionSettings | None = None) -> None:
        """Load the network onto the device and record its layers.

        Raises:
            UsageError: If the network, its weights or the device cannot be had.
        """
        self._settings = settings = settings or VisionSettings()
        runtime.cpu_preamble(settings.placement.threads)
        vision_libraries.import_torchvision()
        import torch

        from actors.vision.networks.zoo import load_network

        runtime.set_threads(settings.placement.threads)
        self.device = runtime.pick_device(settings.device)
        self._dtype: torch.dtype = getattr(torch, settings.dtype)
        if isinstance(network, str):
            network = load_network(
                network,
                pretrained=settings.pretrained,
                checkpoint=settings.checkpoint,
                class_names=settings.class_names,
            )
        self.name = network.name
        self.max_batch = settings.batch
        self._thread = DeviceThread("vision-device", timeout_s=_TIMEOUT_S)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="vision-bank")
        self._channels_last = True
        network, self._tapped = self._recorded(network)
        with torch.inference_mode():
            self._batch_invariant = self._tapped.is_batch_invariant()
        if (output := self._tapped.taps.get(OUTPUT)) is not None:
            network = replace(network, scores=output.info.scores)
            _check_names(network, output.info)
        self.network = network
        self.fingerprint = network.fingerprint(settings.dtype)
        self._head = head_digest(network.module)
        self.readers = LayerReaders(network, self._tapped)
        self._recent: dict[Readout, None] = {}
        """Readouts in the order of their last use."""
        self.bank = StimulusBank(self.fingerprint, settings.bank_memory_mb << 20, settings.bank_folder)
        self._maps = MapCache(settings.map_memory_mb << 20)
        self._sweeps: SweepDevice | None = None
        self._compiled: tuple[tuple[Readout, ...], CompiledPass] | None = None
        self.forwards = 0
        """Images that were run through the network."""

    def _recorded(self, network: Network) -> tuple[Network, TappedModule]:
        """Return the network with its layers recorded on the device, in a memory format that works.

        A network that fails on colors and runs on luminance gets that.

        Raises:
            BackendError: If it fails on its input.
            UsageError: If it takes images of other channels than its preprocessing gives.
        """
        given, failures = network.preprocess.channels, []
        gray = [replace(network, preprocess=network.preprocess.gray())] if given == "RGB" else []
        for tried in (network, *gray):
            for channels_last in (True, False):
                # Code that flattens maps with `view` needs the default memory format.
                self._channels_last = channels_last
                try:
                    return tried, self._record(tried)
                except BackendError as error:
                    failures.append(error)
        failure = failures[1]
        size = ", ".join(map(str, (2, len(given), *(network.preprocess.size or _ANY_SIZE))))
        refused = re.search(rf"expected input\[{size}\] to have (\d+) channels", failure.message)
        if refused is None:
            raise failure
        raise UsageError(
            f"{network.name} takes images of {refused[1]} channels, and is given {len(given)} ({given}).",
            'Name each channel in its factory, as in wrap(module, channels="RGB0", mean=..., std=...): R, G, '
            "B, L (luminance), or 0 for one that images do not have.",
        ) from failure

    def _record(self, network: Network) -> TappedModule:
        import torch

        module = convert(network.module, self.device, self._dtype, channels_last=self._channels_last)
        pixels = torch.zeros(
            (2, *(network.preprocess.size or _ANY_SIZE), 3), dtype=torch.uint8, device=self.device
        )
        # Made as batches are, for their layout in memory.
        example = network.preprocess.normalized(
            pixels.permute(0, 3, 1, 2), self._dtype, channels_last=self._channels_last
        ).zero_()
        return TappedModule(module, example, network.feed, network.prefix, network.scores)

    # -- requests, for the coalescer ------------------------------------------------------------------

    def key(self, request: VisionRequest | SweepStep) -> Hashable | None:
        if isinstance(request, SweepStep):
            return request.folder, request.start
        return request.image.id, request.edits

    def merge(self, first: VisionRequest, second: VisionRequest) -> VisionRequest:
        return first if isinstance(first, SweepStep) else requests.merge(first, second)

    def covers(self, running: VisionRequest, wanted: VisionRequest) -> bool:
        return isinstance(running, SweepStep) or requests.covers(running, wanted)

    def bucket(self, request: VisionRequest | SweepStep) -> Hashable:
        if isinstance(request, SweepStep):
            # A step is a full batch already.
            return request.folder, request.start
        return self.network.preprocess.input_size(*request.image.size)

    def rank(self, request: VisionRequest | SweepStep) -> float:
        if isinstance(request, SweepStep):
            return float(request.start)
        layers = [self.readers.layer(ask.readout.layer) for ask in request.asks]
        edited = [self.readers.layer(edit.readout.layer) for edit in request.edits]
        try:
            for layer in (*layers, *edited):
                self._tapped.tap(layer)
        except UsageError:
            return 0.0
        # Among equals by the first edit: rows of a batch share the pass up to the first of all their edits.
        first = min(map(self._tapped.depth, edited), default=0.0)
        return max(map(self._tapped.depth, layers)) + _TIE * first

    def lookup(self, request: VisionRequest | SweepStep) -> VisionResult | None:
        if isinstance(request, SweepStep) or request.edits:
            return None
        readings = []
        for ask in request.asks:
            reading = self._known(request.image.id, ask)
            if reading is None or not _finite(ask, reading):
                return None
            readings.append(reading)
        return requests.narrow(request, VisionResult(tuple(readings), self._view(request)))

    def answer(self, request: Any, result: Any) -> Any:
        """Return the part of a result that `request` needs.

        Raises:
            BackendError: If a map is requested of a unit that is not finite on the image. Activations alone
                may be of many units, and are returned as they are.
        """
        if isinstance(request, SweepStep):
            return result
        for ask in request.asks:
            if not _finite(ask, result.reading(ask.readout)):
                raise BackendError(
                    f"{self.name} gives activations that are not finite at {ask.readout.layer!r} on image "
                    f"{request.image.id[:8]}.",
                    "Use float32, and check the network's weights.",
                )
        return requests.narrow(request, result)

    async def run(
        self, batch: Sequence[VisionRequest | SweepStep]
    ) -> list[VisionResult | SweepAck | MaiaError]:
        if isinstance(batch[0], SweepStep):
            return [await self._sweep_device().step(step) for step in batch if isinstance(step, SweepStep)]
        measures = [request for request in batch if isinstance(request, VisionRequest)]
        results = await self.on_device(self._measure, measures)
        if self.bank.wants_flush:
            self._writer.submit(self._share_bank)
        return list(results)

    # -- controls, called by name ---------------------------------------------------------------------

    def describe(self) -> NetworkDescription:
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "head": self._head,
            "weights": self.network.weights,
            "device": str(self.device),
            "dtype": self._settings.dtype,
            "preprocess": self.network.preprocess.facts(),
            "input_size": self.network.preprocess.size,
            "aliases": dict(self.network.aliases),
            "unreadable": dict(self._tapped.unreadable),
            "class_names": list(self.network.class_names),
            "layers": self.layers(),
            "batch": self.max_batch,
            "batch_invariant": self._batch_invariant,
        }

    def layers(self) -> list[LayerInfo]:
        return self._tapped.layers()

    def n_units(self, readout: Readout) -> int:
        """Return how many units a readout has.

        Raises:
            UsageError: If its kind, layer or file does not exist or fit.
        """
        return self.readers.reader(readout).n_units

    def note(self, image_id: str, provenance: Provenance) -> None:
        self.bank.note(image_id, provenance)

    def statistics(self) -> VisionStatistics:
        return VisionStatistics(self.forwards, self.bank.statistics())

    async def finish_sweep(self, folder: str, plan: str, store: str) -> int:
        """Merge the parts of a sweep that replicas wrote to `folder` into exemplars in the folder `store`.

        `plan` is the digest of the sweep's plan. Return how many images counted.
        """
        return await asyncio.to_thread(finish_sweep, Path(folder), plan, Path(store))

    async def visualize(self, readout: Readout, index: int, settings: VisualizationSettings) -> np.ndarray:
        """Return an image, uint8 (H, W, 3) of the input's size, optimized to drive a unit.

        Raises:
            UsageError: If there is no such unit.
            BackendError: If no gradient passes through the network.
        """
        self.readers.check(Ask(readout, (index,)))
        size = self.network.preprocess.size or _ANY_SIZE
        work = await self.on_device(
            Optimization, self._differentiable(), readout, index, size, settings, self.device
        )
        for start in range(0, settings.steps, _STEPS_AT_ONCE):  # batches of others run in between
            await self.on_device(work.advance, min(_STEPS_AT_ONCE, settings.steps - start))
        return await self.on_device(work.pixels)

    async def attribute(
        self, image: Image, readout: Readout, index: int, of: AttributionMethod | int
    ) -> Attribution:
        """Return what a unit's largest value comes from by a method, where its head looks ("attention"), or
        what it contributes to output `of`.

        Raises:
            UsageError: If there is no such unit or output, or the unit has no effect on outputs.
            BackendError: If no gradient passes through the network.
            MissingDependencyError: If captum is not installed.
        """
        self.readers.check(Ask(readout, (index,)))

        def work() -> Attribution:
            given = self.network.preprocess.pixels([image.pixels])
            seen = given[0].permute(1, 2, 0).numpy().copy()
            network, pixels = self._differentiable(), given.to(self.device).float()
            if isinstance(of, int):
                return Attribution(*of_output(network, pixels, (readout, index), of), 0.0, seen)
            if of == "attention":
                return Attribution(*of_attention(network, pixels, (readout, index)), 0.0, seen)
            return Attribution(*of_pixels(network, pixels, (readout, index), of), seen)

        return await self.on_device(work)

    async def looks(self, readout: Readout, index: int, images: Sequence[Image]) -> list[np.ndarray | None]:
        """Return the weights, float32 (h, w), that the head of a unit gives to the patches of each image, in
        order; None of attention without such weights.

        Raises:
            UsageError: If there is no such unit, or it is read at no head.
        """
        self.readers.check(Ask(readout, (index,)))
        found: list[np.ndarray | None] = []
        for image in images:  # one at a time: batches of others run in between, and tables are large
            looks = self._maps.get(("looks", readout), image.id, index)
            if looks is None:
                looks = await self.on_device(self._looks, readout, index, image)
            if looks is None:
                return [None] * len(images)
            self._maps.put(("looks", readout), image.id, {index: looks})
            found.append(looks)
        return found

    def _looks(self, readout: Readout, index: int, image: Image) -> np.ndarray | None:
        pixels = self.network.preprocess.pixels([image.pixels]).to(self.device).float()
        return where_it_looks(self._differentiable(), pixels, (readout, index))[0]

    def _differentiable(self) -> DifferentiableNetwork:
        return DifferentiableNetwork(
            self.name,
            self._tapped,
            self.network.preprocess,
            self.readers.layer,
            self._dtype,
            self._channels_last,
        )

    async def close(self) -> None:
        if self._sweeps is not None:
            self._sweeps.close()
        await asyncio.to_thread(self._shut_down)

    def _share_bank(self) -> None:
        """Write new entries to disk, and read those of other replicas. In the bank's thread."""
        self.bank.flush()
        self.bank.refresh()

    def _shut_down(self) -> None:
        self._thread.close()
        self._writer.submit(self.bank.flush)
        self._writer.shutdown(wait=True)

    # -- the device thread ----------------------------------------------------------------------------

    async def on_device(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in the device's thread, in inference mode."""
        return await self._thread.run(work, *args, **kwargs)

    def forward(
        self,
        images: Sequence[np.ndarray],
        reads: dict[Readout, Callable[[torch.Tensor], None]],
        wanted: Sequence[str] | None = None,
        edits: Sequence[RowEdit] = (),
        fork: Fork | None = None,
    ) -> None:
        """Run images, uint8 (H, W, 3), as `forward_pixels` does."""
        self.forward_pixels(self.network.preprocess.pixels(images), reads, wanted, edits, fork)

    def forward_pixels(
        self,
        pixels: torch.Tensor,
        reads: dict[Readout, Callable[[torch.Tensor], None]],
        wanted: Sequence[str] | None = None,
        edits: Sequence[RowEdit] = (),
        fork: Fork | None = None,
    ) -> None:
        """Run pixels, uint8 (n, 3, h, w) of the input's size, once and hand each readout its units' maps
        (n, U, h, w). In the device's thread.

        `wanted`, `edits` and `fork` are those of `TappedModule.run`.
        """
        by_layer: dict[str, list[tuple[UnitReader, Callable[[torch.Tensor], None]]]] = {}
        for readout, take in reads.items():
            by_layer.setdefault(self.readers.layer(readout.layer), []).append(
                (self.readers.reader(readout), take)
            )
        self.forwards += len(pixels)
        layer_reads = {layer: partial(_read_units, takes) for layer, takes in by_layer.items()}
        self._tapped.run(self.input_batch(pixels), layer_reads, wanted, edits, fork)

    def batch(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Return images, uint8 (H, W, 3), as the network's input batch."""
        return self.input_batch(self.network.preprocess.pixels(images))

    def input_batch(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return pixels, uint8 (n, 3, h, w) of the input's size, as the network's input batch."""
        on_device = pixels.to(self.device, non_blocking=True)
        return self.network.preprocess.normalized(on_device, self._dtype, channels_last=self._channels_last)

    def check_works(self, error: Exception) -> None:
        """Raise DeviceLostError if, after `error`, the network also fails on the input that it was recorded
        with: the device is lost, and no image is at fault. In the device's thread.
        """
        if not self._tapped.still_runs():
            raise DeviceLostError(
                f"{self.name} fails on every image: {type(error).__name__}: {str(error)[:300]}",
                f"Check that {self.device} is available and has free memory.",
            ) from error

    def compiled(self, readouts: Sequence[Readout]) -> CompiledPass:
        """Return a pass that reads these as one graph; the first call compiles it. In the device's thread."""
        from actors.vision.sweep.compiled import CompiledPass

        if self._compiled is None or self._compiled[0] != tuple(readouts):
            readers = [
                (self.readers.layer(readout.layer), self.readers.reader(readout)) for readout in readouts
            ]
            self._compiled = tuple(readouts), CompiledPass(self._tapped, readers)
        return self._compiled[1]

    def n_positions(self, readout: Readout) -> int:
        """Return how many positions a readout's layer has."""
        return self.readers.n_positions(readout)

    def _measure(self, batch: Sequence[VisionRequest]) -> list[VisionResult | MaiaError]:
        outcomes: dict[int, VisionResult | MaiaError] = {}
        rows: list[PassRow] = []
        for place, request in enumerate(batch):
            try:
                row = self._row(place, request)
            except UsageError as error:
                outcomes[place] = error
                continue
            if row.wanted:
                rows.append(row)
            else:
                outcomes[place] = VisionResult(tuple(row.known.values()), self._view(request))
        # Deepest first: the others can then leave the pass early.
        rows.sort(key=lambda row: -self.readers.call_index(row.wanted))
        try:
            results = self._pass(rows) if rows else []
        except Exception as error:
            # Its traceback would keep what the failed pass had computed, and memory may be what is short.
            failure = error.with_traceback(None)
        else:
            outcomes |= {row.place: result for row, result in zip(rows, results, strict=True)}
            return [outcomes[place] for place in range(len(batch))]
        return self._retry_failed(failure, batch)

    def _retry_failed(
        self, failure: Exception, batch: Sequence[VisionRequest]
    ) -> list[VisionResult | MaiaError]:
        """Return the outcomes of a batch that failed: its halves are run again, so that only the image that
        failed is reported.
        """
        short = hub.is_out_of_memory(failure)
        if len(batch) > 1:
            half = (len(batch) + 1) // 2
            most = self.max_batch
            if short:
                self.max_batch = half
            results = [*self._measure(batch[:half]), *self._measure(batch[half:])]
            if any(isinstance(result, hub.OutOfMemoryError) for result in results):
                self.max_batch = most  # it was one image that is too large, not the batch
            return results
        if isinstance(failure, UsageError):
            return [failure]  # an edit that does not fit the image
        asked = [ask.readout for ask in batch[0].asks]
        if self._recent.keys() - set(asked):
            # A readout of an earlier request may be what fails.
            self._recent = dict.fromkeys(asked)
            return self._measure(batch)
        self.check_works(failure)
        image = batch[0].image
        which = f"image {image.id[:8]} of {image.size[0]}x{image.size[1]} pixels"
        if short:
            return [
                hub.OutOfMemoryError(
                    f"{self.name} runs out of memory on {which} alone.",
                    "Use a smaller network, float16 or another device.",
                )
            ]
        return [BackendError(f"{self.name} fails on {which}: {type(failure).__name__}: {str(failure)[:300]}")]

    def _row(self, place: int, request: VisionRequest) -> PassRow:
        for ask in request.asks:
            self.readers.check(ask)
        self.readers.check_edits(request)
        known = {}
        layers = []
        for ask in request.asks:
            reading = None if request.edits else self._known(request.image.id, ask)
            if reading is None:
                layers.append(self.readers.layer(ask.readout.layer))
            else:
                known[ask.readout] = reading
        return PassRow(place, request, known, self._tapped.deepest(layers) if layers else "")

    def _pass(self, rows: Sequence[PassRow]) -> list[VisionResult]:
        self._note_recent(rows)
        plan = plan_pass(rows, self.readers)

        def at(row: PassRow, readout: Readout) -> int:
            return plan.at(row, self.readers.depth(readout))

        asked = asked_maps(rows, at)
        image_hw = self.network.preprocess.input_size(*rows[0].request.image.size)
        maxima: dict[Readout, np.ndarray] = {}
        maps: dict[Readout, MapsByRow] = {}

        def take(readout: Readout) -> Callable[[torch.Tensor], None]:
            def read(units: torch.Tensor) -> None:
                maximum = spatial_max(units)
                maxima[readout] = maximum.cpu().numpy()
                wanted = {row: which for row, which in asked.get(readout, {}).items() if row < len(units)}
                if not wanted:
                    return
                if not self._tapped.is_placed(
                    self.readers.layer(readout.layer), units[0, 0].numel(), image_hw
                ):
                    units = maximum[:, :, None, None]  # the places of the positions are not known
                maps[readout] = copy_maps(units, wanted, self._maps.takes_all(*units.shape[1:]))

            return read

        depth = self.readers.call_index(rows[0].wanted)
        reads = {r: take(r) for r in self._recent if self.readers.depth(r) <= depth}
        pixels = [row.request.image.pixels for row in plan.images]
        wanted = [row.wanted for row in plan.images]
        self.forward(pixels, reads, wanted, edits_of(plan.rows, self.readers), plan.fork)
        self.forwards += len(rows) - len(plan.images)
        for readout, values in maxima.items():
            passed = plan.rows_at(self.readers.depth(readout))
            maxima[readout] = self._put_in_bank(readout, passed, values)
        return [self._result(row, at, maxima, maps) for row in rows]

    def _note_recent(self, rows: Sequence[PassRow]) -> None:
        """Make the requested readouts the most recent ones, and drop the oldest beyond a few."""
        asks = [ask for row in rows for ask in row.request.asks]
        for ask in asks:
            self._recent.pop(ask.readout, None)
            self._recent[ask.readout] = None
        while len(self._recent) > max(_RECENT_READOUTS, len(asks)):
            del self._recent[next(iter(self._recent))]

    def _put_in_bank(self, readout: Readout, rows: Sequence[PassRow], maxima: np.ndarray) -> np.ndarray:
        """Put float32 (n, U) maxima of the first n rows into the bank; return them as they are known there.

        Edited activations are not kept, nor are those of an image on which nothing is finite: the device or
        the weights are at fault.
        """
        kept = np.array([not row.request.edits for row in rows[: len(maxima)]])
        kept &= np.isfinite(maxima).any(axis=1)
        ids = [row.request.image.id for row, keep in zip(rows, kept, strict=False) if keep]
        known = maxima.copy()
        known[kept] = self.bank.put(self.readers.key(readout), ids, maxima[kept])
        return known

    def _result(
        self,
        row: PassRow,
        at: Callable[[PassRow, Readout], int],
        maxima: dict[Readout, np.ndarray],
        maps: dict[Readout, MapsByRow],
    ) -> VisionResult:
        readings = []
        for ask in row.request.asks:
            if ask.readout in row.known:
                readings.append(row.known[ask.readout])
                continue
            place = at(row, ask.readout)
            activations = maxima[ask.readout][place]
            small = {}
            if ask.maps:
                # Copies: a view would keep all units' maps alive.
                small = {index: maps[ask.readout][place][index].copy() for index in ask.indices or ()}
                if not row.request.edits:
                    self._maps.put(ask.readout, row.request.image.id, maps[ask.readout][place])
            readings.append(ReadoutActivations(ask.readout, None, activations, small))
        return VisionResult(tuple(readings), self._view(row.request))

    # -- caches ---------------------------------------------------------------------------------------

    def _known(self, image_id: str, ask: Ask) -> ReadoutActivations | None:
        small = {}
        if ask.maps:
            for index in ask.indices or ():
                unit_map = self._maps.get(ask.readout, image_id, index)
                if unit_map is None:
                    return None
                small[index] = unit_map
        try:
            values = self.bank.get(self.readers.key(ask.readout), image_id)
        except UsageError:
            return None
        return None if values is None else ReadoutActivations(ask.readout, None, values, small)

    def _view(self, request: VisionRequest) -> View:
        return self.network.preprocess.view(*request.image.size)

    def _sweep_device(self) -> SweepDevice:
        if self._sweeps is None:
            from actors.vision.sweep.device import SweepDevice

            self._sweeps = SweepDevice(self, self._settings)
        return self._sweeps


def _read_units(
    takes: Sequence[tuple[UnitReader, Callable[[torch.Tensor], None]]], maps: torch.Tensor
) -> None:
    for unit_reader, take in takes:
        take(unit_reader.units(maps))


def _check_names(network: Network, output: LayerInfo) -> None:
    # Whatever the output's kind, its units are the classes.
    named = len(network.class_names)
    if named not in (0, output.n_units):
        raise UsageError(
            f"{network.name} names {named} classes, and its output has {output.n_units}.",
            "Give class_names one name for each, in the order of the output, or none at all.",
        )


def _finite(ask: Ask, reading: ReadoutActivations) -> bool:
    """Return whether all units whose maps are requested are finite."""
    return not ask.maps or bool(np.isfinite(reading.activations[list(ask.indices or ())]).all())
