"""The protocol's side: tools and resources of `OutsideStudies`, for any client.

Every tool answers within half a minute: what takes longer is waited for with `wait`. Faults of use are
results, in words that the client's model reads.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Annotated, Any, ParamSpec, TypeVar

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ResourceError, ToolError
from mcp_types import CallToolResult, ContentBlock, ImageContent, TextContent, ToolAnnotations
from pydantic import Field

from actors.errors import MaiaError, UsageError
from experiments.mcp_server import programs
from experiments.mcp_server.answers import LabelsFound, LayersFound, SeenImage, ServerStatus, StudyUpdate
from experiments.mcp_server.outside_model import interpreter_name
from experiments.mcp_server.outside_study import OutsideStudy
from experiments.mcp_server.pictures import Captioned, encode
from experiments.mcp_server.studies import OutsideStudies
from experiments.mcp_server.wording import (
    BRIEF,
    INSTRUCTIONS,
    headline,
    journal_text,
    outcome_text,
    texts,
)
from tools.sandbox import api_page

ANSWER_S = 25.0
"""Seconds after which a tool answers that its work goes on."""
MOST_WAIT_S = 30
_NOTICE_S = 2.0

P = ParamSpec("P")
T = TypeVar("T")

StudyId = Annotated[str, Field(description="The study's id, such as s1.")]
ImageNames = Annotated[list[str], Field(description="Names of images that results showed: i1, i2, ...")]
Measured = Annotated[bool, Field(description="Measure the images at once.")]
UpdateResult = Annotated[CallToolResult, StudyUpdate]


def in_words(tool: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Turn errors that say what to do into results that the client's model reads."""

    @functools.wraps(tool)
    async def worded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await tool(*args, **kwargs)
        except MaiaError as error:
            raise ToolError(str(error)) from error

    return worded


class OutsideTools:
    """The tools, whose docstrings are what clients are shown."""

    def __init__(self, studies: OutsideStudies, answer_s: float = ANSWER_S) -> None:
        self._studies, self._answer_s = studies, answer_s

    @in_words
    async def open_study(
        self,
        layer: Annotated[str, Field(description="A layer of the network; `output` for classes.")],
        unit: Annotated[str, Field(description="Its number from 0, or a class name for `output`.")],
        ctx: Context[Any, Any],
    ) -> UpdateResult:
        """Open the study of a unit, or go on with one that was begun. The first loads models: use wait."""
        study = self._studies.open(layer, unit, _client_of(ctx))
        return await self._settle(study, ctx, brief=True)

    @in_words
    async def exemplars(
        self,
        study: StudyId,
        ctx: Context[Any, Any],
        which: Annotated[
            str,
            Field(
                description="top: the strongest; modes: these in groups; quantiles: across the range; near: "
                "like the strongest, but silent; least: the weakest."
            ),
        ] = "top",
        k: Annotated[int, Field(description="How many, at most 15.")] = 15,
    ) -> UpdateResult:
        """Show images of the data set, masked to what drives the unit, with activations. Begin with these."""
        return await self._experiment(study, programs.exemplars(which, k), (), ctx)

    @in_words
    async def measure(self, study: StudyId, images: ImageNames, ctx: Context[Any, Any]) -> UpdateResult:
        """Show images to the unit: activations, and the images masked to what drives it."""
        return await self._experiment(study, programs.measure(images), images, ctx)

    @in_words
    async def generate(
        self,
        study: StudyId,
        prompts: Annotated[list[str], Field(description="What each image shows, at most 64.")],
        ctx: Context[Any, Any],
        per_prompt: Annotated[int, Field(description="Images of each prompt.")] = 1,
        measure: Measured = True,
    ) -> UpdateResult:
        """Make images from text, and measure them. Vary one thing at a time, and include controls."""
        return await self._experiment(study, programs.generate(prompts, per_prompt, measure), (), ctx)

    @in_words
    async def edit(
        self,
        study: StudyId,
        images: ImageNames,
        instructions: Annotated[list[str], Field(description='Such as "replace the dog with a cat".')],
        ctx: Context[Any, Any],
        measure: Measured = True,
    ) -> UpdateResult:
        """Change images, one instruction an image, and measure the results. One of either stands for all."""
        return await self._experiment(study, programs.edit(images, instructions, measure), images, ctx)

    @in_words
    async def describe(self, study: StudyId, images: ImageNames, ctx: Context[Any, Any]) -> UpdateResult:
        """Have images described, one by one, by an observer who knows neither hypotheses nor activations."""
        return await self._experiment(study, programs.describe(images), images, ctx)

    @in_words
    async def summarize(self, study: StudyId, images: ImageNames, ctx: Context[Any, Any]) -> UpdateResult:
        """Have an observer who knows nothing of your hypotheses say what images have in common."""
        return await self._experiment(study, programs.summarize(images), images, ctx)

    @in_words
    async def intervene(
        self,
        study: StudyId,
        images: ImageNames,
        ctx: Context[Any, Any],
        kind: Annotated[str, Field(description="ablate, scale, add, set or clamp.")] = "ablate",
        value: Annotated[
            programs.InterventionValue,
            Field(
                description='Of ablate: "zero", "mean" or "resample"; of clamp [low, high]; else a number.'
            ),
        ] = None,
        where: Annotated[
            programs.InterventionValue,
            Field(description="Nothing: everywhere; 0.5: where the unit is half as strong as at its peak."),
        ] = None,
    ) -> UpdateResult:
        """Give the unit another value inside the network, and see which outputs rise and fall on images."""
        program = programs.intervene(images, kind, value, where)
        return await self._experiment(study, program, images, ctx)

    @in_words
    async def run_program(
        self,
        study: StudyId,
        program: Annotated[str, Field(description="Python with `system`, `tools`, `images`, numpy, PIL.")],
        ctx: Context[Any, Any],
    ) -> UpdateResult:
        """Run Python in the study's sandbox: many calls of system and tools in one round.

        It has no files and no network; variables stay. Only what is printed or displayed is seen. open_study
        and the resource maia://api have the calls.
        """
        return await self._experiment(study, program, (), ctx)

    @in_words
    async def log_hypotheses(
        self, study: StudyId, hypotheses: Annotated[list[str], Field(description="One sentence each.")]
    ) -> str:
        """Note what could explain the unit: the next experiment is recorded as its test. Costs no round."""
        self._studies.study(study).propose(hypotheses)
        return "Noted: they are recorded with your next experiment."

    @in_words
    async def answer(
        self,
        study: StudyId,
        labels: Annotated[list[str], Field(description="A short phrase for each unrelated concept.")],
        description: Annotated[str, Field(description="What drives the unit, and what does not.")],
        ctx: Context[Any, Any],
    ) -> UpdateResult:
        """Give the final answer. A critic tests it on new images; it ends the study, or comes back once."""
        opened = self._studies.study(study)
        opened.answer(labels, description)
        return await self._settle(opened, ctx)

    @in_words
    async def wait(
        self,
        study: StudyId,
        ctx: Context[Any, Any],
        seconds: Annotated[float, Field(description="At most 30.")] = 25,
    ) -> UpdateResult:
        """Wait for the result of the last call, and return it. Call again while the study is at work."""
        if not 0 <= seconds <= MOST_WAIT_S:
            raise UsageError(f"seconds must be from 0 to {MOST_WAIT_S}, got {seconds:g}.", "Call it again.")
        return await self._settle(self._studies.study(study), ctx, seconds=seconds)

    @in_words
    async def cancel(self, study: StudyId, ctx: Context[Any, Any]) -> UpdateResult:
        """End the program that runs; the study goes on. An answer that is being tested cannot be recalled."""
        opened = self._studies.study(study)
        if not opened.interrupt():
            raise UsageError("no program runs in this study.", "See `status`.")
        return await self._settle(opened, ctx)

    @in_words
    async def close_study(self, study: StudyId) -> str:
        """Stop working on a unit. What was done is kept, and open_study takes it up again."""
        await self._studies.study(study).close()
        return f"{study} is closed."

    @in_words
    async def status(self) -> ServerStatus:
        """Say which network this server studies, what it is doing, and which studies there are."""
        return self._studies.status()

    @in_words
    async def list_layers(
        self, contains: Annotated[str, Field(description="Part of the names, all if empty.")] = ""
    ) -> LayersFound:
        """List layers of the network, with how many units each has. The first call loads models."""
        searching = asyncio.ensure_future(self._studies.layers(contains))
        await asyncio.wait([searching], timeout=self._answer_s)
        if not searching.done():
            searching.cancel()
            doing = self._studies.status().doing
            raise UsageError(f"the models are not ready ({doing}).", "Call list_layers again.")
        return searching.result()

    @in_words
    async def find_labels(
        self, words: Annotated[str, Field(description="Words that the label or description must hold.")]
    ) -> LabelsFound:
        """Find units of this run by words of their labels, among those whose study has ended."""
        return await self._studies.find(words)

    async def _experiment(
        self, id: str, program: str, uses: Sequence[str], ctx: Context[Any, Any]
    ) -> CallToolResult:
        study = self._studies.study(id)
        study.run(program, uses)
        try:
            return await self._settle(study, ctx)
        except asyncio.CancelledError:
            # Whoever asked does not want it any more: what it would still cost is not spent.
            study.interrupt()
            raise

    async def _settle(
        self,
        study: OutsideStudy,
        ctx: Context[Any, Any],
        *,
        seconds: float | None = None,
        brief: bool = False,
    ) -> CallToolResult:
        """Return how the study stands once it awaits a call, or after a while."""
        began = time.monotonic()
        limit = self._answer_s if seconds is None else seconds
        while not await study.wait(min(_NOTICE_S, max(0.0, limit - (time.monotonic() - began)))):
            if (passed := time.monotonic() - began) >= limit:
                break
            await ctx.report_progress(passed, message=study.update().doing)
        if (failure := study.failure()) is not None:
            fix = "Open the study again to go on from its last round."
            raise UsageError(str(failure), fix if not isinstance(failure, UsageError) else "")
        return _result(study, brief=brief)


def _client_of(ctx: Context[Any, Any]) -> str:
    """Return the name of the client as it is put on record."""
    about = ctx.session.client_params
    return (
        interpreter_name(about.client_info.name, about.client_info.version)
        if about
        else interpreter_name("", "")
    )


def _result(study: OutsideStudy, *, brief: bool) -> CallToolResult:
    update, shown = study.update(), study.shown()
    content: list[ContentBlock] = [TextContent(text=headline(update))]
    if update.state == "ready" and (brief or update.rounds == 0):
        content.append(TextContent(text=f"{BRIEF}\n{study.api_page}"))
    images = [part for part in shown if not isinstance(part, str)]
    seen = {image: about for about, image in programs.seen_images(shown)}
    pictures = encode([Captioned(image, _caption(seen.get(image))) for image in images])
    blocks = [ImageContent(data=each.data, mime_type=each.media_type) for each in pictures]
    if len(pictures) == len(images):
        queue = iter(blocks)
        content += [TextContent(text=part) if isinstance(part, str) else next(queue) for part in shown]
    else:
        content += [TextContent(text="\n".join(texts(shown))), *blocks]
    if update.outcome is not None:
        content.append(TextContent(text=outcome_text(update.outcome)))
    return CallToolResult(content=content, structured_content=update.model_dump())


def _caption(image: SeenImage | None) -> str:
    if image is None:
        return ""
    return image.name if image.activation is None else f"{image.name}  {image.activation:.2f}"


_READING = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_WORKING = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)


def build_server(studies: OutsideStudies, *, answer_s: float = ANSWER_S) -> MCPServer[Any]:
    """Return the server of these studies; `answer_s` is the longest that a tool lets a client wait."""
    server: MCPServer[Any] = MCPServer(
        "maia",
        instructions=INSTRUCTIONS,
        version=importlib.metadata.version("maia"),
        log_level="WARNING",
    )
    tools = OutsideTools(studies, answer_s)
    for tool in (tools.status, tools.list_layers, tools.find_labels):
        server.add_tool(tool, annotations=_READING)
    for work in (
        *(tools.open_study, tools.exemplars, tools.measure, tools.generate, tools.edit, tools.describe),
        *(
            tools.summarize,
            tools.intervene,
            tools.run_program,
            tools.log_hypotheses,
            tools.answer,
            tools.wait,
        ),
        *(tools.cancel, tools.close_study),
    ):
        server.add_tool(work, annotations=_WORKING)
    _add_resources(server, studies)
    return server


def _add_resources(server: MCPServer[Any], studies: OutsideStudies) -> None:
    def study(id: str) -> OutsideStudy:
        try:
            return studies.study(id)
        except UsageError as error:
            raise ResourceError(str(error)) from error

    @server.resource("maia://api", mime_type="text/plain")
    def calls() -> str:
        """What programs of run_program may call."""
        return api_page("maia2")

    @server.resource("maia://studies/{id}/journal", mime_type="text/markdown")
    async def journal(id: str) -> str:
        """What was said and shown in a study, round by round."""
        opened = study(id)
        return journal_text(await opened.journal(), opened.update().outcome)

    @server.resource("maia://studies/{id}/report", mime_type="text/markdown")
    async def report(id: str) -> str:
        """The label of a study that has ended, its verdict and figures, and where its page is."""
        outcome = study(id).update().outcome
        return "This study has no result yet." if outcome is None else outcome_text(outcome)
