from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from actors.detection.settings import DetectionSettings
from actors.errors import UsageError
from actors.generation.base import EditRequest, GenerateRequest, MadeImage
from actors.generation.factory import available, build_backend
from actors.generation.settings import GenerationSettings
from actors.images import Image
from actors.serving.pool import LocalPool

pytestmark = [
    pytest.mark.usefixtures("one_torch_thread"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def settings(**values: object) -> GenerationSettings:
    read: GenerationSettings = TypeAdapter(GenerationSettings).validate_python(values)
    return read


async def test_a_generator_and_its_editor_share_one_backend(
    pipeline_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    wanted = settings(
        backend="diffusers",
        model=str(pipeline_folder("stable_diffusion")),
        steps=1,
        size=32,
        store=str(tmp_path / "made"),
        editor={"backend": "diffusers", "model": str(pipeline_folder("instruct_pix2pix")), "steps": 1},
    )
    async with LocalPool(build_backend(wanted)) as pool:
        made = await pool.submit(GenerateRequest("a dog", 0))
        edited = await pool.submit(EditRequest(made.image, "make it red", 0, made.provenance))
        facts = (await pool.describe()).backend
    assert isinstance(edited, MadeImage)
    assert edited.provenance.parent == made.image.id
    assert (facts["generator"]["task"], facts["editor"]["task"]) == ("generate", "edit")
    assert len(list((tmp_path / "made").rglob("*.png"))) == 2


async def test_editing_without_an_editor_is_refused_in_words(pipeline_folder: Callable[[str], Path]) -> None:
    wanted = settings(backend="diffusers", model=str(pipeline_folder("stable_diffusion")), steps=1, size=32)
    async with LocalPool(build_backend(wanted)) as pool:
        with pytest.raises(UsageError, match=r"generation\.editor"):
            await pool.submit(EditRequest(Image.from_pixels(np.ones((8, 8, 3), np.uint8)), "red", 0))


async def test_without_a_choice_scenes_are_drawn_and_edited() -> None:
    async with LocalPool(build_backend(settings(backend="scenes"))) as pool:
        made = await pool.submit(GenerateRequest("a red apple on grass", 0))
        edited = await pool.submit(
            EditRequest(made.image, "replace the apple with a dog", 0, made.provenance)
        )
    assert made.image != edited.image
    assert "stand-in" in made.provenance.maker


@pytest.mark.parametrize(
    "wrong",
    [
        {"backend": "diffusers"},
        {"backend": "diffusers", "model": "x", "size": 100},
        {"backend": "diffusers", "model": "x", "steps": 0},
        {"backend": "diffusers", "model": "x", "stepz": 3},
        {"backend": "dalle", "model": "x"},
        {"backend": "openai-images", "model": "x", "size": "big"},
    ],
)
def test_bad_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        settings(**wrong)


def test_the_examples_of_the_documentation_are_valid() -> None:
    page = Path(__file__).parents[3] / "docs" / "backends.md"
    kinds = {"generation": GenerationSettings, "detection": DetectionSettings}
    examples = [
        yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    ]
    assert len(examples) >= 7
    for example in examples:
        for kind, values in example.items():
            TypeAdapter(kinds[kind]).validate_python(values)


def test_availability_needs_no_loading_and_no_network(tmp_path: Path) -> None:
    able, sentence = available(settings(backend="diffusers", model="owner/name"), {})
    assert able == "not asked"
    assert "hub was not asked" in sentence
    able, sentence = available(settings(backend="diffusers", model=str(tmp_path / "nowhere")), {})
    assert able == "missing"
    assert "nowhere" in sentence
    endpoint = settings(backend="openai-images", model="x")
    assert available(endpoint, {})[0] == "missing"
    able, sentence = available(endpoint, {"OPENAI_API_KEY": "sk-secret"})
    assert able == "not asked"
    assert "sk-secret" not in sentence
