"""Vision models of transformers: whole classifiers and encoders, and the vision towers of larger models."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog

from actors import hub, vision_libraries
from actors.errors import UsageError
from actors.vision.data import class_names
from actors.vision.networks import names
from actors.vision.networks.network import Network, build_seeded, by_name, freeze
from actors.vision.networks.prefix import declared_prefix
from actors.vision.networks.preprocess import Preprocess
from actors.vision.networks.transforms import INTERPOLATIONS, NotAnImageError, infer_preprocess

if TYPE_CHECKING:
    import torch

log = structlog.get_logger(__name__)


def from_transformers(name: str, pretrained: bool, n_classes: int | None = None) -> Network:
    """`owner/name` or a folder, and after `#` the module inside that is studied, such as
    `owner/llava#vision_tower`.

    Of a model that takes text too and has one vision tower, that is taken. `n_classes` gives a classifier
    another head.

    Raises:
        UsageError: If there is no such model or module, or it takes other inputs than images.
    """
    hub.require("hf: networks", "transformers")
    vision_libraries.import_torchvision()
    import transformers

    model, path = names.model_and_module(name)
    hub.local_folder(model)
    with hub.translated_errors(model), hub.quick_when_offline():
        config = transformers.AutoConfig.from_pretrained(model)
        if n_classes is not None:
            config.num_labels = n_classes
        loader = _class(config, transformers)
        path = _tower(_skeleton(loader, config), path, name)
        module = (
            loader.from_pretrained(model)
            if pretrained
            else build_seeded(lambda: _random(loader, config, path))
        )
        module = module.get_submodule(path) if pretrained else module
        processor = _processor(model, transformers)
    classes: tuple[str, ...] = ()
    labels = getattr(config, "id2label", None)
    if not path and labels and loader is transformers.AutoModelForImageClassification:
        classes = class_names.named(tuple(str(labels[index]) for index in sorted(labels)))
    return Network(
        name=name,
        module=freeze(module),
        preprocess=_preprocess(processor, _image_size(module, config), name),
        weights="pretrained" if pretrained else "random",
        class_names=classes,
        feed=_feed(module, name),
        prefix=declared_prefix(module),
    )


def _class(config: Any, transformers: Any) -> Any:
    """Return the class that loads `config`: its classifier if it was saved as one, else the bare model."""
    architectures = list(getattr(config, "architectures", None) or ())
    if any("ForImageClassification" in name for name in architectures):
        return transformers.AutoModelForImageClassification
    saved = getattr(transformers, architectures[0], None) if architectures else None
    if saved is not None and (
        type(config) not in transformers.AutoModel._model_mapping or "VisionModel" in architectures[0]
    ):
        return saved
    return transformers.AutoModel


def _from_config(loader: Any, config: Any) -> Any:
    return loader.from_config(config) if hasattr(loader, "from_config") else loader(config)


def _skeleton(loader: Any, config: Any) -> Any:
    """Return a model without memory for its weights, to check a path before gigabytes are loaded."""
    import torch

    try:
        with torch.device("meta"):
            return _from_config(loader, config)
    except Exception:  # a model may compute with its weights while it is built
        return build_seeded(lambda: _from_config(loader, config))


def _random(loader: Any, config: Any, path: str) -> Any:
    """Return the module at `path` with random weights; a tower is built alone."""
    from transformers import PreTrainedModel

    tower = _skeleton(loader, config).get_submodule(path) if path else None
    if isinstance(tower, PreTrainedModel):
        return type(tower)(tower.config)
    return _from_config(loader, config).get_submodule(path)


def _tower(whole: Any, path: str, name: str) -> str:
    """Return the path of the module at `path`, which may begin below or above the model's root; without, what
    takes images.
    """
    modules = dict(whole.named_modules())
    if path:
        ends = [path, *(path[at + 1 :] for at, sign in enumerate(path) if sign == ".")]
        for end in ends:
            matches = [module for module in modules if f".{module}".endswith(f".{end}")]
            outermost = min((module.count(".") for module in matches), default=0)
            matches = [module for module in matches if module == end] or [
                module for module in matches if module.count(".") == outermost
            ]
            if len(matches) > 1:
                raise UsageError(
                    f"{name} has several modules {path!r}.",
                    f"Give the whole path: {' or '.join(matches[:5])}.",
                )
            if matches:
                return matches[0]
        near = difflib.get_close_matches(path, [*_towers(whole), *modules], n=5, cutoff=0.3)
        raise UsageError(f"{name} has no module {path!r}.", f"The nearest are {', '.join(near)}.")
    if _takes_images(whole):
        return ""
    towers = _towers(whole)
    if len(towers) == 1:
        return towers[0]
    if towers:
        fix = f"Name the module that sees them: {' or '.join(f'hf:{name}#{each}' for each in towers)}."
    else:
        fix = "Give a model for images, or after # the module inside it that takes them."
    raise UsageError(f"hf:{name} takes more than images ({type(whole).__name__}).", fix)


def _takes_images(module: Any) -> bool:
    """Return whether images alone are what a model needs."""
    parameters = inspect.signature(module.forward).parameters
    return module.main_input_name in ("pixel_values", "inputs") and "input_ids" not in parameters


def _towers(whole: Any) -> list[str]:
    """Return the outermost models inside that take images, by path."""
    from transformers import PreTrainedModel

    towers: list[str] = []
    for path, module in whole.named_modules():
        inner = not path or any(path.startswith(f"{outer}.") for outer in towers)
        if not inner and isinstance(module, PreTrainedModel) and module.main_input_name == "pixel_values":
            towers.append(path)
    return towers


def _feed(module: torch.nn.Module, name: str) -> Callable[[torch.Tensor], Any]:
    """Return how a batch of images is given to a module.

    Raises:
        UsageError: If it asks for what does not follow from the images.
    """
    parameters = inspect.signature(module.forward).parameters
    wanted = [
        parameter.name
        for parameter in parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    if "spatial_shapes" in wanted and set(wanted) <= {
        "pixel_values",
        "pixel_attention_mask",
        "spatial_shapes",
    }:
        return _patches(module)
    if len(wanted) > 1 or "input_ids" in wanted:
        raise UsageError(
            f"hf:{name} takes {', '.join(wanted)}, and not images alone.",
            "Wrap it in a factory whose forward makes these from a batch of images (docs/own-network.md).",
        )
    return by_name(module) or module


def _patches(module: Any) -> Callable[[torch.Tensor], Any]:
    """Return how a tower that takes patches is fed: all patches of each image, row by row (SigLIP 2, section
    2.4.2).
    """
    import torch

    side = module.config.patch_size

    def feed(batch: torch.Tensor) -> Any:
        n, channels, height, width = batch.shape
        rows, columns = height // side, width // side
        patches = batch.reshape(n, channels, rows, side, columns, side).permute(0, 2, 4, 3, 5, 1)
        return module(
            pixel_values=patches.reshape(n, rows * columns, side * side * channels),
            pixel_attention_mask=batch.new_ones((n, rows * columns), dtype=torch.int64),
            spatial_shapes=torch.tensor([[rows, columns]] * n, device=batch.device),
        )

    return feed


def _image_size(module: Any, config: Any) -> tuple[int, int] | None:
    """Return the height and width that a configuration gives for images, None if it gives none."""
    for own in (getattr(module, "config", None), getattr(config, "vision_config", None), config):
        size = getattr(own, "image_size", None)
        patches, side = getattr(own, "num_patches", None), getattr(own, "patch_size", None)
        if size is None and isinstance(patches, int) and isinstance(side, int):
            size = math.isqrt(patches) * side
        if size:
            return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    return None


def _processor(model: str, transformers: Any) -> Any | None:
    try:
        return transformers.AutoImageProcessor.from_pretrained(model)
    except (OSError, ValueError):
        # Saved without one. Its size is in the network's configuration, its colors are taken for ImageNet's.
        return None


def _preprocess(processor: Any | None, size: tuple[int, int] | None, name: str) -> Preprocess:
    if processor is None:
        return Preprocess(size=size or (224, 224), fit="squash", interpolation="bilinear")
    if (settings := getattr(processor, "data_config", None)) is not None:
        from actors.vision.networks.sources import timm_preprocess

        return timm_preprocess(settings)
    resample = getattr(processor, "resample", None)
    interpolation = (
        INTERPOLATIONS.get(resample) if isinstance(resample, int) else getattr(resample, "value", None)
    )

    def show(image: np.ndarray) -> np.ndarray:
        import PIL.Image

        pixels = processor(images=PIL.Image.fromarray(image), return_tensors="pt")["pixel_values"]
        while pixels.ndim > 3:  # a model of tiles is given the whole image first
            pixels = pixels[0]
        if pixels.ndim != 3 or pixels.shape[0] != 3:
            raise NotAnImageError(f"its inputs have the shape {tuple(pixels.shape)}")
        return np.asarray(pixels, float)

    try:
        return infer_preprocess(show, f"hf:{name}", interpolation, size)
    except (NotAnImageError, KeyError) as error:
        log.warning("images_are_squashed", network=name, because=str(error))
        return _stated(processor, size or (224, 224), interpolation or "bilinear")


def _stated(processor: Any, size: tuple[int, int], interpolation: str) -> Preprocess:
    """Return the preprocessing of a processor whose output is no image: its mean and deviation, and images
    squashed to the network's size.
    """
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    if getattr(processor, "do_normalize", True):
        mean = tuple(getattr(processor, "image_mean", None) or mean)
        std = tuple(getattr(processor, "image_std", None) or std)
    return Preprocess(size, None, "squash", interpolation, mean, std)
