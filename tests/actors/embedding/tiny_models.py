"""Image-text models of the real classes with few random weights, saved as `from_pretrained` wants them."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

SIDE = 32


def tokenizer() -> Any:
    from transformers import BertTokenizer

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        ".",
        "dog",
        "cat",
        "photo",
        "a",
        "of",
        "this",
        "is",
    ]
    words += ["Dog", *string.ascii_letters, *(f"##{letter}" for letter in string.ascii_letters)]
    return BertTokenizer(
        vocab={word: index for index, word in enumerate(dict.fromkeys(words))}, do_lower_case=False
    )


def _parts(hidden: int, length: int, vocabulary: int, **text: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    both = {
        "hidden_size": hidden,
        "intermediate_size": hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 12,
    }
    own = {"max_position_embeddings": length, "vocab_size": vocabulary, "pad_token_id": 0, **text}
    return both | own, both | {"image_size": SIDE, "patch_size": 16}


def save_clip(folder: Path) -> Path:
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(0)
    words = tokenizer()
    text, vision = _parts(16, 24, len(words), eos_token_id=3, bos_token_id=2)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    CLIPModel(config).eval().save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def save_siglip(folder: Path) -> Path:
    import torch
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    torch.manual_seed(0)
    words = tokenizer()
    text, vision = _parts(16, 24, len(words), eos_token_id=3, bos_token_id=2)
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval().save_pretrained(folder)
    SiglipImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
