"""The sandbox of model-written programs: a process of their own that can reach `system` and `tools` only.

`start` gives a server, `server.open` a sandbox for one agent, `sandbox.run` runs a program. Everything
that comes out of the process is treated as hostile. docs/sandbox.md says what this stops and what not.
"""

from tools.sandbox.base import (
    Check,
    ExecutedProgram,
    ImageRef,
    ImageSource,
    ProgramOutcome,
    Sandbox,
    SandboxError,
    SandboxServer,
    SandboxUnavailableError,
    Status,
    Tier,
    ToolHost,
)
from tools.sandbox.methods import METHODS, BadCallError
from tools.sandbox.page import api_page
from tools.sandbox.settings import SandboxSettings
from tools.sandbox.starting import start

__all__ = [
    "METHODS",
    "BadCallError",
    "Check",
    "ExecutedProgram",
    "ImageRef",
    "ImageSource",
    "ProgramOutcome",
    "Sandbox",
    "SandboxError",
    "SandboxServer",
    "SandboxSettings",
    "SandboxUnavailableError",
    "Status",
    "Tier",
    "ToolHost",
    "api_page",
    "start",
]
