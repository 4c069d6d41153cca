"""ViT-Prisma (a .pt file + `config.json`, or one pickle {cfg, state_dict}), standard and gated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from actors.errors import UsageError
from actors.vision.dictionaries.dictionary import Activation, Dictionary, Gated, Relu, TanhRelu, TopK
from actors.vision.dictionaries.files import DictionaryConfig, DictionaryFiles, Stub

_TRAINING = """
_device _dtype b_dec_init_method cached_activations_path checkpoint_path context_size d_out d_sae
dataset_name dataset_path dataset_train_path dataset_val_path dead_feature_threshold dead_feature_window
device dtype feature_sampling_window from_pretrained_path image_size initialization_method is_training
l1_coefficient layer_out_subtype log_to_wandb lp_norm lr lr_scheduler_name lr_warm_up_steps max_grad_norm
min_explained_variance min_l0 model_class_name model_name model_path n_batches_in_buffer n_checkpoints
n_validation_runs num_epochs num_patch num_workers out_hook_point_layer return_out_only seed
store_batch_size total_training_images total_training_tokens train_batch_size
transcoder_with_skip_connection unique_hash use_cached_activations use_ghost_grads verbose
vit_model_cfg wandb_entity wandb_log_frequency wandb_project
"""


class PrismaConfig(DictionaryConfig):
    ignored_keys = frozenset(_TRAINING.split())
    """Keys of training, whose effect is in the weights."""

    architecture: Literal["standard", "gated"] = "standard"
    d_in: int
    expansion_factor: int
    hook_point_layer: int
    layer_subtype: str
    hook_point_head_index: None = None
    cls_token_only: bool = False
    use_patches_only: bool = False
    is_transcoder: Literal[False] = False
    normalize_activations: Literal["none", "layer_norm", "constant_norm_rescale"]
    activation_fn_str: Literal["relu", "tanh-relu", "topk"]
    activation_fn_kwargs: dict[str, Any] = {}  # noqa: RUF012, pydantic copies it


def fits(files: DictionaryFiles) -> bool:
    return "W_enc" in files.tensors and "layer_subtype" in _values(files)


def dictionary(files: DictionaryFiles) -> Dictionary:
    """Return the dictionary as `SparseAutoencoder.encode` computes it: the offset is always subtracted."""
    config = PrismaConfig.of(_values(files), files.config_name)
    if config.layer_subtype.endswith("hook_z"):
        raise UsageError(
            f"{files.config_name} reads {config.layer_subtype!r}, from which ViT-Prisma takes the bias of "
            "the values away when it loads a network: no module gives that.",
            "Name a dictionary of another place.",
        )
    if extra := [key for key in config.activation_fn_kwargs if key != "k"]:
        raise UsageError(f"{files.config_name} asks for activation_fn_kwargs {extra}; only k is read.")
    latents = config.d_in * config.expansion_factor
    offset = files.tensor("b_dec", config.d_in)
    bias = files.tensor("b_enc", latents)  # a gated file holds one that nothing uses
    made = Dictionary(
        encoder=files.tensor("W_enc", config.d_in, latents).T,
        decoder=files.tensor("W_dec", latents, config.d_in),
        activation=_activation(files, config, latents),
        bias=None if config.architecture == "gated" else bias,
        offset=offset,
        decoder_bias=offset,
        normalization=config.normalize_activations,
        hook=f"blocks.{config.hook_point_layer}.{config.layer_subtype}",
        tokens="cls" if config.cls_token_only else "patches" if config.use_patches_only else "",
    )
    files.refuse_unused(f"architecture {config.architecture!r}")
    return made


def _activation(files: DictionaryFiles, config: PrismaConfig, latents: int) -> Activation:
    if config.architecture == "gated":
        if config.activation_fn_str != "relu":
            raise UsageError(
                f"{files.config_name} asks for activation_fn_str = {config.activation_fn_str!r}; "
                "the architecture 'gated' is read with 'relu' alone."
            )
        gain = files.tensor("r_mag", latents).float().exp()
        return Gated(files.tensor("b_gate", latents), gain, files.tensor("b_mag", latents))
    match config.activation_fn_str:
        case "relu":
            return Relu()
        case "tanh-relu":
            return TanhRelu()
        case "topk":
            return TopK(files.count("activation_fn_kwargs.k", config.activation_fn_kwargs.get("k"), latents))


def _values(files: DictionaryFiles) -> Mapping[str, Any]:
    """Return the configuration: the file next to the weights, or the object that was pickled with them."""
    if files.config or not isinstance(files.root, Mapping):
        return files.config
    pickled = files.root.get("cfg")
    if isinstance(pickled, Stub):
        return vars(pickled)
    return pickled if isinstance(pickled, Mapping) else {}
