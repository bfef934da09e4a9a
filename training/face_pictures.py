"""What LivePortrait's motion extractor sees of a video: the face, cut alike as long as it stays in view."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np

from ..core_models.face.anchored_crop import CROP_SIZE, FaceSquare
from ..core_models.face.crop import crop_face
from ..core_models.face.ffhq_crop import ffhq_square
from ..core_models.face.landmarker import DetectedFace, FaceLandmarker
from ..core_models.face.tracking import follow_face
from ..core_models.motion.keypoint_extraction import network_picture


class SeenFrames:
    """Goes through frames once; knows how many there were and the last one. (itertools.tee would hold 57.)"""

    def __init__(self, frames: Iterable[np.ndarray]) -> None:
        self._frames, self.count = frames, 0
        self.last: np.ndarray | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        for frame in self._frames:
            self.count, self.last = self.count + 1, frame
            yield frame


class PlacedFace(NamedTuple):
    """A face, the whole picture that shows it, and the square that is cut of its stretch of frames.

    frame, stretch: numbers of the frame and of its stretch. picture: (H, W, 3) uint8, as it was given.
    """

    frame: int
    stretch: int
    picture: np.ndarray
    face: DetectedFace
    square: FaceSquare


class FacePicture(NamedTuple):
    """What the motion extractor sees, (256, 256, 3) uint8; which frame it is, and which stretch of frames it is in."""

    frame: int
    stretch: int
    picture: np.ndarray


def placed_faces(
    frames: Iterable[np.ndarray],
    landmarker: FaceLandmarker,
    face_index: int | None = None,
    tick: Callable[[], None] | None = None,
) -> Iterator[PlacedFace]:
    """Yield the face of every frame that has it, and the square to cut. Holds one frame at a time.

    A stretch begins with a frame in which the face appears, or in which it has left the square; its first frame places
    the square. tick: called for every frame. Raises what `follow_face` raises.
    """
    seen = SeenFrames(frames)
    square: FaceSquare | None = None
    stretch = -1
    for index, face in enumerate(follow_face(seen, landmarker, face_index)):
        if tick is not None:
            tick()
        if face is None:
            square = None
            continue
        if square is None or not _holds(square, face):
            square, stretch = ffhq_square(face.landmarks), stretch + 1
        yield PlacedFace(index, stretch, seen.last, face, square)


def face_pictures(
    frames: Iterable[np.ndarray],
    landmarker: FaceLandmarker,
    face_index: int | None = None,
    tick: Callable[[], None] | None = None,
) -> Iterator[FacePicture]:
    """Yield the face in every frame that has it, cut alike within a stretch (`placed_faces`).

    Raises what `follow_face` raises.
    """
    for placed in placed_faces(frames, landmarker, face_index, tick):
        to_frame = placed.square.crop_to_frame(CROP_SIZE)
        crop = crop_face(placed.picture, to_frame, CROP_SIZE, cv2.BORDER_CONSTANT)
        yield FacePicture(placed.frame, placed.stretch, network_picture(crop))


def _holds(square: FaceSquare, face: DetectedFace) -> bool:
    """Return whether the middle of the face is in the square."""
    away = np.abs(np.subtract(face.centre, square.centre))
    return bool((away <= square.side / 2).all())
