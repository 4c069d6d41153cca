"""Tiny random networks of many shapes. Sizes are small and all different, so that a swapped axis fails."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn

from actors import vision_libraries

vision_libraries.import_torchvision()

import timm  # noqa: E402


class TinyConv(nn.Module):
    """Two convolutions, an in-place activation, a residual branch, a linear head. Input 3 x 18 x 12."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 3, stride=2, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.branch = nn.Conv2d(5, 5, 1)
        self.deep = nn.Conv2d(5, 7, 3, stride=3)
        self.head = nn.Linear(7, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.stem(x))
        x = x + self.branch(x)
        x = self.deep(x)
        scores: torch.Tensor = self.head(x.amax((2, 3)))
        return scores


class Outputs(nn.Module):
    """Modules that return tuples, dictionaries, integers, nothing of use; and one that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2, stride=2)
        self.pair = _Pair()
        self.named = _Named()
        self.odd, self.nested, self.sequence = _Odd(), _Nested(), _Sequence()
        self.again = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.conv(x)
        _, x = self.pair(x)
        x = self.named(x)["features"]
        self.odd(x)
        x = self.nested(x).parts[1]["maps"]
        x = self.sequence(x).permute(1, 2, 0).unflatten(2, x.shape[2:])
        x = self.again(self.again(x))
        return {"logits": x.mean((2, 3))}


class _Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(11), x * 2


class _Named(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"size": torch.tensor(len(x)), "features": x + 1}


class _Nested(nn.Module):
    def forward(self, x: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(table=torch.zeros(1, 2, 4), parts=["text", {"maps": x * 3}])


class _Sequence(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(2).permute(2, 0, 1)


class _Odd(nn.Module):
    def forward(self, x: torch.Tensor) -> str:
        return "odd"


def seeded(build: type[nn.Module] | object, seed: int = 0, **options: object) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build(**options)  # type: ignore[operator]
        for parameter in module.parameters():
            # Zero-initialised heads and biases would hide mistakes.
            nn.init.normal_(parameter, std=0.3)
        return module.eval().requires_grad_(False)  # type: ignore[no-any-return]


def tiny_conv() -> nn.Module:
    return seeded(TinyConv)


def tiny_vit(**options: object) -> nn.Module:
    """24 channels, patches of 4: a 6 x 4 grid for a 24 x 16 input."""
    sizes = {
        "img_size": (24, 16),
        "patch_size": 4,
        "embed_dim": 12,
        "depth": 2,
        "num_heads": 3,
        "num_classes": 5,
    }
    return seeded(lambda: timm.create_model("vit_tiny_patch16_224", **{**sizes, **options}))


def tiny_swin() -> nn.Module:
    return seeded(
        lambda: timm.create_model(
            "swin_tiny_patch4_window7_224",
            img_size=32,
            window_size=2,
            embed_dim=6,
            depths=(1, 1),
            num_heads=(1, 2),
            num_classes=5,
        )
    )


def tiny_convnext() -> nn.Module:
    return seeded(
        lambda: timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(4, 6, 8, 10), num_classes=5)
    )


def tiny_resnet() -> nn.Module:
    from timm.models.resnet import BasicBlock, ResNet

    return seeded(
        lambda: ResNet(BasicBlock, (2, 1, 1, 1), channels=(4, 5, 6, 7), stem_width=4, num_classes=6)
    )
