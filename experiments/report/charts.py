"""The plots of experiment pages as inline SVG: bars with intervals, scatter, lines."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from experiments.report.plots import WIDTH, Axis, label, ticks
from experiments.report.schema import Bar, Bars, Lines, ScatterPlot, Series

COLORS = 6
"""Styles `s0` to `s5` of the style sheet; further series begin again."""

_NAMES = 200
_NAME_LIMIT = 30
_HEIGHT = 320.0


def series_of(block: Bars | ScatterPlot | Lines) -> list[str]:
    """Return the names of a plot's series in order: its legend."""
    if isinstance(block, Bars):
        named = dict.fromkeys(bar.series for bar in block.bars)
        return [name for name in block.palette if name in named] + [
            n for n in named if n not in block.palette
        ]
    return [line.name for line in block.series]


def style(number: int) -> str:
    return f"s{number % COLORS}"


def styled(block: Bars | ScatterPlot | Lines) -> list[tuple[str, str]]:
    """Return a plot's series with the style of each."""
    palette = list(block.palette) if isinstance(block, Bars) else []
    names = [*palette, *(name for name in series_of(block) if name not in palette)]
    return [(name, style(names.index(name))) for name in series_of(block)]


def bars(block: Bars) -> Markup:
    """Return horizontal bars from zero, one row a name, a bar for each series in it."""
    values = [v for bar in block.bars for v in (bar.value, bar.low, bar.high) if v is not None]
    if not values:
        return Markup("")
    marks = ticks(min(0.0, *values), max(0.0, *values))
    axis = Axis(marks[0], marks[-1], _NAMES, WIDTH - 16)
    colors = dict(styled(block))
    rows: dict[str, list[Bar]] = {}
    for bar in block.bars:
        rows.setdefault(bar.name, []).append(bar)
    parts, top = [], 8.0
    for name, members in rows.items():
        height = 16.0 * len(members)
        parts.append(
            Markup('<text class="name" x="{}" y="{}">{}<title>{}</title></text>').format(
                _NAMES - 12, top + height / 2 + 4, _short(name), name
            )
        )
        for position, bar in enumerate(members):
            parts.append(_bar(bar, axis, top + 16 * position, colors[bar.series]))
        top += height + 10
    if block.reference is not None:
        line = Markup('<line class="dashed" x1="{0}" x2="{0}" y1="4" y2="{1}"><title>{2}</title></line>')
        parts.append(
            line.format(axis(block.reference), top, f"{block.reference_name} {label(block.reference)}")
        )
    return _frame(
        [*_grid_x(axis, marks, 4, top), *parts, _title_x(axis, top, block.axis)], top + 40, _alt_text(block)
    )


def _bar(bar: Bar, axis: Axis, top: float, color: str) -> Markup:
    zero, end = axis(0.0), axis(bar.value)
    interval = Markup("")
    title = f"{bar.name} {bar.series}: {label(bar.value)}"
    if bar.low is not None and bar.high is not None:
        title += f" ({label(bar.low)} to {label(bar.high)})"
        interval = Markup('<line class="whisker" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            axis(bar.low), axis(bar.high), top + 7, top + 7
        )
    return Markup('<g><rect class="{}" x="{}" y="{}" width="{}" height="12"/>{}<title>{}</title></g>').format(
        color, min(zero, end), top + 1, round(max(1.0, abs(end - zero)), 1), interval, title
    )


def scatter(block: ScatterPlot) -> Markup:
    """Return the points of all series in one frame."""
    field = _Field(block.series)
    parts = field.grid(block.x, block.y)
    if block.diagonal:
        low, high = max(field.x.low, field.y.low), min(field.x.high, field.y.high)
        if low < high:
            parts.append(
                _line("whisker dashed", [(field.x(low), field.y(low)), (field.x(high), field.y(high))])
            )
    for number, series in enumerate(block.series):
        for point in series.points:
            title = f"{point.name or series.name}: {label(point.x)}, {label(point.y)}"
            if point.low is not None and point.high is not None:
                x = field.x(point.x)
                parts.append(_line("whisker", [(x, field.y(point.low)), (x, field.y(point.high))]))
            parts.append(
                Markup('<circle class="dot {}" cx="{}" cy="{}" r="4"><title>{}</title></circle>').format(
                    style(number), field.x(point.x), field.y(point.y), title
                )
            )
    return _frame(parts, _HEIGHT + 44, _alt_text(block))


def lines(block: Lines) -> Markup:
    """Return the series as lines; where every point has an interval, as a band, too."""
    field = _Field(block.series)
    parts = field.grid(block.x, block.y)
    for number, series in enumerate(block.series):
        points = sorted(series.points, key=lambda point: point.x)
        upper = [(field.x(p.x), field.y(p.high)) for p in points if p.high is not None]
        lower = [(field.x(p.x), field.y(p.low)) for p in points if p.low is not None]
        if points and len(upper) == len(lower) == len(points):
            parts.append(
                Markup('<polygon class="band {}" points="{}"/>').format(
                    style(number), _path(upper + lower[::-1])
                )
            )
        parts.append(_line(f"line {style(number)}", [(field.x(p.x), field.y(p.y)) for p in points]))
        parts += [
            Markup('<circle class="dot {}" cx="{}" cy="{}" r="3"><title>{}</title></circle>').format(
                style(number),
                field.x(p.x),
                field.y(p.y),
                f"{p.name or series.name}: {label(p.x)}, {label(p.y)}",
            )
            for p in points
        ]
    return _frame(parts, _HEIGHT + 44, _alt_text(block))


class _Field:
    """Two axes around all points and intervals of some series."""

    def __init__(self, series: Sequence[Series]) -> None:
        points = [point for line in series for point in line.points]
        heights = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
        self._x_marks = ticks(
            min((p.x for p in points), default=0.0), max((p.x for p in points), default=1.0)
        )
        self._y_marks = ticks(min(heights, default=0.0), max(heights, default=1.0))
        self.x = Axis(self._x_marks[0], self._x_marks[-1], 64, WIDTH - 16)
        self.y = Axis(self._y_marks[0], self._y_marks[-1], _HEIGHT, 24)

    def grid(self, x_title: str, y_title: str) -> list[Markup]:
        parts = _grid_x(self.x, self._x_marks, 24, _HEIGHT)
        for mark in self._y_marks:
            y = self.y(mark)
            parts.append(
                Markup(
                    '<line class="grid" x1="64" x2="{}" y1="{}" y2="{}"/><text class="tick end" x="56" '
                    'y="{}">{}</text>'
                ).format(WIDTH - 16, y, y, y + 4, label(mark))
            )
        parts.append(Markup('<text class="axis start" x="4" y="12">{}</text>').format(y_title))
        parts.append(_title_x(self.x, _HEIGHT, x_title))
        return parts


def _grid_x(axis: Axis, marks: Sequence[float], top: float, bottom: float) -> list[Markup]:
    return [
        Markup(
            '<line class="grid" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/><text class="tick" x="{0}" '
            'y="{3}">{4}</text>'
        ).format(axis(mark), top, bottom, bottom + 16, label(mark))
        for mark in marks
    ]


def _title_x(axis: Axis, bottom: float, title: str) -> Markup:
    return Markup('<text class="axis" x="{}" y="{}">{}</text>').format(
        (axis.start + axis.end) / 2, bottom + 34, title
    )


def _line(kind: str, points: Sequence[tuple[float, float]]) -> Markup:
    return Markup('<polyline class="{}" points="{}"/>').format(kind, _path(points))


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LIMIT else f"{name[: _NAME_LIMIT - 1]}…"


def _alt_text(block: Bars | ScatterPlot | Lines) -> str:
    names = ", ".join(name for name in series_of(block) if name)
    return f"{block.title or 'Plot'}{f': {names}' if names else ''}"


def _frame(parts: Sequence[Markup], height: float, alt: str) -> Markup:
    return Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, round(height), alt, Markup("").join(parts)
    )
