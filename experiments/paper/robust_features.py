"""`maia robust-features`: keep the units that follow the object, drop those that follow the place (MAIA 5.1,
Table 2).

A classifier is trained on images whose places give the classes away. An agent judges each of its most
informative units, from images that it makes itself and the strongest of the validation set; it never sees a
balanced set, a place label, or the test. What it keeps is compared with what regressions keep, and with
chance.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.errors import UsageError
from agents.records.journal import slug
from agents.records.manifest import check, claim, claim_studied
from agents.records.store import Store
from agents.records.work import WorkItem, read_plan, write_plan
from agents.tasks.selective import JudgeSelectivity
from experiments.paper.gym import classifiers, logistic, world
from experiments.paper.gym.selectivity import Shares
from experiments.paper.gym.spawrious import SceneDesign, SpuriousSet, balanced, folder_set, scene_set
from experiments.paper.robust_features_page import page
from experiments.runs.campaign import Campaign
from experiments.setup import config as configuration
from experiments.setup.config import Configuration, Profile
from experiments.setup.console import Console
from experiments.setup.run_folder import check_output_folder
from experiments.setup.science import science

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
PLAIN: Mapping[str, str] = {
    "all": "all, no penalty",
    "random": "random",
    "L1 top n": "L1 top n, no penalty",
    "agent": "agent",
}
"""Names of the rows of choices that are fitted anew without a penalty, as the paper does for two of them."""
RIDGE: Mapping[str, str] = {name: f"{name}, ridge" for name in PLAIN}
"""Names of the rows in which every choice has the same regularised read-out."""


@dataclass(frozen=True)
class RobustFeatures:
    """What a command line asks for. `data` is a folder of Spawrious; None draws a set of scenes."""

    data: Path | None = None
    design: SceneDesign = field(default_factory=SceneDesign)
    recipe: classifiers.Recipe = field(default_factory=classifiers.Recipe)
    start: str = "world"
    """What the network knew before: `world` (scenes of other things), `imagenet` (timm's weights), `nothing`.
    """
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
    check_output_folder(profile.dataset, out)
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
    """A trained network's features on three parts of the set, float32 (N, units), and its own head's accuracy
    on two.
    """

    spurious: SpuriousSet
    validation: np.ndarray
    test: np.ndarray
    crossed: np.ndarray
    original: float
    original_validation: float

    @classmethod
    def of(cls, network: Path, spurious: SpuriousSet) -> Measurements:
        kept = network.parent / "features.npz"
        if not kept.exists():
            loaded = classifiers.load(network)
            module, preprocess = loaded.module, loaded.preprocess
            parts = {"validation": spurious.validation, "test": spurious.test, "crossed": spurious.crossed}
            found: dict[str, Any] = {
                name: classifiers.features(module, preprocess, part.images) for name, part in parts.items()
            }
            for name, key in (("test", "original"), ("validation", "original_validation")):
                found[key] = _head_accuracy(module, found[name], parts[name].labels)
            draft = kept.with_name(f".{uuid.uuid4().hex[:8]}.npz")
            np.savez(draft, **found)
            os.replace(draft, kept)  # noqa: PTH105
        with np.load(kept) as stored:
            return cls(
                spurious,
                stored["validation"],
                stored["test"],
                stored["crossed"],
                float(stored["original"]),
                float(stored["original_validation"]),
            )

    def informative(self, top: int) -> logistic.Fitted:
        """Return the L1 fit on the unbalanced validation set that keeps `top` units."""
        return logistic.sparse_to(self.validation, self.spurious.validation.labels, top)

    def judgement(self, units: np.ndarray, kept: Sequence[int]) -> dict[str, Any]:
        """Return what the kept and the dropped of these units follow, on images of every class in every
        place.
        """
        crossed = self.spurious.crossed
        return Shares.of(self.crossed, crossed.labels, crossed.places).judged(units, set(kept))

    def rows(self, informative: logistic.Fitted, kept: Sequence[int], seed: int) -> dict[str, Any]:
        """Return every row of Table 2 and those of our own, and where the agent's choice stands among random
        ones.

        What cannot be computed is None.
        """
        pool, n = informative.units, len(kept)
        subset = f"L1 top {len(pool)}"
        chosen = {"all": pool, "agent": np.asarray(kept, int)}
        rows = [
            _row(
                "All",
                "original model",
                self.validation.shape[1],
                False,
                self.original,
                self.original_validation,
            ),
            self._scored(subset, "all", informative),
        ]
        random: list[np.ndarray] = []
        if 0 < n < len(pool):
            rng = np.random.default_rng((seed, 61))
            random = [rng.choice(pool, n, replace=False) for _ in range(RANDOM_SETS)]
            smaller = logistic.sparse_to(self.validation, self.spurious.validation.labels, n, pool)
            rows.append(self._scored(subset, "L1 top n", smaller))
            chosen["L1 top n"] = smaller.units
        plain, standing = self._refitted(subset, logistic.unregularised, PLAIN, chosen, random)
        ridge, ridge_standing = self._refitted(subset, logistic.ridge, RIDGE, chosen, random)
        told = standing | {f"ridge_{name}": value for name, value in ridge_standing.items()}
        rows += [*plain, *ridge, *self._balanced_rows(n, seed)]
        return {"rows": rows, **told, "judgement": self.judgement(pool, kept)}

    def _refitted(
        self,
        subset: str,
        fit: Callable[..., logistic.Fitted],
        names: Mapping[str, str],
        chosen: Mapping[str, np.ndarray],
        random: Sequence[np.ndarray],
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return the rows of one read-out, fitted anew to each choice, and where the agent's stands among
        random ones.
        """
        labels = self.spurious.validation.labels
        chance = [self._accuracies(fit(self.validation, labels, units)) for units in random]
        rows = []
        if chance:
            (test, validation), (spread, _) = np.mean(chance, axis=0), np.std(chance, axis=0)
            row = _row(subset, names["random"], len(random[0]), False, float(test), float(validation))
            rows.append(row | {"spread": float(spread)})
        for choice, units in chosen.items():
            found = self._accuracies(fit(self.validation, labels, units)) if len(units) else (None, None)
            rows.append(_row(subset, names[choice], len(units), False, *found))
        values = [test for test, _ in chance]
        return rows, {
            "percentile": _percentile(values, _accuracy(rows, names["agent"])),
            "random_95": float(np.quantile(values, 0.95)) if values else None,
        }

    def _accuracies(self, fit: logistic.Fitted) -> tuple[float, float]:
        """Return the accuracy of a fit on the test and on the validation set, to which it was fitted."""
        return (
            fit.accuracy(self.test, self.spurious.test.labels),
            fit.accuracy(self.validation, self.spurious.validation.labels),
        )

    def _scored(self, subset: str, method: str, fit: logistic.Fitted) -> dict[str, Any]:
        return _row(subset, method, len(fit.units), False, *self._accuracies(fit))

    def _balanced_rows(self, n: int, seed: int) -> list[dict[str, Any]]:
        """Return the rows of fits to small balanced sets, one set visible at a time: means over the sets."""
        part = self.spurious.validation
        tuned, small = [], []
        for number in range(BALANCED_SETS):
            rng = np.random.default_rng((seed, 62, number))
            rows = balanced(part, BALANCED_IMAGES, rng)
            features, labels = self.validation[rows], part.labels[rows]
            fit = logistic.tuned(features, labels, rng)
            tuned.append((len(fit.units), *self._accuracies(fit)))
            if n:
                fit = logistic.sparse_to(features, labels, n)
                small.append((len(fit.units), *self._accuracies(fit)))
        made = [_balanced("balanced L1, tuned", tuned)]
        return [*made, _balanced("balanced L1 top n", small)] if small else made


def _head_accuracy(module: Any, features: np.ndarray, labels: np.ndarray) -> float:
    """Return the accuracy of the network's own last layer on features of `classifiers.features`."""
    import torch

    with torch.inference_mode():
        scores = module.get_classifier()(torch.from_numpy(features))
    return float((scores.argmax(dim=1).numpy() == labels).mean())


def _row(
    subset: str, method: str, units: int, is_balanced: bool, accuracy: float | None, validation: float | None
) -> dict[str, Any]:
    """Return a row of Table 2; `validation` is the accuracy on the whole validation set, wrong labels
    included.
    """
    paper = PAPER.get(method)
    return {
        "subset": subset, "method": method, "units": units, "balanced": is_balanced, "accuracy": accuracy,
        "validation": validation, "spread": None, "paper_units": paper and paper[0],
        "paper_accuracy": paper and paper[1],
    }  # fmt: skip


def _balanced(method: str, found: Sequence[tuple[int, float, float]]) -> dict[str, Any]:
    units, test, validation = zip(*found, strict=True)
    row = _row("All", method, int(np.median(units)), True, float(np.mean(test)), float(np.mean(validation)))
    return row | {"spread": float(np.std(test))}


def _accuracy(rows: Sequence[Mapping[str, Any]], method: str) -> float | None:
    """Return a row's test accuracy; None if there is no such row, or it could not be computed."""
    return next((row["accuracy"] for row in rows if row["method"] == method), None)


def _percentile(chance: Sequence[float], ours: float | None) -> float | None:
    """Return the share of random sets that do worse, equals counted half."""
    if ours is None or not chance:
        return None
    values = np.asarray(chance)
    return float((values < ours).mean() + 0.5 * (values == ours).mean())


def summarise(trainings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return each row's mean and spread over the trainings, and in how many the agent's choice came out
    ahead.
    """
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
                "validation": _mean([row.get("validation") for row in found]),
                "n": len(values),
            }
        )  # fmt: skip

    def wins(ours: str, other: str) -> int:
        """Count trainings in which one row is ahead of another; what could not be computed is never ahead."""
        pairs = [(_accuracy(t["rows"], ours), _accuracy(t["rows"], other)) for t in trainings]
        return sum(a is not None and b is not None and a > b for a, b in pairs)

    def beats_chance(ours: str, limit: str) -> int:
        pairs = [(_accuracy(t["rows"], ours), t.get(limit)) for t in trainings]
        return sum(a is not None and b is not None and a > b for a, b in pairs)

    return {
        "rows": rows,
        "n": len(trainings),
        "beats_l1": wins("agent", "L1 top n"),
        "beats_l1_no_penalty": wins("agent", PLAIN["L1 top n"]),
        "beats_random_95": beats_chance("agent", "random_95"),
        "ridge_beats_l1": wins(RIDGE["agent"], RIDGE["L1 top n"]),
        "ridge_beats_random_95": beats_chance(RIDGE["agent"], "ridge_random_95"),
        "judgement": _judgement(trainings),
    }


def _judgement(trainings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the means over the trainings of what kept and dropped units follow; None where no training
    measured it.
    """
    judged = [training["judgement"] for training in trainings if training.get("judgement")]
    told: dict[str, Any] = {
        group: {key: _mean([each[group][key] for each in judged]) for key in ("n", "by_class", "by_place")}
        for group in ("kept", "dropped")
    }
    return told | {"auroc": _mean([each["auroc"] for each in judged])}


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of what was measured."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


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
