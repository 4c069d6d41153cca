"""The interface of image makers: text to image, and instruction editing.

A backend is a plain class without Ray. Each request carries its own seed, so that an image depends
on its request alone and never on the batch it was made in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from actors.errors import MaiaError
from actors.images import Image, Provenance


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One image from one prompt."""

    prompt: str
    seed: int


@dataclass(frozen=True, slots=True)
class EditRequest:
    """One image changed by one instruction ("replace the dog with a cat").

    `provenance` is what is known of the image; a backend may use its recipe, and must work without.
    """

    image: Image
    instruction: str
    seed: int
    provenance: Provenance | None = None


@dataclass(frozen=True, slots=True)
class MadeImage:
    """An image with how it was made. `provenance.notes` says what of the request could not be done.

    `dollars` is what was charged for making it now: 0 for one that was made before, None where the price is
    unknown.
    """

    image: Image
    provenance: Provenance
    dollars: float | None = 0.0


class ImageMaker(Protocol):
    """Generates and edits images. Blocking; called from one worker thread."""

    name: str
    """Backend, model and weights in one line: part of every cache key."""

    settings: str
    """Everything else that an image depends on (steps, guidance, size ...), as one line."""

    max_batch: int

    def generate(self, requests: Sequence[GenerateRequest]) -> list[MadeImage | MaiaError]:
        """Return one image or one typed failure for each request, in order."""

    def edit(self, requests: Sequence[EditRequest]) -> list[MadeImage | MaiaError]:
        """Return one image or one typed failure for each request, in order."""
