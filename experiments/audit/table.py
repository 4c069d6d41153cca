"""An audit in lines for a terminal."""

from __future__ import annotations

from typing import Any

from experiments.audit.page import NOTHING, highest
from experiments.audit.real_page import real_lines
from experiments.runs.context_survey import LEAST

SHOWN = 20
"""Lines of each kind that a terminal is given: a thousand classes would bury what was found."""


def table(result: dict[str, Any]) -> str:
    """Return what was found in lines for a terminal: of each kind as many as fit there, and how many more
    there are.
    """
    biased = [effect for effect in result["effects"] if effect["biased"]]
    findings = []
    for effect in biased:
        low, high = effect["mean_interval"]
        findings.append(
            f"{effect['class_name']}: {'lower' if effect['difference'] < 0 else 'higher'} with {effect['context']}: "
            f"{effect['mean']:.3f} ({low:.3f} to {high:.3f}) against {effect['others']:.3f} in ordinary contexts, q = {effect['q']:.4f}"
            + (f", {effect['notes']} of {effect['n']} images incomplete" if effect["notes"] else "")
        )
    found = {effect["class_name"] for effect in biased}
    nothing = [
        _nothing(name, smallest, result["usual"][name], highest(result["values"][name]))
        for name, smallest in result["detectable"].items()
        if name not in found
    ]
    beyond = [
        f"{name}: out of reach: {why}; its contexts were not tested on generated images"
        for name, why in result.get("out_of_reach", {}).items()
    ]
    undrawn = [
        f"{name}: not tested, for want of images: {', '.join(contexts)}"
        for name, contexts in result["undrawn"].items()
    ]
    parted = []
    for each in result["disagreements"]:
        measured = "" if each["difference"] is None else f" (measured difference {each['difference']:.3f})"
        parted.append(
            f"{each['class_name']}: the agent's text is {each['kind']} on {each['context']}{measured}"
            if each["kind"] != "unchecked"
            else f'{each["class_name"]}: not checked, for its words are not known: "{each["context"]}"'
        )
    return "\n".join(
        [
            "",
            *_shown(findings, "findings"),
            *_shown(nothing, "classes without a bias that was found"),
            *_shown(beyond, "classes out of reach"),
            *_shown(undrawn, "classes that were not tested in all contexts"),
            *_shown(parted, "places where an agent's text and the figures part"),
            *(line for kind, lines in real_lines(result.get("real")).items() for line in _shown(lines, kind)),
        ]
    )


def _nothing(name: str, smallest: float, usual: float, most: float) -> str:
    """Return what it means that no bias was found: nothing at all for a class that no image of the screen is
    taken for.
    """
    if most < LEAST:
        return (
            f"{name}: {NOTHING}: its probability is {usual:.3f} in ordinary contexts and {most:.3f} at most in any image, "
            "so that no context could lower it"
        )
    floor = f", but no loss: the class has {usual:.3f} in ordinary contexts" if usual < smallest else ""
    return (
        f"{name}: no bias found; a difference of {smallest:.3f} would have been seen in 4 of 5 cases{floor}"
    )


def _shown(lines: list[str], what: str) -> list[str]:
    if len(lines) <= SHOWN:
        return lines
    return [*lines[:SHOWN], f"... and {len(lines) - SHOWN} more {what}: the report and audit.json have all"]
