"""`maia label` finds what planted units see, resumes what is done, and refuses what cannot work."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors.embedded.drawing.grammar import parse_prompt
from actors.embedded.drawing.render import render
from actors.errors import UsageError
from experiments.labels.record import (
    AMBIGUOUS,
    DEAD,
    NOTHING_FITS,
    PART,
    LabelSummary,
    UnitLabel,
    read_labels,
)
from experiments.labels.run import figures, table
from experiments.labels.vocabulary import read_vocabulary
from tests.experiments.effects.test_edited_network import run_command

NETWORK = """
import torch

from actors.embedded.concept_net.concept_net import build_network


class Looking(torch.nn.Module):
    preprocessing = build_network(None).preprocessing

    def __init__(self):
        super().__init__()
        self.net = build_network()
        self.constant = torch.nn.Conv2d(3, 2, 1)
        torch.nn.init.zeros_(self.constant.weight)
        names = list(self.net.class_names)
        places = [names.index(name) for name in "grass snow sand road dog car apple".split()]
        self.seven = torch.nn.Conv2d(len(names), 7, 1, bias=False)
        with torch.no_grad():
            self.seven.weight[:, :, 0, 0] = torch.eye(len(names))[places]

    def forward(self, x):
        self.constant(x)
        return self.seven(self.net.maps(x)).amax((2, 3))
"""


PLACES, THINGS = ("grass", "snow", "sand", "road"), ("dog", "car", "apple")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Return a file of pictures in which each place is as often with each thing."""
    both = [(place, thing) for place in PLACES for thing in THINGS] * 20
    texts = [f"a {thing} on {place}" for place, thing in both]
    scenes = [parse_prompt(text, seed).scene for seed, text in enumerate(texts)]
    path = tmp_path / "pictures.npy"
    np.save(path, np.stack([render(scene, 96) for scene in scenes]))
    return path


@pytest.mark.slow
def test_planted_units_get_their_words_and_layers_that_are_done_are_read(  # type: ignore[no-untyped-def]
    config_file, capsys, tmp_path: Path, pictures: Path
) -> None:
    (tmp_path / "looking.py").write_text(NETWORK)
    run, words = tmp_path / "run", tmp_path / "words.txt"
    words.write_text("\n".join([*PLACES, *THINGS, "quasar"]))
    config = config_file()
    embedding = "embedding: {backend: builtin, sees: scenes}\n    vision:"
    config.write_text(config.read_text().replace("vision:", embedding, 1))
    arguments = [f"python:{tmp_path / 'looking.py'}:Looking", "--config", str(config), "--out", str(run)]
    arguments += ["--data", str(pictures), "--vocabulary", str(words), "--layers", "seven,constant"]
    code, out, err = run_command(capsys, "label", *arguments, "--json")
    assert code == 0, err
    summary = json.loads(out)
    labels = read_labels(run)
    assert [each.best for each in labels] == [*PLACES, *THINGS, None, None]
    assert [each.label for each in labels[:4]] == [*PLACES]
    assert [each.wpmi_label for each in labels[:7]] == [*PLACES, *THINGS]
    assert (summary["unknown_words"], summary["dead"], summary["units"]) == (1, 2, len(labels))
    assert {each.reason for each in labels[-2:]} == {"dead"}
    assert summary["seconds"] == pytest.approx(sum(summary["seconds_of"].values()))
    assert {*summary["seconds_of"]} == {"start", "pass", "labels"}
    (kept,) = (run / "layers").glob("constant-*.jsonl")
    kept.write_text(kept.read_text().replace('"dead"', '"of the record"'))
    (earlier,) = (run / "layers").glob("seven-*.jsonl")
    earlier.write_text(re.sub(r'"left": [^,]+', '"left": null', earlier.read_text()))
    code, _, err = run_command(capsys, "label", *arguments)
    assert code == 0, err
    assert read_labels(run)[-1].reason == "of the record"
    assert read_labels(run)[0] == labels[0], "made again, as it was by earlier rules"


def of_reason(index: int, reason: str, q: float = 0.01) -> UnitLabel:
    """Return what is kept of a unit, with a label where there is no reason against it."""
    best = None if reason == DEAD else "dog"
    known = {"best": best, "q": None if reason == DEAD else q, "runner_up": "cat", "correlation": 0.5}
    return UnitLabel(f"a:{index}", "a", index, None if reason else best, reason, **known)  # type: ignore[arg-type]


def test_units_without_a_label_are_counted_by_reason() -> None:
    reasons = ["", DEAD, NOTHING_FITS, NOTHING_FITS, NOTHING_FITS, PART, PART, AMBIGUOUS]
    found = [of_reason(index, reason) for index, reason in enumerate(reasons)]
    names = {"model": "m", "network": "n", "dataset": "d", "embedder": "e", "stand_in": "", "vocabulary": "v"}
    counts = {"words": 5, "unknown_words": 0, "images": 200, "skipped_images": 0, "units": 8, "labeled": 1}
    rest = {"reduce": "max", "layers": {}, "dead": 1, "seconds": 1.0, "files": []}
    summary = LabelSummary(**names, **counts, **rest)  # type: ignore[arg-type]
    assert figures(summary, found)["units"] == (
        "1 of 8 labeled; 7 without a label: 3 that no word fits, 2 explained only in part, 1 dead, "
        "1 with a rival that fits as well"
    )
    assert figures(replace(summary, units=1), found[:1])["units"] == "1 of 1 labeled"


@pytest.mark.parametrize(
    ("reason", "q", "why"),
    [
        (NOTHING_FITS, 0.2, "at q 0.2; at most 0.05 is accepted."),
        (PART, 0.01, "at q 0.01, but it explains only a part of the unit."),
        (AMBIGUOUS, 0.01, "at q 0.01, but 'cat' fits as well."),
    ],
)
def test_where_no_unit_gets_a_label_the_nearest_says_why_not(reason: str, q: float, why: str) -> None:
    found = [of_reason(0, DEAD), of_reason(1, NOTHING_FITS, 0.9), of_reason(2, reason, q)]
    said = str(table(found))
    assert said.startswith(f"No unit got a label. The nearest is 'dog' for a:2, {why} More images")
    assert str(table(found[:1])).startswith("No unit got a label. More images")


def test_vocabularies_are_read_without_repetitions(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("\ufeff# comment\nDog\n\n  red\x1b[31m car \ndog\n", "utf-8")
    assert read_vocabulary(str(path)).words == ("Dog", "red [31m car")
    assert len(read_vocabulary("everyday").words) > 400
    assert "golden retriever" in read_vocabulary("imagenet").words


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"\xff\xfe\x00", "cannot be read"), (b"dog\n", "1 words"), (b"x" * 300, "300 characters")],
)
def test_a_file_that_is_no_vocabulary_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=words):
        read_vocabulary(str(path))


def test_wordnets_words_are_its_nouns_for_what_can_be_pictured(tmp_path: Path) -> None:
    (tmp_path / "dict").mkdir()
    (tmp_path / "dict" / "data.noun").write_text(
        "  1 This file is under a license.\n"
        "02084071 05 n 02 domestic_dog 0 dog 0 001 @ 02083346 n 0000 | a member of the genus Canis\n"
        "02083863 05 n 01 genus_Canis 0 001 @ 01864707 n 0000 | a genus\n"
        "10954498 18 n 01 Einstein 0 001 @i 10428004 n 0000 | a physicist\n"
        "07480068 12 n 01 joy 0 001 @ 00026192 n 0000 | a feeling\n"
        "04099969 06 n 01 rocking_chair 0 001 @ 03001627 n 0000 | a chair\n"
    )
    words = read_vocabulary("wordnet", {"WNHOME": str(tmp_path)})
    assert words.words == ("domestic dog", "rocking chair")


def test_what_does_not_come_with_the_program_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="WordNet is not in"):
        read_vocabulary("wordnet", {"WNHOME": str(tmp_path)})
    with pytest.raises(UsageError, match="cannot be read"):
        read_vocabulary(str(tmp_path / "none.txt"))
    with pytest.raises(UsageError, match="has no labels"):
        read_labels(tmp_path)
    (tmp_path / "labels.jsonl").write_text("{}\n")
    with pytest.raises(UsageError, match="is damaged"):
        read_labels(tmp_path)
