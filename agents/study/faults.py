"""Faults that are no result of a study: its infrastructure broke, or the next unit would meet the same."""

from __future__ import annotations

from collections.abc import Iterable

from actors.endpoint.faults import EndpointDownError, EndpointStopError
from actors.errors import MaiaError, ReplicaLostError, UsageError
from agents.records.journal import OvertakenError
from agents.records.store import StoreError
from tools.sandbox import SandboxError


class HostLostError(MaiaError):
    """A host died or cannot be reached; what it was doing is safe in the store and can be done by another."""


INFRASTRUCTURE = (HostLostError, ReplicaLostError, SandboxError, OvertakenError)
"""Faults of the infrastructure, not of the study: it is resumed from its last round.

After a network cut a lost host may go on at the same time as the one that took over; the second to finish a
round is overtaken.
"""

CONCERNS_ALL = (UsageError, StoreError, EndpointDownError)
"""Faults that the next unit would meet as well: a revoked key, a full disk, an endpoint that is down."""

NO_OBSERVATION = (*INFRASTRUCTURE, EndpointStopError, EndpointDownError, StoreError)
"""Faults that a program which called a tool must not see: what an agent makes of them would be its result."""


def raise_infrastructure_errors(results: Iterable[object]) -> None:
    """Raise the first fault among results that is no result: an image that it kept from being made would
    otherwise count as one that cannot be made.
    """
    for result in results:
        if isinstance(result, NO_OBSERVATION):
            raise result


class ToolsBrokenError(Exception):
    """Carries such a fault out of a sandbox, past the program. No MaiaError: programs see those."""

    def __init__(self, fault: MaiaError) -> None:
        super().__init__(str(fault))
        self.fault = fault
