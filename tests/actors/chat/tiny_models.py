"""Randomly initialised models of real classes, a few hundred kilobytes each, saved as real ones are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"


def tokenizer(
    chat_template: str | None = CHAT_TEMPLATE, image_token: str = "<image>", more: tuple[str, ...] = ()
) -> Any:
    """Return a byte-level tokenizer: any text, no training."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<end>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": image_token},
    )
    made.add_special_tokens({"additional_special_tokens": list(more)}, replace_extra_special_tokens=False)
    made.chat_template = chat_template
    return made


def _text(vocabulary: int, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.5,  # far from uniform logits, so that answers differ with the prompt
        "tie_word_embeddings": False,
        **more,
    }


def save_text_model(folder: Path, chat_template: str | None = CHAT_TEMPLATE, **generation: Any) -> Path:
    """Save a Llama for text only."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    words = tokenizer(chat_template)
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**_text(len(words)), eos_token_id=words.eos_token_id))
    model.generation_config = GenerationConfig(eos_token_id=words.eos_token_id, **generation)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def save_llava(folder: Path) -> Path:
    """Save a LLaVA: a CLIP tower with a fixed number of patches, and a Llama."""
    import torch
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    words = tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=3,
        image_size=32,
        patch_size=8,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(**_text(len(words)), eos_token_id=words.eos_token_id),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    torch.manual_seed(2)
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = words.eos_token_id
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = LlavaProcessor(
        images,
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE.replace("IMAGE", "<image>"),
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_qwen2_vl(folder: Path) -> Path:
    """Save a Qwen2-VL: as many image tokens as the image's size asks for, and rotary positions in 3 axes."""
    import torch
    from transformers import (
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    words = tokenizer(None, "<|image_pad|>", ("<|vision_start|>", "<|vision_end|>", "<|video_pad|>"))
    ids = words.convert_tokens_to_ids
    config = Qwen2VLConfig(
        text_config=_text(
            len(words),
            bos_token_id=None,
            eos_token_id=words.eos_token_id,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
        ),
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 32,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    torch.manual_seed(3)
    model = Qwen2VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = words.eos_token_id
    limits = {"min_pixels": 28 * 28, "max_pixels": 28 * 28 * 8}
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(**limits),
        words,
        Qwen2VLVideoProcessor(**limits),
        chat_template=CHAT_TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
