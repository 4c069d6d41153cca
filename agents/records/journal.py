"""What one agent's run leaves on disk, and how it is taken up again.

A paid call is written down before it is sent and its answer before anyone acts on it, so an answer
that reached us is never bought twice. A round is on disk before the next one begins.

    units/<unit>/calls/<key>.request-<n>   attempt n of a call, about to be sent; in doubt without an outcome
    units/<unit>/calls/<key>.unbilled-<n>  that attempt was surely not paid for: refused, or never sent
    units/<unit>/calls/<key>.answer        the answer of one attempt, which is the last
    units/<unit>/charged/0001.json         what a call for images was charged, where images cost money
    units/<unit>/rounds/0001.json          a finished round
    units/<unit>/notes/0001.json           what a person wrote to the study, from any process
    units/<unit>/trials/0001.json          what a person tried, from any process
    units/<unit>/done.json                 the result
    units/<unit>/proposal.json             the test of a label that no agent gave
    units/<unit>/repeats/2/...             the same of the second of several studies of the unit
    blobs/ab/<id>.webp                     every image that was shown, lossless, by content id
    blobs/ab/<id>.png                      of a masked image: the mask, naming what is beneath
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from actors.chat.reply import ChatReply, Usage
from actors.endpoint.secrets import without_secrets
from actors.errors import MaiaError, UsageError
from agents.records.record_types import (
    AnswerRecord,
    CallRecord,
    FailureRecord,
    NoteRecord,
    PersonTrialRecord,
    Record,
    ReplyRecord,
    RoleRecord,
    RoundRecord,
    StudyResult,
    SurveyRecord,
    UsageRecord,
    encode_record,
    load_record,
)
from agents.records.run_files import RecordError
from agents.records.store import Store

if TYPE_CHECKING:
    import numpy as np

    from actors.images import Image, Painted

R = TypeVar("R", bound=Record)
_IMAGE_ID = re.compile(r"[0-9a-f]{8,64}")
MOST_MASKS = 4
"""Masks on one picture, one on the other, that are kept as masks: a program may measure what it measured,
again and again. What is painted on those is kept as pixels.
"""
_WRITERS = 8
"""Files under way at once: with four a disk's flushes already come together, more cost nothing."""


MOST_PIXELS = 1 << 24
"""Of a stored picture: no data set, program or model makes more, and a file of kilobytes may hold more."""


class JournalError(RecordError):
    """A record on disk does not say what it should."""


class OvertakenError(JournalError):
    """Another writer was first with another content: a study can be resumed from its record."""


def slug(text: str) -> str:
    """Return a file name for `text`: readable, and different for different texts."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._")[:80]
    return f"{readable}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def unit_folder(unit: str) -> str:
    """Return the folder of a run that holds a unit's records."""
    return f"units/{slug(unit)}"


def read_result(store: Store, unit: str) -> StudyResult | None:
    """Return a unit's result, None if it has none yet.

    Raises:
        RecordError: If it is damaged.
    """
    return load_record(store, f"{unit_folder(unit)}/done.json", StudyResult)


class Blobs:
    """Images by content id, shared by all units of a run."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._there: set[str] = set()

    @staticmethod
    def key(image_id: str) -> str:
        return f"blobs/{image_id[:2]}/{image_id}.webp"

    @staticmethod
    def mask_key(image_id: str) -> str:
        return f"blobs/{image_id[:2]}/{image_id}.png"

    def __contains__(self, image_id: str) -> bool:
        keys = (self.key(image_id), self.mask_key(image_id))
        return image_id in self._there or any(self._store.has(key) for key in keys)

    def __getitem__(self, image_id: str) -> Image:
        return self.get(image_id)

    def put(self, images: Iterable[Image]) -> None:
        """Write what is not there yet; of a painted image its mask, after the image beneath.

        Several are encoded and written side by side: a disk flushes files that come together at once, about
        ten times sooner than one after another.
        """
        new = [image for image in {each.id: each for each in images}.values() if image.id not in self]
        if beneath := [made.picture for image in new if (made := _kept_as_mask(image)) is not None]:
            self.put(beneath)
        for image in _writers().map(self._write, new):
            self._there.add(image)

    def _write(self, image: Image) -> str:
        from actors import masks

        if (made := _kept_as_mask(image)) is not None:
            self._store.put(self.mask_key(image.id), masks.encode_mask(made.mask, made.picture.id))
        else:
            self._store.put(self.key(image.id), _lossless(image))
        return image.id

    def get(self, image_id: str) -> Image:
        """Return the image.

        Raises:
            JournalError: If it is missing, or its pixels are not those of its id.
        """
        from actors import masks

        laid: list[np.ndarray] = []
        wanted = image_id
        if not _IMAGE_ID.fullmatch(image_id):
            raise JournalError(f"{image_id[:80]!r} is no image id: an id is 8 to 64 hexadecimal digits.")
        try:
            while (data := self._store.get(self.key(wanted))) is None:
                if (mask := self._store.get(self.mask_key(wanted))) is None or len(laid) == MOST_MASKS:
                    raise JournalError(f"image {wanted} is missing from {self._store.root}.")
                laid.append(masks.decode_mask(mask))
                wanted = masks.beneath(mask)
                if not _IMAGE_ID.fullmatch(wanted):
                    raise JournalError(f"the mask {image_id} in {self._store.root} names no image.")
            image = stored_image(data)
            for layer in reversed(laid):
                image = masks.lay(layer, image)
        except UsageError as error:
            raise JournalError(f"image {wanted} in {self._store.root} is damaged: {error.message}") from error
        if image.id != image_id:
            raise JournalError(f"image {image_id} in {self._store.root} has changed.")
        return image


def stored_image(data: bytes, most_pixels: int = MOST_PIXELS) -> Image:
    """Return a picture that is kept whole.

    Raises:
        ImageDecodeError: If it is damaged, or has more pixels.
    """
    from actors.images import decode

    return decode(data, formats=("WEBP",), most_pixels=most_pixels)


@cache
def _writers() -> ThreadPoolExecutor:
    """Return the threads that write a process's images."""
    return ThreadPoolExecutor(_WRITERS, thread_name_prefix="maia-images")


def _kept_as_mask(image: Image) -> Painted | None:
    """Return how an image was painted that is kept as its mask: with at most `MOST_MASKS` on each other."""
    n_masks, made = 0, image.painted
    while made is not None and n_masks <= MOST_MASKS:
        n_masks, made = n_masks + 1, made.picture.painted
    return image.painted if n_masks <= MOST_MASKS else None


def _lossless(image: Image) -> bytes:
    buffer = io.BytesIO()
    # The fastest setting: a third of the time of the usual one for a twentieth more bytes.
    image.to_pil().save(buffer, "WEBP", lossless=True, method=0, quality=0)
    return buffer.getvalue()


class Journal:
    """The records of one unit, or of one of several studies of it, by number from 1."""

    def __init__(self, store: Store, unit: str, repeat: int = 0) -> None:
        self._store = store
        self.unit, self.repeat = unit, repeat
        self.folder = unit_folder(unit) + (f"/repeats/{repeat}" if repeat else "")
        self.blobs = Blobs(store)
        self._charges = 0

    def rounds(self) -> list[RoundRecord]:
        """Return the finished rounds in order, up to the first gap."""
        rounds: list[RoundRecord] = []
        while (record := self._read(f"rounds/{len(rounds) + 1:04d}.json", RoundRecord)) is not None:
            rounds.append(record)
        return rounds

    def round_bytes(self, number: int) -> bytes | None:
        """Return the record of a round as it is on disk, None if there is none."""
        return self._store.get(f"{self.folder}/rounds/{number:04d}.json")

    def commit_round(self, record: RoundRecord, images: Iterable[Image]) -> None:
        """Write a round, its images first.

        Raises:
            OvertakenError: If another writer has committed that round with another content.
        """
        self.blobs.put(images)
        self._commit(f"rounds/{record.round:04d}.json", record)

    def notes(self, after: int = 0) -> list[NoteRecord]:
        """Return the notes to the unit with numbers above `after`, in order, up to the first gap."""
        return self._numbered("notes", NoteRecord, after)

    def trials(self) -> list[PersonTrialRecord]:
        """Return what people tried on the unit, in order, up to the first gap."""
        return self._numbered("trials", PersonTrialRecord)

    def keep_note(self, note: NoteRecord) -> bool:
        """Write a note down unless there is one of its number; return whether this call did."""
        return self._store.put(self._numbered_key("notes", note.number), encode_record(note))

    def keep_trial(self, trial: PersonTrialRecord) -> bool:
        """Write a trial down unless there is one of its number; return whether this call did."""
        return self._store.put(self._numbered_key("trials", trial.number), encode_record(trial))

    def complete_trial(self, trial: PersonTrialRecord) -> None:
        """Write down what has become known of a trial that this process keeps."""
        self._store.replace(self._numbered_key("trials", trial.number), encode_record(trial), synced=True)

    def _numbered(self, folder: str, kind: type[R], after: int = 0) -> list[R]:
        found: list[R] = []
        key = self._numbered_key(folder, after + 1)
        while (record := load_record(self._store, key, kind)) is not None:
            found.append(record)
            key = self._numbered_key(folder, after + len(found) + 1)
        return found

    def _numbered_key(self, folder: str, number: int) -> str:
        """Return where a record that any process may add is: beside the studies, not in one of them."""
        return f"{unit_folder(self.unit)}/{folder}/{number:04d}.json"

    def done(self) -> StudyResult | None:
        return self._read("done.json", StudyResult)

    def role(self) -> RoleRecord | None:
        return self._read("role.json", RoleRecord)

    def keep_role(self, record: RoleRecord) -> RoleRecord:
        """Write the unit's role down and return the one that counts: the first that was written."""
        self._store.put(f"{self.folder}/role.json", encode_record(record))
        return self.role() or record

    def finish(self, result: StudyResult) -> None:
        """Write the result; an agent's takes the place of an embedding's, which stays as the proposal."""
        known = self.done()
        if known is not None and (known.tier, result.tier) == ("embedding", "agent"):
            self._store.replace(
                f"{self.folder}/done.json", without_secrets(encode_record(result)), synced=True
            )
            return
        self._commit("done.json", result)

    def proposal(self) -> StudyResult | None:
        """Return the critic's test of a label that no agent gave to the unit, None if there was none."""
        return load_record(self._store, proposal_key(self.unit), StudyResult)

    def propose(self, result: StudyResult) -> StudyResult:
        """Write such a test down and return the one that counts: the first that was written."""
        self._store.put(proposal_key(self.unit), encode_record(result))
        return self.proposal() or result

    def note_duration(self, seconds: float) -> None:
        """Keep how long the last stretch took; apart from the result, which is the same on every machine."""
        self._store.put(f"{self.folder}/duration.json", encode_record({"seconds": round(seconds, 1)}))

    def answer(self, key: str) -> ChatReply | None:
        """Return the recorded answer of a call."""
        record = self._read(f"calls/{key}.answer", AnswerRecord)
        return None if record is None else record.reply()

    def intend(self, key: str, call: CallRecord) -> int:
        """Write down that a call is about to be sent, and return the attempt's number.

        Raises:
            StoreError: If there may be no room for its answer: what has been paid for must not be lost.
        """
        self._store.check_room()
        attempt = 1
        while not self._store.put(f"{self.folder}/calls/{key}.request-{attempt}", encode_record(call)):
            attempt += 1
        return attempt

    def calls(self) -> Iterator[CallRecord]:
        """Yield what is on record of each attempt of each call."""
        for key in self._store.keys(f"{self.folder}/calls"):
            if ".request-" in key and (call := load_record(self._store, key, CallRecord)) is not None:
                yield call

    def record_unbilled(self, key: str, attempt: int) -> None:
        """Write down that an attempt ended and was not paid for."""
        self._store.put(f"{self.folder}/calls/{key}.unbilled-{attempt}", b"{}")

    def record_answer(self, key: str, reply: ChatReply) -> ChatReply:
        """Write the answer down and return the one that counts: the first that was written."""
        if self._store.put(f"{self.folder}/calls/{key}.answer", encode_record(ReplyRecord.of(reply))):
            return reply
        first = self.answer(key)
        assert first is not None
        return first

    def in_doubt(self) -> list[str]:
        """Return the keys of calls of which an attempt was sent, perhaps billed, and never answered here.

        They may have been answered at a later attempt, when the study was taken up again.
        """
        open_attempts = doubtful(self._store.keys(f"{self.folder}/calls"))
        return sorted(name.rpartition("/")[2].partition(".")[0] for name, n in open_attempts.items() if n > 0)

    def usage(self) -> dict[str, Usage]:
        """Return the usage of the answers on record, by role, whether or not a study was interrupted."""
        total: dict[str, Usage] = {}
        for name in self._store.keys(f"{self.folder}/calls"):
            key, _, kind = name.rpartition("/")[2].partition(".")
            if kind == "answer":
                call = self._read(f"calls/{key}.request-1", CallRecord) or CallRecord()
                answer = self.answer(key)
                assert answer is not None
                total[call.role] = total.get(call.role, Usage()) + answer.usage
        return total

    def record_image_charge(self, usage: Usage) -> None:
        """Write down what a call for images was charged, as soon as it is known."""
        record = encode_record(UsageRecord.of(usage))
        self._charges += 1
        while not self._store.put(f"{self.folder}/charged/{self._charges:04d}.json", record):
            self._charges += 1

    def image_charges(self) -> Usage:
        """Return what images were charged, over all interruptions."""
        names = [name.rpartition("/")[2] for name in self._store.keys(f"{self.folder}/charged")]
        records = (self._read(f"charged/{name}", UsageRecord) or UsageRecord() for name in sorted(names))
        return sum((record.usage() for record in records), Usage())

    def _read(self, name: str, kind: type[R]) -> R | None:
        return load_record(self._store, f"{self.folder}/{name}", kind)

    def _commit(self, name: str, record: Record) -> None:
        data = without_secrets(encode_record(record))  # as the store keeps it: it is compared below
        if (
            not self._store.put(f"{self.folder}/{name}", data)
            and self._store.get(f"{self.folder}/{name}") != data
        ):
            raise OvertakenError(
                f"{self.folder}/{name} was already written with another content.",
                "Another run works on the same folder: let it finish, or give this one its own --out.",
            )


def proposal_key(unit: str) -> str:
    """Return where the test of a label is kept that no agent gave to the unit."""
    return f"{unit_folder(unit)}/proposal.json"


def repeats_of(store: Store, unit: str) -> list[Journal]:
    """Return the journals of several studies of a unit, in order; none of one that was studied once."""
    numbers = (
        int(name) for name in store.folders(f"{unit_folder(unit)}/repeats") if re.fullmatch(r"[1-9]\d?", name)
    )
    return [Journal(store, unit, number) for number in sorted(numbers)]


def survey_key(unit: str) -> str:
    """Return where the survey of a unit is kept."""
    return f"{unit_folder(unit)}/survey.json"


def read_survey(store: Store, unit: str) -> SurveyRecord | None:
    """Return a unit's survey, None if it was not taken yet."""
    return load_record(store, survey_key(unit), SurveyRecord)


def failures(store: Store, unit: str) -> list[FailureRecord]:
    """Return the failures on record, oldest first."""
    records: list[FailureRecord] = []
    folder = unit_folder(unit)
    while record := load_record(store, f"{folder}/failed-{len(records) + 1}.json", FailureRecord):
        records.append(record)
    return records


def stop_key(unit: str) -> str:
    """Return where it is kept what stopped a unit's study, to go on with a larger budget."""
    return f"{unit_folder(unit)}/stopped.json"


def read_stop(store: Store, unit: str) -> FailureRecord | None:
    """Return what stopped a unit's study last, None if nothing did."""
    return load_record(store, stop_key(unit), FailureRecord)


def images_tested(records: Iterable[RoundRecord]) -> int:
    """Return how many images the critic made in a study's rounds."""
    return sum(record.review.evidence.images_made for record in records if record.review is not None)


def doubtful(names: Iterable[str]) -> dict[str, int]:
    """Return, by the path of a call without its ending, how many of its attempts have no known outcome."""
    open_attempts: Counter[str] = Counter()
    for name in names:
        call, _, kind = name.rpartition(".")
        open_attempts[call] += 1 if kind.startswith("request-") else -1
    return dict(open_attempts)


def attempts_in_doubt(error: MaiaError) -> int | None:
    """Return how many attempts of a call that ended so may have been billed; None where that is unknown."""
    in_doubt: int | None = getattr(error, "in_doubt", 0 if isinstance(error, UsageError) else None)
    return in_doubt
