"""The page and the plots of the benchmarks' records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

COLORS = ("#0b6e99", "#c4561e", "#3c7d3c", "#8a4fa3", "#a38a1f", "#7a7a7a")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 380, 70, 50, 30, 150


def number(value: Any) -> str:
    """Return a figure with three significant digits, integers in full."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def page(records: Sequence[Mapping[str, Any]]) -> str:
    """Return RESULTS.md."""
    lines = [
        "# Benchmark results",
        "",
        "Written by `make bench`, whole or a benchmark at a time: each says when it was measured.",
        "",
    ]
    lines += ["| | benchmark | figure | measured | target | |", "|---|---|---|---|---|---|"]
    for each in records:
        if "failure" in each:
            lines.append(f"| {each['id']} | {each['title']} | failed: {each['failure']} | | | ✗ |")
        for metric in each.get("metrics", ()):
            if metric["target"]:
                mark = "✓" if metric["met"] else "✗"
                value = f"{number(metric['value'])} {metric['unit']}".strip()
                lines.append(
                    f"| {each['id']} | {each['title']} | {metric['name']} | {value} | {metric['target']} | "
                    f"{mark} |"
                )
    for each in records:
        lines += ["", f"## {each['id']} {each['title']}", ""]
        lines += _section(each)
    return "\n".join(lines).rstrip() + "\n"


def _section(each: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    if "machine" in each:
        facts = each["machine"]
        where = facts.get("gpu") or f"{facts['cores']} cores of {facts['processor']}"
        lines += [f"{each['measured']} UTC, device {facts['device']}: {where}; took {each['seconds']} s.", ""]
        # Earlier records do not say what others did: of those the load must tell.
        if each.get("disturbed") or ("others_busy" not in each and each.get("load_before", 0) > 1):
            before, after = each.get("others_busy", (None, None))
            others = "" if before is None else f", others kept {before} cores busy before and {after} after"
            lines += [
                f"The machine was not quiet: load {each['load_before']} before, a fixed piece of work took "
                f"{each['control_ms'][0]} ms before and {each['control_ms'][1]} ms after{others}.",
                "",
            ]
    if "failure" in each:
        return [*lines, f"Failed: {each['failure']}"]
    lines += [f"- checked: {gate}" for gate in each["gates"]]
    for metric in each["metrics"]:
        target = (
            f" (target {metric['target']}: {'met' if metric['met'] else 'missed'})"
            if metric["target"]
            else ""
        )
        bound = f" {metric['bound']}" if metric["bound"] and not metric["met"] else ""
        lines.append(f"- {metric['name']}: **{number(metric['value'])}** {metric['unit']}{target}.{bound}")
    lines += [f"- {note}" for note in each["notes"]]
    for table in each["tables"]:
        lines += ["", f"{table['title']}", "", "| " + " | ".join(table["columns"]) + " |"]
        lines.append("|" + "---|" * len(table["columns"]))
        lines += ["| " + " | ".join(number(value) for value in row) + " |" for row in table["rows"]]
    for i, curve in enumerate(each["curves"]):
        lines += ["", f"![{curve['title']}](plots/{each['id']}-{i}.svg)"]
    return lines


def plot(curve: Mapping[str, Any]) -> str:
    """Return a line plot as SVG: measured series as lines with dots, the ideal dashed."""
    points = [tuple(point) for series in curve["series"].values() for point in series]
    x_axis = _Axis([x for x, _ in points], LEFT, WIDTH - RIGHT, curve["log_x"])
    y_axis = _Axis(
        [y for _, y in points] + ([] if curve["log_y"] else [0.0]), HEIGHT - BOTTOM, TOP, curve["log_y"]
    )
    body = [f'<text x="{LEFT}" y="18" font-weight="bold">{escape(curve["title"])}</text>']
    for mark in x_axis.marks():
        x = x_axis(mark)
        body.append(f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#ddd"/>')
        body.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{number(mark)}</text>'
        )
    for mark in y_axis.marks():
        y = y_axis(mark)
        body.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        body.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(mark)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    body.append(f'<text x="{middle}" y="{HEIGHT - 12}" text-anchor="middle">{escape(curve["x"])}</text>')
    body.append(
        f'<text transform="translate(16 {HEIGHT / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(curve["y"])}</text>'
    )
    for i, (name, series) in enumerate(curve["series"].items()):
        color = "#999" if name == curve["ideal"] else COLORS[i % len(COLORS)]
        dash = ' stroke-dasharray="5 4"' if name == curve["ideal"] else ""
        at = [(x_axis(x), y_axis(y)) for x, y in series]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in at)
        body.append(f'<path d="{path}" fill="none" stroke="{color}" stroke-width="2"{dash}/>')
        if name != curve["ideal"]:
            body += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in at]
        label = HEIGHT - BOTTOM - 12 - 18 * (len(curve["series"]) - 1 - i)
        body.append(f'<text x="{WIDTH - RIGHT + 10}" y="{label}" fill="{color}">{escape(name)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(body)}</svg>\n'
    )


class _Axis:
    def __init__(self, values: Sequence[float], start: float, end: float, log: bool) -> None:
        self._log = log
        scaled = [self._scale(value) for value in values]
        self._low, high = min(scaled), max(scaled)
        self._span = (high - self._low) or 1.0
        self._start, self._end = start, end

    def _scale(self, value: float) -> float:
        return math.log10(max(value, 1e-12)) if self._log else value

    def __call__(self, value: float) -> float:
        return self._start + (self._scale(value) - self._low) / self._span * (self._end - self._start)

    def marks(self) -> list[float]:
        low, high = self._low, self._low + self._span
        if self._log:
            whole = [10.0**n for n in range(math.floor(low), math.ceil(high) + 1)]
            fine = [m * each for each in whole for m in (1, 2, 5)]
            marks = whole if high - low > 3 else fine
        else:
            step = 10 ** math.floor(math.log10(self._span))
            step = next(step * m for m in (0.2, 0.5, 1, 2, 5) if self._span / (step * m) <= 6)
            marks = [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
        return [mark for mark in marks if low - 1e-9 <= self._scale(mark) <= high + 1e-9]
