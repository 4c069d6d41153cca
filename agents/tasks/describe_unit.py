"""The neuron-description task (MAIA, section 4.1 and appendix B), in this project's own words."""

from __future__ import annotations

from collections.abc import Sequence

from actors.chat.tasks import DescribeUnitTask
from agents.tasks.base import FinalAnswer, first_line, read_sections

_OPENING = """\
You are studying one unit of a computer-vision network. Find out which visual concepts drive it.

A unit may answer to one specific thing, to a broad kind of thing, to a color, texture, place or position, \
or to \
several things that have nothing to do with each other. It may also answer to nothing that words can name. \
You will never be told which network or unit it is, so rely on measurements only.

Work in rounds. In each round:
1. Say briefly what the images that drove the unit so far have in common, looking afresh and not through \
your \
earlier ideas.
2. List what could explain it, from general to very specific, including explanations that compete:
[HYPOTHESIS LIST]:
Hypothesis_1: ...
Hypothesis_2: ...
3. Write one program that tries to tell these hypotheses apart, and that could prove your favorite wrong:
[CODE]:
```python
...
```
The program sees the objects `system` and `tools` that are documented above, and the variables of your \
earlier \
programs. Show yourself what you need with tools.display(...) or tools.log_experiment(...): only what was \
shown or \
logged or printed reaches you. Then stop writing, and wait for the observation.

What makes good experiments: the data set's exemplars first, with a hypothesis for each group of them; \
several \
images for a claim, never a single one; controls that lack the concept; edits that change one thing and keep \
the \
rest; tests of the background, the color and the number of things as well as of the thing itself; a search \
for a \
second, unrelated concept. Change your hypotheses when the numbers differ from what they predicted, in \
either \
direction. If next to no exemplar drives the unit, work with those that do: draw them again whole and in \
parts, edit \
and crop them, compare them with look-alikes that leave it silent.

When several experiments agree, end with your final answer, in a reply that holds no program:
[DESCRIPTION]: one or more sentences: specific about what drives the unit and complete about everything that \
does; \
separate unrelated concepts with OR; name what you tested that does not drive it.
[LABEL]: a short phrase for the same, such as "wheels of parked cars". For unrelated concepts give one label \
each:
[LABEL 1]: ...
[LABEL 2]: ...
If nothing you tried explains the activations, the label is "not interpretable", and the description says \
what you tried.
"""

_TOLD = """
Another method, which compares the data set's images with words and makes no experiments, proposes the \
labels below. It is often wrong, and may know only some of the unit's concepts. Count them among your first \
hypotheses, and test them like the others:
{labels}
"""

_LAST_WORD = """\
This was the last experiment: no further program will be run. Give your final answer now, from what you have \
seen, \
with [DESCRIPTION]: and [LABEL]: (or [LABEL 1]:, [LABEL 2]: ...), and without code."""

NOT_INTERPRETABLE = "not interpretable"
_MOST_LABELS = 50
"""Labels of an answer at most: a model that repeats itself writes thousands."""
_MOST_TOLD = 8
LONGEST_TOLD = 200


class DescribeUnit:
    """Ask for a description and labels of whatever drives a unit.

    `hypotheses` are at most 8 labels of at most 200 characters that another method proposes: the agent is
    told them, and tests them like its own.
    """

    name = "describe"
    names_concept = True

    def __init__(self, hypotheses: Sequence[str] = ()) -> None:
        if isinstance(hypotheses, str) or not all(isinstance(each, str) for each in hypotheses):
            raise TypeError("hypotheses must be a list of labels.")
        if len(hypotheses) > _MOST_TOLD or any(len(each) > LONGEST_TOLD for each in hypotheses):
            raise ValueError(f"an agent is told at most {_MOST_TOLD} labels of {LONGEST_TOLD} characters.")
        self.hypotheses = tuple(" ".join(each.split()) for each in hypotheses)

    def opening(self) -> str:
        if not self.hypotheses:
            return _OPENING
        return _OPENING + _TOLD.format(labels="\n".join(f"- {label}" for label in self.hypotheses))

    def chat_task(self, final: bool) -> DescribeUnitTask:
        return DescribeUnitTask(final, self.hypotheses)

    def last_word(self) -> str:
        return _LAST_WORD

    def read_answer(self, reply: str) -> FinalAnswer | None:
        sections = read_sections(reply)
        written = sections.get("LABEL", [])[:_MOST_LABELS]
        labels = tuple(label for text in written if (label := first_line(text)))
        if not labels:
            return None
        description = " ".join("\n".join(sections.get("DESCRIPTION", [])).split())
        return FinalAnswer(tuple(dict.fromkeys(labels)), description or " OR ".join(labels))
