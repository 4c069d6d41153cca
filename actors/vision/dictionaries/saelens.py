"""SAELens (`cfg.json` + `sae_weights.safetensors`), of version 6 (`metadata`) and before (flat)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from actors.errors import UsageError
from actors.vision.dictionaries.dictionary import (
    Activation,
    Dictionary,
    Gated,
    JumpRelu,
    Normalization,
    Relu,
    TanhRelu,
    TopK,
)
from actors.vision.dictionaries.files import DictionaryConfig, DictionaryFiles, read_json

_RENAMED = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
_SCALER = "activation_scaler.json"

_TRAINING = """
act_store_device activations_mixing_fraction adam_beta1 adam_beta2 autocast autocast_lm aux_loss_coefficient
b_dec_init_method begin_batch_token begin_sequence_token buffer_size_gb cached_activations_path
checkpoint_path compile_llm compile_sae context_size dataset_name dataset_path dataset_trust_remote_code
dead_feature_estimation_method dead_feature_threshold dead_feature_window decoder_heuristic_init
decoder_heuristic_init_norm decoder_init_norm decoder_orthogonal_init device disable_concat_sequences dtype
eval_batch_size_prompts eval_every_n_wandb_logs exclude_special_tokens expansion_factor feature_reinit_scale
feature_sampling_method feature_sampling_window finetuning_method finetuning_tokens from_pretrained_path
hook_eval hook_layer hook_point_eval hook_point_layer init_encoder_as_decoder_transpose is_dataset_tokenized
jumprelu_bandwidth jumprelu_init_threshold jumprelu_sparsity_loss_mode jumprelu_ste_to_input
jumprelu_tanh_scale l0_coefficient l0_warm_up_steps l1_coefficient l1_loss_wd_norm l1_warm_up_steps
llm_batch_size llm_compilation_mode llm_device log_activations_store_to_wandb log_optimizer_state_to_wandb
log_to_wandb logger lp_norm lr lr_decay_steps lr_end lr_scheduler_name lr_warm_up_steps matryoshka_widths
model_batch_size model_class_name model_from_pretrained_kwargs model_kwargs model_name
mse_loss_normalization n_batches_for_norm_estimate n_batches_in_buffer n_checkpoints n_eval_batches
n_restart_cycles n_shuffles_final n_shuffles_in_entire_dir n_shuffles_with_last_section name neuronpedia_id
new_cached_activations_path noise_scale normalize_sae_decoder output_path pre_act_loss_coefficient
prefetch_llm_batches prepend_bos resample_batches resume resume_from_checkpoint run_name
sae_compilation_mode sae_lens_training_version sae_lens_version save_final_checkpoint
scale_sparsity_penalty_by_decoder_norm seed sequence_separator_token shuffle_every_n_buffers
store_batch_size store_batch_size_prompts streaming target_l0 tokens_per_buffer topk_threshold_lr
total_training_samples total_training_tokens train_batch_size train_batch_size_samples
train_batch_size_tokens training_tokens unique_id use_cached_activations use_chat_formatting use_error_term
use_ghost_grads use_matryoshka_aux_loss use_sparse_activations verbose vit_prisma_version wandb_entity
wandb_id wandb_log_frequency wandb_project
"""
"""Keys of the configurations of training runs, versions 1 to 6, whose effect is in the weights."""


class SaeLensConfig(DictionaryConfig):
    ignored_keys = frozenset(_TRAINING.split())

    architecture: Literal["standard", "gated", "jumprelu", "topk", "batchtopk", "matryoshka_batchtopk"] = (
        "standard"
    )
    d_in: int
    d_sae: int
    apply_b_dec_to_input: bool = True
    normalize_activations: (
        Literal[
            "none", "layer_norm", "constant_norm_rescale", "expected_average_only_in", "covariance_whitening"
        ]
        | bool
        | None
    ) = None
    reshape_activations: Literal["none", "hook_z"] = "none"
    """Either way the layer's channels are all heads, one after another."""
    activation_fn: Literal["relu", "tanh-relu", "topk"] = "relu"
    activation_fn_kwargs: dict[str, Any] | None = None
    k: float | None = None
    rescale_acts_by_decoder_norm: bool = False
    finetuning_scaling_factor: bool = False
    hook_name: str = ""
    hook_head_index: int | None = None
    seqpos_slice: list[int | None] | None = None
    metadata: dict[str, Any] | None = None


def fits(files: DictionaryFiles) -> bool:
    return "W_enc" in files.tensors and bool(files.config.keys() & {"architecture", "d_sae", "d_in"})


def dictionary(files: DictionaryFiles) -> Dictionary:
    """Return the dictionary as `SAE.load_from_disk` would encode with it.

    Batch top-k files of a training run are read as they are published: a threshold on each latent.
    """
    config = _config(files)
    normalization, factor = _normalization(files, config)
    encoder = files.tensor("W_enc", config.d_in, config.d_sae).T
    decoder = files.tensor("W_dec", config.d_sae, config.d_in)
    offset = files.tensor("b_dec", config.d_in)
    gated = config.architecture == "gated"
    bias = None if gated else files.tensor("b_enc", config.d_sae)
    # Folding the factor, as is done before publishing, divides the decoder by it and so its norms.
    norms = decoder.float().norm(dim=-1) / factor if config.rescale_acts_by_decoder_norm else None
    made = Dictionary(
        encoder=encoder,
        decoder=decoder,
        activation=_activation(files, config, factor),
        bias=bias,
        offset=offset if config.apply_b_dec_to_input else None,
        decoder_bias=offset,
        normalization=normalization,
        input_scale=factor,
        code_scale=norms,
        decoder_scale=_decoder_scale(files, config) if norms is None else 1 / norms,
        hook=config.hook_name,
        tokens="cls" if (config.seqpos_slice or [])[:2] in ([0, 1], [1]) else "",
        head=config.hook_head_index,
    )
    files.refuse_unused(f"architecture {config.architecture!r}")
    return made


def _config(files: DictionaryFiles) -> SaeLensConfig:
    values = {_RENAMED.get(key, key): value for key, value in files.config.items()}
    metadata = values.get("metadata")
    if isinstance(metadata, Mapping):  # of version 6: free text, but for where the dictionary reads
        values = {
            k: metadata[k] for k in ("hook_name", "hook_head_index", "seqpos_slice") if k in metadata
        } | values
    if values.get("hook_name") is None:
        values.pop("hook_name", None)
    config = SaeLensConfig.of(values, files.config_name)
    arguments = dict(config.activation_fn_kwargs or {})
    if config.activation_fn == "topk" and config.architecture == "standard":
        config = config.model_copy(update={"architecture": "topk", "k": arguments.pop("k", None)})
    if config.activation_fn != "relu" and config.architecture not in ("standard", "topk"):
        raise UsageError(
            f"{files.config_name} asks for activation_fn = {config.activation_fn!r} in the architecture "
            f"{config.architecture!r}, and only 'standard' takes another than 'relu'."
        )
    if any(value for key, value in arguments.items() if key != "k"):
        raise UsageError(
            f"{files.config_name} asks for activation_fn_kwargs = {arguments!r}; only k is read."
        )
    return config


def _normalization(files: DictionaryFiles, config: SaeLensConfig) -> tuple[Normalization, float]:
    """Return how inputs are normalized, and the factor of the training data that is not in the weights."""
    scaler = files.path.with_name(_SCALER)
    factor = (read_json(scaler).get("scaling_factor") if scaler.is_file() else None) or None
    asked = config.normalize_activations
    if asked == "covariance_whitening":
        raise UsageError(
            f"{files.config_name} asks for normalize_activations = 'covariance_whitening', which is not "
            "folded.",
            "Fold it with SAELens (fold_activation_whitening), and save the dictionary again.",
        )
    if asked == "expected_average_only_in" or asked is True:
        if not isinstance(factor, int | float):
            raise UsageError(
                f"{files.config_name} asks for normalize_activations = {asked!r}, whose factor no file has.",
                f'Put {{"scaling_factor": FACTOR}} into {scaler}. If the factor is folded into the weights, '
                "set normalize_activations to 'none'.",
            )
        return "none", float(factor)
    if factor is not None:
        raise UsageError(
            f"{scaler} holds a factor of {factor}, and {files.config_name} does not ask for it.",
            "Set normalize_activations to 'expected_average_only_in'; if it is folded, take the file away.",
        )
    return ("none" if asked is None or asked is False else asked), 1.0


def _activation(files: DictionaryFiles, config: SaeLensConfig, factor: float) -> Activation:
    match config.architecture:
        case "gated":
            gain = files.tensor("r_mag", config.d_sae).float().exp()
            return Gated(files.tensor("b_gate", config.d_sae), gain, files.tensor("b_mag", config.d_sae))
        case "jumprelu":
            return JumpRelu(files.tensor("threshold", config.d_sae))
        case "batchtopk" | "matryoshka_batchtopk":
            threshold = files.tensor("topk_threshold")
            scale = factor if config.rescale_acts_by_decoder_norm else 1.0
            return JumpRelu((threshold / scale).expand(config.d_sae))
        case "topk":
            return TopK(files.count("k", config.k, config.d_sae))
        case "standard":
            return TanhRelu() if config.activation_fn == "tanh-relu" else Relu()


def _decoder_scale(files: DictionaryFiles, config: SaeLensConfig) -> Any:
    """Return the factors of fine-tuning, which only decoding takes; files of some versions hold ones."""
    factors = files.optional("scaling_factor", config.d_sae)
    if factors is None or bool((factors == 1).all()):
        return None
    if not config.finetuning_scaling_factor:
        raise UsageError(
            f"{files.path} holds a scaling_factor other than 1, and {files.config_name} does not ask for it.",
            "Set finetuning_scaling_factor to true if the dictionary was fine-tuned.",
        )
    return factors
