"""Editing by instruction: exactly, where the scene behind an image is known; from pixels alone, where it is
not.

Both ways carry out the same changes on a `Canvas`. On a scene nothing but the changed objects differs by a
pixel. On pixels the concept net finds the objects; what stands behind a removed one is filled in from around
it. What is not found is named in a note, and the image stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from actors.embedded.drawing.grammar import MAX_OBJECTS
from actors.embedded.drawing.layout import Wish, choose, drawable, place
from actors.embedded.drawing.render import render
from actors.embedded.drawing.scene import Placed, Scene
from actors.embedded.drawing.vocabulary import vocabulary
from actors.embedded.editing.instructions import Change, Target, parse_instruction
from actors.images import Image


class Canvas(Protocol):
    """A picture as objects that can be changed one at a time."""

    @property
    def objects(self) -> Sequence[Placed]:
        """What is in the picture; positions in this list name objects until the next removal."""

    def color_of(self, index: int) -> str:
        """Return the color that most of the object has."""

    def put(self, index: int, placed: Placed) -> None:
        """Let another object stand in the place of this one."""

    def alter(self, index: int, placed: Placed) -> None:
        """Move, turn, resize or recolor this object; its concept stays."""

    def remove(self, index: int) -> None: ...

    def add(self, placed: Placed, behind: bool) -> None: ...

    def set_background(self, name: str | None, color: str | None) -> None:
        """Change the background; None keeps the kind and changes the color only."""


class SceneCanvas:
    """A picture whose recipe is known."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    @property
    def objects(self) -> Sequence[Placed]:
        return self.scene.objects

    def color_of(self, index: int) -> str:
        placed = self.objects[index]
        return placed.color or vocabulary()[placed.concept].color

    def put(self, index: int, placed: Placed) -> None:
        objects = list(self.objects)
        objects[index] = placed
        self.scene = replace(self.scene, objects=tuple(objects))

    alter = put

    def remove(self, index: int) -> None:
        objects = list(self.objects)
        del objects[index]
        self.scene = replace(self.scene, objects=tuple(objects))

    def add(self, placed: Placed, behind: bool) -> None:
        objects = (placed, *self.objects) if behind else (*self.objects, placed)
        self.scene = replace(self.scene, objects=objects)

    def set_background(self, name: str | None, color: str | None) -> None:
        self.scene = replace(self.scene, background=name or self.scene.background, background_color=color)


class Editor:
    """Carries changes out on a canvas. `done` counts those that changed it, `notes` explain the others."""

    def __init__(self, canvas: Canvas, seed: int, lacking: frozenset[str] = frozenset()) -> None:
        self._canvas, self._lacking = canvas, lacking
        self._seed = int(seed) & 0xFFFF_FFFF_FFFF
        self.done = 0
        self.notes: list[str] = []

    def carry_out(self, change: Change) -> None:
        getattr(self, f"_{change.kind}")(change)

    def _rng(self, salt: int = 0) -> np.random.Generator:
        return np.random.default_rng((self._seed, self.done, salt, 3))

    def _find(self, target: Target) -> list[int]:
        """Return the objects meant, best first; a note is left if there are none."""
        canvas = self._canvas
        everything = list(range(len(canvas.objects)))
        if target.name:
            names = set(drawable(target.name, self._lacking))
            indices = [i for i in everything if canvas.objects[i].concept in names]
            if target.color is not None:
                indices = [i for i in indices if canvas.color_of(i) == target.color] or indices
        elif target.everything:
            indices = everything
        else:
            indices = [i for i in everything if target.color is None or canvas.color_of(i) == target.color]
            indices = sorted(indices, key=lambda i: -canvas.objects[i].size)[:1]
        if not indices:
            self.notes.append(f"not done: no {target.words} was found in the image")
        return indices

    def _made(self, wish: Wish, like: Placed | None, salt: int) -> Placed:
        """Return a new object; `like` gives its place."""
        concept = choose(wish.name, self._rng(salt), self._lacking)
        if concept != wish.name:
            self.notes.append(f"chose {concept} for {wish.name or 'an object'}")
        if like is not None:
            size = like.size * {"tiny": 0.4, "small": 0.6, "large": 1.4, "huge": 1.9}.get(
                wish.size or "", 1.0
            )
            return replace(like, concept=concept, color=wish.color, size=float(np.clip(size, 0.05, 1.2)))
        n = len(self._canvas.objects) + 1
        return place(concept, wish, list(self._canvas.objects), None, max(n, 2), self._rng(salt + 50))

    def _can_draw(self, wish: Wish) -> bool:
        """Return whether anything is known under the wish's name; a note is left if not."""
        known = bool(drawable(wish.name, self._lacking))
        if not known:
            self.notes.append(f"not drawn: {wish.name}")
        return known

    def _replace(self, change: Change) -> None:
        if not self._can_draw(change.wishes[0]):
            return
        indices = self._find(change.target)
        for index in indices:
            self._canvas.put(index, self._made(change.wishes[0], self._canvas.objects[index], 0))
        if indices:
            anchors = {0: indices[0]}
            self._add_all(change.wishes[1:], None, anchors, 1)
            self.done += 1

    def _alter_all(self, target: Target, altered: Callable[[Placed], Placed]) -> None:
        indices = self._find(target)
        for index in indices:
            self._canvas.alter(index, altered(self._canvas.objects[index]))
        self.done += bool(indices)

    def _recolor(self, change: Change) -> None:
        self._alter_all(change.target, lambda placed: replace(placed, color=change.color))

    def _resize(self, change: Change) -> None:
        def resized(placed: Placed) -> Placed:
            return replace(placed, size=round(float(np.clip(placed.size * change.factor, 0.06, 1.1)), 4))

        self._alter_all(change.target, resized)

    def _flip(self, change: Change) -> None:
        self._alter_all(change.target, lambda placed: replace(placed, flip=not placed.flip))

    def _remove(self, change: Change) -> None:
        indices = self._find(change.target)
        for index in sorted(indices, reverse=True):
            self._canvas.remove(index)
        self.done += bool(indices)

    def _move(self, change: Change) -> None:
        indices = self._find(change.target)[:1]
        if not indices:
            return
        placed = self._canvas.objects[indices[0]]
        wish = Wish(placed.concept, placed.color, None, set(change.positions), change.relation)
        others = [other for i, other in enumerate(self._canvas.objects) if i != indices[0]]
        anchor = None
        if change.anchor is not None:
            anchors = [i for i in self._find(change.anchor) if i != indices[0]]
            if not anchors:
                return
            anchor = self._canvas.objects[anchors[0]]
        spot = place(placed.concept, wish, others, anchor, max(len(others) + 1, 1), self._rng())
        self._canvas.alter(indices[0], replace(placed, x=spot.x, y=spot.y))
        self.done += 1

    def _exchange(self, change: Change) -> None:
        assert change.anchor is not None
        one, other = self._find(change.target)[:1], self._find(change.anchor)[:1]
        if one and other and one != other:
            first, second = self._canvas.objects[one[0]], self._canvas.objects[other[0]]
            self._canvas.alter(one[0], replace(first, x=second.x, y=second.y))
            self._canvas.alter(other[0], replace(second, x=first.x, y=first.y))
            self.done += 1

    def _count(self, change: Change) -> None:
        indices = self._find(change.target)
        if not indices:
            return
        for index in sorted(indices[change.count :], reverse=True):
            self._canvas.remove(index)
        model = self._canvas.objects[indices[0]]
        for salt in range(min(change.count, MAX_OBJECTS) - len(indices)):
            others = list(self._canvas.objects)
            wish = Wish(model.concept, model.color)
            spot = place(model.concept, wish, others, None, len(others) + 1, self._rng(salt))
            self._canvas.add(replace(model, x=spot.x, y=spot.y, flip=spot.flip), behind=False)
        self.done += 1

    def _add(self, change: Change) -> None:
        anchor = None
        if change.anchor is not None:
            indices = self._find(change.anchor)
            if not indices:
                return
            anchor = indices[0]
        before = len(self._canvas.objects)
        self._add_all(change.wishes, anchor, {}, 0)
        self.done += len(self._canvas.objects) > before

    def _add_all(self, wishes: Sequence[Wish], anchor: int | None, known: dict[int, int], first: int) -> None:
        """Add new objects; `known` maps positions in the instruction's own list to objects in the picture."""
        for salt, wish in enumerate(wishes, first):
            if len(self._canvas.objects) >= MAX_OBJECTS:
                self.notes.append(f"not added: a scene holds {MAX_OBJECTS} objects")
                return
            if not self._can_draw(wish):
                continue
            base_index = known.get(wish.anchor) if wish.anchor is not None else anchor
            others = list(self._canvas.objects)
            base = others[base_index] if base_index is not None and base_index < len(others) else None
            placed = self._made(wish, None, salt)
            if base is not None:
                placed = place(placed.concept, wish, others, base, len(others) + 1, self._rng(salt + 50))
            behind = wish.relation == "behind"
            self._canvas.add(placed, behind)
            if behind:
                known = {key: value + 1 for key, value in known.items()}
                anchor = anchor + 1 if anchor is not None else None
            known[salt] = 0 if behind else len(self._canvas.objects) - 1

    def _background(self, change: Change) -> None:
        before = len(self.notes)
        self._canvas.set_background(change.background, change.color)
        self.done += len(self.notes) == before


@dataclass(frozen=True, slots=True)
class Edited:
    """An edited picture; `scene` is its recipe where one is known, `changed` whether anything was done."""

    image: Image
    scene: Scene | None
    changed: bool
    notes: tuple[str, ...]


def edit_scene(
    scene: Scene, instruction: str, seed: int = 0, lacking: frozenset[str] = frozenset()
) -> tuple[Scene, bool, tuple[str, ...]]:
    """Return the changed scene, whether anything was done, and notes on what was not."""
    asked = parse_instruction(instruction)
    canvas = SceneCanvas(scene)
    editor = Editor(canvas, seed, lacking)
    for change in asked.changes:
        editor.carry_out(change)
    return canvas.scene, editor.done > 0, tuple(dict.fromkeys((*asked.notes, *editor.notes)))


def edit_image(
    image: Image,
    instruction: str,
    seed: int = 0,
    scene: Scene | None = None,
    lacking: frozenset[str] = frozenset(),
) -> Edited:
    """Return the image changed as asked; with `scene`, the image's own recipe, exactly.

    A recipe that does not give these very pixels (the image was cropped, masked or drawn over) is not used.
    Concepts of `lacking` are neither found nor drawn.
    """
    if scene is not None and image.size[0] == image.size[1]:
        size = image.size[0]
        if np.array_equal(render(scene, size), image.pixels):
            changed, done, notes = edit_scene(scene, instruction, seed, lacking)
            return Edited(Image.from_pixels(render(changed, size)), changed, done, notes)
    from actors.embedded.editing.retouch import PixelCanvas

    asked = parse_instruction(instruction)
    if not asked.changes:
        return Edited(image, None, False, asked.notes)
    canvas = PixelCanvas(image, seed)
    editor = Editor(canvas, seed, lacking)
    for change in asked.changes:
        editor.carry_out(change)
    notes = tuple(dict.fromkeys((*asked.notes, *editor.notes, *canvas.notes)))
    if not canvas.touched:
        return Edited(image, None, False, notes)
    return Edited(canvas.image(), None, True, ("edited from pixels: the recipe is not known", *notes))
