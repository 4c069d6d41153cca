"""The final answer of a neuron-description study, with the numbers it rests on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from actors.embedded.language.words import Words
from actors.embedded.reasoning.appraisal import Appraisal
from actors.embedded.reasoning.formulas import Explanation, MeasuredTerms, truth_table
from actors.embedded.reasoning.standing import Standing, split
from actors.embedded.scientist.answers import (
    NOT_INTERPRETABLE,
    claim,
    final_description,
    headed,
    labels_of,
)


def conclude(appraisal: Appraisal, words: Words) -> str:
    """Return the final turn: labels that the measurements bear out, or "not interpretable"."""
    values = appraisal.activations()
    if appraisal.is_flat() or not values:
        return _nothing(values)
    rows = appraisal.state.rows
    standing = appraisal.standing(final=True)
    if standing is None or (rows and not standing.acceptable):
        return _unexplained(standing, appraisal, words)
    pruned = appraisal.pruned(standing.lead)
    formula = headed(pruned, appraisal.looked_at_shares())
    statement = claim(formula, words)
    parts = [f"{statement[:1].upper()}{statement[1:]}."]
    if rows:
        shown = split(MeasuredTerms(rows, [], words), pruned)
        parts.append(
            f"Images that show it reached a mean activation of {_mean(shown.on)} ({len(shown.on)} images), "
            f"others {_mean(shown.off)} ({len(shown.off)} images); one of the former exceeds one of the "
            f"latter with probability {shown.auroc:.2f}."
        )
    else:
        parts.append("No experiment on generated images was possible: this rests on the exemplars alone.")
    parts += _changes(appraisal, pruned, words)
    parts += _ruled_out(standing)
    return final_description(" ".join(parts), labels_of(formula, words))


def _mean(values: np.ndarray) -> str:
    return f"{values.mean():.2f}" if len(values) else "unknown"


def _nothing(values: Sequence[float]) -> str:
    if not values:
        text = "No experiment brought a measurement, so nothing can be said about this unit."
    elif values[0] == 0:
        text = f"The unit stayed at zero on all {len(values)} images: it looks dead and is not interpretable."
    else:
        text = (
            f"The unit gave the same activation, {values[0]:.2f}, on all {len(values)} images whatever they "
            "showed: it is constant and not interpretable."
        )
    return final_description(text, [NOT_INTERPRETABLE])


def _unexplained(standing: Standing | None, appraisal: Appraisal, words: Words) -> str:
    values = [row.activation for row in appraisal.state.rows]
    text = "Nothing that was tried explains the activations: the unit is not interpretable."
    if values:
        text += f" {len(values)} images ranged from {min(values):.2f} to {max(values):.2f}"
        text += f" (mean {np.mean(values):.2f})."
    if standing is not None and values:
        text += (
            f" The best guess, that {claim(standing.lead, words)}, separated images with probability "
            f"{standing.split.auroc:.2f} where it was fitted and {standing.predicted_auroc:.2f} where it was "
            "put to the test."
        )
    return final_description(text, [NOT_INTERPRETABLE])


def _changes(appraisal: Appraisal, formula: Explanation, words: Words) -> list[str]:
    """Return sentences on what the edits did: those that took the concept away, and those that changed
    something else.
    """
    changed = [row for row in appraisal.state.rows if row.before is not None]
    sources = [row.before.terms(words) for row in changed if row.before is not None]
    before = formula.truth(truth_table(sources, formula.terms)) > 0.6
    after = formula.truth(truth_table([row.stimulus.terms(words) for row in changed], formula.terms)) > 0.6
    sentences = []
    for kept, what in ((False, "taking it away"), (True, "changing something else")):
        rows = [row for row, b, a in zip(changed, before, after, strict=True) if b and a == kept]
        if rows:
            old, new = np.mean([r.before_activation for r in rows]), np.mean([r.activation for r in rows])
            sentences.append(
                f"In edits of one picture, {what} took the mean from {old:.2f} to {new:.2f} (n={len(rows)})."
            )
    return sentences


def _ruled_out(standing: Standing) -> list[str]:
    taken = set(standing.lead.terms)
    weaker = [
        str(merit.formula)
        for merit in standing.merits[1:12]
        if merit.formula.operator == "is" and not taken & set(merit.formula.terms)
    ]
    return [f"Tested and less fitting: {'; '.join(weaker[:4])}."] if weaker else []
