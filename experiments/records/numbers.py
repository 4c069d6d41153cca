"""Numbers in words: one form each for counts, shares, e-values and durations, on pages and in terminals."""

from __future__ import annotations

_LARGE = 1e5
"""From here on an e-value is a power of ten."""


def thousands(value: float) -> str:
    """Return a count, such as "21,008"."""
    return f"{value:,.0f}"


def percent(share: float) -> str:
    """Return a share of 1, such as "22%"."""
    return f"{share:.0%}"


def e_value(value: float) -> str:
    """Return an e-value, such as "0.42", "8.5", "3,371" or "1.3 × 10⁵"."""
    if abs(value) >= _LARGE or 0 < abs(value) < 0.005:
        return power(value)
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else thousands(value)


def power(value: float) -> str:
    """Return a number with a power of ten, such as "1.3 × 10⁵"."""
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa} × 10{raised}".replace("-", "−")


def duration(seconds: float) -> str:
    """Return a time, such as "12 s", "3 min" or "1.5 h"."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:,.1f} h"
