"""Which classes an audit has, as items of its run, and the contexts that the interpreter proposes for
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actors.grouping import all_of
from actors.vision.data.labels import Labels
from actors.vision.networks.layer_cache import KnownNetwork
from actors.vision.readout.units import OUTPUT, Readout
from agents.records.journal import Journal
from agents.records.lease import worked_s
from agents.records.manifest import claim, widen
from agents.records.record_types import Manifest
from agents.records.recorded_chat import RecordedChat
from agents.records.store import Store
from agents.records.work import WorkItem, extend_plan, read_plan, write_plan
from agents.study import context_proposals
from agents.study.budget import Ledger, spent_so_far
from agents.study.metered import MeteredChat, Rate
from agents.tasks.bias import AuditClass
from experiments.audit import real_images
from experiments.audit.carriers.survey import readout_of
from experiments.audit.classes import classes_of
from experiments.audit.context_survey import CLASS_SURVEY, KNOWN_PHRASES
from experiments.audit.real.audit import report_matches
from experiments.runs.campaign import check_items
from experiments.setup.console import Console, counted

if TYPE_CHECKING:
    from experiments.audit.run import AuditRequest
    from experiments.setup.workbench import Workbench

_READOUT = Readout(OUTPUT, "probability")


def requested_classes(
    request: AuditRequest, labels: Labels | None, network: KnownNetwork, size: int
) -> dict[int, str]:
    """Return the classes that are asked for, as `classes_of` does; `labels` are the data set's."""
    of_data = () if labels is None else real_images.match(labels, network.class_names, request.real.names)
    return classes_of(request.classes, request.seed, network, size, of_data)


def units_of(network: KnownNetwork, classes: Iterable[int]) -> dict[int, str]:
    """Return the units of classes."""
    return {index: f"{network.name}/{_READOUT.unit(index)}" for index in classes}


@dataclass(frozen=True)
class AuditPlanner:
    """Plans one item per class. `labels` are the data set's, None where it has none."""

    console: Console
    store: Store
    manifest: Manifest
    request: AuditRequest
    labels: Labels | None

    async def plan(self, bench: Workbench) -> list[WorkItem]:
        """Return the items of the run, planned if they are not.

        Agents are shown exemplars, so one pass over the data set finds those of all.
        """
        vision, store = bench.vision, self.store
        await vision.check(_READOUT.unit(0))
        if self.request.carriers:
            await readout_of(vision, self.request.carriers)
        size = next(layer.n_units for layer in await vision.layers() if layer.name == OUTPUT)
        drawn = requested_classes(self.request, self.labels, vision.known, size)
        ids = units_of(vision.known, drawn)
        if self.labels is not None:
            await report_matches(self.console, bench, self.request.real, drawn)
        manifest = self.manifest.of_units(ids.values())
        claim(store, manifest)
        plan = read_plan(store)
        planned = {item.unit for item in plan or ()}
        proposed = await self._proposals(bench, {ids[index]: drawn[index] for index in ids})
        wanted = self._items(drawn, ids, proposed)
        check_items(store, plan or (), wanted)
        new = [unit for unit in ids.values() if unit not in planned]
        if plan is None or new:
            if self.request.agents:
                await self._find_exemplars(bench, len(new))
            items = [wanted[unit] for unit in new]
            # One that was claimed with fewer and killed before its plan may have been given more.
            plan = write_plan(store, items) if plan is None else extend_plan(store, [*plan, *items])
        widen(store, manifest)
        return plan

    async def _find_exemplars(self, bench: Workbench, n_classes: int) -> None:
        classes = counted(n_classes, "class", "classes")
        self.console.say(f"searching the data set for the exemplars of {classes}")
        with self.console.progress("exemplars") as progress:
            await bench.vision.layer_exemplars(
                [_READOUT], bench.dataset, progress=lambda swept: progress(swept.done, swept.total)
            )

    def _items(
        self, drawn: Mapping[int, str], ids: Mapping[int, str], proposed: Mapping[str, tuple[str, ...]]
    ) -> dict[str, WorkItem]:
        """Return the items of the classes that are asked for, by unit."""
        request = self.request
        return {
            unit: WorkItem(
                unit,
                OUTPUT,
                f"probability:{index}",
                task=AuditClass.name if request.agents else "",
                arguments={"class_name": drawn[index]} if request.agents else {},
                seed=request.seed,
                survey=CLASS_SURVEY,
                survey_arguments={"class_name": drawn[index], "per_context": request.per_context}
                | ({"proposed": list(proposed[unit])} if proposed.get(unit) else {}),
            )
            for index, unit in ids.items()
        }

    async def _proposals(self, bench: Workbench, classes: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
        """Return the contexts proposed for each unit, asked for before anything is measured and the same ever
        after.
        """
        count, seed, store = self.request.propose, self.request.seed, self.store
        if not count:
            return {}
        proposals = {unit: context_proposals.read(store, unit, count) for unit in classes}
        missing = [unit for unit, proposed in proposals.items() if proposed is None]
        context = bench.context
        spent = spent_so_far(store, problems=[])
        ledger = Ledger(bench.profile.sweep.budget, spent, elapsed_s=lambda: worked_s(store))
        metered = MeteredChat(context.interpreter, ledger, context.rates.get("interpreter", Rate()))

        async def ask(unit: str) -> None:
            model = RecordedChat(metered, Journal(store, unit), "interpreter", metered.most)
            reply = await context_proposals.propose(model, classes[unit], count, KNOWN_PHRASES, seed=seed)
            proposals[unit] = await context_proposals.freeze(store, unit, reply)

        if missing:
            self.console.say(
                f"asking the interpreter for contexts of {counted(len(missing), 'class', 'classes')}"
            )
            await all_of(ask(unit) for unit in missing)
        for unit in missing:
            if (proposed := proposals[unit]) is not None and not proposed.phrases:
                self.console.warn(
                    f"{classes[unit]}: the interpreter's answer has no context in the form that was asked for"
                )
        return {unit: tuple(proposed.phrases) for unit, proposed in proposals.items() if proposed is not None}
