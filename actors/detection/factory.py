"""From settings to a loaded detector, inside the process that will own it."""

from __future__ import annotations

from actors import hub
from actors.detection.backend import DetectionBackend
from actors.detection.base import Detector
from actors.detection.settings import DetectionSettings, GroundingDetection, Sam3Detection, ScenesDetection
from actors.errors import UsageError
from actors.serving.backend import Readiness


def build_backend(settings: DetectionSettings) -> DetectionBackend:
    """Return the loaded detector.

    Raises:
        UsageError: If it cannot work as configured: a missing package, an unknown model, an offline hub,
            too little memory.
    """
    return DetectionBackend(_detector(settings), remembered_bytes=int(settings.remembered_mb * 1e6))


def _detector(settings: DetectionSettings) -> Detector:
    match settings:
        case GroundingDetection():
            from actors.detection.grounding import GroundingDetector

            return GroundingDetector(settings)
        case Sam3Detection():
            from actors.detection.sam3 import Sam3Detector

            return Sam3Detector(settings)
        case ScenesDetection():
            from actors.embedded.detector import ScenesDetector

            return ScenesDetector(settings)


def available(settings: DetectionSettings) -> tuple[Readiness, str]:
    """Return whether this detector could be used here, and in one sentence why (not).

    Nothing is loaded and nothing is asked of a hub.
    """
    match settings:
        case GroundingDetection():
            models = [settings.detector, settings.segmenter]
        case Sam3Detection():
            models = [settings.model]
        case ScenesDetection():
            return "ready", "the concepts of the embedded scenes, found by a small network, a stand-in."
    try:
        hub.require(f"the {settings.backend} backend", "torch", "torchvision", "transformers")
        local = [hub.local_folder(model) is not None for model in models]
    except UsageError as error:
        return "missing", str(error)
    names = " and ".join(models)
    if all(local):
        return "ready", f"{names} on this machine."
    return "not asked", f"{names} from the Hugging Face hub or its cache (the hub was not asked)."
