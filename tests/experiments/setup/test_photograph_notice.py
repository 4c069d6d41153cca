"""Before the work starts it is said how much of a user's photographs the embedded observers recognize."""

from __future__ import annotations

import numpy as np

from actors.chat.base import ChatRequest
from actors.chat.reply import ChatReply
from actors.chat.tasks import DRAWN, PHOTOGRAPH, UNKNOWN_PHOTOGRAPH, ClassifyMediumTask
from actors.images import Image, Provenance
from experiments.setup.photograph_notice import of_dataset


class Observer:
    """Gives its answers in turn, again and again; each request must be one image in a conversation of its
    own.
    """

    name, sees_images = "observer", True

    def __init__(self, *answers: str) -> None:
        self._answers = answers
        self.asked = 0

    async def complete(self, request: ChatRequest) -> ChatReply:
        assert request.task == ClassifyMediumTask()
        assert sum(len(message.images) for message in request.messages) == 1
        self.asked += 1
        return ChatReply(self._answers[self.asked % len(self._answers)])


class Pictures:
    """A data set of 100 images of a pixel each."""

    name = fingerprint = "pictures"

    def __len__(self) -> int:
        return 100

    def load(self, index: int) -> Image:
        return Image.from_pixels(np.full((1, 1, 3), index, np.uint8))

    def provenance(self, index: int) -> Provenance:
        return Provenance("dataset", maker=self.name, recipe={"row": index})


async def test_the_notice_counts_recognized_photographs_and_gives_advice() -> None:
    observer = Observer(UNKNOWN_PHOTOGRAPH, PHOTOGRAPH)
    notice = await of_dataset(observer, Pictures())
    assert notice.startswith("the embedded observers recognize 7 of 14 images from across the data set")
    assert "maia init" in notice
    assert observer.asked == 14


async def test_drawn_images_are_no_reason_for_a_warning() -> None:
    assert await of_dataset(Observer(DRAWN), Pictures()) == ""
