from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from actors.errors import UsageError
from actors.runtime import available_cores, control_group_limits, pick_device, pick_dtype, worker_env
from actors.vision_libraries import import_torchvision


def run(program: str) -> str:
    """Return what `program` prints in a process of its own, where nothing is imported yet."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_vision_libraries_import_beside_any_torch_and_as_often_as_asked() -> None:
    """And without torch's compiler, which takes longer than they; what it is to leave alone is marked."""
    printed = run(
        "import sys\n"
        "from actors.vision_libraries import import_timm as load\n"
        "load(); timm = load()\n"
        "import torch, torchvision\n"
        "from timm.models.naflexvit import NaFlexRopeIterator as Rope\n"
        "network = timm.create_model('resnet10t', pretrained=False).eval()\n"
        "print(tuple(network(torch.zeros(1, 3, 64, 64)).shape), Rope.__next__._torchdynamo_disable)\n"
        "print([name for name in sys.modules if name.startswith('torch._dynamo')])\n"
    )
    assert printed.splitlines() == ["(1, 1000) True", "[]"]


def test_boxes_that_overlap_a_better_one_are_left_out_without_compiled_operators() -> None:
    import torch

    import_torchvision()
    from torchvision.ops import box_iou, nms

    draw = torch.Generator().manual_seed(0)
    for n in (0, 1, 200):
        corners, sizes, scores = (torch.rand(n, k, generator=draw) * 30 for k in (2, 2, 1))
        boxes, scores = torch.cat([corners, corners + sizes], 1), scores[:, 0]
        expected: list[int] = []
        for each in scores.argsort(descending=True).tolist():
            if not expected or float(box_iou(boxes[each : each + 1], boxes[expected]).max()) <= 0.5:
                expected.append(each)
        assert nms(boxes, scores, 0.5).tolist() == expected


def test_importing_the_runtime_imports_neither_torch_nor_numpy() -> None:
    program = (
        "import sys, actors.runtime\nprint(*(name in sys.modules for name in ('torch', 'numpy', 'ray')))"
    )
    assert run(program) == "False False False"


@pytest.mark.slow
def test_the_preamble_does_not_import_torch_and_sets_the_threads_of_one_that_is_there() -> None:
    printed = run(
        "import sys\n"
        "from actors.runtime import cpu_preamble\n"
        "cpu_preamble(1); print('torch' in sys.modules)\n"
        "import torch\n"
        "cpu_preamble(1); print(torch.get_num_threads())\n"
    )
    assert printed.split() == ["False", "1"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is glibc's")
def test_the_preamble_keeps_freed_memory_instead_of_faulting_it_in_again() -> None:
    """Page faults of large arrays that are made and freed in a worker thread, before and after."""
    program = (
        "import resource, threading, numpy as np\n"
        "from actors.runtime import cpu_preamble\n"
        "{}\n"
        "def work():\n"
        # Larger than any threshold that glibc adapts by itself (32 MiB).
        "    for _ in range(20): np.ones(10 << 20, np.float32)\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    thread = threading.Thread(target=work); thread.start(); thread.join()\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "faults(); print(faults())\n"
    )
    stock, tuned = int(run(program.format(""))), int(run(program.format("cpu_preamble(1)")))
    assert stock > 20 * max(tuned, 1)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is glibc's")
def test_pictures_that_many_threads_held_are_given_back() -> None:
    """Resident bytes of a process after its threads freed their pictures, which small records outlived."""
    program = (
        "import threading, numpy as np\n"
        "from pathlib import Path\n"
        "from actors.runtime import return_pictures\n"
        "{}\n"
        "kept = []\n"
        "def work():\n"
        "    for _ in range(60):\n"
        "        pictures = [np.ones(150_528, np.uint8) for _ in range(30)]\n"
        "        kept.append(bytes(600))\n"
        "        del pictures\n"
        "def resident(): return int(Path('/proc/self/statm').read_text().split()[1]) * 4096\n"
        "before = resident()\n"
        "threads = [threading.Thread(target=work) for _ in range(16)]\n"
        "[thread.start() for thread in threads]; [thread.join() for thread in threads]\n"
        "print(resident() - before)\n"
    )
    stock, tuned = int(run(program.format(""))), int(run(program.format("return_pictures()")))
    assert tuned < min(stock, 4 << 20)


def test_a_workers_threads_wait_passively_and_are_counted() -> None:
    assert worker_env(3)["OMP_NUM_THREADS"] == "3"
    assert worker_env()["OMP_NUM_THREADS"] == str(available_cores())
    assert worker_env(1)["OMP_WAIT_POLICY"] == "PASSIVE"


def test_the_cpu_is_always_there() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_device().type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("name", ["tpu", "xpu", "gpu", "", "cuda:x", "meta"])
def test_unknown_devices_are_named_with_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match='"cuda:N"'):
        pick_device(name)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UsageError, match=r"device 'cuda': (this torch is built without|no) CUDA"):
        pick_device("cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert str(pick_device("cuda:1")) == "cuda:1"
    with pytest.raises(UsageError, match="device 'cuda:2': there are 2 GPUs"):
        pick_device("cuda:2")
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(UsageError, match="needs an Apple GPU"):
        pick_device("mps")


def test_dtypes_go_by_their_names() -> None:
    import torch

    assert pick_dtype("bfloat16") is torch.bfloat16
    with pytest.raises(UsageError, match="got 'float64'"):
        pick_dtype("float64")


@pytest.mark.parametrize(
    ("groups", "name", "folders"),
    [
        ("0::/job/step\n", "cpu.max", ["job/step", "job"]),
        ("0::/\n", "cpu.max", ["."]),
        ("4:memory:/\n3:cpu,cpuacct:/job\n0::/\n", "cpu/cpu.cfs_quota_us", ["cpu/job", "cpu"]),
        ("0::/../the/path/of/the/host\n", "cpu.max", ["."]),
    ],
)
def test_limits_of_control_groups_are_read_up_to_the_top(
    groups: str, name: str, folders: list[str], tmp_path: Path
) -> None:
    """A scheduler limits a job as a whole, a container runtime the container: the least of all holds."""
    root, listed = tmp_path / "cgroup", tmp_path / "groups"
    listed.write_text(groups)
    for index, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / name.rpartition("/")[2]).write_text(f"{index}\n")
    assert control_group_limits(name, root, listed) == [str(index) for index in range(len(folders))]
