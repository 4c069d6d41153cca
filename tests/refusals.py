"""What a check says, so that a test can state that it says nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from actors.errors import UsageError


def refusal(check: Callable[..., Any], *arguments: Any) -> str:
    """Return the message with which `check` refuses its arguments, "" if it takes them."""
    try:
        check(*arguments)
    except UsageError as error:
        return error.message
    return ""
