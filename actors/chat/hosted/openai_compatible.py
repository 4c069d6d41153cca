"""A language model behind an endpoint that speaks OpenAI's chat completions.

The body of the answer is read here rather than taken from the client's types: those accept answers
without choices and proxies' pages. A cut-off, filtered, refused or empty answer is an answer.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import structlog

from actors.chat.answers import Completion, read_completion
from actors.chat.base import ChatRequest, Message, PermitRequest, PermittedRequest
from actors.chat.encoding import MessageEncoder
from actors.chat.hosted.adaptive_request import AdaptiveRequest, n_images
from actors.chat.hosted.batches import Batches
from actors.chat.hosted.endpoint_limits import EndpointLimits, TruncationWatch
from actors.chat.hosted.usage import estimate_prompt, read_usage
from actors.chat.reply import ChatReply, Usage
from actors.chat.settings import OpenAIChat
from actors.endpoint.caller import EndpointCaller, Sent
from actors.endpoint.faults import ContentFilteredError, Fault, ThinkingError, try_once
from actors.endpoint.openai_client import classify, connect
from actors.endpoint.prices import TokenPrice
from actors.errors import MaiaError
from actors.serving.backend import Backend, BackendFacts

_MAX_CHARS = 64
"""Characters that a reply may have for each token that it was asked to keep to; longer ones are cut. Real
ones have four."""
_MORE_ROOM = 3
_MIN_ROOM = 4096
"""Tokens of room that a second attempt gets for thoughts: at least these, or `_MORE_ROOM` times the first
limit."""

log = structlog.get_logger(__name__)


class OpenAIBackend(Backend[Any, Any]):
    """One model of one endpoint, for all agents; two agents that ask the same get two opinions."""

    def __init__(
        self, settings: OpenAIChat, *, environ: Mapping[str, str] = os.environ, **collaborators: Any
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
        self._limits, self._watch = EndpointLimits(), TruncationWatch()
        sleep = collaborators.get("sleep", asyncio.sleep)
        self._batches = None if settings.batch is None else Batches(self._connection, settings.batch, sleep)
        self._caller = EndpointCaller(settings, self._secrets, proxy=self._connection.proxy, **collaborators)

    def bypasses_queue(self, request: ChatRequest | PermitRequest | PermittedRequest) -> bool:
        """Return whether a request has a permit: those without one may hold all slots."""
        return isinstance(request, PermittedRequest)

    async def run(self, batch: Sequence[ChatRequest | PermitRequest | PermittedRequest]) -> Sequence[Any]:
        """Return one reply, permit id or typed failure for each request."""
        results: list[ChatReply | str | MaiaError] = []
        for request in batch:  # max_batch is 1; more would still be right, one after the other
            try:
                match request:
                    case PermitRequest():
                        results.append(await self.admit(request))
                    case PermittedRequest():
                        results.append(await self.complete(request.request, request.permit_id))
                    case _:
                        results.append(await self.complete(request))
            except MaiaError as error:
                results.append(error)
        return results

    async def admit(self, size: PermitRequest) -> str:
        """Return the id of a permit to send a request of that size; raises as `EndpointCaller.admit`."""
        n_images = size.images if self._settings.sees_images else 0
        limits = (self._settings.history.max_images, self._limits.max_images)
        n_images = min(n_images, *(limit for limit in limits if limit is not None), n_images)
        return await self._caller.admit(
            size.tokens + n_images * self._settings.image_tokens + size.max_tokens
        )

    async def complete(self, request: ChatRequest, permit_id: str = "") -> ChatReply:
        """Return the reply of the endpoint, at once with a permit.

        An answer that is empty because thinking used the limit is asked for once more, with more room.

        Raises:
            ThinkingError: If that was in vain.
            ImageRejectedError: If the server fails on the only image that the request is about.
        """
        adaptive = self._adaptive(request)
        reply = await self._ask(adaptive, request, permit_id)
        if not _without_room(reply):
            return reply
        used = adaptive.longest
        adaptive = self._adaptive(request)
        adaptive.room += max(_MIN_ROOM, _MORE_ROOM * used)
        again = await self._ask(adaptive, request, "") if adaptive.longest > used else reply
        usage = reply.usage + again.usage if again is not reply else reply.usage
        if _without_room(again):
            raise ThinkingError(
                f"{self._settings.model} used {used:,} and then {adaptive.longest:,} tokens for its "
                "thoughts and gave no answer.",
                "Raise `reasoning_tokens`, or lower `reasoning_effort` (low, none).",
                usage.requests,
                usage.requests,  # answered and billed, and the answer is lost
            )
        self._limits.room = max(self._limits.room, adaptive.room - self._settings.reasoning_tokens)
        note = f"asked again with {adaptive.longest:,} tokens: thinking had used {used:,}"
        return replace(again, usage=usage, notes=(*reply.notes, note, *again.notes))

    def _adaptive(self, request: ChatRequest) -> AdaptiveRequest:
        return AdaptiveRequest(request, self._settings, self._encoder, self._limits, self._alone)

    async def _ask(self, adaptive: AdaptiveRequest, request: ChatRequest, permit_id: str) -> ChatReply:
        settings = self._settings
        prompt = 0

        async def send() -> Sent[Completion]:
            nonlocal prompt
            messages = adaptive.messages()
            prompt = adaptive.tokens(messages)
            completion = await self._send(adaptive.body(messages))
            usage = read_usage(completion.usage, prompt, completion.text, None, 1)
            return Sent(completion, usage.prompt_tokens + usage.completion_tokens)

        expected = adaptive.tokens(adaptive.messages()) + request.max_tokens
        try:
            sent = await self._caller.call(send, expected, classify, permit_id, adaptive.adapt)
        except ContentFilteredError as error:
            nothing = {"prompt_tokens": 0, "completion_tokens": 0}
            usage = read_usage(nothing, 0, "", TokenPrice(), error.attempts)
            return ChatReply(error.message, "filtered", usage, settings.model, notes=tuple(adaptive.notes))
        adaptive.succeeded()
        return self._reply(sent, adaptive, request, prompt)

    def _reply(
        self, sent: Sent[Completion], adaptive: AdaptiveRequest, request: ChatRequest, prompt: int
    ) -> ChatReply:
        settings, answer, redact = self._settings, sent.value, self._secrets.redact
        text, thoughts, finish = redact(answer.text), redact(answer.thoughts), answer.finish
        usage = (
            read_usage(answer.usage, prompt, text + thoughts, settings.known_price, sent.attempts)
            + adaptive.spent
        )
        most = _MAX_CHARS * adaptive.longest
        if len(text) > most:
            # It would be sent back in every later round, and be kept with each.
            text, finish = text[:most], "length"
        notes = [*adaptive.notes, *self._truncation(request, read_usage(answer.usage, prompt, "", None, 1))]
        name = redact(answer.model)[:200] or settings.model
        return ChatReply(text, finish, usage, name, thoughts[:most], tuple(notes))

    def _truncation(self, request: ChatRequest, usage: Usage) -> list[str]:
        """Report once that the server seems to cut conversations, if it does."""
        messages = self._adaptive(request).messages()
        words, images = estimate_prompt(messages, 0), n_images(messages)
        reported = usage.prompt_tokens + usage.cached_tokens
        if usage.estimated or self._limits.context is not None:
            return []
        if not self._watch.saw(request.conversation, words, reported, images):
            return []
        self._limits.context = usage.prompt_tokens
        message = (
            f"the endpoint seems to cut conversations at {usage.prompt_tokens:,} tokens without saying so: "
            f"of this one, with about {words:,} tokens of text, it counted no more. Start the server with a "
            "longer context (Ollama: OLLAMA_CONTEXT_LENGTH or `num_ctx`), or shorten conversations with "
            "`max_rounds` or `history.max_images`."
        )
        log.warning("conversation_cut", host=self._settings.host, model=self._settings.model, why=message)
        return [message]

    async def _send(self, body: dict[str, Any]) -> Completion:
        if self._batches is not None:
            return read_completion(await self._batches.ask(body))
        return await self._send_now(body)

    async def _send_now(self, body: dict[str, Any]) -> Completion:
        # As a further body the client sends all of it untouched. Given as arguments it walks through every
        # part of every message of the conversation, which takes ten times as long as everything else that a
        # call costs.
        raw = await self._connection.client.chat.completions.with_raw_response.create(
            model=self._settings.model, messages=[], extra_body=body, extra_headers=self._connection.headers
        )
        return read_completion(raw.http_response.content)

    async def _alone(self, messages: Sequence[Message]) -> tuple[Fault | None, Usage]:
        """Ask a small question of its own, also where requests go in batches; return how that failed, None if
        it was answered, and what it cost."""
        question = self._adaptive(ChatRequest(tuple(messages), max_tokens=16))
        outcome = await try_once(
            lambda: self._send_now(question.body(messages)), classify, self._settings.attempt_timeout_s
        )
        if isinstance(outcome, Fault):
            return outcome.redacted(self._secrets.redact), Usage(requests=1)
        prompt = question.tokens(messages)
        return None, read_usage(outcome.usage, prompt, "", self._settings.known_price, 1)

    def body(self, request: ChatRequest) -> dict[str, Any]:
        """Return the JSON body that is sent for this request; it holds no secret."""
        adaptive = self._adaptive(request)
        return adaptive.body(adaptive.messages())

    def suggested_settings(self) -> dict[str, Any]:
        """Return the settings that say from the start what the endpoint was found to accept."""
        return self._limits.suggested_settings()

    def describe(self) -> BackendFacts:
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
            "proxy": self._connection.proxy,
            "learned": self._limits.facts(),
            **asdict(self._caller.statistics()),
        }

    async def close(self) -> None:
        self._caller.close()
        if self._batches is not None:
            self._batches.close()
        await self._connection.client.close()

    def __repr__(self) -> str:
        return f"OpenAIBackend({self._settings.model!r} at {self._settings.host})"


def _without_room(reply: ChatReply) -> bool:
    return reply.finish == "length" and not reply.text.strip()
