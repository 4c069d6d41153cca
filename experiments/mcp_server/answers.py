"""What tools answer: typed values that a client can read as data, without pixels."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

StudyPhase = Literal["starting", "ready", "running", "testing", "ended", "failed", "closed"]
"""`ready`: the next call is awaited; `testing`: the critic tests an answer. The others say what they are."""


class ToolAnswer(BaseModel):
    """Its fields and their docstrings become the schema that clients are shown."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class SeenImage(ToolAnswer):
    """An image that a client was shown, by the name under which it can be used again."""

    name: str
    activation: float | None
    """What the unit gave for it, to two decimals; null where it was not measured."""
    note: str
    """The prompt or instruction that made it, or why it was chosen."""


class BudgetLeft(ToolAnswer):
    """What a study may still use; null is no limit."""

    rounds: int
    """Experiments and answers; the last must be an answer."""
    images: int | None
    """Images to generate or edit."""
    descriptions: int | None
    """Descriptions and summaries."""
    interventions: int | None
    """Passes of an image with an intervention."""


class OutcomeFigure(ToolAnswer):
    """One figure of the evidence, in words."""

    name: str
    value: str


class OutsideOutcome(ToolAnswer):
    """How a study ended."""

    label: str | None
    headline: str
    """The label, or what was found in place of one."""
    verdict: str
    meaning: str
    """The verdict in a sentence."""
    reason: str
    figures: list[OutcomeFigure]
    report: str | None
    """The unit's page on the server's machine."""


class StudyUpdate(ToolAnswer):
    """How a study stands after a call."""

    study: str
    state: StudyPhase
    doing: str
    """What is being done, in words."""
    rounds: int
    """Finished rounds."""
    left: BudgetLeft | None
    must_answer: bool
    """Only `answer` is left."""
    images: list[SeenImage] = []
    """The images that this result shows, in order."""
    outcome: OutsideOutcome | None = None


class StudyLine(ToolAnswer):
    """One study of this server."""

    study: str
    layer: str
    unit: str
    state: StudyPhase
    rounds: int


class ServerStatus(ToolAnswer):
    """What this server studies, and what it is doing."""

    network: str
    run: str
    """The run directory."""
    doing: str
    studies: list[StudyLine]


class LayerLine(ToolAnswer):
    """One layer of the network."""

    name: str
    units: int
    """They are numbered from 0."""
    kind: str


class LayersFound(ToolAnswer):
    """Layers of the network, in the order of the forward pass."""

    layers: list[LayerLine]
    found: int
    """How many there are of that name; more than are listed."""


class LabelLine(ToolAnswer):
    """A unit of this run that has a result."""

    layer: str
    unit: str
    label: str
    verdict: str
    interpreter: str
    """Who studied it: a name that a client gave itself."""


class LabelsFound(ToolAnswer):
    """Units whose label or description holds all words that were asked for."""

    labels: list[LabelLine]
    searched: int
    """Units with a result."""
