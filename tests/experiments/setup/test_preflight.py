"""A mistyped word, too few images or a folder of other things is refused before anything starts, and leaves
nothing behind.
"""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest

import actors.serving.cluster
from actors.errors import UsageError
from experiments.setup.config import Profile, load
from experiments.setup.preflight import check, open_images
from experiments.setup.run_folder import check_output_folder, remove_if_created
from tests.actors.vision.pictures import folder_of
from tests.command_line import maia

CONFIG = """
profiles:
  embedded:
    dataset: scenes:300:1
    vision: {pretrained: false}  # no weights are fetched by these tests
  folder:
    dataset: .
  keyless:
    dataset: scenes:300:1
    vision: {pretrained: false}
    chat:
      interpreter: {backend: openai, model: big, api_key_env: MAIA_NO_SUCH_KEY, base_url: "http://127.0.0.1:9/v1"}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ray_config.yaml").write_text(CONFIG)

    def start(_settings):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(actors.serving.cluster.Cluster, "start", start)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("describe resnet5O layer3 1", "no network 'resnet5O'"),
        ("describe tf_efficientnet_lite0 blocks.6 1 --data nowhere", "nowhere' does not exist"),
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
        ("find resnet5O layer3 forest", "no network 'resnet5O'"),
        ("ablate resnet5O layer3", "no network 'resnet5O'"),
    ],
)
def test_bad_input_is_refused_before_ray_starts_and_leaves_no_folder(here, capsys, words, message):
    assert maia(*words.split()) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said.count(message) == 1
    assert [path.name for path in here.iterdir()] == ["ray_config.yaml"]


def test_requirements_of_cluster_nodes_are_not_checked_here(here):
    keyless = load(here / "ray_config.yaml").profile("keyless")
    with pytest.raises(UsageError, match="MAIA_NO_SUCH_KEY"):
        check(keyless, "resnet50")
    there = keyless.model_copy(update={"ray": keyless.ray.model_copy(update={"address": "head:6379"})})
    check(there, "resnet50")


def refuse(folder, *made):
    """Make files in a run directory, then refuse the command."""
    for image in made:
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        (folder / image).touch()
    raise UsageError("no such layer")


def test_a_folder_with_nothing_but_the_lease_of_the_refused_command_goes_with_its_parents(tmp_path):
    folder = tmp_path / "runs" / "b6"
    with pytest.raises(UsageError), remove_if_created(folder):
        refuse(folder, "leases/0001/claim.json", "leases/0001/released.json")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "kept", ["manifest.json", "leases/0001/claim.json", "leases/0002/claim.json", "mine.txt"]
)
def test_a_folder_with_anything_else_stays(tmp_path, kept):
    """A lease that was not given back is that of a process which was first, by a moment, and works there."""
    folder = tmp_path / "runs" / "b6"
    with pytest.raises(UsageError), remove_if_created(folder):
        refuse(folder, kept)
    assert (folder / kept).exists()


def test_a_folder_that_was_there_before_stays(tmp_path):
    with pytest.raises(UsageError), remove_if_created(tmp_path):
        refuse(tmp_path)
    assert tmp_path.is_dir()


def gray_steps(path, n, copies=0):
    """Write an array of `n` distinct images and some copies of the first."""
    steps = np.linspace(0, 255, n).astype(np.uint8)
    pixels = np.concatenate([steps, np.full(copies, steps[0])])[:, None, None, None] * np.ones(
        (1, 8, 8, 3), np.uint8
    )
    np.save(path, pixels.astype(np.uint8))
    return Profile(dataset=str(path))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["describe resnet50 layer3 1", "sweep resnet50 layer3", "audit resnet50"])
def test_too_few_images_are_refused_before_ray_starts(here, capsys, command):
    """Copies do not count, the numbers are named, and so is the way to go on."""
    gray_steps(here / "x.npy", 29, copies=40)
    assert maia(*command.split(), "--data", "x.npy") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "29 distinct images (and 40 copies or near-copies); at least 30" in said
    assert "--few-images" in said
    with pytest.raises(AssertionError, match="Ray was started"):
        maia(*command.split(), "--data", "x.npy", "--few-images")


@pytest.mark.parametrize(("n", "warned"), [(30, True), (199, True), (200, False)])
async def test_few_images_are_warned_of(tmp_path, n, warned):
    """With their number, below the number from which results are steady."""
    output = []
    dataset = await open_images(gray_steps(tmp_path / "x.npy", n), tmp_path, output.append)
    assert len(dataset) == n
    assert [f"{n} distinct" in line and line.startswith("warning") for line in output] == [True] * warned


async def test_other_files_of_a_folder_are_reported_once(tmp_path):
    """Files passed over, unreadable ones, and 12-bit values."""
    profile = Profile(dataset=str(folder_of(tmp_path / "data", 30)), few_images=True)
    (tmp_path / "data" / "a.svg").write_text("x")
    (tmp_path / "data" / "metadata.csv").write_text("file_name,label\n0000.png,cat\n")
    (tmp_path / "data" / "b.jpg").write_text("x")
    deep = np.random.default_rng(0).integers(0, 4096, (16, 16), dtype=np.uint16)
    PIL.Image.fromarray(deep).save(tmp_path / "data" / "deep.png")
    output = []
    assert len(await open_images(profile, tmp_path / "cache", output.append)) == 31
    assert output[0] == "passed over in data: 1 .svg"
    assert output[1] == "1 images of data hold 12-bit values in 16 bits: white is 4,095"
    assert "31 distinct images (and 1 that cannot be read, the first: " in output[2]


def test_a_folder_with_other_things_is_no_place_for_a_run(tmp_path):
    """It is refused with a folder of its own to take; an empty one, a hidden file and a run are fine."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    with pytest.raises(UsageError, match=r"holds other things \(chapter\.tex\)") as caught:
        check_output_folder("scenes:300:1", tmp_path / "thesis")
    assert str(tmp_path / "thesis" / "run") in caught.value.fix
    check_output_folder("scenes:300:1", tmp_path / "thesis" / "run")
    (tmp_path / "thesis" / "chapter.tex").rename(tmp_path / "thesis" / ".chapter")
    check_output_folder("scenes:300:1", tmp_path / "thesis")
    (tmp_path / "thesis" / "manifest.json").write_text("{}")
    check_output_folder("scenes:300:1", tmp_path / "thesis")


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        *(
            "describe resnet50 layer3 1",
            "sweep resnet50 layer3",
            "audit resnet50",
            "session resnet50 layer3 1",
        ),
        *("exemplars resnet50 --layers layer3", "synthetic", "planted-biases", "robust-features"),
        "ablate resnet50 layer3",
    ],
)
def test_every_command_that_writes_a_run_refuses_a_folder_of_other_things(here, capsys, command):
    """Nothing is written beside them."""
    (here / "thesis").mkdir()
    (here / "thesis" / "chapter.tex").write_text("x")
    assert maia(*command.split(), "--out", "thesis") == 2
    assert "holds other things" in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in (here / "thesis").iterdir()] == ["chapter.tex"]


async def test_scenes_which_have_no_copies_are_not_said_to_be_searched(tmp_path):
    said: list[str] = []
    await open_images(Profile(dataset="scenes:3000:0"), tmp_path, said.append)
    assert said == []
