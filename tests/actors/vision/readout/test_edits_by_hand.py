"""Edits in networks of many kinds do what a hand-written forward with the same change does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from actors.vision.readout.units import OUTPUT, Readout
from tests.actors.vision import tiny_networks as networks
from tests.actors.vision.readout.test_edits import backend_of, edit, noise, scores

Change = Callable[[torch.Tensor], torch.Tensor]
UNIT = 1
CHANGES: dict[str, tuple[dict[str, float], Change]] = {
    "set": ({"amount": 2.5}, lambda a: torch.full_like(a, 2.5)),
    "scale": ({"amount": -1.5}, lambda a: a * -1.5),
    "add": ({"amount": 0.7}, lambda a: a + 0.7),
    "clamp": ({"amount": -0.1, "upper": 0.2}, lambda a: a.clamp(-0.1, 0.2)),
}


class Steps(nn.Module):
    """A network that shows its layers' outputs to `self.seen` by name, and goes on with what that returns."""

    seen: Callable[[str, torch.Tensor], torch.Tensor] = staticmethod(lambda _name, tensor: tensor)

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def call(self, name: str, *given: torch.Tensor) -> torch.Tensor:
        return self.seen(name, getattr(self, name)(*given))


class Grouped(Steps):
    def __init__(self) -> None:
        super().__init__(a=nn.Conv2d(3, 6, 3), g=nn.Conv2d(6, 6, 3, groups=3), h=nn.Linear(6, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.call("h", self.call("g", self.call("a", x)).relu().mean((2, 3)))


class Tied(Steps):
    def __init__(self) -> None:
        super().__init__(a=nn.Conv2d(3, 3, 1), b=nn.Conv2d(3, 3, 1))
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.call("b", self.call("a", x).tanh()).relu().mean((2, 3))


class Dense(Steps):
    def __init__(self) -> None:
        super().__init__(a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(7, 4, 1), h=nn.Linear(11, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.cat([x, self.call("a", x).relu()], 1)
        return self.call("h", torch.cat([a, self.call("b", a).relu()], 1).mean((2, 3)))


class Gated(Steps):
    def __init__(self) -> None:
        super().__init__(a=nn.Conv2d(3, 8, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.call("a", x).chunk(2, 1)
        return (value * gate.sigmoid()).mean((2, 3))


class WritesInPlace(Steps):
    """What is edited is changed by the network's own code afterwards."""

    def __init__(self) -> None:
        super().__init__(a=nn.Conv2d(3, 4, 1), n=nn.BatchNorm2d(4))
        self.n.running_mean.fill_(0.3)  # type: ignore[operator, union-attr]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.call("a", x)
        a[:, 2:].mul_(2)
        a.add_(1)
        return self.call("n", a).relu_().mean((2, 3))


class Around(Steps):
    """A long connection around a narrow part, as in a U-Net."""

    def __init__(self) -> None:
        super().__init__(
            a=nn.Conv2d(3, 4, 3, padding=1), d=nn.Conv2d(4, 6, 2, 2), u=nn.ConvTranspose2d(6, 4, 2, 2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.call("a", x).relu()
        return torch.cat([a, self.call("u", self.call("d", a).relu())], 1).mean((2, 3))


@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (Grouped, "a"),
        (Grouped, "g"),
        (Tied, "a"),
        (Tied, "b"),
        (Dense, "a"),
        (Dense, "b"),
        (Gated, "a"),
        (WritesInPlace, "a"),
        (WritesInPlace, "n"),
        (Around, "d"),
    ],
)
async def test_every_kind_of_edit_is_that_of_the_forward_by_hand(make: type[Steps], layer: str) -> None:
    backend, image = backend_of(networks.seeded(make)), noise(1)[0]
    module: Any = backend.network.module
    pixels = torch.from_numpy(image.pixels.copy()).permute(2, 0, 1)[None].float() / 255
    expected = []
    for _, change in CHANGES.values():

        def seen(name: str, tensor: torch.Tensor, change: Change = change) -> torch.Tensor:
            if name == layer:
                tensor[:, UNIT] = change(tensor[:, UNIT])
            return tensor

        module.seen = seen
        with torch.inference_mode():
            expected.append(module(pixels)[0].numpy())
    del module.seen
    rows = [(image, (edit(UNIT, how, layer=layer, **numbers),)) for how, (numbers, _) in CHANGES.items()]
    clean, *found = await scores(backend, (image, ()), *rows, readout=Readout(OUTPUT))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
    assert np.abs(np.array(found)[:3] - clean).max(1).min() > 1e-4
    await backend.close()
