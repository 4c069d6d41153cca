"""`maia robust-features`: keep the units that follow the object, drop those that follow the place (MAIA 5.1,
Table 2).

A classifier is trained on images whose places give the classes away. An agent judges each of its most
informative units, from images that it makes itself and the strongest of the validation set; it never sees a
balanced set, a place label, or the test. What it keeps is compared with what regressions keep, and with
chance.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.errors import UsageError
from agents.records.manifest import claim, claim_studied
from agents.records.record_types import Manifest
from agents.records.store import Store
from agents.records.work import WorkItem, read_plan, write_plan
from agents.tasks.selective import JudgeSelectivity
from experiments.paper.gym import classifiers, world
from experiments.paper.gym.spawrious import SceneDesign, SpuriousSet, folder_set, scene_set
from experiments.paper.robust_features_page import RobustResult, page
from experiments.paper.robust_measurements import Choice, Measurements, Repeats
from experiments.paper.robust_rows import Training, read_training, summarize
from experiments.runs.campaign import Campaign
from experiments.setup.console import Console
from experiments.setup.run_folder import open_run
from experiments.setup.science import science
from experiments.setup.selection import Selected, Selection
from tools.subject import Progress

if TYPE_CHECKING:
    from experiments.setup.workbench import Workbench

LAYER = "layer4"
"""The layer whose units are judged; their means over positions are the features of the last layer."""
STARTS = ("world", "imagenet", "nothing")
"""What a network may know before its training: scenes of other things, timm's weights, nothing."""


@dataclass(frozen=True)
class RobustFeatures:
    """What is asked for. `data` is a folder of Spawrious; None draws a set of scenes."""

    data: Path | None = None
    design: SceneDesign = field(default_factory=SceneDesign)
    recipe: classifiers.Recipe = field(default_factory=classifiers.Recipe)
    start: str = "world"
    """One of `STARTS`."""
    trainings: int = 5
    top: int = 50
    """Units that the agent judges."""
    seed: int = 0
    limit: int | None = None
    """At most so many images of each cell of a folder."""
    repeats: Repeats = field(default_factory=Repeats)

    def manifest(self) -> dict[str, Any]:
        """Return what of it a run's manifest holds."""
        return {
            "data": None if self.data is None else str(self.data.resolve()),
            "design": asdict(self.design),
            "recipe": asdict(self.recipe),
            "start": self.start,
            "trainings": self.trainings,
            "top": self.top,
            "seed": self.seed,
            "limit": self.limit,
        }

    def open_set(self, cache: Path, progress: Progress) -> SpuriousSet:
        """Return the set of images, drawn or read.

        Raises:
            UsageError: If it cannot be.
        """
        if self.data is None:
            return scene_set(replace(self.design, seed=self.seed), cache, progress)
        return folder_set(self.data, cache, limit=self.limit, seed=self.seed, progress=progress)


@dataclass(frozen=True)
class RobustOptions:
    """The words of a command line; None is what is usual for the set."""

    data: Path | None = None
    classes: str | None = None
    places: str | None = None
    start: str | None = None
    trainings: int = 5
    epochs: int | None = None
    top: int = 50
    seed: int = 0
    limit: int | None = None

    def request(self) -> RobustFeatures:
        """Return what these words ask for: on a folder, the paper's own recipe.

        Raises:
            UsageError: If they do not go together.
        """
        drawn = self.data is None
        if not drawn and (self.classes or self.places):
            raise UsageError(
                "classes and places are those of the folder.", "Leave out --classes and --places."
            )
        start = self.start or ("world" if drawn else "imagenet")
        if start not in STARTS or (start == "world" and not drawn):
            raise UsageError(
                f"a training starts from imagenet or nothing, or on scenes from world, got {start!r}"
            )
        design, recipe = SceneDesign(), classifiers.Recipe(epochs=1, learning_rate=3e-4)
        if not drawn:
            recipe = replace(recipe, side=224, learning_rate=1e-4, batch=64)
        if self.classes:
            design = replace(design, classes=_listed(self.classes))
        if self.places:
            design = replace(design, places=_listed(self.places))
        if self.epochs is not None:
            recipe = replace(recipe, epochs=self.epochs)
        return RobustFeatures(
            self.data, design.checked(), recipe, start, self.trainings, self.top, self.seed, self.limit
        )


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


async def robust_features(
    console: Console, selection: Selection, request: RobustFeatures, *, out: Path
) -> RobustResult:
    """Return the whole of Table 2 for each training seed; an existing run is resumed.

    Writes `robust_features.json` and a page of the report into `out`; the network of each seed stays in
    `out/training-N/network`, where every command can study it.

    Raises:
        UsageError: If the set cannot be drawn or read, or `out` is another run or one on another set.
    """
    selected = selection.load()
    manifest = selected.manifest("robust-features", **request.manifest())
    store = open_run(selected.profile.dataset, out, manifest)
    claim(store, manifest)
    console.say("preparing the images")
    with console.progress("images") as progress:
        spurious = await asyncio.to_thread(request.open_set, selected.cache / "spurious", progress)
    # Named by its files: with others in between, one table would be of two sets.
    claim_studied(store, {"dataset": spurious.name})
    trainings: list[Training] = []
    for number in range(request.trainings):
        key = f"training-{number}/rows.json"
        if (training := read_training(store, key)) is None:
            folder = out / f"training-{number}"
            run = TrainingRun(console, selected, request, spurious, number, folder)
            if (training := await run.run()) is None:
                break
            _write(store, key, asdict(training))
        trainings.append(training)
    result = RobustResult(
        set=spurious.name,
        classes=list(spurious.classes),
        places=list(spurious.places),
        finished=len(trainings) == request.trainings,
        trainings=trainings,
        summary=summarize(trainings) if trainings else None,
    )
    _write(store, "robust_features.json", asdict(result))
    if result.summary is not None:
        page(result, result.summary).save(out, "robust-features")
    return result


def _write(store: Store, key: str, value: dict[str, Any]) -> None:
    store.replace_json(key, value)


@dataclass(frozen=True)
class TrainingRun:
    """One training of a run, the judgement of its units and its rows of Table 2."""

    console: Console
    selected: Selected
    request: RobustFeatures
    spurious: SpuriousSet
    number: int
    folder: Path

    @property
    def _network(self) -> Path:
        return self.folder / "network"

    async def run(self) -> Training | None:
        """Return the training, None if it was interrupted."""
        if not classifiers.exists(self._network):
            await self._train()
        self.console.say("fitting the regressions")
        measured = await asyncio.to_thread(
            Measurements.of, self._network, self.spurious, self.request.repeats
        )
        informative = await asyncio.to_thread(measured.informative, self.request.top)
        units = [int(unit) for unit in informative.units]
        choice = await self._judge(units)
        if choice is None:
            return None
        self.console.say(f"the agent keeps {len(choice.kept)} of {len(units)} units")
        return await asyncio.to_thread(measured.training, informative, choice, self.number)

    async def _train(self) -> None:
        console, request, spurious = self.console, self.request, self.spurious
        start = None
        if request.start == "world":
            console.say("learning the world apart from the set's classes")
            cache = self.selected.cache / "world"
            with console.progress("world") as progress:
                start = await asyncio.to_thread(
                    world.weights, request.recipe, request.design.checked(), cache, progress
                )
        console.say(f"training {self.number + 1} of {request.trainings}")
        recipe = replace(request.recipe, pretrained=request.start == "imagenet")
        lessons = classifiers.Lessons(spurious.train.images, spurious.train.labels, len(spurious.classes))
        with console.progress("training") as progress:
            module = await asyncio.to_thread(
                classifiers.train, recipe, lessons, seed=self.number, start=start, progress=progress
            )
        about = {"data": spurious.name, "start": request.start, "seed": self.number}
        classifiers.save(module, self._network, request.recipe, spurious.classes, about)

    async def _judge(self, units: list[int]) -> Choice | None:
        """Return which units the agent keeps; None if it was interrupted."""
        store = Store.open(self.folder)
        manifest = Manifest(
            command="selective",
            model=classifiers.spec(self._network),
            layer=LAYER,
            seed=self.number,
            settings=science(self.selected.profile),
        )
        # The strongest images are looked for in the validation set's own file.
        file = getattr(self.spurious.validation.images, "filename", None)
        profile = self.selected.profile.given(str(file), few_images=True)

        async def plan(bench: Workbench) -> list[WorkItem]:
            subjects = {unit: await bench.subject(LAYER, str(unit)) for unit in units}
            claim(store, manifest.of_units(subject.id for subject in subjects.values()))
            if (written := read_plan(store)) is not None:
                return written
            with self.console.progress("exemplars") as progress:
                await subjects[units[0]].prepare(progress)
            return write_plan(store, [self._item(unit, subject.id) for unit, subject in subjects.items()])

        campaign = Campaign(self.console, self.selected.configuration, profile, store, manifest)
        finished = await campaign.run(plan)
        if finished.outcome.paused or finished.outcome.stopped is not None:
            return None
        answers = {record.unit: record.label for record in finished.records()}
        numbers = {item.unit: int(item.name) for item in finished.plan}
        return Choice(
            [number for unit, number in numbers.items() if answers.get(unit) == "SELECTIVE"],
            # As the task says, a unit that is not surely selective is not kept.
            [number for unit, number in numbers.items() if answers.get(unit) is None],
        )

    def _item(self, unit: int, unit_id: str) -> WorkItem:
        arguments = {"classes": list(self.spurious.classes), "environments": list(self.spurious.places)}
        return WorkItem(
            unit_id, LAYER, str(unit), task=JudgeSelectivity.name, arguments=arguments, seed=self.request.seed
        )
