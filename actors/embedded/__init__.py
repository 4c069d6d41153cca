"""Stand-ins for language models that need no weights, key or network: a scientist and a blind observer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actors.chat.base import ChatReply, ChatRequest
    from actors.serving.backend import Backend


def build(model: str) -> Backend[ChatRequest, ChatReply]:
    """Return the backend of "scientist" or "observer".

    Raises:
        UsageError: If there is no built-in model of that name.
    """
    from actors.chat.settings import BuiltinChat
    from actors.embedded.chat_model import BuiltinBackend
    from actors.errors import UsageError

    if model not in ("scientist", "observer"):
        raise UsageError(f"there is no built-in model {model!r}.", "Choose scientist or observer.")
    return BuiltinBackend(BuiltinChat.model_validate({"model": model}))
