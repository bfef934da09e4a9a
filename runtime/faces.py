"""Faces in pictures: the face detector from the shared cache, and portraits made with it or with known landmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from ..core_models.face.landmarker import FaceLandmarker
    from ..core_models.types import ModelHandle, Portrait

FACE_DETECTOR = "face_landmarker"
"""Row of the weights manifest, and name of its handle."""


def face_detector(
    name: str = FACE_DETECTOR,
    download: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ModelHandle:
    """Return the handle of a face landmark bundle that is here. download: fetch it when it is missing.

    Raises WeightNotFoundError (an OSError) that says what fetches it.
    """
    from ..core_models.types import ModelHandle
    from .weights import fetch_weight, find_weight

    path = fetch_weight(name, progress) if download else find_weight(name)
    return ModelHandle(name=name, path=str(path))


def face_landmarker(handle: ModelHandle) -> AbstractContextManager[FaceLandmarker]:
    """Return the landmarker behind a FACE_MODEL from the shared cache, for use in a `with`."""
    from ..core_models.face.landmarker import FaceLandmarker
    from ..core_models.types import ModelHandle
    from .model_cache import model_cache

    if not isinstance(handle, ModelHandle) or handle.name != FACE_DETECTOR:
        raise ValueError(
            f"expected a face detector, got {getattr(handle, 'name', type(handle).__name__)}: connect a "
            "Load Face Detector node"
        )
    return model_cache().use(handle, lambda wanted: FaceLandmarker(wanted.path))


def portrait_by_detector(
    frame: np.ndarray,
    detector: ModelHandle,
    face_index: int | None = None,
    box: Iterable[float] | None = None,
) -> Portrait:
    """Return the portrait of one face in an (H, W, 3) uint8 RGB frame, found by a detector.

    face_index, box and what is raised: as of `portrait_from_frame`.
    """
    from ..core_models.face.portrait import portrait_from_frame

    with face_landmarker(detector) as landmarker:
        return portrait_from_frame(frame, landmarker, face_index, box)


def portrait_by_landmarks_file(frame: np.ndarray, path: Path) -> Portrait:
    """Return the portrait of an (H, W, 3) uint8 RGB frame whose landmarks lie in a file, as `read_landmarks` reads it.

    Raises ValueError for a file that belongs to a picture of another size, and as `portrait_from_landmarks`.
    """
    from ..core_models.face.landmarks import read_landmarks
    from ..core_models.face.portrait import portrait_from_landmarks

    face = read_landmarks(path)
    size = (frame.shape[1], frame.shape[0])
    if face.picture_size not in (None, size):
        raise ValueError(
            f"the landmarks file {path.name} belongs to a picture of {face.picture_size[0]} x "
            f"{face.picture_size[1]} px, but this one is {size[0]} x {size[1]} px: give both the same picture"
        )
    return portrait_from_landmarks(frame, face.landmarks, face.blendshapes)


def finished_portrait(portrait: Portrait, largest_side: int, crop_style: str) -> Portrait:
    """Return a portrait at a size that a video file can hold, with the face crop of a system.

    largest_side: pixels of the longer side at most, 0 any. crop_style: one of CROP_STYLES.
    """
    from ..core_models.face.ffhq_crop import with_crop_style
    from ..core_models.face.picture_size import fit_portrait

    return with_crop_style(fit_portrait(portrait, largest_side), crop_style)
