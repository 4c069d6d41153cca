"""A language model in this process, through `transformers`: with vision or without, whole or from GGUF.

Conversations are answered in batches, padded on the left. Greedy answers and sampled ones (each with
its own seed) are the same alone and in a batch, up to the rounding of the device.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.chat.base import ChatRequest, Message
from actors.chat.encoding import as_utf8
from actors.chat.history import drop_images_in_blocks, fold_system, without_images
from actors.chat.reply import ChatReply, FinishReason, Usage
from actors.chat.settings import TransformersChat
from actors.chat.thoughts import split_thoughts
from actors.endpoint.faults import ContextLengthError
from actors.errors import BackendError, MaiaError, UsageError
from actors.hub import (
    ModelNotFoundError,
    OutOfMemoryError,
    check_memory,
    is_out_of_memory,
    require,
    resolve,
    translated_errors,
    weights_bytes,
    weights_digest,
)
from actors.images import Image
from actors.runtime import empty_cache
from actors.serving.backend import Backend, BackendFacts
from actors.serving.blocking import DeviceThread, run_in_halves


class LocalBackend(Backend[ChatRequest, ChatReply]):
    """One loaded model."""

    def __init__(self, settings: TransformersChat) -> None:
        """Load the model onto its device.

        Raises:
            UsageError: A missing package, a wrong id, an unreachable hub, too little memory, a model that
                holds no conversations; each says what to do.
        """
        require("A local language model", "transformers")
        from actors.runtime import pick_device, set_threads
        from actors.vision_libraries import import_torchvision

        import_torchvision()
        if settings.placement.threads is not None:
            set_threads(settings.placement.threads)
        self.name = f"transformers:{settings.model}"
        self.max_batch = settings.max_batch
        self._settings = settings
        self._device = pick_device(settings.device)
        folder, gguf = _locate(settings)
        with translated_errors(settings.model, settings.revision):
            self._load(folder, gguf)
        self._facts = {"class": type(self._model).__name__, "weights": weights_digest(folder)}
        self._thread = DeviceThread(self.name)

    def _load(self, folder: Path, gguf: str | None) -> None:
        import transformers

        settings = self._settings
        transformers.utils.logging.disable_progress_bar()
        common: dict[str, Any] = {"trust_remote_code": settings.trust_remote_code, "local_files_only": True}
        if gguf is not None:
            common["gguf_file"] = gguf
        config = transformers.AutoConfig.from_pretrained(folder, **common)
        has_vision = gguf is None and config.model_type in _vision_model_types()
        if settings.sees_images and not has_vision:
            raise UsageError(
                f"{settings.model!r} ({config.model_type}) cannot see images, and `sees_images` is true.",
                "Leave `sees_images` out, or choose a vision-language model.",
            )
        self.sees_images = has_vision and settings.sees_images is not False
        dtype = settings.dtype
        if dtype == "auto" and self._device.type == "cpu":
            dtype = "float32"
        self._check_memory(folder, gguf, dtype)

        reader = transformers.AutoProcessor if has_vision else transformers.AutoTokenizer
        self._reader = reader.from_pretrained(folder, **common)
        self._tokenizer = self._reader.tokenizer if has_vision else self._reader
        self._tokenizer.padding_side = "left"
        added = self._tokenizer.added_tokens_decoder.values()
        controls = {str(token) for token in added if token.special} | set(self._tokenizer.all_special_tokens)
        longest_first = sorted((token for token in controls if len(token) > 1), key=len, reverse=True)
        self._controls = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._template = settings.chat_template or self._reader.chat_template or self._tokenizer.chat_template
        if self._template is None:
            raise UsageError(
                f"{settings.model!r} has no chat template: it is probably not trained for conversations.",
                "Choose its instruction-tuned form, or give a Jinja template in `chat_template`.",
            )
        kind = transformers.AutoModelForImageTextToText if has_vision else transformers.AutoModelForCausalLM
        load: dict[str, Any] = {**common, "dtype": dtype, **settings.extra_load}
        if settings.attention is not None:
            load["attn_implementation"] = settings.attention
        if settings.device_map is not None:
            require("device_map", "accelerate")
            self._model = kind.from_pretrained(folder, device_map=settings.device_map, **load).eval()
            self._device = self._model.device
        else:
            self._model = kind.from_pretrained(folder, **load).eval().to(self._device)
        text = config.get_text_config()
        own_limit = getattr(text, "max_position_embeddings", None) or 1 << 20
        self._max_context = min(own_limit, settings.max_context or own_limit)
        defaults = self._model.generation_config
        ends = defaults.eos_token_id if defaults.eos_token_id is not None else self._tokenizer.eos_token_id
        self._ends = set(ends) if isinstance(ends, list) else {ends} - {None}
        sampled = bool(defaults.do_sample)
        self._temperature = float(defaults.temperature or 1.0) if sampled else 0.0
        self._top_k = int(defaults.top_k or 0) if sampled else 0
        self._top_p = float(defaults.top_p or 1.0) if sampled else 1.0

    def _check_memory(self, folder: Path, gguf: str | None, dtype: str) -> None:
        if self._settings.device_map is not None or self._settings.extra_load:
            return  # spread over devices, or quantized while loading: the size is known only then
        float_bytes = {"float32": 4, "bfloat16": 2, "float16": 2}.get(dtype)
        if gguf is None:
            needed = weights_bytes(folder, float_bytes)
        else:
            from gguf import GGUFReader

            # transformers restores the quantised weights to full numbers.
            needed = sum(int(t.n_elements) for t in GGUFReader(folder / gguf).tensors) * (float_bytes or 4)
        check_memory(self._settings.model, needed, str(self._device))

    def bucket(self, request: ChatRequest) -> Hashable:
        # Processors do not take rows with images and rows without in one call.
        return self.sees_images and any(message.images for message in request.messages)

    def rank(self, request: ChatRequest) -> float:
        return float(sum(len(message.text) for message in request.messages))

    async def run(self, batch: Sequence[ChatRequest]) -> Sequence[ChatReply | MaiaError]:
        return await self._thread.run(self._answer, batch)

    def _answer(self, batch: Sequence[ChatRequest]) -> list[ChatReply | MaiaError]:
        return run_in_halves(batch, self._generate, self._failure)

    def _failure(self, request: ChatRequest, error: Exception) -> MaiaError:
        message = f"{self.name} failed on a conversation: {type(error).__name__}: {error}"
        if is_out_of_memory(error):
            return OutOfMemoryError(message, "Lower `max_context` or `image_side`, or use a larger device.")
        return BackendError(message)

    def _generate(self, batch: Sequence[ChatRequest]) -> list[ChatReply | MaiaError]:
        from transformers import GenerationConfig

        from actors.chat.sampling import RowLimits, SeededRows

        inputs = self._encode(batch)
        lengths = [int(n) for n in inputs["attention_mask"].sum(1)]
        too_long = [n >= self._max_context for n in lengths]
        if any(too_long):
            fitting = [request for request, over in zip(batch, too_long, strict=True) if not over]
            replies = iter(self._generate(fitting) if fitting else [])
            return [
                self._too_long(n) if over else next(replies)
                for n, over in zip(lengths, too_long, strict=True)
            ]
        limits = [min(r.max_tokens, self._max_context - n) for r, n in zip(batch, lengths, strict=True)]
        width = inputs["input_ids"].shape[1]
        temperatures = [self._temperature if r.temperature is None else r.temperature for r in batch]
        sampling = SeededRows(temperatures, [r.seed for r in batch], self._top_k, self._top_p)
        config = GenerationConfig(
            max_new_tokens=max(limits),
            do_sample=False,
            eos_token_id=sorted(self._ends) or None,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        output = self._model.generate(
            **self._on_device(inputs),
            generation_config=config,
            logits_processor=[sampling],
            stopping_criteria=[RowLimits(width, limits)],
        )
        return [
            self._reply(row[width : width + limit].tolist(), n)
            for row, n, limit in zip(output, lengths, limits, strict=True)
        ]

    def _on_device(self, inputs: Any) -> dict[str, Any]:
        # Pixels come as float32, also with weights of another dtype.
        return {
            name: value.to(self._device, self._model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }

    def _reply(self, tokens: list[int], prompt_tokens: int) -> ChatReply:
        # A finished row is padded, often with the end token itself: what counts is up to the first end.
        end = next((i for i, token in enumerate(tokens) if token in self._ends), None)
        finish: FinishReason = "length" if end is None else "stop"
        n = len(tokens) if end is None else end + 1
        text = self._tokenizer.decode(tokens[:n], skip_special_tokens=True).strip()
        price = self._settings.price
        cost = 0.0 if price is None else price.dollars(prompt_tokens, 0, n)
        text, thoughts = split_thoughts(text)
        usage = Usage(prompt_tokens, 0, n, 1, cost)
        return ChatReply(text, finish, usage, self._settings.model, thoughts)

    def _too_long(self, n_tokens: int) -> ContextLengthError:
        return ContextLengthError(
            f"the conversation has {n_tokens} tokens and {self.name} takes {self._max_context}.",
            "Shorten the conversation: fewer rounds or images, or a smaller `image_side`.",
        )

    def _encode(self, batch: Sequence[ChatRequest]) -> Any:
        from jinja2 import TemplateError

        conversations = [self._messages(request) for request in batch]
        try:
            return self._apply_template(conversations)
        except TemplateError as error:
            folded = [fold_system(messages) for messages in conversations]
            if folded == conversations:
                raise UsageError(
                    f"the chat template of {self.name} refused the conversation: {error}"
                ) from error
            return self._apply_template(folded)

    def _apply_template(self, conversations: list[tuple[Message, ...]]) -> Any:
        options = {"return_tensors": "pt", "padding": True}
        nested = {"processor_kwargs": options} if self._reader is not self._tokenizer else options
        return self._reader.apply_chat_template(
            [[self._encoded(message) for message in messages] for messages in conversations],
            chat_template=self._template,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            **nested,
        )

    def _messages(self, request: ChatRequest) -> tuple[Message, ...]:
        if not self.sees_images:
            return without_images(request.messages)
        history = self._settings.history
        if history.max_images is None:
            return request.messages
        return drop_images_in_blocks(request.messages, history.max_images, history.block)

    def _encoded(self, message: Message) -> Mapping[str, object]:
        if self._reader is self._tokenizer:
            return {"role": message.role, "content": self._plain(message.text)}
        return {"role": message.role, "content": [self._part(part) for part in message.parts]}

    def _part(self, part: str | Image) -> Mapping[str, object]:
        if isinstance(part, str):
            return {"type": "text", "text": self._plain(part)}
        picture = part.to_pil()
        side = self._settings.image_side
        if side is not None:
            picture.thumbnail((side, side))
        return {"type": "image", "image": picture}

    def _plain(self, text: str) -> str:
        """Return the text with control tokens spelled apart: what a program prints must not end a turn."""
        return self._controls.sub(lambda match: f"{match[0][0]} {match[0][1:]}", as_utf8(text))

    def describe(self) -> BackendFacts:
        return {
            "name": self.name,
            "backend": self._settings.backend,
            "model": self._settings.model,
            "sees_images": self.sees_images,
            "parameters": self._model.num_parameters(),
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "device": str(self._device),
            "max_context": self._max_context,
            "max_batch": self.max_batch,
            **self._facts,
        }

    async def close(self) -> None:
        self._thread.close()
        del self._model
        empty_cache()


def _vision_model_types() -> set[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def _locate(settings: TransformersChat) -> tuple[Path, str | None]:
    """Return the folder of the model and the name of its GGUF file, if it is one."""
    model, gguf = settings.model, settings.gguf_file
    path = Path(model).expanduser()
    if gguf is None and model.endswith(".gguf"):
        if not path.is_file():
            raise ModelNotFoundError(f"the model file {model!r} does not exist.")
        folder, gguf = path.parent, path.name
    else:
        folder = resolve(model, settings.revision, _fetch(settings))
    if gguf is not None:
        require("A GGUF file", "gguf", install="pip install gguf")
        if not (folder / gguf).is_file():
            there = ", ".join(sorted(file.name for file in folder.glob("*.gguf"))) or "none"
            raise ModelNotFoundError(f"{model!r} has no file {gguf!r}.", f"GGUF files there: {there}.")
    return folder, gguf


def _fetch(settings: TransformersChat) -> Any:
    if settings.gguf_file is None and not settings.local_files_only:
        return None

    def fetch() -> str:
        import huggingface_hub

        wanted = None if settings.gguf_file is None else [settings.gguf_file, "*.json", "*.txt", "*.jinja"]
        return huggingface_hub.snapshot_download(
            settings.model,
            revision=settings.revision,
            allow_patterns=wanted,
            local_files_only=settings.local_files_only,
        )

    return fetch
