"""EleutherAI's sparsify (`cfg.json` + `sae.safetensors`), top-k and groupmax."""

from __future__ import annotations

from typing import Literal

from actors.errors import UsageError
from actors.vision.dictionaries.dictionary import Dictionary, GroupMax, TopK
from actors.vision.dictionaries.files import DictionaryConfig, DictionaryFiles


class SparsifyConfig(DictionaryConfig):
    ignored_keys = frozenset({"expansion_factor", "normalize_decoder", "multi_topk"})
    """Keys of training, whose effect is in the weights."""

    d_in: int
    k: int
    activation: Literal["topk", "groupmax"] = "topk"
    num_latents: int = 0
    signed: Literal[False] = False
    transcode: Literal[False] = False
    skip_connection: Literal[False] = False


def fits(files: DictionaryFiles) -> bool:
    return "encoder.weight" in files.tensors and "W_dec" in files.tensors and "k" in files.config


def dictionary(files: DictionaryFiles) -> Dictionary:
    """Return the dictionary as `SparseCoder.encode` computes it."""
    config = SparsifyConfig.of(files.config, files.config_name)
    latents = config.num_latents or len(files.tensors["encoder.weight"])
    k = files.count("k", config.k, latents)
    if config.activation == "groupmax" and latents % k:
        raise UsageError(
            f"{files.config_name} asks for groupmax with k = {k}, which does not divide {latents} latents."
        )
    offset = files.tensor("b_dec", config.d_in)
    made = Dictionary(
        encoder=files.tensor("encoder.weight", latents, config.d_in),
        decoder=files.tensor("W_dec", latents, config.d_in),
        activation=GroupMax(k) if config.activation == "groupmax" else TopK(k),
        bias=files.tensor("encoder.bias", latents),
        offset=offset,
        decoder_bias=offset,
        # A folder a hook point, named after it.
        hook=files.path.parent.name,
    )
    files.refuse_unused("sparsify without skip connection")
    return made
