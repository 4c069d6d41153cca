"""Limits of studies, of what they may spend, and of how a role is measured."""

from __future__ import annotations

from pydantic import Field, field_validator

from actors.settings import Settings

_FEWEST_CONTROLS = 19
"""Random changes with which the least p is 0.05."""
MOST_CONTROLS = 1000
"""More than there are random changes of a unit."""


class InterpreterSettings(Settings):
    """Limits of one study."""

    max_rounds: int = Field(15, ge=1, le=1000)
    """Replies of the model in one study; before the last one a final answer is demanded."""
    max_images: int | None = Field(1000, ge=1)
    """Images that one study may generate or edit; null is no limit."""
    max_images_shown: int = Field(40, ge=0)
    """Images of one observation that the model is shown; the rest is counted."""
    max_text_shown: int = Field(20_000, ge=100)
    """Characters of one observation's printed output that the model is shown, and of what it displays and
    logs.
    """
    max_observations: int | None = Field(1000, ge=1)
    """Images of one study that the observers may describe, a summary of several counted as one; null is no
    limit.
    """
    max_interventions: int | None = Field(1000, ge=0)
    """Images of one study that may pass with another value of the unit (`system.intervene`), each counted for
    every pass; null is no limit. With 0 agents neither have the call nor read of it.
    """
    max_tokens: int = Field(4096, ge=1)
    """Longest reply of the model, in tokens."""
    temperature: float | None = Field(None, ge=0)
    """Sampling temperature; null leaves the endpoint's own."""
    max_examinations: int = Field(2, ge=1)
    """Answers that may be sent back by the examiner before the last one stands, with the verdict that its
    figures give.
    """

    @property
    def interventions(self) -> bool:
        """Whether programs may intervene."""
        return self.max_interventions != 0


class BudgetSettings(Settings):
    """Limits; null is none. A limit in dollars needs a known price of every model that charges."""

    dollars: float | None = Field(None, gt=0)
    """US dollars for language models and hosted images."""
    tokens: int | None = Field(None, ge=1)
    """Prompt and completion tokens."""
    requests: int | None = Field(None, ge=1)
    """Attempts at endpoints of language models."""
    images: int | None = Field(None, ge=1)
    """Images generated and edited."""
    hours: float | None = Field(None, gt=0)
    """Wall-clock hours of work: a run's over all its interruptions, a unit's since it was last taken up."""

    @property
    def limited(self) -> bool:
        """Whether there is any limit to keep."""
        return any(getattr(self, name) is not None for name in type(self).model_fields)


class RoleSettings(Settings):
    """How a unit's role is measured at the end of its study."""

    controls: int = Field(20, ge=0, le=MOST_CONTROLS - 1)
    """Random changes, as large as the unit's own, that its largest effect is compared with; 0 compares with
    none. The least p is 1 / (1 + controls).
    """

    @field_validator("controls")
    @classmethod
    def _enough(cls, value: int) -> int:
        if 0 < value < _FEWEST_CONTROLS:
            raise ValueError(
                f"is 0 or at least {_FEWEST_CONTROLS}: with fewer, no effect could be told from random "
                "changes"
            )
        return value

    control_images: int = Field(5, ge=1, le=100)
    """Exemplars that each random change is made on, the strongest."""
    label_images: int = Field(15, ge=0, le=100)
    """Fresh images of the label, and as many of other things, on which the effect is looked for."""
