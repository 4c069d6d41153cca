"""`maia ablate`: the whole system against less than the system, on the same units (MAIA 4.3, Table A5).

The variants' labels are put to the predictive protocol together; on synthetic neurons they are also scored
against the truth. Every comparison is paired by unit, with an interval.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.vision.readout.units import parse_unit
from agents.records.manifest import claim
from agents.records.record_types import Manifest, StudyResult
from agents.records.store import Store
from agents.study.study import StudyRequest
from agents.tasks.describe_unit import DescribeUnit
from experiments.paper.ablation_page import AblationResult, TruthScore, page
from experiments.paper.evaluation.evaluate import Sizes, measure, prepare
from experiments.paper.evaluation.run_labels import NULL, LabeledUnit, label_of, with_null
from experiments.paper.evaluation.summary import EvaluatedRow, MeanDifference, difference, summarize
from experiments.paper.gym.neurons import GymUnit
from experiments.paper.gym.neurons import choose as choose_synthetic
from experiments.paper.gym.score import Score, score
from experiments.paper.study_units import study_units
from experiments.paper.variants import EXEMPLARS_ONLY, FULL, GENERATED_ONLY, ONE_SHOT, Variant, variant_named
from experiments.setup.config import Profile
from experiments.setup.console import Console
from experiments.setup.run_folder import claim_run, open_run
from experiments.setup.selection import Selection
from experiments.setup.workbench import Workbench
from experiments.studies.unit_selection import choose
from tools.subject import Subject

SYNTHETIC = "synthetic"
USUAL = (FULL, EXEMPLARS_ONLY, GENERATED_ONLY, ONE_SHOT)
_PREDICTIVE = ("positive", "negative", "auroc", "margin", "pearson")


@dataclass(frozen=True)
class Ablation:
    """What a command line asks for. `model` "synthetic" takes `units` of the gym; `swap` is a profile whose
    generator takes the place of the own one in one more variant.
    """

    model: str
    layer: str
    units: str
    variants: tuple[str, ...] = tuple(variant.name for variant in USUAL)
    swap: str | None = None
    seed: int = 0
    sizes: Sizes = field(default_factory=Sizes)


async def ablate(console: Console, selection: Selection, request: Ablation, *, out: Path) -> AblationResult:
    """Study the units with every variant, compare the labels, write `ablation.json` and a page.

    Resumes an interrupted run; each variant's studies are a run of their own in `out/variants/NAME`.

    Raises:
        UsageError: If a unit, variant or profile does not exist, or `out` is another run.
    """
    selected = selection.load()
    profile = selected.profile
    variants = [variant_named(name) for name in dict.fromkeys((FULL.name, *request.variants))]
    manifest = selected.manifest(
        "ablate",
        model=request.model,
        layer=request.layer,
        asked=request.units,
        variants=[variant.name for variant in variants],
        swap=request.swap,
        seed=request.seed,
    )
    store = open_run(profile.dataset, out, manifest)
    ablation = AblationRun(console, selected.cache, request, store, manifest)
    records: dict[str, Records] = {}
    if request.swap is not None:
        other = profile.model_copy(
            update={"generation": selected.configuration.profile(request.swap).generation}
        )
        swapped = replace(FULL, name=f"generator of {request.swap}")
        async with ablation.open(other) as (bench, units):
            records = await ablation.study(bench, units, [swapped])
    async with ablation.open(profile) as (bench, units):
        # The swapped generator comes last in every table.
        records = await ablation.study(bench, units, variants) | records
        writer, rows = await ablation.evaluate(bench, units, records)
    names = list(records)
    result = AblationResult(
        model=request.model,
        prompts=writer,
        seed=request.seed,
        variants=names,
        rows=rows,
        summary=summarize([{**row, "layer": "all"} for row in rows]),
        differences=_differences(rows, [*names[1:], NULL]),
        truth=_truth(units, records) if request.model == SYNTHETIC else None,
    )
    store.replace_json("ablation.json", result)
    page(result).save(out, "ablation")
    return result


@dataclass(frozen=True)
class AblatedUnit:
    subject: Subject
    layer: str
    name: str
    truth: GymUnit | None = None


Units = Mapping[str, AblatedUnit]
"""Units by id."""
Records = Mapping[str, StudyResult]
"""The results of one variant by unit."""


@dataclass(frozen=True)
class AblationRun:
    """One ablation in its run directory."""

    console: Console
    cache: Path
    request: Ablation
    store: Store
    manifest: Manifest

    @contextlib.asynccontextmanager
    async def open(self, profile: Profile) -> AsyncIterator[tuple[Workbench, Units]]:
        """Open the models of a profile, find the units and claim the run directory."""
        model = None if self.request.model == SYNTHETIC else self.request.model
        async with Workbench.open(profile, cache=self.cache, model=model, notify=self.console.say) as bench:
            units = await self._units(bench, profile)
            claim_run(self.store, self.manifest, bench.context.facts)
            yield bench, units

    async def _units(self, bench: Workbench, profile: Profile) -> Units:
        """Return the units by id, their exemplars found."""
        if bench.network is None:
            return await self._synthetic_units(bench, profile)
        layer, request = self.request.layer, self.request
        first = await bench.vision.unit(parse_unit(layer, "0", await bench.vision.class_names()))
        n_units = bench.vision.known.info(first.layer).n_units
        numbers = [str(number) for number in choose(request.units, n_units, request.seed)]
        units = [AblatedUnit(await bench.subject(layer, number), layer, number) for number in numbers]
        with self.console.progress("exemplars") as progress:
            await units[0].subject.prepare(progress)
        return {unit.subject.id: unit for unit in units}

    async def _synthetic_units(self, bench: Workbench, profile: Profile) -> Units:
        from experiments.paper.gym.opening import open_gym, studied

        assert bench.detector is not None, "a set-up without a network has the concept detector"
        asked = [unit for unit in choose_synthetic(self.request.units) if unit.formula]
        gym, _ = open_gym(bench.detector, profile, self.cache, self.request.seed, asked)
        known, unknown = await studied(gym, asked)
        for name, reason in unknown.items():
            self.console.say(f"left out: {name}: {reason}")
        with self.console.progress("data set") as progress:
            await gym.prepare(known, progress)
        units = [AblatedUnit(gym.subject(unit), SYNTHETIC, unit.name, unit) for unit in known]
        return {unit.subject.id: unit for unit in units}

    async def study(self, bench: Workbench, units: Units, variants: Sequence[Variant]) -> dict[str, Records]:
        """Return the results of every variant by its name."""
        records: dict[str, Records] = {}
        model, seed = self.request.model, self.request.seed
        requests = {name: StudyRequest(unit.subject, DescribeUnit(), seed) for name, unit in units.items()}
        for variant in variants:
            own = self.store.below(f"variants/{variant.name.replace(' ', '-')}")
            about: dict[str, Any] = {"variant": variant.name}
            claim(own, Manifest(command="ablate", model=model, seed=seed, **about))
            records[variant.name] = await study_units(self.console, variant, bench.context, requests, own)
        return records

    async def evaluate(
        self, bench: Workbench, units: Units, records: Mapping[str, Records]
    ) -> tuple[str, list[EvaluatedRow]]:
        """Return who wrote the prompts, and how well each variant's label predicts each unit."""
        labeled = []
        for name, unit in units.items():
            labels = {
                variant: label for variant, of_unit in records.items() if (label := label_of(of_unit[name]))
            }
            if FULL.name in labels:
                labeled.append(LabeledUnit(name, unit.layer, unit.name, labels))
        self.console.say(f"comparing the labels of {len(labeled)} units")

        async def subject_of(unit: LabeledUnit) -> Subject:
            return units[unit.unit].subject

        seed = self.request.seed
        evaluation = await prepare(bench, self.request.sizes, seed)
        rows = await measure(self.console, evaluation, with_null(labeled, seed), subject_of, self.store)
        return evaluation.writer.name, rows


def _differences(rows: Sequence[EvaluatedRow], others: Sequence[str]) -> dict[str, dict[str, MeanDifference]]:
    """Return the whole system's paired lead over every other method, by method and measure."""
    return {
        name: {
            measure: lead
            for measure in _PREDICTIVE
            if (lead := difference(rows, FULL.name, name, measure)) is not None
        }
        for name in others
    }


def _truth(units: Units, records: Mapping[str, Records]) -> dict[str, TruthScore]:
    """Return by variant how its labels compare with the truth."""

    def scores(of_unit: Records) -> list[Score]:
        return [
            score(unit.truth, of_unit[name].labels) for name, unit in units.items() if unit.truth is not None
        ]

    full = np.array([each.f1 for each in scores(records[FULL.name])])
    truth = {}
    for variant, of_unit in records.items():
        scored = scores(of_unit)
        f1 = np.array([each.f1 for each in scored])
        lead = MeanDifference.of(full - f1) if variant != FULL.name else None
        right = float(np.mean([each.right for each in scored]))
        truth[variant] = TruthScore(len(scored), right, float(f1.mean()), lead)
    return truth
