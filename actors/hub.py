"""Weights by hub id or local folder: where they are, which they are, how large, and what prevents their use.

Every backend that loads pretrained weights first turns its model name into a folder here, so that a
wrong id, an offline hub and too little memory read the same everywhere. Nothing here loads a model.
"""

from __future__ import annotations

import hashlib
import math
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import structlog

from actors.errors import BackendError, MissingDependencyError, UsageError
from actors.runtime import control_group_limits, pick_dtype

if TYPE_CHECKING:
    import torch

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_FLOATS = {"F64", "F32", "F16", "BF16"}
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_OLD_FORMATS = ("*.bin", "*.pt", "*.pth", "*.ckpt")
"""Not fetched where there are safetensors."""
_OTHER_FORMATS = ("*.msgpack", "*.h5", "*.onnx", "*.onnx_data", "*.ot", "*.tflite", "*.gguf")
"""Never fetched: no backend here reads them."""
_WHOLE_FILE = 1 << 26
_SAMPLES, _SAMPLE_BYTES = 64, 1 << 16
_CONNECT_S = 3.0
"""A host that has not answered by then counts as unreachable."""
_HEADROOM = 1.2
"""Memory wanted per byte of weights: activations and fragmentation come on top of the weights."""

log = structlog.get_logger(__name__)


OPEN_CLIP_FOLDERS = ("hf-hub:", "local-dir:")
"""How open_clip writes that an architecture and its weights are stored together, on the hub or in a folder.
"""


class ModelNotFoundError(UsageError):
    """No folder and no hub repository of that name."""


class HubUnreachableError(UsageError):
    """The hub could not be asked and the model is not in its local cache."""


class TooLittleMemoryError(UsageError):
    """A model does not fit on its device."""


class OutOfMemoryError(BackendError):
    """A loaded model ran out of memory on one request that could not be made smaller."""


def require(what: str, *modules: str, install: str = 'pip install "maia[models]"') -> None:
    """Raise MissingDependencyError unless all `modules` can be imported; imports none of them."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise MissingDependencyError(
            f"{what} needs the package{'s' if len(missing) > 1 else ''} {', '.join(missing)}.",
            f"Install with: {install}",
        )


def local_folder(model: str) -> Path | None:
    """Return the folder if `model` names one, else None: it is a hub id.

    Raises:
        ModelNotFoundError: If it is written as a path and there is no such folder.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if model.startswith((".", "/", "~")) or path.is_absolute() or path.exists():
        raise ModelNotFoundError(
            f"the model folder {model!r} does not exist."
            if not path.exists()
            else f"{model!r} is not a folder.",
            "Give a folder written by save_pretrained, or a hub id such as owner/name.",
        )
    return None


def resolve(model: str, revision: str | None = None, fetch: Callable[[], str] | None = None) -> Path:
    """Return the folder with the weights of `model`, fetched from the hub unless it is local or cached.

    `fetch` downloads in another way than the whole repository (diffusers knows which files it needs).

    Raises:
        ModelNotFoundError: Unknown id, revision or folder, or one that this account may not read.
        HubUnreachableError: Offline, and not in the cache.
    """
    folder = local_folder(model)
    if folder is not None:
        return folder
    log.info("finding_model", model=model, revision=revision)
    with translated_errors(model, revision), _without_progress_bars(), quick_when_offline():
        return Path(fetch() if fetch else _snapshot(model, revision))


def _snapshot(model: str, revision: str | None) -> str:
    import huggingface_hub

    def folder(skip: tuple[str, ...], cached: bool = False) -> str:
        return huggingface_hub.snapshot_download(
            model, revision=revision, ignore_patterns=list(skip), local_files_only=cached
        )

    try:
        info = huggingface_hub.HfApi().model_info(model, revision=revision)
    except huggingface_hub.errors.HfHubHTTPError:
        raise
    except Exception:  # offline, in one of many ways: the cache may still have what was fetched before
        try:
            return folder(_OTHER_FORMATS + _OLD_FORMATS, cached=True)
        except huggingface_hub.errors.LocalEntryNotFoundError:
            return folder(_OTHER_FORMATS, cached=True)
    safe = any(file.rfilename.endswith(".safetensors") for file in info.siblings or ())
    return folder(_OTHER_FORMATS + (_OLD_FORMATS if safe else ()))


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Keep the bars of downloads out of the logs of actors."""
    from huggingface_hub import utils

    if utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()


@contextmanager
def quick_when_offline() -> Iterator[None]:
    """Let the hub's client go to its cache at once where its host does not answer.

    Its own retries take most of a minute to find that out.
    """
    import huggingface_hub.constants as constants

    was = constants.HF_HUB_OFFLINE
    if not was and not reachable(constants.ENDPOINT):
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was


def reachable(url: str) -> bool:
    """Return whether a URL's host accepts connections within a few seconds; True behind a proxy."""
    parts = urlsplit(url)
    if getproxies().get(parts.scheme) and not proxy_bypass(parts.hostname or ""):
        return True
    try:
        port = parts.port or (80 if parts.scheme == "http" else 443)
        socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_S).close()
    except OSError:
        return False
    return True


@contextmanager
def translated_errors(model: str, revision: str | None = None) -> Iterator[None]:
    """Turn what the hub's clients raise, also deep in a chain of causes, into a UsageError about `model`."""
    try:
        yield
    except (UsageError, BackendError):
        raise
    except Exception as error:
        raise _explain(error, model, revision) from error


def _explain(error: Exception, model: str, revision: str | None) -> Exception:
    import huggingface_hub.errors as hub

    chain = list(_causes(error))

    def met(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in chain)

    name = f"{model!r}" + (f" at revision {revision!r}" if revision else "")
    if met(hub.GatedRepoError):
        return ModelNotFoundError(
            f"the hub lets only approved accounts read {name}.",
            "Ask for access on the model's page, then set HF_TOKEN or run `hf auth login`.",
        )
    if met(hub.RevisionNotFoundError):
        return ModelNotFoundError(f"the hub has no {name}.", "Check `revision`: a branch, tag or commit.")
    if met(hub.RepositoryNotFoundError, hub.HFValidationError):
        return ModelNotFoundError(
            f"the hub has no model {name}, or it is private.",
            "Check the spelling (owner/name), give a local folder, or set HF_TOKEN for a private one.",
        )
    offline = (hub.OfflineModeIsEnabled, hub.LocalEntryNotFoundError, ConnectionError, TimeoutError)
    names = {type(cause).__name__ for cause in chain}
    if met(*offline) or names & {"ConnectError", "ConnectTimeout", "ReadTimeout", "gaierror", "ProxyError"}:
        return HubUnreachableError(
            f"the hub cannot be reached and {name} is not in the local cache.",
            "Connect once to fetch it, unset HF_HUB_OFFLINE, or give a local folder as the model.",
        )
    if met(hub.EntryNotFoundError, FileNotFoundError):
        return ModelNotFoundError(
            f"{name} lacks a file that is needed: {_line(error)}",
            "Check that it is a model of the kind this backend loads.",
        )
    if met(MemoryError) or is_out_of_memory(error):
        return TooLittleMemoryError(
            f"there is too little memory to load {name}.",
            "Choose a smaller model or dtype, or offload (see docs/backends.md).",
        )
    return UsageError(
        f"{name} could not be loaded: {type(error).__name__}: {_line(error)}",
        "Check that it is a model of the kind this backend loads, saved whole.",
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` is a device's or the machine's way of saying that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "out of memory" in text.lower()
    )


def weights_digest(folder: Path) -> str:
    """Return 16 hex digits that identify the model in `folder`: part of every cache key.

    A hub snapshot is named by its commit. Elsewhere files up to 64 MiB are read whole, larger ones at
    64 evenly spaced places with their size: any retraining changes those, and it takes milliseconds.
    """
    if folder.parent.name == "snapshots":
        return folder.name[:16]
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.suffix not in (*_WEIGHTS, ".json", ".txt", ".model"):
            continue
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}:{size}:".encode())
        with path.open("rb") as file:
            if size <= _WHOLE_FILE:
                digest.update(file.read())
                continue
            for sample in range(_SAMPLES):
                file.seek((size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def identity(model: str, folder: Path) -> str:
    """Return `model` with the digest of its weights; a local folder is named without its path."""
    name = model if local_folder(model) is None else folder.resolve().name
    return f"{name}@{weights_digest(folder)}"


def weights_bytes(folder: Path, float_bytes: int | None = None, variant: str | None = None) -> int:
    """Return the memory that the weights in `folder` take once loaded, in bytes.

    `float_bytes` is the size of a floating-point number after loading; None leaves each as stored.
    Of a subfolder with several forms of its weights one is counted, as `from_pretrained` loads one.
    """
    total = 0
    below = [path for path in folder.rglob("*") if path.is_dir()]
    # Beside a pipeline's parts its folder may hold the same weights again, as one file for other programs.
    for subfolder in below if (folder / "model_index.json").exists() else [folder, *below]:
        files = [path for path in subfolder.iterdir() if path.is_file() and path.suffix in _WEIGHTS]
        chosen = [path for path in files if path.suffix == ".safetensors"] or files
        marked = [path for path in chosen if variant and f".{variant}." in path.name]
        plain = [path for path in chosen if path.name.count(".") == 1]
        total += sum(_file_bytes(path, float_bytes) for path in marked or plain or chosen)
    return total


def _file_bytes(path: Path, float_bytes: int | None) -> int:
    if path.suffix != ".safetensors":
        return path.stat().st_size
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            tensors = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118 (not iterable)
    except SafetensorError:  # damaged: loading it says so
        return path.stat().st_size
    return sum(math.prod(t.get_shape()) * _number_bytes(t.get_dtype(), float_bytes) for t in tensors)


def _number_bytes(dtype: str, float_bytes: int | None) -> int:
    return float_bytes if float_bytes and dtype in _FLOATS else _BYTES.get(dtype, 1)


def loading_dtype(name: str, device: str) -> torch.dtype:
    """Return the dtype to load weights in; "auto" is bfloat16 on a GPU that has it, else float16 there.

    On a CPU "auto" is float32. Raises UsageError for an unknown name.
    """
    if name != "auto":
        return pick_dtype(name)
    if not device.startswith("cuda"):
        return pick_dtype("float32")
    import torch

    return pick_dtype("bfloat16" if torch.cuda.is_bf16_supported() else "float16")


def free_bytes(device: str) -> int | None:
    """Return the memory that is free on `device` ("cpu", "cuda:0" ...), None where that is unknown."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    if device != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    for limit, usage in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        groups = zip(control_group_limits(limit), control_group_limits(usage), strict=False)
        left = [int(most) - int(used) for most, used in groups if most.isdigit()]
        available = min([available, *left])
    return max(0, available)


def check_memory(model: str, needed: int, device: str, free: int | None = None) -> None:
    """Raise TooLittleMemoryError if weights of `needed` bytes, not loaded yet, will not fit on `device`."""
    free = free_bytes(device) if free is None else free
    wanted = int(needed * _HEADROOM)
    if free is not None and wanted > free:
        gib = 1 << 30
        raise TooLittleMemoryError(
            f"{model!r} needs about {wanted / gib:.1f} GiB on {device} and {free / gib:.1f} GiB is free.",
            "Choose a smaller model or dtype, `offload: model`, another device, or end what else uses it.",
        )
