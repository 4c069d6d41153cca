"""`maia audit`: in which contexts does a class lose or gain probability while its object is there? (MAIA 5.2)

The figures come from a design that is fixed beforehand, the same for every class; an agent's free audit may be
added, and what it says is checked against these figures.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.backend import Priority
from actors.errors import MaiaError, UsageError
from actors.generation.base import MadeImage
from agents.manifest import check, claim
from agents.statistics import benjamini_hochberg, detectable_difference, permutation_p
from agents.store import Store
from experiments import config as configuration
from experiments.console import Console
from experiments.describe import science
from tools.subject import Subject
from tools.toolbox import Studio, seed_for

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
    "companion: person": "{} next to a person",
    "companion: dog": "{} next to a dog",
    "companion: car": "{} next to a car",
    "size: small": "small {}",
}  # fmt: skip
"""Name of a context and the wording of its prompt; `{}` is the class."""


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
        return self.q <= 0.05


@dataclass(frozen=True, slots=True)
class ClassAudit:
    """One class: the probability of every image by context."""

    class_name: str
    values: dict[str, list[float]]
    notes: dict[str, int]

    @property
    def detectable(self) -> float:
        """The smallest difference that would be found in four of five cases: what "no bias found" means.

        At 0.05 divided by the contexts, which is at least as strict as the false-discovery rate within the class.
        """
        n = min(len(values) for values in self.values.values())
        within = [np.array(values) - np.mean(values) for values in self.values.values()]
        spread = float(np.concatenate(within).std())
        rest = sum(len(values) for values in self.values.values()) - n
        return detectable_difference(spread, n, rest, alpha=0.05 / len(self.values))


async def measure_class(
    studio: Studio, subject: Subject, class_name: str, *, per_context: int, seed: int
) -> ClassAudit:
    """Return the probability of the class in every context, over images made for this alone.

    Raises:
        UsageError: If a context has fewer than two images that could be made.
    """
    prompts = [wording.format(class_name) for wording in CONTEXTS.values() for _ in range(per_context)]
    contexts = [context for context in CONTEXTS for _ in range(per_context)]
    order = random.Random(seed).sample(range(len(prompts)), len(prompts))
    seeds = [seed_for(seed, "audit", prompt, number) for number, prompt in enumerate(prompts)]
    made = await studio.generate([prompts[i] for i in order], [seeds[i] for i in order], agent=subject.id)
    kept = [(contexts[i], each) for i, each in zip(order, made, strict=True) if isinstance(each, MadeImage)]
    responses = await subject.measure([each.image for _, each in kept], Priority.CONFIRMATION)
    values: dict[str, list[float]] = {context: [] for context in CONTEXTS}
    notes = dict.fromkeys(CONTEXTS, 0)
    for (context, each), response in zip(kept, responses, strict=True):
        values[context].append(response.activation)
        notes[context] += bool(each.provenance.notes)
    if short := [context for context, found in values.items() if len(found) < 2]:
        reason = next((str(each) for each in made if isinstance(each, MaiaError)), "")
        raise UsageError(f"no images of {class_name!r} could be made for {', '.join(short)}: {reason}")
    return ClassAudit(class_name, values, notes)


def judge(audits: Sequence[ClassAudit]) -> list[ContextEffect]:
    """Return every context of every class, surest first; the false-discovery rate is over all of them."""
    found: list[tuple[ClassAudit, str, list[float], list[float], float]] = []
    for audit in audits:
        for context, values in audit.values.items():
            others = [v for other, each in audit.values.items() if other != context for v in each]
            found.append((audit, context, values, others, permutation_p(values, others)))
    q_values = benjamini_hochberg([p for *_, p in found])
    effects = []
    for (audit, context, values, others, p), q in zip(found, q_values, strict=True):
        mean = float(np.mean(values))
        effects.append(
            ContextEffect(
                audit.class_name, context, mean, _interval(values), float(np.mean(others)),
                mean - float(np.mean(others)), p, float(q), len(values), audit.notes[context],
            )
        )  # fmt: skip
    return sorted(effects, key=lambda effect: (effect.q, -abs(effect.difference)))


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """Return a 95 % interval of the mean by resampling: probabilities are far from normal."""
    rng = np.random.default_rng(0)
    means = rng.choice(np.asarray(values, float), (2000, len(values))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


async def audit(
    console: Console,
    config: Path | None,
    profile_name: str | None,
    model: str,
    classes: Sequence[str],
    *,
    out: Path,
    seed: int = 0,
    per_context: int = 12,
) -> dict[str, Any]:
    """Audit classes of a network, write `audit.json` into `out` and return what it holds.

    Raises:
        UsageError: If the network has no such class, or images of it cannot be made.
    """
    from experiments.workbench import Workbench

    loaded = configuration.load(config)
    profile = loaded.profile(profile_name)
    store = Store.open(out)
    manifest = {
        "command": "audit",
        "model": model,
        "classes": list(classes),
        "seed": seed,
        "per_context": per_context,
        "profile": profile_name or loaded.default_profile,
        "settings": science(profile),
    }
    check(store, manifest)
    audits = []
    async with Workbench.open(profile, cache=loaded.cache, model=model, tell=console.say) as bench:
        subjects = [await bench.subject("output", f"probability:{name}") for name in classes]
        known = await bench.vision.class_names()
        claim(store, manifest)
        for name, subject in zip([_drawable(each, known) for each in classes], subjects, strict=True):
            console.say(f"auditing {name}")
            audits.append(
                await measure_class(
                    bench.laboratory.studio, subject, name, per_context=per_context, seed=seed
                )
            )
        facts = bench.laboratory.facts
    effects = judge(audits)
    result = {
        "experiment": "audit",
        "facts": facts,
        "seed": seed,
        "effects": [asdict(effect) | {"biased": effect.biased} for effect in effects],
        "detectable": {each.class_name: each.detectable for each in audits},
        "values": {each.class_name: each.values for each in audits},
    }
    (out / "audit.json").write_text(json.dumps(result, indent=1, ensure_ascii=False))
    return result


def _drawable(text: str, class_names: Sequence[str]) -> str:
    """Return the first of a class's names, which image makers are asked for; ImageNet joins several by commas.

    Raises:
        UsageError: If it was given by number and the network has no names.
    """
    if not text.strip().isdecimal():
        return text.split(",")[0].strip()
    if int(text) >= len(class_names):
        raise UsageError(
            f"class {text} has no name to draw it by.", "Name a class, or give the network class names."
        )
    return class_names[int(text)].split(",")[0].strip()


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
    return "\n".join(lines)
