"""The log of an agent's experiments: the only results that its later programs can look up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from actors.errors import UsageError
from tools.sandbox.base import ImageRef

MAX_ENTRIES = 1000
MAX_CHARACTERS = 500_000
"""Of titles and texts. The log is written into every round, and sent to every program that looks at it."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One image of one logged experiment."""

    title: str
    activation: float
    image: ImageRef
    text: str = ""


@dataclass(slots=True)
class ExperimentLog:
    """The logged experiments of one agent, oldest first.

    `activation_threshold` is the mean of the exemplars' activations once these were asked for: an
    experiment that stays below it gets a reminder to go on (MAIA, appendix A).
    """

    experiments: list[list[LogEntry]] = field(default_factory=list)
    activation_threshold: float | None = None
    _n_entries: int = 0
    _n_characters: int = 0

    def add(
        self,
        activations: Sequence[float],
        images: Sequence[ImageRef],
        titles: Sequence[str],
        texts: Sequence[str],
    ) -> list[LogEntry]:
        """Append one experiment and return its entries.

        Raises:
            UsageError: If the lists differ in length, or the log is full. One text may stand for all images.
        """
        if len(texts) == 1 and len(images) != 1:
            texts = [texts[0], *[""] * (len(images) - 1)] if images else []
        lengths = {"activations": len(activations), "images": len(images), "titles": len(titles)}
        if len(set(lengths.values())) != 1 or (texts and len(texts) != len(images)):
            lengths["texts"] = len(texts)
            counts = ", ".join(f"{count} {name}" for name, count in lengths.items())
            raise UsageError(f"log_experiment needs lists of equal length, got {counts}.")
        entries = [
            LogEntry(title, float(activation), image, text)
            for title, activation, image, text in zip(
                titles, activations, images, texts or [""] * len(images), strict=True
            )
        ]
        n_entries = self._n_entries + len(entries)
        n_characters = self._n_characters + sum(len(entry.title) + len(entry.text) for entry in entries)
        if n_entries > MAX_ENTRIES or n_characters > MAX_CHARACTERS:
            raise UsageError(
                f"the experiment log of a study may have {MAX_ENTRIES} images and {MAX_CHARACTERS} "
                f"characters, and this would make {n_entries} and {n_characters}.",
                "Log what matters, with short texts.",
            )
        self._n_entries, self._n_characters = n_entries, n_characters
        self.experiments.append(entries)
        return entries

    def reminder(self, entries: Sequence[LogEntry]) -> str:
        """Return the reminder for an agent whose experiment stayed below the exemplars, else ""."""
        if self.activation_threshold is None or not entries:
            return ""
        best = max(entry.activation for entry in entries)
        if best >= self.activation_threshold:
            return ""
        return (
            f"The highest activation of this experiment, {best:.2f}, is below that of the data set's "
            f"exemplars (mean {self.activation_threshold:.2f}): "
            "something that drives this unit is still missing. "
            "Continue with other experiments."
        )

    @property
    def results(self) -> list[dict[str, dict[str, object]]]:
        """Every logged image as the paper's `results_list`: {title: {"activation": a, "image": image}}."""
        return [
            {entry.title: {"activation": entry.activation, "image": entry.image}}
            for entries in self.experiments
            for entry in entries
        ]
