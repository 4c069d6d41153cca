"""A unit in a person's hands, on its page: what they try is measured as an agent's images are, and kept.

The models of the profile start with the first trial. Trials have an agent's limits, and files of their own
beside the unit's studies: another process may be studying the unit meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from actors.chat.reply import Usage
from actors.errors import MaiaError, UsageError
from actors.images import Image, Provenance
from agents.records.journal import Journal
from agents.records.manifest import check_studied
from agents.records.record_types import PersonTrialRecord, UsageRecord
from agents.study.budget import BudgetSettings, Cost, Ledger
from agents.study.metered import MeteredStudio
from agents.study.observers import BlindObservers
from agents.study.study import RunContext
from experiments.mcp_server.serve import bench_opener, for_clients
from experiments.mcp_server.studies import Bench, OpenBench
from experiments.records.lookup import RecordedUnit, find_unit, find_units, read_manifest
from experiments.records.trust import Trust, network_of, selected_for, units_of
from experiments.report import pages
from experiments.setup.on_demand import Note, OnDemand
from experiments.setup.selection import Selection
from experiments.web.trials import (
    AblateTrial,
    AskedTrial,
    CropTrial,
    EditTrial,
    PhotoTrial,
    PromptTrial,
)
from tools.subject import Explored, Progress, Subject
from tools.system import SubjectSystem
from tools.toolbox import Toolbox

MOST_TRIALS = 1_000
"""Trials of one unit."""


class Ranking:
    """A unit's activations over the data set, which need one pass over it; whoever asks joins that pass."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._known: np.ndarray | None = None
        self._passing: asyncio.Task[np.ndarray] | None = None
        self._listening: list[Progress] = []

    async def activations(self, progress: Progress) -> np.ndarray:
        """Return them, float32 (n,), rising; none where they cannot be known. The pass ends with the last who
        waits for it.
        """
        if self._known is not None:
            return self._known
        self._listening.append(progress)
        try:
            if self._passing is None:
                self._passing = asyncio.create_task(self._pass())
            self._known = await asyncio.shield(self._passing)
        except MaiaError:
            return np.empty(0)
        finally:
            self._listening.remove(progress)
            if self._passing is not None and not self._listening:
                self._passing.cancel()  # nothing, where it has ended
                self._passing = None
        return self._known

    async def _pass(self) -> np.ndarray:
        if not isinstance(self._subject, Explored):
            return np.empty(0)

        def report(done: int, total: int) -> None:
            for progress in tuple(self._listening):
                progress(done, total)

        return np.sort(await self._subject.explored(report))


class Playground:
    """Carries out trials on the units of one run: of one unit one at a time, and none waits for a ranking."""

    def __init__(self, run_dir: Path, open_bench: OpenBench) -> None:
        self._run_dir = run_dir
        self.budget = BudgetSettings()
        """Of all trials on one unit together; known once the models are."""
        self._models: OnDemand[Bench] = OnDemand(open_bench)
        self._desks: dict[str, _Desk] = {}
        self._at_work: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """By unit."""

    async def carry_out(self, slug: str, trial: AskedTrial, note: Note) -> PersonTrialRecord:
        """Return what came of a trial; `note` hears what is being done.

        It is on record from the moment at which its image is known; a trial that is cancelled afterwards
        lacks what was not known then.

        Raises:
            MaiaError: If it cannot be done.
        """
        at_work = self._at_work[slug]
        if at_work.locked():
            note("another trial of this unit is at work")
        async with at_work:
            unit = await asyncio.to_thread(find_unit, self._run_dir / "units" / slug)
            note("starting the models")
            bench = await self._models.get(note)
            if slug not in self._desks:
                self._desks[slug] = await self._open(bench, unit, note)
            desk = self._desks[slug]
            measured = await _to_its_end(desk.carry_out(trial, note))
        return await desk.rank(measured, note)

    async def close(self) -> None:
        """End the models."""
        await self._models.close()

    async def _open(self, bench: Bench, unit: RecordedUnit, note: Note) -> _Desk:
        note("looking for the unit")
        subject = await bench.subject(unit.item.layer, unit.item.name)
        if subject.id != unit.item.unit:
            raise UsageError(f"the profile's network calls this unit {subject.id}, not {unit.item.unit}.")
        await asyncio.to_thread(check_studied, unit.store, bench.context.facts)

        def searching(done: int, total: int) -> None:
            note(f"searching the data set for exemplars: {done} of {total} images")

        await subject.prepare(searching)
        journal = Journal(unit.store, unit.item.unit)
        tried = await asyncio.to_thread(journal.trials)
        return _Desk.of(bench.context, subject, journal, tried, self.budget)


async def _to_its_end(work: Coroutine[Any, Any, PersonTrialRecord]) -> PersonTrialRecord:
    """Return what comes of work that is not cancelled with its caller: it may pay for something."""
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled() and (failure := task.exception()) is not None:
        raise cancelled from failure
    raise cancelled


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
    ranking: Ranking

    @classmethod
    def of(
        cls,
        run: RunContext,
        subject: Subject,
        journal: Journal,
        trials: Sequence[PersonTrialRecord],
        budget: BudgetSettings,
    ) -> _Desk:
        """`trials` are those on record: they count on the unit's limits."""
        charges = list[Usage]()
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
        return cls(journal, toolbox, charges, Ranking(subject))

    async def carry_out(self, trial: AskedTrial, note: Note) -> PersonTrialRecord:
        """Return a trial that was measured. Its image, which may have been paid for, is on record before."""
        number = len(await asyncio.to_thread(self.journal.trials)) + 1
        if number > MOST_TRIALS:
            raise UsageError(f"{self.journal.unit} has {MOST_TRIALS} trials, which is the limit.")
        self.charges.clear()
        note({"prompt": "making the image", "edit": "editing the image"}.get(trial.kind, "measuring"))
        shown = await self._shown(trial)
        record = await self._claim(number, trial, shown)
        note("measuring")
        pictures = [shown.image] if shown.parent is None else [shown.image, shown.parent]
        measured = await self.toolbox.system.measure(pictures)
        known: dict[str, Any] = {
            "masked": measured[0].masked.id,
            "activation": measured[0].response.activation,
        }
        if shown.parent is not None:
            known["parent_activation"] = measured[1].response.activation
        await asyncio.to_thread(self.journal.blobs.put, [measured[0].masked])
        return await self._complete(record, known)

    async def rank(self, record: PersonTrialRecord, note: Note) -> PersonTrialRecord:
        """Return a measured trial with its rank in the data set, which the first trial has to wait for."""
        if record.activation is None:
            return record

        def sweeping(done: int, total: int) -> None:
            note(
                f"trial {record.number} is on record, activation {pages.figure(record.activation)}; ranking "
                f"it needs the data set once: {done} of {total} images"
            )

        known = await self.ranking.activations(sweeping)
        if not len(known):
            return record
        below = int(np.searchsorted(known, record.activation, side="left"))
        return await self._complete(record, {"below": below / len(known), "compared": len(known)})

    async def _claim(self, number: int, trial: AskedTrial, shown: _Shown) -> PersonTrialRecord:
        """Put a trial's image on record, under the first number that is free from `number` on."""
        more = dict(shown.about)
        if shown.parent is not None:
            more["parent"] = shown.parent.id
        if (provenance := self.toolbox.album.provenance.get(shown.image.id)) is not None:
            more |= {"provenance": provenance.to_json(), "notes": list(provenance.notes)}
        if self.charges:
            more["charged"] = UsageRecord.of(sum(self.charges, Usage()))
        record = PersonTrialRecord(number=number, kind=trial.kind, image=shown.image.id, **more)
        images = [shown.image] if shown.parent is None else [shown.image, shown.parent]
        await asyncio.to_thread(self.journal.blobs.put, images)
        while not await asyncio.to_thread(self.journal.keep_trial, record):
            record = record.model_copy(update={"number": record.number + 1})
        return record

    async def _complete(self, record: PersonTrialRecord, known: dict[str, Any]) -> PersonTrialRecord:
        whole = PersonTrialRecord(**(record.to_json() | known))
        await asyncio.to_thread(self.journal.complete_trial, whole)
        return whole

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
        units = await asyncio.to_thread(find_units, run_dir)
        units_of([(unit.item.layer, unit.item.name) for unit in units], trust)
        selected = await asyncio.to_thread(selected_for, manifest, selection, trust)
        profile = for_clients(selected.profile, selected.profile.interpreter.max_rounds)
        playground.budget = profile.sweep.unit_budget
        async with bench_opener(profile, selected.cache, network)(note) as bench:
            yield bench

    playground = Playground(run_dir, open_bench)
    return playground
