"""A language model behind an endpoint that speaks OpenAI's chat completions.

The body of the answer is read here rather than taken from the client's types: those accept answers
without choices and proxies' pages. A cut-off, filtered, refused or empty answer is an answer.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from actors.blocking import UnsharedBackend
from actors.chat.base import Admission, Admitted, ChatReply, ChatRequest, FinishReason, Message
from actors.chat.encoding import MessageEncoder, as_utf8
from actors.chat.history import drop_images_in_blocks, without_images
from actors.chat.pricing import estimate_prompt, read_usage
from actors.chat.settings import OpenAIChat
from actors.endpoint.caller import EndpointCaller, Sent
from actors.endpoint.faults import ContentFilteredError, Fault, FaultyAnswerError
from actors.endpoint.openai_client import classify, connect, json_object
from actors.endpoint.prices import TokenPrice
from actors.errors import MaiaError

_OWN_FIELD_HOSTS = ("api.openai.com", ".openai.azure.com", ".services.ai.azure.com")
_MOST_CHARS = 64
"""Characters that a reply may have for each token that it was asked to keep to; longer ones are cut. Real ones have four."""


class OpenAIBackend(UnsharedBackend[Any, Any]):
    """One model of one endpoint, for all agents; two agents that ask the same get two opinions."""

    def __init__(
        self,
        settings: OpenAIChat,
        *,
        environ: Mapping[str, str] = os.environ,
        **collaborators: Any,
    ) -> None:
        """Open the client; nothing is sent. `collaborators` (clock, sleep, random) go to `EndpointCaller`.

        Raises:
            MissingKeyError: If the environment variable of the key is not set.
        """
        self.name = f"openai:{settings.model}"
        self.slots = settings.max_concurrent
        self._settings = settings
        self._connection = connect(settings, environ)
        self._secrets = self._connection.secrets
        self._encoder = MessageEncoder(settings)
        self._caller = EndpointCaller(settings, self._secrets, proxy=self._connection.proxy, **collaborators)

    def beside(self, request: ChatRequest | Admission | Admitted) -> bool:
        """Say whether a request has waited already: it must not wait for the slots of those that wait for its place."""
        return isinstance(request, Admitted)

    async def run(self, batch: Sequence[ChatRequest | Admission | Admitted]) -> Sequence[Any]:
        """Return one reply, leave or typed failure a request."""
        results: list[ChatReply | str | MaiaError] = []
        for request in batch:  # max_batch is 1; more would still be right, one after the other
            try:
                match request:
                    case Admission():
                        results.append(await self.admit(request))
                    case Admitted():
                        results.append(await self.complete(request.request, request.leave))
                    case _:
                        results.append(await self.complete(request))
            except MaiaError as error:
                results.append(error)
        return results

    async def admit(self, size: Admission) -> str:
        """Return leave to send a request of that size; raises as `EndpointCaller.admit`."""
        n_images = size.images if self._settings.sees_images else 0
        if (most := self._settings.history.max_images) is not None:
            n_images = min(n_images, most)
        return await self._caller.admit(
            size.tokens + n_images * self._settings.image_tokens + size.max_tokens
        )

    async def complete(self, request: ChatRequest, leave: str = "") -> ChatReply:
        """Return the reply of the endpoint, at once where there is leave. Raises as `ChatModel.complete` does."""
        settings = self._settings
        body = self.body(request)
        prompt = estimate_prompt(self._history(request), settings.image_tokens)

        create = self._connection.client.chat.completions.with_raw_response.create
        # As a further body the client sends all of it untouched. Given as arguments it walks through every part of
        # every message of the conversation, which takes ten times as long as everything else that a call costs.
        whole = {
            **{name: value for name, value in body.items() if name != "extra_body"},
            **settings.extra_body,
        }

        async def send() -> Sent[dict[str, Any]]:
            raw = await create(
                model=settings.model, messages=[], extra_body=whole, extra_headers=self._connection.headers
            )
            answer = read_answer(raw.http_response.content)
            usage = read_usage(answer.get("usage"), prompt, _text_of(answer)[0], None, 1)
            return Sent(answer, usage.prompt_tokens + usage.completion_tokens)

        try:
            sent = await self._caller.call(send, prompt + request.max_tokens, classify, leave)
        except ContentFilteredError as error:
            nothing = {"prompt_tokens": 0, "completion_tokens": 0}
            usage = read_usage(nothing, 0, "", TokenPrice(), error.attempts)
            return ChatReply(error.message, "filtered", usage, settings.model)
        text, finish = _text_of(sent.value)
        text = self._secrets.redact(text)
        usage = read_usage(sent.value.get("usage"), prompt, text, settings.known_price, sent.attempts)
        if len(text) > (most := _MOST_CHARS * request.max_tokens):
            # It would be sent back in every later round, and be kept with each.
            text, finish = text[:most], "length"
        model = sent.value.get("model")
        name = (
            self._secrets.redact(as_utf8(model))[:200] if isinstance(model, str) and model else settings.model
        )
        return ChatReply(text, finish, usage, name)

    def body(self, request: ChatRequest) -> dict[str, Any]:
        """Return the arguments of the client's `create` for this request; it holds no secret."""
        settings = self._settings
        messages = self._encoder.encode(self._history(request))
        body: dict[str, Any] = {"model": settings.model, "messages": messages}
        if "max_tokens" not in settings.omit:
            body[self._max_tokens_field()] = request.max_tokens + settings.reasoning_tokens
        temperature = settings.temperature if request.temperature is None else request.temperature
        if temperature is not None and "temperature" not in settings.omit:
            body["temperature"] = temperature
        if request.seed is not None and "seed" not in settings.omit:
            body["seed"] = request.seed
        if settings.reasoning_effort is not None:
            body["reasoning_effort"] = settings.reasoning_effort
        if settings.extra_body:
            body["extra_body"] = settings.extra_body
        return body

    def _history(self, request: ChatRequest) -> Sequence[Message]:
        if not self._settings.sees_images:
            return without_images(request.messages)
        history = self._settings.history
        if history.max_images is None:
            return request.messages
        return drop_images_in_blocks(request.messages, history.max_images, history.block)

    def _max_tokens_field(self) -> str:
        field = self._settings.max_tokens_field
        if field != "auto":
            return field
        host = self._settings.host.partition(":")[0]
        return "max_completion_tokens" if host.endswith(_OWN_FIELD_HOSTS) else "max_tokens"

    def describe(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "name": self.name,
            "backend": settings.backend,
            "model": settings.model,
            "base_url": settings.base_url,
            "sees_images": settings.sees_images,
            "image_side": settings.image_side,
            "jpeg_quality": settings.jpeg_quality,
            "detail": settings.detail,
            "priced": settings.known_price is not None,
            **self._caller.statistics(),
        }

    async def close(self) -> None:
        self._caller.close()
        await self._connection.client.close()

    def __repr__(self) -> str:
        return f"OpenAIBackend({self._settings.model!r} at {self._settings.host})"


def read_answer(data: bytes) -> dict[str, Any]:
    """Return the body of a chat completion whose first choice has a message.

    Raises:
        FaultyAnswerError: If it has not.
    """
    body = json_object(data)
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        raise FaultyAnswerError(Fault("garbled", f"choices is {choices!r}", in_doubt=True))
    choice = choices[0]
    if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
        raise FaultyAnswerError(Fault("garbled", "the first choice has no message", in_doubt=True))
    return body


def _text_of(body: dict[str, Any]) -> tuple[str, FinishReason]:
    choice = body["choices"][0]
    message = choice["message"]
    content = message.get("content")
    if isinstance(content, list):  # some endpoints answer in parts
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    text = as_utf8(content) if isinstance(content, str) else ""
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal:
        return text or as_utf8(refusal), "refused"
    match choice.get("finish_reason"):
        case "length" | "max_tokens" | "model_length":
            return text, "length"
        case "content_filter":
            return text, "filtered"
        case _:
            return text, "stop"
