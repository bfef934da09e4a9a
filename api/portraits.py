"""Who is to talk: faces in pictures and films."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..core_models.driving_video import driving_frames
from ..core_models.face.ffhq_crop import LIVEPORTRAIT_CROP
from ..core_models.face.picture import load_picture, picture_from_array
from ..core_models.face.portrait import portrait_from_landmarks
from ..core_models.face.portrait_video import portrait_video
from ..core_models.types import Portrait, PortraitVideo, ProgressCallback
from ..runtime import input_files
from ..runtime.faces import (
    face_detector,
    face_landmarker,
    finished_portrait,
    portrait_by_detector,
    portrait_by_landmarks_file,
)
from .work import cancellable, progress_of

LARGEST_SIDE = 1024
"""Pixels of a portrait's longer side where nothing else is asked for."""


@cancellable()
def load_portrait(
    picture: str | os.PathLike[str] | np.ndarray,
    *,
    landmarks: str | os.PathLike[str] | np.ndarray | None = None,
    face: int | None = None,
    box: Iterable[float] | None = None,
    largest_side: int = LARGEST_SIDE,
    crop_style: str = LIVEPORTRAIT_CROP,
    download: bool = False,
    progress: ProgressCallback | None = None,
) -> Portrait:
    """Return the portrait of one face in a picture.

    picture: a file, or an array as of `picture_from_array`, such as (H, W, 3) uint8 RGB. landmarks: a file as of
    `read_landmarks`, or (478, 3) pixels of the picture; without them the file beside the picture is taken
    (photo.landmarks.json beside photo.jpg), and where there is none, a face detector looks for the face.
    face: which face, 0 the largest; None takes the only one, or the one clearly largest. box: x, y, width, height in
    pixels around it; the detector then reads the face inside. largest_side: larger pictures are shrunk to this many
    pixels on their longer side; 0 keeps the size. crop_style: the square that networks see, "LivePortrait" or
    "KDTalker". download: fetch the face detector (3.7 MB) when it is missing.
    Raises FaceNotFoundError (a ValueError) for no face, ValueError for an unclear choice or a face that cannot be
    animated, WeightNotFoundError (an OSError) when the face detector is needed and is not here.
    """
    is_array = isinstance(picture, np.ndarray)
    frame = picture_from_array(picture) if is_array else load_picture(Path(picture))
    if landmarks is None and not is_array and box is None and face is None:
        landmarks = input_files.landmarks_beside(Path(picture))
    if landmarks is None:
        detector = face_detector(download=download, progress=progress_of(progress).update)
        portrait = portrait_by_detector(frame, detector, face, box)
    elif isinstance(landmarks, np.ndarray):
        portrait = portrait_from_landmarks(frame, landmarks)
    else:
        portrait = portrait_by_landmarks_file(frame, Path(landmarks))
    return finished_portrait(portrait, largest_side, crop_style)


def demo_portrait(largest_side: int = LARGEST_SIDE, crop_style: str = LIVEPORTRAIT_CROP) -> Portrait:
    """Return NASA's portrait of Eileen Collins, in the public domain; needs scikit-image, which ships it.

    Raises ValueError when scikit-image is not installed. No face detector is needed.
    """
    frame, landmarks = input_files.demo_portrait()
    return finished_portrait(portrait_by_landmarks_file(frame, landmarks), largest_side, crop_style)


def demo_head() -> Portrait:
    """Return the made head, drawn by this project, that its small video models know. Nothing is needed for it."""
    frame, landmarks = input_files.demo_head()
    return finished_portrait(portrait_by_landmarks_file(frame, landmarks), 0, LIVEPORTRAIT_CROP)


@cancellable()
def load_portrait_video(
    path: str | os.PathLike[str],
    *,
    start: float = 0.0,
    duration: float | None = None,
    largest_side: int = LARGEST_SIDE,
    face: int | None = None,
    on_missing_face: str = "interpolate",
    smoothing: int = 2,
    download: bool = False,
    progress: ProgressCallback | None = None,
) -> PortraitVideo:
    """Return a film whose face is to be edited, with its face in every frame; goes where a portrait goes.

    start, duration: the part taken, seconds. face, on_missing_face, smoothing: as of `portrait_video`. Its frames are
    kept in memory, 3 bytes a pixel. Raises as `driving_frames` and `portrait_video`, and WeightNotFoundError (an
    OSError) when the face detector is not here.
    """
    film = driving_frames(path, start, duration, largest_side)
    shown = progress_of(progress, film.frame_total).update
    with face_landmarker(face_detector(download=download, progress=shown)) as landmarker:
        return portrait_video(
            film, film.fps, landmarker, film.frame_total, on_missing_face, face, smoothing, shown
        )
