"""Activations of all units of a readout on all images of a sweep, as a file that is mapped into memory.

Replicas write the rows of their steps into one file, so that memory does not grow with the data set. A step
that is run again writes the same rows.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from actors.vision.readout.units import Readout

Reduce = Literal["max", "mean"]
"""How a unit's map becomes one number: its spatial maximum, or its mean."""


@dataclass(frozen=True, slots=True)
class LayerActivations:
    """All units of a readout on the images of a data set.

    `values` float32 (n, U), mapped from disk; row i is image `indices[i]`, int64 (n,). Rows of images that
    could not be measured are False in `measured`, bool (n,).
    """

    readout: Readout
    reduce: Reduce
    values: np.ndarray
    indices: np.ndarray
    measured: np.ndarray


def activation_rows(path: Path, n: int, n_units: int) -> np.memmap:
    """Return the file's float32 (n, n_units), writable; it is made if it does not exist.

    Raises:
        OSError: If the disk is full, or cannot be written.
    """
    if not path.exists():
        draft = path.with_name(f".{uuid.uuid4().hex}.npy")
        try:
            np.lib.format.open_memmap(draft, "w+", np.float32, (n, n_units)).flush()
            with contextlib.suppress(FileExistsError):  # another replica was first
                os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    rows: np.memmap = np.lib.format.open_memmap(path, "r+")
    return rows
