"""A scene as a value: everything that its picture depends on, and nothing else.

Layout is concrete (positions, sizes, angles), so that changing one object leaves every other pixel alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from actors.embedded.drawing.backgrounds import BACKGROUNDS
from actors.embedded.drawing.vocabulary import COLORS, PLAIN, article, vocabulary
from actors.errors import UsageError


@dataclass(frozen=True, slots=True)
class Placed:
    """One object. Lengths are fractions of the image's side, `angle` is in degrees, counter-clockwise."""

    concept: str
    x: float
    """Center, 0 is the left edge and 1 the right."""
    y: float
    """Center, 0 is the top edge and 1 the bottom."""
    size: float
    """The longer side of the sprite, before rotation."""
    color: str | None = None
    """A tint of `COLORS`; None keeps the sprite's own colors."""
    flip: bool = False
    angle: float = 0.0

    def __post_init__(self) -> None:
        if vocabulary().get(self.concept) is None:
            raise UsageError(
                f"no concept is called {self.concept!r}.",
                f"The nearest: {vocabulary().nearest(self.concept)}.",
            )
        _check_color(self.color)
        if not 0.01 <= self.size <= 2:
            raise UsageError(f"an object's size must be in 0.01..2 of the image's side, got {self.size}")
        if not (-1 <= self.x <= 2 and -1 <= self.y <= 2):
            raise UsageError(f"an object's center must be in -1..2, got ({self.x}, {self.y})")

    @property
    def words(self) -> str:
        return f"{self.color} {self.concept}" if self.color else self.concept


@dataclass(frozen=True, slots=True)
class Scene:
    """A background and the objects on it, painted in order. `texture` seeds the background's details."""

    background: str = PLAIN
    background_color: str | None = None
    objects: tuple[Placed, ...] = ()
    texture: int = 0
    light: float = 1.0
    """Brightness of the whole picture, 0.5..1.5."""

    def __post_init__(self) -> None:
        if self.background not in BACKGROUNDS:
            raise UsageError(
                f"no background is called {self.background!r}.", f"Known: {', '.join(BACKGROUNDS)}."
            )
        _check_color(self.background_color)
        if not 0.5 <= self.light <= 1.5:
            raise UsageError(f"light must be in 0.5..1.5, got {self.light}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `from_dict` takes them back."""
        values = asdict(self)
        values["objects"] = [asdict(placed) for placed in self.objects]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Scene:
        """Return the scene of `to_dict`.

        Raises:
            UsageError: If a key, a name or a number is not one of a scene.
        """
        try:
            fields = dict(values)
            fields["objects"] = tuple(Placed(**placed) for placed in fields.get("objects", ()))
            return cls(**fields)
        except (TypeError, ValueError) as error:
            raise UsageError(f"not a scene: {error}") from error

    def caption(self) -> str:
        """Return the scene in plain English: "a red car and a dog on grass"."""
        names = [article(placed.words) for placed in self.objects]
        things = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
        place = f"{self.background_color} {self.background}" if self.background_color else self.background
        if not things:
            return place
        place = f"a {place}" if place.endswith(("background", "wall")) else place
        return f"{things} on {place}"


def _check_color(color: str | None) -> None:
    if color is not None and color not in COLORS:
        raise UsageError(f"no color is called {color!r}.", f"Known: {', '.join(COLORS)}.")
