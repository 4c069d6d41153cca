"""The site as a whole: what its index counts, and that only what changed is written again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from actors.errors import UsageError
from experiments.records import journal_scan
from experiments.report import pages, site
from experiments.report.layer_page import group_labels, similarity
from experiments.report.records import RunDirectory
from experiments.report.summary import summarize
from tests.command_line import maia
from tests.experiments.report import markup
from tests.experiments.report.run_directories import LAYER, FakeRun, many_units, picture


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    return FakeRun(tmp_path / "run")


def table(run: FakeRun) -> list[dict[str, Any]]:
    """Return the rows of the index's table as its script sees them."""
    source = (run.root / "report" / "units.js").read_text(encoding="ascii")
    assert source.startswith("const MAIA_UNITS = ")
    assert source.endswith(";\n")
    assert not set("<>&\u2028") & set(source)
    content = json.loads(source.removeprefix("const MAIA_UNITS = ")[:-2])
    return [dict(zip(content["columns"], row, strict=True)) for row in content["rows"]]


def written(run: FakeRun) -> dict[str, int]:
    """Return every file of the site with its inode, which is new whenever the file is written."""
    report = run.root / "report"
    return {str(p.relative_to(report)): p.stat().st_ino for p in report.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_the_index_counts_and_lists_every_unit(run):
    run.put("plan.json", [{"unit": run.unit_id(3)}, {"unit": run.unit_id(5)}, 7, {"x": 1}])
    run.write_unit(1, "wheels")
    run.write_unit(2, "dogs", done=run.done(2, "dogs", confirmed=False))
    run.write_unit(3, finished=False)
    run.write_unit(
        4, done={"unit": run.unit_id(4), "status": "failed", "error": {"message": "gone.", "fix": ""}}
    )
    page = markup.check(site.write(run.root))
    tally = " ".join(next(page.find("p", class_="tally")).text.split())
    assert tally == "confirmed 1 not confirmed 1 failed 1 in progress 1 waiting 1"
    rows = {row["index"]: row for row in table(run)}
    assert (rows[1]["label"], rows[1]["verdict"], rows[1]["auroc"], rows[1]["tokens"]) == (
        "wheels",
        "confirmed",
        0.91,
        5380,
    )
    assert rows[3]["verdict"] == "running"
    assert rows[4]["label"] == "gone."
    for row in rows.values():
        markup.check(run.root / "report" / row["href"])


def test_an_empty_run_has_an_index(run):
    assert "No unit has begun" in markup.check(site.write(run.root)).text


def test_a_run_without_a_readable_manifest_has_an_index(run):
    (run.root / "manifest.json").write_text("{")
    run.write_unit(1)
    page = markup.check(site.write(run.root))
    assert "manifest.json cannot be read" in page.text
    assert len(table(run)) == 1


def test_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="there is no such folder"):
        site.write(tmp_path / "nothing")
    (tmp_path / "photo.png").touch()
    with pytest.raises(UsageError, match="there is no run in"):
        site.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


def test_writing_again_writes_nothing(run):
    for index in range(3):
        run.write_unit(index)
    site.write(run.root)
    before = written(run)
    site.write(run.root)
    assert written(run) == before


def test_only_the_unit_that_went_on_is_written_again(run):
    run.put("plan.json", [{"unit": run.unit_id(index)} for index in range(3)])
    names = [run.write_unit(index, finished=False) for index in range(3)]
    site.write(run.root)
    before = written(run)
    run.put(f"units/{names[1]}/done.json", run.done(1))
    site.write(run.root)
    changed = {name for name, inode in written(run).items() if before.get(name) != inode}
    assert {name for name in changed if name.startswith("units/")} == {f"units/{names[1]}.html"}
    assert {"index.html", "units.js"} <= changed
    assert {row["index"]: row["verdict"] for row in table(run)} == {
        0: "running",
        1: "confirmed",
        2: "running",
    }


def test_a_deleted_page_comes_back_and_a_deleted_unit_goes(run):
    keep, gone = run.write_unit(1), run.write_unit(2)
    site.write(run.root)
    (run.root / "report/units" / f"{keep}.html").unlink()
    for path in sorted((run.root / "units" / gone).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (run.root / "units" / gone).rmdir()
    site.write(run.root)
    assert [path.stem for path in (run.root / "report/units").iterdir()] == [keep]
    assert len(table(run)) == 1


def test_pages_of_another_edition_are_written_again(run, monkeypatch):
    name = run.write_unit(1)
    site.write(run.root)
    before = written(run)
    monkeypatch.setattr(pages, "edition", lambda: "another")
    site.write(run.root)
    after = written(run)
    assert after[f"units/{name}.html"] != before[f"units/{name}.html"]


@pytest.mark.parametrize("content", ["", "[]", '{"edition": 1}', '{"units": {"x": 1}}'])
def test_damaged_summaries_are_made_again(run, content):
    run.write_unit(1)
    site.write(run.root)
    (run.root / "report/summaries.json").write_text(content)
    site.write(run.root)
    assert len(table(run)) == 1


def test_a_changed_manifest_changes_the_pages(run):
    name = run.write_unit(1)
    site.write(run.root)
    run.put("manifest.json", {"model": "other", "profile": "lab"})
    later = (run.root / "manifest.json").stat().st_mtime_ns + 10**9
    os.utime(run.root / "manifest.json", ns=(later, later))
    site.write(run.root)
    assert "--profile lab" in (run.root / "report/units" / f"{name}.html").read_text()


def test_hostile_labels_stay_text_in_the_data_of_the_table(run):
    label = "</script><script>hurt()</script>\u2028&amp;\"'"
    run.write_unit(1, done=run.done(1) | {"label": label, "labels": [label], "unit": f"m/{label}:3"})
    markup.check(site.write(run.root))
    assert table(run)[0]["label"] == label


def test_a_folder_of_any_name_is_linked(run):
    name = 'a "b" <c> %41?#&.d'
    (run.root / "units" / name).mkdir(parents=True)
    markup.check(site.write(run.root))
    assert table(run)[0]["href"] == "units/a%20%22b%22%20%3Cc%3E%20%2541%3F%23%26.d.html"


def test_units_that_were_given_no_agent_are_counted_by_the_reason(run):
    run.write_unit(1)
    rows = [
        {"unit": n, "verdict": word} for n, word in enumerate(("alive", "dead", "duplicate", "duplicate"))
    ]
    run.put("screening.json", {LAYER: rows})
    page = markup.check(site.write(run.root))
    assert "Given no agent: 1 dead, 2 duplicates." in " ".join(page.text.split())


def test_the_table_shows_the_strongest_images_that_the_store_holds(run):
    done = run.done(1)
    done["exemplars"].insert(0, {"image": "../../etc/passwd", "source": "", "activation": 1})
    run.write_unit(1, done=done)
    site.write(run.root)
    (row,) = table(run)
    assert len(row["thumbs"]) == 3
    assert all((run.root / path).is_file() for layers in row["thumbs"] for path in layers)
    assert all(len(layers) == 2 for layers in row["thumbs"]), "a picture and its mask"


def test_a_layer_has_a_page_with_similar_labels_together(run):
    for index, label in enumerate(
        ["wheels of cars", "car wheels", "a dog's face", "wheels of the car", "blue sky"]
    ):
        run.write_unit(index, label, rounds=[])
    page = markup.check(site.write(run.root))
    (link,) = [a for a in page.find("a") if a.attributes["href"].startswith("layers/")]
    layer = markup.check(run.root / "report" / link.attributes["href"])
    (group,) = layer.find("details", class_="group")
    assert len(list(group.find("li"))) == 3
    assert "5 of 5 units have a label; the labels fall into 3 groups, and 3 units share" in " ".join(
        layer.text.split()
    )


def test_counts_of_one_are_said_as_one(run):
    for index, label in ((1, "wheels"), (2, "wheels")):
        run.write_unit(index, label, rounds=[])
    site.write(run.root)
    page = markup.check(next((run.root / "report" / "layers").iterdir()))
    words = " ".join(page.text.split())
    assert "2 of 2 units have a label; the labels fall into 1 group, and 2 units share" in words


def test_what_was_not_counted_is_a_dash_and_no_error():
    count = pages.environment().filters["counted"]
    assert [count(n, "image") for n in (None, 1, 1200)] == ["– images", "1 image", "1,200 images"]


def test_labels_without_a_common_word_are_not_similar():
    values = similarity(["wheels of cars", "car wheels", "", "of the"])
    assert values[0, 1] == pytest.approx(1.0)
    assert values[0, 2] == values[2, 3] == 0.0


def test_units_without_a_label_are_in_no_group(run):
    run.write_unit(1, "wheels", rounds=[])
    run.write_unit(2, rounds=[], done=run.done(2) | {"evidence": {"kind": "abstention"}})
    directory = RunDirectory(run.root)
    groups = group_labels([summarize(directory, directory.unit(slug)) for slug in directory.slugs()])
    assert [[unit.index for unit in group.units] for group in groups] == [[1]]


def test_a_site_of_many_units_is_written_whole(tmp_path):
    run = many_units(tmp_path / "run", 40)
    markup.check(site.write(run.root))
    assert len(table(run)) == 40
    assert len(list((run.root / "report/layers").iterdir())) == 7


def test_the_overview_shows_reuse_rate_and_cost(run):
    run.write_unit(1)
    run.put("leases/0001/machinery.json", {"vision": {"asked": 200, "reused": 126}})
    index = site.write(run.root)
    overview = " ".join(next(markup.check(index).find("section", class_="overview")).text.split())
    assert "63% of measurements" in overview
    assert "$0.05" in overview
    run.put("leases/0002/machinery.json", {"vision": {"asked": 200, "reused": 200}})
    assert "82% of measurements" in " ".join(markup.check(site.write(run.root)).text.split())
    run.put("leases/0003/machinery.json", ["damaged"])
    assert "82% of measurements" in " ".join(markup.check(site.write(run.root)).text.split())


def test_the_index_names_the_stand_ins_of_the_run(run):
    run.write_unit(1, "wheels")
    page = markup.check(site.write(run.root))
    assert not list(page.find("p", class_="stand-in"))
    settings = {"generation": {"backend": "scenes"}, "chat": {"interpreter": {"backend": "openai"}}}
    run.put("manifest.json", {"command": "sweep", "model": "net", "settings": settings})
    (run.root / "report" / "index.html").unlink()
    page = markup.check(site.write(run.root))
    output = next(page.find("p", class_="stand-in")).text
    assert "generator" in output
    assert "interpreter" not in output


def test_the_index_says_how_many_studies_show_a_sign_of_careless_reasoning(run):
    answered = run.answer(1, "wheels", None) | {"toolbox": {"images_made": 0}}
    careless = run.write_unit(1, "wheels", rounds=[answered])
    careful = run.write_unit(2, "wheels", rounds=[run.round(1), run.round(2), run.answer(3, "wheels", None)])
    index = site.write(run.root).read_text(encoding="utf-8")
    sign = journal_scan.SIGNS["untried"]
    assert "<td>1 of 2</td>" in index[index.index(sign) :].split("</tr>")[0]
    pages_of = {
        name: (run.root / f"report/units/{name}.html").read_text("utf-8") for name in (careless, careful)
    }
    assert [sign in pages_of[careless], sign in pages_of[careful]] == [True, False]


def test_repeated_studies_have_pages_and_the_layer_shows_their_agreement(run):
    pair = {"label_of": 2, "images_of": 1, "seen": 0.8, "false": 0.0, "n_positive": 5, "n_control": 5}
    agreement = {"value": 0.87, "studies": 2, "labeled": 2, "pairs": [pair | {"predicted": 0.9}]}
    pooled = run.done(1, "wheels") | {"agreement": agreement, "repeats": [{"number": 1}, {"number": 2}]}
    name = run.write_unit(1, "wheels", done=pooled, rounds=[run.answer(1, "wheels", None)])
    run.write_unit(2, "dogs")
    for number in (1, 2):
        folder = f"units/{name}/repeats/{number}"
        run.put(f"{folder}/rounds/0001.json", run.round(1))
        run.put(f"{folder}/done.json", run.done(1, f"wheels of kind {number}"))
    run.put(f"units/{name}/pooling.json", {"evidence": "4.20 | a <b>wheel</b>", "agreement": agreement})
    index = site.write(run.root)
    page = (index.parent / f"units/{name}.html").read_text("utf-8")
    assert "4.20 | a &lt;b&gt;wheel&lt;/b&gt;" in page
    (layer,) = (index.parent / "layers").iterdir()
    for number in (1, 2):
        assert f'href="{name}.repeat-{number}.html"' in page
        assert f"wheels of kind {number}" in (index.parent / f"units/{name}.repeat-{number}.html").read_text(
            "utf-8"
        )
    assert "<td>0.90</td>" in page
    assert "agree to 0.87" in layer.read_text("utf-8")
    assert table(run)[0]["label"] == "wheels", "a unit is one row, however often it was studied"
    before = written(run)
    site.write(run.root)
    assert written(run) == before, "pages of studies stay with those of their units"


@pytest.mark.slow
def test_a_gallery_is_a_folder_of_its_own_with_the_best_units_and_findings(run, tmp_path, capsys):
    other = picture(9)
    run.store(other)
    for index, label in enumerate(["<b>wheels", "wheels", "sky"]):
        run.write_unit(index, label, done=run.done(index, label, confirmed=label != "sky"))
    sides = [
        {"name": name, "mean": {"value": mean}, "images": [{"image": other.id, "caption": name}]}
        for name, mean in (("snow", 0.7), ("grass", 0.2))
    ]
    finding = {"kind": "contrast", "title": "umbrella", "difference": {"value": 0.5}, "sides": sides}
    run.put("experiments/audit.json", {"title": "Audit of net", "blocks": [finding]})
    assert maia("gallery", run.root, "--out", tmp_path / "shown", "--units", 2) == 0
    assert "2 units, 1 finding" in capsys.readouterr().out
    page = markup.check(tmp_path / "shown" / "index.html")
    words = " ".join(page.text.split())
    assert [" ".join(each.text.split()) for each in page.find("h3")] == [
        "<b>wheels confirmed", "wheels confirmed", "umbrella",
    ]  # fmt: skip
    assert "3 units: 2 confirmed, 1 not confirmed." in words
    assert "Audit of net" in words
    kept = set(written_to(tmp_path / "shown" / "images"))
    assert maia("gallery", run.root, "--out", tmp_path / "shown", "--units", 1) == 0
    assert set(written_to(tmp_path / "shown" / "images")) < kept, "images of the earlier page are removed"
    assert maia("gallery", FakeRun(tmp_path / "empty").root, "--out", tmp_path / "none") == 2
    assert "nothing was found" in capsys.readouterr().err


def written_to(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
