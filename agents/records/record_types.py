"""The types of records, as far as a command relies on them. Other fields are kept and shown as the text they
are.

A record may have been made by a stranger, or by an older version: what is missing has a default, what is
there must be of its type. `checked` returns the record itself, so that nothing is lost on the way.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints, ValidationError

from agents.records.run_files import damaged
from agents.records.store import Store

ImageId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,64}$")]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Number = Annotated[float, Field(strict=True)]
"""May be NaN or infinite, which Python writes into JSON."""
Interval = Annotated[list[Number], Field(min_length=2, max_length=2)]


class Record(BaseModel):
    """A JSON object on disk."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)


class Manifest(Record):
    """What a run is about, `manifest.json`."""

    command: str = ""
    model: str | None = None
    layer: str = ""
    unit: str = ""
    units: list[str] = []
    layers: list[str] = []
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    profile: str | None = None
    config: str | None = None
    person: str = ""
    from_round: Annotated[int, Field(ge=1)] = 1
    settings: dict[str, Any] = {}


class UsageRecord(Record):
    """Tokens and dollars of one role."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    prompt_tokens: Count = 0
    cached_tokens: Count = 0
    completion_tokens: Count = 0
    requests: Count = 0
    dollars: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    estimated: bool = False
    unpriced: Count = 0


class Trial(Record):
    """One image of a test."""

    image: ImageId
    activation: Number
    label: str | None = None


class Evidence(Record):
    """The test of an answer on fresh images."""

    kind: str = ""
    auroc: Number | None = None
    auroc_interval: Interval | None = None
    e_value: Number | None = None
    margin: Number | None = None
    mean_positive: Number | None = None
    mean_control: Number | None = None
    n_positive: Count | None = None
    n_control: Count | None = None
    images_made: Count = 0
    positives: list[Trial] = []
    controls: list[Trial] = []


class Exemplar(Record):
    """One of the strongest images of the data set."""

    image: ImageId
    source: ImageId | None = None
    activation: Number | None = None


class RepeatedStudy(Record):
    """One of several studies of a unit, as the pooled result tells of it."""

    number: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0, lt=2**64)] | None = None
    labels: list[str] = []
    verdict: str = ""
    auroc: Number | None = None
    rounds: Count = 0


class AgreementRecord(Record):
    """How far several studies of a unit agree."""

    value: Number | None = None
    studies: Count = 0
    labelled: Count = 0
    pairs: list[dict[str, Any]] = []


class PoolingRecord(Record):
    """What the aggregator of several studies reads, `pooling.json`."""

    evidence: str
    agreement: AgreementRecord


class StudyResult(Record):
    """A unit's result, `done.json`."""

    unit: str
    task: str = "describe"
    status: str = "failed"
    label: str | None = None
    labels: list[str] = []
    answered: list[str] = []
    description: str | None = None
    fields: dict[str, Any] = {}
    confirmed: bool | None = None
    evidence: Evidence | None = None
    card: dict[str, Any] | None = None
    background: dict[str, Any] | None = None
    rounds: Count = 0
    images_made: Count = 0
    images_tested: Count = 0
    exemplars: list[Exemplar] = []
    usage: dict[str, UsageRecord] = {}
    in_doubt: list[str] = []
    repeats: list[RepeatedStudy] = []
    agreement: AgreementRecord | None = None
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    facts: dict[str, Any] = {}


class Reply(Record):
    """What the model said in a round."""

    text: str
    model: str = ""
    usage: UsageRecord = UsageRecord()


class Toolbox(Record):
    """What a resumed agent must know."""

    images_made: Count = 0
    observations: Count = 0
    measured: dict[ImageId, Number] = {}
    activation_threshold: Number | None = None
    log: list[list[dict[str, Any]]] = []
    provenance: dict[ImageId, Any] = {}


class ReviewRecord(Record):
    """What the examiner said of an answer."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    accepted: bool
    objection: str
    evidence: Evidence
    labels: list[str] | None = None
    shown: list[ImageId] = []


class ShownImage(Record):
    """An image in an observation."""

    image: ImageId


class RoundRecord(Record):
    """A finished round, `rounds/0001.json`."""

    round: Annotated[int, Field(ge=1)]
    reply: Reply
    hypotheses: list[str] = []
    program: str | None = None
    outcome: dict[str, Any] | None = None
    observation: list[str | ShownImage] = []
    verdict: ReviewRecord | None = None
    answered: bool = False
    last: bool = False
    demanded: bool = False
    toolbox: Toolbox = Toolbox()
    sandbox: list[dict[str, Any]] | None = None


class FailureReason(Record):
    """The error that ended a study."""

    type: str
    message: str
    fix: str = ""


class FailureRecord(Record):
    """How an attempt failed, `failed-<n>.json`."""

    unit: str = ""
    error: FailureReason


class SurveyRecord(Record):
    """What a fixed design measured, `survey.json`."""

    images: Count
    found: dict[str, Any]
    finding: dict[str, str] | None = None


class CallRecord(Record):
    """A call that is about to be sent, `calls/<key>.request-<n>`."""

    role: str = ""
    model: str = ""
    dollars: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    tokens: Count = 0


class AnswerRecord(Record):
    """What a model answered, `calls/<key>.answer`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    text: str
    finish: str = "stop"
    usage: UsageRecord = UsageRecord()
    model: str = ""
    thoughts: str = ""
    notes: list[str] = []


class EvaluationRow(Record):
    """What a unit's labels predict, `evaluation/<unit>-<digest>.json`."""

    unit: str
    layer: str
    labels: dict[str, str]


class Judgement(Record):
    """A person's choice, `judgements/<judge>/<question>.json`."""

    judge: str
    unit: str
    methods: Annotated[list[str], Field(min_length=2, max_length=2)]
    choice: str
    won: str


R = TypeVar("R", bound=Record)


def checked(kind: type[R], record: dict[str, Any], store: Store, key: str) -> dict[str, Any]:
    """Return the record that was read under a key, as it is.

    Raises:
        RecordError: If it is not of its type: the message names the file and the field.
    """
    try:
        kind.model_validate(record)
    except ValidationError as error:
        raise damaged(store.root / key, error) from error
    return record


def read_record(store: Store, key: str, kind: type[R]) -> dict[str, Any] | None:
    """Return a record that is of its type, None if there is none.

    Raises:
        RecordError: If it cannot be read, is damaged, or not of its type.
    """
    record = store.read_object(key)
    return None if record is None else checked(kind, record, store, key)
