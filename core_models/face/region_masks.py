"""The three masks by which signals steer their own parts of a face, by contours or as boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .box_masks import BoxParameters, box_masks_of_frames
from .masks import face_without_mouth, masks_of_frames


def region_masks(
    landmarks_of_frames: Sequence[np.ndarray],
    size: tuple[int, int],
    grow_px: float = 0.0,
    feather_px: float = 0.0,
    boxes: BoxParameters | None = None,
    union: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the masks of the face, the mouth, and the face without the mouth, (N, H, W) float32 in 0..1 each.

    landmarks_of_frames: (478, 3) pixels per frame. size: (width, height) in pixels. grow_px, feather_px: of contours,
    as of `face_mask`. boxes: draws boxes instead, with their own edges. union: one mask for all frames, (1, H, W).
    Raises as `masks_of_frames` and `box_masks_of_frames`.
    """
    if boxes is not None:
        face, mouth = (
            box_masks_of_frames(kind, landmarks_of_frames, size, boxes, union) for kind in ("face", "mouth")
        )
    else:
        face, mouth = (
            masks_of_frames(kind, landmarks_of_frames, size, grow_px, feather_px, union)
            for kind in ("face", "mouth")
        )
    return face, mouth, face_without_mouth(face, mouth)
