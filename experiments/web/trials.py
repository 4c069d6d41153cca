"""What a person may try on a unit's page, as the page asks for it: checked before anything is started.

Nothing here loads what trials work with.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import queue
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from actors.errors import MaiaError, UsageError
from actors.images import Image, decode
from agents.evidence.record import ImageId
from agents.records.record_types import PersonTrialRecord
from agents.records.run_files import first_fault

_log = logging.getLogger(__name__)
MOST_BODY = 32 << 20
"""Bytes of one request: a photo in base64 is a third larger than its file."""
MOST_NOTE = 64 << 10
"""Bytes of a request that leaves a note."""
_MOST_PIXELS = 64_000_000
"""Of a photo: a small file may hold far more, and would fill the memory."""
_MOST_SIDE = 2048
_REPEAT_S = 5.0
"""After so long without a new step the last one is sent again."""
_LEAST_SIDE = 8
"""Of a crop, in pixels."""

TrialText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2_000)]
Share = Annotated[float, Field(ge=0, le=1)]


class _PageRequest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class PromptTrial(_PageRequest):
    """An image is made of a prompt."""

    kind: Literal["prompt"]
    prompt: TrialText


class PhotoTrial(_PageRequest):
    """A photo, as a file in base64."""

    kind: Literal["photo"]
    data: str

    def image(self) -> Image:
        """Return the photo, reduced to at most 2,048 pixels a side.

        Raises:
            UsageError: If it is no image, or has more than 64 million pixels.
        """
        try:
            data = base64.b64decode(self.data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise UsageError("the photo is not in base64.") from error
        return decode(data, _MOST_SIDE, most_pixels=_MOST_PIXELS)


class CropTrial(_PageRequest):
    """A part of an image of the run: left, top, right and bottom, as shares of its width and height."""

    kind: Literal["crop"]
    image: ImageId
    box: tuple[Share, Share, Share, Share]

    def crop(self, image: Image) -> Image:
        """Return the part of the image.

        Raises:
            UsageError: If it has a side below 8 pixels.
        """
        height, width = image.size
        left, top, right, bottom = self.box
        columns = slice(round(left * width), round(right * width))
        rows = slice(round(top * height), round(bottom * height))
        if columns.stop - columns.start < _LEAST_SIDE or rows.stop - rows.start < _LEAST_SIDE:
            raise UsageError(f"a crop needs {_LEAST_SIDE} pixels a side.", "Draw a larger one.")
        return Image.from_pixels(image.pixels[rows, columns].copy())


class EditTrial(_PageRequest):
    """An image of the run is edited by an instruction."""

    kind: Literal["edit"]
    image: ImageId
    instruction: TrialText


class AblateTrial(_PageRequest):
    """The unit is set to zero on an image of the run."""

    kind: Literal["ablate"]
    image: ImageId


AskedTrial = PromptTrial | PhotoTrial | CropTrial | EditTrial | AblateTrial
_TRIAL: TypeAdapter[AskedTrial] = TypeAdapter(Annotated[AskedTrial, Field(discriminator="kind")])


class AskedNote(_PageRequest):
    """A note to the agent: words, or an account of a trial by its number."""

    text: Annotated[str, StringConstraints(max_length=4_000)] = ""
    trial: int | None = None


def read_trial(body: bytes) -> AskedTrial:
    """Return what a page asks to try.

    Raises:
        UsageError: If it is none.
    """
    try:
        return _TRIAL.validate_json(body)
    except ValidationError as error:
        raise UsageError(f"this is no trial: {first_fault(error)}.") from None


def read_note(body: bytes) -> AskedNote:
    """Return what a page has to say to the agent; raises UsageError if it is none."""
    try:
        return AskedNote.model_validate_json(body)
    except ValidationError as error:
        raise UsageError(f"this is no note: {first_fault(error)}.") from None


@dataclass(frozen=True, slots=True)
class TrialEvent:
    """A step of a trial: what is `doing`; at its end the record's number, or why there is none."""

    doing: str = ""
    number: int | None = None
    error: str = ""


class TrialDesk(Protocol):
    """Carries out trials for servers that answer in threads."""

    def begin(self, slug: str, trial: AskedTrial) -> Generator[TrialEvent]:
        """Yield the steps of a trial, the last of which is its end; closed before, it is cancelled."""


class Carrier(Protocol):
    """What carries trials out (`experiments.web.playground.Playground`)."""

    async def carry_out(self, slug: str, trial: AskedTrial, note: Callable[[str], None]) -> PersonTrialRecord:
        """Return what came of a trial; raises MaiaError if it cannot be done."""

    async def close(self) -> None: ...


class TrialsOnLoop:
    """Carries trials out on an event loop that runs in another thread; `make` is called for the first."""

    def __init__(self, make: Callable[[], Carrier], loop: asyncio.AbstractEventLoop) -> None:
        self._make, self._loop = make, loop
        self._carrier: Carrier | None = None
        self._making = asyncio.Lock()

    def begin(self, slug: str, trial: AskedTrial) -> Generator[TrialEvent]:
        steps: queue.SimpleQueue[TrialEvent] = queue.SimpleQueue()
        said = ""

        def note(sentence: str) -> None:
            nonlocal said
            if sentence != said:
                steps.put(TrialEvent(doing=(said := sentence)))

        work = self._carry_out(slug, trial, note, steps.put)
        working = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            step = TrialEvent(doing="sent")
            while step.doing:
                with suppress(queue.Empty):  # said again: whether anyone listens shows when it is sent
                    step = steps.get(timeout=_REPEAT_S)
                yield step
        finally:
            working.cancel()  # nothing, where it has ended

    async def close(self) -> None:
        """End what was started for trials."""
        if self._carrier is not None:
            await self._carrier.close()

    async def _carry_out(
        self, slug: str, trial: AskedTrial, note: Callable[[str], None], put: Callable[[TrialEvent], None]
    ) -> None:
        """Carry out a trial, and put its end, whatever becomes of it."""
        end = TrialEvent(error="the trial was cancelled")
        try:
            async with self._making:
                note("loading libraries")
                if (carrier := self._carrier) is None:
                    carrier = self._carrier = await asyncio.to_thread(self._make)
            record = await carrier.carry_out(slug, trial, note)
            end = TrialEvent(number=record.number)
        except MaiaError as error:
            end = TrialEvent(error=f"{error.message} {error.fix}".strip())
        except Exception as error:
            _log.exception("a trial met a fault in the program")
            end = TrialEvent(error=f"the program failed: {type(error).__name__}; its log has more")
        finally:
            put(end)
