"""A unit's role as it is on record, and in words: for pages, terminals, tables and search.

A record may be damaged, of an earlier version without roles, or by a stranger: what cannot be read counts as
unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from agents.evidence.role import MOST, RATE, Comes, Faithfulness, OutputEffect, Role, recorded
from agents.records.record_types import RoleRecord

_COMES: dict[Comes, str] = {
    "with the label": "the effect comes with the label",
    "with and without the label": "the effect is there without the label, too",
    "not with the label": "on images of the label the effect is not sure",
}
TEXTS = ("raises", "lowers", "role_comes", "role_missing")
COLUMNS = (
    "raises",
    "lowers",
    "role_norm",
    "role_cosine",
    "role_p",
    "role_comes",
    "role_with_label",
    "role_without_label",
    "accuracy_with_unit",
    "accuracy_without_unit",
    "role_missing",
)
"""Columns of tables; those in `TEXTS` hold texts, the others numbers."""


@dataclass(frozen=True, slots=True)
class RecordedRole:
    """A role as it is on record. `found` None: there is none, and `reason` says why, "" where none was asked
    for.
    """

    found: Role | None = None
    reason: str = ""

    @classmethod
    def of(cls, record: Mapping[str, Any] | None) -> RecordedRole:
        """Return the role in a unit's result."""
        value = (record or {}).get("role")
        if value is None:
            return cls()
        try:
            role = RoleRecord.model_validate(value)
        except ValidationError:
            return cls(reason="its record cannot be read.")
        if role.status == "known":
            found = recorded(role.found)
            return cls(found, "" if found else "its record cannot be read.")
        if role.error is not None:
            return cls(reason=f"it could not be measured: {role.error.message}")
        return cls(reason=role.reason)

    @property
    def effects(self) -> Sequence[OutputEffect]:
        """The outputs that the unit surely raises, then those that it lowers."""
        return () if self.found is None else (*self.found.raised, *self.found.lowered)

    def brief(self, most: int = 2) -> str:
        """Return the role in a few words for a table, "" where there is none."""
        if self.found is None:
            return ""
        return brief(self.found, most)

    def columns(self) -> dict[str, Any]:
        """Return the role as columns of a table, by name; None where there is nothing to say."""
        found = self.found
        if found is None:
            return dict.fromkeys(COLUMNS) | {"role_missing": self.reason or None}
        random, faithful, known = found.random, found.faithful, found.recognition
        values = (
            listed(found.raised, MOST) or None,
            listed(found.lowered, MOST) or None,
            found.norm,
            found.cosine,
            None if random is None else random.p,
            None if faithful is None else faithful.comes,
            None if faithful is None else faithful.with_label,
            None if faithful is None else faithful.without_label,
            None if known is None else known.before,
            None if known is None else known.after,
            None,
        )
        return dict(zip(COLUMNS, values, strict=True))

    def headline(self) -> str:
        """Return the effect in a sentence, and whether it may be chance; "" where none was asked for."""
        first = next(iter(self.sentences()), "")
        doubtful = self.found is not None and self.found.affects and not self.found.claimed
        return f"{first.removesuffix('.')}; random changes may do as much." if doubtful else first

    def sentences(self) -> list[str]:
        """Return the role in sentences, none where none was asked for."""
        if self.found is None:
            return [f"No role: {self.reason}"] if self.reason else []
        found = self.found
        return [
            sentence
            for sentence in (_effect(found), _random(found), _without(found), _faithful(found.faithful))
            if sentence
        ]


def short(name: str) -> str:
    """Return the first of the names that ImageNet joins by commas."""
    return name.partition(",")[0].strip()


def listed(effects: Sequence[OutputEffect], most: int) -> str:
    """Return outputs with their effects."""
    return ", ".join(f"{short(each.name)} {each.effect:+.2f}" for each in effects[:most])


def brief(found: Role, most: int = 2, more: bool | None = None) -> str:
    """Return a role in a few words. `more`: whether it does more than random changes; its own p says so if
    None.
    """
    if found.named and not (found.raised or found.lowered):
        return "no effect"
    parts = [("raises", found.raised), ("lowers", found.lowered)]
    words = "; ".join(f"{word} {listed(effects, most)}" for word, effects in parts if effects)
    words = words or f"changes the outputs by {found.norm:.0%}"
    return words if (found.claimed if more is None else more) else f"{words} (random changes may do as much)"


def _effect(found: Role) -> str:
    if not found.named:
        low, high = found.norm_interval
        return (
            f"On its {found.n} exemplars it makes {found.norm:.0%} ({low:.0%} to {high:.0%}) of the outputs' "
            f"length; without it they turn to a cosine of {found.cosine:.2f} with what they were."
        )
    parts = [("raises", found.raised), ("lowers", found.lowered)]
    words = " and ".join(f"{word} {listed(effects, MOST)}" for word, effects in parts if effects)
    return f"On its {found.n} exemplars it {words or 'has no sure effect on an output'}."


def _random(found: Role) -> str:
    random = found.random
    if random is None or not (found.raised or found.lowered or not found.named):
        return ""
    of = "them" if random.images == found.n else f"the {random.images} strongest of them"
    do = "do less" if random.p <= RATE else "may do as much"
    return (
        f"Its largest effect on {of} is {random.effect:.2f}. Random changes of the same size {do} "
        f"(median {random.typical:.2f} of {random.n}; p {random.p:.2g})."
    )


def _without(found: Role) -> str:
    sentences = []
    if found.named and found.flips:
        sentences.append(
            f"Without it the network takes {found.flips} of {found.n} exemplars for another class."
        )
    known = found.recognition
    if known is not None:
        verb = "falls" if known.after < known.before else "rises" if known.after > known.before else "stays"
        change = (
            f"stays {known.before:.2f}"
            if verb == "stays"
            else f"{verb} from {known.before:.2f} to {known.after:.2f}"
        )
        sentences.append(f"Accuracy on the {known.n} of known class {change} without it (p {known.p:.2g}).")
    return " ".join(sentences)


def _faithful(faithful: Faithfulness | None) -> str:
    if faithful is None:
        return ""
    name = short(faithful.name)
    if faithful.output is None:
        with_label, without = f"{faithful.with_label:.0%}", f"{faithful.without_label:.0%}"
        verb = "changes"
    else:
        with_label, without = f"{faithful.with_label:.2f}", f"{faithful.without_label:.2f}"
        verb = "lowers" if faithful.raises else "raises"
    return (
        f"Ablating it {verb} {name} by {with_label} on {faithful.n_with} new images of the label, and by "
        f"{without} on {faithful.n_without} of other things: {_COMES[faithful.comes]}."
    )
