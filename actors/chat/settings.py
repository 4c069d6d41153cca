"""Settings of a language model: one entry of `ray_config.yaml`, distinguished by `backend`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from actors.embedded.drawing.withheld import Withheld
from actors.endpoint.catalogue import catalogue
from actors.endpoint.prices import TokenPrice
from actors.endpoint.settings import EndpointSettings
from actors.settings import Placement, Settings

IMAGE_TOKENS = 85
"""Tokens of an image where nothing is known of its model: those of a small one (`detail: low`) at OpenAI."""


class HistorySettings(Settings):
    """Which images of an old conversation are sent again. The conversation itself is never changed."""

    max_images: int | None = Field(default=None, ge=1)
    """Images sent at most; older ones leave, their text stays. null sends all: right where the endpoint
    has a prefix cache, since removing an image costs the cache of everything after it."""
    block: int = Field(default=16, ge=1)
    """Images leave this many at once, so that the prefix stays the same for several rounds."""

    @model_validator(mode="after")
    def _block_fits(self) -> HistorySettings:
        if self.max_images is not None and self.block > self.max_images:
            raise ValueError(f"block ({self.block}) must be at most max_images ({self.max_images})")
        return self


class BatchSettings(Settings):
    """Asking in batches: half the price at OpenAI, answered within a day. Not for the interpreter."""

    collect_s: float = Field(default=10.0, ge=0)
    """Seconds for which requests are collected into one batch."""
    poll_s: float = Field(default=60.0, gt=0)
    """Seconds between two checks of a batch."""
    window: str = "24h"
    """The endpoint's word for the time in which it must be answered."""


class OpenAIChat(EndpointSettings):
    """Any endpoint that speaks OpenAI's chat completions: OpenAI, Azure, vLLM, Ray Serve LLM, and others.

    It has no `placement`: exactly one actor stands before an endpoint, or its limits would not hold.
    """

    backend: Literal["openai"] = "openai"
    sees_images: bool = True
    """False for a text-only model: images are then replaced by words before they reach it."""
    image_side: int = Field(default=224, ge=16, le=4096)
    """Longest side in pixels of the JPEG that is sent: sets the token cost. Smaller images stay as they
    are."""
    image_least_side: int = Field(default=56, ge=1, le=4096)
    """Shorter side in pixels: smaller images are enlarged, since many models fail below 28. At most a quarter
    of `image_side` counts."""
    image_max_aspect: float = Field(default=20.0, ge=1)
    """Longer side over shorter side at most: thinner images are padded. With both sides bounded, four may be
    less."""
    image_pixels: int | None = Field(default=None, ge=256)
    """Most pixels of an image; null leaves it to `image_side`."""
    jpeg_quality: int = Field(default=90, ge=1, le=100)
    """JPEG quality of the images that are sent."""
    detail: Literal["low", "high", "original", "auto"] | None = "auto"
    """OpenAI's image detail; null never sends it. A server that refuses it is asked without from then on."""
    image_tokens: int = Field(default=IMAGE_TOKENS, ge=0)
    """Tokens that an image is assumed to cost, for limits and where the endpoint does not report usage."""

    max_tokens_field: Literal["auto", "max_tokens", "max_completion_tokens"] = "auto"
    """Name of the answer's limit. auto: `max_completion_tokens` for OpenAI and Azure, else `max_tokens`, and
    the other one where the server says so."""
    reasoning_tokens: int = Field(default=0, ge=0)
    """Added to that limit for a model that reasons before it answers. An answer that is empty because
    thinking used the limit is asked for once more, with more room."""
    reasoning_effort: str | None = None
    """Sent as it is (none, minimal, low, medium, high, ...); null leaves it to the model."""
    send_thoughts: Literal["reasoning_content", "reasoning"] | None = None
    """Field in which the thoughts of earlier turns are sent again, for models that want them; null never
    sends them."""
    system: Literal["auto", "send", "fold"] = "auto"
    """fold puts the system message in front of the first user message, for models without that role; auto
    does so when the server says that it has none."""
    stream: bool = False
    """Have the answer sent in pieces: for a proxy that cuts silent connections, and models that only
    stream."""
    service_tier: str | None = None
    """OpenAI's tier (auto, default, flex, priority, ...), sent as it is. flex is slow and half the price:
    attempts then last up to 15 minutes, and refusals for want of capacity are waited out for two hours,
    unless set otherwise."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """Used where a request names none; null leaves it to the model."""
    omit: tuple[Literal["temperature", "seed", "max_tokens"], ...] = ()
    """Parameters that are never sent. What the server itself names as unknown is left out without being
    listed here."""
    cache_breakpoints: bool = False
    """Mark the first and last message with `cache_control`: for endpoints that cache only what is marked."""

    batch: BatchSettings | None = None
    """Ask through the batch API; null asks one by one. Attempts then last up to 25 hours, and 4,096 requests
    are in flight, unless set otherwise. Give the price of batches in `price`.
    """

    @model_validator(mode="before")
    @classmethod
    def _patience(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if values.get("batch") is not None:
            return {"attempt_timeout_s": 90_000.0, "deadline_s": 200_000.0, "max_concurrent": 4096, **values}
        if values.get("service_tier") == "flex":
            return {"attempt_timeout_s": 900.0, "deadline_s": 7200.0, "max_attempts": 60, **values}
        return values

    price: TokenPrice | None = None
    """null: the price of the built-in list (docs/models.md). A model that is not on it has an unknown
    price."""
    history: HistorySettings = HistorySettings()

    @property
    def known_price(self) -> TokenPrice | None:
        """The model's price: as configured, else nothing on this machine, else as listed; None is
        unknown."""
        if self.price is not None or not self.charges:
            return self.price or TokenPrice()
        listed = catalogue().find_chat(self.host, self.model)
        return None if listed is None else listed.price


class TransformersChat(Settings):
    """A model that runs here, through the `transformers` library (`pip install "maia[models]"`)."""

    backend: Literal["transformers"] = "transformers"
    model: str = Field(min_length=1)
    """A directory saved by `save_pretrained`, a model id of the Hugging Face hub, or a .gguf file."""
    gguf_file: str | None = None
    """Name of a GGUF file inside `model`, where that is a directory or a hub id."""
    revision: str | None = None
    """Branch, tag or commit on the hub; a commit pins the weights."""
    sees_images: bool | None = None
    """null finds out from the model's own configuration."""
    chat_template: str | None = None
    """A Jinja template in place of the tokenizer's own, for base models that have none."""
    local_files_only: bool = False
    """True never asks the hub."""
    trust_remote_code: bool = False
    """True runs Python code that comes with the model."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes the GPU if there is one. `device_map` goes to accelerate instead."""
    device_map: str | None = None
    """How accelerate spreads the weights, such as `auto`; null puts all on `device`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: the checkpoint's own on a GPU, float32 on a CPU."""
    attention: str | None = None
    """Attention implementation (sdpa, flash_attention_2, eager); null leaves it to transformers."""
    max_batch: int = Field(default=8, ge=1, le=1024)
    """Conversations answered in one generation at most; bounded by memory."""
    image_side: int | None = Field(default=None, ge=16, le=4096)
    """Longest side in pixels shown to the model; null shows what there is, sized by the model's processor."""
    max_context: int | None = Field(default=None, ge=16)
    """Tokens of prompt and answer together at most; null takes the model's own limit."""
    extra_load: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of `from_pretrained`, such as a quantisation."""
    placement: Placement = Placement()
    price: TokenPrice | None = None
    """What to count for its tokens; null counts nothing: it runs on this machine."""
    history: HistorySettings = HistorySettings()


class BuiltinChat(Settings):
    """The built-in stand-in for a language model: rules, no weights, no key."""

    backend: Literal["builtin"] = "builtin"
    model: Literal["scientist", "observer"] = "scientist"
    """`scientist` reasons and writes programs, `observer` describes images."""
    withheld: Withheld = Withheld()
    """Concepts that it neither sees nor has words for, for studies of what lies out of its reach."""


ChatSettings = Annotated[OpenAIChat | TransformersChat | BuiltinChat, Field(discriminator="backend")]
"""One language model of the configuration; `backend` says which of the three it is."""


def known_price(settings: ChatSettings) -> TokenPrice | None:
    """Return what a model charges for its tokens; None is unknown. What runs on this machine is free unless
    configured."""
    match settings:
        case OpenAIChat():
            return settings.known_price
        case TransformersChat():
            return settings.price or TokenPrice()
        case _:
            return TokenPrice()
