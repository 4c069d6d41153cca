"""An intervention has the effect that is known in closed form, shares passes, and names no unit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from actors.errors import UsageError
from actors.images import Image
from actors.serving.cluster import Cluster
from actors.serving.pool import LocalPool
from actors.settings import Placement
from actors.vision.backend import VisionBackend
from actors.vision.client import PoolVisionClient
from actors.vision.data.held_out import HeldOutShare
from actors.vision.networks.network import Network, wrap
from actors.vision.readout.base import Unit
from actors.vision.settings import VisionSettings
from tests.actors.vision.sweep.test_accumulators import Numbered
from tests.tools.fakes import FakeObservers, FakeStudio, FakeSubject, darken
from tests.tools.sandbox.conftest import LIMITS
from tools.intervention import Intervention, InterventionError
from tools.sandbox.child.effects import Effects
from tools.sandbox.kernel import KernelServer
from tools.subject import NetworkUnit
from tools.system import SubjectSystem
from tools.toolbox import Toolbox, ToolFailedError, ToolLimits

ONE = Placement(threads=1)
WEIGHTS = np.array([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, -1.0, 1.0], [0.0, 0.0, 0.5]], np.float32)
CLASSES = ("red car", "snowplow, plow", "frog", "sky")
DATASET = Numbered(12, size=8)


class Known(nn.Module):
    """Detectors of the mean red, green, blue and red again; either red is enough for the first class."""

    def __init__(self) -> None:
        super().__init__()
        self.detect = nn.Conv2d(3, 4, 1, bias=False)
        self.shared = nn.Conv2d(4, 4, 1, bias=False)
        self.head = nn.Linear(3, 4, bias=False)
        with torch.no_grad():
            self.detect.weight.copy_(torch.cat([torch.eye(3), torch.eye(3)[:1]])[:, :, None, None])
            self.shared.weight.copy_(torch.eye(4)[:, :, None, None])
            self.head.weight.copy_(torch.from_numpy(WEIGHTS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        red, green, blue, again = self.shared(self.shared(self.detect(x))).relu().mean((2, 3)).unbind(1)
        scores: torch.Tensor = self.head(torch.stack([torch.maximum(red, again), green, blue], 1))
        return scores


def known() -> Network:
    return wrap(Known().eval(), name="known", size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1), class_names=CLASSES)


def backend_of(network: Network) -> VisionBackend:
    return VisionBackend(network, VisionSettings(placement=ONE, device="cpu", batch=16))


@pytest.fixture(scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PoolVisionClient]:
    async with LocalPool(backend_of(known())) as pool:
        yield await PoolVisionClient.connect(
            pool, tmp_path_factory.mktemp("cache"), held_out=HeldOutShare(0.25)
        )


def unit(client: PoolVisionClient, index: int = 1, layer: str = "detect") -> NetworkUnit:
    return NetworkUnit(client, Unit(layer, index), DATASET)


def box_of(subject: Any, **limits: Any) -> Toolbox:
    studio = FakeStudio()
    return Toolbox(
        SubjectSystem(subject, darken), studio, FakeObservers(), seed=0, limits=ToolLimits(**limits)
    )


async def ask(box: Toolbox, images: list[Image], kind: str = "ablate", **more: Any) -> Any:
    arguments = {"images": images, "kind": kind, "value": None, "where": None, "outputs": [], **more}
    return await box.call("intervene", arguments)


def flat(red: int, green: int, blue: int) -> Image:
    return Image.from_pixels(np.full((8, 8, 3), (red, green, blue), np.uint8))


def noise(n: int, seed: int = 1003, shape: tuple[int, int] = (8, 8)) -> list[Image]:
    rng = np.random.default_rng(seed)
    return [Image.from_pixels(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)) for _ in range(n)]


def effect_of(step: float, detector: int = 1) -> np.ndarray:
    """Return the change of the centered logits, (4,), when a detector's mean changes by `step`."""
    change = WEIGHTS[:, detector] * step
    centered: np.ndarray = change - change.mean()
    return centered


def changes(effects: Effects) -> np.ndarray:
    """Return the changes of all classes, (4,), which were asked for by number."""
    assert [each.name for each in effects.asked] == list(CLASSES)
    return np.array([each.change for each in effects.asked])


ALL = ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("kind", "value", "after"),
    [
        ("ablate", None, 0.0),
        ("scale", 0.5, 0.2),
        ("add", 0.25, 0.65),
        ("set", 9, 9.0),
        ("clamp", [0, 0.1], 0.1),
        ("scale", 1, 0.4),
    ],
)
async def test_effects_are_weight_times_change(
    client: PoolVisionClient, kind: str, value: Any, after: float
) -> None:
    effects = await unit(client).intervene([flat(204, 102, 51)], Intervention.of(kind, value, None), ALL)
    expected = effect_of(after - 0.4)
    np.testing.assert_allclose(changes(effects), expected, atol=1e-6)
    (image,) = effects.images
    assert (image.activation, image.edited) == pytest.approx((0.4, after), rel=1e-6)
    assert (effects.floor, effects.exact) == (0.0, True)
    order = [CLASSES[index] for index in np.argsort(-expected, kind="stable") if expected[index] > 1e-6]
    assert [each.name for each in effects.raised] == order
    logits = WEIGHTS @ np.array([0.8, 0.4, 0.2])
    likely = np.exp(logits) / np.exp(logits).sum()
    assert [each.probabilities[0] for each in effects.asked] == pytest.approx(likely.tolist(), rel=1e-5)


async def test_without_one_of_two_copies_nothing_changes(client: PoolVisionClient) -> None:
    effects = await unit(client, 0).intervene(noise(3), Intervention.of("ablate", "zero", None), ALL)
    assert (effects.raised, effects.lowered, changes(effects).tolist()) == ([], [], [0.0] * 4)
    assert [(each.distance, len(set(each.top))) for each in effects.images] == [(0.0, 1)] * 3
    assert "no output changed" in repr(effects)


async def test_the_mean_is_that_of_maps_and_donors_are_averaged_after_their_passes(
    client: PoolVisionClient,
) -> None:
    (image,) = noise(1)
    green = float(image.pixels[:, :, 1].mean() / 255)
    mean = await client.map_mean(Unit("detect", 1), DATASET)
    to_mean = await unit(client).intervene([image], Intervention.of("ablate", "mean", None), ALL)
    np.testing.assert_allclose(changes(to_mean), effect_of(mean - green), atol=1e-6)
    donors = (await client.drawn(DATASET, 6))[:5]
    theirs = float(np.mean([donor.pixels[:, :, 1].mean() / 255 for donor in donors]))
    resampled = await unit(client).intervene([image], Intervention.of("ablate", "resample", None), ALL)
    np.testing.assert_allclose(changes(resampled), effect_of(theirs - green), atol=1e-3)
    assert resampled.about == "ablate by resampling everywhere"


async def test_a_place_is_a_part_of_the_image_or_of_the_units_range(client: PoolVisionClient) -> None:
    """Of a wide image the network sees the middle: a box is in fractions of the image all the same."""
    (wide,) = noise(1, shape=(8, 16))
    seen = wide.pixels[:, 4:12, 1] / 255
    left = await unit(client).intervene([wide], Intervention.of("ablate", None, [0, 0, 1, 0.5]), ALL)
    np.testing.assert_allclose(changes(left), effect_of(-seen[:, :4].sum() / 64), atol=1e-6)
    high = await unit(client).intervene([wide], Intervention.of("ablate", None, 0.5), ALL)
    kept = seen[seen >= seen.max() / 2].sum()
    np.testing.assert_allclose(changes(high), effect_of(-kept / 64), atol=1e-6)
    with pytest.raises(InterventionError, match="outside of the part"):
        await unit(client).intervene([wide], Intervention.of("ablate", None, [0, 0, 1, 0.1]), ALL)


async def test_a_network_without_classes_tells_how_far_its_last_layer_moves(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU())
    module[0].weight.data.copy_(torch.eye(3)[:, :, None, None])
    network = wrap(module.eval(), name="maps", size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1))
    async with LocalPool(backend_of(network)) as pool:
        client = await PoolVisionClient.connect(pool, tmp_path)
        subject = unit(client, 0, "0")
        effects = await subject.intervene([flat(204, 102, 0)], Intervention.of("ablate", None, None))
    (image,) = effects.images
    assert image.distance == pytest.approx(0.8, rel=1e-6)
    assert image.cosine == pytest.approx(0.4 / np.hypot(0.8, 0.4), rel=1e-6)
    assert (image.top, [each.probabilities for each in effects.lowered]) == ([], [[]])


async def test_programs_that_ask_at_once_share_passes_and_nothing_edited_is_kept(tmp_path: Path) -> None:
    backend, images = backend_of(known()), noise(3)
    ablation = Intervention.of("ablate", None, None)
    async with LocalPool(backend) as pool:
        client = await PoolVisionClient.connect(pool, tmp_path)
        before = backend.forwards
        programs = (unit(client, number % 4).intervene(images, ablation, ALL) for number in range(64))
        found = await asyncio.gather(*programs)
        clean, edits, placebos = 3, 4 * 3, 4 * 2
        assert backend.forwards - before == clean + edits + placebos
        for number, effects in enumerate(found):
            assert changes(effects).tolist() == changes(found[number % 4]).tolist()
        (kept,) = await client.activations([Unit("detect", 1)], images)
        assert backend.forwards - before == clean + edits + placebos, "clean values are known"
        own = [float(image.pixels[:, :, 1].max() / 255) for image in images]
        assert kept.tolist() == pytest.approx(own)
        assert [each.activation for each in await unit(client).measure(images)] == pytest.approx(own)


async def test_an_agent_learns_classes_and_no_unit_or_layer(client: PoolVisionClient) -> None:
    box, image = box_of(unit(client)), noise(1)
    answer = await ask(box, image, outputs=["snowplow", "3"])
    assert [each["name"] for each in answer["effects"]["asked"]] == ["snowplow, plow", "sky"]
    assert not {"detect", "known", "shared"} & set(repr(answer).replace(":", " ").split())
    for outputs in (["detect:2"], ["nothing:0"], ["output:0"], ["4"], ["dog"]):
        with pytest.raises(ToolFailedError) as refused:
            await ask(box, image, outputs=outputs)
        assert not any(word in str(refused.value) for word in ("layer", "known", "no effect"))
    twice = box_of(unit(client, layer="shared"))
    with pytest.raises(ToolFailedError, match="another kind or place, or do without") as refused:
        await ask(twice, image)
    assert "shared" not in str(refused.value)
    # A person knows the unit, and gets the reason.
    twice.blind = box.blind = False
    with pytest.raises(UsageError, match="'shared' is called 2 times"):
        await ask(twice, image)
    (asked,) = (await ask(box, image, outputs=["detect:2"]))["effects"]["asked"]
    assert (asked["name"], asked["change"]) == ("detect:2", 0.0)


async def test_nothing_lies_behind_a_class_or_a_synthetic_neuron(client: PoolVisionClient) -> None:
    classes = [NetworkUnit(client, Unit("output", 1, kind), DATASET) for kind in ("logit", "probability")]
    refusals = set()
    for subject in (*classes, FakeSubject(FakeStudio(), lambda shown: 1.0)):
        with pytest.raises(ToolFailedError, match="nothing is computed from what is measured") as refused:
            await ask(box_of(subject), noise(1))
        refusals.add(str(refused.value))
    assert len(refusals) == 1, "which of them it is stays hidden"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"kind": "ablate", "value": "off"}, "ablate takes 'zero', 'mean', 'resample'"),
        ({"kind": "ablate", "value": 3.0}, "ablate takes"),
        ({"kind": "scale"}, "scale takes a number"),
        ({"kind": "set", "value": [1.0, 2.0]}, "set takes a number"),
        ({"kind": "clamp", "value": [2.0, 1.0]}, "two numbers, low and high"),
        ({"where": 1.5}, "between 0 and 1"),
        ({"where": "mask"}, "None, a share or a box"),
        ({"where": [0.5, 0.0, 0.5, 1.0]}, "top < bottom"),
        ({"kind": "set", "value": 1e300}, "more than single precision holds"),
        ({"kind": "set", "value": 3e38}, "not finite"),
    ],
)
async def test_values_that_do_not_fit_are_refused_in_words(
    client: PoolVisionClient, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(ToolFailedError, match=words):
        await ask(box_of(unit(client)), noise(1), **given)


async def test_passes_are_counted_before_they_are_made_and_on_resuming(client: PoolVisionClient) -> None:
    box = box_of(unit(client), max_interventions=12)
    await ask(box, noise(2))
    await ask(box, noise(2), value="resample")
    with pytest.raises(ToolFailedError, match="12 images with interventions and 0 are left"):
        await ask(box, noise(1))
    again = box_of(unit(client), max_interventions=12)
    again.restore(box.snapshot(), box.album.held)
    with pytest.raises(ToolFailedError, match="0 are left"):
        await ask(again, noise(1))
    withheld = box_of(unit(client), withheld=frozenset({"intervene"}))
    with pytest.raises(ToolFailedError, match="not available"):
        await ask(withheld, noise(1))


async def test_a_masked_image_counts_as_the_image_beneath_and_keeps_its_own_activation(
    client: PoolVisionClient,
) -> None:
    box, (image,) = box_of(unit(client)), noise(1)
    answer = await box.call("measure", {"images": [image]})
    effects = await ask(box, answer["images"])
    assert effects["images"] == [image]
    assert effects["activations"] == answer["activations"]
    assert box.measured == {image.id: answer["activations"][0]}


PROGRAM = """
import numpy as np
image = np.full((8, 8, 3), (204, 102, 51), np.uint8)
effects = system.intervene(image, "ablate", outputs=["frog"])
tools.display(effects)
print(effects.images[0].edited, effects.exact, *(each.change for each in effects.raised + effects.lowered))
"""


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(400)
async def test_a_program_in_its_sandbox_gets_the_known_effect_of_a_network_on_ray(
    ray_cluster: None, tmp_path: Path
) -> None:
    network = "python:tests.tools.test_intervention:known"
    arguments = {"network": network, "settings": VisionSettings(placement=ONE, device="cpu")}
    async with Cluster.start() as cluster, KernelServer(LIMITS) as server:
        pool = cluster.pool("vision", "actors.vision.backend:VisionBackend", arguments, ONE)
        client = await PoolVisionClient.connect(pool, tmp_path)
        await server.start()
        sandbox, box = await server.open(seed=1), box_of(unit(client))
        outcome = await sandbox.run(PROGRAM, box)
        await sandbox.close()
    assert outcome.status == "ok", outcome.error
    edited, exact, *found = outcome.output.split()
    assert (edited, exact) == ("0.0", "True")
    frog, rest, plow = effect_of(-0.4)[[2, 0, 1]]
    assert [float(each) for each in found] == pytest.approx([frog, rest, rest, plow], abs=1e-6)
    shown = box.screen.take()
    assert "frog +0.5" in str(shown[0])
    assert isinstance(shown[-1], Image)
