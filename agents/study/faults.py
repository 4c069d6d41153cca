"""Which faults are nobody's result: what carries a study broke, or the next unit would meet the same."""

from __future__ import annotations

from collections.abc import Iterable

from actors.endpoint.faults import EndpointDownError, EndpointStopError
from actors.errors import MaiaError, ReplicaLostError, UsageError
from agents.records.journal import OvertakenError
from agents.records.store import StoreError
from tools.sandbox import SandboxError


class HostLostError(MaiaError):
    """A host died or cannot be reached; what it was doing is safe in the store and can be done by another."""


MACHINERY = (HostLostError, ReplicaLostError, SandboxError, OvertakenError)
"""Faults of what carries a study, not of the study: it is taken up again from its last round.

After a network cut a lost host may work on beside the one that took over; the second to finish a round is
overtaken.
"""

CONCERNS_ALL = (UsageError, StoreError, EndpointDownError)
"""Faults that the next unit would meet as well: a revoked key, a full disk, an endpoint that is down."""

NO_OBSERVATION = (*MACHINERY, EndpointStopError, EndpointDownError, StoreError)
"""Faults that a program which called a tool must not see: what an agent makes of them would be its result."""


def raise_nobodys(results: Iterable[object]) -> None:
    """Raise the first fault among results that is none of theirs: an image that could not be made for it is
    not missing.
    """
    for each in results:
        if isinstance(each, NO_OBSERVATION):
            raise each


class ToolsBrokenError(Exception):
    """Carries such a fault out of a sandbox, past the program. No MaiaError: those are told to programs."""

    def __init__(self, fault: MaiaError) -> None:
        super().__init__(str(fault))
        self.fault = fault
