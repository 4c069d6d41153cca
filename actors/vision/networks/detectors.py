"""Detectors as networks under study: each class's best score in an image, in place of a list of boxes.

A class's score is 0 where no box of it is left: thresholds of the detector's own apply, so lower them to see
weaker answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from actors.errors import UsageError

if TYPE_CHECKING:
    import torch


class DetectionScores:
    """Feeds a detector, and returns float32 (N, classes) of what it gives. Its forms, for A boxes an image:

    - a list with a dictionary per image of `labels` (A,) and `scores` (A,), as torchvision's detectors give;
    - a dictionary or record of `logits` or `pred_logits` (N, A, classes), or one more for "no object", as
      DETR's;
    - a tensor (N, A, 4 + classes), or one more for "objectness" before them, or with the last axes swapped,
      as YOLO's.
    """

    def __init__(self, module: torch.nn.Module, n_classes: int) -> None:
        self._module, self._n_classes = module, n_classes

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Raises UsageError if the output has none of these forms."""
        output = self._module(batch)
        if isinstance(output, (list, tuple)) and all(_has(item, "labels", "scores") for item in output):
            return self._of_lists(output, batch)
        if isinstance(output, Mapping):
            for name in ("logits", "pred_logits"):
                if name in output:
                    return self._of_queries(output[name])
        while isinstance(output, (list, tuple)) and output:
            output = output[0]
        if getattr(output, "ndim", 0) == 3:
            return self._of_grid(output)
        raise UsageError(
            f"a detector's output of type {type(output).__name__} is not understood.",
            "Let its module return one score for each class, (N, classes), and leave out `detects`.",
        )

    def _of_lists(self, output: Sequence[Mapping[str, Any]], batch: torch.Tensor) -> torch.Tensor:
        best = batch.new_zeros((len(output), self._n_classes), dtype=batch.dtype).float()
        for row, detections in zip(best, output, strict=True):
            labels = detections["labels"].long()
            if len(labels) and int(labels.max()) >= self._n_classes:
                raise UsageError(
                    f"a detector of {self._n_classes} classes gave the label {int(labels.max())}.",
                    "Count the background where labels begin at 1: detects=91 for COCO.",
                )
            row.scatter_reduce_(0, labels, detections["scores"].float(), "amax")
        return best

    def _of_queries(self, logits: torch.Tensor) -> torch.Tensor:
        n = logits.shape[-1]
        if n == self._n_classes + 1:
            return logits.float().softmax(-1)[..., :-1].amax(1)
        self._expect(n == self._n_classes, logits)
        return logits.float().sigmoid().amax(1)

    def _of_grid(self, boxes: torch.Tensor) -> torch.Tensor:
        wide = (4 + self._n_classes, 5 + self._n_classes)
        if boxes.shape[2] not in wide and boxes.shape[1] in wide:
            boxes = boxes.transpose(1, 2)
        self._expect(boxes.shape[2] in wide, boxes)
        scores = boxes[..., -self._n_classes :].float()
        if boxes.shape[2] == wide[1]:
            scores = scores * boxes[..., 4:5].float()
        return scores.amax(1)

    def _expect(self, fits: bool, output: torch.Tensor) -> None:
        if not fits:
            raise UsageError(
                f"a detector's output of shape {tuple(output.shape)} does not fit {self._n_classes} classes.",
                "Give `detects` the number of classes that it was trained on.",
            )


def _has(value: Any, *keys: str) -> bool:
    return isinstance(value, Mapping) and all(key in value for key in keys)
