"""The base of everything that a run keeps on disk, and the types of its fields.

A record may have been made by a stranger, or by an older version: what is missing has a default, what is
there must be of its type, and fields that are unknown are kept as they are.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, StringConstraints
from pydantic_core import PydanticKnownError


def _number(value: Any) -> float:
    """Accept a number without changing it: a whole one is written as it was read."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PydanticKnownError("float_type")
    try:
        float(value)
    except OverflowError:
        raise PydanticKnownError("float_type") from None
    return value


ImageId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,64}$")]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Seed = Annotated[int, Field(ge=0, lt=2**64)]
Number = Annotated[float, PlainValidator(_number)]
"""May be NaN or infinite, which Python writes into JSON."""
IntervalPair = Annotated[list[Number], Field(min_length=2, max_length=2)]


class Record(BaseModel):
    """A JSON object on disk. Fields that were never set are not written.

    An alias is the name on disk of a field that has another in the code.
    """

    model_config = ConfigDict(
        frozen=True, extra="allow", strict=True, defer_build=True, populate_by_name=True
    )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, unknown fields included."""
        return self.model_dump(exclude_unset=True, by_alias=True)

    def without_defaults(self) -> Self:
        """Return the record as if fields that have their default had never been set."""
        kinds, copy = type(self).model_fields, self.model_copy()
        copy.model_fields_set.difference_update(
            name
            for name, kind in kinds.items()
            if getattr(self, name) == kind.get_default(call_default_factory=True)
        )
        return copy
