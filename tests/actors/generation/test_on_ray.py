"""The factories as Ray actors call them: by name, with settings that travel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from actors.detection.base import Detection
from actors.detection.client import PoolDetector
from actors.detection.settings import GroundingDetection
from actors.errors import UsageError
from actors.generation.base import MadeImage
from actors.generation.client import PoolImageMaker
from actors.generation.settings import DiffusersEditor, DiffusersGeneration
from actors.serving.cluster import Cluster
from actors.settings import Placement
from tests.actors.detection import tiny_detectors

pytestmark = [
    pytest.mark.ray,
    pytest.mark.anyio,
    pytest.mark.timeout(400),  # each actor imports torch, diffusers and transformers
    pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning"),
]


async def test_images_are_made_edited_and_searched_by_actors(
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
    detection = GroundingDetection(
        detector=str(tiny_detectors.save_grounding_dino(tmp_path / "dino")),
        segmenter=str(tiny_detectors.save_sam(tmp_path / "sam")),
    )
    async with Cluster.start() as cluster:
        studio = PoolImageMaker(
            cluster.pool(
                "studio", "actors.generation.factory:build_backend", {"settings": generation}, placement
            )
        )
        detector = PoolDetector(
            cluster.pool(
                "detector", "actors.detection.factory:build_backend", {"settings": detection}, placement
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
        found = await detector.detect([dog.image, edited.image], ["dog", "red"])
    assert all(isinstance(each, Detection) and each.mask.shape == (32, 32) for each in found)
    assert len(list((tmp_path / "made").rglob("*.png"))) == 3
