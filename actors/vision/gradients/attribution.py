"""Attribution: the pixels that a unit's value comes from, and the positions at which it acts on an output.

Shapes: H x W pixels of the network's input; h x w positions of a layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from actors.errors import MissingDependencyError
from actors.vision.gradients.differentiable import DifferentiableNetwork
from actors.vision.readout.units import Readout

if TYPE_CHECKING:
    import torch

PixelMethod = Literal["integrated-gradients", "gradient-x-input", "smoothgrad-x-input"]
AttributionMethod = PixelMethod | Literal["attention"]
_POINTS = 32
"""Points on the path of integrated gradients, and noisy copies of SmoothGrad."""
_NOISE = 0.15
"""Standard deviation of SmoothGrad's noise, as a share of the range of the image (Smilkov et al. 2017)."""


@dataclass(frozen=True, slots=True)
class Attribution:
    """A map of contributions, float32, over what the network saw of the image: `seen`, uint8 (H, W, 3).

    Of pixels (H, W), signed: summed over colors. Of positions (h, w): the unit's value times the output's
    derivative by it, or the weights of an attention head. `value` is what is attributed: the unit's largest
    value, or the output. `baseline` is its value on the image that integrated gradients begins with, all of
    the network's mean color; 0 else.
    """

    map: np.ndarray
    value: float
    baseline: float
    seen: np.ndarray


def of_pixels(
    network: DifferentiableNetwork, pixels: torch.Tensor, unit: tuple[Readout, int], method: PixelMethod
) -> tuple[np.ndarray, float, float]:
    """Return the map (H, W) of what the unit's largest value comes from, that value, and the baseline's.

    `pixels` are RGB, float32 (1, 3, H, W) in 0..255, of the input's size. The position of the largest value
    on the image is attributed throughout, so that the function is the same at every point of a path.

    Raises:
        BackendError: If no gradient passes through the network.
        MissingDependencyError: If captum is not installed.
    """
    import torch

    captum = _captum()
    with network.recording(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # captum draws SmoothGrad's noise from the global generator
        # A copy: a tensor of a thread that records nothing can have no gradient.
        pixels = pixels.clone().requires_grad_()
        mean = network.preprocess.mean_image(pixels.detach())
        values = network.unit(pixels, *unit)
        place = values.detach().flatten(1).argmax(1)

        def value(batch: torch.Tensor) -> torch.Tensor:
            return network.unit(batch, *unit).flatten(1)[:, place[0]]

        match method:
            case "integrated-gradients":
                explainer = captum.IntegratedGradients(value)
                given = explainer.attribute(pixels, baselines=mean, n_steps=_POINTS, internal_batch_size=8)
            case "gradient-x-input":
                # Relative to the mean color, which is 0 to the network.
                given = captum.Saliency(value).attribute(pixels, abs=False) * (pixels - mean)
            case "smoothgrad-x-input":
                spread = _NOISE * float((pixels.max() - pixels.min()).detach())
                noisy = captum.NoiseTunnel(captum.Saliency(value))
                given = noisy.attribute(
                    pixels, nt_samples=_POINTS, nt_samples_batch_size=8, stdevs=spread, abs=False
                ) * (pixels - mean)
        start = float(value(mean)[0]) if method == "integrated-gradients" else 0.0
    return given.detach().sum(1)[0].float().cpu().numpy(), float(values.max()), start


def of_output(
    network: DifferentiableNetwork, pixels: torch.Tensor, unit: tuple[Readout, int], output: int
) -> tuple[np.ndarray, float]:
    """Return the map (h, w) of what the unit contributes to an output, and the output.

    Gradient times activation at the unit: exact where the output is linear in it. `pixels` as in `of_pixels`.

    Raises:
        UsageError: If the unit has no effect on outputs that could be attributed.
        BackendError: If no gradient passes through the network.
    """
    import torch

    with network.recording():
        values, zero, score = network.unit_and_output(pixels, *unit, output)
        (gradient,) = torch.autograd.grad(score, zero)
    return (values * gradient).float().cpu().numpy(), float(score)


def _captum() -> Any:
    try:
        from captum import attr
    except ImportError as error:
        raise MissingDependencyError(
            "attributions of pixels need captum.", 'Install it: pip install "maia[attribution]"'
        ) from error
    return attr
