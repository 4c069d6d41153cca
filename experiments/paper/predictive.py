"""How well labels predict a unit: the paper's predictive protocol, and measures that it lacks (CoSy,
NeuronEval).

Several methods label the same unit. Their prompts are pooled, every label is paired with the pooled prompts
that it entails most and least, and the unit answers. Nothing here knows where labels or units come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from actors.errors import BackendError
from actors.generation.base import MadeImage
from actors.images import Image
from actors.serving.backend import Priority
from agents.evidence.statistics import auroc, auroc_interval, average_precision, standardized_margin
from agents.study.faults import raise_infrastructure_errors
from experiments.paper.prompts import PromptWriter
from tools.subject import Subject
from tools.toolbox import Studio, seed_for

ACTIVE = 0.1
"""Share of the probe set's images, the strongest, on which a unit counts as active (F1, IoU, AUPRC)."""


class Witness(Protocol):
    """Says what images show, without knowing why."""

    async def shows(self, questions: Sequence[tuple[Image, str]]) -> list[bool | None]: ...


@dataclass(frozen=True)
class Evaluation:
    """Who takes part, and how many images. `controls` are data-set images that no agent has seen."""

    studio: Studio
    writer: PromptWriter
    witness: Witness
    controls: Sequence[Image]
    cosy: int = 20
    """Images of each label for CoSy's measures; 50 in its paper."""
    seed: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What measures depend on besides, as plain JSON values: who makes the images and bears witness, and how.
    """


async def compare(evaluation: Evaluation, subject: Subject, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return the measures of each method's label of one unit, as plain JSON values.

    By method: `positive` and `negative` (mean activations of the paired prompts), `auroc` with interval,
    `margin` (positive against controls, in standard deviations of the controls), CoSy's `cosy_auc`,
    `cosy_mad` and its two-sided Mann-Whitney `cosy_p`, and over the probe set `pearson`, `auprc`, `f1`, `iou`
    (None where the witness finds the label in all images or in none).

    Raises:
        BackendError: If prompts or images could not be made.
    """
    prompts: list[str] = []
    for label in dict.fromkeys(labels.values()):
        positive, neutral = await evaluation.writer.write(label)
        prompts += [*positive, *neutral]
    prompts = list(dict.fromkeys(prompts))
    images = await _made(evaluation, subject, prompts, "evaluation")
    values = await _measured(subject, images)
    baseline = await _measured(subject, evaluation.controls)
    found: dict[str, dict[str, Any]] = {}
    for method, label in labels.items():
        same = next((name for name in found if labels[name] == label), None)
        if same is not None:
            found[method] = found[same]
            continue
        most, least = await evaluation.writer.pair(label, prompts)
        up, down = values[most], values[least]
        value = auroc(list(up), list(down))
        found[method] = {
            "label": label,
            "positive": float(up.mean()),
            "negative": float(down.mean()),
            "auroc": value,
            "auroc_interval": list(auroc_interval(value, len(up), len(down))),
            "margin": standardized_margin(list(up), list(baseline)),
            **await _cosy(evaluation, subject, label, baseline),
            **await _probe(evaluation, [*evaluation.controls, *images], np.r_[baseline, values], label),
        }
    return {"prompts": prompts, "activations": [float(v) for v in values], "methods": found}


async def _cosy(evaluation: Evaluation, subject: Subject, label: str, baseline: np.ndarray) -> dict[str, Any]:
    """Return CoSy's measures: images of a label's name against the controls."""
    from scipy import stats

    parts = label.split(" OR ")
    prompts = [f"realistic photo of a close up of {parts[i % len(parts)]}" for i in range(evaluation.cosy)]
    values = await _measured(subject, await _made(evaluation, subject, prompts, "cosy"))
    return {
        "cosy_auc": auroc(list(values), list(baseline)),
        "cosy_mad": standardized_margin(list(values), list(baseline)),
        "cosy_p": float(stats.mannwhitneyu(values, baseline, alternative="two-sided").pvalue),
    }


async def _probe(
    evaluation: Evaluation, images: Sequence[Image], values: np.ndarray, label: str
) -> dict[str, float | None]:
    """Return measures over a whole probe set, which fall when a label misses images or claims too many."""
    parts = label.split(" OR ")
    told = await evaluation.witness.shows([(image, part) for image in images for part in parts])
    shown = [[told[i * len(parts) + j] for j in range(len(parts))] for i in range(len(images))]
    known = np.array([any(each) or all(one is not None for one in each) for each in shown])
    concept = np.array([any(each) for each in shown])[known]
    return against_concept(values[known], concept)


def against_concept(values: np.ndarray, concept: np.ndarray) -> dict[str, float | None]:
    """Return pearson, auprc, f1 and iou of activations float (N,) and a concept's presence bool (N,).

    For F1, IoU and AUPRC the unit is active on the strongest `ACTIVE` of the images; the concept is the
    prediction.
    """
    if len(values) < 2 or concept.all() or not concept.any() or np.ptp(values) == 0:
        return {"pearson": None, "auprc": None, "f1": None, "iou": None}
    count = max(1, round(ACTIVE * len(values)))
    active = values >= np.sort(values)[-count]
    hits, claimed, wanted = int((active & concept).sum()), int(concept.sum()), int(active.sum())
    scores = concept.astype(float)
    return {
        "pearson": float(np.corrcoef(values, scores)[0, 1]),
        "auprc": average_precision(list(scores[active]), list(scores[~active])) if not active.all() else None,
        "f1": 2 * hits / (claimed + wanted),
        "iou": hits / (claimed + wanted - hits),
    }


async def _made(
    evaluation: Evaluation, subject: Subject, prompts: Sequence[str], purpose: str
) -> list[Image]:
    seeds = [seed_for(evaluation.seed, purpose, prompt, number) for number, prompt in enumerate(prompts)]
    made = await evaluation.studio.generate(list(prompts), seeds, agent=subject.id)
    raise_infrastructure_errors(made)
    failed = [each for each in made if not isinstance(each, MadeImage)]
    if failed:
        raise BackendError(
            f"{len(failed)} of {len(made)} images for the evaluation could not be made: {failed[0]}"
        )
    return [each.image for each in made if isinstance(each, MadeImage)]


async def _measured(subject: Subject, images: Sequence[Image]) -> np.ndarray:
    responses = await subject.measure(list(images), Priority.CONFIRMATION)
    return np.array([each.activation for each in responses])
