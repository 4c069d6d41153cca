"""A session at a terminal: a prompt at which each input is a program of the study."""

from __future__ import annotations

import ast
import code
import traceback
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from experiments.studies.session import StudySession


def talk(session: StudySession, programs: TextIO) -> bool:
    """Let a person work with `system`, `tools` and `study` until they leave; return whether all went well.

    On a terminal: IPython if it is installed, else Python's own prompt. From a pipe, all that comes is one
    program; values of its expressions are printed as at a prompt.
    """
    names = {"system": session.system, "tools": session.tools, "study": session, "__name__": "__main__"}
    if not programs.isatty():
        source = programs.read()
        try:
            with session.cell(source):
                statements = ast.Interactive(ast.parse(source, "<stdin>").body)
                exec(compile(statements, "<stdin>", "single"), names)
        except Exception:
            traceback.print_exc()
            return False
        return True
    banner = (
        "system, tools, study: study.help() lists their calls, study.answer(...) answers, Ctrl-D leaves\n"
        f"in another terminal, maia view {session.run} shows the study as a page"
    )
    try:
        from IPython.terminal.embed import InteractiveShellEmbed
    except ImportError:
        _Prompt(session, names).interact(banner, exitmsg="")
    else:
        shell = InteractiveShellEmbed.instance(user_ns=names, banner1=banner + "\n")
        session.follow(shell)
        session.show_images(shell)
        shell()
    return True


class _Prompt(code.InteractiveConsole):
    """Python's own prompt, which records what is typed."""

    def __init__(self, session: StudySession, names: dict[str, Any]) -> None:
        super().__init__(names)
        self._session, self._typed = session, ""

    def runsource(self, source: str, filename: str = "<input>", symbol: str = "single") -> bool:
        self._typed = source
        return super().runsource(source, filename, symbol)

    def runcode(self, compiled: Any) -> None:
        with self._session.cell(self._typed):
            super().runcode(compiled)
