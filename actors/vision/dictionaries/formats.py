"""Which format a file has: the first module that recognizes it reads it."""

from __future__ import annotations

from actors.errors import UsageError
from actors.vision.dictionaries import dictionary_learning, files, overcomplete, prisma, saelens, sparsify
from actors.vision.dictionaries.dictionary import Dictionary

_FORMATS = (dictionary_learning, prisma, overcomplete, sparsify, saelens)


def load(path: str) -> tuple[Dictionary, str]:
    """Return the dictionary at a file or folder, and a digest of its weights and configuration.

    Raises:
        UsageError: If it is of no known format, or asks for what is not read.
    """
    published, digest = files.read(path)
    for form in _FORMATS:
        if form.fits(published):
            return form.dictionary(published), digest
    names = ", ".join(sorted(published.tensors)[:20]) or "no tensors"
    if published.config_path is None and not published.config:
        raise UsageError(
            f"{published.path} holds {names} and no configuration, which determines its codes.",
            "Put its cfg.json or config.json next to it. One of your own: W_enc (D, F), b_enc, W_dec, b_dec, "
            'and {"architecture": "standard", "d_in": D, "d_sae": F} as SAELens writes it.',
        )
    raise UsageError(
        f"{published.path} is of no format that is read: it holds {names}, and {published.config_name} "
        f"holds {', '.join(sorted(published.config)[:20])}.",
        "Dictionaries of SAELens, ViT-Prisma, dictionary_learning, overcomplete and sparsify are read.",
    )
