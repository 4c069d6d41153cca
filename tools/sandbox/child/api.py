"""`system` and `tools` as a program sees them, in the dialect `maia2`; `paper_api` has the other one.

The docstrings of the public methods are the API page that the model reads, so they speak to it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from .effects import Effects, ImageEffect, effects_of
from .image_handle import ImageHandle
from .link import ToolError
from .values import Values, as_list, is_picture, looks_like_base64_image, text_of
from .wire import MAX_LIST

MAX_IMAGES_A_CALL = 256
_HIDDEN = "hidden"


def also_called(**names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Accept other keyword names: old name = name in the signature."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def renamed(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **{names.get(key, key): value for key, value in kwargs.items()})

        return renamed

    return decorate


class Remote:
    """The base of `System` and `Tools`: calls to the host. `notify` shows the program a note."""

    def __init__(self, values: Values, notify: Callable[[str], None] = print) -> None:
        self._values, self._notify = values, notify

    def __repr__(self) -> str:
        return f"<{type(self).__name__.removeprefix('Paper').lower()}>"

    def _call(self, method: str, **arguments: Any) -> Any:
        return self._values.decode(self._values.call(method, **arguments))

    def _texts(self, value: Any, what: str) -> list[str]:
        texts = as_list(value, what)
        for index, text in enumerate(texts):
            if type(text) is not str:
                raise ToolError(f"{what}[{index}] must be a string, got {type(text).__name__}")
        return [text_of(text) for text in texts]

    def _titles(self, titles: Any, count: int) -> list[str]:
        if titles is None:
            return [f"image {index + 1}" for index in range(count)]
        return [text_of(title) for title in as_list(titles, "titles")]


class System(Remote):
    """The unit under study: one scalar inside a vision network that you can show images to.

    Which network, layer and unit it is stays hidden, so that the evidence comes from experiments alone.
    """

    neuron_num = layer = model_name = device = _HIDDEN

    @also_called(image_list="images")
    def call_neuron(self, images: list[ImageHandle]) -> tuple[list[float], list[ImageHandle]]:
        """Show images to the unit and measure how strongly each one drives it.

        Returns two lists in the order of `images`: the activations (numbers rounded to two decimals,
        higher means stronger; compare them with those of the dataset exemplars), and the same images
        masked: the region that drives the unit stays bright inside a red outline, the rest is darkened.
        An image in which nothing is outlined did not drive the unit. Of a unit without places in the
        image, such as a class, the images come back as they are.

        Example:
            images = tools.text2image(["a red bus in the rain", "a red bus in a desert"])
            activations, masked = system.call_neuron(images)
            tools.display("bus in the rain", masked[0], activations[0])
        """
        references = self._values.images(images)
        activations: list[float] = []
        masked: list[ImageHandle] = []
        if not references:
            raise ToolError("images must hold at least one image, got an empty list")
        for start in range(0, len(references), MAX_IMAGES_A_CALL):
            answer = self._call("measure", images=references[start : start + MAX_IMAGES_A_CALL])
            activations += answer["activations"]
            masked += answer["images"]
        return activations, masked

    def exemplars(self, which: str = "top", k: int = 15) -> list[tuple[float, ImageHandle, str]]:
        """Return at most `k` (15) images of the photo collection: (activation, masked image, why it was
        chosen).

        `which` says how they are chosen.
        "top": the strongest. "modes": these in groups of alike images; have a hypothesis for each group.
        "near": images like the strongest that do not drive the unit; what do they lack? "quantiles": from
        the strongest to silent ones. "least": the lowest. How alike images are is judged by the network's
        own last features, so that two may be alike in what the unit sees and in nothing else.

        Example:
            for activation, image, why in system.exemplars("near"):
                tools.display(activation, image, why)
        """
        answer = self._call("exemplars_by", which=which, k=k)
        return list(zip(answer["activations"], answer["images"], answer["notes"], strict=True))

    def intervene(
        self,
        images: list[ImageHandle],
        kind: str = "ablate",
        value: Any = None,
        where: Any = None,
        outputs: list[str] = [],  # noqa: B006 - shown to the model, and never changed
    ) -> Effects:
        """Give the unit another value inside the network, and see what that does to the network's outputs.

        Images say what drives the unit; this says what the unit does where it is driven. `kind`: "ablate"
        with value "zero", "mean" (of the photo collection) or "resample" (what other photos have there),
        "scale" with a factor, "add" or "set" with a number, "clamp" with (low, high). `where`: None is
        everywhere, 0.5 is where the unit reaches half of its largest value, (top, left, bottom, right) is a
        box in fractions of the image. `outputs` names classes that you want listed whatever happens to them.
        Masked images count as the images beneath. At most 64 images at once.

        Returns a record: `raised` and `lowered` (the outputs that changed most, in the mean over the images;
        each has `name`, `change`, `probabilities` before and after), `asked`, `images` (the same for each
        image, with `activation` and `edited`), and `floor` (changes that small are noise).

        Example:
            exemplars = [image for activation, image, why in system.exemplars("top", 8)]
            effects = system.intervene(exemplars, "ablate", "mean")
            tools.display(effects.summary, effects.images[0])
        """
        references = self._values.images(images)
        answer = self._values.call(
            "intervene",
            images=references,
            kind=text_of(kind),
            value=_plain(value, "value"),
            where=_plain(where, "where"),
            outputs=self._texts(outputs, "outputs"),
        )
        return effects_of(self._values.decode(answer["effects"]))

    @property
    def model(self) -> Any:
        raise ToolError(
            "the network itself is out of reach; show images to it with system.call_neuron(images)"
        )

    def load_model(self, model_name: str = "") -> Any:
        return self.model


class Tools(Remote):
    """Instruments for experiments on the unit."""

    def dataset_exemplars(self, system: System | None = None) -> list[tuple[float, ImageHandle]]:
        """Return the images of a large photo collection that drive the unit most, strongest first.

        Each item is a pair (activation, masked image). They show what the unit answers to in real
        images and set the scale for every other activation.

        Example:
            for activation, image in tools.dataset_exemplars(system):
                tools.display(activation, image)
        """
        answer = self._call("exemplars")
        return list(zip(answer["activations"], answer["images"], strict=True))

    @also_called(prompt_list="prompts")
    def text2image(self, prompts: list[str], n: int = 1) -> list[ImageHandle]:
        """Make `n` images for each text prompt, in the order of the prompts.

        Say plainly what should be seen, and vary one thing at a time to learn what matters.

        Example:
            prompts = ["a tennis ball on grass", "a tennis ball on sand", "grass"]
            activations, masked = system.call_neuron(tools.text2image(prompts))
            for prompt, activation in zip(prompts, activations):
                print(prompt, activation)
        """
        return self._with_notes(self._call("text2image", prompts=self._texts(prompts, "prompts"), n=n))

    @also_called(base_images="images", image_list="images", editing_prompts="instructions")
    def edit_images(self, images: list[ImageHandle], instructions: list[str]) -> list[ImageHandle]:
        """Change images by instruction, one instruction an image; return the edited images.

        Any image will do, also exemplars and images that your program made. An edit that swaps or
        recolors something ("replace the dog with a cat", "make the car blue") works better than one
        that takes something away. One image with several instructions is edited once by each.

        Example:
            image = tools.text2image(["a dog on a lawn"])[0]
            edits = ["replace the dog with a cat", "replace the lawn with snow"]
            edited = tools.edit_images([image, image], edits)
            activations, masked = system.call_neuron([image] + edited)
        """
        references = self._values.images(images)
        texts = self._texts(instructions, "instructions")
        references, texts = paired(references, texts, "images", "instructions")
        return self._with_notes(self._call("edit", images=references, instructions=texts))

    @also_called(image_list="images", image_title="titles", image_titles="titles")
    def describe_images(self, images: list[ImageHandle], titles: list[str] | None = None) -> str:
        """Have each image described by an observer who knows nothing of your hypotheses.

        Of masked images the observer describes the bright region. Returns one text in which each
        description stands under its title.

        Example:
            activations, masked = system.call_neuron(images)
            print(tools.describe_images(masked, prompts))
        """
        references = self._values.images(images)
        text: str = self._call("describe", images=references, titles=self._titles(titles, len(references)))
        return text

    @also_called(image_list="images")
    def summarize_images(self, images: list[ImageHandle]) -> str:
        """Have an observer who knows nothing of your hypotheses say what the images have in common.

        Of masked images the observer looks at the bright regions.

        Example:
            exemplars = tools.dataset_exemplars(system)
            print(tools.summarize_images([image for activation, image in exemplars]))
        """
        text: str = self._call("summarize", images=self._values.images(images))
        return text

    def display(self, *items: Any) -> None:
        """Show texts, numbers and images to yourself, in this order; lists are shown item by item.

        What is neither displayed nor printed is not seen. Variables keep their values for your next
        program, so an image can be displayed later.

        Example:
            tools.display("strongest:", masked[0], "weakest:", masked[-1])
        """
        shown: list[Any] = []
        self._flatten(items, shown, 0)
        if shown:
            self._call("display", items=shown)

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
        entries: list[Any] = self._state("experiment_log")
        return entries

    @property
    def results_list(self) -> list[dict[str, Any]]:
        """The results logged so far: {title: {"activation": ..., "image": ...}}."""
        results: list[dict[str, Any]] = self._state("results_list")
        return results

    @property
    def activation_threshold(self) -> float | None:
        """The mean activation of the dataset exemplars, once they have been asked for."""
        threshold: float | None = self._state("activation_threshold")
        return threshold

    def _state(self, name: str) -> Any:
        return self._values.decode(self._values.call("state")[name])

    def _flatten(self, items: Any, shown: list[Any], depth: int) -> None:
        for item in items:
            if len(shown) >= MAX_LIST:
                raise ToolError(f"at most {MAX_LIST} items can be displayed at once")
            if is_picture(item) or looks_like_base64_image(item):
                shown.append(self._values.image(item))
            elif depth < 8 and isinstance(item, (Effects, ImageEffect)):
                self._flatten(_pictured(item), shown, depth + 1)
            elif depth < 8 and type(item) is dict:
                for key, value in item.items():
                    shown.append(f"{text_of(key)}:")
                    self._flatten([value], shown, depth + 1)
            elif depth < 8 and isinstance(item, (list, tuple)) and _holds_pictures(item):
                self._flatten(item, shown, depth + 1)
            else:
                shown.append(text_of(item))

    def _with_notes(self, answer: dict[str, Any]) -> list[ImageHandle]:
        for note in answer.get("notes", []):
            self._notify(f"note: {note}")
        images: list[ImageHandle] = answer["images"]
        return images


def _pictured(item: Effects | ImageEffect) -> list[Any]:
    """Return what is displayed of an intervention: its words, and the images with theirs."""
    if isinstance(item, Effects):
        return [item.summary, *item.images]
    return [repr(item), item.image]


def _holds_pictures(items: Any) -> bool:
    """A list of numbers reads better in one piece; one with images must be taken apart."""
    return any(
        is_picture(item)
        or looks_like_base64_image(item)
        or type(item) is str
        or isinstance(item, (list, tuple, dict, Effects, ImageEffect))
        for item in items
    )


def paired(first: list[Any], second: list[str], what: str, other: str) -> tuple[list[Any], list[str]]:
    """Return both lists at one length; a list of one is repeated.

    Raises:
        ToolError: If the lengths differ otherwise.
    """
    if len(first) == 1:
        first = first * len(second)
    elif len(second) == 1:
        second = second * len(first)
    if len(first) != len(second):
        raise ToolError(f"{what} and {other} must have the same length, got {len(first)} and {len(second)}")
    return first, second


def _plain(value: Any, what: str) -> Any:
    """Return None, a text, a number, or a list of numbers."""
    if value is None or type(value) is str:
        return value
    try:
        return [float(item) for item in value] if hasattr(value, "__iter__") else float(value)
    except (TypeError, ValueError):
        raise ToolError(f"{what} must be a number, or several, got {type(value).__name__}") from None


def _numbers(value: Any) -> list[Any]:
    return list(value) if hasattr(value, "__iter__") else [value]


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ToolError(f"activation_list must hold numbers, got {type(value).__name__}") from None
