"""The embedded image maker: any prompt gives an image, and what is not in it is noted."""

from __future__ import annotations

import numpy as np

from actors.embedded.drawing.scene import Scene
from actors.embedded.image_maker import ScenesMaker
from actors.generation.base import EditRequest, GenerateRequest, MadeImage
from actors.images import Image, Provenance


def made(result: object) -> MadeImage:
    assert isinstance(result, MadeImage)
    return result


def test_the_name_says_that_it_is_a_stand_in_and_what_it_draws_with() -> None:
    from actors.embedded.drawing.render import digest

    assert "stand-in" in ScenesMaker().name
    assert digest() in ScenesMaker().name


def test_each_prompt_gives_one_image_that_depends_on_its_request_alone() -> None:
    maker = ScenesMaker()
    requests = [GenerateRequest(prompt, seed) for prompt in ("a dog", "two owls on snow") for seed in (0, 1)]
    together = [made(result) for result in maker.generate(requests)]
    alone = [made(maker.generate([request])[0]) for request in requests]
    assert [one.image.id for one in together] == [one.image.id for one in alone]
    assert len({one.image.id for one in together}) == 4
    assert all(one.image.size == (224, 224) for one in together)


def test_an_image_carries_its_recipe_and_what_could_not_be_drawn() -> None:
    image = made(ScenesMaker().generate([GenerateRequest("a red car with a zorblax", 3)])[0])
    scene = Scene.from_dict(image.provenance.recipe)
    assert [placed.words for placed in scene.objects] == ["red car"]
    assert any("zorblax" in note for note in image.provenance.notes)
    assert Provenance.from_json(image.provenance.to_json()).recipe == image.provenance.recipe


def test_an_edit_of_a_known_image_is_exact_and_can_be_edited_again() -> None:
    maker = ScenesMaker()
    first = made(maker.generate([GenerateRequest("a dog and a red car on the grass", 2)])[0])
    second = made(
        maker.edit([EditRequest(first.image, "replace the dog with a cat", 5, first.provenance)])[0]
    )
    third = made(maker.edit([EditRequest(second.image, "make the car blue", 6, second.provenance)])[0])
    names = [placed.words for placed in Scene.from_dict(third.provenance.recipe).objects]
    assert sorted(names) == ["blue car", "cat"]
    assert third.provenance.edits == ("replace the dog with a cat", "make the car blue")
    assert third.provenance.parent == second.image.id
    assert third.provenance.source == "edited"


def test_an_instruction_that_cannot_be_carried_out_leaves_the_image_and_says_so() -> None:
    maker = ScenesMaker()
    first = made(maker.generate([GenerateRequest("a dog", 2)])[0])
    edited = made(
        maker.edit([EditRequest(first.image, "replace the horse with a cow", 5, first.provenance)])[0]
    )
    assert edited.image == first.image
    assert any("horse" in note for note in edited.provenance.notes)


def test_a_photograph_without_recipe_and_a_recipe_of_another_maker_are_edited_from_pixels() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (90, 130, 3), dtype=np.uint8)
    image = Image.from_pixels(noise)
    foreign = Provenance("generated", maker="another", recipe={"steps": 4})
    for provenance in (None, foreign):
        edited = made(ScenesMaker().edit([EditRequest(image, "remove the giraffe", 1, provenance)])[0])
        assert edited.image == image
        assert any("giraffe" in note for note in edited.provenance.notes)
