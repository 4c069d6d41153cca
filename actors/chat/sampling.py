"""Sampling for a batch of conversations in which each answer is as it would be alone.

`generate` draws all rows of a batch from one random stream, so an answer would depend on its neighbors.
Here every row has a generator of its own: adding Gumbel noise to the logits and taking the largest is
the same as sampling from their softmax (the Gumbel-max trick), and needs no random stream of the library.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria, TopKLogitsWarper, TopPLogitsWarper


class SeededRows(LogitsProcessor):
    """Turns greedy decoding into sampling, row by row; rows of temperature 0 stay greedy.

    `top_k` (0: off) and `top_p` (1: off) hold for all sampled rows, as the model's own defaults say.
    """

    def __init__(
        self, temperatures: Sequence[float], seeds: Sequence[int | None], top_k: int = 0, top_p: float = 1.0
    ) -> None:
        self._sampled = [row for row, temperature in enumerate(temperatures) if temperature > 0]
        self._temperatures = [temperatures[row] for row in self._sampled]
        self._generators = [
            torch.Generator().manual_seed(
                secrets.randbits(63) if seeds[row] is None else int(seeds[row] or 0)
            )
            for row in self._sampled
        ]
        self._warpers: list[Any] = [TopKLogitsWarper(top_k)] if top_k else []
        self._warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores (rows, vocabulary) whose largest entry is each row's next token."""
        if not self._sampled:
            return scores
        rows = torch.tensor(self._sampled, device=scores.device)
        chosen = scores[rows].float()
        chosen = chosen / torch.tensor(self._temperatures, device=scores.device).unsqueeze(1)
        for warper in self._warpers:
            chosen = warper(input_ids[rows], chosen)
        # Minus the logarithm of an exponential variable is a Gumbel variable.
        waits = [torch.empty(scores.shape[1]).exponential_(generator=g) for g in self._generators]
        gumbel = -torch.stack(waits).log()
        result = scores.float().clone()
        result[rows] = chosen + gumbel.to(scores.device)
        return result


class RowLimits(StoppingCriteria):
    """Ends each row after its own number of new tokens."""

    def __init__(self, prompt_tokens: int, limits: Sequence[int]) -> None:
        self._prompt_tokens, self._limits = prompt_tokens, list(limits)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        new = input_ids.shape[1] - self._prompt_tokens
        return torch.tensor([new >= limit for limit in self._limits], device=input_ids.device)
