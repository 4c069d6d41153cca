"""The accuracy of the built-in scientist on units whose truth is known.

    python -m benchmarks.bench_scientist --units 20
    python -m benchmarks.bench_scientist --gym all --seed 1 --out runs/gym

The first form is in a world without pixels. The second is `maia synthetic` in one process, without Ray: drawn
pictures, the concept net as detector and observer, the critic, the one-shot baseline. `--gym drawn:10` takes
ten units of each kind whose concepts are drawn at random in place of the paper's.

In the world without pixels concepts are drawn at random; blind observers, image maker and units are noisy. A
study is right when its labels name every term of the unit and no other, or, for a unit without meaning, when
it says "not interpretable".
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import anyio
import numpy as np

from actors.embedded.language.words import Term, WordKind, Words, embedded_words
from actors.embedded.reasoning.formulas import auroc
from actors.embedded.reasoning.stimuli import Stimulus
from actors.embedded.scientist.scientist import Scientist
from experiments.paper.synthetic_summary import SyntheticResult, table
from tests.actors.embedded.scientist.world import World, WorldEyes, random_scene, study

OPENING = (
    "Describe the unit: answer with [HYPOTHESIS LIST], [CODE], and in the end [DESCRIPTION] and [LABEL]."
)
Made = tuple[World, frozenset[Term] | None]
"""A world and the terms of its unit; None when no words describe it."""


def pick(rng: random.Random, words: Words, *kinds: WordKind) -> Term:
    kind = rng.choice(kinds)
    if kind == "category":
        return Term(kind, rng.choice([c for c in words.categories if len(words.members(c)) >= 4]))
    names = {"concept": words.concepts, "background": words.backgrounds}.get(kind, words.colors)
    return Term(kind, rng.choice(list(names)))


def confidence(content: Stimulus, term: Term, words: Words, rng: random.Random) -> float:
    """Return what a fallible detector would say: 0.55 to 1 if present, with misses and false alarms."""
    present = content.terms(words).get(term, 0.0) > 0.5
    if present:
        return rng.uniform(0.55, 1.0) if rng.random() < 0.95 else 0.0
    return rng.uniform(0.3, 0.6) if rng.random() < 0.01 else 0.0


def unrelated(rng: random.Random, words: Words, first: Term, *kinds: WordKind) -> Term:
    while True:
        other = pick(rng, words, *kinds)
        if other not in words.closure(first) and first not in words.closure(other):
            return other


def planted(first: Term, second: Term, share: float) -> Callable[[random.Random, Words], Stimulus]:
    """Return a data set in which a share of the scenes shows both terms."""

    def draw(rng: random.Random, words: Words) -> Stimulus:
        scene = random_scene(rng, words)
        return satisfying(scene, (first, second), rng, words) if rng.random() < share else scene

    return draw


def once(first: Term, second: Term) -> Callable[[random.Random, Words], Stimulus]:
    """Return a data set of which one scene, in its midst, shows both terms among other things."""
    numbers = itertools.count()

    def draw(rng: random.Random, words: Words) -> Stimulus:
        scene = random_scene(rng, words)
        while {first, second} <= scene.terms(words).keys():
            scene = random_scene(rng, words)
        if next(numbers) != 1234:
            return scene
        shown = satisfying(scene, (first, second), rng, words)
        others = tuple(each for each in scene.things if each.concept not in shown.concepts)
        return Stimulus((*shown.things, *others[:2]), shown.background)

    return draw


def satisfying(scene: Stimulus, terms: tuple[Term, ...], rng: random.Random, words: Words) -> Stimulus:
    from actors.embedded.reasoning.stimuli import Thing

    names = [t.name for t in terms if t.kind == "concept"]
    names += [rng.choice(words.members(t.name)) for t in terms if t.kind == "category"]
    color = next((t.name for t in terms if t.kind == "color"), "")
    names = names or [rng.choice(list(words.concepts))]
    things = tuple(Thing(name, color if not index else "") for index, name in enumerate(dict.fromkeys(names)))
    background = next((t.name for t in terms if t.kind == "background"), scene.background)
    return Stimulus(things, background)


def only(term: Term, words: Words) -> Callable[[Stimulus], Stimulus]:
    """Return what a mask of one term leaves visible."""

    def look(content: Stimulus) -> Stimulus:
        if term.kind == "background":
            return Stimulus((), content.background)
        if term.kind == "tone" and term in words.closure(Term("background", content.background)):
            return Stimulus((), content.background)
        things = tuple(t for t in content.things if Stimulus((t,)).terms(words).get(term, 0) > 0.5)
        return Stimulus(things, "") if things else content

    return look


NUISANCES: dict[str, Callable[[Stimulus, random.Random], float]] = {
    "dead": lambda c, r: 0.0,
    "constant": lambda c, r: 0.37,
    "random": lambda c, r: r.random(),
    "gauss": lambda c, r: r.gauss(0, 1),
    "rare-noise": lambda c, r: r.random() if r.random() < 0.05 else 0.0,
}
"""Units that answer to nothing in an image."""


def make(kind: str, seed: int, words: Words) -> Made:
    """Return the world of a unit and the terms it answers to, None where it answers to nothing."""
    rng = random.Random(f"{kind}/{seed}")
    if kind in NUISANCES:
        return World(words, NUISANCES[kind], seed), None
    if kind == "graded":
        return _graded(seed, words, rng)
    if kind.startswith("or"):
        return _either(kind, seed, words, rng)
    if kind in ("conditional", "rare"):
        return _both(kind == "rare", seed, words, rng)
    if kind == "without":
        return _without(seed, words, rng)
    if kind == "confounded":
        return _confounded(seed, words, rng)
    term = pick(rng, words, kind)  # type: ignore[arg-type]
    return World(words, _detector(term, words), seed, only(term, words)), frozenset({term})


def _detector(term: Term, words: Words) -> Callable[[Stimulus, random.Random], float]:
    return lambda content, rng: confidence(content, term, words, rng)


def _either(kind: str, seed: int, words: Words, rng: random.Random) -> Made:
    first = pick(rng, words, "concept", "concept", "category", "background", "color")
    second = unrelated(rng, words, first, "concept", "concept", "category", "background")
    pool = max if kind == "or-max" else lambda a, b: (a + b) / 2 if a and b else max(a, b)

    def unit(c: Stimulus, r: random.Random) -> float:
        return pool(confidence(c, first, words, r), confidence(c, second, words, r))

    def visible(content: Stimulus) -> Stimulus:
        shown = content.terms(words)
        return only(first if shown.get(first, 0) > 0.5 else second, words)(content)

    return World(words, unit, seed, visible), frozenset({first, second})


def _both(rare: bool, seed: int, words: Words, rng: random.Random) -> Made:
    first = pick(rng, words, *(("concept",) if rare else ("concept", "category")))
    others: tuple[WordKind, ...] = ("concept", "category", "color", "background")
    second = unrelated(rng, words, first, *(("concept", "background") if rare else others))

    def unit(c: Stimulus, r: random.Random) -> float:
        a, b = confidence(c, first, words, r), confidence(c, second, words, r)
        return a if a and b else r.uniform(0, 0.1)

    dataset = once(first, second) if rare else planted(first, second, 0.01)
    world = World(words, unit, seed, only(first, words), dataset=dataset)
    return world, frozenset({first, second})


def _without(seed: int, words: Words, rng: random.Random) -> Made:
    first = pick(rng, words, "category")
    second = pick(rng, words, "background", "color")

    def unit(c: Stimulus, r: random.Random) -> float:
        a, b = confidence(c, first, words, r), confidence(c, second, words, r)
        return 0.0 if b else a

    return World(words, unit, seed, only(first, words)), frozenset({first, second})


def _confounded(seed: int, words: Words, rng: random.Random) -> Made:
    first, second = pick(rng, words, "concept"), pick(rng, words, "background")

    def draw(r: random.Random, w: Words) -> Stimulus:
        scene = random_scene(r, w)
        if first.name in [t.concept for t in scene.things] or r.random() < 0.01:
            return satisfying(scene, (first, second), r, w)
        return scene

    return World(words, _detector(first, words), seed, dataset=draw), frozenset({first})


def _graded(seed: int, words: Words, rng: random.Random) -> Made:
    weights = {
        pick(rng, words, "concept", "category", "color", "background"): rng.uniform(0.5, 2) for _ in range(4)
    }

    def unit(c: Stimulus, r: random.Random) -> float:
        shown = c.terms(words)
        return sum(w * shown.get(t, 0) for t, w in weights.items()) + r.gauss(0, 0.4)

    return World(words, unit, seed), frozenset(weights)


def terms_named(labels: list[str], words: Words) -> frozenset[Term]:
    return frozenset(term for label in labels for term in words.find(label.replace(" objects", "")))


def predictive(world: World, labels: list[str], words: Words) -> float:
    """Return the AUROC of fresh contents of the labels over random ones."""
    rng = random.Random(1)
    on, off = [], []
    for index in range(40):
        label = labels[index % len(labels)].replace(" objects", "")
        chosen = tuple(words.find(label))
        on.append(world.unit(satisfying(random_scene(rng, words), chosen, rng, words), rng))
        off.append(world.unit(random_scene(rng, words), rng))
    return auroc(np.array(on), np.array(off))


KINDS = (
    "concept", "category", "color", "tone", "background", "or-max", "or-mean", "conditional", "without",
    "rare", "confounded", "dead", "constant", "random", "gauss", "rare-noise", "graded",
)  # fmt: skip


def drawn(count: int, seed: int, words: Words) -> str:
    """Return formulas of `count` units of each kind (one concept, OR, A|B), of concepts drawn with `seed`."""
    rng = random.Random(f"drawn/{seed}")
    first_of: dict[str, tuple[WordKind, ...]] = {
        "": ("concept",) * 5 + ("category",) * 2 + ("background",) * 2 + ("color",),
        " OR ": ("concept",) * 4 + ("category",) * 2 + ("background",),
        "|": ("concept",) * 4 + ("category",),
    }
    second_of: dict[str, tuple[WordKind, ...]] = {
        " OR ": ("concept",) * 4 + ("category", "background"),
        "|": ("concept",) * 3 + ("background",) * 3 + ("category", "color"),
    }
    formulas = []
    for operator, kinds in first_of.items():
        for _ in range(count):
            first = pick(rng, words, *kinds)
            names = [first.name]
            if operator:
                names.append(unrelated(rng, words, first, *second_of[operator]).name)
            formulas.append(operator.join(names))
    return "; ".join(formulas)


async def in_the_gym(units: str, seed: int, out: Path) -> SyntheticResult:
    """Run `maia synthetic` with the embedded profile in this process, and return its result."""
    from agents.records.record_types import Manifest
    from agents.records.store import Store
    from benchmarks.in_process import run_context
    from experiments.paper.gym.neurons import choose
    from experiments.paper.synthetic_neurons import GymContext, NeuronRun, study_neurons
    from experiments.setup import config
    from experiments.setup.console import Console

    loaded = config.load(None)
    profile = loaded.profile("embedded")
    kind, _, count = units.partition(":")
    chosen = choose(drawn(int(count), seed, embedded_words()) if kind == "drawn" else units)
    names = [unit.name for unit in chosen]
    manifest = Manifest(command="synthetic", model="synthetic", units=names, seed=seed)
    async with run_context(profile) as (own, detector):
        gym = GymContext(own, detector, profile, loaded.cache)
        return await study_neurons(Console(), gym, NeuronRun(Store.open(out), manifest, chosen, seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, default=20, help="units of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    parser.add_argument("--blind", action="store_true", help="no eyes: blind descriptions only")
    parser.add_argument("--verbose", action="store_true", help="print every miss")
    parser.add_argument(
        "--gym", default="", help="units of the embedded world, as `maia synthetic --units`, or drawn:N"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/gym"), help="run directory of --gym")
    options = parser.parse_args()
    if options.gym:
        print(table(anyio.run(in_the_gym, options.gym, options.seed, options.out)))
        return
    words = embedded_words()
    print(f"{'kind':12} right      rounds images seconds")
    for kind in options.kinds:
        found: dict[str, list[float]] = defaultdict(list)
        for seed in range(options.seed, options.seed + options.units):
            world, truth = make(kind, seed, words)
            began = time.perf_counter()
            scientist = Scientist(words, None if options.blind else WorldEyes(world))
            outcome = study(scientist, world, OPENING, seed=seed)
            named = terms_named(outcome.labels, words)
            if truth is None:
                right = outcome.labels == ["not interpretable"]
            elif kind == "graded":
                right = bool(named) and predictive(world, outcome.labels, words) >= 0.8
            else:
                right = named == frozenset(Term("color", t.name) if t.kind == "tone" else t for t in truth)
            found["right"].append(right)
            found["rounds"].append(outcome.rounds)
            found["images"].append(outcome.images)
            found["seconds"].append(time.perf_counter() - began)
            if options.verbose and not right:
                print(f"  {kind} {seed}: {sorted(map(str, truth or ()))} -> {outcome.labels}")
        judged = found["right"]
        print(
            f"{kind:12} {sum(judged):3.0f}/{len(judged):<3d}    {np.mean(found['rounds']):6.1f} "
            f"{np.mean(found['images']):6.0f} {np.mean(found['seconds']):7.2f}"
        )


if __name__ == "__main__":
    main()
