"""Pages of experiments: what a page may hold, how it is drawn, and what a file that is none looks like."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from experiments.report import charts, site
from experiments.report.schema import (
    Bar,
    Bars,
    CaptionedImage,
    DataTable,
    Estimate,
    ImageGrid,
    Lines,
    Page,
    Point,
    ScatterPlot,
    Series,
    TableColumn,
    Text,
)
from tests.experiments.report import markup
from tests.experiments.report.run_directories import FakeRun, picture
from tests.experiments.report.test_unit_page import HOSTILE


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    return FakeRun(tmp_path / "run")


def example(words: str = "") -> Page:
    """Return a page with a block of every kind, `words` in every text."""
    return Page(
        title=f"Predictive descriptions{words}",
        summary=f"Ours predicts as well as the paper's.{words}",
        blocks=(
            Text(title=f"Method{words}", paragraphs=(f"First.{words}", f"Second.{words}")),
            DataTable(
                title=f"Table 2{words}",
                columns=(
                    TableColumn(name=f"method{words}"),
                    TableColumn(name="score", source="paper"),
                    TableColumn(name="score", source="ours", digits=3),
                    TableColumn(name="n"),
                ),
                rows=(
                    (f"MAIA{words}", 0.83, Estimate(value=0.8412, low=0.8, high=0.88), 42),
                    ("baseline", None, 0.5, 1200),
                ),
                note=f"Means over units.{words}",
            ),
            Bars(
                title=f"By context{words}",
                axis=f"probability{words}",
                bars=(
                    Bar(name=f"snow{words}", series=f"real{words}", value=0.7, low=0.6, high=0.8),
                    Bar(name=f"snow{words}", series="made", value=0.5),
                    Bar(name="sand", series="made", value=-0.2),
                ),
            ),
            ScatterPlot(
                title="Agreement",
                x=f"people{words}",
                y=f"agent{words}",
                diagonal=True,
                series=(
                    Series(
                        name=f"units{words}",
                        points=(
                            Point(x=0.1, y=0.2, name=f"u1{words}", low=0.1, high=0.3),
                            Point(x=0.9, y=0.7),
                        ),
                    ),
                ),
            ),
            Lines(
                title="By rounds",
                x="round",
                y="AUROC",
                series=(
                    Series(
                        name="a",
                        points=(Point(x=2, y=0.8, low=0.7, high=0.9), Point(x=1, y=0.5, low=0.4, high=0.6)),
                    ),
                    Series(name="b", points=(Point(x=1, y=0.6),)),
                ),
            ),
            ImageGrid(
                title="Worst",
                figures=(
                    CaptionedImage(image=picture(3).id, caption=f"a wolf{words}", activation=0.01),
                    CaptionedImage(image="../x"),
                ),
            ),
        ),
    )


def page_of(run: FakeRun, name: str) -> markup.Element:
    site.write(run.root)
    return markup.check(run.root / "report/experiments" / f"{name}.html")


def test_a_page_survives_its_file():
    assert Page.model_validate_json(example().model_dump_json()) == example()


def test_every_block_is_on_the_page(run):
    run.store(picture(3))
    example().save(run.root, "predictive")
    page = page_of(run, "predictive")
    output = " ".join(page.text.split())
    for words in (
        "First.",
        "0.841 0.800 to 0.880",
        "1,200",
        "Means over units.",
        "0.01 a wolf",
        "image not in the store",
    ):
        assert words in output
    assert len(list(page.find("svg"))) == 3
    assert {"paper", "ours"} <= {th.attributes["class"] for th in page.find("th")}
    index = markup.check(run.root / "report/index.html")
    assert "experiments/predictive.html" in set(markup.addresses(index))


def test_raw_results_may_stand_beside_the_page(run):
    run.put("experiments/both.json", {"scores": [1, 2], "page": example().model_dump(mode="json")})
    assert "Predictive descriptions" in next(page_of(run, "both").find("h1")).text


@pytest.mark.parametrize("page", [True, False])
def test_a_page_names_no_home_folder(run, page):
    text = Text(title="On /home/ada/photos", paragraphs=("As follows:\n/home/ada/nets/it.py:make",))
    content = Page(title="t", blocks=(text,)).model_dump(mode="json")
    run.put("experiments/own.json", content if page else {"scores": content})
    output = page_of(run, "own").text
    assert "~/photos" in output
    assert "/home/ada" not in output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "valid dictionary"),
        ('{"scores": 1}', "title"),
        ('{"title": "x", "blocks": [{"kind": "film"}]}', "blocks.0"),
        (
            '{"title": "x", "blocks": [{"kind": "table", "columns": [{"name": "a"}], "rows": [[1, 2]]}]}',
            "2 cells for 1",
        ),
        ('{"title": "x", "blocks": [{"kind": "bars", "bars": [{"name": "a", "value": NaN}]}]}', "blocks.0"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_file_that_is_no_page_is_shown_as_it_is(run, content, message):
    (run.root / "experiments").mkdir()
    (run.root / "experiments/odd.json").write_text(content)
    page = page_of(run, "odd")
    assert message in next(page.find("p", class_="alert")).text
    assert next(page.find("pre", class_="raw")).text.strip() == content.strip()[:200_000]


def test_hostile_text_in_an_experiment_stays_text(run):
    hostile = HOSTILE.replace("\ud800", "")
    example().save(run.root, "tame")
    example(hostile).save(run.root, "wild")
    tags = {element.tag for element in page_of(run, "tame").find()}
    page = page_of(run, "wild")
    assert {element.tag for element in page.find()} == tags
    assert "window.hurt=1" in next(page.find("h1")).text


def test_only_a_changed_experiment_writes_the_index_again(run):
    example().save(run.root, "one")
    index = site.write(run.root)
    before = index.stat().st_ino
    assert site.write(run.root).stat().st_ino == before
    example().save(run.root, "two")
    assert site.write(run.root).stat().st_ino != before
    (run.root / "experiments/one.json").unlink()
    site.write(run.root)
    assert [path.name for path in (run.root / "report/experiments").iterdir()] == ["two.html"]


@pytest.mark.parametrize(
    "interval", [{"low": 0.1}, {"high": 0.9}, {"low": 0.9, "high": 0.1}, {"low": float("nan"), "high": 1.0}]
)
def test_half_an_interval_or_a_turned_one_is_refused(interval):
    with pytest.raises(ValidationError):
        Estimate(value=0.5, **interval)


def test_a_line_is_drawn_in_order_of_x_and_its_band_only_if_whole():
    block = example().blocks[4]
    assert isinstance(block, Lines)
    drawn = str(charts.lines(block))
    assert drawn.count("<polygon") == 1
    first = drawn.split('class="line s0" points="')[1].split('"')[0]
    xs = [float(pair.split(",")[0]) for pair in first.split()]
    assert xs == sorted(xs)


@pytest.mark.parametrize("value", [0.0, -3.0, 1e-12, 1e12])
def test_plots_of_a_single_value_are_drawn(value):
    series = (Series(name="s", points=(Point(x=value, y=value),)),)
    for drawn in (
        charts.bars(Bars(bars=(Bar(name="a", value=value),))),
        charts.scatter(ScatterPlot(x="x", y="y", series=series, diagonal=True)),
        charts.lines(Lines(x="x", y="y", series=series)),
    ):
        assert "nan" not in drawn
        assert "<svg" in drawn


def test_empty_plots_are_nothing_or_an_empty_frame():
    assert charts.bars(Bars(bars=())) == ""
    assert "<svg" in charts.lines(Lines(x="x", y="y", series=()))
