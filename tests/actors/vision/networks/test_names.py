"""A name that points nowhere is refused from text alone, by the same measure as the libraries'."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from actors.errors import UsageError
from actors.vision.networks.names import registered
from actors.vision.networks.zoo import MODEL_ALIASES, check_name
from actors.vision_libraries import import_torchvision
from tests.refusals import refusal


def test_the_names_read_off_the_source_are_those_that_the_libraries_register():
    import_torchvision()
    import timm
    import torchvision.models as zoo

    assert registered("timm") == set(timm.list_models())
    assert registered("torchvision") == set(zoo.list_models(module=zoo))


def test_every_tag_that_timm_knows_passes():
    import_torchvision()
    import timm

    refused = {name: refusal(check_name, name) for name in timm.list_pretrained()[::97]}
    assert set(refused.values()) == {""}


@pytest.mark.parametrize(
    "name", ["resnet50", "timm:resnet50.a1_in1k", "torchvision:vit_b_16", "hf:owner/name", *MODEL_ALIASES]
)
def test_a_name_that_may_point_somewhere_passes(name):
    assert refusal(check_name, name) == ""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5O", "nearest are.*resnet50"),
        ("resnet50.a1_in2k", "nearest are.*resnet50.a1_in1k"),
        ("torchvision:resnet19", "nearest are.*resnet18"),
        ("torchvision:fasterrcnn_resnet50_fpn", "for detection.*detects=91"),
        ("torchvision:raft_large", "for optical flow"),
        ("jax:resnet50", "no source of networks 'jax'"),
        ("hf:./nowhere", "does not exist"),
        ("python:nowhere.py:build", "no file 'nowhere.py'"),
        ("python:no_such_package.net:build", "no module 'no_such_package.net'"),
        ("python:actors", "python:package.module:factory"),
        ("resnet50@nowhere.pth", "no checkpoint 'nowhere.pth'"),
    ],
)
def test_a_name_that_points_nowhere_is_refused_with_the_nearest(name, message):
    with pytest.raises(UsageError, match=message):
        check_name(name)


def test_a_file_is_read_but_not_run(tmp_path: Path):
    path = tmp_path / "net.py"
    path.write_text("raise SystemExit\ndef build(): ...\n")
    check_name(f"python:{path}:build")
    with pytest.raises(UsageError, match=r"no factory 'built'.*It has build"):
        check_name(f"python:{path}:built")
    path.write_text("def build(:\n")
    with pytest.raises(UsageError, match="cannot be read as Python"):
        check_name(f"python:{path}:build")


def test_a_package_that_is_installed_editable_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its files are on no path: a finder of its own leads to them."""
    path = tmp_path / "elsewhere.py"
    path.write_text("def build(): ...\n")

    class Finder:
        @staticmethod
        def find_spec(name, path_=None, target=None):
            if name == "my_editable_package":
                return importlib.util.spec_from_file_location(name, path)
            return None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    assert refusal(check_name, "python:my_editable_package.net:build") == ""


def test_checking_a_name_imports_no_library():
    code = (
        "import sys; from actors.vision.networks.zoo import check_name; check_name('resnet50'); "
        "module = 'actors.embedded.concept_net.concept_net'; "
        "check_name('torchvision:resnet18'); check_name(f'python:{module}:build_network'); "
        "print([m for m in ('torch', 'timm', 'torchvision', module) if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
