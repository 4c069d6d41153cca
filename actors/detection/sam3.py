"""SAM 3 finds and segments every instance of a concept named in words.

A newer detector than the paper's. The value is the best instance's confidence, and masks are merged and
dilated as for Grounding DINO + SAM, so that units built on either are read alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from actors import hub
from actors.detection.base import Detection, DetectRequest, not_finite_error
from actors.detection.masks import dilated, merged, radius_for
from actors.detection.settings import Sam3Detection
from actors.errors import MaiaError, MissingDependencyError, UsageError


class Sam3Detector:
    """SAM 3 on one device. Implements `Detector`.

    Raises (when built):
        MissingDependencyError: Without transformers, or with one that has no SAM 3.
        UsageError: An unknown model, one of another kind, an unreachable hub, too little memory.
    """

    def __init__(self, settings: Sam3Detection) -> None:
        hub.require("the SAM 3 backend", "torch", "torchvision", "transformers")
        from actors.runtime import pick_device
        from actors.vision_libraries import import_torchvision

        import_torchvision()
        import transformers

        if not hasattr(transformers, "Sam3Model"):
            raise MissingDependencyError(
                f"transformers {transformers.__version__} has no SAM 3.", "pip install -U transformers"
            )
        transformers.utils.logging.disable_progress_bar()
        self._settings = settings
        self._device = str(pick_device(settings.device))
        self._dtype = hub.loading_dtype(settings.dtype, self._device)
        folder = hub.resolve(settings.model, settings.revision)
        hub.check_memory(settings.model, hub.weights_bytes(folder, self._dtype.itemsize), self._device)
        with hub.translated_errors(settings.model):
            config = transformers.AutoConfig.from_pretrained(folder)
            if config.model_type not in ("sam3", "sam3_video"):
                raise UsageError(
                    f"{settings.model!r} is not a SAM 3 model but {config.model_type}.", "Use facebook/sam3."
                )
            self._reads = transformers.Sam3Processor.from_pretrained(folder)
            self._model = transformers.Sam3Model.from_pretrained(folder, dtype=self._dtype)
            self._model = self._model.to(self._device).eval()
        self.max_batch = settings.max_batch
        self.name = (
            f"sam3 {hub.identity(settings.model, folder)} >{settings.threshold} "
            f"mask>{settings.mask_threshold} dilation={settings.dilation_px} {settings.dtype}"
        )

    def detect(self, requests: Sequence[DetectRequest]) -> list[Detection | MaiaError]:
        """Return one detection or typed failure per request, in order; see `Detector`."""
        results: dict[int, Detection | MaiaError] = {}
        todo: list[int] = []
        for index, request in enumerate(requests):
            if request.concept.strip():
                todo.append(index)
            else:
                results[index] = UsageError(f"a concept must have words, got {request.concept!r}")
        for start in range(0, len(todo), self.max_batch):
            batch = todo[start : start + self.max_batch]
            results |= zip(batch, self._detect([requests[index] for index in batch]), strict=True)
        return [results[index] for index in range(len(requests))]

    def _detect(self, requests: Sequence[DetectRequest]) -> list[Detection]:
        import torch

        distinct = {request.image.id: request.image for request in requests}
        position = {id: index for index, id in enumerate(distinct)}
        rows = [position[request.image.id] for request in requests]
        with torch.inference_mode():
            seen = self._reads(images=[image.to_pil() for image in distinct.values()], return_tensors="pt")
            words = self._reads(text=[request.concept.strip() for request in requests], return_tensors="pt")
            # The image is most of the work: several concepts of one image share its encoding.
            features = self._model.get_vision_features(seen["pixel_values"].to(self._device, self._dtype))
            outputs = self._model(vision_embeds=_rows(features, rows), **words.to(self._device))
            if not (outputs.pred_logits.isfinite().all() and outputs.pred_boxes.isfinite().all()):
                raise not_finite_error(self.name)
            results = self._reads.post_process_instance_segmentation(
                outputs,
                threshold=self._settings.threshold,
                mask_threshold=self._settings.mask_threshold,
                target_sizes=[request.image.size for request in requests],
            )
        return [self._detection(request, result) for request, result in zip(requests, results, strict=True)]

    def _detection(self, request: DetectRequest, result: dict[str, Any]) -> Detection:
        size = request.image.size
        scores = result["scores"].float().cpu().numpy()
        if not len(scores):
            return Detection(0.0, np.zeros(size, dtype=bool))
        order = np.argsort(-scores, kind="stable")
        mask = merged(result["masks"].cpu().numpy().astype(bool), size)
        mask = dilated(mask, radius_for(size, self._settings.dilation_px))
        boxes = result["boxes"].float().cpu().numpy()[order]
        return Detection(float(scores[order[0]]), mask, boxes, scores[order])


def _rows(features: Any, rows: Sequence[int]) -> Any:
    """Return the vision encoder's output with its batch rows picked, and repeated, as `rows` says."""
    import torch

    def picked(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value[list(rows)]
        if isinstance(value, (tuple, list)):
            return type(value)(picked(item) for item in value)
        return value

    return type(features)(**{name: picked(value) for name, value in features.items()})
