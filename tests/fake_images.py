"""The images routes of a real HTTP server on loopback: `FakeEndpoint(routes=images.routes)`.

It draws plain colours, checks what it is given as the real API would, and fails when told to.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import PIL.Image
from aiohttp import web

from tests.fake_endpoint import KEY, Fault

IMAGE_MODEL = "fake-painter"


@dataclass(frozen=True)
class SeenImageRequest:
    """One request: the fields of its JSON or form, and the picture to edit."""

    kind: str
    fields: dict[str, Any]
    picture: PIL.Image.Image | None = None


@dataclass
class FakeImages:
    """Answers `/v1/images/generations` and `/v1/images/edits`; `faults` come first, in order."""

    faults: deque[Fault] = field(default_factory=deque)
    revise: str | None = None
    """What the endpoint says it drew instead."""
    usage: dict[str, Any] | None = None
    """What it says that an image took."""
    as_url: bool = False
    black: bool = False
    hold: int = 0
    """Answer nobody until so many requests are there at once."""
    seen: list[SeenImageRequest] = field(default_factory=list)
    fetched: int = 0
    complaints: list[str] = field(default_factory=list)
    in_flight: int = 0
    max_in_flight: int = 0
    _together: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def failing(cls, *faults: Fault) -> FakeImages:
        return cls(deque(faults))

    @property
    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/images/generations", self._generate),
            web.post("/v1/images/edits", self._edit),
            web.get("/pictures/{name}", self._picture),
        ]

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, SeenImageRequest("generate", await request.json()))

    async def _edit(self, request: web.Request) -> web.StreamResponse:
        fields = dict(await request.post())
        upload = fields.pop("image")
        assert isinstance(upload, web.FileField)
        assert upload.content_type == "image/png"
        with PIL.Image.open(io.BytesIO(upload.file.read()), formats=["PNG"]) as picture:
            picture.load()
        return await self._answer(request, SeenImageRequest("edit", fields, picture))

    async def _answer(self, request: web.Request, seen: SeenImageRequest) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return _error(401, "Incorrect API key provided", "invalid_api_key")
        if seen.fields.get("model") != IMAGE_MODEL:
            return _error(404, f"The model `{seen.fields.get('model')}` does not exist", "model_not_found")
        if "prompt" not in seen.fields:
            return _error(400, "Missing required parameter: 'prompt'.", "missing_required_parameter")
        if not isinstance(seen.fields.get("prompt"), str) or str(seen.fields.get("n")) != "1":
            self.complaints.append(f"needs a prompt and n=1, got {seen.fields}")
        self.seen.append(seen)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            await self._wait_for_others()
            if self.faults:
                fault = self.faults.popleft()
                if fault.kind == "raw":
                    return web.Response(body=fault.body, content_type="application/json")
                return web.json_response(fault.body, status=fault.status, headers=fault.headers)
            return self._painted(request, seen)
        finally:
            self.in_flight -= 1

    async def _wait_for_others(self) -> None:
        if self.in_flight >= self.hold:
            self._together.set()
        await asyncio.to_thread(self._together.wait, 20)

    def _painted(self, request: web.Request, seen: SeenImageRequest) -> web.Response:
        color = hashlib.sha256(repr(sorted(map(str, seen.fields.items()))).encode()).digest()[:3]
        if self.as_url:
            item = {"url": f"http://{request.host}/pictures/{color.hex()}"}
        else:
            item = {"b64_json": base64.b64encode(self._png(color)).decode()}
        if self.revise is not None:
            item["revised_prompt"] = self.revise
        usage = {} if self.usage is None else {"usage": self.usage}
        return web.json_response({"created": 1, "data": [item], **usage})

    async def _picture(self, request: web.Request) -> web.Response:
        if "Authorization" in request.headers:
            self.complaints.append("the key was sent to where the picture lies")
        self.fetched += 1
        return web.Response(body=self._png(bytes.fromhex(request.match_info["name"])))

    def _png(self, color: bytes) -> bytes:
        buffer = io.BytesIO()
        picture = PIL.Image.new("RGB", (6, 4), (0, 0, 0) if self.black else (color[0], color[1], color[2]))
        picture.save(buffer, "PNG")
        return buffer.getvalue()


def _error(status: int, message: str, code: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "fake", "code": code}}, status=status)
