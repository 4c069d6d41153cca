"""The agents' `system` and `tools` for people: in a notebook, in a terminal, or from a script.

    from experiments.studies.session import StudySession

    study = StudySession.open("tf_efficientnet_lite0", "blocks.6", "91")
    system, tools = study.system, study.tools
    tools.dataset_exemplars(system)

What is done is recorded as an agent's study is: a cell that used the tools is a round, and an answer goes to
the same critic. So reports, exports and evaluations read both alike.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import inspect
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from agents.records.journal import slug
from agents.records.record_types import Manifest
from agents.records.store import Store
from agents.records.work import WorkItem, write_plan
from agents.study.person import PersonsStudy
from agents.study.study import StudyContext, StudyRequest
from agents.tasks.describe_unit import DescribeUnit
from experiments.setup.run_folder import claim_run, open_run, remove_if_created
from experiments.setup.selection import Selected, Selection
from experiments.studies.contact_sheet import ContactSheets, terminal_images
from experiments.studies.notebook_html import (
    Examined,
    LabelCard,
    ObserverText,
    Origins,
    ReportPage,
    unit_card,
)
from experiments.studies.unit_request import UnitRequest
from tools.sandbox import ProgramOutcome, SandboxSettings
from tools.sandbox.child.api import System as AgentSystem
from tools.sandbox.child.api import Tools as AgentTools
from tools.sandbox.child.dialects import DIALECTS, values_of
from tools.sandbox.direct import DirectLink
from tools.subject import ActivationStatistics

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

    from experiments.setup.workbench import Workbench
from experiments.studies.notebook_tools import ImageView, NotebookSystem, NotebookTools, notebook_shell

T = TypeVar("T")

_INTERNAL = ("begin", "end", "cell", "follow", "show_images", "load_model", "save_experiment_log")
"""Calls that are not for people."""

_UNRECORDED = "# The program of these calls was not recorded: it ran outside of a cell."


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """A unit that a person wants to study."""

    model: str
    layer: str
    unit: str | int
    out: Path | str | None = None
    """The run directory; None takes a new one below `runs/`."""
    profile: str | None = None
    config: Path | str | None = None
    data: str | None = None
    """The data set in place of the profile's."""
    class_names: Path | str | None = None
    few_images: bool = False
    """Accept a data set of fewer than 30 distinct images."""
    seed: int = 0
    person: str = "person"
    """Who studies: written into the record."""
    notify: Callable[[str], None] = _print
    """Called with a sentence on each step of the start."""

    def load(self) -> Selected:
        """Return the configuration and profile; raises UsageError as `UnitRequest.load` does."""
        selection = Selection(
            _path(self.config), self.profile, self.data, _path(self.class_names), self.few_images
        )
        return UnitRequest(self.model, self.layer, str(self.unit), selection).load()

    def folder(self) -> Path:
        """Return the run directory."""
        name = f"{self.model} {self.layer} {self.unit} by {self.person}"
        return _path(self.out) or _new_folder(name)


def _path(text: Path | str | None) -> Path | None:
    return None if text is None else Path(text)


async def _open_study(
    request: SessionRequest, bench: Workbench, store: Store, manifest: Manifest
) -> PersonsStudy:
    """Claim the run for the unit, find its exemplars, and open the study of it."""
    layer, unit, person = request.layer, str(request.unit), f"person:{request.person}"
    subject = await bench.subject(layer, unit)
    claim_run(store, manifest, bench.context.facts)
    write_plan(store, [WorkItem(subject.id, layer, unit, seed=request.seed)])
    request.notify("searching the data set for exemplars")
    await subject.prepare(lambda _done, _total: None)
    facts = bench.context.facts | {"interpreter": person, "sight": "its own", "sandbox": "none"}
    context = replace(bench.context, facts=facts)
    asked = StudyRequest(subject, DescribeUnit(), request.seed)
    study = PersonsStudy(StudyContext(context, asked, store), person)
    await study.open()
    return study


def _wait(portal: BlockingPortal, work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the portal's event loop and return its result; Ctrl-C cancels it."""

    async def join() -> T:
        return await work

    future = portal.start_task_soon(join)
    try:
        return future.result()
    except KeyboardInterrupt:
        future.cancel()
        raise


class StudySession:
    """One person's study of one unit. Made by `open`; ended by `close`, its `with` block, or the end of the
    program.
    """

    def __init__(
        self,
        study: PersonsStudy,
        wait: Callable[[Coroutine[Any, Any, Any]], Any],
        run: Path,
        closing: contextlib.ExitStack,
        background: ActivationStatistics,
        limits: SandboxSettings,
    ) -> None:
        self.run = run
        self._study, self._wait, self._closing = study, wait, closing
        self._background = background
        self._link = DirectLink(study.context.toolbox, limits, wait)
        self._view = ImageView(Origins(lambda: study.context.toolbox.album))
        values = values_of(limits.dialect, self._link)
        self.system: AgentSystem
        self.tools: AgentTools
        if limits.dialect == "maia2":
            self.system, self.tools = NotebookSystem(values, self._view), NotebookTools(values, self._view)
        else:
            self.system, self.tools = (kind(values) for kind in DIALECTS[limits.dialect])  # type: ignore[assignment]
        self._hypotheses: tuple[str, ...] = ()
        self._source: list[str] = []
        self._output: _Tee | None = None
        self._began = time.monotonic()
        self._closed = False

    @classmethod
    def open(cls, model: str, layer: str, unit: str | int, **options: Any) -> StudySession:
        """Start what the profile names and return the study; an existing one in `out` is resumed.

        `options` are the fields of `SessionRequest`. In IPython and Jupyter every cell is recorded from here
        on; elsewhere use `cell`.

        Raises:
            TypeError: If an option is not such a field.
            UsageError: If anything that was asked for does not exist or cannot work.
        """
        return cls.start(SessionRequest(model, layer, unit, **options))

    @classmethod
    def start(cls, request: SessionRequest) -> StudySession:
        """Start what the profile names and return the study, as `open` does."""
        from anyio.from_thread import start_blocking_portal

        from experiments.setup.workbench import Workbench

        selected, notify = request.load(), request.notify
        model, person = request.model, request.person
        run = request.folder()
        manifest = selected.manifest(
            "session",
            person=person,
            model=model,
            layer=request.layer,
            unit=str(request.unit),
            seed=request.seed,
        )
        with remove_if_created(run), contextlib.ExitStack() as stack:
            store = open_run(selected.profile.dataset, run, manifest)
            portal = stack.enter_context(start_blocking_portal("asyncio"))
            workbench = Workbench.open(selected.profile, cache=selected.cache, model=model, notify=notify)
            bench = stack.enter_context(portal.wrap_async_context_manager(workbench))
            wait = functools.partial(_wait, portal)
            study = wait(_open_study(request, bench, store, manifest))
            background = wait(study.context.subject.background())
            session = cls(study, wait, run, stack.pop_all(), background, selected.profile.sandbox)
        if (shell := notebook_shell()) is not None:
            session.follow(shell)
        # Python joins the threads of its pools before it runs `atexit` handlers: only this hook comes early
        # enough.
        getattr(threading, "_register_atexit", atexit.register)(session.close)
        notify(f"ready: {run}")
        return session

    # What a person does.

    def hypotheses(self, *words: str) -> None:
        """Note what could explain the unit; the next experiment is recorded as a test of it."""
        self._hypotheses = tuple(words)

    def answer(self, *labels: str, description: str = "") -> Examined:
        """Answer, with one label or, for unrelated concepts, several; the critic tests it on fresh images.

        An answer that is sent back can be followed by more experiments and another one.

        Raises:
            UsageError: If this study has its answer already.
        """
        self._commit()
        verdict = self._wait(self._study.answer(labels, description))
        critic = self._study.context.critic
        images = {} if critic is None else critic.images
        left = [images[name].to_pil() for name in (verdict.shown if verdict else ()) if name in images]
        return Examined(" OR ".join(labels), verdict, self.result, left)

    def help(self) -> ObserverText:
        """Return what one can do here: the calls of `system`, `tools` and `study`, each with a line."""
        return ObserverText(_guide(self))

    @property
    def result(self) -> LabelCard | None:
        """The label card, once an answer stands."""
        return None if self._study.result is None else LabelCard(self._study.result.to_json())

    @property
    def rounds(self) -> int:
        return self._study.rounds

    def report(self) -> Path:
        """Write the study's page and return its path, which a notebook shows as a link."""
        from experiments.report import write_unit_page

        return ReportPage(write_unit_page(self.run, slug(self._study.context.subject.id)))

    def close(self) -> None:
        """End the models and the sandbox; what was recorded stays."""
        if self._closed:
            return
        self._closed = True
        with contextlib.closing(self._link), contextlib.closing(self._closing):
            self.end(None)
            self._commit()

    def __enter__(self) -> StudySession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = f"answered {self.result['label']!r}" if self.result else f"{self.rounds} rounds so far"
        return f"<study of {self._study.context.subject.id}, {state}, in {self.run}>"

    def _repr_html_(self) -> str:
        known = self._background
        rows = [
            (
                "data set",
                f"{known.n_images:,} images searched (others are held out, for the test of answers), "
                f"activation {known.mean:.2f} ± {known.std:.2f}",
            ),
            ("strongest", f"{known.maximum:.2f}"),
            ("rounds", str(self.rounds)),
            ("recorded in", str(self.run)),
            ("more", "study.help() lists what you can do; maia view DIR shows the pages of a study"),
        ]
        return unit_card(self._study.context.subject.id, rows)

    # How it is recorded.

    @contextlib.contextmanager
    def cell(self, source: str) -> Iterator[None]:
        """Record what is done in the `with` block as an experiment whose program is `source`."""
        self.begin(source)
        error: BaseException | None = None
        try:
            yield
        except BaseException as caught:
            error = caught
            raise
        finally:
            self.end(error)

    def begin(self, source: str) -> None:
        """Begin to record a cell, whose calls have limits of their own."""
        self.end(None)
        self._commit()
        self._source.append(source.strip("\n"))
        self._began = time.monotonic()
        self._output = _Tee(sys.stdout)
        sys.stdout = self._output

    def end(self, error: BaseException | None) -> None:
        """End a cell: a round if it used the tools, else its source is kept for the next that does."""
        if self._output is None:
            return
        try:
            self._commit(error)
        finally:
            if sys.stdout is self._output:
                sys.stdout = self._output.stream
            self._output = None

    def _commit(self, error: BaseException | None = None) -> None:
        desk = self._link.desk
        # Also where nothing is recorded: the limits of one program must not end those after it.
        self._link.begin()
        if not desk.answers or self._study.answered:
            return
        words = "" if error is None else traceback.format_exception_only(error)[-1].strip()
        outcome = ProgramOutcome(
            status="ok" if error is None else "error",
            output=self._output.take() if self._output is not None else "",
            output_truncated=False,
            value=None,
            error=words,
            duration_s=time.monotonic() - self._began,
            calls=desk.calls,
            tier="none",
        )
        program = "\n\n".join(part for part in self._source if part) or _UNRECORDED
        self._source.clear()
        hypotheses, self._hypotheses = self._hypotheses, ()
        self._wait(self._study.experiment(program, outcome, desk.answers, hypotheses))

    def show_images(self, shell: Any) -> None:
        """Let a terminal show images: inside it if it can, else as files whose paths it prints."""
        self._view.follow(shell, ContactSheets(self.run / "sheets", terminal_images()))

    def follow(self, shell: Any) -> None:
        """Record each cell of an IPython shell, from the one that runs now."""

        def before(info: Any) -> None:
            self.begin(info.raw_cell)

        def after(result: Any) -> None:
            self.end(result.error_before_exec or result.error_in_exec)

        shell.events.register("pre_run_cell", before)
        shell.events.register("post_run_cell", after)
        self._closing.callback(shell.events.unregister, "pre_run_cell", before)
        self._closing.callback(shell.events.unregister, "post_run_cell", after)
        # The cell that opened the study is no experiment.
        self.begin("")


class _Tee:
    """Standard output that is also kept."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._kept: list[str] = []

    def write(self, text: str) -> int:
        self._kept.append(text)
        return self.stream.write(text)

    def take(self) -> str:
        text = "".join(self._kept)
        self._kept.clear()
        return text

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _guide(session: StudySession) -> str:
    """Return the public calls of a session, each with its arguments and the first line of its docstring."""
    lines = []
    for name, thing in (("system", session.system), ("tools", session.tools), ("study", session)):
        lines.append(f"{name}: {(type(thing).__doc__ or '').strip().splitlines()[0]}")
        for method, function in inspect.getmembers(type(thing), inspect.isfunction):
            if method.startswith("_") or method in _INTERNAL:
                continue
            words = [each for each in inspect.signature(function).parameters.values() if each.name != "self"]
            first = (function.__doc__ or "").strip().splitlines()[0]
            lines.append(f"  {name}.{method}({', '.join(map(_argument, words))})\n      {first}")
    return "\n".join([*lines, "help(tools.text2image) and the like show examples."])


def _argument(parameter: inspect.Parameter) -> str:
    if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
        return f"*{parameter.name}"
    optional = parameter.default is not inspect.Parameter.empty
    return f"{parameter.name}={parameter.default!r}" if optional else parameter.name


def _new_folder(name: str) -> Path:
    """Return a folder below `runs/` that does not exist yet."""
    number = 1
    while (folder := Path("runs") / f"{slug(name)}-{number}").exists():
        number += 1
    return folder
