"""`maia visualize` and `maia attribute`: pictures of what drives a unit, and of where it acts."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from actors.errors import UsageError
from actors.images import Image, ImageDecodeError, decode, encode_png
from actors.vision.client import PoolVisionClient
from actors.vision.data.distinct import image_name
from actors.vision.gradients.attribution import Attribution, AttributionMethod
from actors.vision.gradients.visualization import VisualizationSettings
from actors.vision.networks.zoo import check_name
from actors.vision.readout.base import ImageDataset, Unit
from actors.vision.readout.units import class_index, parse_unit
from agents.records.store import Store
from experiments.audit import real_images
from experiments.effects.network_run import NetworkRun
from experiments.setup.console import Console
from experiments.setup.preflight import open_images
from experiments.setup.run_folder import claim_run, open_run
from experiments.setup.selection import Selection

VISUALIZATION, ATTRIBUTION = "visualization.json", "attribution.json"
_STRONG = 99.5
"""Percentile of a map's sizes from which its color is full: single pixels would hide the rest."""

_SMOOTH = 1 / 32
"""Standard deviation of what smooths a map of pixels, as a share of the image's shorter side."""


@dataclass(frozen=True, slots=True)
class PictureRequest:
    """A unit of a network, as a command line names it, and where its pictures go."""

    model: str
    layer: str
    unit: str
    selection: Selection
    out: Path
    k: int = 15
    """Exemplars to compare with, or to attribute."""


@dataclass(frozen=True, slots=True)
class VisualizedImage:
    """A visualization: its file, seed, and the activation that it reaches as an image like any other."""

    file: str
    seed: int
    activation: float


@dataclass(frozen=True, slots=True)
class VisualizedUnit:
    """Feature visualizations of a unit, beside the strongest images of a data set; `visualization.json`."""

    model: str
    network: str
    """Fingerprint of the network."""
    unit: str
    steps: int
    learning_rate: float
    objective: str
    images: list[VisualizedImage]
    dataset: str
    exemplars: list[float]
    """Activations of the data set's strongest images."""
    mean: float
    """Mean activation over the data set."""
    version: int = 1


@dataclass(frozen=True, slots=True)
class AttributedImage:
    """A map of contributions: its picture, and the map itself as a .npy file, float32 (h, w).

    `value` is what was attributed, `baseline` what integrated gradients begins with.
    """

    file: str
    map: str
    source: str
    value: float
    baseline: float


@dataclass(frozen=True, slots=True)
class AttributedUnit:
    """Where a unit's value, or its effect on an output, comes from; kept as `attribution.json`."""

    model: str
    network: str
    unit: str
    method: str
    output: str | None
    """The output's name; None if the unit's own value was attributed."""
    images: list[AttributedImage]
    version: int = 1


async def visualize(
    console: Console, request: PictureRequest, settings: VisualizationSettings, images: int
) -> VisualizedUnit:
    """Optimize some images, with seeds that follow each other, and write them with `visualization.json`.

    Images that the folder holds are not made again.

    Raises:
        UsageError: If there is no such network, unit or data set, or the folder cannot be written.
        BackendError: If no gradient passes through the network.
    """
    about = {"model": request.model, "layer": request.layer, "unit": request.unit, **asdict(settings)}
    run = await NetworkRun.open(console, request.selection, request.out, "visualize", **about)
    dataset = run.dataset
    async with run.network() as vision:
        unit = await _unit(vision, request)
        run.claim(vision)
        with console.progress("images") as progress:
            (known,) = await vision.exemplars(
                [unit], dataset, request.k, lambda swept: progress(swept.done, swept.total)
            )
        made = []
        with console.progress("visualizations") as progress:
            for seed in range(settings.seed, settings.seed + images):
                own = VisualizationSettings(settings.steps, settings.learning_rate, settings.objective, seed)
                made.append(await _visualized(run.store, vision, unit, own))
                progress(len(made), images)
    result = VisualizedUnit(
        request.model,
        vision.fingerprint,
        str(unit),
        settings.steps,
        settings.learning_rate,
        settings.objective,
        made,
        dataset.name,
        [float(value) for value in known.activations[: request.k]],
        float(known.mean),
    )
    run.store.replace_json(VISUALIZATION, result)
    return result


async def _visualized(
    store: Store, vision: PoolVisionClient, unit: Unit, settings: VisualizationSettings
) -> VisualizedImage:
    name = f"visualization-{settings.seed}.png"
    data = await asyncio.to_thread(store.get, name)
    if data is None:
        data = encode_png(await vision.visualize(unit, settings))
        await asyncio.to_thread(store.put, name, data)
    (response,) = await vision.measure(unit, [decode(data)])
    return VisualizedImage(name, settings.seed, response.activation)


async def attribute(
    console: Console,
    request: PictureRequest,
    files: Sequence[Path],
    method: AttributionMethod,
    output: str | None,
) -> AttributedUnit:
    """Attribute a unit's value, or its effect on `output`, on files or its exemplars, and write pictures.

    Raises:
        UsageError: If there is no such network, unit, output or file, or the unit has no effect that
            could be attributed.
        BackendError: If no gradient passes through the network.
    """
    from experiments.setup.workbench import network_alone

    selected = request.selection.load()
    check_name(request.model)
    manifest = selected.manifest(
        "attribute",
        model=request.model,
        layer=request.layer,
        unit=request.unit,
        method=method,
        output=output,
        files=[str(file) for file in files],
    )
    store = open_run(selected.profile.dataset, request.out, manifest)
    shown = [(await asyncio.to_thread(_read, file), str(file)) for file in files]
    dataset = None if files else await open_images(selected.profile, selected.cache, console.say)
    async with network_alone(selected.profile, selected.cache, request.model, console.say) as vision:
        unit = await _unit(vision, request)
        of = method if output is None else class_index(output, vision.known.class_names)
        facts = {"network": vision.fingerprint}
        if dataset is not None:
            facts["dataset"] = dataset.fingerprint
            shown = await _exemplars(console, vision, unit, dataset, request.k)
        claim_run(store, manifest, facts)
        rows = []
        with console.progress("maps") as progress:
            for rank, (image, source) in enumerate(shown, 1):
                found = await vision.attribute(unit, image, of)
                name = f"attribution-{rank:02}"
                await asyncio.to_thread(_write, store, name, found)
                rows.append(
                    AttributedImage(f"{name}.png", f"{name}.npy", source, found.value, found.baseline)
                )
                progress(rank, len(shown))
        names = vision.known.class_names
    named = None if isinstance(of, str) else names[of] if of < len(names) else f"output {of}"
    result = AttributedUnit(
        request.model,
        vision.fingerprint,
        str(unit),
        method if output is None else "gradient-x-activation",
        named,
        rows,
    )
    store.replace_json(ATTRIBUTION, result)
    return result


def overlay(seen: np.ndarray, contributions: np.ndarray) -> np.ndarray:
    """Return an image in gray, uint8 (H, W, 3), with what raises the value in red, what lowers it in blue.

    `contributions`, float (h, w), are enlarged bilinearly; those of single pixels are smoothed, whose signs
    alternate.
    """
    from scipy.ndimage import gaussian_filter

    height, width = seen.shape[:2]
    enlarged = PIL.Image.fromarray(contributions.astype(np.float32), "F").resize(
        (width, height), PIL.Image.Resampling.BILINEAR
    )
    values = np.asarray(enlarged)
    if contributions.shape == (height, width):
        values = gaussian_filter(values, _SMOOTH * min(height, width))
    largest = float(np.percentile(np.abs(values), _STRONG)) or float(np.abs(values).max())
    strength = (
        np.clip(np.abs(values) / largest, 0, 1)[..., None] if largest > 0 else np.zeros((height, width, 1))
    )
    gray = seen.mean(2, keepdims=True).repeat(3, 2) * 0.6 + 60
    color = np.where(values[..., None] > 0, np.array([214.0, 39, 40]), np.array([31.0, 119, 180]))
    return (gray * (1 - strength) + color * strength).clip(0, 255).astype(np.uint8)


async def _unit(vision: PoolVisionClient, request: PictureRequest) -> Unit:
    return await vision.unit(parse_unit(request.layer, request.unit, vision.known.class_names))


async def _exemplars(
    console: Console, vision: PoolVisionClient, unit: Unit, dataset: ImageDataset, k: int
) -> list[tuple[Image, str]]:
    with console.progress("images") as progress:
        (known,) = await vision.exemplars([unit], dataset, k, lambda swept: progress(swept.done, swept.total))
    indices = known.indices[:k].tolist()
    images = await asyncio.to_thread(real_images.load, dataset, indices)
    found = [
        (image, image_name(dataset, index)) for image, index in zip(images, indices, strict=True) if image
    ]
    if not found:
        raise UsageError(f"no image of {dataset.name!r} drives {unit}.", "Name image files instead.")
    return found


def _read(file: Path) -> Image:
    try:
        return decode(file.expanduser().read_bytes())
    except (OSError, ImageDecodeError) as error:
        raise UsageError(f"{file} cannot be read as an image: {error}", "Name an image file.") from error


def _write(store: Store, name: str, found: Attribution) -> None:
    store.replace(f"{name}.png", encode_png(Image.from_pixels(overlay(found.seen, found.map))))
    array = io.BytesIO()
    np.save(array, found.map)
    store.replace(f"{name}.npy", array.getvalue())
