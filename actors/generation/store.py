"""Made images on disk, each under the digest of what was asked: made once, across agents and runs.

One file per image: a PNG whose text chunk holds the provenance, so that the two cannot part and any
viewer opens it. Files are immutable and written put-if-absent (write, fsync, hard link): of two writers
the first wins and the other takes up its image, because the first result is the canonical one.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path

import PIL.Image
import PIL.PngImagePlugin
import structlog

from actors.errors import UsageError
from actors.generation.base import MadeImage
from actors.images import Image, Provenance

_CHUNK = "maia-provenance"

log = structlog.get_logger(__name__)


class ImageStore:
    """A folder of made images.

    Raises (when opened):
        UsageError: If the folder cannot be created or written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.expanduser()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"the image store {str(folder)!r} cannot be created: {error}.",
                "Set `generation.store` to a folder that can be written, or to null.",
            ) from error

    def get(self, key: Hashable) -> MadeImage | None:
        """Return the image made for `key`, None if there is none. A damaged file is removed."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return _read(data)
        except (OSError, ValueError, KeyError, TypeError, SyntaxError) as error:
            log.warning("stored_image_damaged", path=str(path), error=str(error))
            path.unlink(missing_ok=True)
            return None

    def put(self, key: Hashable, made: MadeImage) -> MadeImage:
        """Keep `made` unless there is an image for `key`; return the one that is kept.

        A full or read-only disk costs the copy, not the image: it is logged and `made` is returned.
        """
        path = self._path(key)
        try:
            path.parent.mkdir(exist_ok=True)
            if _put_if_absent(path, _written(made)):
                return made
        except OSError as error:
            log.warning("image_not_stored", path=str(path), error=str(error))
            return made
        first = self.get(key)
        # Both were paid for; the one that is kept was not charged to this request.
        return made if first is None else replace(first, dollars=made.dollars)

    def _path(self, key: Hashable) -> Path:
        digest = hashlib.blake2b(json.dumps(key, default=list).encode(), digest_size=16).hexdigest()
        return self._folder / digest[:2] / f"{digest}.png"


def _written(made: MadeImage) -> bytes:
    chunks = PIL.PngImagePlugin.PngInfo()
    chunks.add_itxt(_CHUNK, made.provenance.to_json())
    buffer = io.BytesIO()
    made.image.to_pil().save(buffer, "PNG", compress_level=1, pnginfo=chunks)
    return buffer.getvalue()


def _read(data: bytes) -> MadeImage:
    with PIL.Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
        picture.load()
        assert isinstance(picture, PIL.PngImagePlugin.PngImageFile)
        provenance = Provenance.from_json(str(picture.text[_CHUNK]))
        return MadeImage(Image.from_pil(picture), provenance)


def _put_if_absent(path: Path, data: bytes) -> bool:
    """Write `data` to `path` whole and durably, or return False if there is a file already."""
    draft = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            # Unlike rename, link refuses to replace; it is atomic on network file systems too.
            path.hardlink_to(draft)
        except FileExistsError:
            return False
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True
