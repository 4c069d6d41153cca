"""The types of everything that a run keeps on disk: one class for each kind of record.

A record is read with `load_record` and written with `encode_record`, so that both use the same type. What a
study measured is in the words of `agents.evidence`. `docs/formats.md` is made from these classes.

    manifest.json              Manifest            what the run is about
    plan.json                  WorkItem (agents.records.work), a list
    units/<unit>/done.json     StudyResult         and in it EvidenceRecord, Exemplar-, UsageRecord
    units/<unit>/rounds/*      RoundRecord         and in it Review, Reply-, Outcome-, ToolboxRecord ...
    units/<unit>/notes/*       NoteRecord
    units/<unit>/trials/*      PersonTrialRecord
    units/<unit>/role.json     RoleRecord
    units/<unit>/failed-*      FailureRecord
    units/<unit>/stopped.json  FailureRecord
    units/<unit>/survey.json   SurveyRecord
    units/<unit>/contexts.json ContextProposals
    units/<unit>/pooling.json  PoolingRecord       and in it AgreementRecord
    units/<unit>/calls/*       CallRecord, AnswerRecord
    units/<unit>/charged/*     UsageRecord
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, FiniteFloat, ValidationError

from actors.chat.reply import ChatReply, FinishReason, Usage
from actors.errors import MaiaError
from agents.critic.review import Review
from agents.evidence.evidence_record import EvidenceRecord, Finding
from agents.evidence.record import Count, ImageId, Number, Record, Seed
from agents.records.run_files import damaged
from agents.records.store import Store

Dollars = Annotated[FiniteFloat, Field(ge=0)]
LabelList = Annotated[list[str], Field(max_length=1000)]
"""Labels of one unit: tables and pages repeat for each what is known of the unit."""
MOST_CONTEXTS = 24
"""Contexts that may be proposed for a class."""
StudyStatus = Literal["answered", "no_answer", "refused", "measured", "failed"]
MEASURED: StudyStatus = "measured"


class Manifest(Record):
    """What a run is about: `manifest.json`. Commands add fields of their own."""

    command: str = ""
    """The command that began the run."""
    model: str | None = None
    """The network."""
    layer: str = ""
    unit: str = ""
    """As it was asked for, of a run of one unit."""
    units: list[str] = []
    """Ids of the units."""
    layers: list[str] = []
    seed: Seed = 0
    profile: str | None = None
    config: str | None = None
    person: str = ""
    """Who studies the unit in a session."""
    from_round: Annotated[int, Field(ge=1)] = 1
    """The first round that a branch does not share with the run it came from."""
    asked: str = ""
    """The words of the command line that name the units."""
    agents: str | bool | None = None
    """Which units are given agents, and of an audit whether any are."""
    repeat: Annotated[int, Field(ge=1)] = 1
    """Studies of each unit."""
    settings: dict[str, Any] = {}
    """The profile, as far as results depend on it."""

    def of_units(self, units: Iterable[str]) -> Manifest:
        """Return the manifest of a run of these units, by their ids."""
        return self.model_copy(update={"units": list(units)})


class UsageRecord(Record):
    """What one role, or one call for images, was charged: `charged/0001.json`, and part of other records."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    prompt_tokens: Count = 0
    cached_tokens: Count = 0
    completion_tokens: Count = 0
    requests: Count = 0
    dollars: Dollars = 0.0
    estimated: bool = False
    """The endpoint did not report tokens."""
    unpriced: Count = 0
    """Requests and images whose price is unknown."""

    @classmethod
    def of(cls, usage: Usage) -> UsageRecord:
        return cls(**{name: getattr(usage, name) for name in cls.model_fields})

    def usage(self) -> Usage:
        return Usage(**{name: getattr(self, name) for name in type(self).model_fields})


class ExemplarRecord(Record):
    """One of the strongest images of the data set."""

    image: ImageId
    """Masked to the part that drives the unit."""
    source: ImageId | None = None
    """The whole image."""
    activation: Number | None = None


class RepeatRecord(Record):
    """One of several studies of a unit, as the pooled result lists it."""

    number: Annotated[int, Field(ge=1)]
    seed: Seed | None = None
    status: str | None = None
    labels: list[str] = []
    verdict: str = ""
    auroc: Number | None = None
    rounds: Count = 0


class AgreementRecord(Record):
    """How far several studies of a unit agree."""

    value: Number | None = None
    """Mean over pairs of studies, 0.5 is chance; null without a pair."""
    studies: Count = 0
    labelled: Count = 0
    """Studies with a label that was tested."""
    pairs: list[dict[str, Any]] = []


class PoolingRecord(Record):
    """What the aggregator of several studies reads: `pooling.json`."""

    evidence: str
    """The text that it is shown."""
    agreement: AgreementRecord


class FailureReason(Record):
    """The error that ended a study, or cost it a part of its result."""

    type: str
    message: str
    fix: str = ""

    @classmethod
    def of(cls, error: Exception) -> FailureReason:
        message, fix = (error.message, error.fix) if isinstance(error, MaiaError) else (str(error), "")
        return cls(type=type(error).__name__, message=message, fix=fix)


class RoleRecord(Record):
    """What a unit does to its network's outputs: `role.json`, and part of the result."""

    status: Literal["known", "none", "failed"]
    """`none`: there is no role of such a unit, and `reason` says why."""
    reason: str = ""
    error: FailureReason | None = None
    """Why it could not be measured."""
    found: Any = None
    """The outputs and figures, if known (`agents.evidence.role.Role`)."""


class ProposalRecord(Record):
    """Labels that an embedding proposed, and what the critic said of them before an agent was asked."""

    labels: list[str]
    verdict: str


class StudyResult(Record):
    """A unit's result: `done.json`; of a label that the critic tested without an agent, `proposal.json`."""

    unit: str
    """The unit's id."""
    task: str = "describe"
    """The question that was asked."""
    status: StudyStatus = "failed"
    """How the study ended: with an answer, without one, because the model refused, without an agent, by a
    fault.
    """
    label: str | None = None
    """The labels in one text."""
    labels: LabelList = []
    """Labels as they were accepted: the simplest that the numbers could not reject."""
    answered: LabelList = []
    """Labels as the agent gave them."""
    description: str | None = None
    fields: dict[str, Any] = {}
    """What else the task asked for, by name."""
    verdict: str = ""
    """What the label is worth ([verdicts](evidence.md#verdicts))."""
    confirmed: bool | None = None
    """Whether the verdict is *confirmed*; null where no label was tested conclusively."""
    evidence: EvidenceRecord | None = None
    """The tests and their figures ([evidence](evidence.md))."""
    card: dict[str, Any] | None = None
    """The label card: kind of unit where its labels hold, scores, warnings."""
    role: RoleRecord | None = None
    """What the unit does to the network ([interventions](interventions.md#the-role-of-a-studied-unit)); null
    if it was not asked for.
    """
    background: dict[str, Any] | None = None
    """Activation over the data set: `mean`, `std`, `maximum`, `n_images`, and a `histogram` (`low`, `high`,
    `counts`); `unsampled` says why there is none.
    """
    rounds: Count = 0
    images_made: Count = 0
    """Images that the agent made."""
    images_tested: Count = 0
    """Images that the critic made."""
    exemplars: list[ExemplarRecord] = []
    usage: dict[str, UsageRecord] = {}
    """Tokens and dollars by role."""
    in_doubt: list[str] = []
    """Calls of which an attempt was sent, perhaps billed, and never answered here."""
    repeats: list[RepeatRecord] = []
    """Of a unit that was studied several times (`--repeat`): each study."""
    agreement: AgreementRecord | None = None
    """How far those studies agree ([sweeps](sweeps.md#several-studies-of-a-unit))."""
    tier: Literal["agent", "embedding"] = "agent"
    """What named the unit: an agent, or an embedding whose label the critic tested ([tiers](tiers.md))."""
    why: str = ""
    """Why the unit was, or was not, given an agent; empty where all units are."""
    proposal: ProposalRecord | None = None
    """Of a unit that was given an agent after the test of an embedding's label: that label."""
    seed: Seed = 0
    facts: dict[str, Any] = {}
    """Model, fingerprints, versions, who reasoned, sandbox tier."""

    def total_usage(self) -> Usage:
        """Return what all roles were charged together."""
        return sum((usage.usage() for usage in self.usage.values()), Usage())


class ReplyRecord(Record):
    """What a model answered."""

    text: str
    finish: FinishReason = "stop"
    usage: UsageRecord = UsageRecord()
    model: str = ""
    thoughts: str = ""
    notes: list[str] = []

    @classmethod
    def of(cls, reply: ChatReply) -> ReplyRecord:
        """Return the record of a reply; thoughts and notes that it does not have are left out."""
        optional: dict[str, Any] = {"thoughts": reply.thoughts, "notes": list(reply.notes)}
        return cls(
            text=reply.text,
            finish=reply.finish,
            usage=UsageRecord.of(reply.usage),
            model=reply.model,
            **{name: value for name, value in optional.items() if value},
        )

    def reply(self) -> ChatReply:
        return ChatReply(
            self.text,
            self.finish,
            self.usage.usage(),
            self.model,
            thoughts=self.thoughts,
            notes=tuple(self.notes),
        )


class AnswerRecord(ReplyRecord):
    """The answer to a call: `calls/<key>.answer`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class CallRecord(Record):
    """A call that is about to be sent: `calls/<key>.request-<n>`."""

    role: str = ""
    """Who asks: `interpreter` or `observer`."""
    model: str = ""
    turns: Count = 0
    """Messages of the conversation."""
    dollars: Dollars = 0.0
    """The most that it may cost."""
    tokens: Count = 0
    """The most that it may take."""
    unpriced: Count = 0


class LogEntryRecord(Record):
    """An image in an agent's log of experiments."""

    title: str
    activation: Number | None
    image: ImageId
    text: str


class ToolboxRecord(Record):
    """What a resumed agent's toolbox must know."""

    draws: dict[str, Count] = {}
    """Images drawn so far, by prompt."""
    images_made: Count = 0
    observations: Count = 0
    interventions: Count = 0
    """Images that passed with another value of the unit."""
    measured: dict[ImageId, Number] = {}
    """What the unit answered to each image."""
    activation_threshold: Number | None = None
    log: list[list[LogEntryRecord]] = []
    provenance: dict[ImageId, str] = {}
    """How each image came about, as JSON text."""


class ShownImage(Record):
    """An image in an observation."""

    image: ImageId


class OutcomeRecord(Record):
    """How a program ended."""

    status: str = ""
    error: str = ""
    output: str = ""
    output_truncated: bool = False
    output_lost: bool = False
    """The program closed its output or put another in its place."""
    calls: Count = 0
    """Tool calls that were answered."""
    notes: list[str] = []
    tier: str = ""
    """How the sandbox was walled."""


class ProgramRecord(Record):
    """A program and what its calls were answered, from which a sandbox is rebuilt."""

    program: str = ""
    status: str = ""
    calls: list[dict[str, Any]] = []


class NoteRecord(Record):
    """What a person wrote to a study: `notes/0001.json`, and part of the round that read it."""

    number: Annotated[int, Field(ge=1, le=9999)]
    """Notes of a unit are numbered from 1."""
    text: Annotated[str, Field(min_length=1, max_length=4_000)]
    person: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f\u2028\u2029]{1,60}$")] = "person"
    """It stands unquoted before the note: one line."""


class PersonTrialRecord(Record):
    """What a person tried on a unit's page, and what the unit answered: `trials/0001.json`."""

    number: Annotated[int, Field(ge=1, le=9999)]
    """Trials of a unit are numbered from 1."""
    person: str = "person"
    kind: Literal["prompt", "photo", "crop", "edit", "ablate"]
    """Where the image is from; of `ablate`, that the unit was set to zero on it."""
    words: str = ""
    """The prompt or the instruction."""
    image: ImageId
    masked: ImageId | None = None
    """The image, darkened where the unit is not active."""
    activation: Number | None = None
    """Unknown until it was measured: the image is on record first, for it may have been paid for."""
    below: Number | None = None
    """Share of the data set's images, without those held out, whose activation is lower."""
    compared: Count = 0
    """Images that it was compared with."""
    parent: ImageId | None = None
    """The image that was cropped or edited."""
    parent_activation: Number | None = None
    box: Annotated[list[Number], Field(min_length=4, max_length=4)] | None = None
    """Of a crop: left, top, right and bottom, as shares of the image's width and height."""
    effects: Any = None
    """Of an ablation: `about`, `raised`, `lowered`, `floor` and `exact` of
    `tools.sandbox.child.effects.Effects`.
    """
    provenance: str = ""
    """How the image came about, as JSON text."""
    notes: list[str] = []
    """What the image maker said."""
    charged: UsageRecord | None = None


class RoundRecord(Record):
    """A finished round: `rounds/0001.json`."""

    round: Annotated[int, Field(ge=1)]
    reply: ReplyRecord
    hypotheses: list[str] = []
    program: str | None = None
    outcome: OutcomeRecord | None = None
    observation: list[str | ShownImage] = []
    """What the agent was shown: texts and images."""
    review: Review | None = Field(None, alias="verdict")
    """Of a round that answered."""
    answered: bool = False
    """The answer stands."""
    last: bool = False
    demanded: bool = False
    """A final answer was demanded."""
    toolbox: ToolboxRecord = ToolboxRecord()
    sandbox: list[ProgramRecord] | None = None
    """The programs that this round added to the sandbox's state; the first version wrote null for none."""
    notes: list[NoteRecord] = []
    """What people wrote to the study since the round before; the model read it before it replied."""


OUT_OF_BUDGET = "out of budget"
"""The status of a study that its budget stopped: it goes on with a larger one."""


class FailureRecord(Record):
    """How an attempt failed: `failed-<n>.json`; or what stopped a study that can go on: `stopped.json`."""

    unit: str = ""
    task: str = ""
    status: str = "failed"
    """"failed", or "out of budget" in `stopped.json`."""
    error: FailureReason

    @classmethod
    def of(cls, unit: str, task: str, error: MaiaError, status: str = "failed") -> FailureRecord:
        return cls(unit=unit, task=task, status=status, error=FailureReason.of(error))


class SurveyRecord(Record):
    """What a fixed design measured: `survey.json`."""

    images: Count
    """Images that were made for it."""
    found: dict[str, Any]
    """The measurements."""
    finding: Finding | None = None
    """Where no agent need be asked."""


class LeaseClaim(Record):
    """The process that holds a run directory: `leases/0001/claim.json`."""

    host: str | None = None
    pid: int | None = None
    machine: str = ""
    """One boot of one machine, and its view of processes; empty where that is unknown."""
    started: str = ""
    """When the process started, in the kernel's ticks."""


class ContextProposals(Record):
    """Contexts of a class that a model proposed before anything was measured: `contexts.json`."""

    class_name: str
    asked: Annotated[int, Field(ge=1, le=MOST_CONTEXTS)]
    """How many were asked for."""
    model: str = ""
    phrases: list[str]
    """They follow the class's name in a prompt."""
    left_out: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = []
    """Lines of the answer that were not taken, each with the reason."""


class EvaluationRow(Record):
    """What a unit's labels predict: `evaluation/<unit>-<digest>.json`."""

    unit: str
    layer: str
    labels: dict[str, str]


class Judgement(Record):
    """A person's choice: `judgements/<judge>/<question>.json`."""

    judge: str
    unit: str
    methods: Annotated[list[str], Field(min_length=2, max_length=2)]
    """The methods of the left and the right label."""
    labels: list[str] = []
    choice: str
    won: str
    """The chosen method; empty of a tie."""
    seconds: Number | None = None
    """How long the question was on the screen."""


R = TypeVar("R", bound=Record)


def load_record(store: Store, key: str, kind: type[R]) -> R | None:
    """Return a record of its type, None if there is none.

    Raises:
        RecordError: If it cannot be read, is damaged, or not of its type: the message names the file and the
            field.
    """
    values = store.read_object(key)
    if values is None:
        return None
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise damaged(store.root / key, error) from error


def encode_record(record: Record | dict[str, Any]) -> bytes:
    """Return the bytes of a record: the same for the same values."""
    values = record.to_json() if isinstance(record, Record) else record
    return json.dumps(values, sort_keys=True, indent=1, ensure_ascii=False).encode()
