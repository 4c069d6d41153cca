"""Sets of images in which the place gives the class away in training and misleads in the test.

Either drawn from scenes, or read from a folder in the layout of Spawrious (Lynch et al. 2023), its setting
"one to one, easy": in training each class stands in a place of its own (97% and 87% of the images of two
halves) or else in one place that all share; in the test the classes' own places are exchanged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from actors.embedded.drawing.lexicon import concepts_in
from actors.embedded.drawing.render import digest, render
from actors.embedded.drawing.sampling import random_scene
from actors.embedded.drawing.vocabulary import BACKGROUND_WORDS, concepts, vocabulary
from actors.errors import UsageError
from actors.images import ImageDecodeError, decode
from experiments.paper.gym.draft import draft_of
from tools.subject import Progress

SHARES = (0.97, 0.87)
"""Part of a class's training images in its own place, in the two halves of the training set."""
_VALIDATION = 0.1
"""Part of a folder's training images that is kept for validation (appendix F2)."""


@dataclass(frozen=True)
class LabeledImages:
    """Images uint8 (N, H, W, 3), in memory or in a file; class and place of each, int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class SpuriousSet:
    """A whole set. `places` are the classes' own places in their order, and then the one they share.

    `crossed` has equally many images of each class in each of its places, to measure what a unit follows.
    Nothing is fitted to it, and no agent sees it.
    """

    name: str
    classes: tuple[str, ...]
    places: tuple[str, ...]
    train: LabeledImages
    validation: LabeledImages
    test: LabeledImages
    crossed: LabeledImages


@dataclass(frozen=True, slots=True)
class SceneDesign:
    """A set of scenes: one object each, in its own colors, small enough for the place to be the easier sign.

    Some labels are wrong, so that no choice of units separates the classes perfectly: a fit without a
    penalty then has an optimum.
    """

    classes: tuple[str, ...] = ("pig", "frog", "elephant", "fox")
    places: tuple[str, ...] = ("desert", "forest", "mud", "snow", "beach")
    n_train: int = 3000
    n_validation: int = 2534
    n_test: int = 1600
    n_crossed: int = 480
    """Images of `crossed`, of all classes in all places together."""
    wrong_labels: float = 0.1
    """Share of the training and validation labels that are another class's, drawn at random."""
    others: int = 0
    """Other things in each scene, behind the object and never of a class."""
    side: int = 128
    """Height and width of the images, pixels."""
    sizes: tuple[float, float] = (0.3, 0.5)
    """Smallest and largest size of the object, as a part of the image's side."""
    seed: int = 0

    def checked(self) -> SceneDesign:
        """Return the design with the world's own names for classes and places.

        Raises:
            UsageError: If one of them cannot be drawn, is named twice, or their numbers do not fit.
        """
        classes = []
        for name in self.classes:
            matches = concepts_in(name)
            if len(matches) != 1:
                raise UsageError(
                    f"a class must name one thing that scenes can show, got {name!r}.",
                    f"The nearest: {', '.join(vocabulary().nearest(name)) or 'none'}.",
                )
            classes.append(matches[0].name)
        unknown = [place for place in self.places if place not in BACKGROUND_WORDS]
        if unknown:
            raise UsageError(
                f"scenes have no place {unknown[0]!r}.",
                f"Places: {', '.join(sorted(set(BACKGROUND_WORDS.values())))}.",
            )
        if not 0 <= self.wrong_labels < 1 - 1 / max(2, len(classes)):
            raise UsageError(
                f"the share of wrong labels must be from 0 to below that of chance, got {self.wrong_labels}"
            )
        places = [BACKGROUND_WORDS[place] for place in self.places]
        _check_numbers(classes, places)
        return replace(self, classes=tuple(classes), places=tuple(places))


def _check_numbers(classes: Sequence[str], places: Sequence[str]) -> None:
    if len(classes) < 2 or len(places) != len(classes) + 1:
        raise UsageError(
            f"a set needs two classes or more, and one place more than classes, got {len(classes)} classes "
            f"and {len(places)} places."
        )
    for names in (classes, places):
        if len(set(names)) < len(names):
            raise UsageError(f"classes and places must differ, got {', '.join(names)}")


def exchanged(n_classes: int) -> list[int]:
    """Return the class whose place each class has in the test: no one its own."""
    return [(index + n_classes // 2) % n_classes for index in range(n_classes)]


def scene_set(
    design: SceneDesign, cache: Path, progress: Progress = lambda _done, _total: None
) -> SpuriousSet:
    """Return a set of scenes, drawn once for each design and kept in `cache`.

    Raises:
        UsageError: If the design cannot be drawn.
    """
    design = design.checked()
    facts = json.dumps([asdict(design), SHARES, digest()], sort_keys=True)
    name = hashlib.blake2b(facts.encode(), digest_size=8).hexdigest()
    shared, swap = len(design.classes), exchanged(len(design.classes))

    def in_training(part: int, n: int) -> list[tuple[int, int]]:
        """Half of the images with each share, classes in turn."""
        rng = np.random.default_rng((design.seed, 57, part))
        pairs = []
        for index in range(n):
            label, half = index % shared, (index // shared) % 2
            pairs.append((label, label if rng.random() < SHARES[half] else shared))
        return pairs

    plan = {
        "train": in_training(0, design.n_train),
        "validation": in_training(1, design.n_validation),
        "test": [(index % shared, swap[index % shared]) for index in range(design.n_test)],
        "crossed": [
            (index % shared, index // shared % (shared + 1)) for index in range(_whole(design, shared))
        ],
    }

    def make(part: int, index: int, label: int, place: int) -> np.ndarray:
        return draw(design, label, place, np.random.default_rng((design.seed, 59, part, index)))

    counter = _Counter(sum(map(len, plan.values())), progress)
    parts = {}
    for part, (kind, pairs) in enumerate(plan.items()):
        makers = [partial(make, part, index, *pair) for index, pair in enumerate(pairs)]
        images = _kept(cache / f"{name}-{kind}.npy", design.side, makers, counter)
        labels, places = np.array(pairs).T
        if kind in ("train", "validation"):
            rng = np.random.default_rng((design.seed, 60, len(kind)))
            labels = mislabeled(labels, shared, design.wrong_labels, rng)
        parts[kind] = LabeledImages(images, labels, places)
    return SpuriousSet(f"scenes {name}", design.classes, design.places, **parts)


def _whole(design: SceneDesign, n_classes: int) -> int:
    """Return how many images show every class in every place equally often: about `n_crossed`, at least one
    each.
    """
    cells = n_classes * (n_classes + 1)
    return max(1, design.n_crossed // cells) * cells


def mislabeled(labels: np.ndarray, n_classes: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return labels int64 (N,) of which a share is exchanged for another class, each equally likely."""
    wrong = rng.random(len(labels)) < share
    return np.where(wrong, (labels + rng.integers(1, n_classes, len(labels))) % n_classes, labels)


def draw(design: SceneDesign, label: int, place: int, rng: np.random.Generator) -> np.ndarray:
    """Return a picture of one object of a class in a place, the design's other things behind it, uint8 (side,
    side, 3).
    """
    apart = [concept.name for concept in concepts() if concept.name not in design.classes]
    others = [str(name) for name in rng.choice(apart, design.others, replace=False)]
    scene = random_scene(
        rng,
        1 + design.others,
        named=[design.classes[label], *others],
        background=design.places[place],
        tinted=0.0,
    )
    first, *rest = scene.objects
    size = float(rng.uniform(*design.sizes))
    x, y = (float(value) for value in rng.uniform(0.4 * size, 1 - 0.4 * size, 2))
    return render(replace(scene, objects=(*rest, replace(first, size=size, x=x, y=y))), design.side)


class _Counter:
    """Reports how many images of a whole set are made."""

    def __init__(self, total: int, report: Progress) -> None:
        self._done, self._total, self._report = 0, total, report

    def step(self) -> None:
        self._done += 1
        self._report(self._done, self._total)


def _kept(path: Path, side: int, makers: Sequence[Callable[[], np.ndarray]], counter: _Counter) -> np.ndarray:
    """Return the images of a file, uint8 (n, side, side, 3), made one by one if there is none."""
    if not path.exists():
        with draft_of(path) as draft:
            array = np.lib.format.open_memmap(draft, "w+", np.uint8, (len(makers), side, side, 3))
            for index, make in enumerate(makers):
                counter.step()
                array[index] = make()
            array.flush()
    kept: np.ndarray = np.load(path, mmap_mode="r")
    return kept


# Spawrious' own files

CLASSES = ("bulldog", "dachshund", "labrador", "corgi")
OWN_PLACES = ("desert", "jungle", "dirt", "snow")
TEST_PLACES = ("dirt", "snow", "desert", "jungle")
SHARED_PLACE = "beach"


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    label: int
    place: int


def folder_set(
    folder: Path,
    cache: Path,
    *,
    side: int = 224,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress = lambda _done, _total: None,
) -> SpuriousSet:
    """Return Spawrious' "O2O-easy" from its files: FOLDER/[spawrious224/]{0,1}/PLACE/CLASS/*.png.

    Of each class's own place, the first 97% and 87% of the files of the two halves are taken, as its
    authors do; of the shared place the first 3% and 13%. With `limit` only the first so many of every cell
    count, and the shares are those of them. A tenth of the training images, drawn with `seed`, is the
    validation set.

    Raises:
        UsageError: If the folder is not in this layout, naming what is missing; or a file cannot be read.
    """
    root = folder / "spawrious224" if (folder / "spawrious224").is_dir() else folder
    parts = _divided(root, limit, seed)
    files = [file for part in parts.values() for file in part]
    facts = [(str(file.path.relative_to(root)), file.path.stat().st_size) for file in files]
    name = hashlib.blake2b(json.dumps([facts, side]).encode(), digest_size=8).hexdigest()
    counter = _Counter(len(files), progress)
    labeled = {
        part: LabeledImages(
            _kept(
                cache / f"{name}-{part}.npy", side, [partial(_read, file.path, side) for file in own], counter
            ),
            np.array([file.label for file in own]),
            np.array([file.place for file in own]),
        )
        for part, own in parts.items()
    }
    return SpuriousSet(f"Spawrious {name}", CLASSES, (*OWN_PLACES, SHARED_PLACE), **labeled)


def _divided(root: Path, limit: int | None, seed: int) -> dict[str, list[_File]]:
    """Return the files of each part of the set."""
    train: list[_File] = []
    test: list[_File] = []
    for half, share in enumerate(SHARES):
        for label, name in enumerate(CLASSES):
            # The limit comes before the shares: after them it would make both places equally frequent.
            own = _files(root, half, OWN_PLACES[label], name)[:limit]
            most = int(share * len(own))
            train += [_File(path, label, label) for path in own[:most]]
            shared = _files(root, half, SHARED_PLACE, name)
            few = shared[: max(1, len(own) - most)]
            train += [_File(path, label, len(CLASSES)) for path in few]
            other = _files(root, half, TEST_PLACES[label], name)[:limit]
            test += [_File(path, label, OWN_PLACES.index(TEST_PLACES[label])) for path in other]
    order = np.random.default_rng((seed, 58)).permutation(len(train))
    held_out = set(order[: round(_VALIDATION * len(train))].tolist())
    validation = [file for index, file in enumerate(train) if index in held_out]
    return {
        "train": [file for index, file in enumerate(train) if index not in held_out],
        "validation": validation,
        "test": test,
        "crossed": _crossed([*validation, *test], seed),
    }


def _crossed(files: Sequence[_File], seed: int) -> list[_File]:
    """Return equally many files of every class in every place that it has: as many as of the rarest such
    pair.
    """
    cells: dict[tuple[int, int], list[_File]] = {}
    for file in files:
        cells.setdefault((file.label, file.place), []).append(file)
    rng, count = np.random.default_rng((seed, 64)), min(map(len, cells.values()))
    return [
        own[int(index)]
        for _, own in sorted(cells.items())
        for index in rng.choice(len(own), count, replace=False)
    ]


def _files(root: Path, half: int, place: str, name: str) -> list[Path]:
    folder = root / str(half) / place / name
    paths = sorted(
        path for path in folder.glob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")
    )
    if not paths:
        raise UsageError(
            f"{folder} holds no images.",
            "Give the folder of Spawrious' O2O-easy: spawrious224/{0,1}/PLACE/CLASS/*.png.",
        )
    return paths


def _read(path: Path, side: int) -> np.ndarray:
    import PIL.Image
    import PIL.ImageOps

    try:
        picture = decode(path.read_bytes()).to_pil()
    except (OSError, ImageDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    return np.asarray(PIL.ImageOps.fit(picture, (side, side), PIL.Image.Resampling.BICUBIC))


def balanced(part: LabeledImages, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return the rows of a set with equally many images of every class in every place that occurs, int64.

    About `n` rows, fewer if the rarest cell has too few; drawn without replacement.
    """
    cells = sorted({(int(a), int(b)) for a, b in zip(part.labels, part.places, strict=True)})
    rows = [np.flatnonzero((part.labels == a) & (part.places == b)) for a, b in cells]
    count = max(1, min(n // len(cells), *(len(cell) for cell in rows)))
    return np.concatenate([rng.choice(cell, count, replace=False) for cell in rows])
