"""The part of an audit that looks at real images: measured once, when the generated images have been judged."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from actors.errors import MaiaError, UsageError
from actors.vision.datasets import open_dataset
from actors.vision.labels import ColumnSettings, Labelled, Labels, labels_of
from agents.budget import Ledger, MeteredChat, Rate, spent_so_far
from agents.journal import Journal, RecordedChat
from agents.lease import worked_s
from agents.run_files import RecordError
from agents.sceptic import Sceptic
from agents.store import Store
from experiments import real_images
from experiments.config import Profile
from experiments.console import Console
from experiments.context_witness import KNOWN, ContextWitness, contexts_to_ask
from experiments.contexts import ContextEffect
from experiments.real_images import Answers, MatchedClass, RealImages, Tag
from experiments.subgroups import Findings, findings

if TYPE_CHECKING:
    from experiments.workbench import Workbench


@dataclass(frozen=True)
class RealSettings:
    """What a command line asks of real images."""

    names: Mapping[str, str] = field(default_factory=dict)
    """The network's class, by name or number, of labels that a person has matched."""
    per_class: int = real_images.PER_CLASS
    """Images of a class at most that are measured."""
    witnessed: int = 100
    """Images of a class at most that observers are asked about."""
    everything: bool = False
    """Ask the observers about every context of the design, and not only about those of findings."""
    approved: bool = False
    """Ask them whatever it costs."""

    def manifest(self) -> dict[str, Any]:
        """Return what of it a run's manifest holds: nothing where all is as usual, as runs before it had none."""
        own, usual = ({**asdict(each), "approved": False} for each in (self, RealSettings()))
        return {"real": {key: own[key] for key in own if own[key] != usual[key]}} if own != usual else {}


@dataclass(frozen=True)
class AuditedClass:
    """A class of the run: its unit, its number, the name it has in the audit, and how its images were asked for."""

    unit: str
    index: int
    name: str
    drawn_as: str
    seed: int
    per_context: int


@dataclass(frozen=True)
class Generated:
    """What the audit found on generated images: all effects, and the ordinary contexts of each class."""

    effects: Sequence[ContextEffect]
    ordinary: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class RealSection:
    """What `audit.json` says of real images; `images` counts those that were measured by class."""

    dataset: str
    source: str
    matches: list[MatchedClass]
    images: dict[str, int]
    unreadable: int
    found: Findings
    answers: list[dict[str, Any]]
    """Of each class and context that observers were asked about: images, answers "yes" and unsure, and their errors."""


async def find_labels(
    console: Console, profile: Profile, settings: RealSettings, needed: bool = False
) -> Labels | None:
    """Return what the profile's data set says of its images, copies included. One may be without, which is told.

    Raises:
        UsageError: If labels are `needed` or asked for, and there are none, or a column is not there.
    """
    dataset = await asyncio.to_thread(open_dataset, profile.dataset, profile.columns.image)
    asked = needed or profile.columns != ColumnSettings() or bool(settings.names) or settings.everything
    if not isinstance(dataset, Labelled) and not asked:
        return None
    try:
        return await asyncio.to_thread(labels_of, dataset, profile.columns)
    except UsageError as error:
        if asked:
            raise
        console.say(f"no real images are looked at: {error.message} {error.fix}")
        return None


async def tell_matches(
    console: Console, bench: Workbench, settings: RealSettings, audited: Mapping[int, str]
) -> None:
    """Say which classes of the data set are which of the network's; raises as `real_images.match`."""
    dataset, class_names = bench.dataset, bench.vision.known.class_names
    labels = await asyncio.to_thread(labels_of, dataset, bench.profile.columns)
    matches = real_images.match(labels, class_names, settings.names)
    console.say(f"labels of {dataset.name}: {labels.source}")
    console.say(real_images.match_table(matches, audited))
    if not any(each.index in audited for each in matches):
        console.warn(
            "none of the audited classes is a class of the data set, so no real image is looked at: name its classes "
            "with --label-names LABEL=CLASS, or audit others"
        )


def is_done(store: Store, units: Sequence[str]) -> bool:
    """Say whether real images were measured for these units; a damaged record counts as none."""
    try:
        record = real_images.read(store)
    except RecordError:
        return False
    return record is not None and record.complete and set(record.units) == set(units)


async def look(
    console: Console, store: Store, bench: Workbench, settings: RealSettings, classes: Sequence[AuditedClass],
    generated: Generated,
) -> None:  # fmt: skip
    """Measure the real images of the classes and ask the observers about them; write `real_images.json`.

    Raises:
        MaiaError: If the network cannot be asked. What observers could not be asked is told, and asked next time.
    """
    record = await _measured(console, bench, settings, classes)
    answers, complete = await _answers(console, store, bench, settings, classes, generated, record)
    record = replace(record, answers=answers, complete=complete)
    store.replace(real_images.KEY, json.dumps(asdict(record), ensure_ascii=False).encode())


async def _measured(
    console: Console, bench: Workbench, settings: RealSettings, classes: Sequence[AuditedClass]
) -> RealImages:
    audited, seed = {each.index: each.name for each in classes}, classes[0].seed
    labels = await asyncio.to_thread(labels_of, bench.dataset, bench.profile.columns)
    matches = real_images.match(labels, bench.vision.known.class_names, settings.names)
    per_class = min(settings.per_class, real_images.room_for(len(audited), len(labels.attributes)))
    if per_class < settings.per_class:
        console.say(
            f"at most {per_class:,} images of each of the {len(audited):,} classes are measured: a record has no more room"
        )
    drawn = real_images.draw(labels, matches, audited, seed=seed, per_class=per_class)
    console.say(f"measuring {len(drawn.indices):,} real images")
    with console.progress("real images") as progress:
        probability, correct, read = await real_images.measure(bench.vision, bench.dataset, drawn, progress)
    indices = drawn.indices[read]
    kept = labels.take(indices)
    return RealImages(
        bench.dataset.name, bench.dataset.fingerprint, labels.source, seed, [each.unit for each in classes], matches,
        indices.tolist(), [audited[target] for target in drawn.targets[read].tolist()], probability[read].tolist(),
        correct[read].tolist(),
        {name: Tag(list(column.levels), column.values.tolist()) for name, column in kept.attributes.items()},
        real_images.training_counts(labels, matches, audited), unreadable=int((~read).sum()),
    )  # fmt: skip


async def _answers(
    console: Console, store: Store, bench: Workbench, settings: RealSettings, classes: Sequence[AuditedClass],
    generated: Generated, record: RealImages,
) -> tuple[list[Answers], bool]:  # fmt: skip
    """Return what observers said, and whether all that was to be asked was answered."""
    found: dict[str, list[str]] = {each.name: [] for each in classes if each.name in record.classes}
    for effect in generated.effects:
        if effect.biased and effect.class_name in found:
            found[effect.class_name].append(effect.context)
    wanted = {name: each for name, each in contexts_to_ask(found, settings.everything).items() if each}
    if not wanted:
        return [], True
    n_contexts = sum(map(len, wanted.values()))
    console.say(
        f"asking the observers about {n_contexts} contexts on up to {settings.witnessed} real images each"
    )
    n_questions = n_contexts * (settings.witnessed + 2 * KNOWN)
    rate, limit = bench.laboratory.rates.get("observer", Rate()), bench.profile.ask_above_dollars
    if not settings.approved and (why := too_dear(rate, n_questions, limit)):
        console.warn(f"{why}: the observers were not asked. Repeat the command with --yes to have them asked")
        return [], False
    problems: list[str] = []
    before = await asyncio.to_thread(spent_so_far, store, problems=problems)
    purse = Ledger(bench.profile.sweep.budget, before, elapsed_s=lambda: worked_s(store))
    answers: list[Answers] = []
    try:
        for each in classes:
            if each.name in wanted:
                answers += await _of_class(
                    bench, store, purse, settings, each, wanted[each.name], generated, record
                )
    except MaiaError as error:
        console.warn(f"the observers could not be asked everything: {error.message}")
        return answers, False
    return answers, True


def too_dear(rate: Rate, questions: int, limit: float) -> str:
    """Return why so many questions need a person's yes, "" if they do not: their price is above the limit, or unknown."""
    if not rate.known:
        return f"{questions:,} questions about images would cost an unknown amount"
    tokens = _QUESTION_TOKENS + rate.image_tokens
    dollars = questions * (tokens * rate.prompt + _ANSWER_TOKENS * rate.completion) / 1e6
    return f"{questions:,} questions about images would cost about ${dollars:.2f}" if dollars > limit else ""


_QUESTION_TOKENS, _ANSWER_TOKENS = 60, 16


async def _of_class(
    bench: Workbench, store: Store, purse: Ledger, settings: RealSettings, audited: AuditedClass,
    contexts: Sequence[str], generated: Generated, record: RealImages,
) -> list[Answers]:  # fmt: skip
    lab = bench.laboratory
    metered = MeteredChat(lab.observers, purse, lab.rates.get("observer", Rate()))
    model = RecordedChat(metered, Journal(store, audited.unit), "observer", metered.about)
    witness = ContextWitness(
        Sceptic(model, seed=audited.seed), lab.studio, audited.drawn_as, audited.seed, audited.per_context
    )
    own = [row for row, name in enumerate(record.classes) if name == audited.name]
    rows = sorted(random.Random(audited.seed).sample(own, min(settings.witnessed, len(own))))
    images = await asyncio.to_thread(real_images.load, bench.dataset, [record.images[row] for row in rows])
    ordinary = generated.ordinary.get(audited.name, ())
    return [await witness.look(context, ordinary, images, rows, audited.name) for context in contexts]


def section(record: RealImages | None, effects: Sequence[ContextEffect]) -> RealSection | None:
    """Return what a run's real images say, None where none were looked at."""
    if record is None:
        return None
    return RealSection(
        record.dataset, record.source, record.matches, dict(Counter(record.classes)), record.unreadable,
        findings(record, effects),
        [
            {"class_name": each.class_name, "context": each.context, "images": len(each.images),
             "yes": sum(shown is True for shown in each.shown), "unsure": sum(shown is None for shown in each.shown),
             "hits": each.hits, "present": each.present, "alarms": each.alarms, "absent": each.absent}
            for each in record.answers
        ],
    )  # fmt: skip


async def count_classes(console: Console, profile: Profile, settings: RealSettings) -> int:
    """Return how many classes the profile's data set has; raises as `find_labels`."""
    labels = await find_labels(console, profile, settings, needed=True)
    return 0 if labels is None else len(labels.classes)
