"""`maia audit`: in which contexts does a class lose or gain probability while its object is there? (MAIA 5.2)

The figures come from a design that is fixed beforehand, the same for every class
(`experiments.audit.context_survey`); an agent's free audit of the class follows, and what it says is checked
against these figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.vision.readout.units import OUTPUT
from agents.records.journal import read_survey
from agents.records.record_types import StudyResult
from agents.records.run_files import RecordError
from agents.records.store import Store
from agents.records.work import WorkItem, read_plan
from experiments.audit import claim_questions, real_images
from experiments.audit.carriers import record as carrier_record
from experiments.audit.carriers.record import CarrierSection
from experiments.audit.carriers.survey import CarrierSurvey
from experiments.audit.claims import disagreements, read_words
from experiments.audit.classes import OF_DATA, check_classes, names_of
from experiments.audit.context_survey import CONTEXTS, FRESH, SURVEYS, ClassSurvey, ContextEffect, judge
from experiments.audit.page import page
from experiments.audit.planner import AuditPlanner, requested_classes, units_of
from experiments.audit.real.audit import RealSection, RealSettings, find_labels, is_done, section
from experiments.audit.real.survey import AuditedClass, Generated, RealSurvey
from experiments.audit.record import AuditRecord
from experiments.runs.campaign import Campaign, Closing, RunSummary, check_known, result_of
from experiments.setup.console import Console
from experiments.setup.run_folder import check_output_folder
from experiments.setup.selection import Selection

if TYPE_CHECKING:
    from experiments.setup.workbench import Workbench


@dataclass(frozen=True)
class AuditRequest:
    """What a command line asks for. Without `agents`, the fixed design is all that is measured."""

    model: str
    classes: str = "all"
    seed: int = 0
    per_context: int = 12
    """Images of each context in the screen."""
    agents: bool = True
    propose: int = 0
    """Contexts of each class that the interpreter proposes beside those of the design."""
    real: RealSettings = field(default_factory=RealSettings)
    retry_failed: bool = False
    carriers: str = ""
    """Layer whose units may carry the findings; it may be asked for once the classes are audited."""

    def manifest(self) -> dict[str, Any]:
        """Return what of it a run's manifest holds."""
        return {
            "model": self.model,
            "asked": self.classes,
            "seed": self.seed,
            "per_context": self.per_context,
            "fresh": FRESH,
            "agents": self.agents,
            **self.real.manifest(),
            **({"propose_contexts": self.propose} if self.propose else {}),
        }


@dataclass(frozen=True)
class AuditOutcome:
    """What an audit has found, and how its run was left."""

    record: AuditRecord
    run: RunSummary

    def to_json(self) -> dict[str, Any]:
        return self.record.to_json() | {"run": self.run.as_json()}


async def audit(console: Console, selection: Selection, request: AuditRequest, *, out: Path) -> AuditOutcome:
    """Audit classes of a network and write `audit.json` into the run directory; an existing run is resumed.

    Raises:
        UsageError: If the network has no such class, or another process works on the directory.
    """
    check_classes(request.classes)
    selected = selection.load()
    profile = selected.profile
    labels = await find_labels(console, profile, request.real, request.classes.strip() == OF_DATA)
    network = selected.known_network(request.model)
    units: list[str] = []
    if network is not None:
        size = network.info(OUTPUT).n_units
        units = list(units_of(network, requested_classes(request, labels, network, size)).values())
    check_output_folder(profile.dataset, out)
    store = Store.open(out)
    manifest = selected.manifest("audit", **request.manifest())
    check_known(store, manifest, network, units)
    results = _AuditResults(console, store, request, with_real_images=labels is not None)
    campaign = Campaign(
        console,
        selected.configuration,
        profile,
        store,
        manifest,
        request.retry_failed,
        surveys=SURVEYS,
        survey_images=len(CONTEXTS) * request.per_context,
    )
    planner = AuditPlanner(console, store, manifest, request, labels)
    finished = await campaign.run(planner.plan, Closing(results.is_complete, results.complete))
    record = results.record(selected.name, finished.plan)
    store.replace_json("audit.json", record.to_json())
    page(record).save(store.root, "audit")
    return AuditOutcome(record, finished.summary())


@dataclass(frozen=True)
class _AuditResults:
    """What a run directory holds of an audit, and what completes it once its classes are studied."""

    console: Console
    store: Store
    request: AuditRequest
    with_real_images: bool

    def is_complete(self) -> bool:
        """Return whether nothing that needs the models is missing.

        A finished run whose texts were never put to the observers stays as it is: their words are read.
        """
        units = [item.unit for item in read_plan(self.store) or ()]
        layer = self.request.carriers
        return (not self.with_real_images or is_done(self.store, units)) and (
            not layer or carrier_record.is_done(self.store, layer, units)
        )

    async def complete(self, bench: Workbench, plan: list[WorkItem]) -> None:
        """Ask the observers what the agents' texts claim, measure the real images of the classes, and find
        the units that carry what was found.
        """
        names = names_of(plan)
        results, surveys = self._measured(plan, names)
        texts = {result.unit: result.description for result in results if result.description}
        if texts:
            contexts = {
                result.unit: list(survey.values) for result, survey in zip(results, surveys, strict=True)
            }
            await claim_questions.ask_all(self.console, self.store, bench, texts, contexts, self.request.seed)
        if not plan:
            return
        classes = self._classes(plan, names)
        generated = Generated(judge(surveys), {survey.class_name: survey.ordinary for survey in surveys})
        if self.with_real_images and not is_done(self.store, [item.unit for item in classes]):
            await RealSurvey(self.console, self.store, bench, self.request.real, classes, generated).run()
        if layer := self.request.carriers:
            await CarrierSurvey(self.console, self.store, bench, layer, classes, generated).run()

    def _classes(self, plan: Sequence[WorkItem], names: Mapping[str, str]) -> list[AuditedClass]:
        return [
            AuditedClass(
                item.unit,
                int(item.name.rpartition(":")[2]),
                names[item.unit],
                item.survey_arguments["class_name"],
                item.seed,
                self.request.per_context,
            )
            for item in plan
        ]

    def record(self, profile: str, plan: Sequence[WorkItem]) -> AuditRecord:
        """Return what the run has found."""
        names = names_of(plan)
        results, surveys = self._measured(plan, names)
        drawn = {names[item.unit]: item.survey_arguments["class_name"] for item in plan}
        units = {name: unit for unit, name in names.items()}
        effects = judge(surveys)
        answers = {
            survey.class_name: result.description
            for survey, result in zip(surveys, results, strict=True)
            if result.description
        }
        asked = claim_questions.read(self.store)
        claims = {
            name: asked.get(units[name]) or read_words(text, drawn[name]) for name, text in answers.items()
        }
        by_class = {survey.class_name: survey for survey in surveys}
        return AuditRecord(
            model=self.request.model,
            profile=profile,
            facts=results[0].facts if results else {},
            seed=self.request.seed,
            effects=effects,
            detectable={
                name: each.detectable(len(effects))
                for name, each in by_class.items()
                if not each.out_of_reach
            },
            usual={name: each.usual for name, each in by_class.items()},
            out_of_reach={name: each.out_of_reach for name, each in by_class.items() if each.out_of_reach},
            undrawn={name: each.undrawn for name, each in by_class.items() if each.undrawn},
            values={name: each.values for name, each in by_class.items()},
            ordinary={name: each.ordinary for name, each in by_class.items()},
            fresh={name: each.fresh for name, each in by_class.items()},
            rest={name: each.rest for name, each in by_class.items()},
            lowest={name: each.lowest for name, each in by_class.items()},
            telling={name: each.telling for name, each in by_class.items()},
            typical={name: each.typical for name, each in by_class.items()},
            answers=answers,
            claims=claims,
            disagreements=[
                parted
                for name, text in answers.items()
                for parted in disagreements(
                    name, text, claims[name], [effect for effect in effects if effect.class_name == name]
                )
            ],
            real=self._real(effects),
            carriers=self._carriers(),
        )

    def _measured(
        self, plan: Sequence[WorkItem], names: Mapping[str, str]
    ) -> tuple[list[StudyResult], list[ClassSurvey]]:
        """Return the results that there are, each with its survey; one with a damaged survey is left out with
        a warning.
        """
        results, surveys = [], []
        for item in plan:
            if (result := result_of(self.store, item)) is None:
                continue
            try:
                if (measured := read_survey(self.store, item.unit)) is not None:
                    surveys.append(replace(ClassSurvey.of(measured.found), class_name=names[item.unit]))
                    results.append(result)
            except RecordError as error:
                self.console.warn(f"{names[item.unit]} is left out: {error.message}")
        return results, surveys

    def _carriers(self) -> CarrierSection | None:
        """Return what the units of a layer do to the findings; a damaged record is warned of."""
        try:
            return carrier_record.read(self.store)
        except RecordError as error:
            self.console.warn(error.message)
            return None

    def _real(self, effects: Sequence[ContextEffect]) -> RealSection | None:
        """Return what real images say; a damaged record is warned of."""
        try:
            return section(real_images.read(self.store), effects)
        except RecordError as error:
            self.console.warn(error.message)
            return None
