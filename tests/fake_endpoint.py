"""A real HTTP server on loopback that speaks chat completions, for tests and for trying things by hand.

Its replies are scripted by a function that sees the parsed request; it checks what it is given, bills
each request that it works on, simulates a provider's prefix cache, and can fail in the ways that real
endpoints fail. It runs in a thread of its own, so that async tests, sync tests and other processes can
use it alike. By hand: `python -m tests.fake_endpoint --port 8099`.

Other endpoints (images, say) are added as routes: `FakeEndpoint(routes=[web.post("/v1/images", handler)])`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import hashlib
import io
import json
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import PIL.Image
from aiohttp import web

from actors.chat.probe import SYSTEM

KEY = "sk-canary-5f3e9a1c7b"
"""The only key that the server takes; tests search logs and errors for it."""
MODEL = "fake-vlm"


@dataclass(frozen=True)
class Seen:
    """One request as the server received it."""

    number: int
    body: dict[str, Any]
    raw: bytes
    headers: dict[str, str]
    images: tuple[PIL.Image.Image, ...]
    """Every image of the conversation, decoded."""
    digest: str
    """Equal for requests that ask the same."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        return self.body["messages"]

    @property
    def texts(self) -> list[str]:
        """The text of each message; images are left out."""
        return [_text(message["content"]) for message in self.messages]

    @property
    def rounds(self) -> int:
        """How many assistant turns the conversation has."""
        return sum(message["role"] == "assistant" for message in self.messages)


@dataclass(frozen=True)
class Reply:
    """A scripted answer. Every field of the response can be bent."""

    text: str | None = ""
    finish: str | None = "stop"
    refusal: str | None = None
    usage: bool = True
    body: dict[str, Any] | None = None
    """The whole response body in place of the usual one."""
    message: dict[str, Any] = field(default_factory=dict)
    """Further fields of the message, such as `reasoning_content`."""
    reported: dict[str, Any] = field(default_factory=dict)
    """Further or other fields of `usage`."""


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong; `kind` is one of the class methods below."""

    kind: str
    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def error(cls, status: int, message: str, code: str | None = None, **headers: str) -> Fault:
        """An error response in OpenAI's form; `headers` with underscores for hyphens."""
        body = {"error": {"message": message, "type": "fake_error", "param": None, "code": code}}
        return cls("status", status, body, {k.replace("_", "-"): v for k, v in headers.items()})

    @classmethod
    def rate_limit(cls, retry_after: str | None = None) -> Fault:
        headers = {} if retry_after is None else {"retry_after": retry_after}
        return cls.error(429, "Rate limit reached for requests", "rate_limit_exceeded", **headers)

    @classmethod
    def no_quota(cls) -> Fault:
        return cls.error(429, "You exceeded your current quota", "insufficient_quota")

    @classmethod
    def content_filter(cls) -> Fault:
        return cls.error(400, "The response was filtered by the content management policy", "content_filter")

    @classmethod
    def context_length(cls) -> Fault:
        return cls.error(400, "This model's maximum context length is 10 tokens", "context_length_exceeded")

    @classmethod
    def reset_before_body(cls) -> Fault:
        return cls("reset_before_body")

    @classmethod
    def reset_in_body(cls) -> Fault:
        return cls("reset_in_body")

    @classmethod
    def truncated_body(cls) -> Fault:
        """The connection is closed in good order, but before all announced bytes."""
        return cls("truncated_body")

    @classmethod
    def hang(cls) -> Fault:
        return cls("hang")

    @classmethod
    def slow_drip(cls) -> Fault:
        """A space every few milliseconds for ever: no read times out, and no answer comes."""
        return cls("slow_drip")

    @classmethod
    def cut_stream(cls) -> Fault:
        """A stream that ends in good order before the answer does."""
        return cls("stream", body=b'data: {"choices": [{"delta": {"content": "half"}}]}\n\n')

    @classmethod
    def error_in_stream(cls, message: str, code: int = 502) -> Fault:
        """An answer that begins and ends with an error."""
        error = json.dumps({"error": {"message": message, "code": code}})
        return cls(
            "stream",
            body=f'data: {{"choices": [{{"delta": {{"content": "a"}}}}]}}\n\ndata: {error}\n\n'.encode(),
        )

    @classmethod
    def malformed_json(cls) -> Fault:
        return cls("raw", body=b'{"choices": [{"message": {"content": "half')

    @classmethod
    def empty_body(cls) -> Fault:
        return cls("raw", body=b"")

    @classmethod
    def html_page(cls) -> Fault:
        return cls("raw", body=b"<html><body>Please sign in to the proxy</body></html>")

    @classmethod
    def error_with_200(cls, code: int = 502) -> Fault:
        return cls("status", 200, {"error": {"message": "upstream failed", "code": code}})

    @classmethod
    def choices(cls, choices: Any) -> Fault:
        """A completion whose `choices` is the value given (null, [], ...)."""
        return cls("status", 200, {"id": "x", "object": "chat.completion", "choices": choices})


Script = Callable[[Seen], "str | Reply | Fault"]


def one_round(seen: Seen) -> str:
    """Answer with the number of messages and images that were received."""
    return f"I was shown {len(seen.messages)} messages and {len(seen.images)} images."


def small_study(seen: Seen) -> str:
    """Answer as an interpreter that looks at the exemplars, tests one hypothesis, and concludes; observers
    get a word.
    """
    if not any("tools." in text for text in seen.texts[:1]):
        return "a robot"
    if seen.rounds == 0:
        return (
            "[HYPOTHESIS LIST]:\nHypothesis_1: robots\n[CODE]:\n```python\n"
            "for activation, image in tools.dataset_exemplars(system)[:3]:\n"
            "    tools.display(activation, image)\n"
            "images = tools.text2image(['a robot', 'a car'])\n"
            "activations, masked = system.call_neuron(images)\nprint(activations)\n```"
        )
    return "[DESCRIPTION]: Robots drive this unit.\n[LABEL]: robot"


class PrefixCache:
    """How many tokens of a prompt a provider has seen before: whole blocks of a common prefix.

    As OpenAI documents it: prompts of at least `minimum` tokens, in steps of `block`. A token is four
    characters of text, and an image is `image_tokens` of its own.
    """

    def __init__(self, minimum: int = 1024, block: int = 128, image_tokens: int = 85) -> None:
        self.minimum, self.block, self.image_tokens = minimum, block, image_tokens
        self._known: set[bytes] = set()

    def see(self, messages: Sequence[dict[str, Any]]) -> tuple[int, int]:
        """Return (tokens of this prompt, those of them that were cached), and remember the prompt."""
        tokens = list(self._tokens(messages))
        digest, cached = hashlib.blake2b(digest_size=16), 0
        for end in range(self.block, len(tokens) + 1, self.block):
            digest.update("\0".join(tokens[end - self.block : end]).encode())
            name = digest.digest()
            if name in self._known:
                cached = end
            self._known.add(name)
        return len(tokens), cached if cached >= self.minimum else 0

    def _tokens(self, messages: Sequence[dict[str, Any]]) -> Iterator[str]:
        parts: list[dict[str, Any]]
        for message in messages:
            yield f"<{message['role']}>"
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            for part in parts:
                if part["type"] == "text":
                    yield from (part["text"][i : i + 4] for i in range(0, len(part["text"]), 4))
                else:
                    name = hashlib.blake2b(part["image_url"]["url"].encode(), digest_size=8).hexdigest()
                    yield from (f"<image {name} {i}>" for i in range(self.image_tokens))


class FakeEndpoint:
    """The server. Use as a context manager; `faults` come first, in order, then the `script` answers.

    What a request breaks of the contract (key, model, roles, images that are no JPEG) is answered with
    an error and kept in `complaints`, which the fixture asserts to be empty at the end.
    """

    def __init__(
        self,
        script: Script = one_round,
        faults: Iterable[Fault] = (),
        *,
        key: str | None = KEY,
        model: str = MODEL,
        routes: Sequence[web.RouteDef] = (),
        port: int = 0,
        probed: bool = False,
    ) -> None:
        """With `probed`, what commands ask before they start is answered in order and kept apart, in
        `probes`.
        """
        self.script = script
        self.faults = deque(faults)
        self.probed, self.probes = probed, 0
        self.key, self.model = key, model
        self.cache = PrefixCache()
        self.seen: list[Seen] = []
        self.billed: Counter[str] = Counter()
        """Times each distinct request was worked on, by digest: also when no answer got through."""
        self.complaints: list[str] = []
        self.batches: dict[str, dict[str, Any]] = {}
        self.batch_answers: int | None = None
        """Lines of a batch that are answered before it expires; None answers all."""
        self.failing_looks = 0
        """Times that reading a batch or a file is answered with 503."""
        self._files: dict[str, bytes] = {}
        self.in_flight = self.max_in_flight = 0
        self.delay_s = 0.0
        """Time that an answer takes."""
        self._routes, self._port = routes, port
        self._arrival = threading.Condition()
        self._ready = threading.Event()
        self._error: BaseException | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    async def received(self, count: int, timeout_s: float = 20.0) -> None:
        """Wait until `count` requests have arrived."""

        def wait() -> bool:
            with self._arrival:
                return self._arrival.wait_for(lambda: len(self.seen) >= count, timeout_s)

        assert await asyncio.to_thread(wait), f"{len(self.seen)} of {count} requests arrived"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="fake-endpoint", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise self._error
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(10)
        assert not self._thread.is_alive(), "the fake endpoint did not stop"

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._error = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=256 * 2**20)
        app.add_routes([web.post("/v1/chat/completions", self._chat), web.get("/v1/models", self._models)])
        app.add_routes(
            [
                web.post("/v1/files", self._take_file),
                web.get("/v1/files/{id}/content", self._give_file),
                web.post("/v1/batches", self._make_batch),
                web.get("/v1/batches/{id}", self._give_batch),
            ]
        )
        app.add_routes(self._routes)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", self._port).start()
            self._port = runner.addresses[0][1]
            self._ready.set()
            await self._closing.wait()
        finally:
            await runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self.model, "object": "model"}]})

    async def _take_file(self, request: web.Request) -> web.Response:
        self._check_key(request)
        form = await request.post()
        assert form["purpose"] == "batch"
        return web.json_response(self._keep(form["file"].file.read()))  # type: ignore[union-attr]

    def _keep(self, data: bytes) -> dict[str, Any]:
        name = f"file-{len(self._files)}"
        self._files[name] = data
        return {"id": name, "object": "file", "bytes": len(data), "created_at": 1, "filename": "batch.jsonl",
                "purpose": "batch", "status": "processed"}  # fmt: skip

    async def _give_file(self, request: web.Request) -> web.Response:
        self._check_key(request)
        if self._look_fails():
            return web.json_response({"error": {"message": "upstream unavailable"}}, status=503)
        return web.Response(body=self._files[request.match_info["id"]])

    async def _make_batch(self, request: web.Request) -> web.Response:
        """Answer every line, but those beyond `batch_answers`; the batch has ended when it is looked at
        again.
        """
        self._check_key(request)
        asked = await request.json()
        assert asked["endpoint"] == "/v1/chat/completions"
        outputs, errors = [], []
        for line in self._files[asked["input_file_id"]].splitlines()[: self.batch_answers]:
            entry = json.loads(line)
            seen = self._parse(json.dumps(entry["body"]).encode(), request)
            self.seen.append(seen)
            answer = self.faults.popleft() if self.faults else self.script(seen)
            failed = isinstance(answer, Fault)
            reply = Reply(answer) if isinstance(answer, str) else answer
            body = reply.body if isinstance(reply, Fault) else self._completion(seen, reply)
            response = {"status_code": answer.status if failed else 200, "body": body}
            (errors if failed else outputs).append({"custom_id": entry["custom_id"], "response": response})
        kept = [
            self._keep("\n".join(map(json.dumps, lines)).encode())["id"] for lines in (outputs[::-1], errors)
        ]
        name = f"batch-{len(self.batches)}"
        self.batches[name] = {
            "id": name, "object": "batch", "status": "in_progress", "created_at": 1,
            "completion_window": "24h",
            "endpoint": asked["endpoint"], "input_file_id": asked["input_file_id"],
            "output_file_id": kept[0], "error_file_id": kept[1],
        }  # fmt: skip
        return web.json_response(self.batches[name])

    def _look_fails(self) -> bool:
        self.failing_looks -= 1
        return self.failing_looks >= 0

    async def _give_batch(self, request: web.Request) -> web.Response:
        self._check_key(request)
        if self._look_fails():
            return web.json_response({"error": {"message": "upstream unavailable"}}, status=503)
        batch = self.batches[request.match_info["id"]]
        batch["status"] = "completed" if self.batch_answers is None else "expired"
        return web.json_response(batch)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            return await self._answer(request)
        finally:
            self.in_flight -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        try:
            self._check_key(request)
            seen = self._parse(raw, request)
        except _ComplaintError as complaint:
            self.complaints.append(complaint.message)
            return await self._send(request, Fault.error(complaint.status, complaint.message, complaint.code))
        if self.probed and seen.messages[0]["content"] == SYSTEM:
            self.probes += 1
            return web.json_response(self._completion(seen, Reply("red, blue")))
        with self._arrival:
            self.seen.append(seen)
            self._arrival.notify_all()
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        answer = self.faults.popleft() if self.faults else self.script(seen)
        if isinstance(answer, str):
            answer = Reply(answer)
        if isinstance(answer, Reply) or answer.kind != "status" or answer.status == 200:
            self.billed[seen.digest] += 1
        if isinstance(answer, Fault):
            return await self._send(request, answer)
        completion = answer.body or self._completion(seen, answer)
        if seen.body.get("stream"):
            return web.Response(body=_as_stream(completion, seen.body), content_type="text/event-stream")
        return web.json_response(completion)

    def _check_key(self, request: web.Request) -> None:
        sent = request.headers.get("Authorization")
        if self.key is None and sent is not None:
            raise _ComplaintError(400, "a key was sent to an endpoint that takes none")
        if self.key is not None and sent != f"Bearer {self.key}":
            # As some real servers do, repeat what was sent: it must not reach a log.
            raise _ComplaintError(401, f"Incorrect API key provided: {sent}", "invalid_api_key")

    def _parse(self, raw: bytes, request: web.Request) -> Seen:
        body = json.loads(raw)
        if body.get("model") != self.model:
            raise _ComplaintError(404, f"The model `{body.get('model')}` does not exist", "model_not_found")
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise _ComplaintError(400, "messages must be a list that is not empty")
        images: list[PIL.Image.Image] = []
        for message in messages:
            if message.get("role") not in ("system", "user", "assistant"):
                raise _ComplaintError(400, f"unknown role {message.get('role')!r}")
            content = message.get("content")
            if isinstance(content, str):
                continue
            if not isinstance(content, list) or not content:
                raise _ComplaintError(400, "content must be a string or a list of parts")
            for part in content:
                if part.get("type") == "text" and isinstance(part.get("text"), str):
                    continue
                if part.get("type") != "image_url" or message["role"] != "user":
                    raise _ComplaintError(
                        400, f"a {message['role']} message cannot hold {part.get('type')!r}"
                    )
                images.append(_jpeg(part["image_url"]["url"]))
        for name in ("max_tokens", "max_completion_tokens"):
            if name in body and not (isinstance(body[name], int) and body[name] >= 1):
                raise _ComplaintError(400, f"{name} must be a positive integer")
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        headers = {name.lower(): value for name, value in request.headers.items()}
        return Seen(len(self.seen), body, raw, headers, tuple(images), digest)

    def _completion(self, seen: Seen, reply: Reply) -> dict[str, Any]:
        message = {"role": "assistant", "content": reply.text, "refusal": reply.refusal, **reply.message}
        body: dict[str, Any] = {
            "id": f"chatcmpl-{seen.number}",
            "object": "chat.completion",
            "created": 1,
            "model": f"{self.model}-0001",
            "choices": [{"index": 0, "message": message, "finish_reason": reply.finish, "logprobs": None}],
        }
        if reply.usage:
            prompt, cached = self.cache.see(seen.messages)
            completion = -(-len(reply.text or "") // 4)
            body["usage"] = {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
                "prompt_tokens_details": {"cached_tokens": cached},
                **reply.reported,
            }
        return body

    async def _send(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        assert request.transport is not None
        match fault.kind:
            case "status":
                return web.json_response(fault.body, status=fault.status, headers=fault.headers)
            case "stream":
                return web.Response(body=fault.body, content_type="text/event-stream")
            case "raw":
                return web.Response(body=fault.body, content_type="application/json", headers=fault.headers)
            case "reset_before_body":
                request.transport.abort()
                return web.Response()
            case "reset_in_body" | "truncated_body":
                response = web.StreamResponse(
                    headers={"Content-Length": "4096", "Content-Type": "application/json"}
                )
                await response.prepare(request)
                await response.write(b'{"choices": [')
                if fault.kind == "reset_in_body":
                    request.transport.abort()
                else:
                    request.transport.close()
                return response
            case "hang":
                await self._closing.wait()
                return web.Response()
            case "slow_drip":
                response = web.StreamResponse(headers={"Content-Type": "application/json"})
                await response.prepare(request)
                while not self._closing.is_set():
                    try:
                        await response.write(b" ")
                    except ConnectionError:
                        break
                    await asyncio.sleep(0.01)
                return response
            case unknown:
                raise AssertionError(f"no such fault: {unknown}")


def _as_stream(completion: dict[str, Any], asked: dict[str, Any]) -> bytes:
    """Return a completion as server-sent events: each text in two pieces, usage in a last chunk if it was
    asked for.
    """
    choice = completion["choices"][0]
    message = {name: value for name, value in choice["message"].items() if value is not None}
    halves = [{k: v[: len(v) // 2] if isinstance(v, str) else v for k, v in message.items()}]
    halves.append({k: v[len(v) // 2 :] for k, v in message.items() if isinstance(v, str) and k != "role"})
    chunks: list[dict[str, Any]] = [
        {"model": completion.get("model"), "choices": [{"delta": half, "finish_reason": None}]}
        for half in halves
    ]
    chunks.append({"choices": [{"delta": {}, "finish_reason": choice["finish_reason"]}]})
    if asked.get("stream_options", {}).get("include_usage") and "usage" in completion:
        chunks.append({"choices": [], "usage": completion["usage"]})
    events = [f"data: {json.dumps(chunk)}" for chunk in chunks]
    return "\n\n".join([": keep-alive", *events, "data: [DONE]", ""]).encode()


class _ComplaintError(Exception):
    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


def _jpeg(url: str) -> PIL.Image.Image:
    head, _, data = url.partition(",")
    if head != "data:image/jpeg;base64":
        raise _ComplaintError(400, f"an image must be a JPEG data URL, got {head[:40]!r}")
    try:
        image = PIL.Image.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=["JPEG"])
        image.load()
    except (binascii.Error, OSError) as error:
        raise _ComplaintError(400, f"not a JPEG: {error}") from None
    return image


def _text(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="A stand-in chat endpoint on this machine's loopback address."
    )
    parser.add_argument("--port", type=int, default=8099)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--no-key", action="store_true", help="take requests without a key only")
    arguments = parser.parse_args()
    key = None if arguments.no_key else KEY
    with FakeEndpoint(
        small_study, key=key, model=arguments.model, port=arguments.port, probed=True
    ) as endpoint:
        print(f"base_url {endpoint.base_url}, model {endpoint.model}, key {endpoint.key}. Ctrl-C ends it.")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print(f"{len(endpoint.seen)} requests, {len(endpoint.complaints)} complaints")


if __name__ == "__main__":
    main()
