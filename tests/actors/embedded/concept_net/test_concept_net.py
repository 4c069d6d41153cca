"""The concept net finds what is drawn, also in images that were masked, and knows what each output stands
for.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actors.embedded.concept_net.concept_net import (
    INPUT_SIZE,
    WEIGHTS,
    ConceptNet,
    build_network,
    class_names,
    preprocess,
)
from actors.embedded.drawing.masked import restore, visible_region
from actors.embedded.drawing.render import render, render_with_masks
from actors.embedded.drawing.sampling import random_scene
from actors.embedded.drawing.scene import Placed, Scene
from actors.embedded.editing.edit import edit_image
from actors.embedded.editing.retouch import PixelCanvas
from actors.errors import UsageError
from actors.images import Image, decode, encode_jpeg
from actors.masks import active_region, paint
from benchmarks.bench_concept_net import measure_singles, prompted


@pytest.fixture(scope="module")
def net() -> ConceptNet:
    import torch

    # Small passes on a machine with other work: a second thread mostly waits.
    torch.set_num_threads(1)
    return ConceptNet.load()


def picture(scene: Scene, size: int = 224) -> Image:
    return Image.from_pixels(render(scene, size))


TWO = Scene("beach", None, (Placed("pizza", 0.27, 0.5, 0.4), Placed("tractor", 0.74, 0.55, 0.42)), 5)


def test_the_weights_are_small() -> None:
    assert WEIGHTS.stat().st_size <= 8_000_000


@pytest.mark.slow
def test_concepts_are_found_in_fresh_scenes(net: ConceptNet) -> None:
    """The floors promised of the net, on few images; `benchmarks.bench_concept_net` gives the figures."""
    plain = measure_singles(net, prompted(96, 5, colored=False))
    assert plain.top1 >= 0.95
    assert plain.mask_iou >= 0.6
    assert plain.background >= 0.9
    assert measure_singles(net, prompted(64, 6, colored=True)).top1 >= 0.8


def test_images_of_any_size_are_seen_and_masks_have_their_size(net: ConceptNet) -> None:
    tall = Image.from_pixels(render(TWO, 224)[:, 20:200])
    sightings = net.look([picture(TWO, 64), picture(TWO, 96), picture(TWO, 500), tall])
    for sighting, size in zip(sightings, [(64, 64), (96, 96), (500, 500), (224, 180)], strict=True):
        assert sighting.mask("pizza").shape == size
        assert all(0 <= score <= 1 for score in sighting.scores.values())
        assert sum(sighting.backgrounds.values()) == pytest.approx(1, abs=1e-3)
    assert all(sighting.background == "beach" for sighting in sightings)


def test_what_is_seen_does_not_depend_on_the_batch(net: ConceptNet) -> None:
    images = [picture(random_scene(np.random.default_rng(seed))) for seed in range(5)]
    for image, together in zip(images, net.look(images), strict=True):
        alone = net.look([image])[0]
        assert max(abs(alone.scores[name] - score) for name, score in together.scores.items()) < 1e-4


def test_things_are_objects_with_masks_boxes_and_colors(net: ConceptNet) -> None:
    scene = Scene(
        "snow",
        None,
        (Placed("car", 0.25, 0.5, 0.38, "red"), Placed("car", 0.76, 0.5, 0.36, "green")),
        2,
    )
    things = net.look([picture(scene)])[0].things()
    masks = render_with_masks(scene)[1]
    assert [thing.concept for thing in things] == ["car", "car"]
    assert {thing.color for thing in things} == {"red", "green"}
    for thing in things:
        truth = masks[0 if thing.color == "red" else 1]
        assert (thing.mask & truth).sum() / (thing.mask | truth).sum() > 0.5
        x0, y0, x1, y1 = thing.box
        assert thing.mask[y0:y1, x0:x1].sum() == thing.mask.sum()


def test_only_the_visible_part_of_a_masked_image_counts(net: ConceptNet) -> None:
    field = np.zeros((28, 28), np.float32)
    field[4:24, 15:27] = 1
    masked = paint(picture(TWO), field, 0.5)
    sighting = net.look([masked])[0]
    assert sighting.visible is not None
    assert sighting.scores["tractor"] > 0.6
    assert sighting.scores["pizza"] < 0.2
    assert not sighting.mask("pizza").any()
    plain = net.look([picture(TWO)])[0]
    assert plain.visible is None
    assert plain.scores["pizza"] > 0.6


def test_the_visible_region_is_read_from_pixels_also_after_jpeg() -> None:
    rng = np.random.default_rng(3)
    overlaps, missed = [], 0
    for i in range(40):
        image = picture(random_scene(rng, background=("grass", "beach", "snow", "wood")[i % 4]))
        field = rng.random((7, 7)).astype(np.float32)
        threshold = float(np.quantile(field, rng.uniform(0.6, 0.95)))
        masked = paint(image, field, threshold)
        if i % 2:
            masked = decode(encode_jpeg(masked))
        region, truth = visible_region(masked), active_region(field, threshold, (224, 224))
        if region is None:
            missed += 1
        else:
            overlaps.append((region & truth).sum() / (region | truth).sum())
    assert missed <= 4
    assert np.mean(overlaps) > 0.9


def test_unmasked_scenes_are_not_taken_for_masked_ones() -> None:
    rng = np.random.default_rng(4)
    for i in range(60):
        background = "night" if i % 2 else None
        assert visible_region(picture(random_scene(rng, background=background))) is None
    red_ball = Scene("night", None, (Placed("circle", 0.5, 0.5, 0.5, "red"),), 1)
    assert visible_region(picture(red_ball)) is None


def test_restoring_undoes_the_darkening() -> None:
    image = picture(TWO)
    field = np.zeros((8, 8), np.float32)
    field[2:5, 2:5] = 1
    masked = paint(image, field, 0.5)
    region = visible_region(masked)
    assert region is not None
    restored = restore(masked.pixels, region).astype(int)
    assert np.abs(restored - image.pixels)[~region].mean() < 3


def test_the_network_to_study_names_its_units(net: ConceptNet) -> None:
    import torch

    network = build_network()
    assert len(network.class_names) == network.concepts.out_channels
    assert network.preprocessing["size"] == INPUT_SIZE
    batch = torch.from_numpy(preprocess([render(TWO)]))
    taps: list[torch.Tensor] = []
    network.concepts.register_forward_hook(lambda module, inputs, output: taps.append(output))
    with torch.inference_mode():
        logits = network(batch)
    assert logits.shape == (1, len(class_names()))
    assert taps[0].shape == (1, len(class_names()), INPUT_SIZE // 4, INPUT_SIZE // 4)
    assert torch.equal(taps[0].amax((2, 3)), logits)
    best = [network.class_names[i] for i in logits[0, :-18].topk(2).indices]
    assert set(best) == {"pizza", "tractor"}


def test_weights_of_another_vocabulary_and_missing_ones_are_refused(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors", metadata={"classes": "dog|cat"})
    with pytest.raises(UsageError, match="other concepts"):
        build_network(tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match="no weights"):
        build_network(tmp_path / "none.safetensors")


@pytest.mark.slow
def test_pixels_of_unknown_recipe_are_edited_where_the_object_is(net: ConceptNet) -> None:
    image = Image.from_pixels(render(TWO)[:, :200])
    _, masks = render_with_masks(TWO)
    away = ~(masks[0] | masks[1])[:, :200]
    removed = edit_image(image, "remove the pizza", 2)
    assert removed.changed
    assert "recipe is not known" in removed.notes[0]
    assert net.look([removed.image])[0].scores["pizza"] < 0.4
    assert (np.abs(removed.image.pixels.astype(int) - image.pixels)[away] == 0).mean() > 0.85
    replaced = edit_image(image, "replace the pizza with a strawberry", 2)
    assert net.look([replaced.image])[0].scores["strawberry"] > 0.5
    painted = edit_image(image, "make the pizza blue", 2)
    assert (np.asarray(painted.image.pixels)[masks[0][:, :200]].mean(0).argmax()) == 2
    moved = edit_image(image, "change the background to snow", 2)
    assert net.look([moved.image])[0].background == "snow"


def test_an_edit_of_an_absent_object_leaves_the_pixels() -> None:
    image = Image.from_pixels(render(Scene("grass", texture=2))[:, 5:])
    for instruction in ("remove the giraffe", "change the background to snow"):
        edited = edit_image(image, instruction)
        assert edited.image == image
        assert not edited.changed
        assert edited.notes


def test_a_hole_in_a_texture_is_filled_with_the_texture(net: ConceptNet) -> None:
    scene = Scene("grass", None, (Placed("pizza", 0.5, 0.5, 0.5),), 9)
    canvas = PixelCanvas(picture(scene), 1, net)
    canvas.remove(0)
    mask = render_with_masks(scene)[1][0]
    filled = canvas.image().pixels[mask].astype(float)
    grass = render(Scene("grass", texture=9))[mask].astype(float)
    assert np.abs(filled.mean(0) - grass.mean(0)).max() < 25
    assert filled.std() > 0.4 * grass.std()
