"""Infers the preprocessing of a library's transform from its outputs on probe images: the settings of
processors are too many to interpret.

Constant images give each channel's scale, offset and order; ramps give the resizing and the crop; a textured
image decides between sizes one pixel apart, and measures the remaining difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import structlog

from actors.errors import UsageError
from actors.vision.networks.preprocess import CropPlace, Preprocess, ResizeMode

Transform = Callable[[np.ndarray], np.ndarray]
"""From a uint8 image (H, W, 3) to a network's input, float (3, h, w)."""

INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's numbers of them, which transformers uses too."""

_SHORT, _LONG = 241, 401
_SAME = 0.02
"""Relative difference of equal lengths: a ramp of 256 gray levels measures them to about a thousandth."""
_NEAR = 4.0
"""Mean difference in gray levels up to which a transform counts as rebuilt; resizing alone gives about one.
"""


class NotAnImageError(Exception):
    """A transform gives something else than the image, such as patches, or turns it by what it shows."""


log = structlog.get_logger(__name__)


def infer_preprocess(
    transform: Transform,
    name: str,
    interpolation: str | None = None,
    usual: tuple[int, int] | None = None,
) -> Preprocess:
    """Return the preprocessing that does what `transform` does, for a network called `name`.

    A transform that gives images of other shapes inputs of other shapes is taken with the network's `usual`
    size, or with squares as wide as it makes the shorter side.

    Raises:
        NotAnImageError: If what it gives is not the image, resized and cut.
        UsageError: If it mixes colors, which no mean and deviation can say.
    """
    colors = _colors(transform, name)
    wide, tall = _seen(transform, _SHORT, _LONG, colors), _seen(transform, _LONG, _SHORT, colors)
    fit: ResizeMode
    if _equal(wide.scaled, tall.scaled):
        fit, box = "squash", wide.scaled
    elif _equal(wide.scaled, (_SHORT, _LONG)):  # cut, but not resized: the input's scale is the nearest to it
        fit, box = "cover", wide.size
    elif max(wide.scaled) <= max(wide.size) * (1 + _SAME):
        fit, box = "contain", (max(wide.scaled),) * 2
    else:
        fit, box = "cover", (min(wide.scaled),) * 2
    size = wide.size if wide.size == tall.size else usual or (min(wide.size),) * 2
    rough = replace(colors, size=size, fit=fit, resize=(round(box[0]), round(box[1])))
    if wide.size != tall.size:
        log.warning("inputs_are_made_of_one_size", network=name, size=size)
        return replace(rough, fit="cover", resize=size, interpolation=interpolation or "bilinear")
    image = _textured(rough)
    theirs = transform(image)
    tried = [
        replace(candidate, interpolation=kind, place=place)
        for candidate in _neighbors(rough)
        for kind in ([interpolation] if interpolation else INTERPOLATIONS.values())
        for place in get_args(CropPlace)
    ]
    difference, best = min(
        ((_difference(candidate, image, theirs), candidate) for candidate in tried), key=lambda pair: pair[0]
    )
    if difference > _NEAR:
        log.warning("preprocessing_differs", network=name, mean_gray_levels=round(difference, 1))
    return best


@dataclass(frozen=True)
class _ProbedInput:
    """The result of probing a transform: the input's height and width, and those of the whole image at the
    input's scale.
    """

    size: tuple[int, int]
    scaled: tuple[float, float]


def _colors(transform: Transform, name: str) -> Preprocess:
    """Return the mean, the deviation and the order of channels."""

    def middle(color: tuple[int, int, int]) -> np.ndarray:
        result = transform(np.full((_SHORT, _SHORT, 3), color, np.uint8))
        return np.asarray(result[:, result.shape[1] // 2, result.shape[2] // 2], float)

    black = middle((0, 0, 0))
    slopes = np.stack([middle(color) - black for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255))], axis=1)
    bgr = abs(slopes[0, 2]) > abs(slopes[0, 0])
    own = slopes[::-1].diagonal() if bgr else slopes.diagonal()
    rest = slopes - (np.diag(own)[::-1] if bgr else np.diag(own))
    if own.min() <= 0 or np.abs(rest).max() > 0.02 * own.max():
        raise UsageError(
            f"the images of {name} are prepared by mixing their colors, which cannot be done here.",
            "Wrap the network in a factory that prepares its images itself (docs/own-network.md).",
        )
    own = own[::-1] if bgr else own
    mean, std = (
        tuple(float(round(value, 7) + 0.0) for value in values) for values in (-black / own, 1 / own)
    )
    return Preprocess(mean=mean, std=std, channels="BGR" if bgr else "RGB")


def _seen(transform: Transform, height: int, width: int, colors: Preprocess) -> _ProbedInput:
    """Show ramps from left to right in red and from top to bottom in green."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.round(np.linspace(0, 255, width))[None, :]
    image[..., 1] = np.round(np.linspace(0, 255, height))[:, None]
    result = transform(image)
    scaled = []
    for channel, axis in ((1, 1), (0, 0)):
        place = colors.channels.index("RG"[channel])
        levels = np.median(result[place] * colors.std[place] + colors.mean[place], axis)
        steps = np.convolve(np.diff(levels), np.ones(9) / 9, "same")
        rising = np.flatnonzero(steps > np.quantile(steps, 0.9) / 4)  # the rest is padding
        if len(rising) < 16:
            raise NotAnImageError("a ramp does not come out as one")
        first, last = int(rising[0]), int(rising[-1]) + 1
        margin = (last - first) // 5
        inner = slice(first + margin, last - margin)
        slope = np.polyfit(np.arange(len(levels))[inner], levels[inner], 1)[0]
        length = (height if channel else width) - 1
        scaled.append((length + 1) / max(1e-6, slope * length))
    return _ProbedInput((result.shape[1], result.shape[2]), (scaled[0], scaled[1]))


def _equal(one: Any, other: Any) -> bool:
    return bool(np.allclose(one, other, rtol=_SAME, atol=1))


def _neighbors(rough: Preprocess) -> Iterator[Preprocess]:
    assert rough.resize is not None
    assert rough.size is not None
    height, width = rough.resize
    if _equal(rough.resize, rough.size):
        yield replace(rough, resize=rough.size)
        return
    for more in range(-2, 3):
        yield replace(rough, resize=(height + more, width + more))


def _textured(rough: Preprocess) -> np.ndarray:
    """Return an image on which it shows how half a pixel is rounded: three pixels more than a multiple of
    four are cut off.
    """
    import PIL.Image

    assert rough.size is not None
    size = rough.size
    widths = (w for w in range(_LONG, _LONG + 40) if (rough.scaled(_SHORT, w)[1] - size[1]) % 4 == 3)
    width = next(widths, _LONG)
    coarse = np.random.default_rng(0).integers(0, 256, (_SHORT // 8, width // 8, 3), dtype=np.uint8)
    image = PIL.Image.fromarray(coarse).resize((width, _SHORT), PIL.Image.Resampling.BICUBIC)
    return np.array(image)


def _difference(ours: Preprocess, image: np.ndarray, theirs: np.ndarray) -> float:
    """Return the mean difference of two inputs in gray levels."""
    std = np.array(ours.std)[:, None, None]
    return float((np.abs(ours.batch([image])[0].numpy() - theirs) * std * 255).mean())
