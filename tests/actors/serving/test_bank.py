"""The stimulus bank remembers what passes cost, within its limits, for every process."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from actors.errors import UsageError
from actors.images import Provenance
from actors.serving.bank import StimulusBank


def image_id(number: int) -> str:
    return f"{number:032x}"


def rows(start: int, n: int, n_units: int = 3) -> np.ndarray:
    return (np.arange(n * n_units, dtype=np.float32) + start).reshape(n, n_units)


def test_stored_activations_are_returned_and_others_are_none() -> None:
    bank = StimulusBank("net", 1 << 20)
    bank.put("a", [image_id(1), image_id(2)], rows(10, 2))
    found = bank.get("a", image_id(2))
    assert found is not None
    assert found.tolist() == [13, 14, 15]
    assert found.dtype == np.float32
    assert bank.get("a", image_id(3)) is None
    assert bank.get("b", image_id(1)) is None


def test_known_activations_stay_and_are_returned_to_later_writers(tmp_path: Path) -> None:
    bank = StimulusBank("net", 1 << 20, tmp_path)
    assert bank.put("a", [image_id(1)], rows(10, 1)).tolist() == [[10, 11, 12]]
    both = [[10, 11, 12], [23, 24, 25]]
    assert bank.put("a", [image_id(1), image_id(2)], rows(20, 2)).tolist() == both
    bank.flush()
    another = StimulusBank("net", 1 << 20, tmp_path)
    assert another.put("a", [image_id(1), image_id(2)], rows(30, 2)).tolist() == both
    assert (another.statistics().hits, another.statistics().stored) == (0, 0)


def test_memory_is_bounded_and_the_least_recently_used_goes_first() -> None:
    bank = StimulusBank("net", 3 * (4 * 1000 + 200))
    for number in range(3):
        bank.put("a", [image_id(number)], np.full((1, 1000), number, np.float32))
    assert bank.get("a", image_id(0)) is not None
    bank.put("a", [image_id(3)], np.zeros((1, 1000), np.float32))
    assert bank.get("a", image_id(1)) is None
    assert bank.get("a", image_id(0)) is not None
    assert bank.statistics().memory_bytes <= 3 * (4 * 1000 + 200)


def test_a_bank_without_memory_still_reads_from_disk(tmp_path: Path) -> None:
    bank = StimulusBank("net", 0, tmp_path)
    bank.put("a", [image_id(7)], rows(0, 1))
    bank.flush()
    found = bank.get("a", image_id(7))
    assert found is not None
    assert found.tolist() == [0, 1, 2]


def test_a_second_process_finds_what_the_first_flushed(tmp_path: Path) -> None:
    first = StimulusBank("net", 1 << 20, tmp_path)
    waiting = StimulusBank("net", 1 << 20, tmp_path)
    first.put("a", [image_id(1)], rows(0, 1))
    first.put("b:x", [image_id(1)], rows(5, 1, n_units=2))
    first.flush()
    later = StimulusBank("net", 1 << 20, tmp_path)
    found = later.get("b:x", image_id(1))
    assert found is not None
    assert found.tolist() == [5, 6]
    assert waiting.get("a", image_id(1)) is None
    waiting.refresh()
    assert waiting.get("a", image_id(1)) is not None
    assert waiting.statistics().disk_hits == 1


def test_another_network_never_sees_it(tmp_path: Path) -> None:
    bank = StimulusBank("net", 1 << 20, tmp_path)
    bank.put("a", [image_id(1)], rows(0, 1))
    bank.flush()
    assert StimulusBank("other", 1 << 20, tmp_path).get("a", image_id(1)) is None


def test_known_activations_are_not_written_again(tmp_path: Path) -> None:
    for _ in range(2):
        bank = StimulusBank("net", 1 << 20, tmp_path)
        bank.put("a", [image_id(1), image_id(2)], rows(0, 2))
        bank.flush()
    assert len(list(tmp_path.rglob("*.npy"))) == 1
    assert bank.statistics().stored == 0


def _write(folder: Path, start: int) -> None:
    bank = StimulusBank("net", 1 << 20, folder)
    for number in range(start, start + 20):
        bank.put("a", [image_id(number)], rows(number, 1))
        bank.flush()


@pytest.mark.slow
def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(tmp_path, start)) for start in (0, 10, 20)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    bank = StimulusBank("net", 1 << 20, tmp_path)
    for number in range(40):
        found = bank.get("a", image_id(number))
        assert found is not None
        assert found[0] == number
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]


def test_a_damaged_segment_is_skipped(tmp_path: Path) -> None:
    bank = StimulusBank("net", 1 << 20, tmp_path)
    bank.put("a", [image_id(1)], rows(0, 1))
    bank.flush()
    segment = next(tmp_path.rglob("*.npy"))
    segment.with_name("0" * 32 + ".npy").write_bytes(b"\x93NUMPY damaged")
    again = StimulusBank("net", 1 << 20, tmp_path)
    assert again.get("a", image_id(1)) is not None


def test_provenance_is_kept_by_image_and_its_first_word_stays(tmp_path: Path) -> None:
    bank = StimulusBank("net", 1 << 20, tmp_path)
    note = Provenance("generated", maker="scenes", prompt="a red fox", seed=3, notes=("fox",))
    bank.note(image_id(1), note)
    bank.note(image_id(1), Provenance("edited"))
    bank.flush()
    assert StimulusBank("net", 1 << 20, tmp_path).provenance(image_id(1)) == note
    assert bank.provenance(image_id(2)) is None


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        StimulusBank("net", 1, tmp_path / "file" / "bank")
