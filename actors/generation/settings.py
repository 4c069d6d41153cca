"""Settings in `ray_config.yaml` for making and editing images. Imports no model library."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from actors.embedded.drawing.withheld import Withheld
from actors.endpoint.catalogue import catalogue
from actors.endpoint.prices import ImagePrice
from actors.endpoint.settings import EndpointSettings
from actors.settings import Dtype, Placement, Settings

Offload = Literal["none", "model", "sequential"]


class SharedGeneration(Settings):
    """Settings of every image maker: where it runs and what it remembers."""

    placement: Placement = Placement()
    remembered_mb: float = Field(256.0, ge=0)
    """Megabytes of images kept in memory by each replica; the same request is answered from there."""
    store: str | None = None
    """Folder in which every image is kept by its request, across agents and runs; None keeps none on disk."""


class ScenesGeneration(SharedGeneration):
    """Draws scenes from a fixed vocabulary: a stand-in that needs no weights."""

    backend: Literal["scenes"] = "scenes"
    withheld: Withheld = Withheld()
    """Concepts that it cannot draw, for studies of what lies out of an image maker's reach."""


class DiffusersPipeline(Settings):
    """One diffusers pipeline: which, how it is loaded, and how it is called."""

    model: str = Field(min_length=1)
    """Hub id (`stable-diffusion-v1-5/stable-diffusion-v1-5`) or a local folder saved by `save_pretrained`."""
    pipeline: str | None = None
    """Pipeline class of diffusers; None is `AutoPipelineForText2Image`, for an editor its own class."""
    revision: str | None = None
    """Commit, tag or branch on the hub; a commit makes a run repeatable."""
    variant: str | None = None
    """Weight-file variant, such as `fp16`."""
    device: str = "auto"
    """`auto` takes a GPU where there is one; else `cpu`, `cuda`, `cuda:1`, `mps`."""
    dtype: Literal["auto", Dtype] = "auto"
    """`auto`: bfloat16 on a GPU that has it, else float16 there; float32 on a CPU."""
    offload: Offload = "none"
    """`model` or `sequential` keeps the weights in main memory and moves them to the GPU as they are used."""
    attention_slicing: bool = False
    """Compute attention in slices: less memory, slower."""
    vae_tiling: bool = False
    """Decode large images tile by tile: less memory."""
    compile: bool = False
    """Compile the denoiser with `torch.compile`: minutes at the first call, and again for each new number of
    images in a call or size."""
    safety_checker: bool = True
    """False drops the pipeline's own safety checker, where its licence lets you."""
    steps: int | None = Field(None, ge=1, le=1000)
    """Denoising steps; None is the pipeline's default."""
    guidance: float | None = Field(None, ge=0)
    """Guidance scale for the text; None is the pipeline's default. SDXL-Turbo wants 0."""
    image_guidance: float | None = Field(None, ge=0)
    """Guidance scale for the original image (InstructPix2Pix)."""
    size: int | tuple[int, int] | None = None
    """Height and width in pixels, or one number for both; None is the pipeline's default, and when editing
    the size of the image (FLUX Kontext: about a megapixel of its shape)."""
    max_batch: int = Field(4, ge=1, le=256)
    """Images in one call at most."""
    refusal_retries: int = Field(2, ge=0, le=10)
    """New seeds tried when the safety checker blackens an image, before it counts as refused."""
    load: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of `from_pretrained`."""
    call: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of each call, such as `negative_prompt` or `max_sequence_length`."""

    @model_validator(mode="after")
    def _sizes(self) -> DiffusersPipeline:
        sides = (self.size,) if isinstance(self.size, int) else self.size or ()
        if any(side < 8 or side > 4096 or side % 8 for side in sides):
            raise ValueError(f"size must be a multiple of 8 in 8..4096, got {self.size}")
        return self


class OpenAIImages(EndpointSettings):
    """One model behind an OpenAI-compatible images endpoint."""

    max_concurrent: int = Field(8, ge=1, le=4096)
    size: str | None = Field(None, pattern=r"^(\d+x\d+|auto)$")
    """Such as `1024x1024`; None is the endpoint's default."""
    quality: str | None = None
    """The endpoint's own word for quality, such as `hd` or `high`; None leaves it out."""
    response_format: Literal["b64_json", "url"] | None = None
    """DALL-E and most local servers want `b64_json` here; GPT image models take none and answer in base64."""
    send_seed: bool = False
    """Send each image's seed as the field `seed`. OpenAI has none; local servers often do."""
    price: ImagePrice | None = None
    """null: the price of the built-in list (docs/models.md). A model that is not on it has an unknown price.
    """

    @property
    def known_price(self) -> ImagePrice | None:
        """Price of an image: as configured, else nothing on this machine, else as listed; None is unknown."""
        if self.price is not None or not self.charges:
            return self.price or ImagePrice(image=0.0)
        listed = catalogue().find_images(self.host, self.model)
        return None if listed is None else listed.price


class DiffusersEditor(DiffusersPipeline):
    """An instruction editor: InstructPix2Pix, FLUX Kontext, or another pipeline class of diffusers."""

    backend: Literal["diffusers"] = "diffusers"


class OpenAIEditor(OpenAIImages):
    backend: Literal["openai-images"] = "openai-images"


EditorSettings = Annotated[DiffusersEditor | OpenAIEditor, Field(discriminator="backend")]


class DiffusersGeneration(DiffusersPipeline, SharedGeneration):
    """Text to image with diffusers. Without an `editor`, editing is refused in words."""

    backend: Literal["diffusers"] = "diffusers"
    editor: EditorSettings | None = None


class OpenAIGeneration(OpenAIImages, SharedGeneration):
    """Text to image by an endpoint; it edits too unless another `editor` is named."""

    backend: Literal["openai-images"] = "openai-images"
    editor: EditorSettings | None = None


GenerationSettings = Annotated[
    ScenesGeneration | DiffusersGeneration | OpenAIGeneration, Field(discriminator="backend")
]


def hosted_makers(settings: GenerationSettings) -> list[OpenAIImages]:
    """Return the parts of an image maker that are endpoints: the maker, its editor, both or neither."""
    parts = (settings, getattr(settings, "editor", None))
    return [part for part in parts if isinstance(part, OpenAIImages)]


def dollars_per_image(settings: GenerationSettings) -> float | None:
    """Return the US dollars that an image costs at most, made or edited; None where that is unknown."""
    expected = [
        None if part.known_price is None else part.known_price.expected(part.quality)
        for part in hosted_makers(settings)
    ]
    known = [part for part in expected if part is not None]
    return None if len(known) < len(expected) else max(known, default=0.0)
