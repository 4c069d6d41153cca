"""The backend answers alone as it does in a batch, runs each image once, and survives what it is given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors import hub
from actors.errors import BackendError, DeviceLostError, UsageError
from actors.images import Image
from actors.serving.backend import Priority
from actors.serving.coalescer import Coalescer
from actors.serving.transport import pack, unpack
from actors.settings import Placement
from actors.vision.backend import VisionBackend
from actors.vision.networks.network import Network, wrap
from actors.vision.readout.requests import Ask, VisionRequest, VisionResult
from actors.vision.readout.units import OUTPUT, Readout, UnitReader
from actors.vision.settings import VisionSettings
from tests.actors.scripted import submit
from tests.actors.vision import tiny_networks as networks

DEEP, STEM, SCORES = Readout("deep"), Readout("stem"), Readout(OUTPUT, "logit")
ONE_THREAD = Placement(threads=1)


def network(module: torch.nn.Module | None = None, **options: Any) -> Network:
    return wrap(module or networks.tiny_conv(), name="tiny", **{"size": (18, 12), **options})


def settings(**options: Any) -> VisionSettings:
    return VisionSettings(placement=ONE_THREAD, device="cpu", **options)


def photos(n: int, seed: int = 0, shape: tuple[int, int] = (20, 16)) -> list[Image]:
    rng = np.random.default_rng(seed)
    return [Image.from_pixels(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)) for _ in range(n)]


def want(
    image: Image, readout: Readout = DEEP, indices: tuple[int, ...] | None = (2,), maps: bool = True
) -> VisionRequest:
    return VisionRequest(image, (Ask(readout, indices, maps),))


@pytest.fixture
async def backend() -> AsyncIterator[VisionBackend]:
    made = VisionBackend(network(), settings())
    yield made
    await made.close()


async def results(backend: VisionBackend, *requests: VisionRequest) -> list[VisionResult]:
    answers = await backend.run(list(requests))
    for answer in answers:
        assert isinstance(answer, VisionResult), answer
    return [backend.answer(request, answer) for request, answer in zip(requests, answers, strict=True)]


async def test_a_result_is_the_networks_own_activation_and_map(backend: VisionBackend) -> None:
    image = photos(1)[0]
    (result,) = await results(backend, want(image))
    module = backend.network.module
    kept: list[torch.Tensor] = []
    handle = module.deep.register_forward_hook(lambda _module, _inputs, output: kept.append(output))  # type: ignore[union-attr]
    with torch.inference_mode():
        module(backend.network.preprocess.batch([image.pixels]))
    handle.remove()
    expected = kept[0][0, 2]
    reading = result.readings[0]
    assert reading.activations == pytest.approx(float(expected.max()), abs=1e-5)
    assert reading.activations.dtype == np.float32
    assert reading.maps[2].dtype == np.float16
    assert np.allclose(reading.maps[2], expected, atol=1e-2)


async def test_alone_and_coalesced_differ_by_rounding_alone() -> None:
    """A batch may add up in another order than an image by itself, whatever kernels a processor has."""
    images = photos(17)
    together = VisionBackend(network(networks.tiny_resnet(), size=(64, 32)), settings())
    alone = VisionBackend(network(networks.tiny_resnet(), size=(64, 32)), settings())
    mixed = [Readout(["layer1.0.conv1", "layer2", "layer4", "fc"][place % 4]) for place in range(17)]
    requests = [want(image, readout, None, maps=False) for image, readout in zip(images, mixed, strict=True)]
    batched = await results(together, *requests)
    single = [(await results(alone, request))[0] for request in requests]
    for readout in set(mixed):
        a, b = (
            np.stack([r.readings[0].activations for r, m in zip(which, mixed, strict=True) if m == readout])
            for which in (batched, single)
        )
        # The longest sums are of 3 x 3 x 7 products, and rounding of one layer passes through those after it.
        assert (np.abs(a - b) <= 63 * np.finfo(np.float32).eps * np.abs(b).max()).all()
    await together.close()
    await alone.close()


async def test_an_image_is_run_once_and_then_known_for_all_units_of_the_layer(backend: VisionBackend) -> None:
    image = photos(1)[0]
    await results(backend, want(image))
    assert backend.forwards == 1
    assert backend.lookup(want(image)) is not None
    assert backend.lookup(want(image, indices=(0, 5), maps=False)) is not None
    assert backend.lookup(want(image, STEM, maps=False)) is None


async def test_a_map_that_was_read_for_one_unit_is_there_for_the_others_while_there_is_room(
    backend: VisionBackend,
) -> None:
    image, other = photos(2)
    fresh = VisionBackend(network(), settings(map_memory_mb=0))
    (first,) = await results(backend, want(image, indices=(2,), maps=True))
    (again,) = await results(backend, want(image, indices=(0, 2), maps=True))
    assert backend.forwards == 1
    (alone,) = await results(fresh, want(image, indices=(0, 2), maps=True))
    for index in (0, 2):
        assert np.array_equal(again.readings[0].maps[index], alone.readings[0].maps[index])
    assert np.array_equal(first.readings[0].maps[2], again.readings[0].maps[2])
    await results(fresh, want(image, indices=(0,), maps=True))
    assert fresh.forwards == 2, "without room each takes a pass"
    assert backend.lookup(want(other, indices=(0,), maps=True)) is None
    await fresh.close()


async def test_an_image_has_the_activation_that_it_had_first_whatever_it_is_run_with(
    backend: VisionBackend,
) -> None:
    """The last digits of a sum depend on the batch: a study would differ by who else was studied."""
    image, *others = photos(8)
    readout = DEEP
    key = backend.readers.key(readout)
    n_units = backend.n_units(readout)
    first = np.arange(n_units, dtype=np.float32)
    backend.bank.put(key, [image.id], first[None])
    found = await results(backend, *(want(each, readout, (2,), maps=True) for each in (*others, image)))
    assert backend.forwards == 8, "a map takes a pass"
    assert found[-1].readings[0].activations.tolist() == [first[2]]
    assert 2 in found[-1].readings[0].maps


async def test_earlier_readouts_are_read_by_later_passes(backend: VisionBackend) -> None:
    first, second = photos(2)
    await results(backend, want(first, STEM))
    await results(backend, want(second, DEEP))
    assert backend.lookup(want(second, STEM, None, maps=False)) is not None
    assert backend.forwards == 2


async def test_callers_of_one_image_share_one_forward() -> None:
    made = VisionBackend(network(), settings())
    coalescer: Coalescer[Any, Any] = Coalescer(made)
    images = photos(3)
    futures = [
        submit(coalescer, want(images[place % 3], readout, (place % 4,)), agent=str(place))
        for place in range(24)
        for readout in (DEEP, STEM)
    ]
    answers = [await future for future in futures]
    assert made.forwards == 3
    for place, answer in enumerate(answers):
        (reading,) = answer.readings
        assert list(reading.maps) == [place // 2 % 4]
        assert len(reading.activations) == 1
    await coalescer.aclose()
    await made.close()


async def test_a_merged_request_answers_each_of_its_parts(backend: VisionBackend) -> None:
    image = photos(1)[0]
    parts = [
        want(image, indices=(1,)),
        want(image, indices=(4, 0)),
        want(image, SCORES, (3,), maps=False),
        want(image, STEM, None, maps=False),
        want(image, indices=(3,), maps=False),
    ]
    merged = parts[0]
    for part in parts[1:]:
        merged = backend.merge(merged, part)
        assert backend.covers(merged, part)
    assert not backend.covers(parts[0], parts[1])
    assert not backend.covers(parts[4], parts[0])
    (whole,) = await backend.run([merged])
    for part in parts:
        (alone,) = await results(backend, part)
        shared = backend.answer(part, whole)
        assert np.array_equal(shared.readings[0].activations, alone.readings[0].activations)
        assert sorted(shared.readings[0].maps) == sorted(alone.readings[0].maps)


async def test_images_of_many_sizes_share_a_batch(backend: VisionBackend) -> None:
    requests = [want(photos(1, seed, (10 + seed, 40 - seed))[0]) for seed in range(5)]
    assert len({backend.bucket(request) for request in requests}) == 1
    assert len(await results(backend, *requests)) == 5


async def test_networks_that_take_any_size_are_batched_by_it() -> None:
    made = VisionBackend(network(size=None), settings())
    small, large = want(photos(1)[0]), want(photos(1, shape=(30, 40))[0])
    assert made.bucket(small) != made.bucket(large)
    (result,) = await results(made, large)
    assert result.readings[0].maps[2].shape == (5, 6)
    await made.close()


async def test_a_bad_request_fails_alone(backend: VisionBackend) -> None:
    images = photos(3)
    outcomes = await backend.run(
        [want(images[0]), want(images[1], indices=(7,)), want(images[2], Readout("nowhere"))]
    )
    assert isinstance(outcomes[0], VisionResult)
    assert isinstance(outcomes[1], UsageError)
    assert "0 to 6" in str(outcomes[1])
    assert isinstance(outcomes[2], UsageError)


def never_finite(unit: int) -> torch.nn.Module:
    module = networks.tiny_conv()
    with torch.no_grad():
        module.deep.bias[unit] = float("nan")  # type: ignore[union-attr, operator, index]
    return module


async def test_activations_that_are_not_finite_are_a_typed_failure() -> None:
    made = VisionBackend(network(never_finite(2)), settings())
    (image,) = photos(1)
    coalescer: Coalescer[Any, Any] = Coalescer(made)
    for indices in ((2,), (1, 2)):
        with pytest.raises(BackendError, match="not finite at 'deep'"):
            await coalescer.submit(want(image, indices=indices))
    assert made.forwards == 1
    await coalescer.aclose()
    await made.close()


async def test_a_unit_that_is_never_finite_costs_its_neighbors_nothing() -> None:
    """Neither those who ask for them on the same image at the same time, nor the bank, nor whoever asks for
    all.
    """
    made = VisionBackend(network(never_finite(2)), settings())
    images = photos(3)
    coalescer: Coalescer[Any, Any] = Coalescer(made)
    bad = [submit(coalescer, want(image, indices=(2,))) for image in images]
    good = [submit(coalescer, want(image, indices=(1,))) for image in images]
    for each in bad:
        with pytest.raises(BackendError, match="not finite"):
            await each
    assert all(np.isfinite([(await each).readings[0].activations for each in good]).ravel())
    assert made.forwards == made.bank.statistics().stored == 3
    table = await coalescer.submit(want(images[0], indices=None, maps=False))
    assert np.flatnonzero(np.isnan(table.readings[0].activations)).tolist() == [2]
    await coalescer.submit(want(images[1], indices=(1, 4), maps=False))
    assert made.forwards == 3
    await coalescer.aclose()
    await made.close()


async def test_an_image_on_which_nothing_is_finite_is_not_kept() -> None:
    class Broken(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * (float("nan") if x.any() else 1.0)

    made = VisionBackend(network(torch.nn.Sequential(Broken(), torch.nn.Conv2d(3, 4, 3))), settings())
    await made.run([want(photos(1)[0], Readout("1"))])
    assert made.bank.statistics().stored == 0
    await made.close()


class Failing(torch.nn.Module):
    """Passes its input on and calls `fail` with it, once it was recorded and tried out."""

    def __init__(self) -> None:
        super().__init__()
        self.fail: Callable[[torch.Tensor], object] = lambda _: None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.fail(x)
        return x


def failing() -> tuple[VisionBackend, Failing]:
    module = Failing()
    return VisionBackend(network(torch.nn.Sequential(module, torch.nn.Conv2d(3, 4, 3))), settings()), module


def is_white(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1).amin(1) > 1.5


def with_a_white_one() -> list[Image]:
    return [*photos(3), Image.from_pixels(np.full((20, 16, 3), 250, np.uint8)), *photos(2, seed=1)]


async def test_a_device_that_is_lost_is_no_images_failure() -> None:
    """All are asked again in another process: nothing is known of any."""
    made, module = failing()
    calls: list[int] = []

    def lost_from_the_third_call_on(x: torch.Tensor) -> None:
        calls.append(len(x))
        if len(calls) > 2:
            raise RuntimeError("CUDA error: device-side assert triggered")

    module.fail = lost_from_the_third_call_on
    coalescer: Coalescer[Any, Any] = Coalescer(made)
    first = [want(image, Readout("1")) for image in photos(2)]
    for request in first:
        await coalescer.submit(request)
    later = [submit(coalescer, want(image, Readout("1"))) for image in photos(7, seed=1)]
    for outcome in await asyncio.gather(*later, return_exceptions=True):
        assert isinstance(outcome, DeviceLostError)
        assert "device-side assert" in str(outcome)
    assert len(calls) < 9, "not every image is tried alone"
    assert made.lookup(first[0]) is not None
    await coalescer.aclose()
    await made.close()


async def test_memory_that_is_short_even_for_nothing_is_a_lost_device() -> None:
    made, module = failing()

    def full(_: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    module.fail = full
    with pytest.raises(DeviceLostError, match="out of memory"):
        await made.run([want(image, Readout("1")) for image in photos(4)])
    await made.close()


async def test_an_image_that_takes_all_memory_fails_alone_and_batches_stay_large() -> None:
    made, module = failing()

    def too_large(x: torch.Tensor) -> None:
        if is_white(x).any():
            raise torch.OutOfMemoryError("CUDA out of memory")

    module.fail = too_large
    before = made.max_batch
    answers = await made.run([want(image, Readout("1")) for image in with_a_white_one()])
    assert [place for place, each in enumerate(answers) if isinstance(each, hub.OutOfMemoryError)] == [3]
    assert all(isinstance(each, VisionResult) for place, each in enumerate(answers) if place != 3)
    assert made.max_batch == before
    await made.close()


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), StopIteration(1)]
)
async def test_a_network_that_would_end_the_process_fails_on_its_image_alone(error: BaseException) -> None:
    made, module = failing()

    def end(x: torch.Tensor) -> None:
        if is_white(x).any():
            raise error

    module.fail = end
    coalescer: Coalescer[Any, Any] = Coalescer(made)
    asked = [submit(coalescer, want(image, Readout("1"))) for image in with_a_white_one()]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert [place for place, each in enumerate(outcomes) if isinstance(each, BackendError)] == [3]
    assert type(error).__name__ in str(outcomes[3])
    await coalescer.aclose()
    await made.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x[~is_white(x)], "of 0 images"),
        (lambda x: torch.cat([x, x]) if is_white(x).any() else x, "of 2 images"),
        (lambda x: x[:, :2] if is_white(x).any() else x, "2 units"),
        (lambda x: x.mean(3) if is_white(x).any() else x, ""),
        (lambda x: x.to("meta") if is_white(x).any() else x, ""),
    ],
    ids=["drops a row", "adds a row", "fewer units", "no map", "another device"],
)
async def test_a_network_whose_output_changes_shape_gives_no_image_anothers_values(
    change: Callable[[torch.Tensor], torch.Tensor], words: str
) -> None:
    class Changing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return change(x)

    made = VisionBackend(network(torch.nn.Sequential(Changing())), settings())
    images = with_a_white_one()
    answers = await made.run([want(image, Readout("0"), (1,)) for image in images])
    assert [place for place, each in enumerate(answers) if isinstance(each, BackendError)] == [3]
    assert words in str(answers[3])
    for image, answer in zip(images, answers, strict=True):
        if isinstance(answer, VisionResult):
            seen = made.network.preprocess.batch([image.pixels])
            assert answer.readings[0].activations[1] == pytest.approx(float(seen[0, 1].max()))
    assert made.bank.statistics().stored == 5
    await made.close()


async def test_an_image_on_which_the_network_fails_does_not_fail_its_neighbors() -> None:
    class Fussy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.std() > 0 and (x.mean((1, 2, 3)) > 1).any():
                raise ValueError("too bright")
            return x

    made = VisionBackend(network(torch.nn.Sequential(Fussy(), torch.nn.Conv2d(3, 4, 3))), settings())
    white = Image.from_pixels(np.full((20, 16, 3), 250, np.uint8))
    images = [*photos(3), white, *photos(2, seed=1)]
    answers = await made.run([want(image, Readout("1")) for image in images])
    failed = [place for place, answer in enumerate(answers) if isinstance(answer, BackendError)]
    assert failed == [3]
    assert "too bright" in str(answers[3])
    await made.close()


async def test_an_unreadable_readout_fails_only_its_own_request(backend: VisionBackend) -> None:
    def unreadable(maps: torch.Tensor) -> torch.Tensor:
        raise ValueError("not this one")

    backend.readers._readers[STEM] = UnitReader(backend.n_units(STEM), unreadable)
    (failed,) = await backend.run([want(photos(1)[0], STEM)])
    assert isinstance(failed, BackendError)
    answers = await backend.run([want(image, DEEP) for image in photos(3, seed=1)])
    assert not any(isinstance(answer, BackendError) for answer in answers)


async def test_too_little_memory_halves_the_batch(backend: VisionBackend) -> None:
    module = backend.network.module
    sizes: list[int] = []

    def limited(_module: Any, inputs: Any) -> None:
        sizes.append(len(inputs[0]))
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("out of memory")

    module.register_forward_pre_hook(limited)
    assert len(await results(backend, *[want(image) for image in photos(5)])) == 5
    assert max(sizes[-3:]) <= 2
    assert backend.max_batch <= 3


async def test_a_second_backend_starts_from_what_the_first_kept(tmp_path: Path) -> None:
    image = photos(1)[0]
    first = VisionBackend(network(), settings(bank_folder=tmp_path))
    await results(first, want(image))
    await first.close()
    second = VisionBackend(network(), settings(bank_folder=tmp_path))
    assert second.lookup(want(image, indices=(5,), maps=False)) is not None
    other = VisionBackend(network(mean=(0, 0, 0)), settings(bank_folder=tmp_path))
    assert other.lookup(want(image, indices=(5,), maps=False)) is None
    await second.close()
    await other.close()


async def test_dtype_is_part_of_the_fingerprint() -> None:
    made = VisionBackend(network(), settings(dtype="bfloat16"))
    plain = VisionBackend(network(), settings())
    assert made.fingerprint != plain.fingerprint
    (low,), (high,) = await results(made, want(photos(1)[0])), await results(plain, want(photos(1)[0]))
    assert low.readings[0].activations.dtype == np.float32
    assert low.readings[0].activations == pytest.approx(high.readings[0].activations, rel=0.1)
    await made.close()
    await plain.close()


async def test_requests_and_results_travel_between_processes(backend: VisionBackend) -> None:
    request = want(photos(1)[0])
    parcel, images = pack([request])
    (back,) = unpack(parcel, images)
    assert back == request
    (result,) = await results(backend, request)
    parcel, images = pack([result])
    assert unpack(parcel, images)[0].readings[0].maps[2].shape == (3, 2)


async def test_deeper_requests_rank_higher_and_priorities_are_none_of_its_business(
    backend: VisionBackend,
) -> None:
    image = photos(1)[0]
    assert (
        backend.rank(want(image, STEM)) < backend.rank(want(image, DEEP)) < backend.rank(want(image, SCORES))
    )
    assert Priority.SWEEP > Priority.INTERACTIVE


async def test_a_network_with_weights_over_time_as_well_is_read(tmp_path: Path) -> None:
    class Clip(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frames = torch.nn.Conv3d(3, 4, (1, 3, 3))
            self.flat = torch.nn.Conv2d(4, 5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.flat(self.frames(x[:, :, None])[:, :, 0]).mean((2, 3))
            return scores

    made = VisionBackend(network(Clip()), settings())
    assert made.n_units(Readout("flat")) == 5
    await made.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("made", ["scripted", "quantized", "compiled", "compiled in place"])
async def test_a_network_in_another_form_is_measured_as_the_plain_one(made: str) -> None:
    def plain() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 5, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(5 * 14 * 10, 3)
        )

    module: Any = plain()
    match made:
        case "scripted":
            module = torch.jit.script(module)
        case "quantized":
            module = torch.ao.quantization.quantize_dynamic(module, {torch.nn.Linear})
        case "compiled":
            module = torch.compile(module)
        case "compiled in place":
            module.compile()
    images = photos(3)
    found = {}
    for name, each in (("plain", plain()), (made, module)):
        other = VisionBackend(network(each, size=(16, 12)), settings())
        try:
            layers = {layer.name for layer in other.layers()}
            assert layers == ({"output"} if name == "scripted" else {"0", "1", "2", "3", "output"})
            answers = await results(other, *(want(image, SCORES, (1,)) for image in images))
            found[name] = [float(answer.readings[0].activations[0]) for answer in answers]
        finally:
            await other.close()
    assert found[made] == pytest.approx(found["plain"], abs=0.02 if made == "quantized" else 1e-5)


@pytest.mark.parametrize("names", [["dog"], [f"class {number}" for number in range(1001)]])
async def test_as_many_classes_are_named_as_there_are_or_none(names: list[str]) -> None:
    with pytest.raises(UsageError, match=f"names {len(names)} classes, and its output has"):
        VisionBackend(network(class_names=names), settings())


@pytest.mark.parametrize("kind", ["map", "tokens"])
async def test_classes_that_are_maps_are_named_as_many_as_there_are_too(kind: str) -> None:
    maps = torch.nn.Conv2d(3, 4, 3, padding=1)
    module = torch.nn.Sequential(maps, *([Tokens()] if kind == "tokens" else []))
    with pytest.raises(UsageError, match="names 3 classes, and its output has 4"):
        VisionBackend(network(module, class_names=["ant", "bee", "cat"]), settings())
    made = VisionBackend(network(module, class_names=["ant", "bee", "cat", "dog"]), settings())
    assert (made.layers()[-1].kind, made.n_units(SCORES)) == (kind, 4)
    await made.close()


class Tokens(torch.nn.Module):
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.flatten(2).transpose(1, 2)
