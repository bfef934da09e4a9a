"""Face, mouth and motion masks of boxes, as ACTalker (arXiv 2504.02542) defines them.

The face's box is that of all mesh points, widened about its centre and clipped to the picture. The mouth's is
that of the outer lips, widened likewise; or the lower half of the face's, which is what the release of ACTalker
means (it computes `y1 + y2 // 2` for the middle row, so that its mouth lies too low or is empty). Motion is the
face without the mouth, exactly. For a clip the paper takes the smallest rectangle around the boxes of all
frames; here each frame's box is widened and clipped before that, so that one box for all covers every frame's,
and no more is added for a head that wanders.

A box takes every pixel it touches, so that no face within the picture is left without one. Before the soft edge
masks are exactly 0 or 1. Coordinates are pixels, x right, y down, integers at pixel centres.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .landmarks import checked_landmarks
from .masks import checked_frames, checked_size, expect_edge, face_without_mouth, soft_edge
from .topology import LIPS_CONTOUR, MESH_POINT_COUNT

FACE_EXTENSION = 1.2
"""Sides of a box over those of the landmarks' own, as ACTalker was released (it says it of the face's box)."""
MOUTH_BOXES = ("lips", "lower half")
"""What the mouth's box is: around the lips, or the lower half of the face's box."""


@dataclass(frozen=True)
class BoxParameters:
    """How boxes are drawn.

    extension: sides of the boxes over those of the landmarks' own, at least 1. mouth_box: one of MOUTH_BOXES.
    grow_px: pixels by which every side moves outwards after that (inwards when negative; a box that comes to
    nothing gives an empty mask). feather_px: width of the soft edge outside, pixels, at least 0; 0 leaves 0 and 1.
    Raises ValueError for what is none of these.
    """

    extension: float = FACE_EXTENSION
    mouth_box: str = MOUTH_BOXES[0]
    grow_px: float = 0.0
    feather_px: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.extension) and self.extension >= 1):
            raise ValueError(
                f"extension is {self.extension}: give a finite factor of at least 1, which is the landmarks' own "
                "box; a negative grow_px makes boxes smaller"
            )
        if self.mouth_box not in MOUTH_BOXES:
            raise ValueError(f"mouth_box is {self.mouth_box!r}; choose one of {', '.join(MOUTH_BOXES)}")
        expect_edge(self.grow_px, self.feather_px)


@dataclass(frozen=True)
class PixelBox:
    """Whole pixels of a picture: columns left to right - 1, rows top to bottom - 1; all 0 when it has none."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def is_empty(self) -> bool:
        """Whether the box holds no pixel."""
        return self.right <= self.left or self.bottom <= self.top


EMPTY_BOX = PixelBox(0, 0, 0, 0)


def face_box(landmarks: np.ndarray, size: tuple[int, int], parameters: BoxParameters) -> PixelBox:
    """Return the face's box: around all points of the mesh (not the irises), widened, grown and clipped.

    landmarks: (478, 3) or (468, 3) pixels. size: (width, height) of the picture.
    Raises ValueError for other landmarks or a picture without pixels.
    """
    return _box_around(checked_landmarks(landmarks)[:MESH_POINT_COUNT], size, parameters)


def mouth_box(landmarks: np.ndarray, size: tuple[int, int], parameters: BoxParameters) -> PixelBox:
    """Return the mouth's box as `parameters.mouth_box` says; it lies within the face's. Arguments as for `face_box`."""
    if parameters.mouth_box == "lower half":
        return lower_half(face_box(landmarks, size, parameters))
    return _box_around(checked_landmarks(landmarks)[list(LIPS_CONTOUR)], size, parameters)


def lower_half(box: PixelBox) -> PixelBox:
    """Return the box from its middle row on; of an odd number of rows the middle one belongs to it."""
    return PixelBox(box.left, (box.top + box.bottom) // 2, box.right, box.bottom)


def enclosing_box(boxes: Iterable[PixelBox]) -> PixelBox:
    """Return the smallest box around all boxes that are not empty, or EMPTY_BOX."""
    filled = [box for box in boxes if not box.is_empty]
    if not filled:
        return EMPTY_BOX
    return PixelBox(
        min(box.left for box in filled),
        min(box.top for box in filled),
        max(box.right for box in filled),
        max(box.bottom for box in filled),
    )


def box_mask(box: PixelBox, size: tuple[int, int], feather_px: float = 0.0) -> np.ndarray:
    """Return (H, W) float32: 1 in the box, falling to 0 over `feather_px` pixels outside it; zeros if it is empty.

    size: (width, height). Raises ValueError for a size without pixels or a feather that is negative or not finite.
    """
    width, height = checked_size(size)
    expect_edge(0.0, feather_px)
    if box.is_empty:
        return np.zeros((height, width), np.float32)
    columns = _distance_outside(width, box.left, box.right)
    rows = _distance_outside(height, box.top, box.bottom)
    return soft_edge(np.hypot(rows[:, None], columns[None]) - 0.5, feather_px).astype(np.float32)


def box_masks_of_frames(
    kind: str,
    landmarks_of_frames: Iterable[np.ndarray],
    size: tuple[int, int],
    parameters: BoxParameters | None = None,
    union: bool = False,
) -> np.ndarray:
    """Return one mask per frame, (N, H, W) float32, or with `union` one for all, (1, H, W).

    kind: one of MASK_KINDS. landmarks_of_frames: (478, 3) per frame. union: the smallest box around the boxes of
    all frames; the motion mask is then that of the faces without that of the mouths.
    Raises ValueError for an unknown kind, no frames, other landmarks or a size without pixels.
    """
    parameters = parameters or BoxParameters()
    frames = checked_frames(kind, landmarks_of_frames)
    if kind == "motion":
        face, mouth = (
            box_masks_of_frames(part, frames, size, parameters, union) for part in ("face", "mouth")
        )
        return face_without_mouth(face, mouth)
    box_of = face_box if kind == "face" else mouth_box
    boxes = [box_of(landmarks, size, parameters) for landmarks in frames]
    shown = [enclosing_box(boxes)] if union else boxes
    return np.stack([box_mask(box, size, parameters.feather_px) for box in shown])


def _box_around(points: np.ndarray, size: tuple[int, int], parameters: BoxParameters) -> PixelBox:
    """Return the pixels that the points' box touches once widened, grown and clipped, points (N, 2 or 3)."""
    limits = checked_size(size)
    lowest, highest = (edge(points[:, :2].astype(np.float64), axis=0) for edge in (np.min, np.max))
    reach = (highest - lowest) / 2 * parameters.extension + parameters.grow_px
    if (reach < 0).any():
        return EMPTY_BOX
    centre = (lowest + highest) / 2
    left, top = np.clip(np.floor(centre - reach + 0.5), 0, limits).astype(int)
    right, bottom = np.clip(np.floor(centre + reach + 0.5) + 1, 0, limits).astype(int)
    box = PixelBox(int(left), int(top), int(right), int(bottom))
    return EMPTY_BOX if box.is_empty else box


def _distance_outside(count: int, first: int, end: int) -> np.ndarray:
    """Return (count,) float64: how many pixels each lies before `first` or past `end` - 1; 0 between them."""
    places = np.arange(count, dtype=np.float64)
    return np.maximum(np.maximum(first - places, places - (end - 1)), 0)
