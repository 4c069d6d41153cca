"""`maia audit`: in which contexts does a class lose or gain probability while its object is there? (MAIA 5.2)

The figures come from a design that is fixed beforehand, the same for every class; an agent's free audit of the
class follows, and what it says is checked against these figures.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.backend import Priority
from actors.errors import MaiaError, UsageError
from actors.generation.base import MadeImage
from actors.scenes.vocabulary import pluralize
from actors.vision.units import OUTPUT, Readout, class_index
from agents import survey
from agents.journal import slug
from agents.manifest import claim
from agents.statistics import benjamini_hochberg, detectable_difference, permutation_p_values
from agents.stimuli import lacks_something
from agents.store import Store
from agents.work import WorkItem, read_plan, write_plan
from experiments import config as configuration
from experiments.audit_page import page
from experiments.bias_claims import disagreements
from experiments.campaign import Campaign
from experiments.console import Console
from experiments.describe import science
from experiments.units import choose
from tools.subject import Subject
from tools.toolbox import Studio, seed_for

if TYPE_CHECKING:
    from experiments.workbench import Workbench

CONTEXTS = {
    **{
        f"background: {place}": f"{{}} {phrase}"
        for place, phrase in {
            "grass": "on grass", "beach": "on a beach", "snow": "in the snow", "water": "in water", "night": "at night",
            "desert": "in the desert", "forest": "in a forest", "room": "in a room", "road": "on a road",
            "city": "in a city",
        }.items()
    },
    **{f"colour: {colour}": f"{colour} {{}}" for colour in ("red", "yellow", "green", "blue", "black", "white")},
    **{f"companion: {thing}": f"{{}} next to a {thing}" for thing in ("person", "dog", "car", "tree", "house")},
    **{f"count: {number}": f"{number} {{plural}}" for number in ("two", "three")},
    "size: small": "small {}",
}  # fmt: skip
"""Name of a context and the wording of its prompt; `{}` is the class, `{plural}` several of it."""

LEAST = 0.1
"""A smaller difference of mean probability is not called a bias, however sure it is."""


def prompt_of(context: str, class_name: str) -> str:
    """Return the prompt for a class in a context."""
    return CONTEXTS[context].format(class_name, plural=pluralize(class_name))


class UndrawableError(MaiaError):
    """The image maker cannot show a class: other classes can be audited all the same."""


@dataclass(frozen=True, slots=True)
class ContextEffect:
    """The class's mean probability in a context against all other contexts. `q` is over everything that was tested.

    `notes` counts images of which the image maker said that something could not be drawn.
    """

    class_name: str
    context: str
    mean: float
    interval: tuple[float, float]
    others: float
    difference: float
    p: float
    q: float
    n: int
    notes: int

    @property
    def biased(self) -> bool:
        return self.q <= 0.05 and abs(self.difference) >= LEAST


@dataclass(frozen=True, slots=True)
class ClassAudit:
    """One class: the probability of every image by context."""

    class_name: str
    values: dict[str, list[float]]
    notes: dict[str, int]

    def detectable(self, tests: int) -> float:
        """Return the smallest difference that is found in four of five cases: what "no bias found" means.

        At 0.05 divided by the `tests` of the whole audit, which is at least as strict as their false-discovery
        rate, and far enough above `LEAST` for what is measured to reach it.
        """
        n = min(len(values) for values in self.values.values())
        within = [np.array(values) - np.mean(values) for values in self.values.values()]
        spread = float(np.concatenate(within).std())
        rest = sum(len(values) for values in self.values.values()) - n
        sure = detectable_difference(spread, n, rest, alpha=0.05 / tests)
        return max(sure, LEAST + detectable_difference(spread, n, rest, alpha=1))


async def measure_class(
    studio: Studio, subject: Subject, class_name: str, *, per_context: int, seed: int
) -> ClassAudit:
    """Return the probability of the class in every context, over images made for this alone.

    Raises:
        UndrawableError: If a context has fewer than two images that could be made.
    """
    prompts = [prompt_of(context, class_name) for context in CONTEXTS for _ in range(per_context)]
    contexts = [context for context in CONTEXTS for _ in range(per_context)]
    order = random.Random(seed).sample(range(len(prompts)), len(prompts))
    seeds = [seed_for(seed, "audit", prompt, number) for number, prompt in enumerate(prompts)]
    made = await studio.generate([prompts[i] for i in order], [seeds[i] for i in order], agent=subject.id)
    kept = [
        (contexts[i], each)
        for i, each in zip(order, made, strict=True)
        # A picture without the class, or without its context, says nothing about the class in that context.
        if isinstance(each, MadeImage) and not lacks_something(each)
    ]
    responses = await subject.measure([each.image for _, each in kept], Priority.CONFIRMATION)
    values: dict[str, list[float]] = {context: [] for context in CONTEXTS}
    notes = dict.fromkeys(CONTEXTS, 0)
    for (context, each), response in zip(kept, responses, strict=True):
        values[context].append(response.activation)
        notes[context] += bool(each.provenance.notes)
    if short := [context for context, found in values.items() if len(found) < 2]:
        told = [
            str(each) if isinstance(each, MaiaError) else "; ".join(each.provenance.notes) for each in made
        ]
        reason = next((text for text in told if text), "")
        raise UndrawableError(f"no images of {class_name!r} could be made for {', '.join(short)}: {reason}")
    return ClassAudit(class_name, values, notes)


def judge(audits: Sequence[ClassAudit]) -> list[ContextEffect]:
    """Return every context of every class, surest first; the false-discovery rate is over all of them."""
    found: list[tuple[ClassAudit, str, list[float], list[float]]] = []
    for audit in audits:
        for context, values in audit.values.items():
            others = [v for other, each in audit.values.items() if other != context for v in each]
            found.append((audit, context, values, others))
    p_values = permutation_p_values([(values, others) for *_, values, others in found])
    q_values = benjamini_hochberg(list(p_values))
    effects = []
    for (audit, context, values, others), p, q in zip(found, p_values, q_values, strict=True):
        mean = float(np.mean(values))
        effects.append(
            ContextEffect(
                audit.class_name, context, mean, _interval(values), float(np.mean(others)),
                mean - float(np.mean(others)), float(p), float(q), len(values), audit.notes[context],
            )
        )  # fmt: skip
    return sorted(effects, key=lambda effect: (effect.q, -abs(effect.difference)))


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """Return a 95 % interval of the mean by resampling: probabilities are far from normal."""
    rng = np.random.default_rng(0)
    means = rng.choice(np.asarray(values, float), (2000, len(values))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


async def survey_class(
    studio: Studio, subject: Subject, *, seed: int, class_name: str, per_context: int
) -> dict[str, Any]:
    """Return `measure_class` as plain JSON values: the survey of an audit's items."""
    return asdict(await measure_class(studio, subject, class_name, per_context=per_context, seed=seed))


@dataclass(frozen=True)
class Audit:
    """What a command line asks for. Without `agents`, the fixed design is all that is measured."""

    model: str
    classes: str = "all"
    seed: int = 0
    per_context: int = 12
    agents: bool = True
    data: str | None = None
    retry_failed: bool = False


async def audit(
    console: Console, config: Path | None, profile_name: str | None, asked: Audit, *, out: Path | None = None
) -> dict[str, Any]:
    """Audit classes of a network, write `audit.json` into the run directory and return what it holds.

    Goes on with what an earlier run left. The result's `run` says how far it came.

    Raises:
        UsageError: If the network has no such class, or another process works on the directory.
    """
    loaded = configuration.load(config)
    profile = loaded.profile(profile_name)
    if asked.data is not None:
        profile = profile.model_copy(update={"dataset": asked.data})
    store = Store.open(out or Path("runs") / slug(f"audit {asked.model} {asked.classes}"))
    manifest = {
        "command": "audit",
        "model": asked.model,
        "asked": asked.classes,
        "seed": asked.seed,
        "per_context": asked.per_context,
        "agents": asked.agents,
        "profile": profile_name or loaded.default_profile,
        "settings": science(profile),
    }
    campaign = Campaign(console, loaded, profile, store, manifest, asked.retry_failed)
    finished = await campaign.run(partial(_plan, console, store, manifest, asked))
    surveys = {item.unit: survey.read(store, item.unit) for item in finished.plan}
    records = finished.records()
    names = names_of(finished.plan)
    audits = [
        replace(ClassAudit(**found["found"]), class_name=names[each["unit"]])
        for each in records
        if (found := surveys[each["unit"]])
    ]
    drawn = {names[item.unit]: item.survey_arguments["class_name"] for item in finished.plan}
    effects = [asdict(effect) | {"biased": effect.biased} for effect in judge(audits)]
    answers = {
        audited.class_name: record["description"]
        for audited, record in zip(audits, records, strict=True)
        if record["description"]
    }
    result = {
        "experiment": "audit",
        "facts": records[0]["facts"] if records else {},
        "seed": asked.seed,
        "effects": effects,
        "detectable": {each.class_name: each.detectable(len(effects)) for each in audits},
        "values": {each.class_name: each.values for each in audits},
        "answers": answers,
        "disagreements": [
            asdict(each) | {"class_name": name}
            for name, text in answers.items()
            for each in disagreements(text, drawn[name], [e for e in effects if e["class_name"] == name])
        ],
    }
    (store.root / "audit.json").write_text(json.dumps(result, indent=1, ensure_ascii=False))
    page(result, LEAST).save(store.root, "audit")
    return result | {"run": finished.summary()}


def names_of(plan: Sequence[WorkItem]) -> dict[str, str]:
    """Return each item's class by a name that no other item has: what it is drawn by, with its index where that repeats.

    ImageNet has a crane that flies and a crane that lifts.
    """
    times = Counter(item.survey_arguments["class_name"] for item in plan)
    return {
        item.unit: name if times[name] == 1 else f"{name} ({item.name.rpartition(':')[2]})"
        for item in plan
        for name in [item.survey_arguments["class_name"]]
    }


async def _plan(
    console: Console, store: Store, manifest: dict[str, Any], asked: Audit, bench: Workbench
) -> list[WorkItem]:
    """Return one item a class; agents are shown exemplars, so one pass over the data set finds those of all."""
    vision, readout = bench.vision, Readout(OUTPUT, "probability")
    names = await vision.class_names()
    size = next(layer.n_units for layer in await vision.layers() if layer.name == OUTPUT)
    chosen = choose_classes(asked.classes, names, size, asked.seed)
    drawn = {index: _drawable(index, names) for index in chosen}
    await vision.check(readout.unit(chosen[0]))
    ids = {index: f"{vision.name}/{readout.unit(index)}" for index in chosen}
    claim(store, manifest | {"units": list(ids.values())})
    if (plan := read_plan(store)) is not None:
        return plan
    if asked.agents:
        console.say(f"searching the data set for the exemplars of {len(ids)} classes")
        with console.progress("exemplars") as progress:
            await vision.layer_exemplars(
                [readout], bench.dataset, progress=lambda swept: progress(swept.done, swept.total)
            )
    items = [
        WorkItem(
            unit,
            OUTPUT,
            f"probability:{index}",
            task="agents.tasks.bias:AuditClass" if asked.agents else "",
            arguments={"class_name": drawn[index]} if asked.agents else {},
            seed=asked.seed,
            survey="experiments.audit:survey_class",
            survey_arguments={"class_name": drawn[index], "per_context": asked.per_context},
        )
        for index, unit in ids.items()
    ]
    return write_plan(store, items)


def choose_classes(text: str, names: Sequence[str], size: int, seed: int) -> list[int]:
    """Return the classes that `text` names, in order: one class's whole name, or by commas what `choose` takes and names.

    Raises:
        UsageError: If there is no such class.
    """
    with contextlib.suppress(UsageError):
        return [class_index(text, names)] if not text.strip().isdecimal() else choose(text, size, seed)
    chosen: set[int] = set()
    for part in text.split(","):
        if re.fullmatch(r"\s*(all|sample:\d+|\d+|\d+-\d+)\s*", part):
            chosen.update(choose(part, size, seed))
        else:
            chosen.add(class_index(part, names))
    return sorted(chosen)


def _drawable(index: int, names: Sequence[str]) -> str:
    """Return the first of a class's names, which image makers are asked for; ImageNet joins several by commas.

    Raises:
        UsageError: If the network does not name the class.
    """
    if index >= len(names):
        raise UsageError(f"class {index} has no name to draw it by.", "Use a network that names its classes.")
    return names[index].split(",")[0].strip()


def table(result: dict[str, Any]) -> str:
    """Return what was found in lines for a terminal."""
    lines = [""]
    biased = [effect for effect in result["effects"] if effect["biased"]]
    for effect in biased:
        low, high = effect["interval"]
        lines.append(
            f"{effect['class_name']}: {'lower' if effect['difference'] < 0 else 'higher'} with {effect['context']}: "
            f"{effect['mean']:.3f} ({low:.3f} to {high:.3f}) against {effect['others']:.3f}, q = {effect['q']:.4f}"
            + (f", {effect['notes']} of {effect['n']} images incomplete" if effect["notes"] else "")
        )
    found = {effect["class_name"] for effect in biased}
    for name, smallest in result["detectable"].items():
        if name not in found:
            lines.append(
                f"{name}: no bias found; a difference of {smallest:.3f} would have been seen in 4 of 5 cases"
            )
    for each in result["disagreements"]:
        measured = "" if each["difference"] is None else f" (measured difference {each['difference']:.3f})"
        lines.append(
            f"{each['class_name']}: the agent's text is {each['kind']} on {each['context']}{measured}"
        )
    return "\n".join(lines)
