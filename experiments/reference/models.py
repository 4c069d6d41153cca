"""Writes docs/models.md from the list of hosted models: `python -m experiments.reference.models`."""

from __future__ import annotations

from pathlib import Path

from actors.endpoint.catalogue import HostedModel, LocalModel, catalogue
from actors.endpoint.prices import ImagePrice, TokenPrice

TARGET = Path(__file__).resolve().parents[2] / "docs" / "models.md"

_INTRO = """\
# Models and prices

Names, prices and end dates were read from published lists on {checked}. The endpoints were not called for it.
They live in `actors/endpoint/catalogue.yaml`.
This page is made from it: `python -m experiments.reference.models`.
A `price` in a profile wins over the list. `maia doctor` warns of models that have ended or end soon.
Prices are US dollars for a million tokens unless the heading says otherwise.
"""


def reference() -> str:
    """Return the page."""
    listed = catalogue()
    current = [model for model in listed.chat if model.ends is None]
    images = [model for model in listed.images if model.ends is None]
    ending = sorted(
        (model for model in (*listed.chat, *listed.images) if model.ends is not None),
        key=lambda model: (str(model.ends), model.id),
    )
    parts = [
        _INTRO.format(checked=listed.checked.isoformat()),
        "## Language models\n",
        _table(
            ("model", "provider", "good for", "prompt", "cached", "completion"),
            [
                (f"`{model.id}`", model.provider, ", ".join(model.use), *_tokens(model.price))
                for model in current
            ],
        ),
        "## Images, in US dollars an image\n",
        _table(
            ("model", "provider", "good for", "price"),
            [
                (f"`{model.id}`", model.provider, ", ".join(model.use), _image(model.price))
                for model in images
            ],
        ),
        "## Ended, or ending\n",
        _table(("model", "provider", "ends", "use instead"), [_ending(model) for model in ending]),
        "## Weights for a GPU of your own\n",
        _table(
            ("model", "for", "GPU memory, about"),
            [_local(model, "language") for model in listed.local_chat]
            + [_local(model, ", ".join(model.use)) for model in listed.local_images],
        ),
        "## Addresses and keys\n",
        _table(
            ("provider", "`base_url`", "`api_key_env`"),
            [
                (name, f"`{provider.base_url}`", f"`{provider.api_key_env}`")
                for name, provider in listed.providers.items()
            ],
        ),
    ]
    return "\n".join(parts)


def _tokens(price: TokenPrice | None) -> tuple[str, str, str]:
    if price is None:
        return ("unknown",) * 3
    cached = "as prompt" if price.cached is None else f"{price.cached:g}"
    return f"{price.prompt:g}", cached, f"{price.completion:g}"


def _image(price: ImagePrice | None) -> str:
    if price is None:
        return "unknown"
    parts = []
    if isinstance(price.image, dict):
        parts.append(", ".join(f"{value:g} {quality}".strip() for quality, value in price.image.items()))
    if price.tokens is not None:
        tokens = price.tokens
        parts.append(
            f"for a million tokens: text {tokens.text:g}, image {tokens.image:g}, output {tokens.output:g}"
        )
    return "; ".join(parts)


def _ending(model: HostedModel) -> tuple[str, ...]:
    return f"`{model.id}`", model.provider, str(model.ends), f"`{model.successor}`"


def _local(model: LocalModel, use: str) -> tuple[str, ...]:
    return f"`{model.id}`", use, f"{model.gpu_gb} GB"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in lines)


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
