"""A unit's activations on a random sample of a data set's images, and features by which these are compared.

At most `IMAGES` of the images that agents may see, drawn with a fixed seed, are measured once for all units
of a readout. Pixels are not kept; activations are, up to `LIMIT_BYTES`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from actors.errors import BackendError
from actors.images import Image
from actors.serving.lru import LruCache
from actors.vision.data.loading import load_readable
from actors.vision.readout.base import ImageDataset, LayerInfo, Scatter
from actors.vision.readout.requests import Ask
from actors.vision.readout.units import OUTPUT, Readout

IMAGES = 1024
LIMIT_BYTES = 128 << 20
WIDEST = 8192
"""Units at most of a readout that is kept whole, and of the layer whose activations are the features."""
_CHUNK = 64
"""Images that are in memory at a time."""

Show = Callable[[Image, tuple[Ask, ...]], Awaitable[Sequence[np.ndarray] | BackendError]]
"""Returns the activations of each ask's units on an image, float32 (n,) each, or the network's failure."""


def comparing_layer(layers: Sequence[LayerInfo]) -> LayerInfo | None:
    """Return the last layer before the classifier that is narrow enough; None if there is none.

    Last layers of as many units as there are classes count as the classifier.
    """
    classes = next((layer.n_units for layer in layers if layer.name == OUTPUT), None)
    before = [layer for layer in layers if layer.name != OUTPUT]
    while before and before[-1].kind == "vector" and before[-1].n_units == classes:
        before.pop()
    return next((layer for layer in reversed(before) if layer.n_units <= WIDEST), None)


@dataclass(frozen=True, slots=True)
class _Table:
    """Activations (n, units) of one readout on the readable images of a data set's sample, `indices` (n,)."""

    indices: np.ndarray
    activations: np.ndarray


class ScatterTable:
    """Scatters of one network, for any data set."""

    def __init__(self, show: Show, layers: Sequence[LayerInfo], limit_bytes: int = LIMIT_BYTES) -> None:
        self._show = show
        self.layer = comparing_layer(layers)
        self._kept: LruCache[_Table] = LruCache(limit_bytes)
        self._lock = asyncio.Lock()

    async def of(
        self, readout: Readout, index: int, n_units: int, dataset: ImageDataset, explored: np.ndarray
    ) -> Scatter:
        """Return the scatter of one unit over images among `explored`, int64 (n,).

        Raises:
            BackendError: If the network fails on each of them, or none can be read.
        """
        whole = n_units <= WIDEST
        ask = Ask(readout, None if whole else (index,))
        drawn = np.sort(np.random.default_rng(0).permutation(explored)[:IMAGES])
        # One at a time: many agents ask for the same table at once, and only the first computes it.
        asks = dict.fromkeys([ask] if self.layer is None else [ask, self._comparing()])
        async with self._lock:
            tables = await self._tables(tuple(asks), dataset, drawn)
        units, features = tables[0], tables[-1]
        # Computed in different passes, they may lack different images.
        both, rows, others = np.intersect1d(units.indices, features.indices, return_indices=True)
        activations = units.activations[rows, index if whole else 0]
        known = np.isfinite(activations)
        if not known.any():
            raise BackendError(
                f"the unit is finite on no image of {dataset.name!r}.",
                "Check the images of the data set, and the network's weights.",
            )
        compared = None if self.layer is None else features.activations[others][known]
        return Scatter(both[known], activations[known], compared)

    async def features(self, images: Sequence[Image]) -> np.ndarray | None:
        """Return the features by which images are compared, float32 (n, d); None without a layer for them.

        Raises:
            BackendError: If the network fails on one of them.
        """
        if self.layer is None:
            return None
        outcomes = await asyncio.gather(*(self._show(image, (self._comparing(),)) for image in images))
        failed = [outcome for outcome in outcomes if isinstance(outcome, BackendError)]
        if failed:
            raise failed[0]
        return np.stack([outcome[0] for outcome in outcomes if not isinstance(outcome, BackendError)])

    def _comparing(self) -> Ask:
        assert self.layer is not None
        return Ask(Readout(self.layer.name, "channel"), None)

    async def _tables(self, asks: tuple[Ask, ...], dataset: ImageDataset, drawn: np.ndarray) -> list[_Table]:
        """Return each ask's activations; one pass computes all that are not kept."""
        kept = {ask: self._kept.get((dataset.fingerprint, ask)) for ask in asks}
        tables = {ask: table for ask, table in kept.items() if table is not None}
        missing = tuple(ask for ask in asks if ask not in tables)
        if missing:
            indices, rows = await self._pass(missing, dataset, drawn)
            for place, ask in enumerate(missing):
                activations = np.stack([row[place] for row in rows]).astype(np.float32)
                tables[ask] = _Table(indices, activations)
                self._kept.put((dataset.fingerprint, ask), tables[ask], activations.nbytes)
        return [tables[ask] for ask in asks]

    async def _pass(
        self, asks: tuple[Ask, ...], dataset: ImageDataset, drawn: np.ndarray
    ) -> tuple[np.ndarray, list[Sequence[np.ndarray]]]:
        """Return which images could be measured, int64 (n,), and the activations of each ask on each."""
        indices: list[int] = []
        rows: list[Sequence[np.ndarray]] = []
        for start in range(0, len(drawn), _CHUNK):
            loaded = await asyncio.to_thread(load_readable, dataset, drawn[start : start + _CHUNK].tolist())
            outcomes = await asyncio.gather(*(self._show(image, asks) for _, image in loaded))
            measured = [
                (i, outcome)
                for (i, _), outcome in zip(loaded, outcomes, strict=True)
                if not isinstance(outcome, BackendError)
            ]
            indices += [i for i, _ in measured]
            rows += [outcome for _, outcome in measured]
        if not rows:
            raise BackendError(
                f"none of {len(drawn)} images of {dataset.name!r} could be measured.",
                "Check the images of the data set.",
            )
        return np.array(indices, np.int64), rows
