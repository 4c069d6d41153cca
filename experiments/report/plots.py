"""Plots as inline SVG, drawn when the page is written: they need no script and print well.

Colors come from the page's style sheet by class. All text passes through `Markup.format`, which escapes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH = 640
"""Width of a plot's coordinate system; the page scales it."""

_LEFT, _RIGHT = 96, 16


@dataclass(frozen=True, slots=True)
class Dot:
    """One value of a strip. `target` is the element of the page that the dot leads to."""

    value: float
    title: str
    target: str


@dataclass(frozen=True, slots=True)
class Strip:
    """One row of a strip plot. `style` is the class that colors it."""

    name: str
    style: str
    dots: Sequence[Dot]


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Return round values that span low..high."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    step = next((m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw), 10 * power)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [index * step for index in range(first, last + 1)] if last - first < 100 else [low, high]


def label(value: float) -> str:
    """Return a tick's text."""
    return f"{value:.4g}".replace("-", "−")


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear scale from values to the plot's coordinates."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = (self.high - self.low) or 1.0
        share = (value - self.low) / span
        return round(self.start + min(1.0, max(0.0, share)) * (self.end - self.start), 1)


def strips(rows: Sequence[Strip], axis_title: str, alt: str) -> Markup:
    """Return one row of dots a group, means marked; dots that would overlap are stacked."""
    values = [dot.value for row in rows for dot in row.dots]
    if not values:
        return Markup("")
    margin = 0.03 * (max(values) - min(values)) or 0.5
    axis = Axis(min(values) - margin, max(values) + margin, _LEFT, WIDTH - _RIGHT)
    marks = ticks(axis.low, axis.high)
    parts, top = [], 12.0
    for row in rows:
        placed, height = _swarm([axis(dot.value) for dot in row.dots], 5.0)
        middle = top + height / 2
        parts.append(
            Markup('<text class="name" x="{}" y="{}">{}</text>').format(_LEFT - 14, middle + 4, row.name)
        )
        if row.dots:
            mean = axis(sum(dot.value for dot in row.dots) / len(row.dots))
            parts.append(
                Markup('<line class="mean {}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                    row.style, mean, mean, top - 2, top + height + 2
                )
            )
        for dot, (x, dy) in zip(row.dots, placed, strict=True):
            parts.append(
                Markup(
                    '<a href="#{}"><circle class="dot {}" cx="{}" cy="{}" '
                    'r="4.5"><title>{}</title></circle></a>'
                ).format(dot.target, row.style, x, round(middle + dy, 1), dot.title)
            )
        top += height + 14
    return _frame(Markup("").join([_x_axis(axis, marks, top, axis_title, 8), *parts]), top + 40, alt)


def histogram(values: Sequence[float], low: float, high: float, bins: int, title: str, alt: str) -> Markup:
    """Return counts of `values` in equal bins of low..high; what lies outside goes to the ends."""
    counts = [0.0] * bins
    for value in values:
        counts[min(bins - 1, max(0, int((value - low) / (high - low) * bins)))] += 1
    return counted(counts, low, high, title, alt)


def counted(counts: Sequence[float], low: float, high: float, title: str, alt: str) -> Markup:
    """Return a histogram of bins that are counted already."""
    height, most = 120.0, max(counts) or 1
    axis, up = Axis(low, high, 48, WIDTH - _RIGHT), Axis(0, most, height, 14)
    marks = [mark for mark in ticks(low, high) if low - 1e-9 <= mark <= high + 1e-9]
    ends = Markup('<text class="tick end" x="40" y="{}">{}</text>')
    parts = [_x_axis(axis, marks, height, title), ends.format(18, label(most)), ends.format(height, "0")]
    for index, count in enumerate(counts):
        first, last = (low + (high - low) * (index + side) / len(counts) for side in (0, 1))
        left, right = axis(first), axis(last)
        if count:
            parts.append(
                Markup(
                    '<rect class="bar" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>'
                ).format(
                    left + 1,
                    up(count),
                    round(max(1.0, right - left - 2), 1),
                    round(height - up(count), 1),
                    f"{label(first)} to {label(last)}: {label(count)}",
                )
            )
    return _frame(Markup("").join(parts), height + 40, alt)


@dataclass(frozen=True, slots=True)
class PlotHistogram:
    """Counts in equal bins of low..high."""

    counts: Sequence[float]
    low: float
    high: float


def density(bars: PlotHistogram | None, rows: Sequence[Strip], threshold: float | None) -> Markup:
    """Return a histogram above rows of marks on the same axis, the means of rows and a threshold marked."""
    values = [dot.value for row in rows for dot in row.dots]
    values += [bars.low, bars.high] if bars else []
    if not values:
        return Markup("")
    margin = 0.02 * (max(values) - min(values)) or 0.5
    axis = Axis(min(values) - margin, max(values) + margin, _LEFT, WIDTH - _RIGHT)
    parts, top = [], 18.0
    if bars is not None:
        top += 110
        up = Axis(0, math.sqrt(max(bars.counts) or 1), top, 22)
        step = (bars.high - bars.low) / len(bars.counts)
        for index, count in enumerate(bars.counts):
            first, last = bars.low + index * step, bars.low + (index + 1) * step
            height = up(math.sqrt(count))
            title = f"{label(first)} to {label(last)}: {label(count)} images"
            box = (axis(first) + 0.5, height, max(1.0, axis(last) - axis(first) - 1), top - height)
            parts.append(_box("bar", box, title) if count else Markup(""))
        parts.append(_words("name", _LEFT - 14, top - 8, "data set"))
    for row in rows:
        parts += [
            _words("name", _LEFT - 14, top + 20, row.name),
            *(_tick(axis, dot, row, top) for dot in row.dots),
        ]
        mean = axis(sum(dot.value for dot in row.dots) / len(row.dots))
        parts.append(_box(f"average {row.style}", (mean - 1.5, top + 4, 3.0, 24.0), f"mean of {row.name}"))
        top += 28
    if threshold is not None and axis.low <= threshold <= axis.high:
        at = axis(threshold)
        line = Markup('<line class="dashed" x1="{0}" x2="{0}" y1="14" y2="{1}"/>').format(at, top)
        parts += [line, _words("start", at + 4, 14, "mask threshold")]
    marks = ticks(axis.low, axis.high)
    alt = "Activations over the data set" + "".join(f", of {len(row.dots)} {row.name}" for row in rows)
    return _frame(Markup("").join([_x_axis(axis, marks, top + 6, "activation", 18), *parts]), top + 46, alt)


def _tick(axis: Axis, dot: Dot, row: Strip, top: float) -> Markup:
    tick = _box(f"tickmark {row.style}", (axis(dot.value) - 1, top + 8, 2.0, 16.0), dot.title)
    if not dot.target:
        return tick
    return Markup('<a href="#{}" aria-label="{}">{}</a>').format(dot.target, dot.title, tick)


def _box(style: str, box: tuple[float, float, float, float], title: str) -> Markup:
    x, y, width, height = (round(side, 1) for side in box)
    return Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>').format(
        style, x, y, width, height, title
    )


def _words(style: str, x: float, y: float, words: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(style, round(x, 1), round(y, 1), words)


@dataclass(frozen=True, slots=True)
class PlotColumn:
    """Values that stand above one place of an axis, and the element of the page that they lead to."""

    name: str
    values: Sequence[float]
    target: str


def columns(groups: Sequence[PlotColumn], threshold: float | None, title: str, alt: str) -> Markup:
    """Return a column of dots a group, and a line through the largest value so far."""
    values = [value for group in groups for value in group.values]
    if not values:
        return Markup("")
    height = 150.0
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.5
    up = Axis(low - margin, high + margin, height, 10)
    across = Axis(0, len(groups) + 1, 48, WIDTH - _RIGHT)
    parts = [
        Markup('<line class="grid" x1="48" x2="{}" y1="{}" y2="{}"/>').format(
            WIDTH - _RIGHT, up(mark), up(mark)
        )
        + _words("end", 42, up(mark) + 4, label(mark))
        for mark in ticks(up.low, up.high, 4)
        if up.low <= mark <= up.high
    ]
    if threshold is not None and up.low <= threshold <= up.high:
        line = Markup('<line class="dashed" x1="48" x2="{}" y1="{}" y2="{}"/>')
        parts.append(line.format(WIDTH - _RIGHT, up(threshold), up(threshold)))
    best, path, every = -math.inf, [], max(1, len(groups) // 20)
    for place, group in enumerate(groups, 1):
        x = across(place)
        best = max([best, *group.values])
        dots = Markup("").join(
            Markup('<circle class="dot control" cx="{}" cy="{}" r="3"/>').format(x, up(value))
            for value in group.values
        )
        about = f"round {group.name}: {len(group.values)} images"
        parts.append(
            Markup('<a href="#{}" aria-label="{}"><title>{}</title>{}</a>').format(
                group.target, about, about, dots
            )
        )
        if best > -math.inf:
            path.append(f"{x},{up(best)}")
        if place % every == 0 or place == 1:
            parts.append(_words("tick", x, height + 16, group.name))
    parts.append(Markup('<polyline class="line s0" points="{}"/>').format(" ".join(path)))
    parts.append(
        _words(
            "axis",
            (48 + WIDTH) / 2,
            height + 34,
            f"{title}: dots are images, the line is the strongest so far",
        )
    )
    return _frame(Markup("").join(parts), height + 42, alt)


def sparkline(values: Sequence[float], alt: str) -> Markup:
    """Return a small line through values at equal distances."""
    if len(values) < 2:
        return Markup("")
    up = Axis(min(values), max(values), 28, 4)
    points = " ".join(
        f"{4 + 112 * place / (len(values) - 1):.1f},{up(v):.1f}" for place, v in enumerate(values)
    )
    return Markup(
        '<svg class="sparkline" viewBox="0 0 120 32" role="img" aria-label="{}"><title>{}</title>'
        '<polyline class="line s0" points="{}"/></svg>'
    ).format(alt, alt, points)


def _swarm(positions: Sequence[float], radius: float) -> tuple[list[tuple[float, float]], float]:
    """Stack dots whose neighbors are closer than a diameter; return (x, offset) each and the height."""
    placed: list[tuple[float, float]] = [(0.0, 0.0)] * len(positions)
    done: list[tuple[float, float]] = []
    step = 2 * radius
    for index in sorted(range(len(positions)), key=lambda i: positions[i]):
        x = positions[index]
        near = [(px, py) for px, py in done[-60:] if x - px < step]
        level = 0
        while any((x - px) ** 2 + (_level(level, step) - py) ** 2 < (step * 0.98) ** 2 for px, py in near):
            level += 1
        placed[index] = (x, _level(level, step))
        done.append(placed[index])
    reach = max((abs(dy) for _, dy in placed), default=0.0)
    return placed, 2 * reach + 2 * step


def _level(level: int, step: float) -> float:
    """Return 0, 1, -1, 2, -2 ... half steps."""
    return (level + 1) // 2 * step / 2 * (1 if level % 2 else -1)


def _x_axis(axis: Axis, marks: Sequence[float], y: float, title: str, top: float = 10) -> Markup:
    parts = [
        Markup(
            '<line class="grid" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/><text class="tick" x="{0}" '
            'y="{3}">{4}</text>'
        ).format(axis(mark), top, y, y + 16, label(mark))
        for mark in marks
        if axis.low <= mark <= axis.high
    ]
    parts.append(
        Markup('<text class="axis" x="{}" y="{}">{}</text>').format(
            (axis.start + axis.end) / 2, y + 34, title
        )
    )
    return Markup("").join(parts)


def _frame(body: Markup, height: float, alt: str) -> Markup:
    return Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, round(height), alt, body
    )
