"""The answer from several studies' measurements: the concepts that drive the unit most and are not one
another.
"""

from __future__ import annotations

from actors.chat.tasks import MeasuredConcept, PoolStudiesTask
from actors.embedded.scientist.answers import NOT_INTERPRETABLE, final_description

_STRONG = 0.5
"""Part of the strongest concept's effect that a further one must reach."""
_SAME = 0.5
"""Share of a concept's images that show another, from which it says nothing new."""


def pooled_answer(task: PoolStudiesTask) -> str:
    """Return the final turn: labels, strongest first, or "not interpretable" where no concept drives the
    unit.
    """
    ranked = sorted(task.concepts, key=_effect, reverse=True)
    if not ranked or _effect(ranked[0]) <= 0:
        return final_description(
            "No concept that was proposed explains the measurements.", [NOT_INTERPRETABLE]
        )
    share = {(overlap.shown, overlap.images_of): overlap.share for overlap in task.overlaps}
    chosen: list[MeasuredConcept] = []
    for concept in ranked:
        strong = _effect(concept) >= _STRONG * _effect(ranked[0])
        if strong and all(share.get((other.number, concept.number), 0.0) < _SAME for other in chosen):
            chosen.append(concept)
    figures = "; ".join(
        f'"{kept.label}": mean {kept.mean:.2f} on {kept.n_images} fresh images, '
        f"{kept.mean_others:.2f} on other things"
        for kept in chosen
    )
    return final_description(
        f"What several studies measured: {figures}.", [concept.label for concept in chosen]
    )


def _effect(concept: MeasuredConcept) -> float:
    return concept.mean - concept.mean_others
