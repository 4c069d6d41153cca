"""Measures a unit's role: what it does to its network's outputs, on its exemplars and on a label's images.

All passes of a unit are asked for at the same time, so that they share batches with each other and with those
of other units; edited rows of one image pass once up to the unit's layer.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from actors.errors import MaiaError, UsageError
from actors.grouping import all_of
from actors.images import Image
from agents.evidence.effects import LEAST_IMAGES
from agents.evidence.evidence_record import EvidenceRecord
from agents.evidence.role import (
    RandomChanges,
    Role,
    faithfulness,
    random_changes,
    recognition,
    role,
)
from agents.records.record_types import FailureReason, RoleRecord
from agents.study.settings import MOST_CONTROLS, RoleSettings
from tools.subject import Ablatable, Subject
from tools.toolbox import EXEMPLARS

_log = logging.getLogger(__name__)

PLACEBOS = 2
"""Images that pass with the unit given its own value."""
_AT_ONCE = 16
"""Units whose images are in memory and on their way at a time."""


class NoRoleError(MaiaError):
    """A unit of which no role can be measured."""


@dataclass(frozen=True, slots=True)
class RoleImages:
    """The images that a role is measured on. `classes` are outputs that exemplars belong to, None where that
    is unknown.
    """

    exemplars: Sequence[Image]
    with_label: Sequence[Image] = ()
    without: Sequence[Image] = ()
    classes: Sequence[int | None] = ()


async def measure_role(unit: Ablatable, images: RoleImages, settings: RoleSettings) -> Role:
    """Return what a unit does to its network's outputs.

    Raises:
        NoRoleError: If fewer than three images drive it, or its network's outputs on them are not finite.
        UsageError: If nothing that could be compared is computed from the unit, or it cannot be edited.
    """
    outputs = await unit.named_outputs()
    names = outputs.names
    if len(images.exemplars) < LEAST_IMAGES:
        raise NoRoleError(f"only {len(images.exemplars)} images drive it, {LEAST_IMAGES} are needed.")
    everything = [*images.exemplars, *images.with_label, *images.without]
    edit = unit.ablation
    some = images.exemplars[: settings.control_images]
    clean, ablated, placebo, controls = await all_of(
        (
            unit.outputs(everything),
            unit.outputs(everything, (edit,)),
            unit.outputs(images.exemplars[:PLACEBOS], (edit.placebo,)),
            _controls(unit, some, settings.controls),
        )
    )
    if not (np.isfinite(clean).all() and np.isfinite(ablated).all()):
        raise NoRoleError("the network's outputs are not finite on its images.")
    n, m = len(images.exemplars), len(images.exemplars) + len(images.with_label)
    same = clean[:n].copy()
    same[:PLACEBOS] = placebo
    found = role(clean[:n], ablated[:n], same, names, named=bool(names), centered=outputs.softmax)
    if found is None:
        raise NoRoleError("the network has a single output, which can be compared with none.")
    with_label, without = (clean[n:m], ablated[n:m]), (clean[m:], ablated[m:])
    random = random_changes(clean[: len(some)], ablated[: len(some)], controls, found)
    return replace(
        found,
        random=random,
        faithful=faithfulness(with_label, without, found),
        recognition=recognition(clean[:n], ablated[:n], images.classes) if found.named else None,
        edited=len(everything) + len(placebo) + _passed(random),
    )


def _passed(random: RandomChanges | None) -> int:
    return 0 if random is None else random.n * random.images


async def _controls(unit: Ablatable, images: Sequence[Image], count: int) -> np.ndarray:
    """Return the outputs after random changes, float32 (controls, images, outputs)."""
    if not count:
        return np.empty((0, len(images), 0), np.float32)
    first = unit.ablation.index * MOST_CONTROLS  # directions of its own: those of many units are pooled
    edits = [(unit.ablation.control(first + number),) for number in range(count)]
    # Image by image: what a batch has of one image passes once up to the unit's layer.
    asked = [unit.outputs([image], edit) for image in images for edit in edits]
    outputs = np.concatenate(await all_of(asked))
    return outputs.reshape(len(images), count, -1).swapaxes(0, 1)


class RoleFinder:
    """Measures roles at the end of studies, a few at a time. Whatever fails costs the role only."""

    def __init__(self, settings: RoleSettings) -> None:
        self._settings = settings
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def find(
        self, subject: Subject, evidence: EvidenceRecord | None, picture: Callable[[str], Image]
    ) -> RoleRecord:
        """Return the record of a subject's role. `evidence` is that of its labels, and `picture` returns an
        image that it names.
        """
        if not isinstance(subject, Ablatable):
            return RoleRecord(status="none", reason="it is no part of a network that could be taken out.")
        try:
            async with self._places:
                found = await self._measured(subject, subject, evidence, picture)
        except (NoRoleError, UsageError) as none:
            return RoleRecord(status="none", reason=none.message)
        except Exception as error:
            _log.warning("the role of %s could not be measured", subject.id, exc_info=True)
            return RoleRecord(status="failed", error=FailureReason.of(error))
        return RoleRecord(status="known", found=json.loads(json.dumps(asdict(found))))

    async def _measured(
        self,
        subject: Subject,
        unit: Ablatable,
        evidence: EvidenceRecord | None,
        picture: Callable[[str], Image],
    ) -> Role:
        await unit.named_outputs()  # before any image is loaded
        exemplars = [each.image for each in await subject.exemplars(EXEMPLARS)]
        images = RoleImages(exemplars, classes=await unit.exemplar_classes(EXEMPLARS))
        if evidence is not None and evidence.kind == "confirmation":
            trials, most = (evidence.positives, evidence.controls), self._settings.label_images
            ids = [[each.image for each in group[:most]] for group in trials]
            with_label, without = await asyncio.to_thread(lambda: [[*map(picture, names)] for names in ids])
            images = replace(images, with_label=with_label, without=without)
        return await measure_role(unit, images, self._settings)
