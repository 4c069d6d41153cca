"""The calls of the MAIA paper's appendix A, beside those of its authors' later code.

The page that the model reads describes the later form only; programs in either form run unchanged.
"""

from __future__ import annotations

import dis
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

from .api import System, Tools, paired
from .image_handle import ImageHandle
from .link import ToolError
from .values import as_list, is_picture, looks_like_base64_image, text_of

_UNPACK = dis.opmap["UNPACK_SEQUENCE"]
_EXTENDED = dis.opmap["EXTENDED_ARG"]
_HIDDEN = "hidden"


def _also_called(**names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Accept other keyword names: old name = name in the signature."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def renamed(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **{names.get(key, key): value for key, value in kwargs.items()})

        return renamed

    return decorate


class Exemplars(list[tuple[float, ImageHandle]]):
    """Pairs (activation, image) that also unpack as `activations, images = ...`.

    The paper's programs unpack the result into two names; later ones go through the pairs. Only the
    instruction that asks for the iterator tells them apart: unpacking into exactly two targets.
    """

    def __iter__(self) -> Iterator[Any]:
        if _unpacks_into_two(sys._getframe(1)):
            return iter(([pair[0] for pair in self], [pair[1] for pair in self]))
        return super().__iter__()


def _unpacks_into_two(frame: Any) -> bool:
    code, at = frame.f_code.co_code, frame.f_lasti
    return at >= 0 and code[at] == _UNPACK and code[at + 1] == 2 and (at < 2 or code[at - 2] != _EXTENDED)


class PaperSystem(System):
    """The unit under study."""

    neuron_num = layer = model_name = device = _HIDDEN

    @_also_called(image_list="images")
    def call_neuron(self, images: Any) -> tuple[list[float], list[ImageHandle]]:
        return super().call_neuron(images)

    neuron = call_neuron

    @property
    def model(self) -> Any:
        raise ToolError(
            "the network itself is out of reach; show images to it with system.call_neuron(images)"
        )

    def load_model(self, model_name: str = "") -> Any:
        return self.model


class PaperTools(Tools):
    """Instruments for experiments on the unit."""

    def dataset_exemplars(self, system: Any = None) -> Exemplars:
        return Exemplars(zip(*self._exemplars(), strict=True))

    @_also_called(prompt_list="prompts")
    def text2image(self, prompts: Any, n: int = 1) -> list[ImageHandle]:
        return super().text2image(prompts, n)

    @_also_called(
        prompt_list_org_image="images",
        editing_instructions_list="instructions",
        base_images="images",
        image_list="images",
        editing_prompts="instructions",
    )
    def edit_images(self, images: Any, instructions: Any) -> Any:
        """Edit images, or make images from prompts and edit those.

        Prompts give (images, titles): each original is followed by its edit, as in the paper.
        """
        first = as_list(images, "images")
        if not first or any(is_picture(item) or looks_like_base64_image(item) for item in first):
            return super().edit_images(images, instructions)
        prompts = self._texts(first, "prompts")
        prompts, texts = paired(prompts, self._texts(instructions, "instructions"), "prompts", "instructions")
        # One image a distinct prompt: three edits of one prompt are then edits of one image.
        distinct = list(dict.fromkeys(prompts))
        made = dict(zip(distinct, super().text2image(distinct), strict=True))
        originals = [made[prompt] for prompt in prompts]
        edited = super().edit_images(originals, texts)
        pairs = zip(originals, edited, strict=True)
        titles = zip(prompts, texts, strict=True)
        return [image for pair in pairs for image in pair], [title for pair in titles for title in pair]

    @_also_called(image_list="images", image_title="titles", image_titles="titles")
    def describe_images(self, images: Any, titles: Any = None) -> str:
        return super().describe_images(images, titles)

    @_also_called(image_list="images")
    def summarize_images(self, images: Any) -> str:
        return super().summarize_images(images)

    def log_experiment(
        self, activation_list: Any, image_list: Any, image_titles: Any, image_textual_information: Any = ""
    ) -> None:
        """Put the results of an experiment into the log that is shown after the program."""
        images = self._values.images(image_list)
        activations = [_number(item) for item in _numbers(activation_list)]
        titles = self._titles(image_titles, len(images))
        for what, count in (("image_list", len(images)), ("image_titles", len(titles))):
            if count != len(activations):
                raise ToolError(
                    f"{what} has {count} items and activation_list {len(activations)}: they go together"
                )
        texts = image_textual_information
        if isinstance(texts, (list, tuple)):
            texts = [text_of(text) for text in texts]
        else:
            texts = "" if texts is None else text_of(texts)
        self._call("log", activations=activations, images=images, titles=titles, texts=texts)

    save_experiment_log = log_experiment

    @property
    def experiment_log(self) -> list[Any]:
        """The entries logged so far."""
        entries: list[Any] = self._call("state")["experiment_log"]
        return entries

    @property
    def results_list(self) -> list[dict[str, Any]]:
        """The results logged so far: {title: {"activation": ..., "image": ...}}."""
        results: list[dict[str, Any]] = self._call("state")["results_list"]
        return results

    @property
    def activation_threshold(self) -> float | None:
        """The mean activation of the dataset exemplars, once they have been asked for."""
        threshold: float | None = self._call("state")["activation_threshold"]
        return threshold


def _numbers(value: Any) -> list[Any]:
    return list(value) if hasattr(value, "__iter__") else [value]


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ToolError(f"activation_list must hold numbers, got {type(value).__name__}") from None
