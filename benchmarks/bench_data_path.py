"""From a folder of JPEGs to a network: what decoding and resizing cost, and how well passes hide them.

    python -m benchmarks.bench_data_path loaders [--packages FOLDER ...] [--images 256]
    python -m benchmarks.bench_data_path sweep [--images 1024]
    python -m benchmarks.bench_data_path large [--images 24]

`loaders`: images per processor second, from files of 500 x 375 pixels to what the network sees, against other
loaders; those that are not installed, nor in a FOLDER, are left out. `sweep`: the time of a sweep, divided by
that of its slower half, on a simulated device: only copying and normalizing take processor time. `large`:
photographs of 4000 x 3000 pixels, reduced while they are decoded.

Images are crops of the two photographs of scikit-learn, quality 90; with `--photographs`, of a folder's.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import nn

from actors import runtime, vision_libraries
from actors.images import decode_pixels
from actors.settings import Placement
from actors.vision.backend import VisionBackend
from actors.vision.data.folder import FolderDataset
from actors.vision.data.loading import load_pixels
from actors.vision.networks.network import Network
from actors.vision.networks.preprocess import Preprocess
from actors.vision.readout.requests import SweepStep
from actors.vision.readout.units import Readout
from actors.vision.settings import VisionSettings
from actors.vision.sweep.accumulators import SweepPlan
from actors.vision.sweep.device import SweepDevice
from benchmarks import studied
from benchmarks.harness import interleave, median_ratio, processor, timed

SEEN = Preprocess(size=(224, 224), resize=(256, 256), interpolation="bicubic")
"""How most networks of timm see an image."""
ROUNDS = 5

Loader = Callable[[Sequence[Path]], Iterable[object]]
"""Loads files in order; yields batches, or images, of what the network sees."""


def photographs(folder: Path | None) -> list[PIL.Image.Image]:
    """Return the photographs of a folder, else the two that scikit-learn brings."""
    if folder is not None:
        return [PIL.Image.open(path).convert("RGB") for path in sorted(folder.iterdir())]
    from sklearn.datasets import load_sample_images

    return [PIL.Image.fromarray(pixels) for pixels in load_sample_images().images]


def write_jpegs(
    sources: Sequence[PIL.Image.Image], folder: Path, n: int, size: tuple[int, int]
) -> list[Path]:
    """Write `n` crops, 60 to 100 % of a side, resized to `size` (width, height), in quality 90."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for place in range(n):
        source = sources[place % len(sources)]
        width = min(source.width, source.height * size[0] / size[1]) * rng.uniform(0.6, 1)
        height = width * size[1] / size[0]
        x, y = rng.uniform(0, source.width - width), rng.uniform(0, source.height - height)
        part = source.resize(size, PIL.Image.Resampling.BICUBIC, (x, y, x + width, y + height))
        part.save(folder / f"{place:06d}.jpg", quality=90)
    return sorted(folder.iterdir())


# -- other loaders ------------------------------------------------------------------------------------


def ours(paths: Sequence[Path]) -> Iterable[object]:
    dataset = FolderDataset(paths[0].parent)
    for index in range(len(paths)):
        yield SEEN.pixels([load_pixels(dataset, index)])


def as_before(paths: Sequence[Path]) -> Iterable[object]:
    """Yield what sweeps read until now: with content ids, resized in batches."""
    dataset = FolderDataset(paths[0].parent)
    for start in range(0, len(paths), 32):
        images = [dataset.load(index).pixels for index in range(start, min(start + 32, len(paths)))]
        yield SEEN.pixels(images)


def torchvision_folder(paths: Sequence[Path]) -> Iterable[object]:
    """Yield what torchvision's `ImageFolder` does with its usual transforms."""
    vision_libraries.import_torchvision()
    import torchvision.transforms as transforms

    resize = transforms.Resize(256, transforms.InterpolationMode.BICUBIC)
    both = transforms.Compose([resize, transforms.CenterCrop(224), transforms.PILToTensor()])
    for path in paths:
        yield both(PIL.Image.open(path).convert("RGB"))


def simplejpeg_and_torch(paths: Sequence[Path]) -> Iterable[object]:
    simplejpeg = importlib.import_module("simplejpeg")
    for path in paths:
        yield _resized(simplejpeg.decode_jpeg(path.read_bytes()))


def imagecodecs_and_torch(paths: Sequence[Path]) -> Iterable[object]:
    imagecodecs = importlib.import_module("imagecodecs")
    for path in paths:
        yield _resized(imagecodecs.jpeg8_decode(path.read_bytes()))


def kornia_and_torch(paths: Sequence[Path]) -> Iterable[object]:
    kornia = importlib.import_module("kornia_rs.io")
    for path in paths:
        yield _resized(np.asarray(kornia.read_image_jpegturbo(str(path))))


def torchvision_io(paths: Sequence[Path]) -> Iterable[object]:
    vision_libraries.import_torchvision()
    from torchvision.io import ImageReadMode, decode_jpeg, read_file

    for path in paths:
        pixels = decode_jpeg(read_file(str(path)), ImageReadMode.RGB)
        yield _interpolated(pixels[None], bicubic=True)


def opencv(paths: Sequence[Path]) -> Iterable[object]:
    """Yield OpenCV's pixels, resized by areas, as FFCV does."""
    cv2 = importlib.import_module("cv2")
    cv2.setNumThreads(1)
    for path in paths:
        pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), 1)
        scale = 256 / min(pixels.shape[:2])
        size = tuple(round(side * scale) for side in pixels.shape[1::-1])
        small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        top, left = (small.shape[0] - 224) // 2, (small.shape[1] - 224) // 2
        yield np.ascontiguousarray(small[top : top + 224, left : left + 224, ::-1])


def webdataset(paths: Sequence[Path]) -> Iterable[object]:
    """Yield the images of a WebDataset shard, decoded by its own decoder."""
    import tarfile

    wds = importlib.import_module("webdataset")
    shard = paths[0].parent.parent / f"{len(paths)}.tar"
    if not shard.exists():
        with tarfile.open(shard, "w") as archive:
            for path in paths:
                archive.add(path, path.name)
    for sample in wds.WebDataset(str(shard), shardshuffle=False).decode("rgb8"):
        yield _resized(sample["jpg"])


def data_loader(paths: Sequence[Path]) -> Iterable[object]:
    """Yield batches of a DataLoader with two worker processes, which do as `simplejpeg_and_torch`."""

    class Files(torch.utils.data.Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, index: int) -> torch.Tensor:
            return _resized(importlib.import_module("simplejpeg").decode_jpeg(paths[index].read_bytes()))[0]

    yield from torch.utils.data.DataLoader(Files(), batch_size=32, num_workers=2)


def dali(paths: Sequence[Path]) -> Iterable[object]:
    """Yield batches of DALI's pipeline on the processor, with one thread."""
    fn = importlib.import_module("nvidia.dali.fn")
    types = importlib.import_module("nvidia.dali.types")
    pipeline = importlib.import_module("nvidia.dali.pipeline").Pipeline(32, 1, None)
    with pipeline:
        encoded, _ = fn.readers.file(files=[str(path) for path in paths], name="reader")
        pixels = fn.decoders.image(encoded, device="cpu", output_type=types.RGB)
        small = fn.resize(pixels, resize_shorter=256, interp_type=types.INTERP_CUBIC, antialias=True)
        pipeline.set_outputs(fn.crop(small, crop=(224, 224)))
    pipeline.build()
    for _ in range(0, len(paths), 32):
        (batch,) = pipeline.run()
        yield batch.as_array()


def _resized(pixels: np.ndarray) -> torch.Tensor:
    return _interpolated(torch.from_numpy(pixels)[None].permute(0, 3, 1, 2), bicubic=True)


def _interpolated(pixels: torch.Tensor, bicubic: bool) -> torch.Tensor:
    scale = 256 / min(pixels.shape[2:])
    size = [int(side * scale) for side in pixels.shape[2:]]
    mode = "bicubic" if bicubic else "bilinear"
    small = torch.nn.functional.interpolate(pixels, size, mode=mode, antialias=True)
    top, left = (small.shape[2] - 224) // 2, (small.shape[3] - 224) // 2
    return small[:, :, top : top + 224, left : left + 224].contiguous(memory_format=torch.channels_last)


LOADERS: dict[str, Loader] = {
    "maia": ours,
    "maia before": as_before,
    "torchvision ImageFolder (Pillow)": torchvision_folder,
    "torchvision.io and torch": torchvision_io,
    "simplejpeg and torch": simplejpeg_and_torch,
    "imagecodecs and torch": imagecodecs_and_torch,
    "kornia-rs and torch": kornia_and_torch,
    "OpenCV, resized by areas (as FFCV)": opencv,
    "WebDataset and torch": webdataset,
    "DataLoader, 2 processes, simplejpeg and torch": data_loader,
    "DALI on the processor": dali,
}


def processor_seconds() -> float:
    """Return the processor time of this process and of those that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def compare_loaders(paths: Sequence[Path]) -> None:
    """Print each loader's images per processor second, and its ratio to ours: medians of rounds in turns."""
    peers: dict[str, Callable[[], float]] = {}
    for name, loader in LOADERS.items():

        def measure(loader: Loader = loader) -> float:
            start = processor_seconds()
            for _ in loader(paths):
                pass
            return (processor_seconds() - start) / len(paths)

        try:
            next(iter(loader(paths[:32])))
        except Exception as error:  # not installed, or not for this machine
            print(f"- {name}: left out ({type(error).__name__}: {str(error).splitlines()[0][:100]})")
        else:
            peers[name] = measure
    measured = interleave(peers, ROUNDS)
    print(
        "\n| loader | ms of a core per image | images per second per core | maia is faster |\n"
        "|---|---|---|---|"
    )
    for name, seconds in measured.items():
        middle = statistics.median(seconds)
        ratio = median_ratio(seconds, measured["maia"])
        print(f"| {name} | {1000 * middle:.2f} | {1 / middle:.0f} | {ratio:.2f} x |")


# -- a sweep ------------------------------------------------------------------------------------------


class SimulatedDevice(nn.Module):
    """A network whose pass takes time and hardly any processor: as on a GPU, the host waits."""

    def __init__(self, ms_per_image: float) -> None:
        super().__init__()
        self.seen = nn.Conv2d(3, 8, 1, stride=32)
        self.ms_per_image = 0.0
        self._wanted = ms_per_image

    def start(self) -> None:
        """Take time from now on: loading the network takes none."""
        self.ms_per_image = self._wanted

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(len(x) * self.ms_per_image / 1000)
        seen: torch.Tensor = self.seen(x)
        return seen


async def sweep(paths: Sequence[Path], folder: Path, ms_per_image: float, threads: int) -> tuple[float, ...]:
    """Return the seconds of the sweep, of its loading alone and of its passes alone."""
    module = SimulatedDevice(ms_per_image)
    settings = VisionSettings(placement=Placement(threads=threads), device="cpu")
    backend = VisionBackend(Network("simulated", module, SEEN, "random"), settings)
    module.start()
    dataset = FolderDataset(paths[0].parent)
    plan = SweepPlan(dataset, np.arange(len(paths)), (Readout("seen"),), step=settings.batch)
    steps = plan.steps()
    device = SweepDevice(backend, settings)
    try:
        loading = timed(lambda: _all_results([device._load(plan, *step) for step in steps]))
        some = device.load(dataset, range(settings.batch))
        pixels = device._on_device([each for each in some if isinstance(each, torch.Tensor)])
        start = time.perf_counter()
        for _ in steps:
            await backend.on_device(backend.forward_pixels, pixels, {Readout("seen"): lambda _maps: None})
        passes = time.perf_counter() - start
        digest = plan.save(folder)
        start = time.perf_counter()
        for place, (first, last) in enumerate(steps):
            following = steps[place + 1] if place + 1 < len(steps) else None
            await device.step(SweepStep(str(folder), digest, first, last, following, following is None))
        whole = time.perf_counter() - start
    finally:
        device.close()
        await backend.close()
    return whole, loading, passes


def _all_results(loading: Sequence[Sequence[Future[object]]]) -> None:
    for step in loading:
        for future in step:
            future.result()


async def time_sweeps(paths: Sequence[Path], threads: int) -> None:
    print(f"{len(paths)} images, {threads} threads for loading\n")
    print(
        "| the device takes, per image | sweep | loading alone | passes alone | sweep / the slower |\n"
        "|---|---|---|---|---|"
    )
    for ms in (4.0, 2.0, 0.2):
        folders = [studied.scratch() for _ in range(3)]
        rounds = [await sweep(paths, Path(each.name), ms, 2 * threads) for each in folders]
        ratio = statistics.median(whole / max(loading, passes) for whole, loading, passes in rounds)
        middle = [statistics.median(each) for each in zip(*rounds, strict=True)]
        print(f"| {ms:g} ms | {middle[0]:.2f} s | {middle[1]:.2f} s | {middle[2]:.2f} s | {ratio:.3f} |")


# -- large photographs --------------------------------------------------------------------------------


def reduce_large(paths: Sequence[Path]) -> None:
    """Print time and difference by the longest side that photographs are decoded to."""
    data = [path.read_bytes() for path in paths]
    backend = studied.backend(studied.LITE0, "cpu", 8)
    exact, before = _seen(backend, data, 8192)
    deviation = before.std(0) + 1e-6
    print("| longest side | ms of a core per image | input, gray levels RMS | units of the last layer, SD |")
    print("|---|---|---|---|")
    for longest in (8192, 2048, 1024, 512):
        start = time.thread_time()
        for each in data:
            SEEN.pixels([decode_pixels(each, longest)])
        seconds = (time.thread_time() - start) / len(data)
        pixels, activations = _seen(backend, data, longest)
        levels = (pixels - exact).square().mean().sqrt()
        units = ((activations - before).abs() / deviation).median()
        print(f"| {longest} | {1000 * seconds:.1f} | {levels:.2f} | {units:.3f} |")


def _seen(backend: VisionBackend, data: Sequence[bytes], longest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the network sees of pictures, float32 (n, 3, h, w), and its last layer's maxima (n, U)."""
    preprocess = backend.network.preprocess
    pixels = torch.cat([preprocess.pixels([decode_pixels(each, longest)]) for each in data])
    taken: list[torch.Tensor] = []
    with torch.inference_mode():
        backend.forward_pixels(pixels, {Readout("blocks.6"): lambda maps: taken.append(maps.amax((2, 3)))})
    return pixels.float(), taken[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["loaders", "sweep", "large"])
    parser.add_argument("--images", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="threads that load in `sweep`")
    parser.add_argument("--photographs", type=Path, help="a folder of photographs to cut images from")
    parser.add_argument("--packages", nargs="*", default=[], help="folders where other loaders are installed")
    asked = parser.parse_args()
    sys.path.extend(asked.packages)
    runtime.cpu_preamble(1)
    runtime.set_threads(1)
    print(f"{processor()}\n")
    with studied.scratch() as name:
        folder, sources = Path(name), photographs(asked.photographs)
        if asked.part == "large":
            reduce_large(write_jpegs(sources, folder / "images", asked.images or 24, (4000, 3000)))
            return
        default = 256 if asked.part == "loaders" else 1024
        paths = write_jpegs(sources, folder / "images", asked.images or default, (500, 375))
        if asked.part == "loaders":
            compare_loaders(paths)
        else:
            asyncio.run(time_sweeps(paths, asked.threads))


if __name__ == "__main__":
    main()
