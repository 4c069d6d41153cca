"""What the embedded observers make of photographs, told before the work starts: their words are few."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from actors.chat.base import ChatModel
from actors.embedded.observer.photographs import is_of_nothing, is_of_photograph
from actors.grouping import all_of
from actors.images import Image, ImageDecodeError
from actors.vision.data.folder import spread
from actors.vision.readout.base import ImageDataset
from agents.study.observers import BlindObservers
from tools.subject import Subject
from tools.toolbox import EXEMPLARS

SAMPLE = 14
"""Images of a data set that are looked at."""


async def of_dataset(observers: ChatModel, dataset: ImageDataset) -> str:
    """Return what is to be known of the data set's photographs, "" if most of its images are drawn."""
    images = await asyncio.to_thread(_sample, dataset)
    known, photographs = await _recognised(observers, images)
    if 2 * photographs <= len(images):
        return ""
    return (
        f"the embedded observers recognise {known} of {len(images)} images from across the data set, mostly "
        "photographs: a label can only be made of the names of ImageNet's thousand classes and of their "
        "kinds, and the embedded image maker draws nothing that could test it. For labels in free words, "
        "use a profile with a vision-language model and an image model (`maia init` writes one)"
    )


async def of_unit(observers: ChatModel, subject: Subject) -> str:
    """Return in how many of a unit's strongest images the embedded observers recognise something, in a
    sentence.
    """
    images = [each.image for each in await subject.exemplars(EXEMPLARS)]
    known, photographs = await _recognised(observers, images)
    return (
        f"of the unit's {len(images)} strongest images {photographs} are photographs; the embedded observers "
        f"recognise something in {known} of these"
    )


async def _recognised(observers: ChatModel, images: Sequence[Image]) -> tuple[int, int]:
    """Return how many of the images are photographs in which something is recognised, and how many are
    photographs.
    """
    eyes = BlindObservers(observers)
    told = [each for each in await all_of(eyes.look(image) for image in images) if is_of_photograph(each)]
    return sum(not is_of_nothing(each) for each in told), len(told)


def _sample(dataset: ImageDataset) -> list[Image]:
    found = []
    for place in spread(len(dataset), SAMPLE):
        try:
            found.append(dataset.load(place))
        except ImageDecodeError:
            continue  # counted and named by the search for exemplars
    return found
