"""Which concepts of the embedded world a stand-in does not know, so that what lies out of its reach can be
studied.
"""

from __future__ import annotations

import random

from pydantic import Field

from actors.settings import Settings


class Withheld(Settings):
    """A share of the embedded world's concepts that a stand-in neither draws, sees nor speaks of. Equal
    settings, equal concepts.
    """

    share: float = Field(default=0.0, ge=0, lt=1)
    """Part of the concepts that is taken away; 0 takes none."""
    seed: int = 0
    """Which ones."""

    def concepts(self) -> frozenset[str]:
        """Return their names. With one seed, a larger share holds the smaller ones."""
        if self.share == 0:
            return frozenset()
        from actors.embedded.drawing.vocabulary import concepts

        names = [concept.name for concept in concepts()]
        random.Random(f"withheld/{self.seed}").shuffle(names)
        return frozenset(names[: round(self.share * len(names))])
