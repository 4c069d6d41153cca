"""How a run of many studies is spread."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from actors.settings import Settings
from agents.study.settings import BudgetSettings


class SweepSettings(Settings):
    """How many agents work at once, and where."""

    hosts: Annotated[int, Field(ge=0, le=4096)] | Literal["per-node"] = 0
    """Processes that carry agents, spread over the cluster: a number, or `per-node` for one on each node that
    offers CPUs, also of those that join later. 0 carries them in the command's own, and so does `per-node`
    where `--out` is a URL.
    """
    agents: int = Field(32, ge=1, le=4096)
    """Studies at once on each host."""
    budget: BudgetSettings = BudgetSettings()
    """What the whole run may spend, also of `maia describe`; may be raised to resume."""
    unit_budget: BudgetSettings = BudgetSettings()
    """What one unit may spend; near it, its agent is asked for its final answer."""
