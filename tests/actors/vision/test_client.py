"""Users of a network see units, images and numbers, whatever is behind the pool."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.errors import BackendError, DeviceLostError, UsageError
from actors.images import Image, ImageDecodeError
from actors.serving.backend import Priority
from actors.serving.pool import LocalPool
from actors.vision.backend import VisionBackend
from actors.vision.client import SAMPLE, PoolVisionClient
from actors.vision.data.held_out import HeldOutShare, split
from actors.vision.networks.network import Network, wrap
from actors.vision.readout.base import SampleError, Unit
from actors.vision.readout.requests import SweepStep
from actors.vision.readout.units import OUTPUT, Readout
from actors.vision.settings import VisionSettings
from actors.vision.sweep.accumulators import ReadoutAccumulator
from actors.vision.sweep.activations import Reduce
from actors.vision.sweep.driver import SweepProgress
from actors.vision.sweep.exemplars import ExemplarStore, LayerExemplars
from tests.actors.vision import tiny_networks as networks
from tests.actors.vision.sweep.test_accumulators import Numbered, brute_force
from tests.actors.vision.test_backend import ONE_THREAD

CLASSES = ("ant", "bee", "cat", "dog")


def make_network() -> Network:
    return wrap(
        networks.tiny_conv(), name="tiny", size=(18, 12), class_names=CLASSES, aliases={"paper": "deep"}
    )


def make_backend(batch: int = 8) -> VisionBackend:
    settings = VisionSettings(placement=ONE_THREAD, device="cpu", batch=batch)
    return VisionBackend(make_network(), settings)


@pytest.fixture
async def pool() -> AsyncIterator[LocalPool[Any, Any]]:
    async with LocalPool(make_backend()) as made:
        yield made


@pytest.fixture
async def client(pool: LocalPool[Any, Any], tmp_path: Path) -> PoolVisionClient:
    return await PoolVisionClient.connect(pool, tmp_path, held_out=HeldOutShare(0.25))


def all_activations(dataset: Numbered, layer: str) -> np.ndarray:
    """Return (images, units) activations from the module itself, one image at a time."""
    module = networks.tiny_conv()
    preprocess = wrap(networks.tiny_conv(), size=(18, 12)).preprocess
    kept: list[torch.Tensor] = []
    dict(module.named_modules())[layer].register_forward_hook(
        lambda _module, _inputs, output: kept.append(
            output.amax((2, 3))[0] if output.ndim == 4 else output[0]
        )
    )
    with torch.inference_mode():
        for index in range(len(dataset)):
            module(preprocess.batch([dataset.load(index).pixels]))
    return torch.stack(kept).numpy()


async def test_exemplars_are_the_brute_force_top_of_what_is_not_reserved(client: PoolVisionClient) -> None:
    dataset = Numbered(90)
    explore, held_out = split(dataset, HeldOutShare(0.25))
    assert 10 < len(held_out) < 35
    values = all_activations(dataset, "deep")
    _, expected = brute_force(values[explore], 6)
    found = await client.exemplars([Unit("deep", unit) for unit in (4, 0, 6)], dataset, k=6)
    for exemplars, unit in zip(found, (4, 0, 6), strict=True):
        assert exemplars.unit == Unit("deep", unit)
        assert exemplars.indices.tolist() == explore[expected[unit]].tolist()
        assert not set(exemplars.indices.tolist()) & set(held_out.tolist())
        assert np.allclose(exemplars.activations, values[exemplars.indices, unit], atol=1e-5)
        assert exemplars.n_images == len(explore)
        assert exemplars.mean == pytest.approx(values[explore, unit].mean(), abs=1e-4)
        assert exemplars.std == pytest.approx(values[explore, unit].std(), rel=1e-3)
        assert exemplars.maximum == exemplars.activations[0]
        assert exemplars.quantiles[0.5] < exemplars.quantiles[0.95] <= exemplars.maximum + 1e-2


async def test_exemplars_and_measurements_agree(client: PoolVisionClient) -> None:
    dataset = Numbered(40)
    unit = Unit("deep", 3)
    (exemplars,) = await client.exemplars([unit], dataset, k=4)
    measured = await client.measure(unit, [dataset.load(int(index)) for index in exemplars.indices])
    assert [each.activation for each in measured] == pytest.approx(exemplars.activations.tolist(), abs=1e-5)
    assert measured[0].map.shape == (3, 2)
    assert float(measured[0].map.max()) == pytest.approx(measured[0].activation, abs=1e-2)


async def test_a_finished_sweep_costs_nothing_again(
    client: PoolVisionClient, pool: LocalPool[Any, Any], tmp_path: Path
) -> None:
    dataset = Numbered(30)
    backend: Any = pool.backend
    first = await client.exemplars([Unit("deep", 3)], dataset)
    forwards = backend.forwards
    assert forwards == first[0].n_images
    again = await client.exemplars([Unit("deep", 1), Unit("deep", 3)], dataset)
    fresh = await PoolVisionClient.connect(pool, tmp_path, held_out=HeldOutShare(0.25))
    other = await fresh.exemplars([Unit("deep", 3)], dataset)
    assert backend.forwards == forwards
    assert other[0].indices.tolist() == again[1].indices.tolist() == first[0].indices.tolist()
    assert not parts_below(tmp_path)


async def test_all_layers_asked_together_cost_one_pass(
    client: PoolVisionClient, pool: LocalPool[Any, Any]
) -> None:
    dataset = Numbered(30)
    backend: Any = pool.backend
    units = [Unit("stem", 1), Unit("deep", 2), Unit(OUTPUT, 3, "logit"), Unit(OUTPUT, 3, "probability")]
    found = await client.exemplars(units, dataset, k=3)
    assert backend.forwards == found[0].n_images
    alone = [(await client.exemplars([unit], dataset, k=3))[0] for unit in units]
    assert [each.indices.tolist() for each in alone] == [each.indices.tolist() for each in found]


async def test_callers_of_one_layer_at_once_share_the_sweep(
    client: PoolVisionClient, pool: LocalPool[Any, Any]
) -> None:
    dataset = Numbered(30)
    backend: Any = pool.backend
    found = await asyncio.gather(*(client.exemplars([Unit("deep", unit)], dataset) for unit in range(5)))
    assert backend.forwards == found[0][0].n_images


async def test_corrupt_images_are_skipped_counted_and_named(client: PoolVisionClient) -> None:
    dataset = Numbered(60, corrupt=frozenset({3, 17, 18, 41}))
    explore, _ = split(dataset, HeldOutShare(0.25))
    bad = set(explore.tolist()) & {3, 17, 18, 41}
    assert bad
    seen: list[SweepProgress] = []
    found = await client.layer_exemplars([Readout("deep")], dataset, progress=seen.append)
    layer = found[Readout("deep")]
    assert set(layer.skipped) == bad
    assert all(f"image {index} is corrupt" in reason for index, reason in layer.skipped.items())
    assert layer.n_images == len(explore) - len(bad)
    assert seen[-1] == SweepProgress(len(explore), len(explore), len(bad))
    assert not set(layer.indices.ravel().tolist()) & bad


@pytest.mark.parametrize("reduce", ["max", "mean"])
async def test_activations_of_all_units_on_all_images_are_kept_beside_the_exemplars(
    client: PoolVisionClient, pool: LocalPool[Any, Any], reduce: Reduce
) -> None:
    dataset = Numbered(40, corrupt=frozenset({3, 17, 18, 30}))
    readouts = [Readout("stem"), Readout("deep")]
    found = await client.layer_activations(readouts, dataset, reduce)
    explore, _ = split(dataset, HeldOutShare(0.25))
    for readout, layer in found.items():
        assert layer.indices.tolist() == explore.tolist()
        assert set(layer.indices[~layer.measured].tolist()) == set(explore.tolist()) & {3, 17, 18, 30}
        images = [dataset.load(int(index)) for index in layer.indices[layer.measured]]
        for unit in (0, 3):
            if reduce == "max":
                measured = (await client.activations([readout.unit(unit)], images))[0]
            else:
                responses = await client.measure(readout.unit(unit), images)
                measured = np.array([each.map.astype(np.float64).mean() for each in responses])
            np.testing.assert_allclose(layer.values[layer.measured, unit], measured, rtol=2e-3, atol=1e-3)
    backend: Any = pool.backend
    forwards = backend.forwards
    await client.layer_activations(readouts, dataset, reduce)
    await client.layer_exemplars(readouts, dataset)
    assert backend.forwards == forwards


async def test_a_data_set_of_which_nothing_can_be_read_is_refused(client: PoolVisionClient) -> None:
    with pytest.raises(UsageError, match="no image of the data set"):
        await client.exemplars([Unit("deep", 0)], Numbered(9, corrupt=frozenset(range(9))))


class Interrupted(Exception):
    pass


async def test_an_interrupted_sweep_is_resumed(tmp_path: Path) -> None:
    dataset = Numbered(100)
    readout = Readout("deep")
    async with LocalPool(make_backend(batch=4)) as pool:
        whole = await PoolVisionClient.connect(pool, tmp_path / "whole", held_out=HeldOutShare(0.25))
        expected = (await whole.layer_exemplars([readout], dataset))[readout]

    def stop_half_way(progress: SweepProgress) -> None:
        if progress.done >= 40:
            raise Interrupted

    async with LocalPool(make_backend(batch=4)) as pool:
        backend: Any = pool.backend
        original = backend.run

        async def run(batch: Any) -> Any:
            # Every third step has its part written, as the clock would have it.
            return await original(
                [SweepStep(s.folder, s.plan, s.start, s.stop, s.prefetch, s.start % 12 == 8) for s in batch]
            )

        backend.run = run
        client = await PoolVisionClient.connect(pool, tmp_path / "cut", held_out=HeldOutShare(0.25))
        with pytest.raises(Interrupted):
            await client.layer_exemplars([readout], dataset, progress=stop_half_way)
    async with LocalPool(make_backend(batch=4)) as pool:
        backend = pool.backend
        client = await PoolVisionClient.connect(pool, tmp_path / "cut", held_out=HeldOutShare(0.25))
        resumed = (await client.layer_exemplars([readout], dataset))[readout]
        assert 0 < backend.forwards < expected.n_images
    assert np.array_equal(resumed.indices, expected.indices)
    assert np.array_equal(resumed.activations, expected.activations)
    assert np.array_equal(resumed.quantiles, expected.quantiles)
    assert np.allclose(resumed.mean, expected.mean)
    assert resumed.n_images == expected.n_images


class TwoReplicas:
    """A pool of two local pools that takes turns, and may lose one with what it has not written."""

    name = "two"

    def __init__(self, first: Any, second: Any) -> None:
        self.pools = [first, second]
        self._turn = 0
        self.lose_after: int | None = None
        self._steps = 0

    def statistics(self) -> Any:
        return type("Counts", (), {"replicas": 2})

    async def submit(self, request: Any, *, agent: str = "", priority: Priority) -> Any:
        assert priority is Priority.SWEEP
        self._steps += 1
        self._turn += 1
        pool = self.pools[self._turn % 2]
        answer = await pool.submit(request, agent=agent, priority=priority)
        if self._steps == self.lose_after:
            lost: Any = self.pools[1].backend
            lost._sweeps = None  # a new process would know nothing of the sweep
        return answer

    async def call(self, name: str, *args: Any) -> Any:
        return await self.pools[0].call(name, *args)


@pytest.mark.parametrize("lose_after", [None, 5])
async def test_a_sweep_over_two_replicas_equals_the_whole_even_if_one_is_lost(
    tmp_path: Path, lose_after: int | None
) -> None:
    dataset = Numbered(70)
    readouts = [Readout("deep"), Readout("stem")]
    async with LocalPool(make_backend(batch=4)) as one, LocalPool(make_backend(batch=4)) as two:
        single = await PoolVisionClient.connect(one, tmp_path / "one")
        expected = await single.layer_exemplars(readouts, dataset)
        both = TwoReplicas(one, two)
        both.lose_after = lose_after
        client = await PoolVisionClient.connect(both, tmp_path / "both")  # type: ignore[arg-type]
        found = await client.layer_exemplars(readouts, dataset)
        for readout in readouts:
            assert np.array_equal(found[readout].indices, expected[readout].indices)
            assert np.array_equal(found[readout].activations, expected[readout].activations)
            assert np.array_equal(found[readout].quantiles, expected[readout].quantiles)
            assert found[readout].n_images == expected[readout].n_images
            assert np.allclose(found[readout].std, expected[readout].std, rtol=1e-5)


async def test_agents_are_answered_before_a_sweep_continues(
    client: PoolVisionClient, pool: LocalPool[Any, Any]
) -> None:
    order: list[str] = []
    backend: Any = pool.backend
    original = backend.run

    async def run(batch: Any) -> Any:
        order.append("sweep" if isinstance(batch[0], SweepStep) else "agent")
        return await original(batch)

    backend.run = run
    asked: list[asyncio.Task[Any]] = []
    image = Image.from_pixels(np.zeros((9, 9, 3), np.uint8))

    def ask(progress: SweepProgress) -> None:
        if not asked:
            asked.append(asyncio.ensure_future(client.measure(Unit("deep", 0), [image])))

    await client.layer_exemplars([Readout("deep")], Numbered(90), progress=ask)
    await asked[0]
    assert order.index("agent") <= 3
    assert order.count("sweep") > 6


async def test_activations_of_many_units_come_as_a_table(client: PoolVisionClient) -> None:
    dataset = Numbered(3)
    units = [Unit("deep", 5), Unit("stem", 1), Unit("deep", 0), Unit("deep", 5)]
    table = await client.activations(units, [dataset.load(index) for index in range(3)])
    assert table.shape == (4, 3)
    deep, stem = all_activations(dataset, "deep"), all_activations(dataset, "stem")
    assert np.allclose(table, np.stack([deep[:, 5], stem[:, 1], deep[:, 0], deep[:, 5]]), atol=1e-5)


class Loads(Numbered):
    """Counts what is loaded, and tells of damage in several ways."""

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.loaded: list[int] = []

    def load(self, index: int) -> Image:
        self.loaded.append(index)
        if index % 10 == 0:
            raise (ImageDecodeError, OSError, KeyError, ValueError)[index // 10 % 4]("damaged")
        return super().load(index)


@pytest.mark.parametrize("n", [7, 128, 300])
async def test_a_sample_is_spread_over_the_data_set_and_made_once_for_all_units_that_ask_together(
    client: PoolVisionClient, pool: LocalPool[Any, Any], n: int
) -> None:
    dataset = Loads(n)
    found = await asyncio.gather(*(client.sample(Unit("deep", unit), dataset) for unit in (3, 0, 3, 5)))
    assert len(dataset.loaded) <= SAMPLE
    assert sorted(set(dataset.loaded)) == dataset.loaded
    assert max(dataset.loaded) >= n - -(-n // SAMPLE)
    readable = [index for index in dataset.loaded if index % 10]
    expected = all_activations(Numbered(n), "deep")[readable]
    assert np.allclose(np.stack(found, axis=1), expected[:, [3, 0, 3, 5]], atol=1e-5)
    backend: Any = pool.backend
    assert backend.forwards == len(readable)
    before = len(dataset.loaded)
    await client.sample(Unit("stem", 1), dataset)
    assert len(dataset.loaded) == before


async def test_a_data_set_without_a_readable_image_has_no_sample(client: PoolVisionClient) -> None:
    with pytest.raises(SampleError, match=r"no image .* could be measured: none of them can be read"):
        await client.sample(Unit("deep", 3), Numbered(2, frozenset({0, 1})))


async def test_layers_are_also_known_by_the_papers_names(client: PoolVisionClient) -> None:
    image = Numbered(1).load(0)
    (first,) = await client.measure(Unit("paper", 2), [image])
    (second,) = await client.measure(Unit("deep", 2), [image])
    assert first.activation == second.activation
    assert await client.unit(Unit("paper", 2)) == Unit("deep", 2)
    dataset = Numbered(20)
    scatter, same = [await client.scatter(Unit(layer, 2), dataset) for layer in ("paper", "deep")]
    assert np.array_equal(scatter.activations, same.activations)
    assert await client.unit("dog") == Unit(OUTPUT, 3, "logit")


async def test_class_names_and_layers_come_from_the_network(client: PoolVisionClient) -> None:
    assert tuple(await client.class_names()) == CLASSES
    assert [layer.name for layer in await client.layers()] == [
        "stem",
        "act",
        "branch",
        "deep",
        "head",
        "output",
    ]


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        (Unit("depe", 0), "deep"),
        (Unit("deep", 7), "0 to 6"),
        (Unit("deep", -1), "0 to 6"),
        (Unit(OUTPUT, 4, "logit"), "0 to 3"),
        (Unit("deep", 0, "logit"), "vector of class scores"),
        (Unit("deep", 0, "direction", "no/such.npy"), "no file"),
    ],
)
async def test_a_unit_that_is_not_there_is_refused_with_the_nearest_or_the_range(
    client: PoolVisionClient, unit: Unit, words: str
) -> None:
    for ask in (client.check(unit), client.measure(unit, []), client.exemplars([unit], Numbered(3))):
        with pytest.raises(UsageError) as caught:
            await ask
        assert words in str(caught.value)


async def test_a_direction_can_be_measured_and_swept(client: PoolVisionClient, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.eye(7)[[3, 1]])
    dataset = Numbered(25)
    direction = Unit("deep", 1, "direction", str(tmp_path / "v.npy"))
    (along,) = await client.exemplars([direction], dataset, k=5)
    (channel,) = await client.exemplars([Unit("deep", 1)], dataset, k=5)
    assert along.indices.tolist() == channel.indices.tolist()


def parts_below(folder: Path) -> list[Path]:
    return list(folder.rglob("part-*"))


class Fails(torch.nn.Module):
    """Returns its input; raises if an image's mean is above `limit`, or a batch is larger than `most`."""

    def __init__(self, limit: float, most: int = 64, broken: bool = False) -> None:
        super().__init__()
        self.limit, self.most, self.broken = limit, most, broken

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if (len(x) > self.most and x.any()) or (x.mean((1, 2, 3)) > self.limit).any():
            raise ValueError("not this one")
        return torch.full_like(x, float("nan")) if self.broken and x.any() else x


def fussy(**how: Any) -> VisionBackend:
    first = torch.nn.Conv2d(3, 5, 3, bias=False)
    torch.nn.init.uniform_(first.weight, 0.1, 0.3, generator=torch.Generator().manual_seed(0))
    module = torch.nn.Sequential(first, Fails(**how), torch.nn.Conv2d(5, 4, 2))
    plain = wrap(module, name="fussy", size=(6, 6), mean=(0, 0, 0), std=(1, 1, 1))
    return VisionBackend(plain, VisionSettings(placement=ONE_THREAD, device="cpu", batch=8))


def means(module: torch.nn.Module, dataset: Numbered) -> np.ndarray:
    """Return what `Fails` looks at, for every image."""
    images = np.stack([dataset.load(index).pixels for index in range(len(dataset))])
    with torch.inference_mode():
        return module[0](torch.from_numpy(images).permute(0, 3, 1, 2) / 255).mean((1, 2, 3)).numpy()


async def test_images_on_which_the_network_fails_are_left_out_and_the_others_count(tmp_path: Path) -> None:
    dataset = Numbered(60)
    probe = fussy(limit=1e9)
    level = float(np.quantile(means(probe.network.module, dataset), 0.9))
    await probe.close()
    backend = fussy(limit=level)
    async with LocalPool(backend) as made:
        client = await PoolVisionClient.connect(made, tmp_path, held_out=HeldOutShare(0.25))
        found = (await client.layer_exemplars([Readout("0"), Readout("2")], dataset))[Readout("0")]
        failing = set(np.flatnonzero(means(backend.network.module, dataset) > level).tolist())
        bad = failing & set(split(dataset, HeldOutShare(0.25))[0].tolist())
        assert bad
        assert set(found.skipped) == bad
        assert all("not this one" in reason for reason in found.skipped.values())
        assert found.n_images == len(split(dataset, HeldOutShare(0.25))[0]) - len(bad)
        assert len(await client.sample(Unit("2", 1), dataset)) == 60 - len(failing)


async def test_a_network_that_takes_small_batches_only_is_swept_all_the_same(tmp_path: Path) -> None:
    async with LocalPool(fussy(limit=1e9, most=3)) as made:
        client = await PoolVisionClient.connect(made, tmp_path, held_out=HeldOutShare(0))
        found = (await client.layer_exemplars([Readout("2")], Numbered(20)))[Readout("2")]
        assert (found.n_images, found.skipped) == (20, {})


async def test_a_network_without_a_finite_activation_is_refused_each_time_and_nothing_is_kept(
    tmp_path: Path,
) -> None:
    async with LocalPool(fussy(limit=1e9, broken=True)) as made:
        client = await PoolVisionClient.connect(made, tmp_path, held_out=HeldOutShare(0))
        for _ in range(2):
            with pytest.raises(UsageError, match=r"no image of the data set.*not finite"):
                await client.layer_exemplars([Readout("2")], Numbered(9))
        with pytest.raises(SampleError, match="finite on no image"):
            await client.sample(Unit("2", 1), Numbered(9))


async def test_a_data_set_that_is_held_out_as_a_whole_is_refused_in_words(tmp_path: Path) -> None:
    async with LocalPool(fussy(limit=1e9)) as made:
        client = await PoolVisionClient.connect(made, tmp_path, held_out=HeldOutShare(0.9999))
        with pytest.raises(UsageError, match=r"all 2 images .* held out"):
            await client.layer_exemplars([Readout("2")], Numbered(2))


async def test_a_sweep_omits_an_image_that_takes_all_memory(tmp_path: Path) -> None:
    dataset = Numbered(20)
    backend = fussy(limit=1e9)
    seen = means(backend.network.module, dataset)
    level = float(np.quantile(seen, 0.9))
    large = np.flatnonzero(seen > level).tolist()

    def too_large(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        if (output.mean((1, 2, 3)) > level).any():
            raise torch.OutOfMemoryError("CUDA out of memory")

    backend.network.module[0].register_forward_hook(too_large)
    async with LocalPool(backend) as made:
        client = await PoolVisionClient.connect(made, tmp_path, held_out=HeldOutShare(0))
        found = (await client.layer_exemplars([Readout("2")], dataset))[Readout("2")]
        assert sorted(found.skipped) == large
        assert all("out of memory" in reason for reason in found.skipped.values())


async def test_a_step_that_failed_half_way_is_not_counted_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One readout's accumulator has the images of a step, the other's has not: the part is done again."""
    dataset, readouts = Numbered(40), [Readout("stem"), Readout("deep")]
    async with LocalPool(make_backend(batch=4)) as pool:
        client = await PoolVisionClient.connect(pool, tmp_path / "whole", held_out=HeldOutShare(0))
        expected = await client.layer_exemplars(readouts, dataset)
    original, calls = ReadoutAccumulator.add, itertools.count(1)

    def add(self: ReadoutAccumulator, maxima: torch.Tensor, indices: torch.Tensor) -> None:
        if next(calls) == 10:
            raise RuntimeError("no room")
        original(self, maxima, indices)

    monkeypatch.setattr(ReadoutAccumulator, "add", add)
    async with LocalPool(make_backend(batch=4)) as pool:
        client = await PoolVisionClient.connect(pool, tmp_path / "cut", held_out=HeldOutShare(0))
        with pytest.raises(BackendError, match="could not be accumulated: RuntimeError: no room"):
            await client.layer_exemplars(readouts, dataset)
        found = await client.layer_exemplars(readouts, dataset)
    for readout in readouts:
        assert found[readout].n_images == expected[readout].n_images == 40
        assert np.allclose(found[readout].mean, expected[readout].mean)
        assert np.array_equal(found[readout].indices, expected[readout].indices)
        assert np.array_equal(found[readout].quantiles, expected[readout].quantiles)


async def test_a_device_that_is_lost_ends_the_sweep_and_no_image_is_to_blame(tmp_path: Path) -> None:
    backend = fussy(limit=1e9)
    backend.network.module[1].limit = -1e9  # from now on, it fails on everything
    async with LocalPool(backend) as made:
        client = await PoolVisionClient.connect(made, tmp_path, held_out=HeldOutShare(0))
        with pytest.raises(DeviceLostError, match="not this one"):
            await client.layer_exemplars([Readout("2")], Numbered(9))
        with pytest.raises(DeviceLostError, match="not this one"):
            await client.sample(Unit("2", 1), Numbered(9))


async def test_images_counted_before_a_device_was_lost_are_not_counted_twice(
    tmp_path: Path,
) -> None:
    """In a process that lives on, the step that was half counted is run again."""
    dataset, readout = Numbered(16), Readout("2")
    backend = fussy(limit=1e9)
    lost, counted = False, 0

    def fail(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        nonlocal counted
        if lost and (len(output) != 4 or counted):
            raise RuntimeError("CUDA error: gone")
        counted += lost

    backend.network.module[0].register_forward_hook(fail)
    async with LocalPool(backend) as made:
        client = await PoolVisionClient.connect(made, tmp_path / "whole", held_out=HeldOutShare(0))
        expected = (await client.layer_exemplars([readout], dataset))[readout]
        client = await PoolVisionClient.connect(made, tmp_path / "cut", held_out=HeldOutShare(0))
        lost = True
        with pytest.raises(DeviceLostError, match="gone"):
            await client.layer_exemplars([readout], dataset)
        assert counted == 1
        lost = False
        found = (await client.layer_exemplars([readout], dataset))[readout]
    assert found.n_images == expected.n_images == 16
    assert np.array_equal(found.indices, expected.indices)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 half", b"rubbish"])
async def test_a_damaged_table_of_exemplars_is_made_again(
    pool: LocalPool[Any, Any], tmp_path: Path, damage: bytes
) -> None:
    dataset = Numbered(20)
    first = await PoolVisionClient.connect(pool, tmp_path, held_out=HeldOutShare(0.25))
    good = (await first.layer_exemplars([Readout("deep")], dataset))[Readout("deep")]
    (table,) = ExemplarStore.of(
        tmp_path, first.fingerprint, dataset.fingerprint, HeldOutShare(0.25), len(dataset)
    ).folder.glob("*.npz")
    table.write_bytes(damage)
    async with LocalPool(make_backend()) as later:
        second = await PoolVisionClient.connect(later, tmp_path, held_out=HeldOutShare(0.25))
        again = (await second.layer_exemplars([Readout("deep")], dataset))[Readout("deep")]
    assert np.array_equal(again.indices, good.indices)
    assert np.array_equal(LayerExemplars.load(table).indices, good.indices)


async def mean_maps(client: PoolVisionClient, dataset: Numbered) -> np.ndarray:
    """Return the mean over positions and images that agents may see of the layer `deep`, (U,)."""
    images = [dataset.load(int(index)) for index in split(dataset, HeldOutShare(0.25))[0]]
    maps = [await client.measure(Unit("deep", unit), images) for unit in range(7)]
    return np.array([np.mean([each.map.mean(dtype=np.float64) for each in some]) for some in maps])


async def test_the_mean_of_a_units_map_is_the_sweeps_or_that_of_a_sample(
    pool: LocalPool[Any, Any], tmp_path: Path
) -> None:
    """Also with a table of an earlier version, which has none: it is read, and swept no second time."""
    dataset, unit = Numbered(40), Unit("deep", 3)
    client = await PoolVisionClient.connect(pool, tmp_path, held_out=HeldOutShare(0.25))
    expected = await mean_maps(client, dataset)
    assert await client.map_mean(unit, dataset) == pytest.approx(expected[3], rel=1e-3)
    found = (await client.layer_exemplars([Readout("deep")], dataset))[Readout("deep")]
    np.testing.assert_allclose(found.map_mean, expected, rtol=2e-3, atol=1e-3)
    assert await client.map_mean(unit, dataset) == found.map_mean[3] == found.of(unit, 1).map_mean
    (table,) = ExemplarStore.of(
        tmp_path, client.fingerprint, dataset.fingerprint, HeldOutShare(0.25), len(dataset)
    ).folder.glob("*.npz")
    with np.load(table) as stored:
        earlier = {name: stored[name] for name in stored.files if name != "map_mean"}
    np.savez(table, later=np.zeros(3), **earlier)
    again = await PoolVisionClient.connect(pool, tmp_path, held_out=HeldOutShare(0.25))
    old = (await again.layer_exemplars([Readout("deep")], dataset))[Readout("deep")]
    assert np.isnan(old.map_mean).all()
    assert np.array_equal(old.indices, found.indices)
    assert await again.map_mean(unit, dataset) == pytest.approx(expected[3], rel=1e-3)


async def test_parts_of_a_layer_are_swept_and_kept_apart(tmp_path: Path) -> None:
    """One pass finds the exemplars of all of them; an alias of the layer has the same parts."""
    dataset = Numbered(40)
    network = wrap(networks.tiny_vit(), name="vit", size=(24, 16), aliases={"first": "blocks.0"})
    backend = VisionBackend(network, VisionSettings(placement=ONE_THREAD, device="cpu", batch=8))
    async with LocalPool(backend) as made:
        client = await PoolVisionClient.connect(made, tmp_path, held_out=HeldOutShare(0.25))
        names = ("first@cls", "first", "blocks.0.attn@head1", "first@patches")
        units = [await client.unit(Unit(name, 2)) for name in names]
        own = ["blocks.0@cls", "blocks.0", "blocks.0.attn@head1", "blocks.0"]
        assert [unit.layer for unit in units] == own
        cls, patches, head = (Readout.of(unit) for unit in units[:3])
        found = await client.layer_exemplars([cls, patches, head], dataset)
        assert [len(found[each].indices) for each in (cls, patches, head)] == [12, 12, 4]
        images = [dataset.load(int(index)) for index in found[cls].indices[2]]
        measured = await client.activations(units[:1], images)
        np.testing.assert_allclose(measured[0], found[cls].activations[2], rtol=1e-4, atol=1e-5)
        assert not np.allclose(found[cls].activations, found[patches].activations)
        assert await client.map_mean(units[0], dataset) == pytest.approx(float(found[cls].mean[2]), rel=1e-4)
        (response,) = await client.measure(units[0], images[:1])
        assert response.map.shape == (1, 1)
        with pytest.raises(UsageError, match="numbered 0 to 3"):
            await client.unit(Unit("blocks.0.attn@head1", 4))


class Poisoned(torch.nn.Module):
    """Makes two of its channels what they must not be, on every image."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        maps = maps.clone()
        maps[:, 1], maps[:, 3] = float("nan"), float("inf")
        return maps


async def test_a_unit_that_is_never_finite_is_marked_and_omits_no_image(tmp_path: Path) -> None:
    dataset, readout = Numbered(60), Readout("1")

    async def swept(name: str, *after: torch.nn.Module) -> LayerExemplars:
        first = torch.nn.Conv2d(3, 5, 3, bias=False)
        torch.nn.init.uniform_(first.weight, 0.1, 0.3, generator=torch.Generator().manual_seed(0))
        module = torch.nn.Sequential(first, *after)
        plain = wrap(module, name=name, size=(6, 6), mean=(0, 0, 0), std=(1, 1, 1))
        backend = VisionBackend(plain, VisionSettings(placement=ONE_THREAD, device="cpu", batch=8))
        async with LocalPool(backend) as made:
            client = await PoolVisionClient.connect(made, tmp_path, held_out=HeldOutShare(0.25))
            return (await client.layer_exemplars([readout], dataset))[readout]

    healthy, found = await swept("healthy", torch.nn.Identity()), await swept("poisoned", Poisoned())
    assert found.n_images == healthy.n_images
    assert not found.skipped
    others, broken = [0, 2, 4], [1, 3]
    for name in ("indices", "activations", "quantiles", "mean", "std"):
        assert np.array_equal(getattr(found, name)[others], getattr(healthy, name)[others])
    assert (found.indices[broken] == -1).all()
    assert np.isnan(found.quantiles[broken]).all()


async def test_a_search_in_which_no_image_counted_begins_anew_in_the_same_process(tmp_path: Path) -> None:
    backend = fussy(limit=1e9, broken=True)
    async with LocalPool(backend) as made:
        client = await PoolVisionClient.connect(made, tmp_path, held_out=HeldOutShare(0))
        with pytest.raises(UsageError, match="no image of the data set"):
            await client.layer_exemplars([Readout("2")], Numbered(9))
        backend.network.module[1].broken = False
        found = await client.layer_exemplars([Readout("2")], Numbered(9))
        assert found[Readout("2")].n_images == 9


async def test_images_that_are_held_out_are_shown_once_for_all_units_of_a_layer(
    client: PoolVisionClient, pool: LocalPool[Any, Any]
) -> None:
    dataset = Loads(200)
    found = await asyncio.gather(*(client.held_out(Unit("deep", unit), dataset, 30) for unit in (3, 0, 5)))
    _, held_out = split(dataset, HeldOutShare(0.25))
    readable = [index for index in dataset.loaded if index % 10]
    assert len(dataset.loaded) == len(set(dataset.loaded)) == 30
    assert set(dataset.loaded) <= set(held_out.tolist())
    backend: Any = pool.backend
    assert backend.forwards == len(readable)
    for unit, held in zip((3, 0, 5), found, strict=True):
        assert held.indices.tolist() == readable
        assert held.total == len(held_out) == 50
        assert np.allclose(
            held.activations, all_activations(Numbered(200), "deep")[readable, unit], atol=1e-5
        )
    again = await client.held_out(Unit("paper", 3), dataset, 30)
    assert np.array_equal(again.activations, found[0].activations)
    assert len(dataset.loaded) == 30


async def test_without_a_readable_held_out_image_there_is_none(
    pool: LocalPool[Any, Any], tmp_path: Path
) -> None:
    whole = await PoolVisionClient.connect(pool, tmp_path, held_out=HeldOutShare(0))
    assert len((await whole.held_out(Unit("deep", 3), Numbered(9), 30)).activations) == 0
    part = await PoolVisionClient.connect(pool, tmp_path, held_out=HeldOutShare(0.25))
    damaged = Numbered(8, frozenset(range(8)))
    assert len((await part.held_out(Unit("deep", 3), damaged, 30)).activations) == 0


async def test_a_class_wins_with_the_mean_of_the_largest_logits(client: PoolVisionClient) -> None:
    dataset = Numbered(6)
    logits = await client.activations(
        [Unit(OUTPUT, i, "logit") for i in range(4)], [dataset.load(i) for i in range(6)]
    )
    found = await client.winning_logit(Unit(OUTPUT, 2, "logit"), dataset)
    assert found == pytest.approx(float(logits.max(axis=0).mean()), abs=1e-4)
