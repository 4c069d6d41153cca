"""What `audit.json` holds, by field."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from experiments.audit.real_audit import RealSection
from experiments.runs.context_survey import Shown

VERSION = 2
"""Records of version 1 have no such field, and nothing of real images, of reach, of the model and the
profile.
"""


@dataclass(frozen=True)
class AuditRecord:
    """An audit of classes. What is by class is keyed by its name in the audit.

    `effects` are `contexts.ContextEffect` with `biased`, surest first; `detectable` is the smallest
    difference that would have been found, of classes that were tested; `usual` the mean probability in
    ordinary contexts; `out_of_reach` says why of classes that the first look did not reach. `values` are the
    probabilities of the screen by context, `fresh` and `rest` those of new images, `ordinary` the contexts
    that did not stand out, `undrawn` those without images. `lowest` and `telling` are images that are kept.
    `answers` are the agents' words, `disagreements` where they and the figures part. `real` is None where no
    real images were looked at.
    """

    model: str
    profile: str
    facts: dict[str, Any]
    seed: int
    effects: list[dict[str, Any]]
    detectable: dict[str, float]
    usual: dict[str, float]
    out_of_reach: dict[str, str]
    undrawn: dict[str, list[str]]
    values: dict[str, dict[str, list[float]]]
    ordinary: dict[str, list[str]]
    fresh: dict[str, dict[str, list[float]]]
    rest: dict[str, dict[str, list[float]]]
    lowest: dict[str, list[Shown]]
    telling: dict[str, list[Shown]]
    answers: dict[str, str]
    disagreements: list[dict[str, Any]]
    real: RealSection | None = None
    experiment: str = field(default="audit", kw_only=True)
    version: int = field(default=VERSION, kw_only=True)
