"""`maia robust-features`: keep the units that follow the object, drop those that follow the place (MAIA 5.1, Table 2).

A classifier is trained on images whose places give the classes away. An agent judges each of its most
informative units, from images that it makes itself and the strongest of the validation set; it never sees a
balanced set, a place label, or the test. What it keeps is compared with what regressions keep, and with chance.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.errors import UsageError
from agents.journal import slug
from agents.manifest import check, claim, claim_studied
from agents.store import Store
from agents.tasks.selective import JudgeSelectivity
from agents.work import WorkItem, read_plan, write_plan
from experiments import config as configuration
from experiments.campaign import Campaign
from experiments.config import Configuration, Profile
from experiments.console import Console
from experiments.describe import science
from experiments.gym import classifiers, logistic, world
from experiments.gym.spawrious import SceneDesign, SpuriousSet, balanced, folder_set, scene_set
from experiments.preflight import check_out
from experiments.report.schema import Bar, Bars, Column, Measured, Page, Table, Text

LAYER = "layer4"
"""The layer whose units are judged; their means over positions are the features of the last layer."""
RANDOM_SETS = 100
BALANCED_SETS = 10
BALANCED_IMAGES = 320

PAPER: Mapping[str, tuple[int, float]] = {
    "original model": (512, 0.731),
    "all": (50, 0.779),
    "random": (22, 0.705),
    "L1 top n": (22, 0.757),
    "agent": (22, 0.837),
    "balanced L1, tuned": (147, 0.830),
    "balanced L1 top n": (22, 0.865),
}
"""Units and test accuracy of Table 2. The spread of the random sets is given as 0.05."""


@dataclass(frozen=True)
class RobustFeatures:
    """What a command line asks for. `data` is a folder of Spawrious; None draws a set of scenes."""

    data: Path | None = None
    design: SceneDesign = field(default_factory=SceneDesign)
    recipe: classifiers.Recipe = field(default_factory=classifiers.Recipe)
    start: str = "world"
    """What the network knew before: `world` (scenes of other things), `imagenet` (timm's weights), `nothing`."""
    trainings: int = 5
    top: int = 50
    seed: int = 0
    limit: int | None = None
    """At most so many images of each cell of a folder."""


async def robust_features(
    console: Console, config: Path | None, profile_name: str | None, asked: RobustFeatures, *, out: Path
) -> dict[str, Any]:
    """Return the whole of Table 2 for each training seed; goes on with what an earlier run left.

    Writes `robust_features.json` and a page of the report into `out`; the network of each seed stays in
    `out/training-N/network`, where every command can study it.

    Raises:
        UsageError: If the set cannot be drawn or read, or `out` is another run or one on another set.
    """
    loaded = configuration.load(config)
    profile = loaded.profile(profile_name)
    check_out(profile.dataset, out)
    store = Store.open(out)
    manifest = {
        "command": "robust-features",
        "data": None if asked.data is None else str(asked.data.resolve()),
        "design": _plain(asked.design),
        "recipe": _plain(asked.recipe),
        "start": asked.start,
        "trainings": asked.trainings,
        "top": asked.top,
        "seed": asked.seed,
        "limit": asked.limit,
        "profile": profile_name or loaded.default_profile,
        "settings": science(profile),
    }
    check(store, manifest)
    claim(store, manifest)
    console.say("preparing the images")
    with console.progress("images") as progress:
        spurious = await asyncio.to_thread(_open_set, asked, loaded.cache / "spurious", progress)
    # Named by its files: with others in between, one table would be of two sets.
    claim_studied(store, {"dataset": spurious.name})
    trainings = []
    for number in range(asked.trainings):
        key = f"training-{number}/rows.json"
        if (rows := store.read_object(key)) is None:
            folder = out / f"training-{number}"
            found = await _one_training(console, loaded, profile, asked, spurious, number, folder)
            if found is None:
                break
            _write(store, key, found)
            rows = json.loads(json.dumps(found))
        trainings.append(rows)
    result: dict[str, Any] = {
        "experiment": "robust-features",
        "set": spurious.name,
        "classes": list(spurious.classes),
        "places": list(spurious.places),
        "finished": len(trainings) == asked.trainings,
        "trainings": trainings,
        "summary": summarise(trainings) if trainings else None,
    }
    _write(store, "robust_features.json", result)
    if trainings:
        page(result).save(out, "robust-features")
    return result


def _open_set(asked: RobustFeatures, cache: Path, progress: Any) -> SpuriousSet:
    if asked.data is None:
        return scene_set(replace(asked.design, seed=asked.seed), cache, progress)
    return folder_set(asked.data, cache, limit=asked.limit, seed=asked.seed, progress=progress)


async def _one_training(
    console: Console,
    loaded: Configuration,
    profile: Profile,
    asked: RobustFeatures,
    spurious: SpuriousSet,
    number: int,
    folder: Path,
) -> dict[str, Any] | None:
    """Return the rows of one training, None if it was interrupted."""
    network = folder / "network"
    if not classifiers.exists(network):
        start = None
        if asked.start == "world":
            console.say("learning the world apart from the set's classes")
            with console.progress("world") as progress:
                start = await asyncio.to_thread(
                    world.weights, asked.recipe, asked.design.checked(), loaded.cache / "world", progress
                )
        console.say(f"training {number + 1} of {asked.trainings}")
        with console.progress("training") as progress:
            module = await asyncio.to_thread(
                classifiers.train,
                replace(asked.recipe, pretrained=asked.start == "imagenet"),
                spurious.train.images,
                spurious.train.labels,
                len(spurious.classes),
                seed=number,
                start=start,
                progress=progress,
            )
        about = {"data": spurious.name, "start": asked.start, "seed": number}
        classifiers.save(module, network, asked.recipe, spurious.classes, about)
    console.say("fitting the regressions")
    measured = await asyncio.to_thread(Measurements.of, network, spurious)
    informative = await asyncio.to_thread(measured.informative, asked.top)
    chosen = await _judge(console, loaded, profile, asked, spurious, number, folder, informative.units)
    if chosen is None:
        return None
    console.say(f"the agent keeps {len(chosen['kept'])} of {len(informative.units)} units")
    rows = await asyncio.to_thread(measured.rows, informative, chosen["kept"], number)
    return {"seed": number, "judged": [int(unit) for unit in informative.units], **chosen, **rows}


async def _judge(
    console: Console,
    loaded: Configuration,
    profile: Profile,
    asked: RobustFeatures,
    spurious: SpuriousSet,
    number: int,
    folder: Path,
    units: np.ndarray,
) -> dict[str, Any] | None:
    """Return which units the agent keeps, and which it gave no answer for; None if it was interrupted."""
    model = classifiers.spec(folder / "network")
    store = Store.open(folder)
    manifest = {
        "command": "selective", "model": model, "layer": LAYER, "seed": number, "settings": science(profile)
    }  # fmt: skip
    # The strongest images are looked for in the validation set's own file.
    file = getattr(spurious.validation.images, "filename", None)
    profile = profile.given(str(file), few_images=True)

    async def plan(bench: Any) -> list[WorkItem]:
        subjects = [await bench.subject(LAYER, str(int(unit))) for unit in units]
        claim(store, manifest | {"units": [subject.id for subject in subjects]})
        if (written := read_plan(store)) is not None:
            return written
        with console.progress("exemplars") as progress:
            await subjects[0].prepare(progress)
        return write_plan(
            store,
            [
                WorkItem(
                    subject.id,
                    LAYER,
                    str(int(unit)),
                    task=JudgeSelectivity.name,
                    arguments={"classes": list(spurious.classes), "environments": list(spurious.places)},
                    seed=asked.seed,
                )
                for subject, unit in zip(subjects, units, strict=True)
            ],
        )

    campaign = Campaign(console, loaded, profile, store, manifest, retry_failed=False)
    finished = await campaign.run(plan)
    if finished.outcome.paused or finished.outcome.stopped is not None:
        return None
    answers = {record["unit"]: record["label"] for record in finished.records()}
    names = {item.unit: int(item.name) for item in finished.plan}
    return {
        "kept": [unit for name, unit in names.items() if answers.get(name) == "SELECTIVE"],
        # As the task says, a unit that nobody is sure of is not kept.
        "unanswered": [unit for name, unit in names.items() if answers.get(name) is None],
    }


@dataclass(frozen=True)
class Measurements:
    """A trained network's features on validation and test, float32 (N, units), and what its own head says."""

    spurious: SpuriousSet
    validation: np.ndarray
    test: np.ndarray
    original: float

    @classmethod
    def of(cls, network: Path, spurious: SpuriousSet) -> Measurements:
        kept = network.parent / "features.npz"
        if not kept.exists():
            loaded = classifiers.load(network)
            module, preprocess = loaded.module, loaded.preprocess
            scores = classifiers.logits(module, preprocess, spurious.test.images)
            draft = kept.with_name(f".{uuid.uuid4().hex[:8]}.npz")
            np.savez(
                draft,
                validation=classifiers.features(module, preprocess, spurious.validation.images),
                test=classifiers.features(module, preprocess, spurious.test.images),
                original=float((scores.argmax(axis=1) == spurious.test.labels).mean()),
            )
            os.replace(draft, kept)  # noqa: PTH105
        with np.load(kept) as found:
            return cls(spurious, found["validation"], found["test"], float(found["original"]))

    def informative(self, top: int) -> logistic.Fitted:
        """Return the L1 fit on the unbalanced validation set that keeps `top` units."""
        return logistic.sparse_to(self.validation, self.spurious.validation.labels, top)

    def rows(self, informative: logistic.Fitted, kept: Sequence[int], seed: int) -> dict[str, Any]:
        """Return every row of Table 2, and two that the paper lacks: what cannot be computed is None."""
        labels, test = self.spurious.validation.labels, self.spurious.test.labels
        n, pool = len(kept), informative.units
        subset = f"L1 top {len(pool)}"

        def refitted(units: Sequence[int] | np.ndarray) -> float:
            return logistic.unregularised(self.validation, labels, units).accuracy(self.test, test)

        rows = [
            _row("All", "original model", self.validation.shape[1], False, self.original),
            _row(subset, "all", len(pool), False, informative.accuracy(self.test, test)),
            _row(subset, "all, no penalty", len(pool), False, refitted(pool)),
        ]
        chance: list[float] = []
        if 0 < n < len(pool):
            rng = np.random.default_rng((seed, 61))
            chance = [refitted(rng.choice(pool, n, replace=False)) for _ in range(RANDOM_SETS)]
            smaller = logistic.sparse_to(self.validation, labels, n, pool)
            rows += [
                _row(subset, "random", n, False, float(np.mean(chance)), float(np.std(chance))),
                _row(subset, "L1 top n", len(smaller.units), False, smaller.accuracy(self.test, test)),
                _row(subset, "L1 top n, no penalty", len(smaller.units), False, refitted(smaller.units)),
            ]
        ours = refitted(kept) if n else None
        rows.append(_row(subset, "agent", n, False, ours))
        rows += self._balanced_rows(n, seed)
        return {
            "rows": rows,
            "percentile": _percentile(chance, ours),
            "random_95": float(np.quantile(chance, 0.95)) if chance else None,
        }

    def _balanced_rows(self, n: int, seed: int) -> list[dict[str, Any]]:
        """Return the rows of fits to small balanced sets, one set visible at a time: means over the sets."""
        part, test = self.spurious.validation, self.spurious.test.labels
        tuned, small = [], []
        for number in range(BALANCED_SETS):
            rng = np.random.default_rng((seed, 62, number))
            rows = balanced(part, BALANCED_IMAGES, rng)
            features, labels = self.validation[rows], part.labels[rows]
            fit = logistic.tuned(features, labels, rng)
            tuned.append((len(fit.units), fit.accuracy(self.test, test)))
            if n:
                fit = logistic.sparse_to(features, labels, n)
                small.append((len(fit.units), fit.accuracy(self.test, test)))
        made = [_balanced("balanced L1, tuned", tuned)]
        return [*made, _balanced("balanced L1 top n", small)] if small else made


def _row(
    subset: str,
    method: str,
    units: int,
    is_balanced: bool,
    accuracy: float | None,
    spread: float | None = None,
) -> dict[str, Any]:
    paper = PAPER.get(method)
    return {
        "subset": subset, "method": method, "units": units, "balanced": is_balanced, "accuracy": accuracy,
        "spread": spread, "paper_units": paper and paper[0], "paper_accuracy": paper and paper[1],
    }  # fmt: skip


def _balanced(method: str, found: Sequence[tuple[int, float]]) -> dict[str, Any]:
    units, accuracies = zip(*found, strict=True)
    return _row(
        "All", method, int(np.median(units)), True, float(np.mean(accuracies)), float(np.std(accuracies))
    )


def _percentile(chance: Sequence[float], ours: float | None) -> float | None:
    """Return the share of random sets that do worse, equals counted half."""
    if ours is None or not chance:
        return None
    values = np.asarray(chance)
    return float((values < ours).mean() + 0.5 * (values == ours).mean())


def summarise(trainings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return each row's mean and spread over the trainings, and in how many the agent's choice came out ahead."""
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for training in trainings:
        for row in training["rows"]:
            by_method.setdefault(row["method"], []).append(row)
    rows = []
    for found in by_method.values():
        values = [row["accuracy"] for row in found if row["accuracy"] is not None]
        rows.append(
            {
                **{key: found[0][key] for key in ("subset", "method", "balanced", "paper_units", "paper_accuracy")},
                "units": float(np.mean([row["units"] for row in found])),
                "accuracy": float(np.mean(values)) if values else None,
                "spread": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                "n": len(values),
            }
        )  # fmt: skip

    def accuracy(training: Mapping[str, Any], method: str) -> float:
        found = [row["accuracy"] for row in training["rows"] if row["method"] == method]
        return found[0] if found and found[0] is not None else math.nan

    agents = [accuracy(training, "agent") for training in trainings]
    return {
        "rows": rows,
        "n": len(trainings),
        # A comparison with what could not be computed is false, and so never counted as won.
        "beats_l1": sum(
            a > accuracy(t, "L1 top n") for a, t in zip(agents, trainings, strict=True)
        ),
        "beats_l1_no_penalty": sum(
            a > accuracy(t, "L1 top n, no penalty") for a, t in zip(agents, trainings, strict=True)
        ),
        "beats_random_95": sum(
            t["random_95"] is not None and a > t["random_95"] for a, t in zip(agents, trainings, strict=True)
        ),
    }  # fmt: skip


def page(result: Mapping[str, Any]) -> Page:
    """Return the experiment's page: Table 2 beside the paper's figures, and each training by itself."""
    summary = result["summary"]
    columns = (
        Column(name="subset"), Column(name="method"), Column(name="units", digits=0),
        Column(name="paper: units", digits=0, source="paper"), Column(name="balanced data"),
        Column(name="test accuracy", digits=3, source="ours"),
        Column(name="paper: test accuracy", digits=3, source="paper"),
    )  # fmt: skip
    rows = tuple(
        (
            row["subset"], row["method"], row["units"], row["paper_units"], "yes" if row["balanced"] else "no",
            _measured(row), row["paper_accuracy"],
        )
        for row in summary["rows"]
    )  # fmt: skip
    bars = [
        Bar(name=row["method"], series=f"training {training['seed']}", value=row["accuracy"])
        for training in result["trainings"]
        for row in training["rows"]
        if row["accuracy"] is not None
    ]
    told = (
        f"Over {summary['n']} trainings the agent's units beat L1 of the same size in {summary['beats_l1']}, and the 95th "
        f"percentile of random sets in {summary['beats_random_95']}."
    )
    return Page(
        title="Robust features",
        summary=told,
        blocks=(
            Table(
                title="Table 2", columns=columns, rows=rows,
                note="Mean over trainings, with the standard deviation over them as the interval. The paper's figures are "
                "of one training on Spawrious and are not comparable one by one. Rows without a figure of the paper are ours.",
            ),
            Bars(title="Each training", axis="accuracy on the test set", bars=tuple(bars)),
            Text(
                title="How it was made",
                paragraphs=(
                    f"Set: {result['set']}; classes {', '.join(result['classes'])}; places {', '.join(result['places'])}.",
                ),
            ),
        ),
    )  # fmt: skip


def _measured(row: Mapping[str, Any]) -> Measured | None:
    if row["accuracy"] is None:
        return None
    if row["spread"] is None:
        return Measured(value=row["accuracy"])
    return Measured(
        value=row["accuracy"], low=row["accuracy"] - row["spread"], high=row["accuracy"] + row["spread"]
    )


def table(result: Mapping[str, Any]) -> str:
    """Return Table 2 in lines for a terminal."""
    if result["summary"] is None:
        return "interrupted before the first training was judged; repeat the command to go on"
    lines = [
        "",
        f"{'subset':10} {'method':22} {'units':>6} {'balanced':>8} {'test accuracy':>16} {'paper':>6}",
    ]
    for row in result["summary"]["rows"]:
        spread = "" if row["spread"] is None else f" ± {row['spread']:.3f}"
        value = "not possible" if row["accuracy"] is None else f"{row['accuracy']:.3f}{spread}"
        paper = "" if row["paper_accuracy"] is None else f"{row['paper_accuracy']:.3f}"
        lines.append(
            f"{row['subset']:10} {row['method']:22} {row['units']:6.0f} {'yes' if row['balanced'] else 'no':>8} "
            f"{value:>16} {paper:>6}"
        )
    summary = result["summary"]
    lines.append(
        f"agent ahead of L1 in {summary['beats_l1']} of {summary['n']} trainings, of the 95th percentile of random sets in "
        f"{summary['beats_random_95']}"
    )
    return "\n".join(lines)


def _plain(value: Any) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(value)))
    return plain


def _write(store: Store, key: str, value: Any) -> None:
    store.replace(key, json.dumps(value, indent=1, ensure_ascii=False).encode())


def default_out(asked: RobustFeatures) -> Path:
    return Path("runs") / slug(f"robust-features {asked.data.name if asked.data else 'scenes'}")


def asked_for(
    data: Path | None,
    classes: str | None,
    places: str | None,
    start: str | None,
    *,
    trainings: int,
    epochs: int | None,
    top: int,
    seed: int,
    limit: int | None,
) -> RobustFeatures:
    """Return what the words of a command line mean: on a folder, the paper's own recipe.

    Raises:
        UsageError: If they do not go together.
    """
    if data is not None and (classes or places):
        raise UsageError("classes and places are those of the folder.", "Leave out --classes and --places.")
    start = start or ("world" if data is None else "imagenet")
    if start not in ("world", "imagenet", "nothing") or (data is not None and start == "world"):
        raise UsageError(
            f"a training starts from imagenet or nothing, or on scenes from world, got {start!r}"
        )
    design, recipe = SceneDesign(), classifiers.Recipe(epochs=1, learning_rate=3e-4)
    if data is not None:
        recipe = replace(recipe, side=224, learning_rate=1e-4, batch=64)
    if classes:
        design = replace(design, classes=tuple(part.strip() for part in classes.split(",")))
    if places:
        design = replace(design, places=tuple(part.strip() for part in places.split(",")))
    if epochs is not None:
        recipe = replace(recipe, epochs=epochs)
    return RobustFeatures(data, design.checked(), recipe, start, trainings, top, seed, limit)
