"""What an agent's program may ask for, and what it gets."""

from __future__ import annotations

import json

import numpy as np
import pytest

from actors.images import Image, Provenance
from tests.tools.fakes import FakeObservers, FakeStudio, FakeSubject, darken, picture_of
from tools.album import Album
from tools.screen import Screen
from tools.system import SubjectSystem
from tools.toolbox import Toolbox, ToolFailedError, ToolLimits


@pytest.fixture
def studio():
    return FakeStudio()


def toolbox(studio: FakeStudio, **options: object) -> Toolbox:
    subject = FakeSubject(studio, lambda shown: 3.14159 if "dog" in shown else 0.1)
    system = SubjectSystem(subject, darken)
    return Toolbox(system, studio, FakeObservers(), **{"seed": 0, **options})  # type: ignore[arg-type]


async def test_activations_are_shown_with_two_decimals_and_with_masked_images(studio):
    box = toolbox(studio)
    images = (await box.call("text2image", {"prompts": ["a dog", "a cat"]}))["images"]
    answer = await box.call("measure", {"images": images})
    assert answer["activations"] == [3.14, 0.1]
    assert [image.size for image in answer["images"]] == [image.size for image in images]
    assert answer["images"] != images


async def test_the_same_prompt_again_is_a_fresh_image_and_two_agents_share_each_draw(studio):
    one, two = toolbox(studio), toolbox(studio)
    first = (await one.call("text2image", {"prompts": ["a dog", "a dog"]}))["images"]
    second = (await one.call("text2image", {"prompts": ["a dog"]}))["images"]
    assert len({image.id for image in first + second}) == 3
    shared = (await two.call("text2image", {"prompts": ["a dog"], "n": 3}))["images"]
    assert shared == first + second


async def test_another_run_seed_draws_other_images_also_seed_zero(studio):
    images = [
        (await toolbox(studio, seed=seed).call("text2image", {"prompts": ["a dog"]}))["images"][0]
        for seed in (0, 1, 42)
    ]
    assert len(set(images)) == 3


async def test_exemplars_set_the_threshold_to_their_mean(studio):
    box = toolbox(studio)
    answer = await box.call("exemplars", {})
    assert len(answer["images"]) == 15
    assert answer["activations"] == sorted(answer["activations"], reverse=True)
    assert (await box.call("state", {}))["activation_threshold"] == pytest.approx(
        sum(answer["activations"]) / 15
    )


async def test_an_edit_of_a_masked_image_edits_the_picture_under_the_mask(studio):
    box = toolbox(studio)
    answer = await box.call("exemplars", {})
    edited = await box.call(
        "edit", {"images": answer["images"][:1], "instructions": ["replace it with a dog"]}
    )
    assert studio.shows[edited["images"][0].id] == "dataset image 0, then: replace it with a dog"


async def test_one_refused_image_is_named_and_the_rest_is_not_made_twice(studio):
    box = toolbox(studio)
    with pytest.raises(ToolFailedError, match=r"1 of 2 .*'a forbidden thing'"):
        await box.call("text2image", {"prompts": ["a dog", "a forbidden thing"]})
    again = (await box.call("text2image", {"prompts": ["a dog"]}))["images"]
    assert len({seed for prompt, seed in studio.made if prompt == "a dog"}) == 1
    assert studio.shows[again[0].id] == "a dog"


async def test_the_image_limit_is_reported_before_anything_is_made(studio):
    box = toolbox(studio, limits=ToolLimits(max_images=3))
    await box.call("text2image", {"prompts": ["a dog"], "n": 2})
    with pytest.raises(ToolFailedError, match="1 are left"):
        await box.call("text2image", {"prompts": ["a cat"], "n": 2})
    assert len(studio.made) == 2


async def test_what_is_logged_is_shown_in_order_with_the_reminder_below_the_threshold(studio):
    box = toolbox(studio)
    await box.call("exemplars", {})
    image = picture_of("x")
    await box.call("display", {"items": ["look", image]})
    await box.call("log", {"activations": [0.5], "images": [image], "titles": ["a cat"], "texts": "sits"})
    shown = box.screen.take()
    assert shown[:5] == ["look", image, "a cat: activation 0.50", image, "sits"]
    assert "Continue" in shown[5]
    assert box.screen.take() == []


async def test_a_restored_toolbox_goes_on_where_it_was(studio):
    box = toolbox(studio)
    first = (await box.call("text2image", {"prompts": ["a dog"]}))["images"]
    await box.call("exemplars", {})
    await box.call("log", {"activations": [1.0], "images": first, "titles": ["t"], "texts": ["x"]})
    snapshot = json.loads(json.dumps(box.snapshot()))
    again = toolbox(studio)
    again.restore(snapshot, box.album.held)
    assert await again.call("state", {}) == await box.call("state", {})
    assert (await again.call("text2image", {"prompts": ["a dog"]})) == (
        await box.call("text2image", {"prompts": ["a dog"]})
    )
    assert again.snapshot() == box.snapshot()


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("edit", {"images": [picture_of("a")], "instructions": []}),
        ("describe", {"images": [], "titles": ["a"]}),
        ("summarize", {"images": []}),
        ("measure", {"images": []}),
        ("log", {"activations": [1.0], "images": [], "titles": [], "texts": []}),
        ("__init__", {}),
    ],
)
async def test_bad_calls_are_answered_in_words(studio, method, arguments):
    with pytest.raises(ToolFailedError):
        await toolbox(studio).call(method, arguments)


class Disk(dict):
    """Keeps what it is given, as a run's folder does."""

    def put(self, images):
        for image in images:
            assert image.id not in self or self[image.id] == image
            self[image.id] = image


def large(value: int) -> Image:
    return Image.from_pixels(np.full((2048, 2048, 3), value, np.uint8))


async def test_images_are_held_in_memory_only_until_they_are_on_disk(studio):
    """A program may measure many gigabytes of pixels; an edit still finds the picture under a mask."""
    disk = Disk()
    album = Album(disk)
    for value in range(12):
        album.add(large(value), Provenance("program"))
        album.add(picture_of(f"mask {value}"), Provenance("masked", parent=large(value).id))
        await album.spill()
        assert sum(image.pixels.nbytes for image in album.held.values()) <= 80 << 20
    assert len(disk) >= 10
    assert album.under_mask(picture_of("mask 0")) == large(0)
    album.release()
    assert album.held == {}
    assert len(album.record()) == 24


async def test_without_a_disk_images_stay_in_memory(studio):
    album = Album()
    album.add(picture_of("a"), Provenance("program"))
    album.release()
    assert list(album.held) == [picture_of("a").id]


def test_what_is_shown_has_a_bound_and_the_rest_is_counted():
    screen = Screen(max_images=2, max_characters=10)
    screen.show(["12345", picture_of("a"), "", "6789abcdef", picture_of("b")])
    screen.show([picture_of("c"), "never"])
    shown = screen.take()
    assert shown[:4] == ["12345", picture_of("a"), "6789a", picture_of("b")]
    assert "first 2 of 3 images" in shown[4]
    assert "first 10 of 20 characters" in shown[5]
    assert screen.take() == []


async def test_what_an_image_measured_is_recorded_with_what_was_logged(studio):
    """A program may log any number; what the unit answered is in the record by the image's id."""
    box = toolbox(studio)
    images = (await box.call("text2image", {"prompts": ["a dog"]}))["images"]
    masked = (await box.call("measure", {"images": images}))["images"]
    await box.call("log", {"activations": [99.99], "images": masked, "titles": ["a dog"], "texts": ""})
    record = box.snapshot()
    (entry,) = record["log"][0]
    parent = json.loads(record["provenance"][entry["image"]])["parent"]
    assert (entry["activation"], record["measured"][parent]) == (99.99, 3.14)


async def test_observations_of_a_study_have_a_bound_that_is_restored(studio):
    box = toolbox(studio, limits=ToolLimits(max_observations=4))
    images = [picture_of(str(n)) for n in range(3)]
    await box.call("describe", {"images": images, "titles": ["a", "b", "c"]})
    again = toolbox(studio, limits=ToolLimits(max_observations=4))
    again.restore(json.loads(json.dumps(box.snapshot())), {})
    with pytest.raises(ToolFailedError, match="1 are left, but 3"):
        await again.call("describe", {"images": images, "titles": ["a", "b", "c"]})
    await again.call("summarize", {"images": images})
    with pytest.raises(ToolFailedError, match="0 are left"):
        await again.call("summarize", {"images": images})


async def test_made_images_say_whether_they_began_in_the_data_set(studio):
    tools = toolbox(studio)
    generated = await tools.call("text2image", {"prompts": ["a dog", "a cat"]})
    dog, _unmeasured = generated["images"]
    exemplars = await tools.call("exemplars", {})
    edits = await tools.call(
        "edit", {"images": [dog, exemplars["images"][0]], "instructions": ["add snow", "remove the sky"]}
    )
    await tools.call("measure", {"images": [dog, *edits["images"]]})
    made = tools.made()
    assert [each.image for each in made] == [dog.id, *(image.id for image in edits["images"])]
    assert [each.from_data for each in made] == [False, False, True]
    assert [image.wording for image in made] == ["a dog", "add snow", "remove the sky"]
    assert await tools.pictures([made[2].image]) == [edits["images"][1]]
