"""The stimulus bank: the activations of all units of the readouts that images were measured for.

An image passes once. The maxima of all units of a readout are kept here, so that a later request for any of
them, by any agent in any run, needs no pass. In memory the bank is bounded in bytes; on disk it is a folder
of immutable segments, each written if absent, so that several processes may share it.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actors.errors import UsageError
from actors.files import write_if_absent
from actors.images import Provenance
from actors.serving.lru import LruCache

_log = logging.getLogger(__name__)

_FLUSH_BYTES = 8 << 20
_ENTRY_OVERHEAD = 200
"""Bytes of an entry beyond its array: keys, array header, list node."""


@dataclass(frozen=True, slots=True)
class BankStatistics:
    """Entries are (readout, image) pairs; `stored` counts what was added since the start."""

    in_memory: int
    memory_bytes: int
    on_disk: int
    hits: int
    disk_hits: int
    misses: int
    stored: int


class StimulusBank:
    """Maxima by (readout, image id) for one network; thread-safe.

    `fingerprint` covers weights, preprocessing and dtype: another network has another folder.
    """

    def __init__(self, fingerprint: str, memory_bytes: int, folder: Path | None = None) -> None:
        self._folder = None if folder is None else folder / fingerprint
        self._lock = threading.RLock()
        self._memory: LruCache[np.ndarray] = LruCache(memory_bytes)
        self._disk: dict[str, dict[bytes, tuple[np.ndarray, int]]] = {}
        self._known_segments: set[Path] = set()
        self._pending: dict[str, dict[str, np.ndarray]] = {}
        self._pending_bytes = 0
        self._provenance: dict[str, Provenance] = {}
        self._pending_provenance: dict[str, Provenance] = {}
        self._hits = self._disk_hits = self._misses = self._stored = 0
        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UsageError(f"the bank folder {folder} cannot be written: {error}") from error
        self.refresh()

    def get(self, readout: str, image_id: str) -> np.ndarray | None:
        """Return the float32 maxima of all units of the readout on the image, None if they are unknown."""
        with self._lock:
            row = self._memory.get((readout, image_id))
            if row is None and (row := self._read(readout, image_id)) is not None:
                self._remember(readout, image_id, row)
                self._disk_hits += 1
            self._hits += row is not None
            self._misses += row is None
            return row

    def put(self, readout: str, image_ids: Sequence[str], values: np.ndarray) -> np.ndarray:
        """Add float32 (images, units) maxima; known ones stay. Return the values that are known now, alike.

        The other images of a pass change the last digits of a sum: the first value of an image is kept.
        """
        kept = np.array(values, dtype=np.float32)
        with self._lock:
            for place, image_id in enumerate(image_ids):
                known = self._memory.get((readout, image_id))
                if known is None:
                    known = self._read(readout, image_id)
                if known is not None:
                    kept[place] = known
                    continue
                row = kept[place].copy()
                self._remember(readout, image_id, row)
                self._stored += 1
                if self._folder is not None:
                    self._pending.setdefault(readout, {})[image_id] = row
                    self._pending_bytes += row.nbytes
        return kept

    def _read(self, readout: str, image_id: str) -> np.ndarray | None:
        """Return the maxima in a segment on disk, None if there are none."""
        place = self._disk.get(readout, {}).get(bytes.fromhex(image_id))
        if place is None:
            return None
        segment, row = place
        return np.array(segment["values"][row])

    def note(self, image_id: str, provenance: Provenance) -> None:
        """Record where an image came from; the first record stays."""
        with self._lock:
            if image_id not in self._provenance:
                self._provenance[image_id] = self._pending_provenance[image_id] = provenance

    def provenance(self, image_id: str) -> Provenance | None:
        with self._lock:
            return self._provenance.get(image_id)

    @property
    def wants_flush(self) -> bool:
        return self._pending_bytes >= _FLUSH_BYTES

    def flush(self) -> None:
        """Write new entries to disk, as further segments."""
        with self._lock:
            pending, self._pending, self._pending_bytes = self._pending, {}, 0
            notes, self._pending_provenance = self._pending_provenance, {}
        if self._folder is None:
            return
        for readout, rows in pending.items():
            path = self._write_segment(readout, rows)
            with self._lock:
                self._index_segment(readout, path)
        if notes:
            lines = "".join(
                json.dumps({"id": image_id, "provenance": json.loads(note.to_json())}) + "\n"
                for image_id, note in sorted(notes.items())
            )
            _put_if_absent(self._folder / "provenance", lines.encode(), ".jsonl")

    def refresh(self) -> None:
        """Read the segments that other processes have written."""
        if self._folder is None:
            return
        with self._lock:
            for named in sorted(self._folder.glob("*/readout.txt")):
                readout = named.read_text()
                for path in sorted(named.parent.glob("*.npy")):
                    self._index_segment(readout, path)
            for path in sorted((self._folder / "provenance").glob("*.jsonl")):
                if path in self._known_segments:
                    continue
                self._known_segments.add(path)
                for line in path.read_text().splitlines():
                    entry = json.loads(line)
                    note = Provenance.from_json(json.dumps(entry["provenance"]))
                    self._provenance.setdefault(entry["id"], note)

    def statistics(self) -> BankStatistics:
        with self._lock:
            return BankStatistics(
                in_memory=len(self._memory),
                memory_bytes=self._memory.n_bytes,
                on_disk=sum(len(rows) for rows in self._disk.values()),
                hits=self._hits,
                disk_hits=self._disk_hits,
                misses=self._misses,
                stored=self._stored,
            )

    def _remember(self, readout: str, image_id: str, row: np.ndarray) -> None:
        row.flags.writeable = False
        self._memory.put((readout, image_id), row, row.nbytes + _ENTRY_OVERHEAD)

    def _write_segment(self, readout: str, rows: dict[str, np.ndarray]) -> Path:
        assert self._folder is not None
        folder = self._folder / hashlib.blake2b(readout.encode(), digest_size=8).hexdigest()
        folder.mkdir(exist_ok=True)
        if not (folder / "readout.txt").exists():
            write_if_absent(folder / "readout.txt", readout.encode())
        n_units = len(next(iter(rows.values())))
        table = np.empty(len(rows), dtype=[("id", np.uint8, (16,)), ("values", np.float32, (n_units,))])
        for place, (image_id, row) in enumerate(sorted(rows.items())):
            table[place]["id"] = np.frombuffer(bytes.fromhex(image_id), np.uint8)
            table[place]["values"] = row
        buffer = io.BytesIO()
        np.save(buffer, table)
        return _put_if_absent(folder, buffer.getvalue(), ".npy")

    def _index_segment(self, readout: str, path: Path) -> None:
        if path in self._known_segments:
            return
        self._known_segments.add(path)
        try:
            segment = np.load(path, mmap_mode="r", allow_pickle=False)
            ids = np.array(segment["id"])
        except (OSError, ValueError, IndexError) as error:
            _log.warning("skipping the unreadable bank segment %s: %s", path, error)
            return
        index = self._disk.setdefault(readout, {})
        for row, image_id in enumerate(ids):
            index.setdefault(image_id.tobytes(), (segment, row))


def _put_if_absent(folder: Path, data: bytes, suffix: str) -> Path:
    """Write `data` under its digest, whole or not at all, and at most once."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (hashlib.blake2b(data, digest_size=16).hexdigest() + suffix)
    if not path.exists():
        write_if_absent(path, data)
    return path
