"""What an endpoint accepts, learned from its refusals once and not with every request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_MAX_IMAGES = 100_000
"""Ids that are remembered; a run shows fewer new images than that between two restarts."""


@dataclass(slots=True)
class EndpointLimits:
    """Limits and refusals of one endpoint, as its own words gave them."""

    version: int = 0
    """Counts what was learned: a request that was sent before may be refused for what is known by now."""
    refused: dict[str, str] = field(default_factory=dict)
    """Optional fields that are no longer sent, each with the server's words."""
    max_tokens_field: str | None = None
    longest_answer: int | None = None
    """Tokens."""
    fold_system: bool = False
    stream: bool = False
    max_images: int | None = None
    max_prompt_tokens: int | None = None
    """Prompt tokens that fitted, by our own estimate, after more did not."""
    max_prompt_bytes: int | None = None
    room: int = 0
    """Tokens that thinking needed in addition to the answer."""
    bad_images: dict[str, str] = field(default_factory=dict)
    """Images that the server fails on when they are all that it is shown, by id, with its words."""
    context: int | None = None
    """Prompt tokens at which the server seems to cut conversations without saying so."""
    _accepted: set[str] = field(default_factory=set)

    def accept(self, image_ids: set[str]) -> None:
        """Remember images that the server has taken."""
        if len(self._accepted) > _MAX_IMAGES:
            self._accepted.clear()
        self._accepted |= image_ids

    def unproven(self, image_ids: set[str]) -> set[str]:
        """Return the images that the server has not taken yet."""
        return image_ids - self._accepted

    def facts(self) -> dict[str, Any]:
        """Return what was learned, for `describe`; empty if nothing was."""
        known: dict[str, Any] = {
            "not_sent": sorted(self.refused),
            "max_tokens_field": self.max_tokens_field,
            "longest_answer": self.longest_answer,
            "system_folded": self.fold_system,
            "stream": self.stream,
            "max_images": self.max_images,
            "most_prompt_tokens": self.max_prompt_tokens,
            "most_bytes": self.max_prompt_bytes,
            "reasoning_tokens": self.room,
            "images_left_out": sorted(self.bad_images),
            "context_seems_to_be": self.context,
        }
        return {name: value for name, value in known.items() if value}

    def suggested_settings(self) -> dict[str, Any]:
        """Return the settings of `OpenAIChat` that say from the start what was learned; {} if nothing was."""
        omit = [name for name in sorted(self.refused) if name in ("max_tokens", "seed", "temperature")]
        suggested: dict[str, Any] = {"omit": omit} if omit else {}
        if "detail" in self.refused:
            suggested["detail"] = None
        others = {
            "system": "fold" if self.fold_system else None,
            "max_tokens_field": self.max_tokens_field,
            "stream": self.stream,
            "reasoning_tokens": self.room,
        }
        return suggested | {name: value for name, value in others.items() if value}


class TruncationWatch:
    """Notices a server that drops the start of long conversations and says nothing.

    Ollama does so at its context length: the prompt tokens that it reports stop growing while the
    conversation grows.
    """

    _MIN = 2000
    """Estimated tokens below which an estimate says too little."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, int, int, int]] = {}

    def saw(self, conversation: str, estimated: int, reported: int, images: int = 0) -> bool:
        """Return whether a prompt of about `estimated` text tokens and so many images, reported as
        `reported`, was surely cut. Where images were left out, a lower count is no sign of it."""
        if estimated >= self._MIN and 2 * reported < estimated:
            return True
        before, seen, shown, still = self._last.get(conversation, (0, 0, 0, 0))
        grew = estimated > 1.1 * before and estimated - before >= 200
        stopped = before > 0 and grew and images >= shown and reported <= seen + 8
        if grew or estimated < before:
            still = still + 1 if stopped else 0
            if len(self._last) > 10_000:
                self._last.clear()
            self._last[conversation] = (estimated, reported, images, still)
        return still >= 2
