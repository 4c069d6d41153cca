"""The settings of networks under study in `ray_config.yaml`. Imports no model library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from actors.settings import Dtype, Placement, Settings
from actors.vision.data import class_names
from actors.vision.data.held_out import HeldOutShare

Compile = Literal["auto", "always", "never"]


class VisionSettings(Settings):
    """How networks under study are loaded, measured and cached; the network itself is named by the user."""

    placement: Placement = Placement()
    device: str = "auto"
    """`auto` takes a GPU where there is one; else `cpu`, `cuda`, `cuda:1`, `mps`."""
    dtype: Dtype = "float32"
    """Anything but float32 changes about one exemplar in twelve; it is part of every cache key."""
    batch: Annotated[int, Field(ge=1, le=4096)] = 32
    """Images in one forward pass at most."""
    compile: Compile = "auto"
    """Compile the pass of exemplar sweeps with its readings (`torch.compile`): `auto` where that saves more
    time than it takes, as measured; `always`; or `never`. A CPU needs a C++ compiler for it.
    """
    pretrained: bool = True
    """False builds the network with random weights, and its name says so."""
    checkpoint: Path | None = None
    """A checkpoint (.safetensors, .pt, .pth, .ckpt ...) loaded into the network instead of its source's
    weights.
    """
    class_names: tuple[str, ...] = ()
    """Names of the classes in the order of the output, in place of the source's; or a file of them, see
    docs/own-network.md."""
    bank_memory_mb: Annotated[int, Field(ge=0)] = 512
    """Activations kept in memory by each replica, in MiB."""
    map_memory_mb: Annotated[int, Field(ge=0)] = 256
    """Activation maps of the latest images kept in memory by each replica, in MiB."""
    bank_folder: Path | None = None
    """Where the stimulus bank and exemplars are kept across runs; None uses the run's cache folder."""
    reserve: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Part of the distinct images of a data set that exploring agents never see: it is for confirmation."""
    reserve_at_least: Annotated[int, Field(ge=0)] = 150
    """Images that are held out at least, as far as half of the data set allows: a fifth of a small one would
    be too few to test a label on. 0 holds out just `reserve`; a `reserve` of 0 holds out none."""

    @property
    def held_out(self) -> HeldOutShare:
        """How much of a data set is held out."""
        return HeldOutShare(self.reserve, self.reserve_at_least)

    @field_validator("class_names", mode="before")
    @classmethod
    def _named_by_a_file(cls, value: Any) -> Any:
        return class_names.read(Path(value)) if isinstance(value, str | Path) else value

    @field_validator("compile", mode="before")
    @classmethod
    def _said_by_yes_or_no(cls, value: Any) -> Any:
        return {True: "always", False: "never"}[value] if isinstance(value, bool) else value

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if value.split(":")[0] not in ("auto", "cpu", "cuda", "mps"):
            raise ValueError(f"device must be auto, cpu, cuda[:N] or mps, got {value!r}")
        return value
