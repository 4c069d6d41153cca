"""What a program showed its agent, within bounds on images and text."""

from __future__ import annotations

from collections.abc import Iterable

from actors.images import Image

ShownItem = str | Image
"""A piece of what a program showed its agent."""


class Screen:
    """The texts and images that a program displayed and logged, in order; those above a bound are counted."""

    def __init__(self, max_images: int = 40, max_characters: int = 20_000) -> None:
        self._max_images, self._max_characters = max_images, max_characters
        self._items: list[ShownItem] = []
        self._n_images = self._n_characters = 0

    def show(self, items: Iterable[ShownItem]) -> None:
        for item in items:
            if isinstance(item, Image):
                self._n_images += 1
                if self._n_images <= self._max_images:
                    self._items.append(item)
                continue
            room = max(self._max_characters - self._n_characters, 0)
            self._n_characters += len(item)
            if room and item:
                self._items.append(item[:room])

    def take(self) -> list[ShownItem]:
        """Return what was shown since the last call, and forget it."""
        shown = self._items
        if self._n_images > self._max_images:
            shown.append(
                f"(The first {self._max_images} of {self._n_images} images are shown: show fewer at a time.)"
            )
        if self._n_characters > self._max_characters:
            shown.append(
                f"(The first {self._max_characters} of {self._n_characters} characters that were displayed "
                "and logged are shown: show less at a time.)"
            )
        self._items = []
        self._n_images = self._n_characters = 0
        return shown
