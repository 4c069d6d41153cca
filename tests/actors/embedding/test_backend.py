"""Images and texts are embedded once, kept by content, and failures stay with what caused them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from actors.embedding.backend import EmbeddingBackend
from actors.embedding.base import EmbedderFacts, unit_norm
from actors.embedding.client import EmbeddingTable, PoolEmbedder
from actors.errors import BackendError, UsageError
from actors.images import Image
from actors.serving.pool import LocalPool


@dataclass
class MeanColors:
    """An embedder of mean colors; "gray" is a word that it does not know."""

    seen: list[str] = field(default_factory=list)
    facts: EmbedderFacts = EmbedderFacts("mean colors", 3, None)  # noqa: RUF009
    max_batch: int = 4

    def images(self, images: Sequence[Image]) -> np.ndarray:
        assert 1 <= len(images) <= self.max_batch
        self.seen += [image.id for image in images]
        return unit_norm(np.array([image.pixels.mean((0, 1)) + 1 for image in images]), self.facts.name)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        if "gray" in texts:
            raise UsageError("there is no word 'gray'.")
        self.seen += texts
        return np.eye(3, dtype=np.float32)[[("red", "green", "blue").index(text) for text in texts]]


@dataclass(frozen=True)
class Colors:
    """Images of one color each, of which number 5 cannot be read."""

    n: int = 20

    def load(self, index: int) -> Image:
        if index == 5:
            raise OSError("truncated")
        return Image.from_pixels(np.full((4, 4, 3), (index, 100, 200), np.uint8))


async def test_equal_images_and_texts_are_embedded_once_and_kept_on_disk(tmp_path: Path) -> None:
    model = MeanColors()
    images = [Colors().load(1), Colors().load(2), Colors().load(1)]
    async with LocalPool(EmbeddingBackend(model, memory_bytes=10**6, folder=tmp_path)) as pool:
        embedder = await PoolEmbedder.connect(pool)
        rows = await embedder.images(images)
        words = await embedder.texts(["red", "gray", "blue", "red"])
    assert len(model.seen) == 4
    np.testing.assert_array_equal(rows[0], rows[2])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    assert isinstance(words[1], UsageError)
    np.testing.assert_array_equal(words[2], [0, 0, 1])
    again = MeanColors()
    async with LocalPool(EmbeddingBackend(again, memory_bytes=10**6, folder=tmp_path)) as pool:
        embedder = await PoolEmbedder.connect(pool)
        np.testing.assert_array_equal(await embedder.images(images), rows)
    assert not again.seen


async def test_a_survey_leaves_out_what_cannot_be_read_and_is_resumed(tmp_path: Path) -> None:
    indices = np.arange(1, 20)
    model = MeanColors()
    async with LocalPool(EmbeddingBackend(model)) as pool:
        embedder = await PoolEmbedder.connect(pool)
        table = await embedder.survey(Colors(), "colors", indices, tmp_path)
        again = await embedder.survey(Colors(), "colors", indices, tmp_path)
    assert table.indices.tolist() == [index for index in range(1, 20) if index != 5]
    assert table.skipped == {5: "OSError: truncated"}
    assert len(model.seen) == 18
    np.testing.assert_array_equal(again.vectors, table.vectors)
    image = Colors().load(7)
    np.testing.assert_array_equal(table.of(image.id), table.vectors[5])
    assert table.of("00" * 16) is None


async def test_a_data_set_of_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    async with LocalPool(EmbeddingBackend(MeanColors())) as pool:
        embedder = await PoolEmbedder.connect(pool)
        with pytest.raises(UsageError, match=r"no image could be embedded. The first: OSError: truncated"):
            await embedder.survey(Colors(), "colors", np.array([5]), tmp_path)


def test_a_damaged_table_is_none(tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    path.write_bytes(b"PK\x03\x04 and no more")
    assert EmbeddingTable.load(path) is None
    assert EmbeddingTable.load(tmp_path / "none.npz") is None


def test_vectors_without_length_or_not_finite_are_a_failure() -> None:
    for row in ([0.0, 0.0], [np.nan, 1.0]):
        with pytest.raises(BackendError, match="zero or not finite"):
            unit_norm(np.array([row]), "a model")
