"""The cost of long conversations at an endpoint: tokens billed and bytes sent, through the real backend.

    python -m benchmarks.bench_tokens

A scripted conversation (a system page of 22,000 characters; each round a program, its output and ten
pictures of 224 px) is held with the stand-in endpoint of the tests, whose prefix cache works as OpenAI
documents its own: whole blocks of 128 tokens from 1,024 on. The number of tokens of a picture is an
assumption (67, as a 224 px picture costs with several providers); the pictures are smooth noise.
Compared, each against the plain way of sending everything again with nothing cached:
- cached, read 0.5: append-only with a prefix cache whose reads cost half (writes cost nothing extra);
- cached, read 0.1: the same where reads cost a tenth and writes a quarter more;
- shared: the latter for a unit of a run of eight, whose conversations begin with the same page;
- blocks: no cache at all, old pictures leave in blocks.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
from dataclasses import dataclass

import numpy as np
import PIL.Image

from actors.chat.base import ChatRequest, Message
from actors.chat.hosted.openai_compatible import OpenAIBackend
from actors.chat.reply import Usage
from actors.chat.settings import HistorySettings, OpenAIChat
from actors.images import Image, data_url, encode_png
from tests.fake_endpoint import KEY, MODEL, FakeEndpoint, PrefixCache, Seen

IMAGE_TOKENS = 67
PICTURES_A_ROUND = 10
AGENTS = 8


def picture(seed: int) -> Image:
    """Return smooth noise with a little grain, 224 x 224: about as compressible as a photograph."""
    rng = np.random.default_rng(seed)
    coarse = PIL.Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((224, 224), PIL.Image.Resampling.BICUBIC)).astype(np.int16)
    return Image.from_pixels(np.clip(smooth + rng.integers(-6, 7, smooth.shape), 0, 255).astype(np.uint8))


def conversation(rounds: int, agent: int = 0) -> list[tuple[Message, ...]]:
    """Return the messages of each round's request. Agents of a run have the system page and the task in
    common.
    """
    messages = [Message("system", ("describe the api " * 1294,)), Message("user", ("The task.",))]
    first = 1000 * agent
    requests = [tuple(messages)]
    for turn in range(rounds - 1):
        shown = tuple(picture(first + turn * PICTURES_A_ROUND + i) for i in range(PICTURES_A_ROUND))
        messages.append(Message("assistant", (f"program {first + turn} " + "code " * 300,)))
        messages.append(Message("user", (f"output {first + turn} " + "text " * 200, *shown)))
        requests.append(tuple(messages))
    return requests


@dataclass
class Cost:
    prompt: int
    cached: int
    bytes: int
    stable: float


async def hold(conversations: list[list[tuple[Message, ...]]], history: HistorySettings) -> Cost:
    """Hold conversations over HTTP, one after the other; return what was billed, and how often a request
    began with the last.
    """
    with FakeEndpoint(lambda seen: "ok") as endpoint:
        endpoint.cache = PrefixCache(image_tokens=IMAGE_TOKENS)
        settings = OpenAIChat(model=MODEL, base_url=endpoint.base_url, api_key_env="KEY", history=history)
        backend = OpenAIBackend(settings, environ={"KEY": KEY})
        total = Usage()
        stable = []
        for requests in conversations:
            before = len(endpoint.seen)
            for messages in requests:
                total += (await backend.complete(ChatRequest(messages))).usage
            stable.append(_stable(endpoint.seen[before:]))
        await backend.close()
        assert not endpoint.complaints
        return Cost(
            total.prompt_tokens,
            total.cached_tokens,
            sum(len(seen.raw) for seen in endpoint.seen),
            sum(stable) / len(stable),
        )


def _stable(seen: list[Seen]) -> float:
    pairs = list(itertools.pairwise(seen))
    return sum(after.messages[: len(before.messages)] == before.messages for before, after in pairs) / len(
        pairs
    )


def png_bytes(requests: list[tuple[Message, ...]]) -> int:
    """Return the bytes of the plain way: every picture of every request as base64 PNG."""
    sizes: dict[str, int] = {}
    total = 0
    for messages in requests:
        for message in messages:
            total += len(message.text)
            for image in message.images:
                if image.id not in sizes:
                    sizes[image.id] = len(data_url(encode_png(image), "image/png"))
                total += sizes[image.id]
    return total


def dear(cost: Cost) -> float:
    """Return what is billed, against everything sent again, where reads cost a tenth and writes a quarter
    more.
    """
    return (1.25 * (cost.prompt - cost.cached) + 0.1 * cost.cached) / cost.prompt


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, nargs="+", default=[8, 15, 25])
    parser.add_argument("--max-images", type=int, default=20)
    parser.add_argument("--block", type=int, default=10)
    arguments = parser.parse_args()
    print(
        "| rounds | plain, tokens | cached, read 0.5 | cached, read 0.1 | shared | blocks | prefix-stable | "
        "bytes / PNG |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for rounds in arguments.rounds:
        requests = conversation(rounds)
        whole = await hold([requests], HistorySettings())
        run = await hold([conversation(rounds, agent) for agent in range(AGENTS)], HistorySettings())
        blocks = await hold(
            [requests], HistorySettings(max_images=arguments.max_images, block=arguments.block)
        )
        plain, fresh = whole.prompt, whole.prompt - whole.cached
        print(
            f"| {rounds} | {plain:,} | {(fresh + 0.5 * whole.cached) / plain:.2f} "
            f"| {dear(whole):.2f} | {dear(run):.2f} | {blocks.prompt / plain:.2f} "
            f"| {whole.stable:.0%} (blocks {blocks.stable:.0%}) | {whole.bytes / png_bytes(requests):.2f} |"
        )


if __name__ == "__main__":
    asyncio.run(main())
