"""One pass finds what brute force finds, however it is cut, ordered, interrupted and resumed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from actors.images import Image, ImageDecodeError, Provenance
from actors.vision.readout.units import Readout
from actors.vision.sweep.accumulators import (
    LEVELS,
    ReadoutAccumulator,
    SweepPart,
    SweepPlan,
    disjoint_parts,
    from_keys,
    merge_parts,
    sort_keys,
)


class Numbered:
    """A data set whose image `i` is a flat color; some are corrupt."""

    name = "numbered"

    def __init__(self, n: int, corrupt: frozenset[int] = frozenset(), size: int = 6) -> None:
        self._n, self._corrupt, self._size = n, corrupt, size
        self.fingerprint = f"numbered{n}{size}{sorted(corrupt)}"

    def __len__(self) -> int:
        return self._n

    def load(self, index: int) -> Image:
        if index in self._corrupt:
            raise ImageDecodeError(f"image {index} is corrupt")
        rng = np.random.default_rng(index)
        return Image.from_pixels(rng.integers(0, 256, (self._size, self._size, 3), dtype=np.uint8))

    def provenance(self, index: int) -> Provenance:
        return Provenance("dataset", maker=self.name)


def brute_force(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k largest of (N, U) by column with ties by the smaller index, (U, k) each."""
    n, n_units = values.shape
    order = np.stack([np.lexsort((np.arange(n), -values[:, unit]))[:k] for unit in range(n_units)])
    return np.take_along_axis(values.T, order, axis=1), order


def ties(n: int, n_units: int, seed: int = 0) -> np.ndarray:
    """Return activations full of ties: few distinct values, dead units, negative ones, both zeros."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-3, 4, (n, n_units)).astype(np.float32)
    values[:, 0] = 0
    values[::2, 0] = -0.0
    values[:, 1] = -7.5
    values[:, 2] = rng.normal(size=n)
    return values


def accumulator_of(values: np.ndarray, order: np.ndarray, cuts: list[int], k: int) -> ReadoutAccumulator:
    accumulator = ReadoutAccumulator(values.shape[1], k, rows=1)
    for some in np.split(order, cuts):
        if len(some):
            accumulator.add(torch.from_numpy(values[some]), torch.from_numpy(some))
    return accumulator


def test_keys_order_values_and_break_ties_by_the_smaller_index() -> None:
    values = torch.tensor([1.5, -2.0, 0.0, -0.0, 1.5, float("-inf"), 3e38, -3e38])
    indices = torch.tensor([7, 1, 5, 2, 3, 0, 2**32 - 1, 6])
    keys = sort_keys(values, indices)
    assert keys.argsort(descending=True).tolist() == [6, 4, 0, 3, 2, 1, 7, 5]
    back, places = from_keys(keys)
    assert torch.equal(back, values)
    assert torch.equal(places, indices)


@pytest.mark.parametrize("n", [3, 40, 700])
def test_the_top_k_is_exact_with_ties_in_any_order_and_sharding(n: int) -> None:
    values = ties(n, 6)
    expected_values, expected_indices = brute_force(values, 5)
    rng = np.random.default_rng(1)
    k = min(5, n)
    for order in (np.arange(n), np.arange(n)[::-1].copy(), rng.permutation(n)):
        cut = sorted(rng.integers(0, n, 4).tolist())
        whole = accumulator_of(values, order, cut, 5)
        found_values, found_indices = whole.top()
        assert (found_indices[:, :k] == expected_indices).all()
        assert (found_values[:, :k] == expected_values).all()
        halves = [accumulator_of(values, part, [], 5) for part in np.array_split(order, 3)]
        halves[2].merge(halves[0])
        halves[2].merge(halves[1])
        assert (halves[2].top()[1][:, :k] == expected_indices).all()


def test_with_fewer_images_than_k_the_rest_is_marked_as_nothing() -> None:
    accumulator = accumulator_of(ties(3, 4), np.arange(3), [], 5)
    values, indices = accumulator.top()
    assert (indices[:, 3:] == -1).all()
    assert np.isneginf(values[:, 3:]).all()


def test_moments_are_those_of_all_images_in_any_sharding() -> None:
    values = np.random.default_rng(0).normal(50, 3, (613, 4)).astype(np.float32)
    whole = accumulator_of(values, np.arange(613), [100, 101, 400], 3)
    other = accumulator_of(values, np.arange(200, 613), [], 3)
    other.merge(accumulator_of(values, np.arange(200), [77], 3))
    for accumulator in (whole, other):
        accumulator.fold()
        assert accumulator.n_images == 613
        assert np.allclose(accumulator.mean, values.mean(0, dtype=np.float64), rtol=1e-6)
        assert np.allclose(np.sqrt(accumulator.m2.numpy() / 613), values.std(0, dtype=np.float64), rtol=1e-4)


def test_the_mean_of_maps_counts_each_image_once_and_is_unknown_where_a_part_lacks_it() -> None:
    means = np.random.default_rng(2).normal(7, 1, (90, 4)).astype(np.float32)
    parts = [accumulator_of(means, order, [], 3) for order in np.array_split(np.arange(90), 4)]
    for part, order in zip(parts, np.array_split(np.arange(90), 4), strict=True):
        part.add_map_means(torch.from_numpy(means[order]))
    stored = parts[2].arrays()
    for part in parts[1:]:
        parts[0].merge(part)
    np.testing.assert_allclose(parts[0].map_mean(), means.mean(0, dtype=np.float64), rtol=1e-6)
    assert np.array_equal(ReadoutAccumulator.restore(stored).map_total, parts[2].map_total)
    del stored["map_total"]
    parts[0].merge(ReadoutAccumulator.restore(stored))
    assert np.isnan(parts[0].map_mean()).all()


def plan(n: int, rows: int = 64) -> SweepPlan:
    return SweepPlan(Numbered(n), np.arange(n), (Readout("deep"),), rows=rows)


def test_sampled_positions_differ_between_images_and_are_the_same_in_every_process(tmp_path: Path) -> None:
    first = plan(40)
    digest = first.save(tmp_path)
    again = SweepPlan.load(tmp_path, digest)
    (tmp_path / "plan.pickle").write_bytes(b"cos\nsystem\n.")
    with pytest.raises(OSError, match="is not what this sweep wrote"):
        SweepPlan.load(tmp_path, digest)
    drawn = first.positions(0, 40, 4, 49)
    assert (drawn == again.positions(0, 40, 4, 49)).all()
    assert (drawn[10:20] == first.positions(10, 20, 4, 49)).all()
    assert len({tuple(row) for row in drawn.tolist()}) > 35
    assert set(range(49)) - set(first.positions(0, 40, 16, 49).ravel().tolist()) == set()


def test_the_sampled_images_are_chosen_by_hash_and_fill_the_reservoir() -> None:
    slots = plan(100, rows=64).slots(4)
    assert sorted(slots[slots >= 0].tolist()) == list(range(16))
    assert (np.diff(slots[slots >= 0]) > 0).all()
    few = plan(5, rows=64)
    assert few.samples(49) == 12
    assert few.samples(1) == 1
    assert (few.slots(12) == np.arange(5)).all()


def test_quantiles_of_the_reservoir_are_the_samples_own() -> None:
    values = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float16)
    accumulator = ReadoutAccumulator(5, 2, rows=400)
    accumulator.sample(torch.arange(50, 350), torch.from_numpy(values))
    expected = np.quantile(values.astype(np.float32), LEVELS, axis=0).T
    assert np.allclose(accumulator.quantiles(), expected, atol=2e-3)


def test_quantiles_of_random_positions_are_near_the_whole_populations() -> None:
    rng = np.random.default_rng(0)
    n, positions = 700, 25
    # Positions matter: the middle of every map is higher, as in real networks.
    maps = rng.normal(size=(n, positions)) + np.where(np.arange(positions) == 12, 2.0, 0.0)
    made = SweepPlan(Numbered(n), np.arange(n), (Readout("deep"),))
    samples = made.samples(positions)
    where = made.positions(0, n, samples, positions)
    accumulator = ReadoutAccumulator(1, 2, rows=n * samples)
    accumulator.sample(
        torch.arange(n * samples), torch.from_numpy(np.take_along_axis(maps, where, axis=1).reshape(-1, 1))
    )
    found = accumulator.quantiles([0.9, 0.95, 0.99])[0]
    ranks = [(maps < value).mean() for value in found]
    assert np.allclose(ranks, [0.9, 0.95, 0.99], atol=8e-3)


def test_the_state_does_not_grow_with_the_data_set_and_stays_below_18_kilobytes_a_unit() -> None:
    sizes = []
    for n in (5_000, 100_000):
        made = plan(n, rows=8192)
        samples = made.samples(49)
        chosen = int((made.slots(samples) >= 0).sum())
        sizes.append(ReadoutAccumulator(30, 15, chosen * samples).state_bytes() / 30)
    assert sizes[0] == sizes[1] <= 18_000


def partial(done: set[int], values: np.ndarray, order: np.ndarray) -> SweepPart:
    return SweepPart(
        done, {Readout("deep"): accumulator_of(values, order, [], 3)}, {int(order[0]): "corrupt"}
    )


def test_a_part_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    values = ties(50, 4)
    part = partial({0, 32}, values, np.arange(50))
    part.accumulators[Readout("deep")].sample(torch.tensor([0]), torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    part.save(tmp_path / "part-a.npz")
    back = SweepPart.load(tmp_path / "part-a.npz")
    assert back.done == {0, 32}
    assert back.skipped == {0: "corrupt"}
    first, second = part.accumulators[Readout("deep")], back.accumulators[Readout("deep")]
    assert (first.top()[1] == second.top()[1]).all()
    assert torch.equal(first.mean, second.mean)
    assert (first.quantiles() == second.quantiles()).all()


def test_parts_that_share_a_step_are_never_both_counted(tmp_path: Path) -> None:
    values = ties(40, 4)
    partial({0, 10, 20}, values, np.arange(30)).save(tmp_path / "part-a.npz")
    partial({20, 30}, values, np.arange(20, 40)).save(tmp_path / "part-b.npz")
    partial({30}, values, np.arange(30, 40)).save(tmp_path / "part-c.npz")
    chosen, done = disjoint_parts(tmp_path)
    assert [path.name for path in chosen] == ["part-a.npz", "part-c.npz"]
    assert done == {0, 10, 20, 30}
    whole = merge_parts(tmp_path).accumulators[Readout("deep")]
    assert whole.n_images == 40
    assert (whole.top()[1] == brute_force(values, 3)[1]).all()


def test_moments_of_very_large_activations_are_finite() -> None:
    values = np.array([[1e30], [3e30], [2e30]], np.float32)
    accumulator = accumulator_of(values, np.arange(3), [], k=2)
    accumulator.fold()
    assert float(accumulator.mean[0]) == pytest.approx(2e30)
    assert float(accumulator.m2[0]) == pytest.approx(2e60)
