"""Grounding DINO finds boxes for a concept's words, SAM turns the boxes into masks, as in MAIA (4.2, C2).

The paper says that a unit's value is the detector's confidence, and not which box's: here it is the best
box's, so that a second, fainter dog does not make an image less of a dog. The authors' code takes the mean
of all boxes and differs further; that is the mode `authors-code` (see `GroundingDetection.mode`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from actors import hub
from actors.detection.base import Detection, DetectRequest, not_finite_error
from actors.detection.masks import dilated, dilated_as_authors, merged, radius_for, resized
from actors.detection.settings import GroundingDetection, Mode
from actors.errors import MaiaError, UsageError
from actors.images import Image

THRESHOLDS: dict[Mode, tuple[float, float]] = {"paper": (0.3, 0.25), "authors-code": (0.25, 0.30)}
"""Least confidence of a box, and least similarity of one of the concept's words to it."""
DILATION_PX = 18
_AUTHORS_SIDE = 224


class GroundingDetector:
    """Grounding DINO and SAM on one device. Implements `Detector`.

    Raises (when built):
        MissingDependencyError: Without transformers.
        UsageError: Unknown models, models of another kind, an unreachable hub, too little memory.
    """

    def __init__(self, settings: GroundingDetection) -> None:
        hub.require("the Grounding DINO + SAM backend", "torch", "torchvision", "transformers")
        from actors.runtime import pick_device
        from actors.vision_libraries import import_torchvision

        import_torchvision()
        import transformers

        transformers.utils.logging.disable_progress_bar()
        self._device = str(pick_device(settings.device))
        self._dtype = hub.loading_dtype(settings.dtype, self._device)
        folders = (
            hub.resolve(settings.detector, settings.detector_revision),
            hub.resolve(settings.segmenter, settings.segmenter_revision),
        )
        needed = sum(hub.weights_bytes(folder, self._dtype.itemsize) for folder in folders)
        hub.check_memory(f"{settings.detector} + {settings.segmenter}", needed, self._device)
        self._detector, self._detector_reads = self._load(
            settings.detector, folders[0], "AutoModelForZeroShotObjectDetection"
        )
        self._segmenter, self._segmenter_reads = self._load(settings.segmenter, folders[1], "SamModel")
        if not hasattr(self._detector_reads, "post_process_grounded_object_detection"):
            raise UsageError(
                f"{settings.detector!r} is not a grounded detector but a {type(self._detector).__name__}.",
                "Use a Grounding DINO or MM Grounding DINO model.",
            )
        box, text = THRESHOLDS[settings.mode]
        self._box_threshold = box if settings.box_threshold is None else settings.box_threshold
        self._text_threshold = text if settings.text_threshold is None else settings.text_threshold
        self._dilation_px = DILATION_PX if settings.dilation_px is None else settings.dilation_px
        self._mode = settings.mode
        self.max_batch = settings.max_batch
        models = [
            hub.identity(name, folder)
            for name, folder in zip((settings.detector, settings.segmenter), folders, strict=True)
        ]
        self.name = (
            f"grounding-dino-sam {' '.join(models)} {settings.mode} box>{self._box_threshold} "
            f"text>{self._text_threshold} dilation={self._dilation_px} {settings.dtype}"
        )

    def _load(self, model: str, folder: Path, kind: str) -> tuple[Any, Any]:
        import transformers

        with hub.translated_errors(model):
            reads = transformers.AutoProcessor.from_pretrained(folder)
            loaded = getattr(transformers, kind).from_pretrained(folder, dtype=self._dtype)
            return loaded.to(self._device).eval(), reads

    def detect(self, requests: Sequence[DetectRequest]) -> list[Detection | MaiaError]:
        """Return one detection or typed failure per request, in order; see `Detector`."""
        results: list[Detection | MaiaError | None] = [None] * len(requests)
        by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            if caption(request.concept) == ".":
                results[index] = UsageError(f"a concept must have words, got {request.concept!r}")
            else:
                by_size[self._seen_size(request.image)].append(index)
        # One size a batch: padding to the largest would let an image's boxes depend on its neighbors.
        for indices in by_size.values():
            for start in range(0, len(indices), self.max_batch):
                batch = indices[start : start + self.max_batch]
                for index, detection in zip(batch, self._detect([requests[i] for i in batch]), strict=True):
                    results[index] = detection
        return [result for result in results if result is not None]

    def _seen_size(self, image: Image) -> tuple[int, int]:
        return image.size if self._mode == "paper" else (_AUTHORS_SIDE, _AUTHORS_SIDE)

    def _detect(self, requests: Sequence[DetectRequest]) -> list[Detection]:
        import torch

        size = self._seen_size(requests[0].image)
        pictures = {request.image.id: self._picture(request.image) for request in requests}
        with torch.inference_mode():
            boxes_found = self._boxes([pictures[request.image.id] for request in requests], requests, size)
            with_boxes = {
                r.image.id for r, (boxes, _) in zip(requests, boxes_found, strict=True) if len(boxes)
            }
            masks = self._masks(
                {id: picture for id, picture in pictures.items() if id in with_boxes},
                [(r.image.id, boxes) for r, (boxes, _) in zip(requests, boxes_found, strict=True)],
                size,
            )
        return [
            self._detection(request, *boxes_of, mask)
            for request, boxes_of, mask in zip(requests, boxes_found, masks, strict=True)
        ]

    def _picture(self, image: Image) -> PIL.Image.Image:
        picture = image.to_pil()
        if self._mode == "paper":
            return picture
        return picture.resize((_AUTHORS_SIDE, _AUTHORS_SIDE), PIL.Image.Resampling.LANCZOS)

    def _boxes(
        self, pictures: Sequence[PIL.Image.Image], requests: Sequence[DetectRequest], size: tuple[int, int]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return boxes float32 (n, 4) in pixels of `size` and their scores float32 (n,), best first."""
        import torch

        inputs = self._detector_reads(
            images=list(pictures),
            text=[caption(request.concept) for request in requests],
            padding=True,
            return_tensors="pt",
            # The authors show the detector the 224-pixel image as it is.
            **({"do_resize": False} if self._mode == "authors-code" else {}),
        ).to(self._device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self._dtype)
        outputs = self._detector(**inputs)
        likeness = outputs.logits.float().sigmoid()  # (images, boxes, text positions)
        if not (likeness.isfinite().all() and outputs.pred_boxes.isfinite().all()):
            raise not_finite_error(self.name)
        confidence = likeness.amax(-1)
        keep = confidence > self._box_threshold
        if self._mode == "paper":
            keep &= self._named(likeness, inputs["input_ids"])
        height, width = size
        center, extent = outputs.pred_boxes.float().split(2, dim=-1)
        corners = torch.cat([center - extent / 2, center + extent / 2], -1)
        corners = corners * corners.new_tensor([width, height, width, height])
        per_image = []
        for boxes, scores, kept in zip(corners, confidence, keep, strict=True):
            order = scores[kept].argsort(descending=True, stable=True)
            per_image.append((boxes[kept][order].cpu().numpy(), scores[kept][order].cpu().numpy()))
        return per_image

    def _named(self, likeness: Any, input_ids: Any) -> Any:
        """Return bool (images, boxes): whether a word of the concept (no punctuation) is like the box."""
        tokenizer = self._detector_reads.tokenizer
        ids = {*tokenizer.all_special_ids, tokenizer.convert_tokens_to_ids(".")} - {tokenizer.unk_token_id}
        words = input_ids.new_zeros(likeness.shape[0], likeness.shape[2], dtype=bool)
        words[:, : input_ids.shape[1]] = ~sum(
            (input_ids == i for i in ids), input_ids.new_zeros(1, dtype=bool)
        )
        return ((likeness > self._text_threshold) & words[:, None, :]).any(-1)

    def _masks(
        self,
        pictures: dict[str, PIL.Image.Image],
        wanted: Sequence[tuple[str, np.ndarray]],
        size: tuple[int, int],
    ) -> list[np.ndarray]:
        """Return for each (image id, boxes) the boxes' masks, bool (n, H, W). Each image is encoded once."""
        nothing = np.zeros((0, *size), dtype=bool)
        if not pictures:
            return [nothing] * len(wanted)
        read = self._segmenter_reads(images=list(pictures.values()), return_tensors="pt")
        pixels = read["pixel_values"].to(self._device, self._dtype)
        features = dict(zip(pictures, self._segmenter.get_image_embeddings(pixels), strict=True))
        masks = []
        for id, boxes in wanted:
            if not len(boxes):
                masks.append(nothing)
                continue
            prompt = self._segmenter_reads(
                images=pictures[id], input_boxes=[boxes.tolist()], return_tensors="pt"
            )
            output = self._segmenter(
                image_embeddings=features[id][None],
                input_boxes=prompt["input_boxes"].to(self._device, self._dtype),
                multimask_output=False,
            )
            (drawn,) = self._segmenter_reads.image_processor.post_process_masks(
                output.pred_masks.float().cpu(), prompt["original_sizes"], prompt["reshaped_input_sizes"]
            )
            masks.append(drawn[:, 0].numpy().astype(bool))
        return masks

    def _detection(
        self, request: DetectRequest, boxes: np.ndarray, scores: np.ndarray, masks: np.ndarray
    ) -> Detection:
        size = request.image.size
        seen = self._seen_size(request.image)
        if not len(boxes):
            return Detection(0.0, np.zeros(size, dtype=bool))
        mask = merged(masks, seen)
        if self._mode == "paper":
            mask = dilated(mask, radius_for(size, self._dilation_px))
            score = float(scores[0])
        else:
            # A 5x5 ellipse reaches two pixels further each time.
            mask = resized(dilated_as_authors(mask, round(self._dilation_px / 2)), size)
            score = float(np.mean([math.floor(float(box_score) * 100) / 100 for box_score in scores]))
        scale = np.array([size[1] / seen[1], size[0] / seen[0]] * 2, np.float32)
        return Detection(score, mask, boxes.astype(np.float32) * scale, scores.astype(np.float32))


def caption(concept: str) -> str:
    """Return the concept as Grounding DINO was trained to read one: lower case, one full stop at the end.

    A full stop inside would split it into several.
    """
    return " ".join(concept.lower().replace(".", " ").split()) + "."
