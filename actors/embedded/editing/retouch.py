"""Edit pixels whose recipe is not known: the concept net finds the objects, the surroundings fill the holes.

A hole is filled by a shifted copy of the picture itself, corrected so that it meets the hole's rim
(Poisson image editing's membrane, after Perez et al. 2003), or by a smooth surface where no copy fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import PIL.Image
from scipy import ndimage

from actors.embedded.concept_net.concept_net import ConceptNet, shared_net
from actors.embedded.drawing import backgrounds
from actors.embedded.drawing.color import tint
from actors.embedded.drawing.render import stamp
from actors.embedded.drawing.scene import Placed
from actors.embedded.drawing.vocabulary import vocabulary
from actors.images import Image

_MIN_SCORE = 0.5
"""Score from which an object counts as found."""
_PATTERNED = 0.4
"""Local contrast (sum over RGB in 0..1) from which a background is a pattern rather than a surface."""


def membrane(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return `values` (H, W, 3) with what is not `known` (bool) replaced by a smooth surface through the
    rest.
    """
    if known.all() or not known.any():
        return values
    filled, done = values * known[..., None], known.astype(np.float32)
    out, missing = values.copy(), ~known
    for sigma in (1.5, 3, 6, 12, 24, 48):
        weight = ndimage.gaussian_filter(done, sigma, truncate=3)
        reach = missing & (weight > 0.02)
        if reach.any():
            spread = ndimage.gaussian_filter(filled, (sigma, sigma, 0), truncate=3)
            out[reach] = spread[reach] / weight[reach][:, None]
            missing &= ~reach
        if not missing.any():
            break
    if missing.any():
        out[missing] = values[known].mean(0)
    smooth = out
    for _ in range(3):
        smooth = np.where(known[..., None], values, ndimage.gaussian_filter(smooth, (2, 2, 0)))
    return smooth


def fill(picture: np.ndarray, hole: np.ndarray, busy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return float32 (H, W, 3) with the hole (bool) filled from elsewhere; nothing is copied from `busy`."""
    height, width = hole.shape
    rows, columns = np.nonzero(hole)
    if len(rows) == 0 or hole.all():
        return picture
    rim = ndimage.binary_dilation(hole, iterations=3) & ~hole & ~busy
    best: tuple[float, int, int] | None = None
    low_y, high_y = -int(rows.min()), height - 1 - int(rows.max())
    low_x, high_x = -int(columns.min()), width - 1 - int(columns.max())
    rim_rows, rim_columns = np.nonzero(rim)
    for _ in range(120):
        dy, dx = int(rng.integers(low_y, high_y + 1)), int(rng.integers(low_x, high_x + 1))
        if busy[rows + dy, columns + dx].any():
            continue
        inside = (
            (rim_rows + dy >= 0)
            & (rim_rows + dy < height)
            & (rim_columns + dx >= 0)
            & (rim_columns + dx < width)
        )
        if not inside.any():
            continue
        here = picture[rim_rows[inside], rim_columns[inside]]
        there = picture[rim_rows[inside] + dy, rim_columns[inside] + dx]
        cost = float(np.abs(here - there).mean()) + 0.01 * (abs(dy) > height // 3)
        if best is None or cost < best[0]:
            best = (cost, dy, dx)
    if best is None:
        return _patched(picture, hole, hole | busy, rng)
    copy = np.roll(picture, (-best[1], -best[2]), (0, 1))
    difference = membrane(picture - copy, rim)
    return np.where(hole[..., None], np.clip(copy + difference, 0, 1), picture)


def _patched(picture: np.ndarray, hole: np.ndarray, busy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Fill a hole that no single copy covers: a smooth surface, with the grain of several places laid over
    it.
    """
    height, width = hole.shape
    smooth = membrane(picture, ~busy)
    known = (~busy).astype(np.float32)
    weight = np.maximum(ndimage.gaussian_filter(known, 5), 1e-3)[..., None]
    grain = picture - ndimage.gaussian_filter(picture * known[..., None], (5, 5, 0)) / weight
    out, left = smooth.copy(), hole.copy()
    for _ in range(12):
        rows, columns = np.nonzero(left)
        if len(rows) == 0:
            break
        covered, best = np.zeros(len(rows), bool), (0, 0)
        # Mostly sideways: what lies at one height looks alike (a horizon, a shore, rows of bricks).
        shifts = rng.normal(0, (height / 16, width / 3), (40, 2)).astype(int)
        for dy, dx in shifts:
            inside = (rows + dy >= 0) & (rows + dy < height) & (columns + dx >= 0) & (columns + dx < width)
            inside[inside] = ~busy[rows[inside] + dy, columns[inside] + dx]
            if inside.sum() > covered.sum():
                covered, best = inside, (int(dy), int(dx))
        if not covered.any():
            break
        rows, columns = rows[covered], columns[covered]
        out[rows, columns] += grain[rows + best[0], columns + best[1]]
        left[rows, columns] = False
    return np.where(hole[..., None], np.clip(out, 0, 1), picture)


class PixelCanvas:
    """A `Canvas` of pixels alone. `notes` say what could not be found; `touched`, whether anything
    changed.
    """

    def __init__(self, image: Image, seed: int, net: ConceptNet | None = None) -> None:
        self._picture = image.pixels.astype(np.float32) / 255
        self._rng = np.random.default_rng(int(seed) & 0xFFFF_FFFF_FFFF)
        self._height, self._width = image.size
        self._side = min(image.size)
        sighting = (net or shared_net()).look([image])[0]
        self._background = sighting.background
        things = sighting.things(_MIN_SCORE)
        rough = [self._grown(thing.mask) for thing in things]
        self._objects = [self._as_placed(thing.concept, thing.box) for thing in things]
        self._colors = [thing.color for thing in things]
        self._masks: list[np.ndarray] = []
        for i, thing in enumerate(things):
            others = [mask for j, mask in enumerate(rough) if j != i]
            self._masks.append(self._refined(thing.mask, rough[i], others))
        self._cuts = [self._cut(mask) for mask in self._masks]
        self.notes: list[str] = []
        self.touched = False

    @property
    def objects(self) -> Sequence[Placed]:
        return self._objects

    def color_of(self, index: int) -> str:
        return self._objects[index].color or self._colors[index]

    def image(self) -> Image:
        return Image.from_pixels((np.clip(self._picture, 0, 1) * 255 + 0.5).astype(np.uint8))

    def put(self, index: int, placed: Placed) -> None:
        self._erase(index)
        pixels, _, _ = stamp(placed, self._side)
        self._masks[index], self._cuts[index] = self._paste(pixels, placed), PIL.Image.fromarray(pixels)
        self._objects[index] = placed
        self.touched = True

    def alter(self, index: int, placed: Placed) -> None:
        before = self._objects[index]
        if placed.color is not None and placed.color != before.color:
            self._tint(self._masks[index], placed.color)
            self._cuts[index] = self._cut(self._masks[index])
        if replace(placed, color=before.color) != before:
            self._transplant(index, before, placed)
        self._objects[index] = placed
        self.touched = True

    def remove(self, index: int) -> None:
        self._erase(index)
        for values in (self._objects, self._masks, self._colors, self._cuts):
            del values[index]
        self.touched = True

    def add(self, placed: Placed, behind: bool) -> None:
        before = self._picture.copy()
        pixels, _, _ = stamp(placed, self._side)
        mask = self._paste(pixels, placed)
        if behind:
            front = self._all_masks()
            self._picture = np.where(front[..., None], before, self._picture)
            mask &= ~front
        at = 0 if behind else len(self._objects)
        self._objects.insert(at, placed)
        self._masks.insert(at, mask)
        self._colors.insert(at, placed.color or vocabulary()[placed.concept].color)
        self._cuts.insert(at, PIL.Image.fromarray(pixels))
        self.touched = True

    def set_background(self, name: str | None, color: str | None) -> None:
        front = self._all_masks()
        if not front.any():
            self.notes.append(
                "not done: no object was found in the image that a new background could stand behind"
            )
            return
        if name is None and color is not None:
            self._tint(~front, color)
        else:
            size = max(self._height, self._width)
            texture = int(self._rng.integers(2**31))
            painted = backgrounds.paint(name or self._background, color, texture, size)
            painted = painted[: self._height, : self._width]
            alpha = ndimage.gaussian_filter(front.astype(np.float32), 0.7)[..., None]
            self._picture = (self._picture * alpha + painted * (1 - alpha)).astype(np.float32)
        self.touched = True

    def _as_placed(self, concept: str, box: tuple[int, int, int, int]) -> Placed:
        x0, y0, x1, y1 = box
        size = max(x1 - x0, y1 - y0) / self._side
        return Placed(
            concept,
            round((x0 + x1) / 2 / self._width, 4),
            round((y0 + y1) / 2 / self._height, 4),
            round(float(np.clip(size, 0.02, 1.5)), 4),
        )

    def _grown(self, mask: np.ndarray) -> np.ndarray:
        grown: np.ndarray = ndimage.binary_dilation(mask, iterations=max(3, self._side // 15))
        return grown

    def _refined(self, mask: np.ndarray, grown: np.ndarray, others: list[np.ndarray]) -> np.ndarray:
        """Return the object's mask with the edges that the pixels have: where they differ from what the
        surroundings would put there. The net's own map is coarser, a twenty-fourth of the side."""
        busy = np.logical_or.reduce([grown, *others])
        behind = membrane(self._picture, ~busy)
        noise = np.abs(self._picture - ndimage.gaussian_filter(self._picture, (3, 3, 0))).sum(2)
        level = float(np.percentile(noise[~busy], 90)) if (~busy).any() else 0.1
        if level > _PATTERNED:
            # Against bricks or leaves every line differs from its surroundings: the net knows better.
            return ndimage.binary_dilation(mask, iterations=1)
        differs = np.abs(self._picture - behind).sum(2) > 0.16 + 1.4 * level
        core = ndimage.binary_erosion(mask, iterations=max(1, self._side // 60))
        solid = ndimage.binary_opening(differs & grown, iterations=1) | core
        pieces, _ = ndimage.label(ndimage.binary_closing(solid, iterations=2) & grown)
        touching = np.unique(pieces[mask & (pieces > 0)])
        refined: np.ndarray = ndimage.binary_fill_holes(np.isin(pieces, touching))
        share = refined.sum() / max(1, mask.sum())
        return refined if 0.5 < share < 1.8 else mask

    def _all_masks(self) -> np.ndarray:
        return np.logical_or.reduce([np.zeros((self._height, self._width), bool), *self._masks])

    def _erase(self, index: int) -> None:
        hole = ndimage.binary_dilation(self._masks[index], iterations=max(2, self._side // 75))
        others = [mask for j, mask in enumerate(self._masks) if j != index]
        for mask in others:
            hole &= ~mask
        busy = np.logical_or.reduce([hole, *others])
        self._picture = fill(self._picture, hole, busy, self._rng).astype(np.float32)

    def _tint(self, mask: np.ndarray, color: str) -> None:
        alpha = ndimage.gaussian_filter(mask.astype(np.float32), 0.7)
        painted = tint(self._picture, color, mask.astype(np.float32))
        self._picture = self._picture * (1 - alpha[..., None]) + painted * alpha[..., None]

    def _cut(self, mask: np.ndarray) -> PIL.Image.Image:
        """Return the masked pixels as an RGBA picture of their bounds, as they are now."""
        rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        if len(rows) == 0:
            return PIL.Image.new("RGBA", (1, 1))
        window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        rgba = np.dstack((self._picture[window], mask[window])) * 255
        return PIL.Image.fromarray((rgba + 0.5).astype(np.uint8))

    def _transplant(self, index: int, before: Placed, after: Placed) -> None:
        """Fill the object's place, and paste what was cut from there moved, scaled or mirrored."""
        cut = self._cuts[index]
        factor = after.size / before.size
        cut = cut.resize((max(2, round(cut.width * factor)), max(2, round(cut.height * factor))))
        if after.flip != before.flip:
            cut = cut.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
        self._erase(index)
        self._masks[index], self._cuts[index] = self._paste(np.asarray(cut), after), cut

    def _paste(self, pixels: np.ndarray, placed: Placed) -> np.ndarray:
        """Lay RGBA pixels over the picture, centered where `placed` is; return what they cover."""
        height, width = pixels.shape[:2]
        top, left = round(placed.y * self._height - height / 2), round(placed.x * self._width - width / 2)
        y0, x0 = max(top, 0), max(left, 0)
        y1, x1 = min(top + height, self._height), min(left + width, self._width)
        covered = np.zeros((self._height, self._width), bool)
        if y1 <= y0 or x1 <= x0:
            return covered
        part = pixels[y0 - top : y1 - top, x0 - left : x1 - left].astype(np.float32) / 255
        under = self._picture[y0:y1, x0:x1]
        self._picture = self._picture.copy()
        self._picture[y0:y1, x0:x1] = under + (part[..., :3] - under) * part[..., 3:]
        covered[y0:y1, x0:x1] = part[..., 3] > 0.5
        for mask in self._masks:
            mask &= ~covered
        return covered
