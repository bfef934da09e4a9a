"""Portraits: one face in one picture, from detection, from a box, or from landmarks given by hand."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..types import BLENDSHAPE_NAMES, Portrait
from .comfy_landmarks import faces_from_comfy
from .crop import FACE_CROP_SIZE, face_crop_to_frame
from .landmarker import DetectedFace, FaceLandmarker, FaceNotFoundError, checked_frame
from .landmarks import blendshape_row, checked_blendshapes, checked_landmarks
from .pose import fit_head_pose
from .topology import MESH_POINT_COUNT

LARGEST_YAW = 45.0
"""Degrees from the camera past which half the face is hidden: such portraits are refused."""
DAMPED_YAW = 25.0
"""Degrees past which renderers hardly turn the head any further: such portraits are warned about."""
SMALLEST_INSIDE = 0.7
"""Share of the face's points that must lie within the picture."""
CLEARLY_LARGER = 2.0
"""Without an index, the largest face is taken when its area is more than this times the next one's."""

logger = logging.getLogger(__name__)


def portrait_from_frame(
    frame: np.ndarray,
    landmarker: FaceLandmarker,
    face_index: int | None = None,
    box: Iterable[float] | None = None,
) -> Portrait:
    """Return the portrait of one face in an (H, W, 3) uint8 RGB frame.

    face_index: 0 is the largest face; None takes the largest if it is clearly so, or the only one.
    box: x, y, width, height in pixels around the face, drawn by hand; then nothing is searched.
    Raises FaceNotFoundError (a ValueError) when there is no face, ValueError when the choice is unclear or
    the face cannot be animated: too far turned, or cut by the picture's border.
    """
    frame = checked_frame(frame)
    if box is not None:
        box = checked_box(box, frame)
        face = landmarker.detect_in_box(frame, box)
        if face is None:
            raise FaceNotFoundError(
                f"no face in the box {_described(box)} of the {_size(frame)} px picture: draw it tightly "
                "around the face, or give the landmarks by hand"
            )
    else:
        face = choose_face(landmarker.detect(frame, at_least=(face_index or 0) + 1), frame, face_index)
    return _portrait(frame, face.landmarks, face.blendshapes, face.presence)


def portrait_from_landmarks(
    frame: np.ndarray, landmarks: np.ndarray, blendshapes: np.ndarray | Mapping[str, float] | None = None
) -> Portrait:
    """Return the portrait of a face whose landmarks are known; needs no detector and no bundle.

    frame: (H, W, 3) uint8 RGB. landmarks: (478, 3) or (468, 3), pixels of the frame. blendshapes: the
    expression the picture shows, as (52,) or {ARKit name: value}; None means a relaxed face.
    Raises ValueError for landmarks of the wrong count, outside the picture, or of a face too far turned.
    """
    frame = checked_frame(frame)
    points = checked_landmarks(landmarks)
    if blendshapes is None:
        row = np.zeros(len(BLENDSHAPE_NAMES), np.float32)
    elif isinstance(blendshapes, Mapping):
        row = blendshape_row(dict(blendshapes))
    else:
        row = checked_blendshapes(blendshapes)
    if np.abs(points[:MESH_POINT_COUNT, :2]).max() <= 2 and max(frame.shape[:2]) > 16:
        raise ValueError(
            "the landmarks lie within 2 pixels of the picture's corner; they look like shares of the "
            f"picture's size: multiply x and z by its width ({frame.shape[1]}) and y by its height "
            f"({frame.shape[0]})"
        )
    return _portrait(frame, points, row, presence=1.0)


def portrait_from_comfy_landmarks(
    frame: np.ndarray, face_landmarks: Any, face_index: int | None = None, frame_index: int = 0
) -> Portrait:
    """Return the portrait of a face in ComfyUI's FACE_LANDMARKS; needs no detector and no bundle.

    frame: (H, W, 3) uint8 RGB; face_landmarks: see comfy_landmarks.py; frame_index: which of its frames
    `frame` is.
    Raises as `portrait_from_frame` does, and ValueError for landmarks of another picture size.
    """
    frame = checked_frame(frame)
    faces = faces_from_comfy(face_landmarks, frame.shape[1], frame.shape[0], frame_index)
    face = choose_face(faces, frame, face_index)
    return _portrait(frame, face.landmarks, face.blendshapes, face.presence)


def choose_face(faces: Sequence[DetectedFace], frame: np.ndarray, face_index: int | None) -> DetectedFace:
    """Return the face meant by `face_index` among faces sorted largest first.

    Raises FaceNotFoundError when there is none, ValueError for an index that is negative or too large, or
    for no index and no face clearly the largest.
    """
    if not faces:
        raise FaceNotFoundError(
            f"no face in the {_size(frame)} px picture: use a picture where a face fills at least 5 % of "
            "the width, or give a box around the face or its landmarks by hand"
        )
    if face_index is None:
        if len(faces) > 1 and faces[0].area <= CLEARLY_LARGER * faces[1].area:
            raise ValueError(
                f"{len(faces)} faces and none clearly the largest: set face_index. {_listed(faces)}"
            )
        return faces[0]
    if not 0 <= face_index < len(faces):
        raise ValueError(
            f"face_index is {face_index} but the picture has {len(faces)} face(s), counted from 0, largest "
            f"first. {_listed(faces)}"
        )
    return faces[face_index]


def checked_box(box: Iterable[float], frame: np.ndarray) -> tuple[float, float, float, float]:
    """Return a box x, y, width, height as floats, or raise ValueError unless it overlaps the frame."""
    values = tuple(float(value) for value in box)
    if len(values) != 4 or not np.isfinite(values).all():
        raise ValueError(f"a face box is four numbers x, y, width, height in pixels, got {list(values)}")
    x, y, width, height = values
    if width <= 0 or height <= 0:
        raise ValueError(f"the face box {_described(values)} is empty: width and height must be positive")
    if x >= frame.shape[1] or y >= frame.shape[0] or x + width <= 0 or y + height <= 0:
        raise ValueError(f"the face box {_described(values)} lies outside the {_size(frame)} px picture")
    return values


def turned_away_warning(portrait: Portrait) -> str | None:
    """Return a warning for a face turned so far that head movement will be damped, else None."""
    yaw = float(portrait.pose.rotation[1])
    if abs(yaw) <= DAMPED_YAW:
        return None
    return (
        f"the face is turned {abs(yaw):.0f} degrees from the camera: head turns will be damped; "
        "a frontal picture is better"
    )


def _portrait(frame: np.ndarray, landmarks: np.ndarray, blendshapes: np.ndarray, presence: float) -> Portrait:
    inside = share_inside(landmarks, frame)
    if inside < SMALLEST_INSIDE:
        raise ValueError(
            f"the face is cut by the border of the {_size(frame)} px picture: only {inside:.0%} of its "
            f"points lie inside, {SMALLEST_INSIDE:.0%} are needed; use a picture that shows the whole face"
        )
    pose = fit_head_pose(landmarks)
    yaw = float(pose.rotation[1])
    if abs(yaw) > LARGEST_YAW:
        raise ValueError(
            f"the face is turned {abs(yaw):.0f} degrees from the camera (at most {LARGEST_YAW:.0f} can be "
            "animated): use a picture in which it looks more towards the camera"
        )
    portrait = Portrait(
        frame=frame,
        landmarks=landmarks,
        blendshapes=blendshapes,
        pose=pose,
        crop_to_frame=face_crop_to_frame(landmarks, FACE_CROP_SIZE),
        crop_size=FACE_CROP_SIZE,
        presence=presence,
    )
    warning = turned_away_warning(portrait)
    if warning:
        logger.warning(warning)
    return portrait


def share_inside(landmarks: np.ndarray, frame: np.ndarray) -> float:
    """Return which share 0..1 of the 468 mesh points lies within the frame."""
    x, y = landmarks[:MESH_POINT_COUNT, 0], landmarks[:MESH_POINT_COUNT, 1]
    inside = (x >= -0.5) & (y >= -0.5) & (x <= frame.shape[1] - 0.5) & (y <= frame.shape[0] - 0.5)
    return float(inside.mean())


def _listed(faces: Sequence[DetectedFace]) -> str:
    lines = [f"{index}: {_described(face.box)}" for index, face in enumerate(faces)]
    return "Faces found: " + "; ".join(lines)


def _described(box: Sequence[float]) -> str:
    x, y, width, height = (round(value) for value in box)
    return f"{width} x {height} px at ({x}, {y})"


def _size(frame: np.ndarray) -> str:
    return f"{frame.shape[1]} x {frame.shape[0]}"
