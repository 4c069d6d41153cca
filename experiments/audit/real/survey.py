"""The survey of an audit's real images: the network's probabilities, then the observers' word on contexts."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from actors.errors import MaiaError
from actors.vision.data.labels import labels_of
from agents.critic.witness import Witness
from agents.records.journal import Journal
from agents.records.lease import worked_s
from agents.records.recorded_chat import RecordedChat
from agents.records.store import Store
from agents.study.budget import Ledger, spent_so_far
from agents.study.metered import MeteredChat, MeteredStudio, Rate
from experiments.audit import real_images
from experiments.audit.context_survey import ContextEffect
from experiments.audit.context_witness import KNOWN, ContextWitness, contexts_to_ask
from experiments.audit.real.audit import RealSettings
from experiments.audit.real_images import Answers, RealImages, Tag
from experiments.setup.console import Console

if TYPE_CHECKING:
    from experiments.setup.workbench import Workbench

_QUESTION_TOKENS, _ANSWER_TOKENS = 60, 16


@dataclass(frozen=True)
class AuditedClass:
    """A class of the run: its unit, its number, the name it has in the audit, and how its images were asked
    for.
    """

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
class RealSurvey:
    """The survey of the real images of an audit's classes, of which there is at least one."""

    console: Console
    store: Store
    bench: Workbench
    settings: RealSettings
    classes: Sequence[AuditedClass]
    generated: Generated

    async def run(self) -> None:
        """Measure the images, ask the observers about them, and write `real_images.json`.

        Raises:
            MaiaError: If the network cannot be asked. Questions that observers could not be asked are asked
                next time.
        """
        record = await self._measured()
        answers, complete = await self._answers(record)
        record = replace(record, answers=answers, complete=complete)
        self.store.replace(real_images.KEY, json.dumps(asdict(record), ensure_ascii=False).encode())

    async def _measured(self) -> RealImages:
        bench, classes = self.bench, self.classes
        audited, seed = {item.index: item.name for item in classes}, classes[0].seed
        labels = await asyncio.to_thread(labels_of, bench.dataset, bench.profile.columns)
        matches = real_images.match(labels, bench.vision.known.class_names, self.settings.names)
        drawn = real_images.draw(
            labels, matches, audited, seed=seed, per_class=self._per_class(len(labels.attributes))
        )
        self.console.say(f"measuring {len(drawn.indices):,} real images")
        with self.console.progress("real images") as progress:
            probability, correct, read = await real_images.measure(
                bench.vision, bench.dataset, drawn, progress
            )
        indices = drawn.indices[read]
        kept = labels.take(indices)
        return RealImages(
            bench.dataset.name,
            bench.dataset.fingerprint,
            labels.source,
            seed,
            [item.unit for item in classes],
            matches,
            indices.tolist(),
            [audited[target] for target in drawn.targets[read].tolist()],
            probability[read].tolist(),
            correct[read].tolist(),
            {
                name: Tag(list(column.levels), column.values.tolist())
                for name, column in kept.attributes.items()
            },
            real_images.training_counts(labels, matches, audited),
            unreadable=int((~read).sum()),
        )

    def _per_class(self, n_attributes: int) -> int:
        """Return how many images of a class are measured at most, and say so where a record has room for
        fewer.
        """
        room, asked = real_images.room_for(len(self.classes), n_attributes), self.settings.per_class
        if room < asked:
            self.console.say(f"at most {room:,} images of a class are measured: a record has no more room")
        return min(room, asked)

    async def _answers(self, record: RealImages) -> tuple[list[Answers], bool]:
        """Return what observers said, and whether all that was to be asked was answered."""
        wanted = self._wanted(record)
        if not wanted:
            return [], True
        n_contexts, most = sum(map(len, wanted.values())), self.settings.witnessed
        self.console.say(
            f"asking the observers about {n_contexts} contexts, each on up to {most} real images"
        )
        rate, limit = (self.bench.context.rates.get("observer", Rate()), self.bench.profile.ask_above_dollars)
        why = cost_warning(rate, n_contexts * (most + 2 * KNOWN), limit)
        if why and not self.settings.approved:
            self.console.warn(
                f"{why}: the observers were not asked. Repeat the command with --yes to have them asked"
            )
            return [], False
        before = await asyncio.to_thread(spent_so_far, self.store, problems=[])
        ledger = Ledger(self.bench.profile.sweep.budget, before, elapsed_s=lambda: worked_s(self.store))
        answers: list[Answers] = []
        try:
            for audited in self.classes:
                if audited.name in wanted:
                    answers += await self._of_class(audited, wanted[audited.name], record, ledger)
        except MaiaError as error:
            self.console.warn(f"the observers could not be asked everything: {error.message}")
            return answers, False
        return answers, True

    def _wanted(self, record: RealImages) -> dict[str, list[str]]:
        """Return the contexts to ask about by class, of classes that have real images."""
        there = set(record.classes)
        biased: dict[str, list[str]] = {item.name: [] for item in self.classes if item.name in there}
        for effect in self.generated.effects:
            if effect.biased and effect.class_name in biased:
                biased[effect.class_name].append(effect.context)
        asked = contexts_to_ask(biased, self.settings.everything)
        return {name: contexts for name, contexts in asked.items() if contexts}

    async def _of_class(
        self, audited: AuditedClass, contexts: Sequence[str], record: RealImages, ledger: Ledger
    ) -> list[Answers]:
        lab, journal = self.bench.context, Journal(self.store, audited.unit)
        metered = MeteredChat(lab.observers, ledger, lab.rates.get("observer", Rate()))
        witness = ContextWitness(
            Witness(RecordedChat(metered, journal, "observer", metered.most), seed=audited.seed),
            MeteredStudio(lab.studio, ledger, lab.dollars_per_image, journal.record_image_charge),
            audited.drawn_as,
            audited.seed,
            audited.per_context,
        )
        own = [row for row, name in enumerate(record.classes) if name == audited.name]
        rows = sorted(random.Random(audited.seed).sample(own, min(self.settings.witnessed, len(own))))
        indices = [record.images[row] for row in rows]
        images = await asyncio.to_thread(real_images.load, self.bench.dataset, indices)
        ordinary = self.generated.ordinary.get(audited.name, ())
        return [await witness.ask(context, ordinary, images, rows, audited.name) for context in contexts]


def cost_warning(rate: Rate, questions: int, limit: float) -> str:
    """Return why so many questions need a person's yes, "" if they do not: their price is above the limit, or
    unknown.
    """
    if not rate.known:
        return f"{questions:,} questions about images would cost an unknown amount"
    tokens = _QUESTION_TOKENS + rate.image_tokens
    dollars = questions * (tokens * rate.prompt + _ANSWER_TOKENS * rate.completion) / 1e6
    return f"{questions:,} questions about images would cost about ${dollars:.2f}" if dollars > limit else ""
