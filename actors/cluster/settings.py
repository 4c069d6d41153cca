"""Settings of the Ray connection. Light: importing it imports neither Ray nor torch."""

from __future__ import annotations

from pydantic import Field

from actors.settings import Settings


class RaySettings(Settings):
    """The `ray` section of `ray_config.yaml`."""

    address: str = Field(default="local", min_length=1)
    """"local" starts a private cluster on this machine; "auto" joins the one running here; else host:port.
    "none" does without Ray: the models run in the command's own process, for small runs.
    """
    namespace: str = Field(default="maia", min_length=1)
    """Ray namespace: runs in the same one can find each other's actors."""
    num_cpus: int | None = Field(default=None, ge=1)
    """Cores that a local cluster may use; None: all."""
    num_gpus: int | None = Field(default=None, ge=0)
    """GPUs that a local cluster may use; None: all that Ray finds."""
    object_store_mb: int = Field(default=512, ge=80)
    """Shared memory for messages of more than 100 KB, in MiB; less, or disk, where /dev/shm is small."""
    dashboard: bool = False
    """Ray's dashboard of a local cluster, on the loopback address only."""
    allow_unauthenticated: bool = False
    """Join a cluster that asks for no token. Anyone who reaches its ports can run code on it."""
    keep_env: tuple[str, ...] = ()
    """Further environment variables that a local cluster inherits, also Ray's own; never secrets."""
    ship_code: bool = True
    """Send this program's packages to the workers of a joined cluster; its dependencies must be there."""
    health_failures: int = Field(default=5, ge=1)
    """Health checks, one per second, that a node of a local cluster may miss before it is given up."""
    join_timeout_s: float = Field(default=30.0, gt=0)
    """How long to wait until what answers at `address` proves to be Ray."""
    placement_timeout_s: float = Field(default=300.0, ge=0)
    """How long to wait for a node that can carry a replica, in a joined cluster without autoscaler."""
    worker_logs: bool = False
    """Repeat in this process's log what workers print; else it is only in Ray's log folder."""

    @property
    def in_process(self) -> bool:
        """Whether models run in the process that uses them."""
        return self.address == "none"

    @property
    def on_this_machine(self) -> bool:
        """Whether models see this machine's packages, keys and files."""
        return self.address in ("local", "none")
