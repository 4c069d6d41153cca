"""Finds, loads and places diffusers pipelines, and reads from them what they take.

What cannot work is refused here, when the model is loaded, and not at the first image.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, Literal

from actors import hub
from actors.errors import UsageError
from actors.generation.settings import DiffusersPipeline

PipelineTask = Literal["generate", "edit"]


def find_folder(settings: DiffusersPipeline) -> Path:
    """Return the folder of the pipeline, fetched from the hub unless it is local or cached.

    Raises:
        UsageError: If there is none, it cannot be reached, or it holds no diffusers pipeline.
    """

    def fetch() -> str:
        from actors.vision_libraries import import_torchvision

        import_torchvision()
        import diffusers

        return diffusers.DiffusionPipeline.download(
            settings.model, revision=settings.revision, variant=settings.variant
        )

    folder = hub.resolve(settings.model, settings.revision, fetch)
    if not (folder / "model_index.json").is_file():
        raise UsageError(
            f"{settings.model!r} holds no diffusers pipeline: it has no model_index.json.",
            "Give a pipeline in diffusers' own format; a single checkpoint file must be converted first.",
        )
    return folder


def load_pipeline(settings: DiffusersPipeline, task: PipelineTask, folder: Path) -> tuple[Any, str, str]:
    """Return the pipeline on its device, the device and the dtype.

    Raises:
        UsageError: Unknown device or pipeline class, too little memory, or files that are not such a
            pipeline.
    """
    from actors.runtime import pick_device
    from actors.vision_libraries import import_torchvision

    import_torchvision()
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    device = str(pick_device(settings.device))
    dtype = hub.loading_dtype(settings.dtype, device)
    if settings.offload != "none" and device == "cpu":
        raise UsageError(
            f"offload: {settings.offload} moves weights between main memory and a GPU, and there is none.",
            "Set `offload: none`.",
        )
    needed = hub.weights_bytes(folder, dtype.itemsize, settings.variant)
    hub.check_memory(settings.model, needed, "cpu" if settings.offload != "none" else device)
    index = json.loads((folder / "model_index.json").read_text())
    load: dict[str, Any] = {"dtype": dtype, "variant": settings.variant, **settings.load}
    if not settings.safety_checker and "safety_checker" in index:
        load |= {"safety_checker": None, "requires_safety_checker": False}
    loader = _pipeline_class(diffusers, settings.pipeline, task)
    with hub.translated_errors(settings.model, settings.revision):
        pipeline = loader.from_pretrained(folder, **load)
        pipeline.set_progress_bar_config(disable=True)
        _place(pipeline, settings, device)
    return pipeline, device, str(dtype).removeprefix("torch.")


def _pipeline_class(diffusers: Any, name: str | None, task: PipelineTask) -> Any:
    if name is None:
        # An editor is loaded as what it was saved as; "auto" would turn an editor's weights into a generator.
        return diffusers.AutoPipelineForText2Image if task == "generate" else diffusers.DiffusionPipeline
    pipeline_class = getattr(diffusers, name, None)
    if not (inspect.isclass(pipeline_class) and issubclass(pipeline_class, diffusers.DiffusionPipeline)):
        raise UsageError(
            f"diffusers {diffusers.__version__} has no pipeline class {name!r}.",
            "Check the spelling, as in StableDiffusionInstructPix2PixPipeline or FluxKontextPipeline.",
        )
    return pipeline_class


def _place(pipeline: Any, settings: DiffusersPipeline, device: str) -> None:
    if settings.attention_slicing:
        pipeline.enable_attention_slicing()
    if settings.vae_tiling:
        pipeline.vae.enable_tiling()
    if settings.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif settings.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline.to(device)
    if settings.compile:
        denoiser = getattr(pipeline, "transformer", None) or pipeline.unet
        denoiser.compile()


def call_arguments(pipeline: Any, settings: DiffusersPipeline) -> dict[str, Any]:
    """Return the call's settings under the pipeline's own names.

    Raises:
        UsageError: Naming the setting that this pipeline does not take.
    """
    wanted = {
        "num_inference_steps": settings.steps,
        "guidance_scale": settings.guidance,
        "image_guidance_scale": settings.image_guidance,
        **settings.call,
    }
    arguments = {name: value for name, value in wanted.items() if value is not None}
    taken = inspect.signature(pipeline.__call__).parameters
    unknown = sorted(set(arguments) - set(taken))
    own = sorted(
        set(settings.call) & {"prompt", "image", "generator", "output_type", "num_images_per_prompt"}
    )
    if unknown or own:
        raise UsageError(
            f"{type(pipeline).__name__} takes no argument {', '.join(unknown)}."
            if unknown
            else f"`call` may not set {', '.join(own)}: the program sets it for each image.",
            "Remove it from the configuration.",
        )
    return arguments


def longest_prompt(pipeline: Any, arguments: dict[str, Any]) -> tuple[Any, int] | None:
    """Return the tokenizer that reads furthest and how many tokens it reads, if that is known."""
    readers = [
        (part, limit)
        for name, part in pipeline.components.items()
        if name.startswith("tokenizer") and isinstance(limit := getattr(part, "model_max_length", None), int)
    ]
    if not readers:
        return None
    tokenizer, limit = max(readers, key=lambda reader: reader[1])
    own = inspect.signature(pipeline.__call__).parameters.get("max_sequence_length")
    most = arguments.get("max_sequence_length", own.default if own else None)
    if isinstance(most, int):
        limit = min(limit, most)
    # Tokenizers without a limit of their own have an enormous one.
    return (tokenizer, limit) if limit < 10**6 else None
