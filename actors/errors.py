"""The errors that parts of this program raise to each other and to users.

Each carries one sentence that names the thing and the rule, and a `fix` that says what to do.
They pickle (Ray sends them between processes), so both are positional arguments.
"""


class MaiaError(Exception):
    """A failure with a name and a message that a person or an agent can act on."""

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message, fix)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message} {self.fix}".strip()


class UsageError(MaiaError):
    """What the user asked for cannot be done as asked: the command line ends with exit code 2."""


class ConfigError(UsageError):
    """`ray_config.yaml` holds an unknown key or a bad value; the message names the key and the file."""


class MissingDependencyError(UsageError):
    """A backend needs an optional package; `fix` is the install line."""


class BackendError(MaiaError):
    """A model backend failed on a request that was well formed."""


class OverloadedError(BackendError):
    """A bounded queue is full: the caller should wait and try again."""


class ReplicaLostError(BackendError):
    """A replica died or cannot be reached. `gone` says that it will not come back by itself."""

    def __init__(self, message: str, fix: str = "", gone: bool = False) -> None:
        super().__init__(message, fix)
        self.args = (message, fix, gone)
        self.gone = gone


class DeviceLostError(ReplicaLostError):
    """The device of a model fails on every request: only another process can answer this one."""


class RefusedError(BackendError):
    """A model answered by declining (safety checker, content filter). It is an answer, not a fault."""
