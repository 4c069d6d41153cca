"""Makes and edits images at an endpoint that speaks OpenAI's images API.

An endpoint draws its own noise unless it takes a seed, and may reword a prompt before it draws; the
provenance says both. The body of an answer is read here: the client's types accept answers without images.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from actors.endpoint.caller import EndpointCaller, Sent
from actors.endpoint.faults import Fault, FaultyAnswerError
from actors.endpoint.fields import named_fields
from actors.endpoint.openai_client import classify, connect, fault_in, json_object
from actors.errors import BackendError, MaiaError, RefusedError, UsageError
from actors.generation.base import EditRequest, GenerateRequest, MadeImage
from actors.generation.settings import OpenAIImages
from actors.images import Image, ImageDecodeError, Provenance, decode, encode_png
from actors.serving.backend import BackendFacts

_LIMIT_BYTES = 64 << 20
_FETCHES = 3
_DATA_URL = re.compile(r"^data:[^,]*,")
_MAX_WORDS = 4000
"""Characters of a reworded prompt that are kept."""


class OpenAIImageMaker:
    """One images model of one endpoint, many calls at once. Implements `AsyncImageMaker`.

    `collaborators` (clock, sleep, random) go to `EndpointCaller`.

    Raises (when built):
        MissingKeyError: If the environment variable of the key is not set.
    """

    max_batch = 1

    def __init__(
        self, settings: OpenAIImages, *, environ: Mapping[str, str] = os.environ, **collaborators: Any
    ) -> None:
        self.name = f"openai-images {settings.model} at {settings.host}"
        asked = settings.model_dump(include={"size", "quality", "send_seed", "extra_body"}, exclude_none=True)
        self.settings = json.dumps(asked, sort_keys=True)
        self.slots = settings.max_concurrent
        self._settings = settings
        self._refused: set[str] = set()
        """Fields that the server was found not to know."""
        self._connection = connect(settings, environ)
        self._caller = EndpointCaller(
            settings, self._connection.secrets, proxy=self._connection.proxy, **collaborators
        )

    async def generate(self, requests: Sequence[GenerateRequest]) -> list[MadeImage | MaiaError]:
        """Return one image or typed failure per request, in order."""
        return list(await asyncio.gather(*map(self._generate, requests)))

    async def edit(self, requests: Sequence[EditRequest]) -> list[MadeImage | MaiaError]:
        """Return one image or typed failure per request, in order."""
        return list(await asyncio.gather(*map(self._edit, requests)))

    async def _generate(self, request: GenerateRequest) -> MadeImage | MaiaError:
        arguments = {"prompt": request.prompt, **self._common(request.seed)}
        known = Provenance("generated", prompt=request.prompt)
        return await self._made(
            self._connection.client.images.with_raw_response.generate, arguments, request, known
        )

    async def _edit(self, request: EditRequest) -> MadeImage | MaiaError:
        png = await asyncio.to_thread(encode_png, request.image)
        arguments = {
            "image": ("image.png", png, "image/png"),
            "prompt": request.instruction,
            **self._common(request.seed),
        }
        before = request.provenance or Provenance("unknown")
        known = Provenance(
            "edited",
            prompt=before.prompt,
            edits=(*before.edits, request.instruction),
            parent=request.image.id,
        )
        return await self._made(
            self._connection.client.images.with_raw_response.edit, arguments, request, known
        )

    def _common(self, seed: int) -> dict[str, Any]:
        settings = self._settings
        wanted: dict[str, Any] = {
            "model": settings.model,
            "size": settings.size,
            "quality": settings.quality,
            "response_format": settings.response_format,
        }
        further = {**settings.extra_body, **({"seed": seed} if self._sends_seed else {})}
        body = {
            name: value for name, value in wanted.items() if value is not None and name not in self._refused
        }
        if further:
            body["extra_body"] = further
        return {**body, "n": 1, "extra_headers": self._connection.headers}

    @property
    def _sends_seed(self) -> bool:
        return self._settings.send_seed and "seed" not in self._refused

    def _leave_out(self, named: frozenset[str], arguments: dict[str, Any]) -> bool:
        """Take a field that the server does not know out of a request, and of all that follow.

        A size or a quality that it refuses is the user's to change: another one would make other images.
        """
        further = arguments.get("extra_body", {})
        known = {"seed"} & set(further) - set(self._settings.extra_body) | {"response_format"} & set(
            arguments
        )
        if not (refused := named & known):
            return False
        self._refused |= refused
        for name in refused:
            arguments.pop(name, None)
        arguments["extra_body"] = {name: value for name, value in further.items() if name not in refused}
        return True

    async def _made(
        self,
        create: Callable[..., Awaitable[Any]],
        arguments: dict[str, Any],
        request: GenerateRequest | EditRequest,
        known: Provenance,
    ) -> MadeImage | MaiaError:
        if not arguments["prompt"].strip():
            return UsageError("a prompt must have words, got an empty one")

        async def send() -> Sent[tuple[_Item, object]]:
            raw = await create(**arguments)
            body = json_object(raw.http_response.content)
            return Sent((_first_item(body), body.get("usage")), 0.0)

        async def adapt(fault: Fault) -> bool:
            return self._leave_out(named_fields(fault.body), arguments) if fault.kind == "rejected" else False

        try:
            item, usage = (await self._caller.call(send, 0.0, classify, adapt=adapt)).value
            image = await self._image(item)
        except MaiaError as error:
            return error
        if not image.pixels.any():
            return RefusedError(
                f"{self.name} answered with a wholly black image, as servers do that withhold one.",
                "Reword the prompt.",
            )
        notes: tuple[str, ...] = ()
        if item.revised_prompt.strip() not in ("", arguments["prompt"].strip()):
            words = self._connection.secrets.redact(item.revised_prompt)[:_MAX_WORDS]
            notes = (f"the endpoint drew this prompt instead: {words}",)
        seed = request.seed if self._sends_seed else None
        maker = f"{self.name} {self.settings}" + ("" if self._sends_seed else " (takes no seed)")
        price = self._settings.known_price
        return MadeImage(
            image,
            Provenance(known.source, maker, known.prompt, seed, known.edits, known.parent, notes=notes),
            None if price is None else price.charged(self._settings.quality, usage),
        )

    async def _image(self, item: _Item) -> Image:
        data = item.data or await self._fetched(item.url)
        try:
            return await asyncio.to_thread(decode, data)
        except ImageDecodeError as error:
            raise BackendError(f"{self.name} answered with bytes that are not an image: {error}") from error

    async def _fetched(self, url: str) -> bytes:
        """Return the bytes at `url`. The image is paid for: a failed download is repeated."""
        for attempt in range(1, _FETCHES + 1):
            try:
                return await asyncio.to_thread(_download, url, self._settings.attempt_timeout_s)
            except (OSError, ValueError) as error:
                if attempt == _FETCHES:
                    host = urllib.parse.urlsplit(url).netloc
                    why = self._connection.secrets.redact(f"{host}: {error}")
                    # Not chained: the library's own error holds the address, which may hold a key.
                    raise BackendError(
                        f"{self.name} made an image, but it could not be fetched from {why}",
                        "Set `response_format: b64_json` to get images in the answer itself.",
                    ) from None
        raise AssertionError("unreachable")

    def describe(self) -> BackendFacts:
        """Return plain facts for `maia doctor` and logs; no secret."""
        return {
            "name": self.name,
            "model": self._settings.model,
            "address": self._settings.base_url,
            "settings": self.settings,
            "not_sent": sorted(self._refused),
            **asdict(self._caller.statistics()),
        }

    async def close(self) -> None:
        await self._connection.client.close()


@dataclass(frozen=True, slots=True)
class _Item:
    """One image of an answer: its encoded bytes, or else the http address at which they are."""

    data: bytes
    url: str
    revised_prompt: str


def _first_item(body: Mapping[str, Any]) -> _Item:
    """Return the first image of an answer.

    Raises:
        FaultyAnswerError: If there is none.
    """
    items = next((items for name in ("data", "images") if isinstance(items := body.get(name), list)), None)
    item = items[0] if items else None
    if isinstance(item, dict):
        encoded, url, revised = item.get("b64_json"), item.get("url"), item.get("revised_prompt")
        prompt = revised if isinstance(revised, str) else ""
        if isinstance(encoded, str) and encoded:
            try:
                return _Item(base64.b64decode(_DATA_URL.sub("", encoded), validate=True), "", prompt)
            except binascii.Error as error:
                raise FaultyAnswerError(Fault("garbled", f"damaged base64: {error}", in_doubt=True)) from None
        if isinstance(url, str) and urllib.parse.urlsplit(url).scheme in ("http", "https"):
            return _Item(b"", url, prompt)
    if (said := fault_in(item if isinstance(item, dict) else body)) is not None:
        raise FaultyAnswerError(said)
    if items == []:
        # The answer to a prompt that was accepted and whose picture was not: asking again costs the same.
        raise FaultyAnswerError(Fault("filtered", "no image in the answer, as when one is withheld"))
    raise FaultyAnswerError(Fault("garbled", "an answer without an image", in_doubt=True))


def _download(url: str, timeout_s: float) -> bytes:
    # The scheme was checked: urllib would open files too.
    with urllib.request.urlopen(url, timeout=timeout_s) as answer:
        data: bytes = answer.read(_LIMIT_BYTES + 1)
    if len(data) > _LIMIT_BYTES:
        raise ValueError(f"the image has more than {_LIMIT_BYTES >> 20} MiB")
    return data
