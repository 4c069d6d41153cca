"""What `audit.json` holds, by field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from experiments.audit.carriers.record import CarrierSection
from experiments.audit.claims import Disagreement, TextClaims
from experiments.audit.context_survey import ContextEffect, Shown
from experiments.audit.real.audit import RealSection

VERSION = 2
"""Records of version 1 have no such field, and nothing of real images, of reach, of the model and the
profile.
"""


@dataclass(frozen=True)
class AuditRecord:
    """An audit of classes. What is by class is keyed by its name in the audit.

    `effects` come surest first; `detectable` is the smallest difference that would have been found, of
    classes that were tested; `usual` the mean probability in ordinary contexts; `out_of_reach` says why of
    classes that the first look did not reach. `values` are the probabilities of the screen by context,
    `fresh` and `rest` those of new images, `ordinary` the contexts that did not stand out, `undrawn` those
    without images. `lowest`, `telling` and `typical` are images that are kept. `answers` are the agents'
    words, `claims` what these say, `disagreements` where they and the figures part. `real` is None where no
    real images were looked at, and `carriers` where no units were looked at that may carry the findings.
    """

    model: str = ""
    profile: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    effects: list[ContextEffect] = field(default_factory=list)
    detectable: dict[str, float] = field(default_factory=dict)
    usual: dict[str, float] = field(default_factory=dict)
    out_of_reach: dict[str, str] = field(default_factory=dict)
    undrawn: dict[str, list[str]] = field(default_factory=dict)
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    ordinary: dict[str, list[str]] = field(default_factory=dict)
    fresh: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    rest: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    lowest: dict[str, list[Shown]] = field(default_factory=dict)
    telling: dict[str, list[Shown]] = field(default_factory=dict)
    typical: dict[str, list[Shown]] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    claims: dict[str, TextClaims] = field(default_factory=dict)
    disagreements: list[Disagreement] = field(default_factory=list)
    real: RealSection | None = None
    carriers: CarrierSection | None = None
    experiment: str = field(default="audit", kw_only=True)
    version: int = field(default=VERSION, kw_only=True)

    @property
    def biased(self) -> list[ContextEffect]:
        """The effects that are claimed."""
        return [effect for effect in self.effects if effect.biased]

    def effects_of(self, class_name: str) -> Sequence[ContextEffect]:
        """Return the effects of one class."""
        return [effect for effect in self.effects if effect.class_name == class_name]

    def highest(self, class_name: str) -> float:
        """Return the largest probability of a class in the screen: where it is tiny, it is never
        recognized.
        """
        return max((value for values in self.values[class_name].values() for value in values), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values, each effect with whether it is claimed as a bias."""
        effects = [asdict(effect) | {"biased": effect.biased} for effect in self.effects]
        return asdict(self) | {"effects": effects}
