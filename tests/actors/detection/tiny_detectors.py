"""Detectors of the real classes with few random weights, saved as `from_pretrained` wants them.

Random weights detect nothing in particular; what counts is that the path from pixels and words to boxes
and masks is the real one.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

SIDE = 64
"""Pixels of the square that every tiny detector reads."""


def bert_tokenizer() -> Any:
    from transformers import BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "dog", "cat", "leash", "red"]
    words += [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
    return BertTokenizer(vocab={word: index for index, word in enumerate(words)})


def save_grounding_dino(folder: Path) -> Path:
    import torch
    from transformers import (
        BertConfig,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    torch.manual_seed(0)
    tokenizer = bert_tokenizer()
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=SIDE,
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 2],
            window_size=4,
            out_features=["stage2", "stage3", "stage4"],
            out_indices=[2, 3, 4],
        ),
        text_config=BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
        ),
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,  # with one, nothing is left to tie
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=7,
        # Scores on both sides of the thresholds.
        init_std=0.1,
    )
    GroundingDinoForObjectDetection(config).eval().save_pretrained(folder)
    processor = GroundingDinoImageProcessor(size={"shortest_edge": 2 * SIDE, "longest_edge": 4 * SIDE})
    GroundingDinoProcessor(processor, tokenizer).save_pretrained(folder)
    return folder


def save_sam(folder: Path) -> Path:
    import torch
    from transformers import (
        SamConfig,
        SamImageProcessor,
        SamMaskDecoderConfig,
        SamModel,
        SamProcessor,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )

    torch.manual_seed(1)
    config = SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=16,
            output_channels=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=8,
            window_size=4,
            global_attn_indexes=[1],
            num_pos_feats=8,
            mlp_dim=16,
            initializer_range=0.5,
        ),
        prompt_encoder_config=SamPromptEncoderConfig(
            hidden_size=16, image_size=SIDE, patch_size=8, mask_input_channels=4
        ),
        mask_decoder_config=SamMaskDecoderConfig(
            hidden_size=16, mlp_dim=16, num_attention_heads=2, iou_head_hidden_dim=16
        ),
        initializer_range=0.5,
    )
    SamModel(config).eval().save_pretrained(folder)
    processor = SamImageProcessor(
        size={"longest_edge": SIDE},
        pad_size={"height": SIDE, "width": SIDE},
        mask_size={"longest_edge": SIDE // 2},
        mask_pad_size={"height": SIDE // 2, "width": SIDE // 2},
    )
    SamProcessor(processor).save_pretrained(folder)
    return folder


def save_sam3(folder: Path) -> Path:
    import torch
    from transformers import (
        CLIPTextConfig,
        Sam3Config,
        Sam3ImageProcessor,
        Sam3Model,
        Sam3Processor,
        Sam3VisionConfig,
        Sam3ViTConfig,
    )

    from tests.actors.generation.tiny_pipelines import clip_tokenizer

    torch.manual_seed(2)
    grid = SIDE // 8
    part = {"hidden_size": 16, "num_attention_heads": 2}
    config = Sam3Config(
        vision_config=Sam3VisionConfig(
            backbone_config=Sam3ViTConfig(
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=SIDE,
                pretrain_image_size=SIDE,
                patch_size=8,
                window_size=4,
                global_attn_indexes=[1],
            ),
            fpn_hidden_size=16,
            backbone_feature_sizes=[[grid * 4, grid * 4], [grid * 2, grid * 2], [grid, grid]],
        ),
        text_config=CLIPTextConfig(
            vocab_size=80,
            hidden_size=16,
            projection_dim=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=32,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        ),
        geometry_encoder_config={**part, "num_layers": 1, "intermediate_size": 16},
        detr_encoder_config={**part, "num_layers": 1, "intermediate_size": 16},
        detr_decoder_config={**part, "num_layers": 1, "intermediate_size": 16, "num_queries": 6},
        mask_decoder_config={**part, "num_upsampling_stages": 3},
        initializer_range=0.5,
    )
    Sam3Model(config).eval().save_pretrained(folder)
    processor = Sam3ImageProcessor(size={"height": SIDE, "width": SIDE})
    Sam3Processor(processor, clip_tokenizer(max_length=32)).save_pretrained(folder)
    return folder
