"""A data set's classes are found among a network's by their names, and by nothing else."""

from __future__ import annotations

import pytest

from actors import vision_libraries
from actors.errors import UsageError
from actors.vision.data.class_match import match_classes, read_pairs

NAMES = ["tabby, tabby cat", "golden retriever", "crane", "crane", "sports car, sport car", "waterbird"]


def found(names: list[str], class_names: list[str] = NAMES) -> list[tuple[int | None, str]]:
    return [(match.index, match.how) for match in match_classes(names, class_names)]


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("Tabby cat", 0),
        ("tabby", 0),
        ("tabby, tabby cat", 0),
        ("Golden_Retriever", 1),
        ("012.Waterbird", 5),
        ("sport-car", 4),
    ],
)
def test_a_class_is_known_by_any_of_its_names_however_they_are_written(name, index):
    assert found([name]) == [(index, "name")]


def test_labels_that_are_numbers_are_never_taken_for_places_in_the_networks_list():
    assert found(["0", "1", "-1"]) == [(None, "")] * 3
    matches = match_classes(["0", "1"], NAMES, read_pairs("0=tabby cat,1=3"))
    assert [(match.index, match.how) for match in matches] == [(0, "as assigned"), (3, "as assigned")]


def test_a_name_of_several_classes_matches_none_and_lists_their_numbers():
    (match,) = match_classes(["crane"], NAMES)
    assert match.index is None
    assert match.near == ("2 (crane)", "3 (crane)")


def test_an_imagenet_class_is_found_by_its_other_names_and_its_wordnet_number():
    short = ["tench", "tabby", "sports car"]
    assert found(["tiger_cat", "tabby cat", "n02123045", "n04285008-sports_car"], short) == [
        (None, ""), (1, "ImageNet synonym"), (1, "ImageNet synonym"), (2, "name"),
    ]  # fmt: skip
    vision_libraries.import_torchvision()
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    names = [info.index_to_description(index) for index in range(info.num_classes())]
    assert found(["n02012849", "n03126707"], names) == [(134, "WordNet number"), (517, "WordNet number")]


def test_an_unknown_name_comes_with_the_nearest():
    (match,) = match_classes(["golden retreiver"], NAMES)
    assert (match.index, match.near) == (None, ("golden retriever",))


@pytest.mark.parametrize("text", ["=dog", "cat=", "cat=,dog=1"])
def test_pairs_that_say_nothing_are_refused(text):
    with pytest.raises(UsageError, match="LABEL=CLASS"):
        read_pairs(text)


@pytest.mark.parametrize("pairs", [{"lion": "crane"}, {"cat": "zebra"}, {"cat": "77"}])
def test_assigned_pairs_must_name_classes_of_both_sides(pairs):
    with pytest.raises(UsageError):
        match_classes(["cat"], NAMES, pairs)


def test_a_file_names_the_labels_from_zero_on(tmp_path):
    (tmp_path / "names.txt").write_text("landbird\nwaterbird\n")
    assert read_pairs(str(tmp_path / "names.txt")) == {"0": "landbird", "1": "waterbird"}
