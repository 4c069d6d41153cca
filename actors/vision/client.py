"""The client of a network under study, over a pool of local or remote replicas."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.errors import BackendError, ReplicaLostError, UsageError
from actors.images import Image, Provenance
from actors.serving.backend import Priority
from actors.serving.pool import Pool
from actors.vision.data.folder import evenly_spaced
from actors.vision.data.held_out import HeldOutShare, split
from actors.vision.data.loading import load_readable
from actors.vision.gradients.attribution import Attribution, AttributionMethod
from actors.vision.gradients.visualization import VisualizationSettings
from actors.vision.held_out_tables import HeldOutTables
from actors.vision.networks.layer_cache import KnownNetwork
from actors.vision.readout.base import (
    Exemplars,
    HeldOutActivations,
    ImageDataset,
    LayerInfo,
    SampleError,
    Scatter,
    Unit,
    UnitResponse,
)
from actors.vision.readout.edits import Edit
from actors.vision.readout.requests import Ask, NetworkDescription, VisionRequest, VisionResult
from actors.vision.readout.units import OUTPUT, Readout, class_index
from actors.vision.sweep.accumulators import SweepPlan
from actors.vision.sweep.activations import LayerActivations, Reduce
from actors.vision.sweep.driver import Notify, ReportProgress, run_sweep
from actors.vision.sweep.exemplars import ExemplarStore, LayerExemplars
from actors.vision.sweep.scatter import ScatterTable

_log = logging.getLogger(__name__)

SAMPLE = 128
"""Images at most in `PoolVisionClient.sample`."""
_MEAN_IMAGES = 200
"""Images over which the mean of a unit's map is taken where no sweep knows it."""

DEFAULT_HELD_OUT = HeldOutShare(0.2)


class PoolVisionClient:
    """A network behind a pool: measures, sweeps data sets, and keeps exemplars in `cache`.

    `held_out` is the part of every data set that is never swept, and so never shown while exploring.
    """

    def __init__(
        self,
        pool: Pool[Any, Any],
        facts: NetworkDescription,
        cache: Path,
        held_out: HeldOutShare = DEFAULT_HELD_OUT,
    ) -> None:
        """Use `connect`; `facts` are what the backend's `describe` returns."""
        self._pool = pool
        self._cache = cache
        self._held_out_share = held_out
        self.name: str = facts["name"]
        self.fingerprint: str = facts["fingerprint"]
        self.head: str = facts["head"]
        self.weights: str = facts["weights"]
        self._layers: dict[str, LayerInfo] = {layer.name: layer for layer in facts["layers"]}
        self.known = KnownNetwork(
            self.name,
            self._layers,
            facts["aliases"],
            facts["unreadable"],
            facts["class_names"],
        )
        self.batch_invariant: bool = facts["batch_invariant"]
        """False if activations depend on the rest of the batch or are not deterministic."""
        self._batch: int = facts["batch"]
        self._n_units: dict[Readout, int] = {}
        self._exemplars: dict[tuple[str, Readout], LayerExemplars] = {}
        self._sweeping: dict[str, asyncio.Lock] = {}
        self._samples: dict[tuple[str, Readout], np.ndarray] = {}
        self._sampled: tuple[str, list[Image]] = ("", [])
        self._sampling = asyncio.Lock()
        self._scatters = ScatterTable(self._columns, list(self._layers.values()))
        self._held_out_tables = HeldOutTables(self._column, held_out)
        self.notify: Notify | None = None
        """Gets one line on what sweeps decide."""

    @classmethod
    async def connect(
        cls, pool: Pool[Any, Any], cache: Path, held_out: HeldOutShare = DEFAULT_HELD_OUT
    ) -> PoolVisionClient:
        """Return a client of the network behind `pool`, once it is loaded.

        Raises:
            UsageError: If the network cannot be loaded.
        """
        return cls(pool, await pool.call("describe"), cache, held_out)

    async def layers(self) -> list[LayerInfo]:
        return list(self._layers.values())

    async def class_names(self) -> list[str]:
        """Return the classifier's class names by index, empty if it has none."""
        return list(self.known.class_names)

    async def unit(self, unit: Unit | str) -> Unit:
        """Return `unit` under its layer's own name, checked; a string is a class of the classifier."""
        if isinstance(unit, str):
            unit = Unit(OUTPUT, class_index(unit, self.known.class_names), "logit")
        await self.check(unit)
        return replace(unit, layer=self.known.layer(unit.layer))

    async def check(self, unit: Unit) -> None:
        """Raise UsageError naming the nearest layers or the range if the network has no such unit."""
        layer = self.known.layer(unit.layer)
        self.known.check_index(unit, await self.count_units(Readout(layer, unit.kind, unit.source)))

    async def count_units(self, readout: Readout) -> int:
        """Return how many units a readout has.

        Raises:
            UsageError: If its kind or file does not fit the layer.
        """
        if readout.kind == "channel":
            return self.known.info(readout.layer).n_units
        if readout not in self._n_units:
            self._n_units[readout] = await self._pool.call("n_units", readout)
        return self._n_units[readout]

    async def measure(
        self,
        unit: Unit,
        images: Sequence[Image],
        *,
        agent: str = "",
        priority: Priority = Priority.INTERACTIVE,
    ) -> list[UnitResponse]:
        """Return the unit's response to each image, in order."""
        unit = await self.unit(unit)
        ask = Ask(Readout.of(unit), (unit.index,), maps=True)
        results = await self._pool.map(
            [VisionRequest(image, (ask,)) for image in images], agent=agent, priority=priority
        )
        responses = []
        for result in results:
            reading = result.readings[0]
            responses.append(
                UnitResponse(float(reading.activations[0]), reading.maps[unit.index], result.view)
            )
        return responses

    async def looks(self, unit: Unit, images: Sequence[Image]) -> list[np.ndarray | None]:
        """Return where the head of a unit looks in each image, in order; as `VisionBackend.looks`."""
        unit = await self.unit(unit)
        found: list[np.ndarray | None] = await self._pool.call(
            "looks", Readout.of(unit), unit.index, list(images)
        )
        return found

    async def activations(
        self,
        units: Sequence[Unit],
        images: Sequence[Image],
        *,
        agent: str = "",
        priority: Priority = Priority.INTERACTIVE,
    ) -> np.ndarray:
        """Return float32 (units, images) without maps; what the stimulus bank holds needs no pass.

        Values that are not finite are returned as they are.
        """
        units = [await self.unit(unit) for unit in units]
        wanted: dict[Readout, list[int]] = {}
        for unit in units:
            wanted.setdefault(Readout.of(unit), []).append(unit.index)
        asks = tuple(Ask(readout, tuple(dict.fromkeys(indices))) for readout, indices in wanted.items())
        results = await self._pool.map(
            [VisionRequest(image, asks) for image in images], agent=agent, priority=priority
        )
        table = np.empty((len(units), len(images)), np.float32)
        for column, result in enumerate(results):
            for ask, reading in zip(asks, result.readings, strict=True):
                by_index = dict(zip(ask.indices or (), reading.activations, strict=True))
                for row, unit in enumerate(units):
                    if Readout.of(unit) == ask.readout:
                        table[row, column] = by_index[unit.index]
        return table

    async def outputs(
        self,
        readout: Readout,
        images: Sequence[Image],
        edits: tuple[Edit, ...] = (),
        *,
        agent: str = "",
        priority: Priority = Priority.INTERACTIVE,
    ) -> np.ndarray:
        """Return all units of a readout on images, float32 (images, units), after `edits` during the pass.

        Raises:
            UsageError: If there is no such unit, or an edit cannot be made or has no effect on the readout.
        """
        rows = [VisionRequest(image, (Ask(readout, None),), edits) for image in images]
        results = await self.passes(rows, agent=agent, priority=priority)
        return np.stack([result.readings[0].activations for result in results])

    async def passes(
        self, rows: Sequence[VisionRequest], *, agent: str = "", priority: Priority = Priority.INTERACTIVE
    ) -> list[VisionResult]:
        """Run images, each with its own edits, and return what each row asks for, in order.

        Raises:
            UsageError: If there is no such unit, or an edit cannot be made or has no effect on what is asked.
        """
        return list(await self._pool.map(rows, agent=agent, priority=priority))

    async def drawn(self, dataset: ImageDataset, count: int) -> list[Image]:
        """Return at most `count` images of those that are not held out, at random, always the same ones.

        Raises:
            SampleError: If none of them can be read.
        """
        explored, _ = await asyncio.to_thread(split, dataset, self._held_out_share)
        chosen = np.random.default_rng(0).permutation(explored)[:count].tolist()
        images = [image for _, image in await asyncio.to_thread(load_readable, dataset, chosen)]
        if not images:
            raise SampleError(f"none of {count} images of {dataset.name!r} could be read.", "Look at them.")
        return images

    async def exemplars(
        self,
        units: Iterable[Unit],
        dataset: ImageDataset,
        k: int = 15,
        progress: ReportProgress | None = None,
    ) -> list[Exemplars]:
        """Return each unit's exemplars; one pass over the data set for all units of all their layers."""
        units = [await self.unit(unit) for unit in units]
        readouts = list(dict.fromkeys(Readout.of(unit) for unit in units))
        by_readout = await self.layer_exemplars(readouts, dataset, k, progress)
        return [by_readout[Readout.of(unit)].of(unit, k) for unit in units]

    async def layer_exemplars(
        self,
        readouts: Sequence[Readout],
        dataset: ImageDataset,
        k: int = 15,
        progress: ReportProgress | None = None,
    ) -> dict[Readout, LayerExemplars]:
        """Return the exemplars of all units of each readout: known ones at once, the others by one pass.

        Raises:
            UsageError: If no image of the data set could be read.
        """
        if k < 1:
            raise UsageError(f"k must be at least 1, got {k}")
        store = self._store(dataset)
        async with self._sweeping.setdefault(dataset.fingerprint, asyncio.Lock()):
            missing = [r for r in readouts if await self._find(store, dataset, r, k) is None]
            if missing:
                indices, _ = await asyncio.to_thread(split, dataset, self._held_out_share)
                ordered = tuple(sorted(missing, key=repr))
                plan = SweepPlan(dataset, indices, ordered, k=max(k, 15), step=self._batch)
                await run_sweep(self._pool, store, plan, progress, self.notify)
        result = {}
        for readout in readouts:
            exemplars = await self._find(store, dataset, readout, k)
            assert exemplars is not None, "a finished sweep stores every readout"
            result[readout] = exemplars
        return result

    async def map_mean(self, unit: Unit, dataset: ImageDataset) -> float:
        """Return the mean of the unit's map over positions and the images that are not held out, each image
        counted once; over a sample of these where no sweep knows it.

        Raises:
            UsageError: If the positions of the unit's layer are not known.
            SampleError: If there is no finite mean.
        """
        unit = await self.unit(unit)
        store = self._store(dataset)
        swept = await self._find(store, dataset, Readout.of(unit), 1)
        mean = float("nan") if swept is None else float(swept.map_mean[unit.index])
        if not np.isfinite(mean):
            mean = await self._sampled_map_mean(unit, dataset)
        if not np.isfinite(mean):
            raise SampleError(f"{unit} of {self.name} is not finite at all positions, so it has no mean.")
        return mean

    async def _sampled_map_mean(self, unit: Unit, dataset: ImageDataset) -> float:
        layer = self.known.info(unit.layer)
        if layer.kind != "vector" and not layer.shape:
            raise UsageError(
                f"the positions of {unit.layer!r} are not known, so there is no map to take the mean of.",
                "Find its exemplars first, with `maia exemplars`, or give a number.",
            )
        explored, _ = await asyncio.to_thread(split, dataset, self._held_out_share)
        chosen = explored[evenly_spaced(len(explored), _MEAN_IMAGES)].tolist()
        images = [image for _, image in await asyncio.to_thread(load_readable, dataset, chosen)]
        if not images:
            raise SampleError(f"no image of {dataset.name!r} could be read.", "Look at its images.")
        responses = await self.measure(unit, images)
        return float(np.mean([response.map.mean(dtype=np.float64) for response in responses]))

    def _store(self, dataset: ImageDataset) -> ExemplarStore:
        return ExemplarStore.of(
            self._cache, self.fingerprint, dataset.fingerprint, self._held_out_share, len(dataset)
        )

    async def layer_activations(
        self,
        readouts: Sequence[Readout],
        dataset: ImageDataset,
        reduce: Reduce = "max",
        progress: ReportProgress | None = None,
    ) -> dict[Readout, LayerActivations]:
        """Return all units of each readout on all images that may be explored: known ones at once, the others
        by one pass, which finds the exemplars, too.

        Raises:
            UsageError: If no image of the data set could be read.
        """
        store = self._store(dataset)
        indices, _ = await asyncio.to_thread(split, dataset, self._held_out_share)
        async with self._sweeping.setdefault(dataset.fingerprint, asyncio.Lock()):
            missing = [r for r in readouts if store.activations(r, reduce, indices) is None]
            if missing:
                ordered = tuple(sorted(missing, key=repr))
                plan = SweepPlan(dataset, indices, ordered, step=self._batch, keep=reduce)
                await run_sweep(self._pool, store, plan, progress, self.notify)
        found = {readout: store.activations(readout, reduce, indices) for readout in readouts}
        return {readout: layer for readout, layer in found.items() if layer is not None}

    async def explored(
        self, unit: Unit, dataset: ImageDataset, progress: ReportProgress | None = None
    ) -> np.ndarray:
        """Return the unit's activations on every image that may be explored, float32 (n,): known ones at
        once, others by one pass over the data set for all units of the layer.

        Raises:
            SampleError: If none is finite.
        """
        unit = await self.unit(unit)
        readout = Readout.of(unit)
        layer = (await self.layer_activations([readout], dataset, progress=progress)).get(readout)
        values = np.empty(0) if layer is None else np.asarray(layer.values[layer.measured, unit.index])
        if not np.isfinite(values).any():
            raise SampleError(f"the activations of {unit} on {dataset.name!r} are not known.")
        return values[np.isfinite(values)]

    async def _find(
        self, store: ExemplarStore, dataset: ImageDataset, readout: Readout, k: int
    ) -> LayerExemplars | None:
        key = (dataset.fingerprint, readout)
        known = self._exemplars.get(key)
        if known is None or known.indices.shape[1] < k:
            known = await asyncio.to_thread(store.get, readout, k)
            if known is not None:
                self._exemplars[key] = known
        return known

    async def sample(self, unit: Unit, dataset: ImageDataset) -> np.ndarray:
        """Return the unit's activations, float32 (n,), on images at even distances in the data set.

        The images are the same for every unit, loaded once and run once for all units of a layer. Those that
        cannot be read, or on which the unit is not finite, are omitted.

        Raises:
            SampleError: If none remains.
        """
        unit = await self.unit(unit)
        values = (await self._sample(unit, dataset))[unit.index]
        finite = values[np.isfinite(values)]
        if not len(finite):
            raise SampleError(
                f"{unit} of {self.name} is finite on no image of the sample of {dataset.name!r}.",
                "Use float32, and check the network's weights.",
            )
        return finite

    async def winning_logit(self, unit: Unit, dataset: ImageDataset) -> float:
        """Return the mean of the largest logit over the images of `sample`; `unit` is the logit of any class.

        Raises:
            SampleError: If no image can be measured.
        """
        table = await self._sample(await self.unit(unit), dataset)
        finite = table[:, np.isfinite(table).all(axis=0)]
        if not finite.size:
            raise SampleError(f"no image of the sample of {dataset.name!r} has finite logits.")
        return float(finite.max(axis=0).mean())

    async def _sample(self, unit: Unit, dataset: ImageDataset) -> np.ndarray:
        """Return all units of the unit's readout on the sample of a data set, float32 (units, n)."""
        key = dataset.fingerprint, Readout.of(unit)
        # One at a time: many agents ask for it at once, and only the first computes it.
        async with self._sampling:
            if key not in self._samples:
                if self._sampled[0] != dataset.fingerprint:  # one data set at a time: these are pixels
                    self._sampled = dataset.fingerprint, await asyncio.to_thread(_load_sample, dataset)
                ask = Ask(key[1], None)
                outcomes = await asyncio.gather(*(self._column(image, ask) for image in self._sampled[1]))
                columns = [outcome for outcome in outcomes if not isinstance(outcome, BackendError)]
                failed = [outcome for outcome in outcomes if isinstance(outcome, BackendError)]
                if not columns:
                    reason = failed[0].message if failed else "none of them can be read."
                    raise SampleError(
                        f"no image of the sample of {dataset.name!r} could be measured: {reason}",
                        "Check the images of the data set.",
                    )
                if failed:
                    _log.warning(
                        "%d images of the sample are left out; the first: %s", len(failed), failed[0]
                    )
                self._samples[key] = np.stack(columns, axis=1)
            return self._samples[key]

    async def scatter(self, unit: Unit, dataset: ImageDataset) -> Scatter:
        """Return the unit's activations on a sample of the images that are not held out, the same for every
        unit.

        The images are loaded and run once for all units of a layer.

        Raises:
            BackendError: If the unit is finite on none of them.
        """
        unit = await self.unit(unit)
        explored, _ = await asyncio.to_thread(split, dataset, self._held_out_share)
        readout = Readout.of(unit)
        return await self._scatters.of(
            readout, unit.index, await self.count_units(readout), dataset, explored
        )

    async def features(self, images: Sequence[Image]) -> np.ndarray | None:
        """Return the features of images, as in `Scatter.features`."""
        return await self._scatters.features(images)

    async def _column(self, image: Image, ask: Ask) -> np.ndarray | BackendError:
        """Return all of an ask's units on an image, or the network's failure on it."""
        columns = await self._columns(image, (ask,))
        return columns if isinstance(columns, BackendError) else columns[0]

    async def _columns(self, image: Image, asks: tuple[Ask, ...]) -> list[np.ndarray] | BackendError:
        """Return the units of each ask on an image, or the network's failure on it."""
        try:
            result = await self._pool.submit(VisionRequest(image, asks), priority=Priority.CONFIRMATION)
        except ReplicaLostError:
            raise
        except BackendError as error:
            return error
        return [reading.activations for reading in result.readings]

    async def held_out(self, unit: Unit, dataset: ImageDataset, count: int) -> HeldOutActivations:
        """Return the unit's activations on a sample of at most `count` held-out images.

        The images are the same for every unit, and run once for all units of a layer. Those that cannot be
        read, or on which the unit is not finite, are omitted.
        """
        unit = await self.unit(unit)
        readout = Readout.of(unit)
        return await self._held_out_tables.of(
            readout, unit.index, await self.count_units(readout), dataset, count
        )

    async def visualize(self, unit: Unit, settings: VisualizationSettings) -> Image:
        """Return an image of the input's size that is optimized to drive a unit.

        Raises:
            UsageError: If there is no such unit.
            BackendError: If no gradient passes through the network.
        """
        unit = await self.unit(unit)
        return Image.from_pixels(await self._pool.call("visualize", Readout.of(unit), unit.index, settings))

    async def attribute(self, unit: Unit, image: Image, of: AttributionMethod | int) -> Attribution:
        """Return what a unit's value on an image comes from by a method, where its head looks
        ("attention"), or its part in output number `of`.

        Raises:
            UsageError: If there is no such unit or output, or the unit has no effect on outputs.
            BackendError: If no gradient passes through the network.
        """
        unit = await self.unit(unit)
        attribution: Attribution = await self._pool.call("attribute", image, Readout.of(unit), unit.index, of)
        return attribution

    async def note(self, image: Image, provenance: Provenance) -> None:
        """Record in the stimulus bank where an image came from."""
        await self._pool.call("note", image.id, provenance)


def _load_sample(dataset: ImageDataset) -> list[Image]:
    """Return the readable ones among images at even distances."""
    indices = range(0, len(dataset), max(1, -(-len(dataset) // SAMPLE)))
    return [image for _, image in load_readable(dataset, indices)]
