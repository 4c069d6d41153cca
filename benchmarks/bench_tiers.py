"""How right labels by embeddings, agents, and both in tiers are about units whose truth is known.

    python -m benchmarks.bench_tiers --units 15

Draws units of each kind (A, A OR B, A|B) from the embedded vocabulary, and units without meaning. A share
of the units' concepts is taken from the words that labels may be made of: those units are out of the
vocabulary. All are labeled by embeddings as one layer; every accepted label is tested by the critic; every
unit is studied by an agent, blind and, with `--told`, once more with the labels as its first hypotheses. What
`maia sweep --agents` decides is then read off these records: an agent that follows a label which failed its
test counts as the agent that studied the unit alone.

Runs in one process, without Ray. Figures are kept in RESULTS.md.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actors.embedded.embedders import ScenesEmbedder
from actors.errors import UsageError
from actors.vision.networks.layer_cache import KnownNetwork
from actors.vision.readout.units import Readout
from agents.evidence.statistics import wilson_interval
from agents.evidence.verdict import HOLDING
from agents.records.record_types import StudyResult
from agents.records.store import Store
from agents.study.proposal import examine_proposal
from agents.study.study import RunContext, StudyRequest
from agents.tasks.describe_unit import NOT_INTERPRETABLE, DescribeUnit
from benchmarks.bench_truth import keep
from benchmarks.in_process import run_context
from experiments.labels.layer import EmbeddedImages, LabelSettings, LayerLabeler
from experiments.labels.record import FILE, UnitLabel, lines
from experiments.labels.tiers import AgentChoice, LabelTiers, hypotheses_of, proposed
from experiments.labels.vocabulary import EmbeddedVocabulary, read_vocabulary
from experiments.paper.gym.drawn import drawn
from experiments.paper.gym.neurons import GymUnit
from experiments.paper.gym.opening import open_gym
from experiments.paper.gym.score import named_by, same, score, senses
from experiments.paper.gym.subjects import Gym, NuisanceUnit
from experiments.paper.study_units import study_units
from experiments.paper.variants import FULL
from experiments.setup import config
from experiments.setup.console import Console
from tools.synthetic import SyntheticNeuron

LAYER = "units"
NOTHING = (NOT_INTERPRETABLE,)


@dataclass(frozen=True)
class Known:
    """The units, each with its label by embeddings, the critic's test of it, and what an agent found."""

    units: Sequence[GymUnit]
    labels: Sequence[UnitLabel]
    tests: Mapping[str, StudyResult]
    agents: Mapping[str, StudyResult]
    told: Mapping[str, StudyResult]
    """What agents found that were told the labels; empty where none were."""
    out_of_vocabulary: frozenset[str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one way of naming units came to: `answers` in the units' order, and the agents that it asked."""

    name: str
    answers: Sequence[Sequence[str]]
    agents: int
    rounds: int


async def measure(options: argparse.Namespace) -> Known:
    loaded = config.load(None)
    profile = loaded.profile("embedded").model_copy(update={"dataset": f"scenes:{options.images}:0"})
    units = _units(options)
    store = Store.open(options.out)
    async with run_context(profile) as (context, detector):
        gym, _ = open_gym(detector, profile, loaded.cache, options.seed, units)
        await gym.prepare(units, lambda done, total: None)
        taken = _taken(units, options)
        labels = await _labeled(gym, units, taken)
        by_name = {unit.name: unit for unit in units}
        blind = dict.fromkeys(by_name, ())
        agents = await _studied(gym, by_name, blind, context, options, "agents")
        known = {unit.name: hypotheses_of(label) for unit, label in zip(units, labels, strict=True)}
        asked = {name: by_name[name] for name in known if known[name]} if options.told else {}
        informed = await _studied(gym, asked, known, context, options, "told")
        tests = await _tested(gym, units, labels, context, Store.open(store.root / "tests"))
    return Known(units, labels, tests, agents, informed, frozenset(taken))


def _units(options: argparse.Namespace) -> list[GymUnit]:
    """Return the units in an order that says nothing of their kinds: ties are broken by it."""
    numbers = range(options.meaningless)
    meaningless = [GymUnit("noisy" if each % 2 else "random", None, seed=each // 2) for each in numbers]
    units = [*drawn(options.units, options.seed), *meaningless]
    random.Random(f"order/{options.seed}").shuffle(units)
    return units


async def _studied(
    gym: Gym,
    units: Mapping[str, GymUnit],
    hypotheses: Mapping[str, Sequence[str]],
    context: RunContext,
    options: argparse.Namespace,
    folder: str,
) -> dict[str, StudyResult]:
    requests = {
        name: StudyRequest(gym.subject(unit), DescribeUnit(hypotheses[name]), options.seed)
        for name, unit in units.items()
    }
    return await study_units(Console(), FULL, context, requests, Store.open(options.out / folder))


def _taken(units: Sequence[GymUnit], options: argparse.Namespace) -> list[str]:
    """Return the concepts that the vocabulary lacks: a share of those of the units."""
    concepts = sorted({concept for unit in units if unit.formula for concept in unit.formula.concepts})
    return random.Random(options.seed).sample(concepts, round(options.share * len(concepts)))


async def _labeled(gym: Gym, units: Sequence[GymUnit], taken: Sequence[str]) -> list[UnitLabel]:
    embedder = ScenesEmbedder()
    explored, dataset = gym.explored, gym.dataset
    images = [await asyncio.to_thread(dataset.load, int(index)) for index in explored]
    vectors = np.concatenate([embedder.images(images[at : at + 64]) for at in range(0, len(images), 64)])
    columns = []
    for unit in units:
        subject = gym.subject(unit)
        if isinstance(subject, NuisanceUnit):
            columns.append(np.array([subject.activation(image.id) for image in images], np.float32))
        else:
            assert isinstance(subject, SyntheticNeuron)
            columns.append(np.nan_to_num((await subject.activations())[explored]))
    words = _words(embedder, units, taken)
    embedded = EmbeddedImages(vectors, words, embedder.facts.present_above, LabelSettings())
    labeler = LayerLabeler(embedded, Readout(LAYER), np.stack(columns, 1), np.arange(len(images)))
    return labeler.label()


def _words(embedder: ScenesEmbedder, units: Sequence[GymUnit], taken: Sequence[str]) -> EmbeddedVocabulary:
    """Return the everyday words and the units' own, without those that mean a concept that was taken."""
    lacking = [sense for concept in taken for sense in senses(concept)]
    own = [concept for unit in units if unit.formula for concept in unit.formula.concepts]
    known: dict[str, np.ndarray] = {}
    for word in dict.fromkeys([*read_vocabulary("everyday").words, *own]):
        if any(same(sense, other) for sense in named_by([word]) for other in lacking):
            continue
        try:
            known[word] = embedder.texts([word])[0]
        except UsageError:
            continue
    return EmbeddedVocabulary(tuple(known), np.stack(list(known.values())), (), 0)


async def _tested(
    gym: Gym, units: Sequence[GymUnit], labels: Sequence[UnitLabel], context: RunContext, store: Store
) -> dict[str, StudyResult]:
    tests = {}
    for unit, label in zip(units, labels, strict=True):
        if said := proposed(label):
            request = StudyRequest(gym.subject(unit), DescribeUnit())
            tests[unit.name] = await examine_proposal(context, request, said, store)
    return tests


def outcomes(known: Known, out: Path) -> list[Outcome]:
    """Return what each way of naming the units comes to."""
    cheap = [proposed(label) or NOTHING for label in known.labels]
    found = [Outcome("labels by embeddings alone", cheap, 0, 0)]
    choices = ("doubtful", f"top:{len(known.units) // 2}", f"top:{len(known.units) // 10}")
    found += _of_agents(known, known.agents, choices, "", out)
    if known.told:
        found += _of_agents(known, {**known.agents, **known.told}, choices, " --tell-labels", out)
    return found


def _of_agents(
    known: Known, agents: Mapping[str, StudyResult], choices: Sequence[str], option: str, out: Path
) -> list[Outcome]:
    """Return what agents with these results come to: alone, and in tiers."""
    rounds = sum(agents[unit.name].rounds for unit in known.units)
    alone = [_labels(agents[unit.name]) for unit in known.units]
    name = "agents alone, told the labels" if option else "agents alone"
    tiers = [_tiers(known, agents, text, option, out) for text in choices]
    return [Outcome(name, alone, len(known.units), rounds), *tiers]


def _tiers(known: Known, agents: Mapping[str, StudyResult], text: str, option: str, out: Path) -> Outcome:
    choice = AgentChoice.parse(text)
    assert choice is not None
    store = Store.open(out / "choice")
    store.replace(FILE, lines(list(known.labels)))
    names = [f"gym/{LAYER}:{place}" for place in range(len(known.units))]
    network = KnownNetwork("gym", {LAYER: len(names)}, {}, {}, ())
    decided = {tier.unit: tier for tier in LabelTiers(choice).decide(store, network, "", names)}
    answers, asked = [], []
    for name, unit in zip(names, known.units, strict=True):
        tier, test = decided[name], known.tests.get(unit.name)
        tested = tier.given.startswith("test")
        if test is not None and tested and test.verdict in HOLDING:
            answers.append(_labels(test))
        elif tier.given in ("agent", "test, then agent"):
            asked.append(unit.name)
            answers.append(_labels(agents[unit.name]))
        else:
            answers.append(NOTHING)
    spent = sum(agents[name].rounds for name in asked)
    return Outcome(f"`--agents {text}{option}`", answers, len(asked), spent)


def _labels(record: StudyResult) -> tuple[str, ...]:
    return tuple(record.labels) or NOTHING


def report(known: Known, out: Path) -> str:
    """Return the figures as Markdown."""
    found = outcomes(known, out)
    right = [_right(known.units, outcome.answers) for outcome in found]
    whole = max(1, found[1].rounds)
    rows = [
        "| | right | share (Wilson 95 %) | of the agents' accuracy | agents | their rounds |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for outcome, count in zip(found, right, strict=True):
        relative = f"{count / max(1, right[1]):.0%}"
        rows.append(
            f"| {outcome.name} | {count}/{len(known.units)} | {_share(count, len(known.units))} | {relative} "
            f"| {outcome.agents} | {outcome.rounds / whole:.0%} |"
        )
    return "\n".join([*rows, "", _accepted(known)])


def _accepted(known: Known) -> str:
    """Return how many of the accepted labels are wrong: before the critic's test, and after it."""
    names = [unit.name for unit, label in zip(known.units, known.labels, strict=True) if proposed(label)]
    held = [name for name in names if known.tests[name].verdict in HOLDING]
    by_name = {unit.name: unit for unit in known.units}
    cheap = {u.name: proposed(label) for u, label in zip(known.units, known.labels, strict=True)}
    lacking = sum(
        bool(unit.formula and known.out_of_vocabulary & set(unit.formula.concepts)) for unit in known.units
    )
    lines_ = [
        f"{lacking} of the {len(known.units)} units have a concept that the vocabulary lacks; "
        f"{sum(unit.formula is None for unit in known.units)} have no meaning.",
        "",
        "| labels by embeddings, accepted at a false-discovery rate of 5 % | wrong | share (Wilson 95 %) |",
        "|---|---:|---|",
    ]
    for said, chosen, labels in (
        ("not all and only the unit's concepts", names, cheap),
        (
            "the same, of those that the critic confirms",
            held,
            {n: _labels(known.tests[n]) for n in held},
        ),
    ):
        wrong = sum(not score(by_name[name], labels[name]).right for name in chosen)
        lines_.append(f"| {said} | {wrong}/{len(chosen)} | {_share(wrong, len(chosen))} |")
    strange = sum((score(by_name[name], cheap[name]).precision or 0.0) == 0.0 for name in names)
    lines_.append(
        f"| none of the unit's concepts among them | {strange}/{len(names)} | {_share(strange, len(names))} |"
    )
    images = sum(test.images_tested for test in known.tests.values())
    lines_ += ["", f"A test takes {images / max(1, len(names)):.0f} images in the mean, and no agent."]
    return "\n".join(lines_)


def _right(units: Sequence[GymUnit], answers: Sequence[Sequence[str]]) -> int:
    return sum(score(unit, list(answer)).right for unit, answer in zip(units, answers, strict=True))


def _share(part: int, whole: int) -> str:
    low, high = wilson_interval(part, whole)
    return f"{part / max(1, whole):.2f} ({low:.2f} to {high:.2f})"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_tiers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--units", type=int, default=15, help="units of each kind")
    parser.add_argument("--meaningless", type=int, default=16, help="units without meaning")
    parser.add_argument("--images", type=int, default=1000, help="scenes at random in the data set")
    parser.add_argument("--share", type=float, default=0.15, help="part of the concepts without a word")
    parser.add_argument("--seed", type=int, default=2026, help="seed of units, data set and studies")
    parser.add_argument("--told", action="store_true", help="study the units once more, told the labels")
    parser.add_argument("--out", type=Path, default=Path("runs/tiers"), help="where the runs are kept")
    parser.add_argument("--dry", action="store_true", help="print the figures and keep nothing")
    options = parser.parse_args()
    started = time.monotonic()
    text = report(asyncio.run(measure(options)), options.out)
    text += f"\n\nTook {time.monotonic() - started:.0f} s of this process."
    if options.dry:
        print(text)
        return 0
    command = (
        f"python -m benchmarks.bench_tiers --units {options.units} --meaningless {options.meaningless} "
        f"--images {options.images} --share {options.share} --seed {options.seed}"
    )
    keep("tiers", [command], text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
