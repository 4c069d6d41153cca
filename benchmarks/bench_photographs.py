"""What the embedded observers know of photographs, and what a newcomer with photographs reads; kept in
RESULTS.md.

    python -m benchmarks.bench_photographs --photos FOLDER --out runs/photographs
    python -m benchmarks.bench_photographs --photos FOLDER --only witness

The photographs come with packages; they are fetched into FOLDER if they are not there
(`benchmarks.photographs`).
"""

from __future__ import annotations

import argparse
import asyncio
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageFilter

from actors.embedded.photographs.classifier import LiteClassifier
from actors.embedded.photographs.look import PhotoSighting, look
from actors.embedded.photographs.taxonomy import WordSense, imagenet
from actors.images import Image
from actors.masks import paint
from actors.packaged import LITE0, LITE2
from agents.tasks.describe_unit import NOT_INTERPRETABLE
from benchmarks.photographs import ASKED, CONTENTS, crops, fetch

PRESENT = ("tabby, tabby cat", "Egyptian cat", "tiger cat", "espresso", "palace", "barn", "alp", "tripod")
"""Class logits whose class is in the photographs."""
ABSENT = ("golden retriever", "banana")
BLOCKS = (17, 91, 160)
"""Units of `blocks.6`."""


def _pictures(paths: Sequence[Path]) -> list[Image]:
    return [Image.from_pil(PIL.Image.open(path)) for path in paths]


# -- yes or no, on photographs of known content ------------------------------------------------------------


def truth(name: str, asked: WordSense) -> bool | None:
    """Return whether the photograph shows what is asked; None where it may, so that it is not asked."""

    def classes(words: str) -> list[frozenset[int]]:
        return [
            found.classes for word in filter(None, words.split("; ")) if (found := imagenet().meaning(word))
        ]

    content = CONTENTS[name]
    shown = classes(content.shows)
    if any(each <= asked.classes for each in shown):
        return True
    return None if any(each & asked.classes for each in [*shown, *classes(content.may_show)]) else False


def answers(sightings: Sequence[tuple[str, PhotoSighting]]) -> list[tuple[bool, bool | None]]:
    """Return (true, said) for every photograph and word that is asked of it."""
    found = []
    for name, sighting in sightings:
        for word in ASKED:
            meaning = imagenet().meaning(word)
            assert meaning is not None, word
            if (true := truth(name, meaning)) is not None:
                found.append((true, sighting.shows(meaning)))
    return found


def witness(arguments: argparse.Namespace) -> str:
    """Return precision and recall of yes and no, for each network and each half of the photographs."""
    chosen = crops(arguments.photos, arguments.crops, 7)
    images = _pictures([path for path, _ in chosen])
    names = sorted({name for _, name in chosen})
    lines = [
        "| network | photographs | questions | said yes | right | of those that are there: yes | no | "
        "cannot tell | said no | right |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for packaged in (LITE2, LITE0):
        seen = look(LiteClassifier(packaged), images)
        named = [(name, sighting) for (_, name), sighting in zip(chosen, seen, strict=True)]
        for which, half in (("one half", names[::2]), ("the other", names[1::2])):
            found = answers([each for each in named if each[0] in half])
            lines.append(f"| {packaged.title} | {which} | {_row(found)} |")
    return "\n".join(lines)


def _row(found: Sequence[tuple[bool, bool | None]]) -> str:
    def share(part: Sequence[bool]) -> str:
        return f"{np.mean(part):.3f}" if part else "none"

    yes = [true for true, said in found if said is True]
    no = [not true for true, said in found if said is False]
    there = [said for true, said in found if true]
    parts = [len(found), len(yes), share(yes)]
    parts += [share([said is answer for said in there]) for answer in (True, False, None)]
    return " | ".join(map(str, [*parts, len(no), share(no)]))


# -- drawn or photographed -----------------------------------------------------------------------------------


def _as_jpeg(image: Image, quality: int = 50) -> Image:
    buffer = io.BytesIO()
    image.to_pil().save(buffer, "JPEG", quality=quality)
    return Image.from_pil(PIL.Image.open(buffer))


def _masked(image: Image) -> Image:
    rng = np.random.default_rng(int(image.id[:8], 16))
    activation = np.zeros((7, 7), np.float32)
    y, x = rng.integers(1, 6, 2)
    activation[y - 1 : y + 2, x - 1 : x + 2] = 1
    return paint(image, activation, 0.5)


CHANGES: Mapping[str, Callable[[Image], Image]] = {
    "as they are": lambda image: image,
    "masked": _masked,
    "JPEG of quality 50": _as_jpeg,
    "blurred (radius 2)": lambda image: Image.from_pil(
        image.to_pil().filter(PIL.ImageFilter.GaussianBlur(2))
    ),
    "half the size": lambda image: Image.from_pil(
        image.to_pil().resize((max(8, image.size[1] // 2), max(8, image.size[0] // 2)))
    ),
    "gray": lambda image: Image.from_pil(image.to_pil().convert("L")),
}


def kind(arguments: argparse.Namespace) -> str:
    """Return how often drawn scenes are taken for photographs, and photographs for drawn."""
    from actors.embedded.concept_net.concept_net import shared_net
    from actors.embedded.observer.eyes import is_photograph
    from actors.vision.data.datasets import open_dataset

    scenes = open_dataset("scenes:200:11")
    drawn = [scenes.load(place) for place in range(len(scenes))]
    photographs = _pictures([path for path, _ in crops(arguments.photos, 90, 7)])
    lines = ["| | scenes taken for photographs | photographs taken for drawn |", "|---|---:|---:|"]
    for name, change in CHANGES.items():
        taken = [
            np.mean([is_photograph(each) for each in shared_net().look([change(image) for image in images])])
            for images in (drawn, photographs)
        ]
        lines.append(f"| {name} | {taken[0]:.3f} | {1 - taken[1]:.3f} |")
    return "\n".join(lines)


# -- a newcomer's folder -------------------------------------------------------------------------------------


def newcomer(arguments: argparse.Namespace) -> str:
    """Return what is said of class logits and units of a layer, on a folder of crops."""
    paths = [path for path, _ in crops(arguments.photos, arguments.crops, 11)]
    records = asyncio.run(_study(arguments, paths[0].parent))
    lines = ["| unit | label | verdict | exemplars explained | right |", "|---|---|---|---:|---|"]
    for name, record in records.items():
        card = record.get("card") or {}
        explained = card.get("explained")
        share = "" if explained is None else f"{explained:.2f}"
        lines.append(
            f"| {name} | {record['label'] or 'none'} | {record['verdict']} | {share} | "
            f"{_right(name, record['label'] or '')} |"
        )
    return "\n".join(lines)


def _right(unit: str, label: str) -> str:
    """Return whether a label names the class of a logit, or a kind of it; nothing of other units."""
    known = imagenet().meaning(unit.split(",")[0])
    if known is None:
        return ""
    named = [imagenet().meaning(part) for part in label.split(" OR ") if part != NOT_INTERPRETABLE]
    return "yes" if any(each is not None and known.classes <= each.classes for each in named) else "no"


async def _study(arguments: argparse.Namespace, folder: Path) -> dict[str, dict[str, Any]]:
    from agents.records.store import Store
    from agents.study.study import StudyRequest, study
    from agents.tasks.describe_unit import DescribeUnit
    from experiments.setup import config
    from experiments.setup.workbench import Workbench

    loaded = config.load(None)
    profile = loaded.profile("embedded").given(str(folder), None, False)
    asked = [("output", name) for name in (*PRESENT, *ABSENT)] + [("blocks.6", str(unit)) for unit in BLOCKS]
    store = Store.open(arguments.out)
    records = {}
    async with Workbench.open(profile, cache=loaded.cache, model=LITE0.name, notify=print) as bench:
        for layer, unit in asked:
            subject = await bench.subject(layer, unit)
            name = unit if layer == "output" else f"{layer} {unit}"
            request = StudyRequest(subject, DescribeUnit(), arguments.seed)
            records[name] = (await study(bench.context, request, store)).to_json()
            print(name, "|", records[name]["label"], "|", records[name]["verdict"], flush=True)
    return records


# -- parts of one picture ------------------------------------------------------------------------------------


def pictures(arguments: argparse.Namespace) -> str:
    """Return how many pairs of crops, of one photograph and of two, are said to be of one picture."""
    from actors.vision.data.same_picture import details_of, of_one_picture

    chosen = crops(arguments.photos, arguments.crops, 11)
    details = [details_of(image) for image in _pictures([path for path, _ in chosen])]
    said: dict[bool, list[bool]] = {True: [], False: []}
    for at, (one, (_, name)) in enumerate(zip(details, chosen, strict=True)):
        for other, (_, another) in zip(details[:at], chosen[:at], strict=True):
            said[name == another].append(of_one_picture(one, other))
    lines = ["| crops | pairs | said to be of one picture |", "|---|---:|---:|"]
    for of_one, what in ((True, "of one photograph"), (False, "of two")):
        lines.append(f"| {what} | {len(said[of_one]):,} | {sum(said[of_one]):,} |")
    return "\n".join(lines)


PARTS = {"witness": witness, "kind": kind, "newcomer": newcomer, "pictures": pictures}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True, help="folder of the photographs")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/photographs"), help="run directory of the studies"
    )
    parser.add_argument("--crops", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted(PARTS))
    arguments = parser.parse_args()
    fetch(arguments.photos)
    for name, part in PARTS.items():
        if arguments.only in (None, name):
            print(f"## Photographs: {name}\n\n{part(arguments)}\n", flush=True)


if __name__ == "__main__":
    main()
