"""The system, and less than the system: the ablations and baselines that it is compared with, on the same
units.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from actors.errors import UsageError
from agents.study.study import RunContext


@dataclass(frozen=True, slots=True)
class Variant:
    """`withheld` are calls that programs are refused; `max_rounds` None leaves the profile's."""

    name: str
    about: str
    withheld: frozenset[str] = frozenset()
    max_rounds: int | None = None
    confirmed: bool = True

    def of(self, context: RunContext) -> RunContext:
        """Return the context of studies of this kind."""
        settings = context.settings
        if self.max_rounds is not None:
            settings = settings.model_copy(update={"max_rounds": self.max_rounds})
        return replace(
            context,
            settings=settings,
            withheld=self.withheld,
            confirmation=context.confirmation if self.confirmed else None,
            facts={**context.facts, "variant": self.name},
        )


FULL = Variant("full", "the whole system")
ONE_SHOT = Variant(
    "one-shot",
    "a label from one look at the exemplars, without experiments (MILAN's role)",
    max_rounds=2,
    confirmed=False,
    withheld=frozenset({"text2image", "edit", "intervene"}),
)
EXEMPLARS_ONLY = Variant(
    "exemplars-only", "no image is made", frozenset({"text2image", "edit"}), confirmed=False
)
GENERATED_ONLY = Variant("generated-only", "no exemplar is shown", frozenset({"exemplars", "exemplars_by"}))
UNCONFIRMED = Variant("unconfirmed", "answers stand as they are given", confirmed=False)

VARIANTS = {
    variant.name: variant for variant in (FULL, ONE_SHOT, EXEMPLARS_ONLY, GENERATED_ONLY, UNCONFIRMED)
}


def variant_named(name: str) -> Variant:
    """Return a variant by name.

    Raises:
        UsageError: If there is none.
    """
    if name not in VARIANTS:
        raise UsageError(f"there is no variant {name!r}.", f"Variants: {', '.join(VARIANTS)}.")
    return VARIANTS[name]
