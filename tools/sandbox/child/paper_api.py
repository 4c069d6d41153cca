"""`system` and `tools` in the dialect `paper`: as in appendix A of the MAIA paper.

Programs hold images as base64 text; exemplars and the results of edits come as two lists.
The docstrings of the public methods are the API page that the model reads, so they speak to it.
"""

from __future__ import annotations

from typing import Any

from .api import System, Tools, also_called, paired
from .values import as_list, is_picture, looks_like_base64_image


class PaperSystem(System):
    """The unit under study: one scalar inside a vision network that you can show images to.

    Which network, layer and unit it is stays hidden, so that the evidence comes from experiments alone.
    """

    @also_called(images="image_list")
    def neuron(self, image_list: list[str]) -> tuple[list[float], list[str]]:
        """Show images to the unit and measure how strongly each one drives it.

        Returns two lists in the order of `image_list`: the activations (numbers rounded to two decimals,
        higher means stronger; compare them with those of the dataset exemplars), and the same images
        masked: the region that drives the unit stays bright inside a red outline, the rest is darkened.
        An image in which nothing is outlined did not drive the unit. Of a unit without places in the
        image, such as a class, the images come back as they are.

        Example:
            prompt = ["a dog standing on the grass"]
            image = tools.text2image(prompt)
            activation_list, activation_map_list = system.neuron(image)
        """
        return self.call_neuron(image_list)


class PaperTools(Tools):
    """Instruments for experiments on the unit."""

    def dataset_exemplars(  # type: ignore[override]
        self, system: System | None = None
    ) -> tuple[list[float], list[str]]:
        """Return the images of a large photo collection that drive the unit most, strongest first.

        Returns two lists: the activations, and the masked images. They show what the unit answers to in
        real images and set the scale for every other activation.

        Example:
            activation_list, image_list = tools.dataset_exemplars(system)
        """
        answer = self._call("exemplars")
        return answer["activations"], answer["images"]

    @also_called(prompts="prompt_list")
    def text2image(self, prompt_list: list[str], n: int = 1) -> list[str]:
        """Make `n` images for each text prompt, in the order of the prompts.

        Say plainly what should be seen, and vary one thing at a time to learn what matters.

        Example:
            prompt_list = ["a tennis ball on grass", "a tennis ball on sand", "grass"]
            images = tools.text2image(prompt_list)
            activation_list, activation_map_list = system.neuron(images)
        """
        return super().text2image(prompt_list, n)

    @also_called(
        prompt_list_org_image="images",
        editing_instructions_list="instructions",
        base_images="images",
        image_list="images",
        editing_prompts="instructions",
    )
    def edit_images(self, images: list[str], instructions: list[str]) -> Any:
        """Make one image a prompt and edit it by instruction, one instruction a prompt.

        Returns two lists: images, each original followed by its edit, and their titles. One prompt with
        several instructions is made once and edited by each. Instead of prompts, images can be given: then
        the list of edited images is returned.

        Example:
            prompts = ["a dog standing on the grass"] * 2
            edits = ["make the dog sit", "replace the dog with a lion"]
            all_images, all_prompts = tools.edit_images(prompts, edits)
            activation_list, activation_map_list = system.neuron(all_images)
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

    @also_called(images="image_list", titles="image_titles", image_title="image_titles")
    def describe_images(self, image_list: list[str], image_titles: list[str] | None = None) -> str:
        """Have each image described by an observer who knows nothing of your hypotheses.

        Of masked images the observer describes the bright region. Returns one text in which each
        description stands under its title.

        Example:
            activation_list, activation_map_list = system.neuron(images)
            descriptions = tools.describe_images(activation_map_list, prompt_list)
        """
        return super().describe_images(image_list, image_titles)

    @also_called(images="image_list")
    def summarize_images(self, image_list: list[str]) -> str:
        """Have an observer who knows nothing of your hypotheses say what the images have in common.

        Of masked images the observer looks at the bright regions.

        Example:
            activation_list, image_list = tools.dataset_exemplars(system)
            summarization = tools.summarize_images(image_list)
        """
        return super().summarize_images(image_list)

    def log_experiment(
        self,
        activation_list: list[float],
        image_list: list[str],
        image_titles: list[str],
        image_textual_information: str | list[str] = "",
    ) -> None:
        """Put the results of an experiment into the log, which you see after the program.

        What is neither logged, displayed nor printed is not seen. `image_textual_information` is one text,
        or one for each image.

        Example:
            activation_list, activation_map_list = system.neuron(images)
            descriptions = tools.describe_images(images, prompt_list)
            tools.log_experiment(activation_list, activation_map_list, prompt_list, descriptions)
        """
        super().log_experiment(activation_list, image_list, image_titles, image_textual_information)

    save_experiment_log = log_experiment
