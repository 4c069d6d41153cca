"""Preprocessing: from uint8 images of any size to a network's input batch.

Resizing works on uint8 with antialiasing, as Pillow's does (within one gray level), but on batches.
A network rarely sees the whole image: `view` is the part, over which a map is laid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from actors.errors import UsageError

if TYPE_CHECKING:
    import torch

ResizeMode = Literal["cover", "squash", "contain"]
CropPlace = Literal["even", "down", "start"]
"""The position of the crop, or of the padding: in the middle, with half a pixel rounded to even as in
torchvision or down as in transformers; or at the top left.
"""
View = tuple[float, float, float, float]
"""Top, left, bottom, right as fractions of the image; beyond 0..1 where the input was padded."""

_LATER = ("place", "channels")
WHOLE: View = (0.0, 0.0, 1.0, 1.0)

_FAR = 4
"""Of an image much longer than the input, only the middle is resized, to this multiple of its length."""

_CHANNELS = {
    "R": (1.0, 0.0, 0.0),
    "G": (0.0, 1.0, 0.0),
    "B": (0.0, 0.0, 1.0),
    "L": (0.299, 0.587, 0.114),
    "0": (0.0, 0.0, 0.0),
}
"""Shares of red, green and blue in a channel of the input."""

_IN_TORCH = {"bilinear": "bilinear", "bicubic": "bicubic"}
_IN_PILLOW = {"nearest": 0, "lanczos": 1, "box": 4, "hamming": 5}


@dataclass(frozen=True, slots=True)
class Preprocess:
    """Resize to `resize`, crop the center to `size`, scale to 0..1, subtract `mean`, divide by `std`.

    `cover` keeps the aspect ratio and covers the box `resize` (height, width), `contain` keeps it and
    fits inside, `squash` does not keep it. `size` None feeds images at their own size, unresized.

    `channels` are the channels of the input: R, G, B, L (luminance, ITU-R 601), or 0 for one that
    images do not have, which is 0 to the network. `mean` and `std` hold a number for each.
    """

    size: tuple[int, int] | None = (224, 224)
    resize: tuple[int, int] | None = None
    fit: ResizeMode = "cover"
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    place: CropPlace = "even"
    channels: str = "RGB"

    def __post_init__(self) -> None:
        if self.interpolation not in _IN_TORCH and self.interpolation not in _IN_PILLOW:
            known = ", ".join([*_IN_TORCH, *_IN_PILLOW])
            raise UsageError(f"interpolation must be one of {known}, got {self.interpolation!r}")
        if not self.channels or set(self.channels) - set(_CHANNELS):
            raise UsageError(f"channels must be of the letters {', '.join(_CHANNELS)}, got {self.channels!r}")
        n = len(self.channels)
        if len(self.mean) != n or len(self.std) != n or min(self.std) <= 0:
            raise UsageError(
                f"mean and std must hold {n} numbers, for the channels {self.channels}, std above 0; "
                f"got {self.mean} and {self.std}"
            )

    def facts(self) -> dict[str, object]:
        """Return plain values for the fingerprint."""
        facts = asdict(self)
        # What most networks are without keeps the caches of earlier versions.
        usual = self.channels == "RGB" and self.place == "even"
        return {key: facts[key] for key in facts if key not in _LATER} if usual else facts

    def gray(self) -> Preprocess:
        """Return the same for luminance alone, with the mean of `mean` and of `std`."""
        mean, std = (sum(values) / len(values) for values in (self.mean, self.std))
        return replace(self, channels="L", mean=(mean,), std=(std,))

    def scaled(self, height: int, width: int) -> tuple[int, int]:
        """Return the size to which an image of `height` x `width` is resized, before the crop."""
        if self.size is None:
            return height, width
        box_h, box_w = self.resize or self.size
        if self.fit == "squash":
            return box_h, box_w
        ratios = (box_h / height, box_w / width)
        ratio = max(ratios) if self.fit == "cover" else min(ratios)
        # The side that decides is exact; the other is rounded down, as torchvision does.
        scaled_h = box_h if ratio == ratios[0] else math.floor(height * ratio)
        scaled_w = box_w if ratio == ratios[1] else math.floor(width * ratio)
        return max(1, scaled_h), max(1, scaled_w)

    def view(self, height: int, width: int) -> View:
        """Return the part of an image of `height` x `width` that the network sees."""
        if self.size is None:
            return WHOLE
        scaled = self.scaled(height, width)
        top, left = self._starts(scaled)
        return (
            top / scaled[0],
            left / scaled[1],
            (top + self.size[0]) / scaled[0],
            (left + self.size[1]) / scaled[1],
        )

    def _starts(self, scaled: tuple[int, int]) -> tuple[int, int]:
        """Return the top and left of the input in an image of the size `scaled`, negative where it reaches
        beyond.
        """
        assert self.size is not None
        spare = scaled[0] - self.size[0], scaled[1] - self.size[1]
        match self.place:
            case "even":
                return round(spare[0] / 2), round(spare[1] / 2)
            case "down":
                return spare[0] // 2, spare[1] // 2
            case "start":
                return 0, 0

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        return self.size or (height, width)

    def batch(
        self,
        images: Sequence[np.ndarray],
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """Return (N, C, h, w) channels-last for uint8 (H, W, 3) images, whose sizes may differ; C of
        `channels`.
        """
        return self.normalized(self.pixels(images).to(device, non_blocking=True), dtype)

    def pixels(self, images: Sequence[np.ndarray], pinned: bool = False) -> torch.Tensor:
        """Return what the network sees of uint8 (H, W, 3) images, resized and cropped: uint8 (N, 3, h, w).

        `pinned`: in memory that a GPU copies from by itself.
        """
        import torch

        height, width = self.input_size(*images[0].shape[:2])
        pixels = torch.empty((len(images), height, width, 3), dtype=torch.uint8, pin_memory=pinned)
        groups: dict[tuple[int, ...], list[int]] = {}
        for row, image in enumerate(images):
            groups.setdefault(image.shape, []).append(row)
        for rows in groups.values():
            if len(rows) == 1 and images[rows[0]].flags.writeable:
                # With `[None]` the new stride would be 0, and torch leave its fast path.
                same = images[rows[0]].reshape(1, *images[rows[0]].shape)
            else:
                same = np.stack([images[row] for row in rows])
            where = slice(None) if len(groups) == 1 else rows
            pixels[where] = self._cropped(self._resized(same), height, width)
        return pixels.permute(0, 3, 1, 2)

    def normalized(
        self, pixels: torch.Tensor, dtype: torch.dtype | None = None, *, channels_last: bool = True
    ) -> torch.Tensor:
        """Return the input, (N, C, h, w) of `dtype` (float32), of RGB pixels (N, 3, h, w) in 0..255 of the
        input's size; differentiable. `channels_last` False gives torch's default layout in memory.
        """
        import torch

        mean = torch.tensor(self.mean, device=pixels.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(1, -1, 1, 1)
        if self.channels != "RGB":
            weights = torch.tensor([_CHANNELS[channel] for channel in self.channels], device=pixels.device)
            pixels = torch.einsum("nihw,ci->nhwc", pixels.float(), weights).permute(0, 3, 1, 2)
        # In place on the product alone: a second large tensor costs time.
        batch = pixels.mul(1 / (255 * std)).sub_(mean / std)
        absent = [place for place, channel in enumerate(self.channels) if channel == "0"]
        if absent:
            batch[:, absent] = 0
        batch = batch if dtype is None else batch.to(dtype)
        # `contiguous` would leave a single channel's strides, which `view` and convolutions go by.
        return batch if channels_last else batch.clone(memory_format=torch.contiguous_format)

    def _resized(self, images: np.ndarray) -> torch.Tensor:
        """Return uint8 (N, h, w, 3) for uint8 (N, H, W, 3), without ends that are far from the crop."""
        import torch

        images, target = self._middle(images)
        if images.shape[1:3] == target:
            return torch.from_numpy(images)
        if self.interpolation in _IN_TORCH:
            resized = torch.nn.functional.interpolate(
                torch.from_numpy(images).permute(0, 3, 1, 2),
                size=target,
                mode=_IN_TORCH[self.interpolation],
                antialias=True,
            )
            return resized.permute(0, 2, 3, 1)
        import PIL.Image

        method = PIL.Image.Resampling(_IN_PILLOW[self.interpolation])
        shape = (target[1], target[0])
        return torch.from_numpy(
            np.stack([np.asarray(PIL.Image.fromarray(image).resize(shape, method)) for image in images])
        )

    def _middle(self, images: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
        """Return the part of uint8 (N, H, W, 3) that is worth resizing, and the size that it is resized to.

        A strip of one pixel by thousands would else become millions wide, and cost gigabytes.
        """
        scaled = self.scaled(*images.shape[1:3])
        if self.size is None:
            return images, scaled
        target = list(scaled)
        for axis, (length, long, wanted) in enumerate(
            zip(images.shape[1:3], scaled, self.size, strict=True), start=1
        ):
            # A few pixels more than the part itself: an interpolation reads beyond it.
            cut = (length - math.ceil(_FAR * wanted * length / long) - 8) // 2
            if long > 2 * _FAR * wanted and cut > 0:
                images = images.take(range(cut, length - cut), axis)
                target[axis - 1] = round(images.shape[axis] * long / length)
        return images, (target[0], target[1])

    def mean_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return pixels (N, 3, h, w) in 0..255 of the mean color alone, for such pixels."""
        import torch

        color = 255 * torch.tensor(self._mean_color(), device=pixels.device)
        return color.view(1, 3, 1, 1).expand_as(pixels).to(pixels.dtype).contiguous()

    def _mean_color(self) -> tuple[float, float, float]:
        """Return red, green and blue of the color that is 0 to the network, as nearly as there is one."""
        by_channel = dict(zip(self.channels, self.mean, strict=True))
        gray = by_channel.get("L", 0.5)
        return by_channel.get("R", gray), by_channel.get("G", gray), by_channel.get("B", gray)

    def _cropped(self, images: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Return the center; where it is larger than the image, the rest is the mean color (0 to the
        network).
        """
        import torch

        scaled_h, scaled_w = images.shape[1:3]
        if self.size is None:
            return images
        top, left = self._starts((scaled_h, scaled_w))
        if scaled_h >= height and scaled_w >= width:
            return images[:, top : top + height, left : left + width]
        fill = torch.tensor([round(255 * m) for m in self._mean_color()], dtype=torch.uint8)
        page = fill.expand(len(images), height, width, 3).clone()
        inside = images[:, max(top, 0) : max(top, 0) + height, max(left, 0) : max(left, 0) + width]
        row, column = max(-top, 0), max(-left, 0)
        page[:, row : row + inside.shape[1], column : column + inside.shape[2]] = inside
        return page
