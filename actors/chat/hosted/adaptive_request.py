"""One request to an endpoint: what is sent, and how the server's refusals change it.

Endpoints differ in what they accept: fields, roles, images, lengths. None of it can be queried beforehand,
and all of it is named when it is refused. A refusal changes this request, and is remembered for those that
follow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from actors.chat.base import ChatRequest, Message
from actors.chat.encoding import MessageEncoder
from actors.chat.history import drop_images_in_blocks, fold_system, keep_images, leave_out, without_images
from actors.chat.hosted.endpoint_limits import EndpointLimits
from actors.chat.hosted.usage import estimate_prompt
from actors.chat.reply import Usage
from actors.chat.settings import OpenAIChat
from actors.endpoint.faults import Fault, ImageRejectedError
from actors.endpoint.fields import named_fields, named_token_limit

BAD_IMAGE = "[image left out: the model's server fails on it]"
_OWN_FIELD_HOSTS = ("api.openai.com", ".openai.azure.com", ".services.ai.azure.com")
_NO_SYSTEM = re.compile(
    r"system[ _]?(role|message|prompt|instruction)?s?\b[^.;]{0,40}(not supported|unsupported|not allowed|"
    r"isn't|not enabled|cannot|invalid)|(not|n't) support[^.;]{0,20}system|system\W+messages? (is|are) not|"
    r"incompatible with system|developer instruction is not enabled|"
    r"roles must alternate|only (the )?['\"]?user['\"]? and ['\"]?assistant|"
    r"should be ['\"]?user['\"]? or ['\"]?assistant|first message[^.;]{0,30}user|"
    r"(unsupported|unknown|invalid|unexpected) (role|value):?[^.;]{0,10}system",
    re.I,
)
_STREAM_ONLY = re.compile(
    r"only supports? (the )?stream|stream(ing)?( mode)? (is )?required|stream[^.;]{0,20}must be (set to "
    r")?true|enable the stream|"
    r"streaming is (strongly )?(required|recommended)|"
    r"(?<!use )non-?stream\w*|only stream|requires? \W?stream|"
    r"stream\W*false\W[^.;]{0,20}not supported|stream\W? does not support false",
    re.I,
)
_NUMBER = r"(\d[\d,]{2,})"
_CONTEXT = re.compile(
    rf"(?:context (?:length|window|size|limit)|maximum (?:model |prompt |input )?length|limit|maximum|"
    rf"n_ctx|available|max_\w+|max size|less than)\D{{0,40}}{_NUMBER}|> {_NUMBER} max",
    re.I,
)
_SENT = re.compile(
    rf"{_NUMBER} (?:input )?tokens? (?:in the messages|>|from the input)|(?:has|contains(?: at least)?|"
    rf"resulted in|requested:?|request \(|input \(|length \(?|current length is|given:?|tokens \(|"
    rf"count(?: of)? \(?)\s*{_NUMBER}\b(?! output)|too long: {_NUMBER}|{_NUMBER} \+ \d+ >",
    re.I,
)
_SUM = re.compile(r"(\d+) \+ \d+ > (\d+)")
_MAX_ALONE = 40
"""Images that are tried one by one, to find those that a server fails on."""

Alone = Callable[[Sequence[Message]], Awaitable[tuple[Fault | None, Usage]]]
"""Asks a small question of its own; returns how that failed, None if it was answered, and what it cost."""

log = structlog.get_logger(__name__)


class AdaptiveRequest:
    """A request as shaped by the settings, the endpoint's limits, and its answers so far."""

    def __init__(
        self,
        request: ChatRequest,
        settings: OpenAIChat,
        encoder: MessageEncoder,
        limits: EndpointLimits,
        alone: Alone,
    ) -> None:
        self._request, self._settings, self._encoder = request, settings, encoder
        self._limits, self._alone = limits, alone
        self.notes: list[str] = []
        """What the request goes without, for the record of its answer."""
        self.spent = Usage()
        """The usage of the questions that were asked to find out what the server refuses."""
        self.room = settings.reasoning_tokens + limits.room
        self._max_prompt_tokens, self._max_prompt_bytes = limits.max_prompt_tokens, limits.max_prompt_bytes
        self._longest: int | None = None
        self._server_errors = 0
        self._version = limits.version
        """What was known when the request was last sent."""
        # A question about an image means nothing without it; a conversation goes on.
        self._min_images = 0 if any(message.role == "assistant" for message in request.messages) else 1

    @property
    def longest(self) -> int:
        """Tokens that the answer and its thoughts may have together."""
        limits = (self._request.max_tokens + self.room, self._limits.longest_answer, self._longest)
        return max(1, min(limit for limit in limits if limit is not None))

    def messages(self) -> tuple[Message, ...]:
        """Return the conversation as it is sent."""
        settings, limits = self._settings, self._limits
        messages: Sequence[Message] = self._request.messages
        if not settings.sees_images:
            messages = without_images(messages)
        if limits.bad_images:
            messages = leave_out(messages, limits.bad_images, BAD_IMAGE)
        if (most := settings.history.max_images) is not None:
            messages = drop_images_in_blocks(messages, most, settings.history.block)
        if limits.max_images is not None:
            messages = keep_images(messages, limits.max_images)
        messages = self._within(messages)
        if settings.system == "fold" or (settings.system == "auto" and limits.fold_system):
            messages = fold_system(messages)
        return tuple(messages)

    def _within(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Leave out old images until the conversation fits what was found to be the most."""
        while (images := n_images(messages)) > self._min_images and not self._fits(messages):
            messages = keep_images(messages, min(images - 1, math.floor(images * 0.9)))
        return messages

    def _fits(self, messages: Sequence[Message]) -> bool:
        if self._max_prompt_tokens is not None and self.tokens(messages) > self._max_prompt_tokens:
            return False
        return self._max_prompt_bytes is None or self._encoder.bytes(messages) <= self._max_prompt_bytes

    def tokens(self, messages: Sequence[Message]) -> int:
        """Return about how many tokens the messages are."""
        return estimate_prompt(messages, self._settings.image_tokens)

    def body(self, messages: Sequence[Message]) -> dict[str, Any]:
        """Return the JSON body of the request; it holds no secret."""
        settings, request, refused = self._settings, self._request, self._limits.refused
        self._version = self._limits.version
        encoded = self._encoder.encode(
            messages, detail="detail" not in refused, marks="cache_control" not in refused
        )
        body: dict[str, Any] = {"model": settings.model, "messages": encoded}
        fields: dict[str, Any] = {
            self._max_tokens_field(): None if "max_tokens" in settings.omit else self.longest,
            "temperature": settings.temperature if request.temperature is None else request.temperature,
            "seed": request.seed,
            "reasoning_effort": settings.reasoning_effort,
            "service_tier": settings.service_tier,
        }
        if (settings.stream or self._limits.stream) and settings.batch is None:
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        dropped = {*settings.omit, *refused}
        body |= {name: value for name, value in fields.items() if value is not None and name not in dropped}
        return {**body, **settings.extra_body}

    def _max_tokens_field(self) -> str:
        if self._limits.max_tokens_field is not None:
            return self._limits.max_tokens_field
        field = self._settings.max_tokens_field
        if field != "auto":
            return field
        host = self._settings.host.partition(":")[0]
        return "max_completion_tokens" if host.endswith(_OWN_FIELD_HOSTS) else "max_tokens"

    def succeeded(self) -> None:
        """Remember what the answered request has shown to fit."""
        messages = self.messages()
        self._limits.accept(_image_ids(messages))
        if self._max_prompt_tokens is not None:
            self._limits.max_prompt_tokens = self._max_prompt_tokens
        if self._max_prompt_bytes is not None:
            self._limits.max_prompt_bytes = self._max_prompt_bytes

    async def adapt(self, fault: Fault) -> bool:
        """Change the request by what a fault says; return whether there was something to change.

        Raises:
            ImageRejectedError: If nothing would be left to be asked about.
        """
        limits = self._limits
        if limits.version != self._version and fault.kind in ("too_many_images", "too_long", "rejected"):
            return True  # another request was refused meanwhile: this one is now sent as it should have been
        if fault.kind == "too_many_images":
            return self._fewer_images(fault)
        if fault.kind == "too_long":
            return self._shorter(fault)
        if fault.kind not in ("rejected", "overloaded") or fault.status >= 502:
            return False
        words = fault.body.plain
        has_system = self._request.messages[0].role == "system"
        if (
            has_system
            and self._settings.system == "auto"
            and not limits.fold_system
            and _NO_SYSTEM.search(words)
        ):
            limits.fold_system = True
            return self._changed(
                "the system message is put in front of the first user message", fault, "system: fold"
            )
        if not limits.stream and not self._settings.stream and _STREAM_ONLY.search(words):
            limits.stream = True
            return self._changed("the answer is streamed", fault, "stream: true")
        if fault.about_an_image:
            return await self._without_bad_images(fault)
        if fault.status == 500:
            self._server_errors += 1
            return self._server_errors == 2 and await self._without_bad_images(fault)
        return self._other_fields(fault)

    def _changed(self, what: str, fault: Fault, setting: str) -> bool:
        self._limits.version += 1
        self.notes.append(f"{what} ({fault.detail})")
        log.warning(
            "endpoint_adapted",
            host=self._settings.host,
            model=self._settings.model,
            change=what,
            said=fault.detail,
            setting=setting,
        )
        return True

    def _fewer_images(self, fault: Fault) -> bool:
        sent = n_images(self.messages())
        if sent <= 1:
            return False
        named = fault.image_limit
        most = named if named is not None and 0 < named < sent else sent // 2
        self._limits.max_images = most
        what = f"old images are left out: {sent} are more than the endpoint takes, {most} are sent"
        return self._changed(what, fault, f"history.max_images: {most}")

    def _shorter(self, fault: Fault) -> bool:
        """Ask for a shorter answer if the prompt fits without it, else leave out old images."""
        messages = self.messages()
        if fault.status == 413 and not fault.body.plain.count("token"):
            if n_images(messages) <= self._min_images:
                return False
            size = self._encoder.bytes(messages)
            self._max_prompt_bytes = int(size * 0.6)
            return self._changed(
                f"old images are left out: {size:,} bytes were too many", fault, "history.max_images"
            )
        context, prompt = context_and_prompt(fault)
        if context and prompt and prompt + 64 < context and context - prompt - 16 < self.longest:
            left = context - prompt - 16
            if left >= min(256, self._request.max_tokens):
                self._longest = left
                return self._changed(f"the answer may have {left} tokens", fault, "max_tokens")
        if n_images(messages) <= self._min_images:
            return False
        tokens = self.tokens(messages)
        ratio = 0.95 * context / prompt if context and prompt and prompt > context else 0.5
        self._max_prompt_tokens = int(tokens * min(0.95, ratio))
        return self._changed(
            "old images are left out: the conversation is too long", fault, "history.max_images"
        )

    async def _without_bad_images(self, fault: Fault) -> bool:
        """Find the images that the server fails on alone, and leave them out."""
        limits, messages = self._limits, self.messages()
        images = {image.id: image for message in messages for image in message.images}
        candidates = [images[image_id] for image_id in images if image_id in limits.unproven(set(images))]
        if not candidates or len(candidates) > _MAX_ALONE:
            return False
        if fault.status >= 500 and await self._fails(Message("user", ("Answer with: yes",))):
            return False  # the server fails on everything
        bad: dict[str, str] = {}
        for image in candidates:
            failed = await self._fails(Message("user", ("What is this? Answer with one word.", image)))
            if failed is None:
                limits.accept({image.id})
            elif failed.about_an_image or failed.status == 500:
                bad[image.id] = failed.detail
        if not bad:
            return False
        limits.bad_images |= bad
        limits.version += 1
        sizes = ", ".join(f"{i.id[:8]} ({i.size[1]}x{i.size[0]} px)" for i in candidates if i.id in bad)
        if len(images) - len(bad) < self._min_images:
            raise ImageRejectedError(
                f"the endpoint {self._settings.host} fails on the image {sizes} ({fault.detail}).",
                "Raise `image_least_side`, or lower `image_side`, `image_pixels` or `image_max_aspect`.",
                1,
            )
        return self._changed(
            f"left out, since the server fails on it alone: image {sizes}", fault, "image_least_side"
        )

    async def _fails(self, message: Message) -> Fault | None:
        fault, usage = await self._alone([message])
        self.spent += usage
        return fault

    def _other_fields(self, fault: Fault) -> bool:
        """Rename, limit or leave out the optional field that a complaint names."""
        limits, body = self._limits, self.body(())
        limit_field = self._max_tokens_field()
        named = named_fields(fault.body)
        if named & {"max_tokens", "max_completion_tokens"} and limit_field in body:
            most = named_token_limit(fault.body)
            if most is not None and most < self.longest and "unsupported_parameter" not in fault.body.codes:
                limits.longest_answer = most
                return self._changed(f"the answer may have {most} tokens at most", fault, "max_tokens")
            if limits.max_tokens_field is None:
                other = {"max_tokens": "max_completion_tokens"}.get(limit_field, "max_tokens")
                limits.max_tokens_field = other
                return self._changed(f"the limit is sent as {other}", fault, f"max_tokens_field: {other}")
            named |= {limit_field}
        optional = {"detail"} if self._settings.detail is not None else set()
        optional |= {"cache_control"} if self._settings.cache_breakpoints else set()
        droppable = (set(body) | optional) - set(self._settings.extra_body) - set(limits.refused) - {"stream"}
        dropped = sorted(named & droppable)
        limits.refused |= dict.fromkeys(dropped, fault.detail)
        return bool(dropped) and self._changed(f"sent without {', '.join(dropped)}", fault, "omit")


def n_images(messages: Sequence[Message]) -> int:
    return sum(len(message.images) for message in messages)


def _image_ids(messages: Sequence[Message]) -> set[str]:
    return {image.id for message in messages for image in message.images}


def context_and_prompt(fault: Fault) -> tuple[int | None, int | None]:
    """Return the tokens that a model takes and those of the prompt, as far as a server names them."""
    words, values = fault.body.plain, fault.body.values
    if (both := _SUM.search(words)) is not None:
        return int(both.group(2)), int(both.group(1))
    context = _first_number(_CONTEXT, words) or _whole(values.get("n_ctx"))
    prompt = _first_number(_SENT, words) or _whole(values.get("n_prompt_tokens"))
    return context, prompt


def _first_number(pattern: re.Pattern[str], words: str) -> int | None:
    match = pattern.search(words)
    digits = next((group for group in match.groups() if group), None) if match else None
    return _whole(digits.replace(",", "")) if digits else None


def _whole(value: str | None) -> int | None:
    return int(value) if value is not None and value.isdigit() else None
