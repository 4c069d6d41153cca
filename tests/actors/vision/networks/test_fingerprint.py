"""Networks that hold something else have another fingerprint, in whatever form they hold it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from actors.errors import UsageError
from actors.vision.networks.network import wrap
from tests.actors.vision import tiny_networks as networks

# Both are deprecated, and met all the same.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor", "ignore::UserWarning"
)


def plain(factor: float = 1.0, stride: int = 1) -> nn.Module:
    torch.manual_seed(0)
    linear = nn.Linear(4, 3)
    linear.weight.data *= factor
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear
    ).eval()


def quantized(factor: float = 1.0) -> nn.Module:
    """Of another `factor` (a power of two), the whole numbers are the same, and the scale is not."""
    made: nn.Module = torch.ao.quantization.quantize_dynamic(plain(factor), {nn.Linear})
    return made


def quantized_lstm(factor: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    lstm = nn.LSTM(4, 3)
    lstm.weight_ih_l0.data *= factor
    made: nn.Module = torch.ao.quantization.quantize_dynamic(nn.Sequential(lstm), {nn.LSTM})
    return made


class Free(nn.Module):
    """Holds a tensor that is neither parameter nor buffer."""

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.free = [torch.full((2,), value)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.free[0].sum()


class Within(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.part(x)
        return found


class Extra(nn.Module):
    """Holds extra state."""

    def __init__(self, state: Any) -> None:
        super().__init__()
        self.state = state

    def get_extra_state(self) -> Any:
        return self.state

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def fingerprint(module: nn.Module) -> str:
    return wrap(module).fingerprint("float32")


script: Callable[[nn.Module], nn.Module] = torch.jit.script
freeze: Callable[[nn.Module], nn.Module] = torch.jit.freeze
WORDS = ["ant", "bee", "cat", "dog", "eel", "fox"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (plain, lambda: plain(2)),
        (quantized, lambda: quantized(2)),
        (quantized_lstm, lambda: quantized_lstm(2)),
        (lambda: script(plain()), lambda: script(plain(2))),
        (lambda: script(plain()), lambda: script(plain(stride=2))),
        (lambda: freeze(script(plain())), lambda: freeze(script(plain(2)))),
        (lambda: script(quantized()), lambda: script(quantized(2))),
        (lambda: freeze(script(quantized())), lambda: freeze(script(quantized(2)))),
        (lambda: Within(script(quantized())), lambda: Within(script(quantized(2)))),
        (lambda: script(Free()), lambda: script(Free(2))),
        (lambda: Extra({"level": 1}), lambda: Extra({"level": 2})),
        (lambda: Extra({"a": [torch.ones(2)]}), lambda: Extra({"a": [torch.zeros(2)]})),
        (lambda: Extra(set(WORDS)), lambda: Extra(set(WORDS[1:]))),
        (lambda: Extra([1, [2]]), lambda: Extra([[1], 2])),
        (lambda: Extra(None), lambda: Extra(False)),
    ],
    ids=[
        "plain",
        "quantized",
        "quantized LSTM",
        "scripted",
        "scripted strides",
        "frozen",
        "scripted quantized",
        "frozen quantized",
        "scripted part",
        "scripted attribute",
        "extra state",
        "tensors in extra state",
        "a set",
        "nested lists",
        "nothing",
    ],
)
def test_networks_with_different_content_have_different_fingerprints(
    one: Callable[[], nn.Module], other: Callable[[], nn.Module]
) -> None:
    module = one()
    first = fingerprint(module)
    assert first == fingerprint(module) == fingerprint(one())
    assert first != fingerprint(other())


@pytest.mark.slow
def test_the_same_content_has_the_same_fingerprint_in_another_process() -> None:
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from tests.actors.vision.networks.test_fingerprint import *\n"
        "script(plain(3)), script(quantized(3))\n"  # so that the compiler calls the next ones otherwise
        "made = Extra(set(WORDS)), script(quantized()), quantized_lstm()\n"
        "print(*map(fingerprint, made))"
    )
    here = [fingerprint(each) for each in (Extra(set(WORDS)), script(quantized()), quantized_lstm())]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    )
    assert done.stdout.split() == here


def test_a_network_of_tensors_alone_keeps_its_former_fingerprint() -> None:
    """What is kept of such a network is found again by whatever program knew no other."""
    network = wrap(networks.tiny_conv(), size=(18, 12))
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([repr(network.module), network.preprocess.facts(), "float32"]).encode())
    for name, tensor in sorted(network.module.state_dict().items()):
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}:".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    assert network.fingerprint("float32") == digest.hexdigest()


def cyclic() -> list[Any]:
    made: list[Any] = [1]
    made.append({"again": made})
    return made


@pytest.mark.parametrize(
    "state", [{"how": lambda x: x}, {"where": torch.ones(2).untyped_storage()}, {"round": cyclic()}]
)
def test_state_that_cannot_be_fingerprinted_is_refused_by_name(state: Any) -> None:
    with pytest.raises(UsageError, match=r"holds a dict at '_extra_state' .* get_extra_state"):
        fingerprint(Extra(state))
