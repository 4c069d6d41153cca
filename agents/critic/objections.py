"""What an agent is sent when its answer is not accepted: the figures, and what to investigate."""

from __future__ import annotations

from collections.abc import Sequence

from agents.critic.tested import Tested
from agents.evidence.evidence_record import Finding, RivalTest, WitnessedImage

_GO_ON = (
    "Go on with experiments that could explain this, and answer again; if nothing explains the unit, say so."
)


def untestable(failures: Sequence[str]) -> str:
    return (
        f"Your answer could not be tested: fresh images could not be made ({failures[0]}). Word the label "
        "so that an image of it can be made, or conclude as before."
    )


def not_specific(tested: Tested) -> str:
    """Return that images of the labels do not drive the unit more than other things."""
    trials, groups = tested.trials, tested.groups
    best = sorted(trials.controls, key=lambda trial: -trial.activation)[:3]
    undrawn = sorted({note for trial in trials.positives for note in trial.notes})
    lines = [
        f'Your answer "{tested.answer.label}" was tested on fresh images that you have not seen, and was not '
        f"confirmed.",
        f"{groups.n_positive} images made from your labels: mean activation {groups.mean_positive:.2f}; "
        f"{groups.n_control} images of other things: mean {groups.mean_control:.2f}; an image of the label "
        f"exceeds another one with probability {groups.auroc:.2f}.",
        "The strongest of the other things: "
        + "; ".join(f'"{trial.prompt}" ({trial.activation:.2f})' for trial in best)
        + ".",
    ]
    if undrawn:
        lines.append("The image model could not draw everything: " + "; ".join(undrawn[:5]) + ".")
    return "\n".join([*lines, _GO_ON])


def beaten(tested: Tested, rival: RivalTest) -> str:
    """Return that images of a skeptic's rival drive the unit more."""
    return (
        f'Your answer "{tested.answer.label}" drives the unit, but somebody who saw only the strongest '
        f'images proposed "{rival.label}", and fresh images of that drive it more: mean {rival.mean:.2f} '
        f"against {tested.groups.mean_positive:.2f}. Test what both have in common, and answer again."
    )


def not_enough(tested: Tested, finding: Finding, left: Sequence[WitnessedImage]) -> str:
    """Return what the finding rests on, and which strong images the labels leave unexplained.

    Figures of images that are held out are left out: the answer is tested on them again.
    """
    lines = [f'Your answer "{tested.answer.label}" was tested on images that you have not seen. ']
    if finding.verdict in ("weak", "out of reach"):
        lines.append(finding.reason)
    elif finding.verdict == "not confirmed":
        lines.append("On real images that you have not seen it does not hold.")
    if left:
        lines.append(
            "These images drive the unit strongly, and a blind observer does not find what you named in "
            "them; they follow in this order:"
        )
        lines += [f"UNEXPLAINED | {each.activation:.2f} | {_origin(each)}" for each in left]
    lines.append(
        "Find out what drives the unit in them, whether your label is too narrow, or whether there is a "
        "second one; then answer again. If you find nothing more, give the same answer again."
    )
    return "\n".join(lines)


def _origin(each: WitnessedImage) -> str:
    return each.prompt if each.origin == "exemplar" else f'made: "{each.prompt}"'
