"""Following one face through the frames of a video."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from .comfy_landmarks import faces_from_comfy
from .landmarker import DetectedFace, FaceLandmarker
from .portrait import choose_face

TILE_SEARCH_INTERVAL = 10
"""While the face is missing, every so many frames tiles are searched too; the others are searched whole."""
NEIGHBOURHOOD = 4.0
"""A lost face is looked for first in a square this many times its box's side."""


def follow_face(
    frames: Iterable[np.ndarray], landmarker: FaceLandmarker, face_index: int | None = None
) -> Iterator[DetectedFace | None]:
    """Yield the same person's face for each frame, None where it is missing. Holds one frame at a time.

    frames: (H, W, 3) uint8 RGB. face_index: which face of the first frame that has any, 0 the largest; None
    needs one that is clearly the largest.
    A face that was lost is found again nearest to where it was last seen.
    Raises ValueError when the choice of face is unclear, or for frames of another shape or type.
    """
    last: DetectedFace | None = None
    missing = 0
    for frame in frames:
        face = landmarker.track(frame, last) if last is not None and missing == 0 else None
        if face is None:
            search_tiles = missing % TILE_SEARCH_INTERVAL == 0
            if last is None:
                face = _first_face(frame, landmarker, face_index, search_tiles)
            else:
                face = _face_near(frame, landmarker, last, search_tiles)
        missing = missing + 1 if face is None else 0
        last = face or last
        yield face


def comfy_faces(
    face_landmarks: Any, size: tuple[int, int], frame_count: int, face_index: int | None = None
) -> Iterator[DetectedFace | None]:
    """Yield the same person's face for each frame of ComfyUI's FACE_LANDMARKS, None where it is missing.

    size: (width, height) of the frames in pixels. face_index: as for `follow_face`.
    A face is followed to the nearest one. Raises ValueError for a value that is not FACE_LANDMARKS, belongs to
    another size or fewer frames, or when the choice of face is unclear.
    """
    empty = np.broadcast_to(np.uint8(0), (size[1], size[0], 3))
    last: DetectedFace | None = None
    for index in range(frame_count):
        faces = faces_from_comfy(face_landmarks, *size, index)
        if last is None and faces:
            faces = [choose_face(faces, empty, face_index)]
        face = _nearest(faces, last) if last is not None else next(iter(faces), None)
        last = face or last
        yield face


def _nearest(faces: list[DetectedFace], last: DetectedFace) -> DetectedFace | None:
    return min(faces, key=lambda face: math.dist(face.centre, last.centre), default=None)


def _first_face(
    frame: np.ndarray, landmarker: FaceLandmarker, face_index: int | None, search_tiles: bool
) -> DetectedFace | None:
    faces = landmarker.detect(frame, at_least=(face_index or 0) + 1, search_tiles=search_tiles)
    return choose_face(faces, frame, face_index) if faces else None


def _face_near(
    frame: np.ndarray, landmarker: FaceLandmarker, last: DetectedFace, search_tiles: bool
) -> DetectedFace | None:
    """Return the face nearest to where it was last seen: close by if there is one, else anywhere."""
    left, top, right, bottom = _neighbourhood(last, frame.shape[1], frame.shape[0])
    faces: list[DetectedFace] = []
    if right > left and bottom > top:
        close_by = landmarker.detect(frame[top:bottom, left:right], search_tiles=False)
        faces = [face.moved(left, top) for face in close_by]
    faces = faces or landmarker.detect(frame, search_tiles=search_tiles)
    return _nearest(faces, last)


def _neighbourhood(face: DetectedFace, width: int, height: int) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of the square around a face, clipped to the frame."""
    half = NEIGHBOURHOOD * max(face.box[2:]) / 2
    x, y = face.centre
    return (
        max(0, math.floor(x - half)),
        max(0, math.floor(y - half)),
        min(width, math.ceil(x + half)),
        min(height, math.ceil(y + half)),
    )
