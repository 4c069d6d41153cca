"""A recorded study again, without models: the same programs, run anew against the answers on record.

What the model says and what tools answer come from the record; everything between them (reading replies,
running programs, composing observations) happens again. Each round that comes out is compared byte for byte
with the one on record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from actors.chat.base import ChatRequest
from actors.chat.reply import ChatReply
from actors.errors import MaiaError
from actors.images import Image
from agents.critic.review import Review
from agents.records.journal import Blobs, Journal
from agents.records.record_types import RoundRecord, ShownImage
from agents.records.recorded_chat import request_key
from agents.records.store import Store
from agents.study.agent import Agent, AgentParts, StudyPausedError
from agents.study.faults import ToolsBrokenError
from agents.study.rounds import Round
from agents.study.settings import InterpreterSettings
from agents.tasks.base import FinalAnswer, Task
from tools.sandbox import Sandbox
from tools.toolbox import Toolbox, ToolFailedError

_IMAGE = "\0image"
"""The key under which a recorded answer mentions an image: id, height, width."""

_LIVE = ("log", "display")
"""Tools that only keep what a program says: they run again."""


class Sandboxes(Protocol):
    """Opens what programs run in."""

    async def open(self, *, seed: int) -> Sandbox: ...


class DivergedError(MaiaError):
    """The replay did something that is not on record."""


@dataclass(frozen=True, slots=True)
class Replay:
    """`rounds` came out as on record; `divergence` says where and how the next one differed, "" if none did.

    `reworded`: the API page or the task was worded otherwise when it was recorded, so that the replies are
    those to another opening.
    """

    rounds: int
    recorded: int
    divergence: str = ""
    reworded: bool = False


class _Place:
    """Which recorded round is being played again."""

    def __init__(self, records: Sequence[RoundRecord]) -> None:
        self.records = records
        self.index = 0

    @property
    def record(self) -> RoundRecord:
        return self.records[self.index]

    @property
    def over(self) -> bool:
        return self.index >= len(self.records)


class _RecordedModel:
    sees_images = True

    def __init__(self, journal: Journal, name: str, place: _Place) -> None:
        self._journal, self.name, self._place = journal, name, place
        self.reworded = False

    async def complete(self, request: ChatRequest) -> ChatReply:
        answer = self._journal.answer(request_key(self.name, request))
        if answer is not None:
            return answer
        # Every observation is compared: what else the model reads is how a study begins, which a later
        # version words anew.
        self.reworded = True
        return self._place.record.reply.reply()


class _RecordedToolbox(Toolbox):
    """Answers calls from the record, in order; keeps its own log."""

    def __init__(self, journal: Journal, place: _Place) -> None:
        nameless = _Nameless(journal.unit)
        super().__init__(nameless, nameless, nameless, seed=0, keeper=journal.blobs)  # type: ignore[arg-type]
        self._journal, self._place = journal, place
        self._next = 0
        self._round = -1

    async def call(self, method: str, arguments: dict[str, Any]) -> Any:
        if self._round != self._place.index:
            self._round, self._next = self._place.index, 0
        programs = self._place.record.sandbox or []
        calls = programs[-1].calls if programs else []
        if self._next >= len(calls):
            raise ToolsBrokenError(DivergedError(f"the program calls {method}, which is not on record."))
        entry = calls[self._next]
        self._next += 1
        if "error" in entry:
            raise ToolFailedError(entry["error"])
        if method in _LIVE:
            return await super().call(method, arguments)
        if method == "exemplars":
            # The mean of activations before they were rounded for the program: known from the record only.
            self.log_book.activation_threshold = self._place.record.toolbox.activation_threshold
        if method in ("text2image", "edit"):
            self.images_made += len(entry["value"]["images"])
        if method == "text2image":
            for prompt in arguments["prompts"]:
                self._draws[prompt] += arguments.get("n", 1)
        return self._decoded(entry["value"])

    def snapshot(self) -> dict[str, Any]:
        # How images came about is known to those who made them: it is taken over, not made again.
        known = self._place.record.toolbox.to_json()
        names = ("provenance", "observations", "interventions", "measured")
        taken = {key: known[key] for key in names if key in known}
        return {key: value for key, value in (super().snapshot() | taken).items() if key in known}

    def _decoded(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._decoded(each) for each in value]
        if isinstance(value, dict):
            if _IMAGE in value:
                image: Image = self._journal.blobs.get(value[_IMAGE][0])
                self.album.hold(image)
                return image
            return {key: self._decoded(each) for key, each in value.items()}
        return value


class _Nameless:
    """Stands where a live tool would: has the unit's id, and can do nothing."""

    def __init__(self, unit: str) -> None:
        self.id = unit
        self.subject = self


class _RecordedExaminer:
    def __init__(self, place: _Place, images: Blobs) -> None:
        self._place, self._blobs = place, images
        self.images: dict[str, Image] = {}

    async def examine(self, answer: FinalAnswer, attempt: int) -> Review | None:
        review = self._place.record.review
        if review is not None:
            self.images.update((each, self._blobs.get(each)) for each in review.shown)
        return review


class _RecordedSteering:
    def __init__(self, place: _Place, max_rounds: int) -> None:
        self._place, self._max_rounds = place, max_rounds

    def paused(self) -> bool:
        return self._place.over

    def conclude(self) -> str:
        record = self._place.record
        if not record.demanded or record.round == self._max_rounds - 1:
            return ""
        return str(record.observation[-2])


def take_over(source: Journal, target: Journal, records: Sequence[RoundRecord]) -> None:
    """Copy rounds of one journal to another, with the images that they mention and the notes they read."""
    for record in records:
        mentioned = {*record.toolbox.provenance}
        mentioned |= {part.image for part in record.observation if isinstance(part, ShownImage)}
        images = [source.blobs.get(image_id) for image_id in sorted(mentioned)]
        for note in record.notes:
            target.keep_note(note)
        target.commit_round(record, images)


@dataclass(frozen=True, slots=True)
class RecordedStudy:
    """A study that is on record, and what it takes to play it again."""

    journal: Journal
    task: Task
    sandboxes: Sandboxes
    api_page: str
    settings: InterpreterSettings
    seed: int


class _Comparison:
    """Compares each round that is played again with the one on record."""

    def __init__(self, recorded: Journal, again: Journal, place: _Place, on_round: Callable[[int], None]):
        self._recorded, self._again, self._place, self._on_round = recorded, again, place, on_round

    def __call__(self, finished: Round) -> None:
        """Raise DivergedError unless the bytes of a round are those on record."""
        recorded, again = (each.round_bytes(finished.number) for each in (self._recorded, self._again))
        if recorded != again:
            raise DivergedError(_difference(json.loads(recorded or b"{}"), json.loads(again or b"{}")))
        self._place.index += 1
        self._on_round(finished.number)


async def replay(
    study: RecordedStudy,
    scratch: Path,
    *,
    taken_over: int = 0,
    on_round: Callable[[int], None] = lambda _: None,
) -> Replay:
    """Play a study's rounds again into the folder `scratch` and compare them with the record.

    The first `taken_over` rounds were another run's, which has their calls: they are taken up, and the others
    played.

    Raises:
        UsageError: If a program cannot be run here at all.
    """
    journal = study.journal
    records = journal.rounds()
    place = _Place(records)
    again = Journal(Store(scratch), journal.unit, journal.repeat)
    take_over(journal, again, records[:taken_over])
    place.index = taken_over
    model = _RecordedModel(journal, _model_name(journal), place)
    sandbox = await study.sandboxes.open(seed=study.seed)
    parts = AgentParts(
        model,
        sandbox,
        _RecordedToolbox(journal, place),
        study.task,
        again,
        study.api_page,
        _RecordedExaminer(place, journal.blobs) if _examined(records) else None,  # type: ignore[arg-type]
        lambda after: place.record.notes,
    )
    agent = Agent(
        parts,
        study.settings,
        seed=study.seed,
        steering=_RecordedSteering(place, study.settings.max_rounds),
        on_round=_Comparison(journal, again, place, on_round),
    )
    try:
        divergence = await _divergence(agent, place)
    finally:
        await sandbox.close()
    return Replay(place.index, len(records), divergence, model.reworded)


async def _divergence(agent: Agent, place: _Place) -> str:
    """Run the agent; return where and how it differed from the record, "" if it did not."""
    try:
        await agent.run()
    except StudyPausedError:
        pass
    except DivergedError as error:
        return f"round {place.index + 1}: {error.message}"
    except ToolsBrokenError as broken:
        return f"round {place.index + 1}: {broken.fault.message}"
    return "" if place.over else f"round {place.index + 1}: the replay ended before it."


def _examined(records: Sequence[RoundRecord]) -> bool:
    return any(record.review is not None for record in records)


def _model_name(journal: Journal) -> str:
    """Return the name under which the interpreter's calls were recorded."""
    for call in journal.calls():
        if call.role == "interpreter":
            return call.model
    raise DivergedError("no call of the interpreter is on record.")


def _difference(recorded: Any, came_out: Any, path: str = "") -> str:
    """Return the first place where two records differ, in words."""
    if isinstance(recorded, dict) and isinstance(came_out, dict):
        for key in sorted(recorded.keys() | came_out.keys()):
            if recorded.get(key) != came_out.get(key):
                return _difference(recorded.get(key), came_out.get(key), f"{path}.{key}".lstrip("."))
    if isinstance(recorded, list) and isinstance(came_out, list):
        for index, (one, other) in enumerate(zip(recorded, came_out, strict=False)):
            if one != other:
                return _difference(one, other, f"{path}[{index}]")
    shown = [json.dumps(value, ensure_ascii=False)[:200] for value in (recorded, came_out)]
    return f"{path} was {shown[0]}, now {shown[1]}."
