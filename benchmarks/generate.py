"""Generation requests of 1 to 10 prompts from many agents, coalesced, against what the pipeline can do at
all.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Sequence

from actors.generation.base import GenerateRequest
from actors.serving.blocking import BlockingBackend
from actors.serving.pool import LocalPool
from benchmarks.harness import Context, Metric, Result, Table, median_ratio

ID = "B11"
TITLE = "generation: requests of 1 to 10 prompts, 30 % repeats, stand-in pipeline t(b) = 10 + 10 b ms"

MAX_BATCH = 8
BASE_S, ITEM_S = 0.010, 0.010
FULL = MAX_BATCH / (BASE_S + ITEM_S * MAX_BATCH)


class Pipeline:
    """Takes its time and remembers what it made."""

    def __init__(self, keep: bool) -> None:
        self.made: Counter[GenerateRequest] = Counter()
        self._kept: dict[GenerateRequest, str] = {}
        self._keep = keep

    def make(self, requests: Sequence[GenerateRequest]) -> list[str]:
        time.sleep(BASE_S + ITEM_S * len(requests))
        self.made.update(requests)
        made = [f"image of {request.prompt} from {request.seed}" for request in requests]
        if self._keep:
            self._kept.update(zip(requests, made, strict=True))
        return made

    def backend(self) -> BlockingBackend[GenerateRequest, str]:
        kept = self._kept

        class Kept(BlockingBackend[GenerateRequest, str]):
            def lookup(self, request: GenerateRequest) -> str | None:
                return kept.get(request)

        key = (lambda request: request) if self._keep else None
        return Kept("pipeline", self.make, max_batch=MAX_BATCH, key=key)


def _programs(agents: int, each: int, repeats: float, seed: int) -> list[list[list[GenerateRequest]]]:
    """Return each agent's programs: lists of 1 to 10 prompts, of which a share was asked before."""
    draw = random.Random(seed)
    asked: list[GenerateRequest] = []
    programs: list[list[list[GenerateRequest]]] = [[] for _ in range(agents)]
    for _ in range(each):
        for agent in programs:
            program = []
            for _ in range(draw.randint(1, 10)):
                if asked and draw.random() < repeats:
                    program.append(draw.choice(asked))
                else:
                    program.append(GenerateRequest(f"prompt {len(asked)}", draw.randrange(2**31)))
                    asked.append(program[-1])
            agent.append(program)
    return programs


async def _run_programs(programs: list[list[list[GenerateRequest]]], keep: bool) -> tuple[float, Pipeline]:
    pipeline = Pipeline(keep)
    async with LocalPool(pipeline.backend()) as pool:

        async def agent(number: int) -> None:
            for program in programs[number]:
                answers = await pool.map(program, agent=str(number))
                if answers != [f"image of {request.prompt} from {request.seed}" for request in program]:
                    raise AssertionError("an image is another prompt's")

        start = time.perf_counter()
        await asyncio.gather(*(agent(i) for i in range(len(programs))))
        return time.perf_counter() - start, pipeline


def run(context: Context) -> Result:
    agents, rounds = 32, 2 if context.quick else 5
    shares, rows, coalesced, alone = [], [], [], []
    for i in range(rounds):
        programs = _programs(agents, 4, 0.3, context.seed + i)
        requests = [request for agent in programs for program in agent for request in program]
        distinct = len(set(requests))
        seconds, pipeline = asyncio.run(_run_programs(programs, keep=True))
        context.check("no repeat is made again", max(pipeline.made.values()) == 1)
        context.check("each image is its own prompt's", True)  # each agent compares
        repeats = 1 - distinct / len(requests)
        shares.append(len(requests) / seconds / (FULL / (1 - repeats)))
        coalesced.append(len(requests) / seconds)
        # One pipeline call a prompt, one after another, as without a coalescer.
        alone.append(1 / (BASE_S + ITEM_S))
        rows.append((i, len(requests), distinct, seconds, len(requests) / seconds, shares[-1]))
    return Result(
        [
            Metric(
                "images a second ÷ the pipeline's full-batch ceiling without repeats",
                statistics.median(shares),
                "",
                ">= 0.95",
                "Bounded by the last batches, when few agents are left, and by sleeping too long.",
            ),
            Metric("images a second ÷ a call a prompt", median_ratio(coalesced, alone)),
        ],
        [Table("Rounds", ("round", "requests", "distinct", "s", "images/s", "÷ ceiling"), tuple(rows))],
        notes=[
            "The pipeline is a stand-in that sleeps: this is the share of its time that coalescing loses."
        ],
    )
