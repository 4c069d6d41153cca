"""Settings in `ray_config.yaml` for finding concepts. Imports no model library."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from actors.settings import Dtype, Placement, Settings

Mode = Literal["paper", "authors-code"]


class SharedDetection(Settings):
    """Settings of every detector: where it runs and what it remembers."""

    placement: Placement = Placement()
    remembered_mb: float = Field(128.0, ge=0)
    """Megabytes of detections (their masks) kept in memory by each replica."""


class ScenesDetection(SharedDetection):
    """Finds the concepts of the embedded scenes in pixels: a small network, a stand-in for the ones below."""

    backend: Literal["scenes"] = "scenes"


class GroundingDetection(SharedDetection):
    """Grounding DINO finds boxes for the words, SAM turns them into masks, as in MAIA (4.2 and C2)."""

    backend: Literal["grounding-dino-sam"] = "grounding-dino-sam"
    detector: str = "IDEA-Research/grounding-dino-tiny"
    """Hub id or folder of a zero-shot object detector of transformers."""
    segmenter: str = "facebook/sam-vit-huge"
    """Hub id or folder of a SAM model."""
    detector_revision: str | None = None
    """Commit, tag or branch of the detector on the hub."""
    segmenter_revision: str | None = None
    """Commit, tag or branch of the segmenter on the hub."""
    mode: Mode = "paper"
    """`paper`: thresholds 0.3 (box) and 0.25 (text), the best box's confidence.
    `authors-code`: 0.25 and 0.30, images shrunk to 224 px, the mean of the boxes' scores cut to two decimals.
    """
    box_threshold: float | None = Field(None, ge=0, lt=1)
    """Least confidence of a box; None is the mode's."""
    text_threshold: float | None = Field(None, ge=0, lt=1)
    """Least similarity of a word of the prompt to a box; None is the mode's."""
    dilation_px: int | None = Field(None, ge=0, le=256)
    """How far each mask grows, in pixels; None is 18, as in the authors' code (5x5 ellipse, 9 times)."""
    device: str = "auto"
    """`auto` takes a GPU where there is one; else `cpu`, `cuda`, `cuda:1`, `mps`."""
    dtype: Dtype = "float32"
    """Scores are measurements, so the default is exact everywhere; lower precision moves them."""
    max_batch: int = Field(4, ge=1, le=256)
    """Images in one pass at most."""


class Sam3Detection(SharedDetection):
    """SAM 3 finds and segments every instance of a concept named in words, in one pass."""

    backend: Literal["sam3"] = "sam3"
    model: str = "facebook/sam3"
    """Hub id or folder. The official weights need a granted request and a hub token."""
    revision: str | None = None
    """Commit, tag or branch on the hub."""
    threshold: float = Field(0.3, ge=0, lt=1)
    """Least confidence of an instance."""
    mask_threshold: float = Field(0.5, ge=0, lt=1)
    """Least probability of a pixel of a mask."""
    dilation_px: int = Field(18, ge=0, le=256)
    """How far each mask grows, in pixels of the image."""
    device: str = "auto"
    """`auto` takes a GPU where there is one; else `cpu`, `cuda`, `cuda:1`, `mps`."""
    dtype: Dtype = "float32"
    """Scores are measurements, so the default is exact everywhere; lower precision moves them."""
    max_batch: int = Field(4, ge=1, le=256)
    """Images in one pass at most."""


DetectionSettings = Annotated[
    ScenesDetection | GroundingDetection | Sam3Detection, Field(discriminator="backend")
]
