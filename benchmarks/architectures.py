"""Vision architectures of transformers at their smallest: a class of model, its configuration's class, and
sizes.
"""

from __future__ import annotations

from typing import Any

IMAGE = 64
"""Height and width of the images, so that four halvings leave a grid of 4 x 4."""

_VIT: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "image_size": IMAGE,
    "patch_size": 16,
}
_STAGES = {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 2, 1]}
_SWIN = {"image_size": IMAGE, "patch_size": 4, "embed_dim": 12, "depths": [1, 2, 1], "num_heads": [1, 2, 2]}
_PVT = {
    "hidden_sizes": [16, 24, 32, 40],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 1, 2, 2],
    "mlp_ratios": [2, 2, 2, 2],
}

ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTModel", "ViTConfig", _VIT),
    "deit": ("DeiTModel", "DeiTConfig", _VIT),
    "beit": ("BeitModel", "BeitConfig", _VIT),
    "data2vec": ("Data2VecVisionModel", "Data2VecVisionConfig", _VIT),
    "dinov2": ("Dinov2Model", "Dinov2Config", _VIT),
    "dinov2 with registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", _VIT),
    "dinov3 vit": ("DINOv3ViTModel", "DINOv3ViTConfig", {**_VIT, "num_register_tokens": 2}),
    "dinov3 convnext": ("DINOv3ConvNextModel", "DINOv3ConvNextConfig", _STAGES),
    "clip": ("CLIPVisionModel", "CLIPVisionConfig", _VIT),
    "siglip": ("SiglipVisionModel", "SiglipVisionConfig", _VIT),
    "siglip2": ("Siglip2VisionModel", "Siglip2VisionConfig", {**_VIT, "num_patches": 16}),
    "chinese clip": ("ChineseCLIPVisionModel", "ChineseCLIPVisionConfig", _VIT),
    "altclip": ("AltCLIPVisionModel", "AltCLIPVisionConfig", _VIT),
    "blip": ("BlipVisionModel", "BlipVisionConfig", {**_VIT, "initializer_range": 0.02}),
    "blip 2": ("Blip2VisionModel", "Blip2VisionConfig", {**_VIT, "initializer_range": 0.02}),
    "group vit": (
        "GroupViTVisionModel",
        "GroupViTVisionConfig",
        {**_VIT, "depths": [2, 1], "num_group_tokens": [4, 0], "num_output_groups": [4, 2]},
    ),
    "owl-vit": ("OwlViTVisionModel", "OwlViTVisionConfig", _VIT),
    "owlv2": ("Owlv2VisionModel", "Owlv2VisionConfig", _VIT),
    "clipseg": ("CLIPSegVisionModel", "CLIPSegVisionConfig", _VIT),
    "x-clip": ("XCLIPVisionModel", "XCLIPVisionConfig", {**_VIT, "num_frames": 1}),
    "aimv2": ("Aimv2VisionModel", "Aimv2VisionConfig", _VIT),
    "mlcd": ("MLCDVisionModel", "MLCDVisionConfig", _VIT),
    "vit mae": ("ViTMAEModel", "ViTMAEConfig", {**_VIT, "mask_ratio": 0.0}),
    "vit msn": ("ViTMSNModel", "ViTMSNConfig", _VIT),
    "i-jepa": ("IJepaModel", "IJepaConfig", _VIT),
    "vitdet": ("VitDetModel", "VitDetConfig", {**_VIT, "pretrain_image_size": IMAGE, "window_size": 2}),
    "yolos": ("YolosModel", "YolosConfig", {**_VIT, "image_size": [IMAGE, IMAGE], "num_detection_tokens": 5}),
    "dpt": ("DPTModel", "DPTConfig", {**_VIT, "backbone_out_indices": [0, 1, 2, 2]}),
    "sam": ("SamVisionModel", "SamVisionConfig", {**_VIT, "global_attn_indexes": [1], "window_size": 3}),
    "swin": ("SwinModel", "SwinConfig", {**_SWIN, "window_size": 4}),
    "swin v2": ("Swinv2Model", "Swinv2Config", {**_SWIN, "window_size": 4}),
    "donut": ("DonutSwinModel", "DonutSwinConfig", {**_SWIN, "window_size": 4}),
    "convnext": ("ConvNextModel", "ConvNextConfig", _STAGES),
    "convnext v2": ("ConvNextV2Model", "ConvNextV2Config", _STAGES),
    "resnet": ("ResNetModel", "ResNetConfig", {**_STAGES, "embedding_size": 12, "layer_type": "basic"}),
    "regnet": ("RegNetModel", "RegNetConfig", {**_STAGES, "embedding_size": 12, "groups_width": 8}),
    "bit": (
        "BitModel",
        "BitConfig",
        {**_STAGES, "embedding_size": 32, "hidden_sizes": [32, 64, 64, 64], "num_groups": 4},
    ),
    "mobilenet v1": ("MobileNetV1Model", "MobileNetV1Config", {"depth_multiplier": 0.25}),
    "mobilenet v2": ("MobileNetV2Model", "MobileNetV2Config", {"depth_multiplier": 0.25}),
    "mobilevit": (
        "MobileViTModel",
        "MobileViTConfig",
        {
            "image_size": IMAGE,
            "hidden_sizes": [16, 20, 24],
            "neck_hidden_sizes": [8, 12, 16, 20, 24, 28, 32],
            "num_attention_heads": 2,
        },
    ),
    "mobilevit v2": ("MobileViTV2Model", "MobileViTV2Config", {"image_size": IMAGE, "width_multiplier": 0.5}),
    "efficientnet": (
        "EfficientNetModel",
        "EfficientNetConfig",
        {"width_coefficient": 0.25, "depth_coefficient": 0.1, "hidden_dim": 320},
    ),
    "levit": (
        "LevitModel",
        "LevitConfig",
        {
            "image_size": IMAGE,
            "hidden_sizes": [16, 24, 32],
            "num_attention_heads": [1, 2, 2],
            "depths": [2, 2, 2],
            "key_dim": [8, 8, 8],
        },
    ),
    "pvt": ("PvtModel", "PvtConfig", {**_PVT, "image_size": IMAGE}),
    "pvt v2": ("PvtV2Model", "PvtV2Config", {**_PVT, "image_size": IMAGE}),
    "segformer": ("SegformerModel", "SegformerConfig", _PVT),
    "glpn": ("GLPNModel", "GLPNConfig", _PVT),
    "poolformer": ("PoolFormerModel", "PoolFormerConfig", _STAGES),
    "cvt": (
        "CvtModel",
        "CvtConfig",
        {
            "embed_dim": [8, 16, 24],
            "num_heads": [1, 2, 2],
            "depth": [1, 2, 3],
            "cls_token": [False, False, True],
        },
    ),
    "focalnet": (
        "FocalNetModel",
        "FocalNetConfig",
        {"image_size": IMAGE, "embed_dim": 12, "depths": [1, 1, 1]},
    ),
    "hiera": (
        "HieraModel",
        "HieraConfig",
        {"image_size": [128, 128], "embed_dim": 12, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]},
    ),
    "swiftformer": (
        "SwiftFormerModel",
        "SwiftFormerConfig",
        {"depths": [1, 1, 1, 1], "embed_dims": [8, 16, 24, 32]},
    ),
    "perceiver": (
        "PerceiverForImageClassificationLearned",
        "PerceiverConfig",
        {
            "num_latents": 16,
            "d_latents": 32,
            "num_self_attends_per_block": 2,
            "num_self_attention_heads": 2,
            "num_cross_attention_heads": 2,
            "image_size": IMAGE,
        },
    ),
    "pixtral": ("PixtralVisionModel", "PixtralVisionConfig", {**_VIT, "head_dim": 12}),
    "textnet": (
        "TextNetModel",
        "TextNetConfig",
        {"image_size": [IMAGE, IMAGE]},
    ),
    "internvl": (
        "InternVLVisionModel",
        "InternVLVisionConfig",
        {**_VIT, "image_size": [IMAGE, IMAGE], "patch_size": [16, 16]},
    ),
}
