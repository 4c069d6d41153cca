"""The fork server's loop: spawn a confined child, or report how one ended."""

from __future__ import annotations

import gc
import io
import json
import os
import random
import signal
import socket
import sys
import time
from typing import Any

import msgpack
import numpy as np
import numpy.fft
import numpy.linalg
import numpy.random
import PIL.Image
import PIL.ImageChops
import PIL.ImageDraw
import PIL.ImageEnhance
import PIL.ImageFilter
import PIL.ImageFont
import PIL.ImageOps
import PIL.ImageStat

from .confine import Plan, plan, raise_walls, with_users
from .link import HostLink
from .namespaces import enter_namespaces
from .runner import BALLAST_BYTES, OUTPUT_COPY, Runner

CONTROL, RPC = 3, 3
_DEVICES = ("/dev/null", "/dev/urandom")
_REAP_PATIENCE_S = 2.0
_REMEMBERED = 1000


def serve(configuration: dict[str, Any]) -> None:
    """Answer the host until it goes away.

    Messages are JSON objects in datagrams of a sequenced-packet socket. `spawn` comes with two
    descriptors (the child's socket and its output pipe) and is answered with a pidfd; `reap` is answered
    with the exit code, negative for a signal.
    """
    control = socket.socket(fileno=CONTROL)
    # Whatever is opened from now on lies above the numbers that a child gives away.
    for _ in range(OUTPUT_COPY + 1):
        os.open(os.devnull, os.O_RDONLY)
    _preload()
    try:
        with open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
            file.write("1000")  # the kernel, short of memory, should end sandboxes before models
    except OSError:
        pass
    # Before the file tree is exchanged: building the filter needs libraries that will be out of sight.
    walls = plan(configuration["readable"], _address_space_bytes() + BALLAST_BYTES)
    unhidden: str | None = "switched off in the settings"
    if configuration["namespaces"]:
        unhidden = enter_namespaces([*configuration["readable"], *_DEVICES])
    walls = with_users(walls, configuration["readable_needed"])
    # What is imported stays importable with its submodules; nothing else of those folders is to be had.
    sys.path = [path for path in sys.path if path not in configuration["path"]]
    gc.collect()
    gc.freeze()
    hello = {"missing": walls.missing, "unhidden": unhidden, "counted": walls.counted}
    control.send(json.dumps(hello).encode())
    children = 0
    alive: set[int] = set()
    ended: dict[int, int] = {}
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 2)
        if not data:
            os._exit(0)
        message = json.loads(data)
        if message["op"] == "spawn":
            children += 1
            _collect(alive, ended)
            alive.add(_spawn(control, walls, message, descriptors, children))
        else:
            control.send(json.dumps({"exit": _reap(message["pid"], alive, ended)}).encode())


def _address_space_bytes() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _spawn(
    control: socket.socket, walls: Plan, message: dict[str, Any], descriptors: list[int], number: int
) -> int:
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        control.send(json.dumps({"failed": str(error)}).encode())
        for descriptor in descriptors:
            os.close(descriptor)
        return 0
    if pid == 0:
        try:
            _become_sandbox(walls, message, descriptors, number, parent)
        finally:
            os._exit(1)
    for descriptor in descriptors:
        os.close(descriptor)
    pidfd = os.pidfd_open(pid)
    try:
        socket.send_fds(control, [json.dumps({"pid": pid}).encode()], [pidfd])
    finally:
        os.close(pidfd)
    return pid


def _become_sandbox(
    walls: Plan, message: dict[str, Any], descriptors: list[int], number: int, parent: int
) -> None:
    os.setsid()  # also so that a scheduler that shares out by sessions counts all its threads as one
    rpc, output = descriptors
    for target in (1, 2, OUTPUT_COPY):
        os.dup2(output, target)
    os.dup2(rpc, RPC)
    # Not the server's: what F_SETFL changes on an open file, everyone sees who shares it.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    first = OUTPUT_COPY + 1
    if walls.ruleset is not None:
        os.closerange(first, walls.ruleset.fileno())
        first = walls.ruleset.fileno() + 1
    os.closerange(first, 1 << 16)
    os.environ.clear()
    link = HostLink(RPC)
    runner = Runner(link, message["seed"], message["dialect"])
    try:
        raise_walls(walls, number, message["memory_bytes"], parent)
    except OSError as error:
        link.finish({"op": "failed", "error": str(error)})
        os._exit(1)
    link.finish({"op": "ready"})
    runner.serve()


def _collect(alive: set[int], ended: dict[int, int]) -> None:
    """Take leave of the children that have ended, so that none stays a zombie; remember how they did."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        alive.discard(pid)
        ended[pid] = os.waitstatus_to_exitcode(status)
        if len(ended) > _REMEMBERED:
            ended.pop(next(iter(ended)))


def _reap(pid: int, alive: set[int], ended: dict[int, int]) -> int | None:
    """Return how a child that the host has killed ended, or None if it does not end or is not known."""
    deadline = time.monotonic() + _REAP_PATIENCE_S
    _collect(alive, ended)
    while pid in alive and time.monotonic() < deadline:
        time.sleep(0.0005)
        _collect(alive, ended)
    return ended.pop(pid, None)


def _preload() -> None:
    """Import now what imports lazily: a child may not be able to, and every child shares the pages."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    PIL.Image.init()
    PIL.Image.new("RGB", (8, 8)).resize((4, 4)).save(io.BytesIO(), "PNG")
    np.random.default_rng(0).random()
    random.seed(0)
    msgpack.unpackb(msgpack.packb({"a": 1}))
    # Modules that programs reach for most.
    for name in (
        "base64",
        "collections",
        "io",
        "itertools",
        "json",
        "math",
        "re",
        "statistics",
        "textwrap",
        "typing",
    ):
        __import__(name)
    assert "torch" not in sys.modules
