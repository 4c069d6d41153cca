"""A unit in a person's hands, on its page: what they try is measured as an agent's images are, and kept.

The models of the profile start with the first trial. Trials have an agent's limits, and files of their own
beside the unit's studies: another process may be studying the unit meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.chat.reply import Usage
from actors.errors import MaiaError, UsageError
from actors.images import Image, Provenance
from agents.records.journal import Journal
from agents.records.manifest import check_studied
from agents.records.record_types import PersonTrialRecord, UsageRecord
from agents.study.budget import BudgetSettings, Cost, Ledger, MeteredStudio
from agents.study.observers import BlindObservers
from agents.study.study import RunContext
from experiments.mcp_server.serve import bench_opener, for_clients
from experiments.mcp_server.studies import Bench, OpenBench
from experiments.records.lookup import RecordedUnit, find_unit, find_units, read_manifest
from experiments.records.trust import Trust, dataset_of, network_of, units_of
from experiments.setup.on_demand import Note, OnDemand
from experiments.setup.selection import Selected, Selection
from experiments.web.trials import (
    AblateTrial,
    AskedTrial,
    CropTrial,
    EditTrial,
    PhotoTrial,
    PromptTrial,
)
from tools.subject import Explored, Subject
from tools.system import SubjectSystem
from tools.toolbox import Toolbox

MOST_TRIALS = 1_000
"""Trials of one unit."""


class Playground:
    """Carries out trials on the units of one run, one at a time."""

    def __init__(self, run_dir: Path, open_bench: OpenBench) -> None:
        self._run_dir = run_dir
        self.budget = BudgetSettings()
        """Of all trials on one unit together; known once the models are."""
        self._models: OnDemand[Bench] = OnDemand(open_bench)
        self._desks: dict[str, _Desk] = {}
        self._at_work = asyncio.Lock()

    async def carry_out(self, slug: str, trial: AskedTrial, note: Note) -> PersonTrialRecord:
        """Return what came of a trial, which is on record then; `note` hears what is being done.

        Raises:
            MaiaError: If it cannot be done.
        """
        if self._at_work.locked():
            note("another trial is at work")
        async with self._at_work:
            unit = find_unit(self._run_dir / "units" / slug)
            note("starting the models")
            bench = await self._models.get(note)
            if slug not in self._desks:
                self._desks[slug] = await self._open(bench, unit, note)
            return await self._desks[slug].carry_out(trial, note)

    async def close(self) -> None:
        """End the models."""
        await self._models.close()

    async def _open(self, bench: Bench, unit: RecordedUnit, note: Note) -> _Desk:
        note("looking for the unit")
        subject = await bench.subject(unit.item.layer, unit.item.name)
        if subject.id != unit.item.unit:
            raise UsageError(f"the profile's network calls this unit {subject.id}, not {unit.item.unit}.")
        check_studied(unit.store, bench.context.facts)

        def searching(done: int, total: int) -> None:
            note(f"searching the data set for exemplars: {done} of {total} images")

        await subject.prepare(searching)
        return _Desk.of(bench.context, subject, Journal(unit.store, unit.item.unit), self.budget)


@dataclass(frozen=True, slots=True)
class _Shown:
    """An image that a trial shows to the unit, and how it came about."""

    image: Image
    parent: Image | None = None
    about: dict[str, Any] = field(default_factory=dict)
    """Fields of the record."""


@dataclass(slots=True)
class _Desk:
    """What trials on one unit share: the tools of an agent, and the unit's activations over the data set."""

    journal: Journal
    toolbox: Toolbox
    charges: list[Usage]
    """What image makers charged since the last trial."""
    known: np.ndarray | None = None
    """Activations over the data set, float32 (n,), rising; None before the first trial."""

    @classmethod
    def of(cls, run: RunContext, subject: Subject, journal: Journal, budget: BudgetSettings) -> _Desk:
        trials, charges = journal.trials(), list[Usage]()
        paid = [trial.charged.usage() for trial in trials if trial.charged is not None]
        made = [trial for trial in trials if trial.kind in ("prompt", "edit")]
        spent = Cost(sum(usage.dollars for usage in paid), images=len(made))
        studio = MeteredStudio(run.studio, Ledger(budget, spent), run.dollars_per_image, charges.append)
        observers = BlindObservers(run.observers, seed=0)
        toolbox = Toolbox(
            SubjectSystem(subject, run.paint),
            studio,
            observers,
            seed=len(trials),  # a prompt that was tried before gets another image
            limits=run.limits,
            keeper=journal.blobs,
        )
        toolbox.blind = False
        toolbox.images_made = len(made)
        toolbox.interventions = sum(trial.kind == "ablate" for trial in trials)
        return cls(journal, toolbox, charges)

    async def carry_out(self, trial: AskedTrial, note: Note) -> PersonTrialRecord:
        number = len(self.journal.trials()) + 1
        if number > MOST_TRIALS:
            raise UsageError(f"{self.journal.unit} has {MOST_TRIALS} trials, which is the limit.")
        self.charges.clear()
        note({"prompt": "making the image", "edit": "editing the image"}.get(trial.kind, "measuring"))
        shown = await self._shown(trial)
        note("measuring")
        pictures = [shown.image] if shown.parent is None else [shown.image, shown.parent]
        measured = await self.toolbox.system.measure(pictures)
        first = measured[0]
        provenance = self.toolbox.album.provenance.get(shown.image.id)
        more: dict[str, Any] = dict(shown.about)
        if shown.parent is not None:
            more |= {"parent": shown.parent.id, "parent_activation": measured[1].response.activation}
        if provenance is not None:
            more |= {"provenance": provenance.to_json(), "notes": list(provenance.notes)}
        if self.charges:
            more["charged"] = UsageRecord.of(sum(self.charges, Usage()))
        known = await self._activations(first.shown_activation, note)
        if n := len(known):
            below = int(np.searchsorted(known, first.response.activation, side="left"))
            more |= {"below": below / n, "compared": n}
        record = PersonTrialRecord(
            number=number,
            kind=trial.kind,
            image=shown.image.id,
            masked=first.masked.id,
            activation=first.response.activation,
            **more,
        )
        await asyncio.to_thread(self.journal.blobs.put, [*pictures, first.masked])
        while not await asyncio.to_thread(self.journal.keep_trial, record):
            record = record.model_copy(update={"number": record.number + 1})
        return record

    async def _activations(self, measured: float, note: Note) -> np.ndarray:
        """Return the unit's activations over the data set, none where they are not known.

        The first trial waits for them, and its page says meanwhile what was `measured`.
        """
        subject = self.toolbox.system.subject
        if self.known is None and isinstance(subject, Explored):

            def sweeping(done: int, total: int) -> None:
                note(
                    f"activation {measured:.2f}; ranking it needs the data set once: {done} of {total} images"
                )

            # What was measured, and perhaps paid for, is kept without its rank.
            with suppress(MaiaError):
                self.known = np.sort(await subject.explored(sweeping))
        return np.empty(0) if self.known is None else self.known

    async def _shown(self, trial: AskedTrial) -> _Shown:
        match trial:
            case PromptTrial():
                made = await self.toolbox.call("text2image", {"prompts": [trial.prompt]})
                return _Shown(made["images"][0], about={"words": trial.prompt})
            case PhotoTrial():
                return _Shown(self._known(await asyncio.to_thread(trial.image)))
            case CropTrial():
                parent = await asyncio.to_thread(self.journal.blobs.get, trial.image)
                return _Shown(self._known(trial.crop(parent)), parent, {"box": list(trial.box)})
            case EditTrial():
                parent = await asyncio.to_thread(self.journal.blobs.get, trial.image)
                arguments = {"images": [parent], "instructions": [trial.instruction]}
                made = await self.toolbox.call("edit", arguments)
                return _Shown(made["images"][0], parent, {"words": trial.instruction})
            case AblateTrial():
                image = await asyncio.to_thread(self.journal.blobs.get, trial.image)
                asked = {"images": [image], "kind": "ablate", "value": None, "where": None, "outputs": []}
                answer = await self.toolbox.call("intervene", asked)
                kept = ("about", "raised", "lowered", "floor", "exact")
                effects = {name: answer["effects"][name] for name in kept}
                return _Shown(self._known(image), about={"effects": effects})

    def _known(self, image: Image) -> Image:
        self.toolbox.album.add(image, Provenance("program"))
        return image


def playground_of(run_dir: Path, selection: Selection, trust: Trust) -> Playground:
    """Return the playground of a run: its network and data set, and the image maker of the profile that the
    person selected, or that the run was made with.

    Nothing is read or loaded before the first trial.
    """

    @asynccontextmanager
    async def open_bench(note: Note) -> AsyncIterator[Bench]:
        note("reading what the run studied")
        manifest = await asyncio.to_thread(read_manifest, run_dir)
        network = network_of(manifest, None, trust)
        units_of([(unit.item.layer, unit.item.name) for unit in find_units(run_dir)], trust)
        selected = _selected(selection, manifest, trust)
        profile = for_clients(selected.profile, selected.profile.interpreter.max_rounds)
        playground.budget = profile.sweep.unit_budget
        async with bench_opener(profile, selected.cache, network)(note) as bench:
            yield bench

    playground = Playground(run_dir, open_bench)
    return playground


def _selected(selection: Selection, manifest: Mapping[str, Any], trust: Trust) -> Selected:
    """Return the profile of the trials: the person's choice, else the run's if there is one of its name."""
    selection = replace(selection, few_images=True)  # the run has accepted its data set
    named = manifest.get("profile")
    if selection.profile is None and isinstance(named, str):
        with suppress(UsageError):
            replace(selection, profile=named).load()
            selection = replace(selection, profile=named)
    own = selection.load().profile.dataset
    data = dataset_of(manifest, own, selection.data, trust)
    return selection.load() if data == own else replace(selection, data=data).load()
