"""What the embedded observers make of photographs, shown before the work starts: their words are few."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from actors.chat.base import ChatModel, ChatRequest, Message
from actors.chat.tasks import MEDIA, PHOTOGRAPH, UNKNOWN_PHOTOGRAPH, ClassifyMediumTask
from actors.grouping import all_of
from actors.images import Image, ImageDecodeError
from actors.vision.data.folder import evenly_spaced
from actors.vision.readout.base import ImageDataset
from tools.subject import Subject
from tools.toolbox import EXEMPLARS

SAMPLE = 14
"""Images of a data set that are classified."""


async def of_dataset(observers: ChatModel, dataset: ImageDataset) -> str:
    """Return what is to be known of the data set's photographs, "" if most of its images are drawn."""
    images = await asyncio.to_thread(_sample, dataset)
    known, photographs = await _recognized(observers, images)
    if 2 * photographs <= len(images):
        return ""
    return (
        f"the embedded observers recognize {known} of {len(images)} images from across the data set, mostly "
        "photographs: a label can only be made of the names of ImageNet's thousand classes and of their "
        "kinds. The embedded image maker draws scenes: where these do not reach what your images do, a label "
        "is tested on held-out images of yours alone. For labels in free words, use a profile with a "
        "vision-language model and an image model (`maia init` writes one)"
    )


async def of_unit(observers: ChatModel, subject: Subject) -> str:
    """Return in how many of a unit's strongest images the embedded observers recognize something, in a
    sentence.
    """
    images = [exemplar.image for exemplar in await subject.exemplars(EXEMPLARS)]
    known, photographs = await _recognized(observers, images)
    return (
        f"of the unit's {len(images)} strongest images {photographs} are photographs; the embedded observers "
        f"recognize something in {known} of these"
    )


async def _recognized(observers: ChatModel, images: Sequence[Image]) -> tuple[int, int]:
    """Return how many of the images are photographs in which something is recognized, and how many are
    photographs.
    """
    question = f"Which of these is the image: {', '.join(MEDIA)}? Answer with nothing else."

    async def medium(image: Image) -> str:
        message = Message("user", (question, image))
        request = ChatRequest((message,), "observer", max_tokens=16, task=ClassifyMediumTask())
        return (await observers.complete(request)).text

    media = await all_of(map(medium, images))
    recognized = media.count(PHOTOGRAPH)
    return recognized, recognized + media.count(UNKNOWN_PHOTOGRAPH)


def _sample(dataset: ImageDataset) -> list[Image]:
    images = []
    for place in evenly_spaced(len(dataset), SAMPLE):
        try:
            images.append(dataset.load(place))
        except ImageDecodeError:
            continue  # counted and named by the search for exemplars
    return images
