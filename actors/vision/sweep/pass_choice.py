"""Whether the passes of a sweep are compiled: what that saves over the images that are left, against what
compiling takes.

A replica times its first passes, decides, and measures what it decided on. What it measured is kept for the
network, dtype, device, layers, size of batches and version of torch, and decides later sweeps.
"""

from __future__ import annotations

import json
import logging
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.errors import BackendError
from actors.files import replacing
from actors.vision.readout.requests import NoticeKind, PassNotice
from actors.vision.settings import Compile

_log = logging.getLogger(__name__)

_TIMED = 3
"""Passes that are timed, after one that is not: it allocates memory."""


@dataclass(frozen=True, slots=True)
class CompileRecord:
    """What compiling took and gave: seconds, and the time of a compiled pass divided by that of another.

    `failure` is why it did not work; later sweeps do not try again.
    """

    compile_s: float
    ratio: float
    failure: str = ""

    def saves_s(self, n_images: int, image_s: float) -> float:
        """Return the seconds saved over images that take `image_s` each uncompiled; below 0 if none are."""
        return n_images * image_s * (1 - self.ratio) - self.compile_s

    @classmethod
    def read(cls, path: Path) -> CompileRecord | None:
        """Return a record, None if there is none that can be read."""
        try:
            known = json.loads(path.read_text())
            return cls(float(known["compile_s"]), float(known["ratio"]), str(known["failure"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("%s is damaged, and compiling is measured again: %s", path, error)
            return None

    def write(self, path: Path) -> None:
        with replacing(path) as file:
            file.write(json.dumps(asdict(self)).encode())


ASSUMED = CompileRecord(compile_s=60.0, ratio=0.9)
"""Of a network that was never compiled: about twice the seconds, and less than the saving, that were measured
for EfficientNet-lite0 on two cores (26 s and 0.88).
"""


class PassChoice:
    """Which passes of one sweep on this replica are compiled."""

    def __init__(self, setting: Compile, path: Path) -> None:
        """`path` is where the record is kept."""
        self._setting, self._path = setting, path
        self._known = CompileRecord.read(path)
        self._uncompiled_s: float | None = None
        self._compile_s = 0.0
        self._timed: list[float] = []
        self._decided = setting != "auto"
        self.compiled = setting == "always"
        self.checked = False
        """Whether compiled passes were seen to give the values of others."""
        self._notices: list[PassNotice] = []

    def take_notices(self) -> tuple[PassNotice, ...]:
        """Return what was decided since the last call."""
        notices, self._notices = tuple(self._notices), []
        return notices

    def decide(self, n_left: int) -> None:
        """Compile from here on, if that pays over the `n_left` images that this replica may still get."""
        if self._decided or len(self._timed) <= _TIMED:
            return
        self._decided = True
        self._uncompiled_s = statistics.median(self._timed[1:])
        self._timed = []
        expected = self._known or ASSUMED
        saved = expected.saves_s(n_left, self._uncompiled_s)
        if expected.failure or saved <= 0:
            return
        self.compiled = True
        self._notify(
            "compiled",
            f"the passes over the {n_left:,} images that are left are compiled: that takes about "
            f"{expected.compile_s:.0f} s and should save {expected.compile_s + saved:.0f} s",
        )

    def took(self, seconds: float, n_images: int) -> None:
        """Take in the time of a whole pass, uncompiled or compiled as `compiled` says."""
        if not self.compiled:
            if not self._decided:
                self._timed.append(seconds / n_images)
            return
        if not self._timed:
            self._compile_s = seconds
        if self._uncompiled_s is None or len(self._timed) > _TIMED:
            return
        self._timed.append(seconds / n_images)
        if len(self._timed) > _TIMED:
            ratio = statistics.median(self._timed[1:]) / self._uncompiled_s
            self._keep(CompileRecord(self._compile_s, ratio))
            if ratio >= 1:
                self.compiled = False
                self._notify(
                    "not worth it",
                    f"compiled passes take {ratio:.2f} times as long: the sweep goes on without",
                )

    def failed(self, error: BackendError) -> None:
        """Go on uncompiled."""
        self.compiled, self._decided = False, True
        self._keep(CompileRecord(0.0, 1.0, error.message))
        again = "" if self._setting == "always" else f" To try again, delete {self._path}."
        self._notify("failed", f"{error.message.rstrip('.')}. The sweep goes on uncompiled.{again}")

    def _keep(self, record: CompileRecord) -> None:
        try:
            record.write(self._path)
        except OSError as error:
            _log.warning("what compiling took could not be kept in %s: %s", self._path, error)

    def _notify(self, kind: NoticeKind, text: str) -> None:
        self._notices.append(PassNotice(kind, text))
