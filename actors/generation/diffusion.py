"""Makes and edits images with any diffusers pipeline.

Every image draws its noise from a generator of its own, seeded by its own request, on the CPU: so an
image depends neither on the batch it was made in nor on the kind of GPU that drew it. (One generator
for a whole batch, as is common, gives a prompt another image at each position.)
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image

from actors import hub
from actors.errors import BackendError, MaiaError, RefusedError, UsageError
from actors.generation.base import EditRequest, GenerateRequest, MadeImage
from actors.generation.pipelines import (
    PipelineTask,
    call_arguments,
    find_folder,
    load_pipeline,
    longest_prompt,
)
from actors.generation.settings import DiffusersPipeline
from actors.images import Image, Provenance
from actors.serving.backend import BackendFacts
from actors.serving.blocking import run_in_halves

_MAX_SEED = 2**63 - 1
_BATCHED_EDITORS = frozenset(
    {
        "StableDiffusionInstructPix2PixPipeline",
        "StableDiffusionXLInstructPix2PixPipeline",
        "FluxKontextPipeline",
    }
)
"""Editors known to pair a list of images with a list of prompts. Others get one image per call: some of them
take a list for several pictures of one scene."""
_GRAIN = 8
"""Pixels to whose multiple an image is trimmed before editing: the VAE's step in all common pipelines."""


def derived_seed(seed: int, attempt: int) -> int:
    """Return the seed of a further attempt at a request, in 0..2**63-1; attempt 0 is the request's own."""
    if attempt == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}:{attempt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class DiffusionMaker:
    """One diffusers pipeline that generates, or one that edits.

    Raises (when built):
        MissingDependencyError: Without diffusers and transformers.
        UsageError: Unknown model, pipeline class or argument, an unreachable hub, too little memory.
    """

    def __init__(self, settings: DiffusersPipeline, task: PipelineTask) -> None:
        hub.require("the diffusers backend", "torch", "diffusers", "transformers", "accelerate")
        self._settings, self._task = settings, task
        folder = find_folder(settings)
        self._pipeline, device, dtype = load_pipeline(settings, task, folder)
        self._arguments = call_arguments(self._pipeline, settings)
        self._takes = frozenset(inspect.signature(self._pipeline.__call__).parameters)
        kind = type(self._pipeline).__name__
        self._batches = task == "generate" or kind in _BATCHED_EDITORS
        self.max_batch = settings.max_batch if self._batches else 1
        self.name = f"diffusers {kind} {hub.identity(settings.model, folder)}"
        shaping = {"size", "safety_checker", "variant", "vae_tiling", "load"}
        made_by = {**self._arguments, **settings.model_dump(include=shaping, exclude_defaults=True)}
        self.settings = f"{task} {dtype} {json.dumps(made_by, sort_keys=True, default=str)}"
        self._device = device
        self._reads_tokens = longest_prompt(self._pipeline, self._arguments)

    def generate(self, requests: Sequence[GenerateRequest]) -> list[MadeImage | MaiaError]:
        """Return one image or typed failure per request, in order; see `ImageMaker`."""
        if self._task != "generate":
            return [_cannot(self.name, "generate") for _ in requests]
        sizes = dict.fromkeys(range(len(requests)), self._size())
        texts = [request.prompt for request in requests]
        return self._make(requests, texts, [None] * len(requests), sizes)

    def edit(self, requests: Sequence[EditRequest]) -> list[MadeImage | MaiaError]:
        """Return one image or typed failure per request, in order; see `ImageMaker`."""
        if self._task != "edit":
            return [_cannot(self.name, "edit") for _ in requests]
        sizes = {index: self._size() or _trimmed(r.image.size) for index, r in enumerate(requests)}
        sources = [_fitted(r.image, sizes[index]) for index, r in enumerate(requests)]
        return self._make(requests, [request.instruction for request in requests], sources, sizes)

    def _size(self) -> tuple[int, int] | None:
        size = self._settings.size
        return (size, size) if isinstance(size, int) else size

    def _make(
        self,
        requests: Sequence[GenerateRequest | EditRequest],
        texts: Sequence[str],
        sources: Sequence[PIL.Image.Image | None],
        sizes: dict[int, Any],
    ) -> list[MadeImage | MaiaError]:
        results: dict[int, MadeImage | MaiaError] = {}
        todo: list[int] = []
        for index, request in enumerate(requests):
            if not 0 <= request.seed <= _MAX_SEED:
                results[index] = UsageError(f"a seed must be in 0..{_MAX_SEED}, got {request.seed}")
            elif not texts[index].strip():
                results[index] = UsageError("a prompt must have words, got an empty one")
            else:
                todo.append(index)
        for attempt in range(self._settings.refusal_retries + 1):
            seeds = {index: derived_seed(requests[index].seed, attempt) for index in todo}
            refused = []
            for batch in _batches(todo, sizes, self.max_batch):
                draw = functools.partial(
                    self._draw, texts=texts, sources=sources, size=sizes[batch[0]], seeds=seeds
                )
                pictures = run_in_halves(batch, draw, self._failure)
                for index, picture in zip(batch, pictures, strict=True):
                    if isinstance(picture, RefusedError):
                        refused.append(index)
                        results[index] = picture
                    elif isinstance(picture, MaiaError):
                        results[index] = picture
                    else:
                        results[index] = self._made(requests[index], picture, seeds[index], attempt)
            todo = refused
        return [results[index] for index in range(len(requests))]

    def _draw(
        self,
        batch: Sequence[int],
        texts: Sequence[str],
        sources: Sequence[PIL.Image.Image | None],
        size: tuple[int, int] | None,
        seeds: dict[int, int],
    ) -> list[np.ndarray | MaiaError]:
        """Return uint8 (H, W, 3) or a typed failure for each index of `batch`."""
        import torch

        arguments: dict[str, Any] = {
            **self._sized(size),
            **self._arguments,
            "prompt": [texts[index] for index in batch],
            "generator": [torch.Generator("cpu").manual_seed(seeds[index]) for index in batch],
            "output_type": "np",
        }
        if self._task == "edit":
            arguments["image"] = [sources[index] for index in batch]
            if not self._batches:
                arguments |= {name: arguments[name][0] for name in ("prompt", "image")}
        return self._checked(self._pipeline(**arguments), len(batch))

    def _sized(self, size: tuple[int, int] | None) -> dict[str, int]:
        """Return the call's size arguments; some editors choose their own unless `size` is set."""
        scales = "max_area" in self._takes
        if size is None or "height" not in self._takes or (scales and self._settings.size is None):
            return {}
        area = {"max_area": size[0] * size[1]} if scales else {}
        return {"height": size[0], "width": size[1], **area}

    def _failure(self, index: int, error: Exception) -> MaiaError:
        if hub.is_out_of_memory(error):
            return hub.OutOfMemoryError(
                f"{self.name} ran out of memory on a single image on {self._device}.",
                "Lower `size`, or set `offload: model`, `attention_slicing` or `vae_tiling`.",
            )
        return BackendError(
            f"{self.name} failed: {type(error).__name__}: {error}",
            "If it names an argument, see `call`, `steps` and `size` in the configuration.",
        )

    def _checked(self, output: Any, count: int) -> list[np.ndarray | MaiaError]:
        images = np.asarray(output.images, dtype=np.float32)
        if images.shape[0] != count or images.ndim != 4 or images.shape[3] != 3:
            raise BackendError(f"{self.name} was asked for {count} RGB images and returned {images.shape}")
        flags = getattr(output, "nsfw_content_detected", None) or [False] * count
        results: list[np.ndarray | MaiaError] = []
        for image, flagged in zip(images, flags, strict=True):
            if flagged:
                tries = self._settings.refusal_retries + 1
                results.append(
                    RefusedError(
                        f"the safety checker of {self._settings.model} withheld the image {tries} times.",
                        "Reword the prompt.",
                    )
                )
            elif not np.isfinite(image).all():
                results.append(
                    BackendError(
                        f"{self.name} produced values that are not finite numbers.",
                        "Some models overflow in float16: set `dtype` to bfloat16 or float32.",
                    )
                )
            else:
                results.append((image.clip(0, 1) * 255).round().astype(np.uint8))
        return results

    def _made(
        self, request: GenerateRequest | EditRequest, pixels: np.ndarray, seed: int, attempt: int
    ) -> MadeImage:
        text = request.prompt if isinstance(request, GenerateRequest) else request.instruction
        notes = list(self._unread(text))
        if attempt:
            notes.append(f"the safety checker withheld {attempt} earlier draws; this one has another seed")
        maker = f"{self.name} {self.settings}"
        if isinstance(request, GenerateRequest):
            made = Provenance("generated", maker, text, seed)
        else:
            known = request.provenance or Provenance("unknown")
            made = Provenance(
                "edited", maker, known.prompt, seed, edits=(*known.edits, text), parent=request.image.id
            )
        return MadeImage(Image.from_pixels(pixels), replace(made, notes=tuple(notes)))

    def _unread(self, text: str) -> list[str]:
        """Return a note if the text is longer than what the pipeline's text encoders read."""
        if self._reads_tokens is None:
            return []
        tokenizer, limit = self._reads_tokens
        count = len(tokenizer(text, truncation=False, verbose=False).input_ids)
        return [f"only the first {limit} of {count} tokens of the text were read"] if count > limit else []

    def describe(self) -> BackendFacts:
        """Return plain facts for `maia doctor` and logs."""
        return {
            "model": self._settings.model,
            "pipeline": type(self._pipeline).__name__,
            "task": self._task,
            "device": self._device,
            "settings": self.settings,
        }


def _cannot(name: str, verb: str) -> UsageError:
    return UsageError(
        f"{name} cannot {verb} images.",
        "Set `generation.editor` to an instruction editor." if verb == "edit" else "",
    )


def _batches(indices: Sequence[int], sizes: dict[int, Any], most: int) -> list[list[int]]:
    """Group indices whose images have the same size into batches of at most `most`, in order."""
    by_size: dict[Any, list[int]] = defaultdict(list)
    for index in indices:
        by_size[sizes[index]].append(index)
    return [group[i : i + most] for group in by_size.values() for i in range(0, len(group), most)]


def _trimmed(size: tuple[int, int]) -> tuple[int, int]:
    height, width = (max(_GRAIN, side // _GRAIN * _GRAIN) for side in size)
    return height, width


def _fitted(image: Image, size: tuple[int, int]) -> PIL.Image.Image:
    picture = image.to_pil()
    if image.size == size:
        return picture
    return picture.resize((size[1], size[0]), PIL.Image.Resampling.LANCZOS)
