"""Motion from a driving video: the face is followed, its blendshapes and head pose are read and calibrated.

Calibration makes the driver's resting face the zero of the track, so that the track says how a face moves
and not whose face it was. The rules were found by trying on real clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..face.landmarker import DetectedFace
from ..face.pose import fit_head_pose, pivot_position, rotation_angles, rotation_matrix
from ..face.topology import EYE_OUTER_CORNER_LEFT, EYE_OUTER_CORNER_RIGHT, canonical_face
from ..face.tracking import follow_face
from ..types import BLENDSHAPE_INDEX, BLENDSHAPE_NAMES, BLENDSHAPES, FaceMotion, ProgressCallback
from .missing_faces import faces_under_policy, previous_rows, report_missing, require_known_policy
from .region_names import OPPOSITE_GAZES
from .track import smoothed_rows

if TYPE_CHECKING:
    from ..face.landmarker import FaceLandmarker

ABSOLUTE_SHAPES = (
    *("jawOpen", "jawLeft", "jawRight", "jawForward", "mouthClose", "mouthLeft", "mouthRight"),
    *("mouthUpperUpLeft", "mouthUpperUpRight", "mouthLowerDownLeft", "mouthLowerDownRight"),
)
"""Speech: what the network reads is taken as it is."""
REST_PERCENTILE = 8.0
"""The driver's rest in every other shape: the value it stays above for all but this share of the frames."""
CLOSED_EYE_READING = 0.68
"""What the network reads on eyes that are closed: 0.65 to 0.78."""
LARGEST_OPEN_EYE_READING = 0.45
"""A driver whose lids rest above this has closed eyes; open ones are then assumed to read this."""

_BLINK = ("eyeBlinkLeft", "eyeBlinkRight")


@dataclass(frozen=True)
class _Readings:
    """N frames: expression (N, 52), rotation (N, 3) degrees, position (N, 2) pixels of the pivot, scale (N,)."""

    expression: np.ndarray
    rotation: np.ndarray
    position: np.ndarray
    scale: np.ndarray


def motion_from_frames(
    frames: Iterable[np.ndarray],
    fps: float,
    landmarker: FaceLandmarker,
    frame_total: int | None = None,
    on_missing_face: str = "error",
    face_index: int | None = None,
    smoothing: int = 1,
    calibrate: bool = True,
    progress: ProgressCallback | None = None,
) -> FaceMotion:
    """Return the motion of one face in a video, in the blendshape space at the video's rate.

    frames: (H, W, 3) uint8 RGB at a constant rate `fps`; one is held at a time. frame_total: how many, for
    progress.
    face_index: which face of the first frame that has any, 0 the largest. The rest as for
    `motion_from_faces`.
    Raises FaceNotFoundError (a ValueError) when no frame has a face, or one lacks it and the policy is
    "error".
    """
    faces = follow_face(frames, landmarker, face_index)
    return motion_from_faces(faces, fps, frame_total, on_missing_face, smoothing, calibrate, progress)


def motion_from_faces(
    faces: Iterable[DetectedFace | None],
    fps: float,
    frame_total: int | None = None,
    on_missing_face: str = "error",
    smoothing: int = 1,
    calibrate: bool = True,
    progress: ProgressCallback | None = None,
) -> FaceMotion:
    """Return the motion of a face found in each frame; None where it is missing.

    on_missing_face: "error"; "previous" repeats the last frame that has the face (before the first, that
    one); "interpolate" goes straight from the last to the next; "skip" drops the frame, so that the track is
    shorter, and reports it in the log.
    smoothing: how often the kernel [1 2 1] / 4 is run over the expression; over the head pose twice as
    often, over blinks never, because they last only a few frames. 0 leaves the readings as they are.
    calibrate: True makes the driver's rest the zero of the track. False keeps the expression as the network
    reads it and the rotation as the camera sees it; translation and scale are then relative to the first
    frame.
    Translation has no depth (z = 0): coming closer shows as scale.
    """
    require_known_policy(on_missing_face)
    if smoothing < 0:
        raise ValueError(f"smoothing is {smoothing}, expected 0 or more passes")
    readings, found = _read_all(faces, fps, frame_total, on_missing_face, progress)
    readings = _fill_missing(readings, found, on_missing_face, fps)
    readings = _smoothed(readings, smoothing)
    return _calibrated_motion(readings, fps) if calibrate else _plain_motion(readings, fps)


def _read_all(
    faces: Iterable[DetectedFace | None],
    fps: float,
    frame_total: int | None,
    on_missing_face: str,
    progress: ProgressCallback | None,
) -> tuple[_Readings, np.ndarray]:
    """Return the readings of the frames that have the face, and (frames,) bool saying which those are."""
    rows: list[np.ndarray] = []
    found: list[bool] = []
    for face in faces_under_policy(faces, fps, on_missing_face, frame_total, progress):
        found.append(face is not None)
        if face is not None:
            rows.append(_reading(face))
    table = np.stack(rows)
    count = len(BLENDSHAPE_NAMES)
    readings = _Readings(
        table[:, :count], table[:, count : count + 3], table[:, count + 3 : -1], table[:, -1]
    )
    return readings, np.array(found)


def _reading(face: DetectedFace) -> np.ndarray:
    """Return one frame's 52 coefficients, 3 angles, 2 position and 1 scale as one row."""
    pose = fit_head_pose(face.landmarks)
    return np.concatenate([face.blendshapes, pose.rotation, pivot_position(pose)[:2], [pose.scale]])


def _fill_missing(readings: _Readings, found: np.ndarray, policy: str, fps: float) -> _Readings:
    """Return readings for every frame (or, skipping, for those that have the face)."""
    report_missing(found, policy, fps)
    if found.all() or policy == "skip":
        return readings
    known, wanted = np.flatnonzero(found), np.arange(len(found))
    if policy == "previous":
        rows = previous_rows(found)
        return _each(readings, lambda values: values[rows])
    return _each(readings, lambda values: _interpolated(values, known, wanted))


def _interpolated(values: np.ndarray, known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    flat = values.reshape(len(values), -1)
    columns = [np.interp(wanted, known, column) for column in flat.T]
    return np.stack(columns, axis=1).reshape(len(wanted), *values.shape[1:])


def _each(readings: _Readings, change: Callable[[np.ndarray], np.ndarray]) -> _Readings:
    fields = (readings.expression, readings.rotation, readings.position, readings.scale)
    return _Readings(*(change(values) for values in fields))


def _smoothed(readings: _Readings, passes: int) -> _Readings:
    expression = smoothed_rows(readings.expression, passes)
    blink = [BLENDSHAPE_INDEX[name] for name in _BLINK]
    expression[:, blink] = readings.expression[:, blink]
    pose = _each(readings, lambda values: smoothed_rows(values, 2 * passes))
    return _Readings(expression, pose.rotation, pose.position, pose.scale)


def _calibrated_motion(readings: _Readings, fps: float) -> FaceMotion:
    rest = np.median(readings.rotation, axis=0)
    turned = rotation_matrix(rest).T @ rotation_matrix(readings.rotation)
    return FaceMotion(
        space=BLENDSHAPES,
        fps=fps,
        expression=calibrate_expression(readings.expression),
        rotation=rotation_angles(turned),
        translation=_translation(readings, np.median(readings.position, axis=0), np.median(readings.scale)),
        scale=readings.scale / np.median(readings.scale),
    )


def _plain_motion(readings: _Readings, fps: float) -> FaceMotion:
    return FaceMotion(
        space=BLENDSHAPES,
        fps=fps,
        expression=np.clip(readings.expression, 0, 1),
        rotation=readings.rotation,
        translation=_translation(readings, readings.position[0], readings.scale[0]),
        scale=readings.scale / readings.scale[0],
    )


def _translation(readings: _Readings, rest: np.ndarray, rest_scale: float) -> np.ndarray:
    """Return (N, 3) in face units, the outer eye corners' distance, away from `rest` in pixels."""
    vertices = canonical_face().vertices
    eyes_cm = np.linalg.norm(vertices[EYE_OUTER_CORNER_LEFT] - vertices[EYE_OUTER_CORNER_RIGHT])
    moved = (readings.position - rest) / (eyes_cm * rest_scale)
    return np.concatenate([moved, np.zeros((len(moved), 1))], axis=1)


def calibrate_expression(expression: np.ndarray) -> np.ndarray:
    """Return (N, 52) readings of one driver with the driver's rest as 0, clipped to 0..1.

    Speech shapes stay; blinks are stretched so that open reads 0 and closed 1; gaze is taken from its
    median, so that looking less to one side than usual is looking to the other; all other shapes from their
    8th percentile.
    """
    expression = np.asarray(expression, np.float64)
    result = expression - np.percentile(expression, REST_PERCENTILE, axis=0)
    absolute = [BLENDSHAPE_INDEX[name] for name in ABSOLUTE_SHAPES]
    result[:, absolute] = expression[:, absolute]
    for name in _BLINK:
        column = BLENDSHAPE_INDEX[name]
        result[:, column] = _eye_closure(expression[:, column])
    for pair in OPPOSITE_GAZES:
        towards, away = (BLENDSHAPE_INDEX[name] for name in pair)
        direction = expression[:, towards] - expression[:, away]
        direction = direction - np.median(direction)
        result[:, towards], result[:, away] = direction, -direction
    return np.clip(result, 0, 1)


def _eye_closure(reading: np.ndarray) -> np.ndarray:
    open_reading = min(float(np.median(reading)), LARGEST_OPEN_EYE_READING)
    return (reading - open_reading) / (CLOSED_EYE_READING - open_reading)
