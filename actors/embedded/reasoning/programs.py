"""The programs that the scientist writes.

Plain Python without imports, so that any sandbox can run them. Each measurement is printed as one line that
is whole or not there (it ends in " ;"), activation first: a cut-off observation loses lines, never digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actors.embedded.language.words import Words
from actors.embedded.reasoning.stimuli import Stimulus

SHOWN = 4
"""Images of a round that are displayed with their activations."""

EXEMPLARS = """\
# The data set's strongest images, and what blind observers say of their highlighted parts.
pairs = tools.dataset_exemplars(system)
images = [image for activation, image in pairs]
titles = [f"exemplar {number}" for number in range(1, len(pairs) + 1)]
tools.display(*images)
for number, (activation, image) in enumerate(pairs, 1):
    print(f"EXEMPLAR {number} | {activation} ;")
"""

OBSERVED = """\
if images:
    print("SUMMARY BEGINS")
    print(tools.summarize_images(images))
    print("SUMMARY ENDS")
    print("DESCRIPTIONS BEGIN")
    print(tools.describe_images(images, titles))
    print("DESCRIPTIONS END")
"""

CONTRAST = """\
# Real images from across the unit's range, and its lowest: what do the strongest have that these lack?
others = system.exemplars("quantiles") + system.exemplars("least", 8)
tools.display(*[image for activation, image, why in others])
for number, (activation, image, why) in enumerate(others, 1):
    print(f"CONTRAST {number} | {activation} ;")
"""

_TRIALS = """\
# {purpose}
trials = [
{trials}
]
images = tools.text2image([prompt for code, prompt in trials])
activations, masked = system.call_neuron(images)
for (code, prompt), activation in zip(trials, activations):
    print(f"RESULT | {{activation}} | {{code}} ;")
"""

_CHANGES = """\
# {purpose}
changes = [
{changes}
]
originals = tools.text2image([prompt for code, prompt, edited, instruction in changes])
edits = tools.edit_images(originals, [instruction for code, prompt, edited, instruction in changes])
before, masked_before = system.call_neuron(originals)
after, masked_after = system.call_neuron(edits)
for (code, prompt, edited, instruction), old, new in zip(changes, before, after):
    print(f"RESULT | {{old}} | {{code}} ;")
    print(f"CHANGE | {{old}} -> {{new}} | {{code}} => {{edited}} ;")
"""

_EXAMPLES = """\
# The strongest exemplars with one thing changed.
changes = [
{changes}
]
pairs = tools.dataset_exemplars(system)
edits = tools.edit_images([pairs[change[0]][1] for change in changes], [change[3] for change in changes])
after, masked_after = system.call_neuron(edits)
for (place, code, edited, instruction), new in zip(changes, after):
    print(f"CHANGE | {{pairs[place][0]}} -> {{new}} | {{code}} => {{edited}} ;")
"""

_STRONGEST = """\
best = sorted(range(len(trials)), key=lambda index: -activations[index])[:{shown}]
for index in best:
    tools.display(f"{{trials[index][1]}}: {{activations[index]}}", masked[index])
"""


@dataclass(frozen=True, slots=True)
class CausalEdit:
    """An edit as a causal test: the same picture with one thing changed.

    `exemplar` is the place of the exemplar to edit; None: the picture is made first.
    """

    before: Stimulus
    after: Stimulus
    instruction: str
    exemplar: int | None = None


def exemplar_program(observed: bool = True) -> str:
    """Return the program that looks at exemplars; without the observers if these have failed."""
    return EXEMPLARS + (OBSERVED if observed else "")


def trial_program(
    purpose: str,
    stimuli: Sequence[Stimulus],
    words: Words,
    edits: Sequence[CausalEdit] = (),
) -> str:
    """Return a program that makes and measures `stimuli`, then pictures before and after `edits`."""
    parts = []
    if stimuli:
        trials = "\n".join(f"    ({stimulus.code!r}, {stimulus.prompt(words)!r})," for stimulus in stimuli)
        parts += [_TRIALS.format(purpose=purpose, trials=trials), _STRONGEST.format(shown=SHOWN)]
    if edits:
        lines = "\n".join(
            f"    ({e.before.code!r}, {e.before.prompt(words)!r}, {e.after.code!r}, {e.instruction!r}),"
            for e in edits
        )
        heading = "The same pictures with one thing changed." if stimuli else purpose
        parts.append(_CHANGES.format(purpose=heading, changes=lines))
    return "\n".join(parts)


def edit_program(edits: Sequence[CausalEdit]) -> str:
    """Return a program that edits exemplars and measures what becomes of them."""
    lines = (f"    ({e.exemplar}, {e.before.code!r}, {e.after.code!r}, {e.instruction!r})," for e in edits)
    return _EXAMPLES.format(changes="\n".join(lines))


def reply(thoughts: str, hypotheses: Sequence[str], program: str) -> str:
    """Return an assistant turn in the paper's format."""
    listed = "\n".join(f"Hypothesis_{n}: {text}" for n, text in enumerate(hypotheses, 1))
    return f"{thoughts}\n\n[HYPOTHESIS LIST]:\n{listed}\n\n[CODE]:\n```python\n{program}```"
