"""A search finds units by what any record says of them, and says where it found it."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from actors.embedded.drawing.grammar import parse_prompt
from actors.embedded.drawing.render import render
from actors.embedding.base import EmbedderFacts, unit_norm
from actors.errors import UsageError
from actors.images import Image, encode_png
from agents.records.journal import Blobs
from agents.records.run_files import MAX_BYTES
from agents.records.store import Store
from experiments.atlas import catalog
from experiments.atlas.catalog import CatalogUnit
from experiments.atlas.embeddings import image_similarities
from experiments.atlas.search_index import KEY, SearchIndex, open_index
from experiments.cli.main import main
from experiments.labels.record import DEAD, NOTHING_FITS, UnitLabel, lines
from experiments.studies.search import RunQuery, search, table
from tests.experiments.atlas.runs import LabeledRun


@pytest.fixture
def run(tmp_path: Path) -> LabeledRun:
    made = LabeledRun(tmp_path / "run")
    made.embed("a:0", "golden retriever", runner_up="labrador")
    made.embed("a:1", "striped cloth")
    made.embed("a:2", "")
    made.embed("b:0", "forests")
    made.study("b:1", "snowplow", description="Fires for snow that is cleared from roads.")
    made.role("b:0", ["snowplow, snowplough"], ["alp"])
    return made


def found(run: LabeledRun, words: str, layer: str = "") -> list[tuple[str, str]]:
    hits = search(RunQuery(words, run.root, layer)).units
    return [(hit.unit.removeprefix("net/"), hit.matched) for hit in hits]


def test_each_field_is_searched_and_named(run):
    assert found(run, "striped") == [("a:1", "label")]
    assert found(run, "labrador")[0] == ("a:0", "other label")
    assert found(run, "snowplow") == [("b:1", "label"), ("b:0", "raises")]
    assert ("b:0", "lowers") in found(run, "alp")
    assert found(run, "cleared roads") == [("b:1", "description")]
    assert found(run, "a:2") == [("a:2", "unit")]


def test_other_forms_of_a_word_and_kinds_of_a_thing_are_found(run):
    assert found(run, "forested backgrounds")[0] == ("b:0", "label")
    assert found(run, "dog")[0][0] == "a:0"
    assert found(run, "animals")[0][0] == "a:0"


def test_one_layer_can_be_searched(run):
    assert found(run, "snowplow", "a") == []
    with pytest.raises(UsageError, match="no layer 'c'"):
        found(run, "snowplow", "c")


def test_what_nothing_says_is_not_found_and_the_table_says_so(run):
    result = search(RunQuery("submarine cables", run.root))
    assert result.units == []
    assert table(result).startswith("nothing like submarine cables was said of the ")


def test_of_labels_that_match_alike_the_confirmed_come_first_and_guesses_last(run):
    run.embed("c:0", "", best="steam engine", auroc=0.99)
    run.study("c:1", "steam engine", verdict="not confirmed")
    run.study("c:2", "steam engine")
    run.embed("c:3", "steam engine", auroc=0.99)
    run.study("c:4", "kettle", description="steam engine")
    assert [unit for unit, _ in found(run, "steam engine")] == ["c:2", "c:3", "c:1", "c:0", "c:4"]
    assert [unit for unit, _ in found(run, "golden steam engine")][:2] == ["c:2", "c:3"], "by meaning first"


@pytest.mark.parametrize("similarity", [0.9, 0.5 - 3e-8, 0.3, 0.7])
def test_a_label_that_matches_by_a_whole_step_in_single_precision_is_not_sunk(similarity):
    units = [
        CatalogUnit("net/a:0", "a", 0, "a:0", "kettle", verdict="confirmed", rivals=("engine",)),
        CatalogUnit("net/a:1", "a", 1, "a:1", "steam", verdict="not confirmed"),
    ]
    index = SearchIndex.of(units)
    said = {"steam": similarity, "engine": (similarity + 0.05) / 0.75}
    hits = index.rank(np.array([said.get(text, 0.0) for text in index.texts], np.float32), 2)
    assert [hit.unit for hit in hits] == ["net/a:1", "net/a:0"]


def test_a_search_without_a_good_match_says_so(run):
    run.embed("c:0", "red steam engine of a museum")
    near, good = (search(RunQuery(words, run.root)) for words in ("blue museum roof", "striped cloth"))
    assert near.units
    assert not near.close
    assert table(near).title.startswith("nothing said of the 6 units")
    assert good.close


def test_an_agents_label_replaces_that_of_an_embedding_which_stays_searchable(run):
    run.study("a:1", "curtains")
    assert found(run, "curtains") == [("a:1", "label")]
    assert found(run, "striped cloth")[0] == ("a:1", "other label")


def test_the_index_is_kept_and_made_again_when_a_record_is_new(run):
    open_index(run.open())
    kept = (run.root / KEY).stat()
    open_index(run.open())
    assert (run.root / KEY).stat().st_mtime_ns == kept.st_mtime_ns
    run.embed("b:7", "windmill")
    assert found(run, "windmill") == [("b:7", "label")]


def test_a_damaged_index_or_one_of_a_stranger_is_made_again(run):
    open_index(run.open())
    whole = (run.root / KEY).read_bytes()
    with np.load(run.root / KEY) as stored:
        arrays = dict(stored)
    arrays["texts_of"] = arrays["texts_of"] + 1000
    (run.root / KEY).unlink()
    with (run.root / KEY).open("wb") as file:
        np.savez(file, **arrays)
    assert found(run, "striped") == [("a:1", "label")]
    (run.root / KEY).write_bytes(whole[: len(whole) // 2])
    assert found(run, "striped") == [("a:1", "label")]


@pytest.mark.parametrize(
    "said", [b'{"edition":1,"sources":[' + b"[]," * 2_000_000 + b"0]}", b"[" * 100, b" " * (MAX_BYTES + 1)]
)
def test_an_index_takes_no_more_memory_than_its_bytes(said):
    """A file of kilobytes may unpack to lists of gigabytes; it is damaged before they are made."""
    packed = io.BytesIO()
    np.savez_compressed(packed, said=np.frombuffer(said, np.uint8))
    assert len(packed.getvalue()) < 100_000
    assert SearchIndex.from_bytes(packed.getvalue(), [[]]) is None


def test_damaged_lines_are_named_and_the_others_are_searched(run):
    with (run.root / "labels.jsonl").open("a") as file:
        file.write('{"unit": 3}\n{"unit": "net/a:9", "lab\n[]\n"\\ud800"\n')
    (run.root / "roles.jsonl").write_text(json.dumps({"unit": "net/a:0", "role": {"raised": [3, {}]}}))
    result = search(RunQuery("striped", run.root))
    assert [hit.unit for hit in result.units] == ["net/a:1"]
    assert result.problems == ["labels.jsonl: 4 lines are damaged, and were left out"]


def test_a_run_of_which_nothing_is_said_and_a_query_without_words_are_refused(tmp_path):
    run = LabeledRun(tmp_path / "run")
    with pytest.raises(UsageError, match="nothing is said"):
        search(RunQuery("dog", run.root))
    with pytest.raises(UsageError, match="no concept"):
        search(RunQuery("  ", run.root))
    with pytest.raises(UsageError, match="there is no run"):
        search(RunQuery("dog", tmp_path / "nothing"))


def test_find_takes_one_order_of_arguments_for_runs_and_networks(run, capsys):
    main(["find", str(run.root), "striped", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert [(hit["unit"], hit["matched"]) for hit in answer["units"]] == [("net/a:1", "label")]
    for wrong, advice in (
        (["dog", "resnet18", "layer1"], "maia find resnet18 layer1 dog"),
        (["resnet18", "dog"], "maia find resnet18 LAYER dog"),
        ([str(run.root / "nothing"), "dog"], "--out folder of a run"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["find", *wrong])
        assert stop.value.code == 2
        assert advice in " ".join(capsys.readouterr().err.split())


def test_fifty_thousand_units_are_searched_without_a_loop_over_them():
    words = ["dog", "cat", "forest", "wheel", "stripes", "sky", "fur", "text", "hand", "arch"]
    labels = [f"{a} {b} {c}" for a in words for b in words for c in words]
    units = [
        CatalogUnit(f"net/a:{i}", "a", i, f"a:{i}", labels[i % 1000], "embedding") for i in range(50_000)
    ]
    index = SearchIndex.of(units)
    index.search("dog", 10)
    began = time.process_time()
    for word in words:
        assert len(index.search(word, 10)) == 10
    assert (time.process_time() - began) / len(words) < 0.05


@dataclass
class FakeEmbedder:
    """A space of three axes: an image's color, and the words red, green and blue."""

    present_above: float | None = None
    asked: int = 0
    max_batch: int = 8

    @property
    def facts(self) -> EmbedderFacts:
        return EmbedderFacts("fake", 3, self.present_above)

    def images(self, images: Sequence[Image]) -> np.ndarray:
        return unit_norm(np.stack([image.pixels.mean((0, 1)) for image in images]), "fake")

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        assert all(isinstance(text, str) for text in texts)
        self.asked += len(texts)
        axes = [[word in text for word in ("red", "green", "blue")] for text in texts]
        if not all(map(any, axes)):
            raise UsageError("a word is not known.")
        return unit_norm(np.array(axes, np.float32), "fake")


def picture(color: list[int]) -> Image:
    return Image.from_pixels(np.broadcast_to(np.array(color, np.uint8), (8, 8, 3)).copy())


def test_an_image_is_found_by_what_it_shows_and_texts_are_embedded_once(tmp_path):
    run, image = LabeledRun(tmp_path / "run"), picture([250, 5, 5])
    texts = ["red", "green", "blue", "what is this", "red and blue"]
    for present_above in (0.6, None):
        embedder = FakeEmbedder(present_above)
        found = image_similarities(embedder, image, texts * 4, Store(run.root))
        assert found[0] == pytest.approx(1, abs=0.01)
        assert found[1] == found[2] == found[3] == 0, "of another color, and unknown"
    before = embedder.asked
    image_similarities(embedder, picture([5, 250, 5]), texts * 4, Store(run.root))
    assert embedder.asked == before
    (run.root / "search" / "embeddings.npz").write_bytes(b"PK damaged")
    assert image_similarities(embedder, image, texts * 4, Store(run.root))[0] > 0.9


def test_an_image_finds_the_units_that_it_is_an_exemplar_of_and_those_that_say_what_it_shows(run, capsys):
    scene = Image.from_pixels(render(parse_prompt("a dog on the grass", 3).scene))
    Blobs(Store(run.root)).put([scene])
    run.study("c:0", "something else", exemplars=[{"source": scene.id}])
    run.study("c:1", "dog")
    run.put("manifest.json", {"model": "net", "settings": {"dataset": "scenes:60:1"}})
    file = run.root.parent / "dog.png"
    file.write_bytes(encode_png(scene))
    main(["find", str(run.root), "--image", str(file), "--json"])
    hits = json.loads(capsys.readouterr().out)["units"]
    assert (hits[0]["unit"], hits[0]["matched"]) == ("net/c:0", "exemplar")
    assert (hits[1]["unit"], hits[1]["matched"]) == ("net/c:1", "label")
    file.write_bytes(b"no picture")
    with pytest.raises(SystemExit):
        main(["find", "--image", str(file), str(run.root)])
    assert "no image that can be read" in " ".join(capsys.readouterr().err.split())


def test_the_labels_of_maia_label_are_read_as_it_writes_them(run):
    made = [
        UnitLabel(
            "net/d:0", "d", 0, "oboe", "", runner_up="violin", auroc=0.8, q=0.01, alike=1, redundancy=0.99
        ),
        UnitLabel("net/d:1", "d", 1, None, NOTHING_FITS, best="banana", alike=0, redundancy=0.99),
        UnitLabel("net/d:2", "d", 2, None, DEAD),
    ]
    (run.root / "labels.jsonl").write_bytes(lines(made))
    first, second, third = (unit for unit in catalog.read(run.open()) if unit.layer == "d")
    assert (first.label, first.tier, first.verdict, first.score) == ("oboe", "embedding", "untested", 0.8)
    assert (first.rivals, first.alike, first.likeness) == (("violin",), "net/d:1", 0.99)
    assert (second.label, second.tier, second.verdict, second.rivals) == ("", "", "", ("banana",))
    assert third.verdict == "dead"
    assert found(run, "oboe") == [("d:0", "label")]
    assert found(run, "banana") == [("d:1", "other label")]
