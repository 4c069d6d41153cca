"""The built-in models as one backend for the replica machinery: rules in one thread, no weights but the
net's.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from actors.chat.base import ChatRequest
from actors.chat.reply import ChatReply
from actors.chat.settings import BuiltinChat
from actors.embedded.language.words import embedded_words
from actors.embedded.observer.eyes import NetEyes
from actors.embedded.observer.observer import Observer
from actors.embedded.photographs.classifier import Classifier
from actors.embedded.scientist.scientist import Scientist
from actors.errors import MaiaError
from actors.images import Image
from actors.serving.blocking import BlockingBackend

OBSERVER_BATCH = 32
"""Conversations that one pass of the concept net answers; descriptions have one image each."""


class BuiltinBackend(BlockingBackend[ChatRequest, ChatReply]):
    """The scientist or the observer, as the settings say. Equal conversations are answered once."""

    def __init__(self, settings: BuiltinChat, classifier: Classifier | None = None) -> None:
        """`classifier` sees photographs; without one all images are taken for drawn."""
        facts = {"photographs": classifier.name if classifier else ""}
        lacking = settings.withheld.concepts()
        words = embedded_words(lacking)
        self._eyes = eyes = NetEyes(classifier=classifier, lacking=lacking)
        self.sees_images = True
        if settings.model == "observer":
            super().__init__(
                "builtin:observer",
                Observer(words, eyes).answer_all,
                max_batch=OBSERVER_BATCH,
                key=_same_work,
                facts=facts,
            )
            return
        scientist = Scientist(words, eyes)

        def run_batch(batch: Sequence[ChatRequest]) -> list[ChatReply | MaiaError]:
            return [scientist.reply(request) for request in batch]

        super().__init__("builtin:scientist", run_batch, key=_same_work)

    def prepare(self) -> None:
        self._eyes.prepare()


def _same_work(request: ChatRequest) -> Hashable:
    """Both models are functions of the task, the messages and the seed alone."""
    return (
        request.task,
        request.seed,
        tuple(
            (message.role, tuple(part.id if isinstance(part, Image) else part for part in message.parts))
            for message in request.messages
        ),
    )
