"""The studies of one server: their run directory, the models they share, and who may open which.

Nothing is started before a first study is opened: a client that only lists tools costs no device.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from actors.chat.base import ChatModel
from actors.errors import MaiaError, UsageError
from actors.vision.readout.base import LayerInfo
from actors.vision.readout.units import parse_unit
from agents.evidence.verdict import verdict_of
from agents.records.journal import slug
from agents.records.lease import Lease, worked_s
from agents.records.manifest import KEY as MANIFEST
from agents.records.manifest import check_studied, widen
from agents.records.record_types import Manifest
from agents.records.store import Store
from agents.records.work import WorkItem, extend_plan, read_plan, write_plan
from agents.study.budget import BudgetSettings, Ledger, SpendingLimits, UnitAccount, spent_under
from agents.study.study import RunContext, StudyContext, StudyRequest
from agents.tasks.describe_unit import DescribeUnit
from experiments.mcp_server.answers import (
    LabelLine,
    LabelsFound,
    LayerLine,
    LayersFound,
    ServerStatus,
    StudyLine,
)
from experiments.mcp_server.outside_model import OutsideModel
from experiments.mcp_server.outside_study import FreeRate, OutsideStudy, PreparedStudy
from experiments.records.lookup import finished_studies
from experiments.records.results import write_results
from experiments.setup.on_demand import OnDemand
from experiments.setup.run_folder import claim_run, open_run, remove_if_created
from tools.subject import Subject

MOST_OPEN = 16
"""Studies that are open at a time."""
MOST_FOUND = 100
"""Labels and layers of one result."""
_MOST_NAME = 200
ASKED = "as agents open them"
"""What the manifest says was asked for: the units are known as clients name them."""


class Bench(Protocol):
    """What studies need of a workbench."""

    @property
    def context(self) -> RunContext: ...

    async def subject(self, layer: str, unit: str) -> Subject:
        """Return the unit that these words name; raises UsageError if there is none."""

    async def layers(self) -> list[LayerInfo]:
        """Return every layer, in the order of the forward pass."""


OpenBench = Callable[[Callable[[str], None]], AbstractAsyncContextManager[Bench]]
"""Starts the models; the function gets a sentence on each step."""


@dataclass(frozen=True, slots=True)
class OutsideRun:
    """The run that the studies of a server belong to."""

    folder: Path
    dataset: str
    manifest: Manifest
    budget: BudgetSettings = field(default_factory=BudgetSettings)
    """Of the whole run."""
    unit_budget: BudgetSettings = field(default_factory=BudgetSettings)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class _Started:
    """The run directory, the models, and the account, once they are there."""

    store: Store
    bench: Bench
    account: Ledger


class _NothingStudiedError(Exception):
    """No unit was opened: the run directory is to be removed."""


class OutsideStudies:
    """Opens studies and knows them by their ids; use it with `async with`."""

    def __init__(self, run: OutsideRun, open_bench: OpenBench) -> None:
        self.run, self._open_bench = run, open_bench
        self._studies: dict[str, OutsideStudy] = {}
        self._units: dict[str, OutsideStudy] = {}
        """The study that a unit was opened for last, by the unit's id."""
        self._numbers = itertools.count(1)
        self._models = OnDemand(self._opened)
        self._claiming = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every study and end the models; what was done stays."""
        await asyncio.gather(*(study.close() for study in self._studies.values()))
        await self._models.close()

    # What clients ask for.

    def open(self, layer: str, unit: str, interpreter: str) -> OutsideStudy:
        """Return the study of a unit: the open one, or a new one that takes up what is on record.

        `interpreter` is the name of who studies it.

        Raises:
            UsageError: If the words can name no unit that a client may study, or too many studies are open.
        """
        for what, text in (("layer", layer), ("unit", unit)):
            if not text.strip() or len(text) > _MOST_NAME or not text.isprintable():
                raise UsageError(
                    f"{what} must have 1 to {_MOST_NAME} printable characters.",
                    "Name a layer as `maia layers` lists them, and a unit by its number or class name.",
                )
        _check_names_no_file(layer, unit)
        open_ones = [study for study in self._studies.values() if not study.over]
        for study in open_ones:
            if (study.layer, study.unit) == (layer, unit):
                return study
        if len(open_ones) >= MOST_OPEN:
            raise UsageError(
                f"{MOST_OPEN} studies are open, which is the limit.", "Answer or close one of them first."
            )

        async def prepare(model: ChatModel, note: Callable[[str], None]) -> PreparedStudy:
            return await self._prepare(study, model, note)

        study = OutsideStudy(
            f"s{next(self._numbers)}", layer, unit, OutsideModel(interpreter), prepare, self._write_report
        )
        self._studies[study.id] = study
        return study

    def study(self, id: str) -> OutsideStudy:
        """Return a study by its id.

        Raises:
            UsageError: If there is none.
        """
        if (study := self._studies.get(id)) is None:
            known = ", ".join(self._studies) or "none yet"
            raise UsageError(
                f"there is no study {id[:40]!r}.", f"Studies: {known}. `open_study` opens one and names it."
            )
        return study

    def status(self) -> ServerStatus:
        """Return what is studied here."""
        lines = [
            StudyLine(
                study=study.id, layer=study.layer, unit=study.unit, state=study.state, rounds=study.rounds
            )
            for study in self._studies.values()
        ]
        network = self.run.manifest.model or ""
        return ServerStatus(
            network=network, run=str(self.run.folder), doing=self._models.doing, studies=lines
        )

    async def layers(self, contains: str) -> LayersFound:
        """Return the layers whose name holds `contains`; starts the models if need be."""
        started = await self._models.get(lambda _: None)
        known = await started.bench.layers()
        named = [layer for layer in known if contains.lower() in layer.name.lower()]
        lines = [LayerLine(name=each.name, units=each.n_units, kind=each.kind) for each in named[:MOST_FOUND]]
        return LayersFound(layers=lines, found=len(named))

    async def find(self, words: str) -> LabelsFound:
        """Return the units of this run whose label or description holds all of these words."""
        wanted = re.findall(r"\w+", words.lower())
        if not wanted or len(words) > _MOST_NAME:
            raise UsageError("words must name something, in at most 200 characters.", "Such as: dog muzzle")
        return await asyncio.to_thread(self._find, wanted)

    def _find(self, wanted: list[str]) -> LabelsFound:
        store = Store(self.run.folder)
        if not store.has(MANIFEST):
            return LabelsFound(labels=[], searched=0)
        items = {item.unit: item for item in read_plan(store) or ()}
        results = [record for record in finished_studies(store, []) if record.unit in items]
        found = [
            LabelLine(
                layer=items[record.unit].layer,
                unit=items[record.unit].name,
                label=record.label or "",
                verdict=verdict_of(record.to_json()),
                interpreter=str(record.facts.get("interpreter", "")),
            )
            for record in results
            if all(word in f"{record.label} {record.description}".lower() for word in wanted)
        ]
        return LabelsFound(labels=found[:MOST_FOUND], searched=len(results))

    # How they are started.

    async def _prepare(
        self, study: OutsideStudy, model: ChatModel, note: Callable[[str], None]
    ) -> PreparedStudy:
        note("starting the models")
        started = await self._models.get(note)
        store, bench = started.store, started.bench
        note("looking for the unit")
        subject = await bench.subject(study.layer, study.unit)
        async with self._claiming:
            other = self._units.get(subject.id)
            if other is not None and other is not study and not other.over:
                raise UsageError(f"this unit is studied as {other.id} already.", "Go on with that study.")
            self._units[subject.id] = study
            await asyncio.to_thread(self._claim, store, bench.context, subject.id, study)
        limits = SpendingLimits(started.account, self.run.unit_budget)
        account = await UnitAccount.resume(store, subject.id, limits)
        context = bench.context
        facts = context.facts | {"interpreter": model.name, "sight": "its own"}
        rates = context.rates | {"interpreter": FreeRate()}
        run = replace(context, interpreter=model, facts=facts, rates=rates)
        request = StudyRequest(subject, DescribeUnit(), self.run.seed)
        return PreparedStudy(StudyContext(run, request, store, account), request, account)

    def _claim(self, store: Store, context: RunContext, unit: str, study: OutsideStudy) -> None:
        """Write down that the run has this unit."""
        plan = read_plan(store) or []
        if any(item.unit == unit for item in plan):
            check_studied(store, context.facts)
            return
        plan.append(WorkItem(unit, study.layer, study.unit, seed=self.run.seed))
        layers = list(dict.fromkeys(item.layer for item in plan))
        units = [item.unit for item in plan]
        manifest = self.run.manifest.model_copy(update={"layers": layers, "units": units})
        if len(plan) == 1:
            claim_run(store, manifest, context.facts)
            write_plan(store, plan)
        else:
            check_studied(store, context.facts)
            extend_plan(store, plan)
            widen(store, manifest)

    @asynccontextmanager
    async def _opened(self, note: Callable[[str], None]) -> AsyncIterator[_Started]:
        """Hold the models and the run directory; remove the latter if nothing was studied."""
        run = self.run
        with suppress(_NothingStudiedError), remove_if_created(run.folder):
            store = await asyncio.to_thread(open_run, run.dataset, run.folder, run.manifest)
            async with await Lease.take(store, notify=note), self._open_bench(note) as bench:
                spent, _ = await asyncio.to_thread(spent_under, store, run.budget)
                account = Ledger(run.budget, spent, elapsed_s=lambda: worked_s(store))
                yield _Started(store, bench, account)
            if not store.has(MANIFEST):
                raise _NothingStudiedError

    async def _write_report(self, unit: str) -> Path | None:
        """Write the run's results and pages; the result is safe without them."""
        from experiments.atlas.front_page import write_report

        store = Store(self.run.folder)
        try:
            async with self._claiming:
                await asyncio.to_thread(write_results, self.run.folder, read_plan(store) or [])
                await asyncio.to_thread(write_report, self.run.folder)
        except (OSError, MaiaError):
            return None
        return self.run.folder / "report" / "units" / f"{slug(unit)}.html"


def _check_names_no_file(layer: str, unit: str) -> None:
    """Raise UsageError if a unit is read from a file, as latents and directions are: clients name none."""
    try:
        source = parse_unit(layer, unit).source
    except UsageError:  # a class by its name; or nothing, which is refused once the network is known
        return
    if source:
        raise UsageError(
            f"the unit {unit[:60]!r} is read from a file, and clients name no files.",
            "Name a unit by its number, or a class.",
        )
