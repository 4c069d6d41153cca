"""A factory as a Ray actor calls it: by name, with settings that are pickled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from actors.errors import UsageError
from actors.generation.base import MadeImage
from actors.generation.client import PoolImageMaker
from actors.generation.settings import DiffusersEditor, DiffusersGeneration
from actors.serving.cluster import Cluster
from actors.settings import Placement

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(400),  # each actor imports torch, diffusers and transformers
    pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning"),
]


@pytest.mark.slow
async def test_images_are_made_and_edited_by_an_actor(
    ray_cluster: None, pipeline_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    placement = Placement(threads=1)
    generation = DiffusersGeneration(
        model=str(pipeline_folder("stable_diffusion")),
        size=32,
        steps=1,
        store=str(tmp_path / "made"),
        editor=DiffusersEditor(model=str(pipeline_folder("instruct_pix2pix")), steps=1),
    )
    async with Cluster.start() as cluster:
        studio = PoolImageMaker(
            cluster.pool(
                "studio", "actors.generation.factory:build_backend", {"settings": generation}, placement
            )
        )
        dog, cat, empty = await studio.generate(["a dog", "a cat", " "], [0, 1, 2], agent="one")
        assert isinstance(dog, MadeImage)
        assert isinstance(cat, MadeImage)
        assert isinstance(empty, UsageError)
        (edited,) = await studio.edit([dog.image], ["make it red"], [3], [dog.provenance])
        assert isinstance(edited, MadeImage)
        assert edited.provenance.parent == dog.image.id
        assert (await studio.generate(["a dog"], [0]))[0] == dog
    assert len(list((tmp_path / "made").rglob("*.png"))) == 3
