"""The base of all configuration sections. Each backend's own settings live in its room."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Dtype = Literal["float32", "bfloat16", "float16"]
"""The type of weights and activations, by torch's name."""


class Settings(BaseModel):
    """A frozen, typed piece of `ray_config.yaml`; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Placement(Settings):
    """Where the replicas of one model run and how many there are."""

    min_replicas: int = Field(default=1, ge=1, le=1024)
    """Replicas that are always there."""
    max_replicas: int = Field(default=1, ge=1, le=1024)
    """Replicas at most; they come and go with the load."""
    num_cpus: float = Field(default=0.0, ge=0)
    """Cores reserved with Ray for each replica; 0 reserves none (model threads are set by `threads`)."""
    num_gpus: float = Field(default=0.0, ge=0)
    """GPUs reserved for each replica; a fraction shares one GPU among several models."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of one replica; None uses every core that the replica may run on."""

    @model_validator(mode="after")
    def _ordered(self) -> Placement:
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas ({self.max_replicas}) must be at least min_replicas ({self.min_replicas})"
            )
        return self

    @field_validator("num_gpus")
    @classmethod
    def _shared_or_whole(cls, value: float) -> float:
        if value > 1 and value % 1:  # also of infinity
            raise ValueError("must be a whole number, or below 1 for a share of one GPU")
        return value
