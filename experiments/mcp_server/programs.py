"""The replies that stand for a client's tool calls: a program for each experiment, labels for an answer.

Images have short names: the programs keep them in the variable `images` of the sandbox, and show each under a
line that says its name, its activation and a note. What a client wrote is quoted as a Python literal. Every
reply is read back before it is sent: text that would be taken for something else is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from actors.chat.base import Part
from actors.errors import UsageError
from actors.images import Image
from agents.tasks.base import FinalAnswer, Task, read_hypotheses, read_program
from experiments.mcp_server.answers import SeenImage
from tools.contrast import WHICH
from tools.sandbox.child.effects import KINDS

MOST_IMAGES = 64
"""Images that one tool call may make or name; a program may have more."""
MOST_PROGRAM, MOST_WORDS, MOST_LABEL, MOST_DESCRIPTION = 50_000, 2_000, 200, 5_000
"""Characters of a program, a prompt or hypothesis, a label, and a description."""
MOST_HYPOTHESES, MOST_LABELS = 20, 6

_NAME = re.compile(r"i[1-9][0-9]{0,5}")
_LINE = re.compile(r"(i[1-9][0-9]{0,5}) \| (-?[0-9]+\.[0-9]{2}|not measured) \| (.*)")

_SHOW = """\
try:
    images
except NameError:
    images = {}

def show(image, picture, activation, note):
    name = f"i{len(images) + 1}"
    images[name] = image
    tools.display(f"{name} | {activation} | {note}", picture)
"""


def exemplars(which: str, k: int) -> str:
    """Return the program that shows images of the data set.

    Raises:
        UsageError: If they cannot be chosen so.
    """
    if which not in WHICH:
        raise UsageError(f"which must be one of {', '.join(WHICH)}, got {which[:60]!r}.", "Choose one.")
    _check_number("k", k, 15)
    # Only the first of these also sets the activation threshold, as in the built-in agent's first round.
    found = "[(*pair, 'among the strongest') for pair in tools.dataset_exemplars(system)]"
    chosen = f"{found}[:{k}]" if which == "top" else f'system.exemplars("{which}", {k})'
    return f"{_SHOW}\nfor activation, image, note in {chosen}:\n" + (
        '    show(image, image, f"{activation:.2f}", note)\n'
    )


def measure(names: Sequence[str]) -> str:
    """Return the program that measures images by name."""
    return f"""{_SHOW}
names = {_names(names)!r}
chosen = [images[name] for name in names]
for name, image, activation, masked in zip(names, chosen, *system.call_neuron(chosen)):
    show(image, masked, f"{{activation:.2f}}", f"{{name}} again")
"""


def generate(prompts: Sequence[str], per_prompt: int, measured: bool) -> str:
    """Return the program that makes images of prompts, and measures them if `measured`."""
    _check_number("per_prompt", per_prompt, MOST_IMAGES)
    texts = _texts("prompts", prompts)
    if len(texts) * per_prompt > MOST_IMAGES:
        raise UsageError(
            f"one call may make {MOST_IMAGES} images, and {len(texts) * per_prompt} were asked for.",
            "Ask for fewer prompts, or fewer images of each.",
        )
    notes = f"[prompt for prompt in prompts for _ in range({per_prompt})]"
    made = f"prompts = {texts!r}\nmade = tools.text2image(prompts, {per_prompt})\nnotes = {notes}"
    return f"{_SHOW}\n{made}\n{_shown(measured)}"


def edit(names: Sequence[str], instructions: Sequence[str], measured: bool) -> str:
    """Return the program that edits images, one instruction an image; one of either stands for all."""
    chosen, texts = _names(names), _texts("instructions", instructions)
    count = max(len(chosen), len(texts))
    if len(chosen) not in (1, count) or len(texts) not in (1, count):
        raise UsageError(
            f"images and instructions go together, got {len(chosen)} and {len(texts)}.",
            "Give one instruction an image; a single image or instruction stands for all.",
        )
    chosen, texts = (each * count if len(each) == 1 else each for each in (chosen, texts))
    notes = [f"{name}: {text}" for name, text in zip(chosen, texts, strict=True)]
    made = f"made = tools.edit_images([images[name] for name in {chosen!r}], {texts!r})\nnotes = {notes!r}"
    return f"{_SHOW}\n{made}\n{_shown(measured)}"


def describe(names: Sequence[str]) -> str:
    """Return the program that has images described by a blind observer."""
    chosen = _names(names)
    return f"names = {chosen!r}\nprint(tools.describe_images([images[name] for name in names], names))\n"


def summarize(names: Sequence[str]) -> str:
    """Return the program that has a blind observer say what images have in common."""
    return f"print(tools.summarize_images([images[name] for name in {_names(names)!r}]))\n"


InterventionValue = str | float | list[float] | None
"""As `system.intervene` takes them: a word, a number, several numbers, or nothing."""


def intervene(names: Sequence[str], kind: str, value: InterventionValue, where: InterventionValue) -> str:
    """Return the program that gives the unit another value inside the network and prints what changes."""
    if kind not in KINDS:
        raise UsageError(f"kind must be one of {', '.join(KINDS)}, got {kind[:60]!r}.", "Choose one.")
    for what, given in (("value", value), ("where", where)):
        if not isinstance(given, float | int | None) and len(given) > MOST_LABEL:
            raise UsageError(f"{what} is too long.", "Give a word, a number, or a few numbers.")
    chosen = f"[images[name] for name in {_names(names)!r}]"
    return f"print(system.intervene({chosen}, {kind!r}, {value!r}, {where!r}))\n"


def _shown(measured: bool) -> str:
    if not measured:
        return 'for image, note in zip(made, notes):\n    show(image, image, "not measured", note)\n'
    return (
        "for image, activation, masked, note in zip(made, *system.call_neuron(made), notes):\n"
        '    show(image, masked, f"{activation:.2f}", note)\n'
    )


def experiment(program: str, hypotheses: Sequence[str]) -> str:
    """Return the reply that holds a program and the hypotheses that it tests.

    Raises:
        UsageError: If it is too long, or would be read otherwise than it was written.
    """
    if not program.strip():
        raise UsageError("the program is empty.", "Write Python that shows or prints what you want to see.")
    _check_length("the program", program, MOST_PROGRAM)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", program)), default=0))
    listed = "\n".join(f"Hypothesis_{number}: {words}" for number, words in enumerate(hypotheses, 1))
    listing = f"[HYPOTHESIS LIST]:\n{listed}\n" if hypotheses else ""
    reply = f"{listing}[CODE]:\n{fence}python\n{program.rstrip()}\n{fence}"
    if read_program(reply) != program.rstrip() or read_hypotheses(reply) != list(hypotheses):
        raise UsageError(
            "this program or these hypotheses hold marks that the records read as something else.",
            "Leave out bracketed markers such as [LABEL] and tags such as <think> at the start of a line.",
        )
    return reply


def checked_hypotheses(hypotheses: Sequence[str]) -> tuple[str, ...]:
    """Return hypotheses, each on one line.

    Raises:
        UsageError: If they are too many, too long or empty, or would be read otherwise than written.
    """
    if len(hypotheses) > MOST_HYPOTHESES:
        raise UsageError(f"at most {MOST_HYPOTHESES} hypotheses, got {len(hypotheses)}.", "Keep the likely.")
    lines = tuple(_texts("hypotheses", hypotheses))
    experiment("pass", lines)
    return lines


def answer(labels: Sequence[str], description: str, task: Task) -> str:
    """Return the reply that gives the final answer.

    Raises:
        UsageError: If it has no label, is too long, or would be read otherwise than it was written.
    """
    if not 1 <= len(labels) <= MOST_LABELS:
        raise UsageError(
            f"an answer has 1 to {MOST_LABELS} labels, got {len(labels)}.",
            "Give one short label, or one for each unrelated concept; `not interpretable` if none holds.",
        )
    for label in labels:
        _check_length("a label", label, MOST_LABEL)
    _check_length("the description", description, MOST_DESCRIPTION)
    lines, words = [" ".join(label.split()) for label in labels], " ".join(description.split())
    reply = f"[DESCRIPTION]: {words}\n" if words else ""
    reply += "\n".join(f"[LABEL {number}]: {label}" for number, label in enumerate(lines, 1))
    unique = tuple(dict.fromkeys(lines))
    if task.read_answer(reply) != FinalAnswer(unique, words or " OR ".join(unique)):
        raise UsageError(
            "a label or the description is empty, or has marks that the records read as something else.",
            "Write plain phrases, without quotes, brackets or tags around them.",
        )
    return reply


def seen_images(parts: Sequence[Part]) -> list[tuple[SeenImage, Image]]:
    """Return the images of an observation that were shown under a name, in order."""
    seen = []
    for line, part in _with_lines(parts):
        if isinstance(part, Image) and (match := _LINE.fullmatch(line)):
            name, number, note = match.groups()
            activation = None if number == "not measured" else float(number)
            seen.append((SeenImage(name=name, activation=activation, note=note), part))
    return seen


def names_in(parts: Sequence[object]) -> list[str]:
    """Return the names of the images of an observation, whose images may be records."""
    named = (_LINE.fullmatch(line) for line, part in _with_lines(parts) if not isinstance(part, str))
    return [match[1] for match in named if match]


def _with_lines(parts: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Yield every part with the last line of text before it."""
    for before, part in zip(["", *parts], parts, strict=False):
        yield before.rpartition("\n")[2] if isinstance(before, str) else "", part


def check_known(names: Iterable[str], known: Iterable[str]) -> None:
    """Raise UsageError if a name is none of an image that was shown."""
    if unknown := [name for name in names if name not in set(known)]:
        raise UsageError(
            f"no image is called {unknown[0][:60]!r} here.",
            "Images are named i1, i2, ... by the calls that show them; files and URLs are never read.",
        )


def _names(names: Sequence[str]) -> list[str]:
    if not 1 <= len(names) <= MOST_IMAGES:
        raise UsageError(f"name 1 to {MOST_IMAGES} images, got {len(names)}.", "Use several calls.")
    check_known((name for name in names if not _NAME.fullmatch(name)), ())
    return list(names)


def _texts(what: str, texts: Sequence[str]) -> list[str]:
    if not 1 <= len(texts) <= MOST_IMAGES:
        raise UsageError(f"{what} must have 1 to {MOST_IMAGES} items, got {len(texts)}.", "Give fewer.")
    for text in texts:
        _check_length(f"one of the {what}", text, MOST_WORDS)
    lines = [" ".join(text.split()) for text in texts]
    if not all(lines):
        raise UsageError(f"one of the {what} is empty.", "Leave it out.")
    return lines


def _check_length(what: str, text: str, most: int) -> None:
    if len(text) > most:
        raise UsageError(f"{what} has {len(text)} characters, and may have {most}.", "Write less.")


def _check_number(what: str, number: int, most: int) -> None:
    if not 1 <= number <= most:
        raise UsageError(f"{what} must be from 1 to {most}, got {number}.", "Choose another.")
