"""Settings of the sandbox."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from actors.settings import Settings

Dialect = Literal["maia2", "paper"]


class SandboxSettings(Settings):
    """Where model-written programs run and how much they may use."""

    executor: Literal["auto", "cpython", "monty"] = "auto"
    """`cpython`: real Python behind kernel walls (Linux). `monty`: a portable interpreter for a subset of
    Python. `auto`: the first, and the second where a kernel wall is missing."""
    dialect: Dialect = "maia2"
    """The API that programs are written against, and that agents are shown. `maia2`: that of the MAIA
    authors' later code, with exemplars as pairs and images as PIL images. `paper`: that of the paper's
    appendix A, with exemplars as two lists and images as base64 text."""
    memory_bytes: int = Field(1 << 30, ge=1 << 26)
    """What one agent's programs may allocate beyond the bare interpreter."""
    program_timeout_s: float = Field(60.0, gt=0)
    """Wall-clock seconds of a program's own work. Time in which it waits for a tool does not count, so
    that slow image generation does not end it; that time has the deadline below."""
    calls_timeout_s: float = Field(1800.0, gt=0)
    """Seconds that all tool calls of one program may take together."""
    max_calls: int = Field(1000, ge=1)
    """Tool calls a program."""
    max_bytes: int = Field(512 << 20, ge=1 << 20)
    """Bytes a program may move over its socket, both ways together."""
    max_text_bytes: int = Field(16 << 20, ge=1 << 16)
    """Bytes that a program may exchange with its tools besides pixels: arguments, answers, its result."""
    max_images: int = Field(1000, ge=1)
    """Images whose pixels a program may send or fetch."""
    max_observations: int = Field(100, ge=1)
    """Images that a program may have described, a summary of several counted as one."""
    kept_bytes: int = Field(4 << 30, ge=1 << 20)
    """Pixels that are kept for one agent's variables, most of them in an unnamed temporary file."""
    output_bytes: int = Field(1_000_000, ge=1000)
    """Printed bytes that are kept; a program that prints 32 times as many is ended."""
    namespaces: bool = True
    """Hide the rest of the file tree and every network interface as well, where the kernel allows it."""
    wrap: tuple[str, ...] = ()
    """A command that the fork server is started under, such as `["bwrap", "--unshare-all", ...]`. It must
    keep descriptor 3 open."""
    allow_weak: bool = False
    """Run programs with resource limits alone where neither the kernel's walls nor monty are to be had."""
