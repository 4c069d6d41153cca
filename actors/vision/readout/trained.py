"""Whether a dictionary is applied where it was trained: at the tokens, the head and the side of a module that
its file names.

Hooks are named as in TransformerLens and ViT-Prisma: `blocks.9.hook_resid_pre` is the input of a block,
`blocks.9.attn.hook_z` what the heads give before the output projection.
"""

from __future__ import annotations

import re

from actors.errors import UsageError
from actors.vision.dictionaries.dictionary import Dictionary
from actors.vision.readout.base import LayerInfo
from actors.vision.readout.places import ALL, CLS, REGISTERS, Place, split_place


def check_place(dictionary: Dictionary, source: str, layer: LayerInfo) -> None:
    """Raise UsageError if a dictionary says that it was trained at another part of a layer than this one.

    A file that says nothing is applied at any part.
    """
    base, place = split_place(layer.name)
    wrong = _wrong_site(dictionary, base, place)
    if wrong is None and (wanted := _wanted_tokens(dictionary, layer, place)) is not None:
        words = {CLS: "the class token alone", "": "patches alone"}[wanted]
        wrong = f"was trained on {words}", Place(place.site, place.head, wanted).of(base)
    if wrong is not None:
        said = f" ({dictionary.hook})" if dictionary.hook else ""
        raise UsageError(
            f"the dictionary {source}{said} {wrong[0]}, and {layer.name!r} is another place.",
            f"Name {wrong[1]}.",
        )


def _wanted_tokens(dictionary: Dictionary, layer: LayerInfo, place: Place) -> str | None:
    """Return the tokens that it was trained on, None if they are those of the layer."""
    one = layer.kind == "vector" and not place.tokens  # pooled: whatever the tokens were, they are one vector
    if dictionary.tokens == "cls" and place.tokens != CLS and not one:
        return CLS
    of_prefix = place.tokens in (CLS, REGISTERS, ALL) or place.tokens.startswith("register")
    return "" if dictionary.tokens == "patches" and of_prefix else None


def _wrong_site(dictionary: Dictionary, base: str, place: Place) -> tuple[str, str] | None:
    """Return what is wrong with the side of the module, and the name of the right one."""
    hook = re.fullmatch(r"blocks\.(\d+)\.(?:attn\.)?hook_(resid_pre|z)", dictionary.hook)
    if dictionary.head is not None:
        right = Place("head", dictionary.head, place.tokens)
        if place.site != "head" or place.head != dictionary.head:
            return f"was trained on head {dictionary.head}", f"the attention, such as {right.of(base)}"
    elif hook is not None and hook[2] == "z" and place.site != "in":
        return (
            "was trained on what all heads give before the output projection",
            "the input of that projection, such as blocks.9.attn.proj@in",
        )
    elif hook is not None and hook[2] == "resid_pre" and not place.site and base.endswith(f".{hook[1]}"):
        return "was trained on the input of the block", Place("in", 0, place.tokens).of(base)
    return None
