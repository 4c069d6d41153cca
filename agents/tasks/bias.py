"""The bias audit of one class (MAIA, section 5.2 and appendix G), in this project's own words."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from actors.chat.tasks import AuditClassTask
from agents.tasks.base import FinalAnswer, read_sections

_OPENING = """\
You are auditing one class of an image classifier. What `system` measures is the probability that the \
classifier gives \
to the class "{name}". Find out in which contexts that probability is lower or higher although the object is \
there: \
another background, color, number, size, or something beside it.

Work in rounds: list your hypotheses, then write one program that compares images with a context to images \
without it, \
the object being the same in both:
[HYPOTHESIS LIST]:
Hypothesis_1: ...
[CODE]:
```python
...
```
Use several images for each context, test what stands out again on fresh images, and keep in mind that some \
classes \
have no bias. Then end with your final answer, in a reply that holds no program:
[BIAS]: the contexts in which the probability is lower or higher, with the numbers; or that none was found, \
and how \
large a difference would have been seen.
"""

_LAST_WORD = """\
This was the last experiment: no further program will be run. Give your final answer now, with [BIAS]: and \
without code."""


@dataclass(frozen=True)
class AuditClass:
    """Ask in which contexts a class is recognized worse or better."""

    name = "audit"
    names_concept = False

    class_name: str

    def opening(self) -> str:
        return _OPENING.format(name=self.class_name)

    def chat_task(self, final: bool) -> AuditClassTask:
        return AuditClassTask(self.class_name, final)

    def last_word(self) -> str:
        return _LAST_WORD

    def read_answer(self, reply: str) -> FinalAnswer | None:
        sections = read_sections(reply).get("BIAS")
        if not sections:
            return None
        text = " ".join(" ".join(sections).split())
        return FinalAnswer((text,), text)
