"""Names as they are shown: a unit's id taken apart, stand-ins, and texts without home folders."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from actors.vision.readout.places import WORDS

_UNIT = re.compile(
    rf"^(?:(?P<model>.+?)/)?(?:(?P<kind>\w+):)?(?P<layer>[^:/@]+(?:@(?:{WORDS}))?):(?P<index>[0-9]{{1,18}})(?:@(?P<source>.*))?$",
    re.DOTALL,
)
STAND_IN = re.compile(r"\b(?:builtin|built-in|scenes|stand-in)\b", re.IGNORECASE)
"""What the name of a model has that stands in for a trained one."""
_HOMES = r"/home/[^/\s:;,'\"]+|/Users/[^/\s:;,'\"]+|/root"
"""Where home folders usually are."""


def enumerated(names: Sequence[str]) -> str:
    """Return names in a row, as "a, b and c"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def stand_ins(facts: Mapping[str, Any]) -> list[str]:
    """Return the roles in which a stand-in answered, by the facts of a result."""
    roles = ("generator", "observers", "interpreter")
    return [role for role in roles if STAND_IN.search(str(facts.get(role) or ""))]


@cache
def _home_folders(own: str) -> re.Pattern[str]:
    """Return what matches home folders: the usual ones, and one's `own`, which may be anywhere."""
    ways = f"{re.escape(own)}|{_HOMES}" if own.strip("/~") else _HOMES
    # A line may begin as JSON writes it, after an escape.
    return re.compile(rf"(?:(?<![\w.~-])|(?<=\\[nrt]))({ways})(?=[/\s:;,'\"]|$)")


def without_home(value: Any) -> Any:
    """Return a JSON value whose texts have `~` for home folders: what is shared names no account."""
    if isinstance(value, str):
        return _home_folders(os.path.expanduser("~")).sub("~", value)  # noqa: PTH111 (as it is, where there is none)
    if isinstance(value, dict):
        return {key: without_home(item) for key, item in value.items()}
    return [without_home(item) for item in value] if isinstance(value, list) else value


@dataclass(frozen=True, slots=True)
class UnitName:
    """A unit's id taken apart; an id of another form is all `layer`."""

    id: str
    model: str
    kind: str
    layer: str
    index: int | None
    source: str = ""

    @property
    def of_class(self) -> bool:
        """Whether the unit is a class of the network (`CLASS_KINDS` of the readout)."""
        return self.kind in ("logit", "probability")

    @classmethod
    def parse(cls, unit: str) -> UnitName:
        match = _UNIT.match(unit)
        if match is None:
            return cls(unit, "", "channel", unit, None)
        return cls(
            unit,
            match["model"] or "",
            match["kind"] or "channel",
            match["layer"],
            int(match["index"]),
            match["source"] or "",
        )

    @property
    def short(self) -> str:
        """The id without the model: it distinguishes the units of one run."""
        if self.index is None:
            return self.id
        kind = "" if self.kind == "channel" else f"{self.kind}:"
        return f"{kind}{self.layer}:{self.index}" + (f"@{self.source}" if self.source else "")
