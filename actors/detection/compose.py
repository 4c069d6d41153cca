"""Synthetic neurons: concepts combined into one unit whose ground truth is known (MAIA 4.2 and C2).

Pure functions from the detections of each concept in one image to the unit's value and mask. Two modes,
because the paper and its published code differ:

| operator | `paper` | `authors-code` |
|---|---|---|
| A | A's value and mask | same |
| A OR B | masks merged; the mean of the values of those present | the larger value |
| A\\|B | A's value and mask if both are present | same; when off, a small random value |
| A AND B | masks merged, the mean of the values, if both are present (not in the paper) | as A\\|B |
| A AND NOT B | A's value and mask if B is absent (not in the paper) | same; when off, a small random value |

Off is 0.0 and an empty mask in `paper`. In `authors-code` the operators that can be off answer U(0, 0.1) to
two decimals instead; here that draw is fixed by image and formula, so that a repeated question has one
answer. Each concept's value is its own: the published OR lets an absent concept inherit the other's
unaveraged sum of box scores, so that it depends on the order of concepts and can exceed 1. That is a bug, not
a mode.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from actors.detection.base import Detection
from actors.detection.settings import Mode
from actors.errors import UsageError

Operator = Literal["mono", "or", "given", "and", "and-not"]

_WORDS: dict[Operator, str] = {"or": " OR ", "given": "|", "and-not": " AND NOT ", "and": " AND "}
_OFF_MAX = 0.1


@dataclass(frozen=True, slots=True)
class Formula:
    """The selectivity of a synthetic neuron: an operator over concepts named in words."""

    operator: Operator
    concepts: tuple[str, ...]

    def __post_init__(self) -> None:
        if any(not concept.strip() for concept in self.concepts):
            raise UsageError(f"a concept must have words, got {self.concepts}")
        wanted = {"mono": 1, "given": 2, "and-not": 2}.get(self.operator)
        if wanted is None and len(self.concepts) < 2:
            raise UsageError(f"{self.operator} needs at least two concepts, got {self.concepts}")
        if wanted is not None and len(self.concepts) != wanted:
            raise UsageError(f"{self.operator} needs {wanted} concepts, got {self.concepts}")

    @classmethod
    def parse(cls, text: str) -> Formula:
        """Return the formula written as `dog`, `dog OR cat`, `dog|leash`, `dog AND cat` or `dog AND NOT cat`.

        Raises:
            UsageError: If a concept has no words, or operators are mixed.
        """
        spaced = f" {text} "  # so that a missing first or last concept is seen
        for operator, word in _WORDS.items():
            parts = [part.strip() for part in spaced.split(word)]
            if len(parts) > 1:
                if any(re.search(r"\||\b(OR|AND)\b", part) for part in parts):
                    raise UsageError(f"{text!r} mixes operators.", "Use one of OR, |, AND, AND NOT.")
                return cls(operator, tuple(parts))
        return cls("mono", (text.strip(),))

    def __str__(self) -> str:
        return self.concepts[0] if self.operator == "mono" else _WORDS[self.operator].join(self.concepts)


def compose(
    formula: Formula, detections: Sequence[Detection], mode: Mode = "paper", image_id: str = ""
) -> Detection:
    """Return the unit's value in [0, 1] and its mask, from one detection for each concept of `formula`.

    `image_id` fixes the draw of the off state in `authors-code`.

    Raises:
        UsageError: If there is not one detection per concept, all of one image size.
    """
    if len(detections) != len(formula.concepts):
        raise UsageError(f"{formula} needs {len(formula.concepts)} detections, got {len(detections)}")
    if len({detection.mask.shape for detection in detections}) != 1:
        raise UsageError(f"detections must be of one image, got masks {[d.mask.shape for d in detections]}")
    first, *others = detections
    match formula.operator:
        case "mono":
            return Detection(first.score, first.mask)
        case "or":
            return _either(detections, mode)
        case "and" if mode == "paper":
            on = all(detection.present for detection in detections)
            return _either(detections, mode) if on else _off(formula, first, mode, image_id)
        case "given" | "and":
            on = first.present and all(detection.present for detection in others)
        case "and-not":
            on = first.present and not any(detection.present for detection in others)
    return Detection(first.score, first.mask) if on else _off(formula, first, mode, image_id)


def _either(detections: Sequence[Detection], mode: Mode) -> Detection:
    present = [detection for detection in detections if detection.present]
    if not present:
        return Detection(0.0, np.zeros_like(detections[0].mask))
    scores = [detection.score for detection in present]
    # fsum is exact, so the mean does not depend on the order of the concepts.
    score = max(scores) if mode == "authors-code" else math.fsum(scores) / len(scores)
    return Detection(score, np.logical_or.reduce([detection.mask for detection in present]))


def _off(formula: Formula, detection: Detection, mode: Mode, image_id: str) -> Detection:
    score = 0.0
    if mode == "authors-code":
        digest = hashlib.blake2b(f"{formula}\x1f{image_id}".encode(), digest_size=8).digest()
        score = round(int.from_bytes(digest, "big") / 2**64 * _OFF_MAX, 2)
    return Detection(score, np.zeros_like(detection.mask))
