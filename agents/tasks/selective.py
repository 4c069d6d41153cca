"""Does a unit follow the object or its surroundings? (MAIA, section 5.1 and appendix F), in this project's
own words.
"""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from actors.chat.tasks import JudgeSelectivityTask
from agents.tasks.base import FinalAnswer, first_line, read_sections

_OPENING = """\
You are studying one unit of a classifier of these classes: {classes}. Its images come from these \
environments: \
{environments}. A classifier may have learned the surroundings in place of the object. Decide whether this \
unit is \
SELECTIVE (it answers to one of the classes, wherever that stands) or SPURIOUS (it answers to anything else, \
or to a class \
only in some surroundings). When unsure, choose SPURIOUS.

Work in rounds: list your hypotheses, then write one program that tests them, with every class in every \
environment:
[HYPOTHESIS LIST]:
Hypothesis_1: ...
[CODE]:
```python
...
```
Then end with your final answer, in a reply that holds no program:
[REASONING]: the measurements that decide.
[LABEL]: SELECTIVE or SPURIOUS
"""

_LAST_WORD = """\
This was the last experiment: no further program will be run. Answer now, with [REASONING]: and [LABEL]: \
SELECTIVE or \
SPURIOUS, and without code."""


@dataclass(frozen=True)
class JudgeSelectivity:
    """Ask whether a unit is selective for an object or spurious."""

    name = "selective"
    names_concept = False

    classes: tuple[str, ...]
    environments: tuple[str, ...]

    def opening(self) -> str:
        return _OPENING.format(classes=", ".join(self.classes), environments=", ".join(self.environments))

    def chat_task(self, final: bool) -> JudgeSelectivityTask:
        return JudgeSelectivityTask(self.classes, self.environments, final)

    def last_word(self) -> str:
        return _LAST_WORD

    def read_answer(self, reply: str) -> FinalAnswer | None:
        sections = read_sections(reply)
        words = first_line("\n".join(sections.get("LABEL", [])[:1])).upper().split()
        label = words[0].strip(".,:;*") if words else ""
        if label not in ("SELECTIVE", "SPURIOUS"):
            return None
        return FinalAnswer((label,), " ".join(" ".join(sections.get("REASONING", [])).split()) or label)
