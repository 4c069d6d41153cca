"""What programs call in a notebook: as an agent's, and a cell shows what they return."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import PIL.Image

from experiments.studies.contact_sheet import ContactSheets
from experiments.studies.notebook_html import (
    ChosenExemplars,
    Examined,
    MeasuredImages,
    ObserverText,
    Origins,
    Pictures,
    ShownEffects,
    ShownExemplars,
    flat,
    mixed,
)
from tools.sandbox.child.api import System as AgentSystem
from tools.sandbox.child.api import Tools as AgentTools
from tools.sandbox.child.values import Values


def _documented_as(function: Any) -> Callable[[Any], Any]:
    """Let a method have another's signature and docstring: those that agents are shown."""
    return functools.wraps(function)


class NotebookSystem(AgentSystem):
    """The unit under study, as an agent has it; a notebook shows what it returns."""

    def __init__(self, values: Values, view: ImageView) -> None:
        super().__init__(values)
        self._view = view

    @_documented_as(AgentSystem.call_neuron)
    def call_neuron(self, *args: Any, **kwargs: Any) -> MeasuredImages:
        return MeasuredImages(super().call_neuron(*args, **kwargs)).seen_by(self._view.origins)

    @_documented_as(AgentSystem.exemplars)
    def exemplars(self, *args: Any, **kwargs: Any) -> ChosenExemplars:
        return ChosenExemplars(super().exemplars(*args, **kwargs))

    @_documented_as(AgentSystem.intervene)
    def intervene(self, *args: Any, **kwargs: Any) -> ShownEffects:
        return ShownEffects.of(super().intervene(*args, **kwargs))


class NotebookTools(AgentTools):
    """An agent's instruments; a notebook shows what they return."""

    def __init__(self, values: Values, view: ImageView) -> None:
        super().__init__(values)
        self._view = view

    @_documented_as(AgentTools.dataset_exemplars)
    def dataset_exemplars(self, *args: Any, **kwargs: Any) -> ShownExemplars:
        return ShownExemplars(super().dataset_exemplars(*args, **kwargs))

    @_documented_as(AgentTools.text2image)
    def text2image(self, *args: Any, **kwargs: Any) -> Pictures:
        return Pictures(super().text2image(*args, **kwargs)).seen_by(self._view.origins)

    @_documented_as(AgentTools.edit_images)
    def edit_images(self, *args: Any, **kwargs: Any) -> Pictures:
        return Pictures(super().edit_images(*args, **kwargs)).seen_by(self._view.origins)

    @_documented_as(AgentTools.describe_images)
    def describe_images(self, *args: Any, **kwargs: Any) -> ObserverText:
        return ObserverText(super().describe_images(*args, **kwargs))

    @_documented_as(AgentTools.summarize_images)
    def summarize_images(self, *args: Any, **kwargs: Any) -> ObserverText:
        return ObserverText(super().summarize_images(*args, **kwargs))

    @_documented_as(AgentTools.display)
    def display(self, *items: Any) -> None:
        super().display(*items)
        self._view.show(items)


class ImageView:
    """Where a person sees the images of a study: a notebook, or an IPython terminal by contact sheets."""

    def __init__(self, origins: Origins) -> None:
        self.origins = origins
        self.sheets: ContactSheets | None = None

    def show(self, items: Sequence[Any]) -> None:
        """Show what was displayed; a terminal has printed the text of it."""
        shell = notebook_shell()
        if shell is not None and hasattr(shell, "kernel"):
            from IPython.display import HTML, display

            display(HTML(mixed(items, self.origins)))
        elif self.sheets is not None:
            images = [item for item in flat(items) if isinstance(item, PIL.Image.Image)]
            print(self.sheets.show(self.origins.shown(images)), end="\n" if images else "")

    def follow(self, shell: Any, sheets: ContactSheets) -> None:
        """Let a terminal show the images of what cells return."""
        self.sheets = sheets

        def pretty(value: Any, printer: Any, cycle: bool) -> None:
            lines = [repr(value)] if isinstance(value, Examined | ShownEffects) else []
            if not lines:
                lines = ["  ".join(filter(None, (shown.value, shown.words))) for shown in value.pictures()]
            printer.text("\n".join(filter(None, [*lines, sheets.show(value.pictures())])))

        formatter = shell.display_formatter.formatters["text/plain"]
        for kind in (Pictures, MeasuredImages, ShownExemplars, ChosenExemplars, ShownEffects, Examined):
            formatter.for_type(kind, pretty)


def notebook_shell() -> Any:
    """Return the IPython that this code runs in, None elsewhere."""
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    return get_ipython()
