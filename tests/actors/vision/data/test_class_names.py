"""Names of classes are read from the forms in which others keep them, in the order of the output."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.errors import UsageError
from actors.vision.data import class_names

NAMES = ("ant", "bee, honey", "cat")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.txt", "ant\nbee, honey\ncat\n"),
        ("bom.txt", "\ufeffant\r\nbee, honey\r\ncat\r\n"),
        ("no_suffix", "ant\nbee, honey\ncat"),
        ("a.json", '["ant", "bee, honey", "cat"]'),
        ("b.json", '{"1": "bee, honey", "0": "ant", "2": "cat"}'),
        ("torchvision.json", '{"cat": 2, "ant": 0, "bee, honey": 1}'),
        ("imagenet.json", '{"0": ["n01", "ant"], "1": ["n02", "bee, honey"], "2": ["n03", "cat"]}'),
        ("config.json", '{"model_type": "vit", "id2label": {"0": "ant", "1": "bee, honey", "2": "cat"}}'),
        (
            "coco.json",
            '{"categories": [{"id": 0, "name": "ant"}, {"name": "bee, honey", "id": 1}, '
            '{"id": 2, "name": "cat"}]}',
        ),
        ("yolo.yaml", "names:\n  0: ant\n  1: bee, honey\n  2: cat\n"),
        ("a.csv", 'ant\n"bee, honey"\ncat\n'),
        ("b.csv", 'id,wnid,name\n2,n03,cat\n0,n01,ant\n1,n02,"bee, honey"\n'),
        ("c.csv", '0,ant\n1,"bee, honey"\n2,cat\n'),
        ("d.tsv", "name\tindex\nant\t0\nbee, honey\t1\ncat\t2\n"),
    ],
)
def test_the_forms_of_others_give_the_same_names(file: str, text: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text, encoding="utf-8")
    assert class_names.read(tmp_path / file) == NAMES


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("a.json", '{"0": "ant", "2": "cat"}', "each class from 0 on needs one name"),
        ("b.json", "{", "cannot be read"),
        ("c.json", "3", "gives no class names"),
        ("d.json", '["ant", 3]', "gives no class names"),
        ("a.txt", "", "gives no class names"),
        ("b.txt", "ant\n\ncat\n", "needs one name"),
        ("a.csv", "", "cannot be read"),
        ("b.csv", "0,1\n1,2\n", "no column holds names"),
    ],
)
def test_a_file_that_does_not_name_every_class_is_refused(
    file: str, text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        class_names.read(tmp_path / file)
    assert "one name a line" in error.value.fix
    with pytest.raises(UsageError, match="no file of class names"):
        class_names.read(tmp_path / "nowhere.txt")


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (("LABEL_0", "LABEL_1"), False),
        (("0", "1", "2"), False),
        (("class 1", "class 2"), False),
        (("LABEL_0", "cat"), True),
        (("LABEL_1", "LABEL_0"), True),
        (("type 2", "type 7"), True),
        (("ant",), True),
    ],
)
def test_placeholders_name_nothing(names: tuple[str, ...], kept: bool) -> None:
    assert class_names.named(names) == (names if kept else ())
