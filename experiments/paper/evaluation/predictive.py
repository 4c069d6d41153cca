"""How well labels predict a unit: the paper's predictive protocol, and measures that it lacks (CoSy,
NeuronEval).

Several methods label the same unit. Their prompts are pooled, every label is paired with the pooled prompts
that it entails most and least, and the unit answers. Nothing here knows where labels or units come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from actors.errors import BackendError
from actors.generation.base import MadeImage
from actors.images import Image
from actors.serving.backend import Priority
from agents.critic.witness import Witness
from agents.evidence.statistics import auroc, auroc_interval, average_precision, standardized_margin
from agents.study.faults import raise_infrastructure_errors
from experiments.paper.evaluation.prompts import PromptWriter
from tools.subject import Subject
from tools.toolbox import Studio, seed_for

ACTIVE = 0.1
"""Share of the probe set's images, the strongest, on which a unit counts as active (F1, IoU, AUPRC)."""


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


@dataclass(frozen=True, slots=True)
class ProbeMeasures:
    """Measures over a whole probe set, which fall when a label misses images or claims too many.

    None where the witness finds the label in all images or in none.
    """

    pearson: float | None = None
    auprc: float | None = None
    f1: float | None = None
    iou: float | None = None


@dataclass(frozen=True, slots=True)
class LabelMeasures(ProbeMeasures):
    """How well a label predicts a unit.

    `positive` and `negative` are mean activations of the paired prompts; `margin` is positive against
    controls, in standard deviations of the controls; `cosy_auc` and `cosy_mad` are CoSy's, `cosy_p` its
    two-sided Mann-Whitney test.
    """

    label: str = field(kw_only=True)
    positive: float = field(kw_only=True)
    negative: float = field(kw_only=True)
    auroc: float = field(kw_only=True)
    auroc_interval: list[float] = field(kw_only=True)
    margin: float = field(kw_only=True)
    cosy_auc: float = field(kw_only=True)
    cosy_mad: float = field(kw_only=True)
    cosy_p: float = field(kw_only=True)


@dataclass(frozen=True)
class Predictions:
    """The pooled prompts with the unit's activations, and the measures of each method's label."""

    prompts: list[str]
    activations: list[float]
    methods: dict[str, LabelMeasures]


async def compare(evaluation: Evaluation, subject: Subject, labels: Mapping[str, str]) -> Predictions:
    """Return how well each method's label predicts one unit; the same label is measured once.

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
    probe = _Probe([*evaluation.controls, *images], np.r_[baseline, values])
    by_label: dict[str, LabelMeasures] = {}
    for label in dict.fromkeys(labels.values()):
        most, least = await evaluation.writer.pair(label, prompts)
        by_label[label] = await _measure_label(
            evaluation, subject, label, _Activations(values[most], values[least], baseline), probe
        )
    methods = {method: by_label[label] for method, label in labels.items()}
    return Predictions(prompts, [float(value) for value in values], methods)


@dataclass(frozen=True)
class _Activations:
    """Activations, float (n,), on the prompts that a label entails most and least, and on the controls."""

    most: np.ndarray
    least: np.ndarray
    controls: np.ndarray


@dataclass(frozen=True)
class _Probe:
    """All images of an evaluation with the unit's activations, float (n,)."""

    images: Sequence[Image]
    activations: np.ndarray


async def _measure_label(
    evaluation: Evaluation, subject: Subject, label: str, activations: _Activations, probe: _Probe
) -> LabelMeasures:
    from scipy import stats

    up, down, controls = map(list, (activations.most, activations.least, activations.controls))
    value = auroc(up, down)
    parts = label.split(" OR ")
    prompts = [f"realistic photo of a close up of {parts[i % len(parts)]}" for i in range(evaluation.cosy)]
    # CoSy: images of the label's name against the controls.
    named = list(await _measured(subject, await _made(evaluation, subject, prompts, "cosy")))
    return LabelMeasures(
        label=label,
        positive=float(activations.most.mean()),
        negative=float(activations.least.mean()),
        auroc=value,
        auroc_interval=list(auroc_interval(value, len(up), len(down))),
        margin=standardized_margin(up, controls),
        cosy_auc=auroc(named, controls),
        cosy_mad=standardized_margin(named, controls),
        cosy_p=float(stats.mannwhitneyu(named, controls, alternative="two-sided").pvalue),
        **asdict(await _probe_measures(evaluation, probe, parts)),
    )


async def _probe_measures(evaluation: Evaluation, probe: _Probe, parts: Sequence[str]) -> ProbeMeasures:
    """Return the measures over the probe set of a label whose alternatives are `parts`."""
    answers = await evaluation.witness.shows([(image, part) for image in probe.images for part in parts])
    shown = [answers[start : start + len(parts)] for start in range(0, len(answers), len(parts))]
    known = np.array([any(each) or None not in each for each in shown])
    concept = np.array([any(each) for each in shown])[known]
    return against_concept(probe.activations[known], concept)


def against_concept(values: np.ndarray, concept: np.ndarray) -> ProbeMeasures:
    """Return measures of activations float (N,) and a concept's presence bool (N,).

    For F1, IoU and AUPRC the unit is active on the strongest `ACTIVE` of the images; the concept is the
    prediction.
    """
    if len(values) < 2 or concept.all() or not concept.any() or np.ptp(values) == 0:
        return ProbeMeasures()
    count = max(1, round(ACTIVE * len(values)))
    active = values >= np.sort(values)[-count]
    hits, claimed, wanted = int((active & concept).sum()), int(concept.sum()), int(active.sum())
    scores = concept.astype(float)
    return ProbeMeasures(
        float(np.corrcoef(values, scores)[0, 1]),
        average_precision(list(scores[active]), list(scores[~active])) if not active.all() else None,
        2 * hits / (claimed + wanted),
        hits / (claimed + wanted - hits),
    )


async def _made(
    evaluation: Evaluation, subject: Subject, prompts: Sequence[str], purpose: str
) -> list[Image]:
    seeds = [seed_for(evaluation.seed, purpose, prompt, number) for number, prompt in enumerate(prompts)]
    made = await evaluation.studio.generate(list(prompts), seeds, agent=subject.id)
    raise_infrastructure_errors(made)
    failed = [error for error in made if not isinstance(error, MadeImage)]
    if failed:
        raise BackendError(
            f"{len(failed)} of {len(made)} images for the evaluation could not be made: {failed[0]}"
        )
    return [image.image for image in made if isinstance(image, MadeImage)]


async def _measured(subject: Subject, images: Sequence[Image]) -> np.ndarray:
    responses = await subject.measure(list(images), Priority.CONFIRMATION)
    return np.array([response.activation for response in responses])
