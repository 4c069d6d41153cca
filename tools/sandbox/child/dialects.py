"""The dialects of the API: which classes a program finds, and as what it holds images."""

from __future__ import annotations

from .api import System, Tools
from .link import HostLink
from .paper_api import PaperSystem, PaperTools
from .values import TextValues, Values

DIALECTS: dict[str, tuple[type[System], type[Tools]]] = {
    "maia2": (System, Tools),
    "paper": (PaperSystem, PaperTools),
}


def values_of(dialect: str, link: HostLink) -> Values:
    """Return what converts a program's values in this dialect."""
    return TextValues(link) if dialect == "paper" else Values(link)
