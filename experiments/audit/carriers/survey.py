"""The images of each bias of an audit, generated as for its findings or drawn from the data set, and their
carriers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from actors.errors import MaiaError
from actors.images import Image
from actors.vision.client import PoolVisionClient
from actors.vision.readout.edits import Edit
from actors.vision.readout.units import OUTPUT, Readout, parse_readout
from agents.critic.stimuli import lacks_something
from agents.records.journal import Journal
from agents.records.lease import worked_s
from agents.records.store import Store
from agents.study.budget import Ledger, spent_so_far
from agents.study.metered import MeteredStudio
from experiments.audit import real_images
from experiments.audit.carriers.measure import BiasImages, carriers_of
from experiments.audit.carriers.record import KEY, CarrierSection
from experiments.audit.context_survey import ContextEffect, judge, prompt_of, seed_of
from experiments.audit.real.survey import AuditedClass, Generated
from experiments.audit.subgroups import Groups
from experiments.setup.console import Console, counted
from tools.toolbox import Studio

if TYPE_CHECKING:
    from experiments.setup.workbench import Workbench

PER_SIDE = 24
"""Images of a bias at most in its context, and as many in ordinary ones."""


async def readout_of(vision: PoolVisionClient, text: str) -> Readout:
    """Return the units that `LAYER`, `LAYER:latent:PATH` or `LAYER:direction:FILE` names, checked.

    Raises:
        UsageError: If there are none, or they cannot be edited in front of the outputs.
    """
    readout = Readout.of(await vision.unit(parse_readout(text)))
    image = Image.from_pixels(np.zeros((64, 64, 3), np.uint8))
    await vision.outputs(Readout(OUTPUT, "logit"), [image], (Edit(readout, 0, "set", 0.0),))
    return readout


@dataclass(frozen=True)
class CarrierSurvey:
    """The biases that an audit has found, on generated images and on real ones, and the `layer` whose units
    may carry them.
    """

    console: Console
    store: Store
    bench: Workbench
    layer: str
    classes: Sequence[AuditedClass]
    generated: Generated

    async def run(self) -> None:
        """Ablate the layer's units on images of each bias, and write `carriers.json`.

        Raises:
            MaiaError: If the network cannot be asked, or no image can be made. What was measured is kept.
        """
        readout = await readout_of(self.bench.vision, self.layer)
        biases = [*await self._generated(), *await self._real()]
        found = []
        for bias in biases:
            name = f"carriers of {bias.class_name}, {bias.context}"
            with self.console.progress(name) as progress:
                found.append(await carriers_of(self.bench.vision, readout, bias, self.store, progress))
        section = CarrierSection(self.layer, [item.unit for item in self.classes], found)
        self.store.replace_json(KEY, section)

    async def _generated(self) -> list[BiasImages]:
        biased = [effect for effect in self.generated.effects if effect.biased]
        if not biased:
            return []
        self.console.say(
            f"making images of {counted(len(biased), 'finding')} again, up to {2 * PER_SIDE} of each"
        )
        lab = self.bench.context
        before = await asyncio.to_thread(spent_so_far, self.store, problems=[])
        ledger = Ledger(self.bench.profile.sweep.budget, before, elapsed_s=lambda: worked_s(self.store))
        classes = {item.name: item for item in self.classes}
        found = []
        for effect in biased:
            audited = classes[effect.class_name]
            record = Journal(self.store, audited.unit).record_image_charge
            studio = MeteredStudio(lab.studio, ledger, lab.dollars_per_image, record)
            ordinary = [each for each in self.generated.ordinary[audited.name] if each != effect.context]
            inside = await images_of(studio, audited, [effect.context], "fresh")
            rest = await images_of(studio, audited, ordinary or [effect.context], "rest")
            found.append(BiasImages(audited.name, effect.context, "generated", audited.index, inside, rest))
        return found

    async def _real(self) -> list[BiasImages]:
        """Return the biases of real images: associations with an attribute, which the other images of the
        class are without.
        """
        record = real_images.read(self.store)
        if record is None:
            return []
        table = Groups.of(record)
        effects: list[ContextEffect] = judge(table.surveys()) if table.groups else []
        indices = {item.name: item.index for item in self.classes}
        found = []
        for effect in effects:
            if not effect.biased:
                continue
            inside, ordinary = _rows(table.groups, effect)
            rng = np.random.default_rng((record.seed, 97))
            sides = []
            for rows in (inside, ordinary):
                chosen = rng.permutation(rows)[:PER_SIDE]
                places = [record.images[row] for row in chosen.tolist()]
                loaded = await asyncio.to_thread(real_images.load, self.bench.dataset, places)
                sides.append([image for image in loaded if image is not None])
            found.append(
                BiasImages(effect.class_name, effect.context, "real", indices[effect.class_name], *sides)
            )
        return found


def _rows(
    groups: Mapping[tuple[str, str, str], np.ndarray], effect: ContextEffect
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of images with the attribute's value that an association is about, and without."""
    own = [
        (f"{attribute} = {level}" == effect.context, attribute, rows)
        for (name, attribute, level), rows in groups.items()
        if name == effect.class_name
    ]
    (attribute,) = {attribute for is_it, attribute, _ in own if is_it}
    inside, ordinary = (
        [rows for is_it, of, rows in own if of == attribute and is_it == wanted] for wanted in (True, False)
    )
    nothing = np.zeros(0, np.int64)
    return np.concatenate([nothing, *inside]), np.concatenate([nothing, *ordinary])


async def images_of(
    studio: Studio, audited: AuditedClass, contexts: Sequence[str], purpose: str
) -> list[Image]:
    """Return images of a class in contexts by turns, those that the audit made for a purpose; what lacks
    something is left out.
    """
    asked = [(contexts[place % len(contexts)], place // len(contexts)) for place in range(PER_SIDE)]
    prompts = [prompt_of(context, audited.drawn_as) for context, _ in asked]
    seeds = [
        seed_of(audited.seed, purpose, prompt, number)
        for prompt, (_, number) in zip(prompts, asked, strict=True)
    ]
    made = await studio.generate(prompts, seeds, agent=audited.unit)
    return [image.image for image in made if not isinstance(image, MaiaError) and not lacks_something(image)]
