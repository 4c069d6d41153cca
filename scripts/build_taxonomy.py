"""Write `assets/imagenet.txt`: what ImageNet's thousand classes are called, and which kinds they belong to.

    python -m scripts.build_taxonomy /usr/share/wordnet

The folder is WordNet 3.0's `dict` (Debian: `wordnet-base`); ImageNet's class ids are its offsets. WordNet's
license is kept beside the file.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors import vision_libraries
from actors.embedded.photographs import taxonomy

TARGET = Path(taxonomy.__file__).parent / "assets" / "imagenet.txt"
HEADER = """\
# ImageNet's classes and every kind above them, from WordNet 3.0 (see LICENSE-wordnet.txt), by
# scripts/build_taxonomy.py. Columns: WordNet offset; class in the order of the output, or -; how many kinds
# without further kinds WordNet has below it; how often WordNet's annotators met it; offsets one step above;
# names, without those that mostly mean another thing.
"""
_ABOVE = ("@", "@i")
_MAIN_SENSES = 2
"""Senses of a word, the most frequent first, in which it is understood; a synset's first name is always kept.
"""


@dataclass(frozen=True, slots=True)
class Synset:
    names: tuple[str, ...]
    keys: tuple[str, ...]
    """WordNet's sense keys, under which its annotators' counts are kept."""
    above: tuple[str, ...]


def read_nouns(folder: Path) -> dict[str, Synset]:
    """Return every noun synset by its offset, from the file `data.noun` (format: WordNet's wndb(5))."""
    synsets = {}
    for line in (folder / "data.noun").read_text("utf-8").splitlines():
        if line.startswith(" "):
            continue
        fields = line.split(" | ")[0].split()
        n_words = int(fields[3], 16)
        words = [(fields[4 + 2 * at], int(fields[5 + 2 * at], 16)) for at in range(n_words)]
        start = 4 + 2 * n_words
        pointers = [fields[start + 1 + 4 * at : start + 5 + 4 * at] for at in range(int(fields[start]))]
        synsets[fields[0]] = Synset(
            tuple(re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word, _ in words),
            tuple(f"{word.lower()}%1:{fields[1]}:{lex_id:02d}::" for word, lex_id in words),
            tuple(offset for symbol, offset, kind, _ in pointers if symbol in _ABOVE and kind == "n"),
        )
    return synsets


def read_counts(folder: Path) -> dict[str, int]:
    """Return how often each sense was met in WordNet's annotated texts, by sense key."""
    lines = (folder / "cntlist.rev").read_text("utf-8").splitlines()
    return {key: int(count) for key, _, count in map(str.split, lines)}


def read_senses(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the offsets of each word's senses, the most frequent first, from the file `index.noun`."""
    found = {}
    for line in (folder / "index.noun").read_text("utf-8").splitlines():
        if not line.startswith(" "):
            lemma, _, count, *rest = line.split()
            found[lemma.replace("_", " ")] = tuple(rest[-int(count) :])
    return found


def main_names(offset: str, synset: Synset, senses: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return a synset's names that mostly mean it: of bicycles not "wheel"."""
    first, *others = synset.names
    return [first, *(name for name in others if offset in senses.get(name.lower(), ())[:_MAIN_SENSES])]


def closure(nouns: Mapping[str, Synset], classes: Sequence[str]) -> list[str]:
    """Return the classes and everything above them, sorted."""
    reached: set[str] = set()
    waiting = list(classes)
    while waiting:
        offset = waiting.pop()
        if offset not in reached:
            reached.add(offset)
            waiting += nouns[offset].above
    return sorted(reached)


def count_leaves(nouns: Mapping[str, Synset]) -> dict[str, int]:
    """Return how many synsets with nothing below them lie below each; 1 for those themselves."""
    below: dict[str, list[str]] = defaultdict(list)
    for offset, synset in nouns.items():
        for above in synset.above:
            below[above].append(offset)
    leaves: dict[str, frozenset[str]] = {}

    def of(offset: str) -> frozenset[str]:
        if offset not in leaves:
            parts = [of(each) for each in below.get(offset, ())]
            leaves[offset] = frozenset().union(*parts) if parts else frozenset((offset,))
        return leaves[offset]

    return {offset: len(of(offset)) for offset in nouns}


def lines(folder: Path, classes: Sequence[str]) -> Iterator[str]:
    """Yield a line for each synset."""
    nouns, counts = read_nouns(folder), read_counts(folder)
    place = {offset: at for at, offset in enumerate(classes)}
    leaves, senses = count_leaves(nouns), read_senses(folder)
    for offset in closure(nouns, classes):
        synset = nouns[offset]
        met = max(counts.get(key, 0) for key in synset.keys)
        columns = (
            offset,
            str(place.get(offset, "-")),
            str(leaves[offset]),
            str(met),
            " ".join(synset.above) or "-",
            "; ".join(main_names(offset, synset, senses)),
        )
        yield "\t".join(columns)


def main() -> None:
    vision_libraries.import_torchvision()
    from timm.data import ImageNetInfo

    classes = [label.removeprefix("n") for label in ImageNetInfo("imagenet-1k").label_names()]
    TARGET.write_text(HEADER + "\n".join(lines(Path(sys.argv[1]), classes)) + "\n", "utf-8")


if __name__ == "__main__":
    main()
