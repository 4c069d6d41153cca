"""The embedded image maker: draws and edits scenes of sprites. A stand-in for a diffusion model, and says so.

Its images carry their scene as the recipe, and everything a prompt asked for that it cannot draw as notes.
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.embedded.drawing.grammar import parse_prompt
from actors.embedded.drawing.lexicon import words_digest
from actors.embedded.drawing.render import digest, render
from actors.embedded.drawing.scene import Scene
from actors.embedded.editing.edit import edit_image
from actors.errors import MaiaError, UsageError
from actors.generation.base import EditRequest, GenerateRequest, MadeImage
from actors.generation.settings import ScenesGeneration
from actors.images import Image, Provenance

IMAGE_SIZE = 224
"""Side of the images, pixels."""


class ScenesMaker:
    """An `ImageMaker` without weights; the concept net is loaded only to edit images of unknown recipe."""

    max_batch = 16

    def __init__(self, settings: ScenesGeneration | None = None) -> None:
        withheld = (settings or ScenesGeneration()).withheld
        self._lacking = withheld.concepts()
        self.name = f"scenes (embedded stand-in) {digest()}-{words_digest()}"
        if self._lacking:
            self.name += f" without {len(self._lacking)} concepts (seed {withheld.seed})"
        self.settings = f"size={IMAGE_SIZE}"

    def generate(self, requests: Sequence[GenerateRequest]) -> list[MadeImage | MaiaError]:
        """Return one scene for each prompt; any text gives an image, with notes on what is not in it."""
        return [self._generate(request) for request in requests]

    def _generate(self, request: GenerateRequest) -> MadeImage:
        reading = parse_prompt(request.prompt, request.seed, self._lacking)
        return MadeImage(
            Image.from_pixels(render(reading.scene, IMAGE_SIZE)),
            Provenance(
                "generated",
                maker=self.name,
                prompt=request.prompt,
                seed=request.seed,
                recipe=reading.scene.to_dict(),
                notes=reading.notes,
            ),
        )

    def edit(self, requests: Sequence[EditRequest]) -> list[MadeImage | MaiaError]:
        """Return each image changed, or unchanged with a note where the instruction cannot be carried out."""
        return [self._edit(request) for request in requests]

    def _edit(self, request: EditRequest) -> MadeImage:
        known = request.provenance or Provenance("unknown")
        edited = edit_image(request.image, request.instruction, request.seed, _scene_of(known), self._lacking)
        return MadeImage(
            edited.image,
            Provenance(
                "edited",
                maker=self.name,
                prompt=known.prompt,
                seed=request.seed,
                edits=(*known.edits, request.instruction),
                parent=request.image.id,
                recipe=edited.scene.to_dict() if edited.scene is not None else {},
                notes=edited.notes,
            ),
        )


def _scene_of(provenance: Provenance) -> Scene | None:
    """Return the scene in a recipe; None for another maker's recipe, which is edited from pixels."""
    try:
        return Scene.from_dict(provenance.recipe) if provenance.recipe else None
    except UsageError:
        return None
