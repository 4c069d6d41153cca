"""Networks under study in Ray actors: measured and swept by several replicas as by one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from actors.errors import UsageError
from actors.serving.cluster import Cluster
from actors.serving.pool import LocalPool
from actors.settings import Placement
from actors.vision.client import PoolVisionClient
from actors.vision.data.datasets import ArrayDataset
from actors.vision.data.held_out import HeldOutShare
from actors.vision.networks.network import Network, wrap
from actors.vision.readout.base import Unit
from actors.vision.readout.units import Readout
from actors.vision.settings import VisionSettings
from tests.actors.vision.test_client import make_backend

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(400),  # each actor imports torch, and the machine may be busy
    pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning"),
]

FACTORY = "actors.vision.backend:VisionBackend"


@pytest.mark.slow
async def test_two_replicas_measure_and_sweep_as_one_process_does(ray_cluster: None, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 20, 14, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    dataset = ArrayDataset(tmp_path / "images.npy")
    readouts = [Readout("deep"), Readout("stem")]
    async with LocalPool(make_backend(batch=4)) as pool:
        here = await PoolVisionClient.connect(pool, tmp_path / "here")
        expected = await here.layer_exemplars(readouts, dataset)
    placement = Placement(min_replicas=2, max_replicas=2, threads=1)
    settings = VisionSettings(placement=placement, device="cpu", batch=4, bank_folder=tmp_path / "bank")
    network = "python:tests.actors.vision.test_client:make_network"
    async with Cluster.start() as cluster:
        replicas = cluster.pool("vision", FACTORY, {"network": network, "settings": settings}, placement)
        client = await PoolVisionClient.connect(replicas, tmp_path / "there")
        assert client.fingerprint == here.fingerprint
        found = await client.layer_exemplars(readouts, dataset)
        for readout in readouts:
            assert np.array_equal(found[readout].indices, expected[readout].indices)
            assert np.allclose(found[readout].activations, expected[readout].activations, atol=1e-5)
        (exemplars,) = await client.exemplars([Unit("paper", 3)], dataset, k=5)
        images = [dataset.load(int(index)) for index in exemplars.indices]
        measured = await client.measure(Unit("deep", 3), images)
        assert [each.activation for each in measured] == pytest.approx(
            exemplars.activations.tolist(), abs=1e-5
        )
        assert measured[0].map.shape == (3, 2)
        with pytest.raises(UsageError, match="0 to 6"):
            await client.check(Unit("deep", 7))
        broken = cluster.pool("broken", FACTORY, {"network": "resnet1oo", "settings": settings}, placement)
        with pytest.raises(UsageError, match="no network 'resnet1oo'"):
            await PoolVisionClient.connect(broken, tmp_path / "there")


class Lasting(torch.nn.Module):
    """A network whose device is lost, for all of its process, after `passes` passes that show an image."""

    def __init__(self, passes: int) -> None:
        super().__init__()
        self.deep, self.passes = torch.nn.Conv2d(3, 4, 3), passes
        torch.nn.init.uniform_(self.deep.weight, generator=torch.Generator().manual_seed(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes -= bool(x.any())
        if self.passes < 0:
            raise RuntimeError("CUDA error: device-side assert triggered")
        found: torch.Tensor = self.deep(x)
        return found


def lasting() -> Network:
    return wrap(Lasting(9), name="lasting", size=(8, 8))


@pytest.mark.slow
async def test_images_are_asked_again_of_another_process_when_a_device_is_lost(
    ray_cluster: None, tmp_path: Path
) -> None:
    """Measured and swept, none is left out, and none is to blame."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    dataset = ArrayDataset(tmp_path / "images.npy")
    placement = Placement(threads=1)
    settings = VisionSettings(placement=placement, device="cpu", batch=4)
    network = "python:tests.actors.vision.test_on_ray:lasting"
    async with Cluster.start() as cluster:
        pool = cluster.pool("lasting", FACTORY, {"network": network, "settings": settings}, placement)
        client = await PoolVisionClient.connect(pool, tmp_path / "cache", held_out=HeldOutShare(0))
        measured = [(await client.measure(Unit("deep", 1), [dataset.load(i)]))[0] for i in range(12)]
        assert pool.statistics().lost_replicas
        found = (await client.layer_exemplars([Readout("deep")], dataset, k=24))[Readout("deep")]
        assert (found.n_images, found.skipped) == (24, {})
        expected = {int(i): float(a) for i, a in zip(found.indices[1], found.activations[1], strict=True)}
        for index, each in enumerate(measured):
            assert each.activation == pytest.approx(expected[index], abs=1e-5)
