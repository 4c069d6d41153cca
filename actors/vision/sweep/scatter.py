"""What some images of a data set do to a unit, and how alike these images are: for choosing more than the
strongest.

At most `IMAGES` of the images that agents may see, drawn by a fixed seed, are shown to the network once for
all units of a readout. Pixels are let go of at once; what is kept is bounded by `LIMIT_BYTES`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from actors.errors import BackendError
from actors.images import Image
from actors.vision.readout.base import ImageDataset, LayerInfo, Scatter
from actors.vision.readout.requests import Ask
from actors.vision.readout.units import OUTPUT, Readout

IMAGES = 1024
LIMIT_BYTES = 128 << 20
WIDEST = 8192
"""Units of a readout of which all are kept, and of the layer that images are compared by."""
_AT_ONCE = 64

Show = Callable[[Image, tuple[Ask, ...]], Awaitable[Sequence[np.ndarray] | BackendError]]
"""Returns what an image does to the units of each ask, float32 (n,) each, or how the network fails on it."""


def comparing_layer(layers: Sequence[LayerInfo]) -> LayerInfo | None:
    """Return the last layer before the classifier that is narrow enough; None if there is none.

    The classifier's own module counts as the classifier: a layer after which nothing else comes, of as many
    units as classes.
    """
    classes = next((layer.n_units for layer in layers if layer.name == OUTPUT), None)
    before = [layer for layer in layers if layer.name != OUTPUT]
    while before and before[-1].kind == "vector" and before[-1].n_units == classes:
        before.pop()
    return next((layer for layer in reversed(before) if layer.n_units <= WIDEST), None)


@dataclass(frozen=True, slots=True)
class _Shown:
    """Activations (n, units) of one readout on the readable ones of a data set's drawn images, `indices`
    (n,).
    """

    indices: np.ndarray
    activations: np.ndarray


class ScatterTable:
    """Scatters of one network, for all data sets that its users bring."""

    def __init__(self, show: Show, layers: Sequence[LayerInfo]) -> None:
        self._show = show
        self.layer = comparing_layer(layers)
        self._kept: OrderedDict[tuple[str, Ask], _Shown] = OrderedDict()
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
        # One at a time: many agents come for the same at once, and all but the first find it made.
        asks = dict.fromkeys([ask] if self.layer is None else [ask, self._comparing()])
        async with self._lock:
            tables = await self._shown(tuple(asks), dataset, drawn)
        shown, seen = tables[0], tables[-1]
        # Kept from different passes, they may lack different images.
        both, rows, others = np.intersect1d(shown.indices, seen.indices, return_indices=True)
        activations = shown.activations[rows, index if whole else 0]
        known = np.isfinite(activations)
        if not known.any():
            raise BackendError(
                f"no image of {dataset.name!r} tells what the unit does.",
                "Look at the images of the data set.",
            )
        features = None if self.layer is None else seen.activations[others][known]
        return Scatter(both[known], activations[known], features)

    async def features(self, images: Sequence[Image]) -> np.ndarray | None:
        """Return what images are compared by, float32 (n, d); None where the network has no layer for it.

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

    async def _shown(self, asks: tuple[Ask, ...], dataset: ImageDataset, drawn: np.ndarray) -> list[_Shown]:
        """Return what images do to each ask's units; one pass for all that are not kept."""
        missing = tuple(ask for ask in asks if (dataset.fingerprint, ask) not in self._kept)
        if missing:
            indices, rows = await self._pass(missing, dataset, drawn)
            for place, ask in enumerate(missing):
                table = np.stack([row[place] for row in rows]).astype(np.float32)
                self._kept[dataset.fingerprint, ask] = _Shown(indices, table)
        for ask in asks:
            self._kept.move_to_end((dataset.fingerprint, ask))
        while len(self._kept) > len(asks) and self._bytes() > LIMIT_BYTES:
            self._kept.popitem(last=False)
        return [self._kept[dataset.fingerprint, ask] for ask in asks]

    async def _pass(
        self, asks: tuple[Ask, ...], dataset: ImageDataset, drawn: np.ndarray
    ) -> tuple[np.ndarray, list[Sequence[np.ndarray]]]:
        """Return which images could be measured, int64 (n,), and of each what it does to the units of every
        ask.
        """
        indices: list[int] = []
        rows: list[Sequence[np.ndarray]] = []
        for start in range(0, len(drawn), _AT_ONCE):
            loaded = await asyncio.to_thread(_readable, dataset, drawn[start : start + _AT_ONCE].tolist())
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
                "Look at the images of the data set.",
            )
        return np.array(indices, np.int64), rows

    def _bytes(self) -> int:
        return sum(table.activations.nbytes for table in self._kept.values())


def _readable(dataset: ImageDataset, indices: Sequence[int]) -> list[tuple[int, Image]]:
    images = []
    for index in indices:
        try:
            images.append((index, dataset.load(index)))
        except Exception:  # decoders and people's own data sets raise anything
            continue
    return images
