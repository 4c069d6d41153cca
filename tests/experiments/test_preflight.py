"""A mistyped word is refused before anything starts, and leaves nothing behind."""

from __future__ import annotations

import pytest

import actors.cluster
from actors.errors import UsageError
from experiments import cli
from experiments.config import load
from experiments.preflight import check, left_as_found

CONFIG = """
profiles:
  embedded:
    dataset: scenes:300:1
  folder:
    dataset: .
  keyless:
    dataset: scenes:300:1
    chat:
      interpreter: {backend: openai, model: big, api_key_env: MAIA_NO_SUCH_KEY, base_url: "http://127.0.0.1:9/v1"}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ray_config.yaml").write_text(CONFIG)

    def start(_settings):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(actors.cluster.Cluster, "start", start)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("describe resnet5O layer3 1", "no network 'resnet5O'"),
        ("describe resnet50 layer3 1 --data nowhere", "nowhere' does not exist"),
        ("describe resnet50 layer3 1 --data scenes:many", "scenes[:SIZE[:SEED]]"),
        ("describe resnet50 layer3 1 --profile keyless", "MAIA_NO_SUCH_KEY is not set"),
        ("describe resnet50 layer3 1 --profile other", "other"),
        ("describe resnet50 layer3 1 --out runs/mine --data nowhere", "nowhere' does not exist"),
        ("describe resnet50 layer3 1 --data .", "lies inside the data set's"),
        ("sweep resnet50 layer3 --data . --out mine", "lies inside the data set's"),
        ("session resnet50 layer3 1 --data . --out mine", "lies inside the data set's"),
        ("ablate resnet50 layer3 --profile folder", "lies inside the data set's"),
        ("synthetic --units dog --profile folder", "lies inside the data set's"),
        ("sweep resnet5O layer3", "no network 'resnet5O'"),
        ("audit resnet5O --figures-only", "no network 'resnet5O'"),
        ("session resnet5O layer3 1", "no network 'resnet5O'"),
        ("layers resnet5O", "no network 'resnet5O'"),
        ("exemplars resnet5O --layers layer3", "no network 'resnet5O'"),
        ("find forest resnet5O layer3", "no network 'resnet5O'"),
        ("ablate resnet5O layer3", "no network 'resnet5O'"),
    ],
)
def test_what_can_be_known_is_refused_before_ray_starts_and_leaves_no_folder(
    here, capsys, monkeypatch, words, told
):
    monkeypatch.setattr("sys.argv", ["maia", *words.split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said.count(told) == 1
    assert [each.name for each in here.iterdir()] == ["ray_config.yaml"]


def test_what_runs_on_the_nodes_of_a_cluster_is_not_looked_for_here(here):
    keyless = load(here / "ray_config.yaml").profile("keyless")
    with pytest.raises(UsageError, match="MAIA_NO_SUCH_KEY"):
        check(keyless, "resnet50")
    there = keyless.model_copy(update={"ray": keyless.ray.model_copy(update={"address": "head:6379"})})
    assert len(check(there, "resnet50")) == 300


def refuse(folder, *made):
    """Make files in a run directory, then refuse the command."""
    for each in made:
        (folder / each).parent.mkdir(parents=True, exist_ok=True)
        (folder / each).touch()
    raise UsageError("no such layer")


def test_a_folder_with_nothing_but_the_lease_of_the_refused_command_goes_with_its_parents(tmp_path):
    folder = tmp_path / "runs" / "b6"
    with pytest.raises(UsageError), left_as_found(folder):
        refuse(folder, "leases/0001/claim.json", "leases/0001/released.json")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "kept", ["manifest.json", "leases/0001/claim.json", "leases/0002/claim.json", "mine.txt"]
)
def test_a_folder_with_anything_else_stays(tmp_path, kept):
    """A lease that was not given back is that of a process which was first, by a moment, and works there."""
    folder = tmp_path / "runs" / "b6"
    with pytest.raises(UsageError), left_as_found(folder):
        refuse(folder, kept)
    assert (folder / kept).exists()


def test_a_folder_that_was_there_before_stays(tmp_path):
    with pytest.raises(UsageError), left_as_found(tmp_path):
        refuse(tmp_path)
    assert tmp_path.is_dir()
