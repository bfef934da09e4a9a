"""Landmarks given by hand: checking them, completing them, reading and writing them as JSON."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..types import BLENDSHAPE_INDEX, BLENDSHAPE_NAMES, LANDMARK_COUNT, frozen_array
from .topology import (
    EYE_LEFT_CONTOUR,
    EYE_RIGHT_CONTOUR,
    IRIS_LEFT,
    IRIS_RIGHT,
    MESH_POINT_COUNT,
)

IRIS_RADIUS = 0.22
"""Of the eye's width, where irises have to be guessed: 11.7 mm of iris in an eye opening of about 27 mm."""
JSON_FORMAT = "talking_portrait.landmarks"


@dataclass(frozen=True)
class FaceLandmarks:
    """Landmarks as kept in a file beside a picture.

    landmarks: (478, 3) float32 pixels; x right, y down, z away from the camera, at the scale of x.
    blendshapes: (52,) float32 0..1 in the order of BLENDSHAPE_NAMES, or None when not known.
    presence: 0..1; 1 for landmarks set by hand.
    picture_size: (width, height) of the picture they belong to, or None when not known.
    """

    landmarks: np.ndarray
    blendshapes: np.ndarray | None = None
    presence: float = 1.0
    picture_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "landmarks", frozen_array(checked_landmarks(self.landmarks)))
        if self.blendshapes is not None:
            object.__setattr__(self, "blendshapes", frozen_array(checked_blendshapes(self.blendshapes)))


def checked_landmarks(landmarks: np.ndarray) -> np.ndarray:
    """Return landmarks as (478, 3) float32; 468 points get irises in the middle of the eyes.

    Raises ValueError for another count or shape, NaN or infinity, or points that span no area.
    """
    try:
        points = np.asarray(landmarks, np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"landmarks must be rows of three numbers x, y, z: {error}") from error
    if points.ndim != 2 or points.shape[1] != 3 or len(points) not in (LANDMARK_COUNT, MESH_POINT_COUNT):
        raise ValueError(
            f"landmarks have shape {points.shape}; expected {LANDMARK_COUNT} points of the MediaPipe face "
            f"mesh (or {MESH_POINT_COUNT}, without irises) with x, y, z each, in pixels"
        )
    if not np.isfinite(points).all():
        bad = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])
        raise ValueError(
            f"landmark {bad} is {points[bad].tolist()}: every coordinate must be a finite number"
        )
    if np.ptp(points[:, 0]) == 0 or np.ptp(points[:, 1]) == 0:
        raise ValueError("the landmarks span no area: all have the same x or the same y")
    return points if len(points) == LANDMARK_COUNT else _with_irises(points)


def _with_irises(points: np.ndarray) -> np.ndarray:
    complete = np.empty((LANDMARK_COUNT, 3), np.float32)
    complete[:MESH_POINT_COUNT] = points
    for contour, iris in ((EYE_RIGHT_CONTOUR, IRIS_RIGHT), (EYE_LEFT_CONTOUR, IRIS_LEFT)):
        eye = points[list(contour)]
        radius = IRIS_RADIUS * float(np.hypot(*np.ptp(eye[:, :2], axis=0)))
        rim = radius * np.array([[0, 0, 0], [1, 0, 0], [0, -1, 0], [-1, 0, 0], [0, 1, 0]], np.float32)
        complete[list(iris)] = eye.mean(axis=0) + rim
    return complete


def checked_blendshapes(blendshapes: np.ndarray) -> np.ndarray:
    """Return blendshapes as (52,) float32 0..1, or raise ValueError."""
    values = np.asarray(blendshapes, np.float32)
    if values.shape != (len(BLENDSHAPE_NAMES),):
        raise ValueError(f"blendshapes have shape {values.shape}, expected ({len(BLENDSHAPE_NAMES)},)")
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise ValueError(f"blendshapes must lie in 0..1, got {values.min():g} to {values.max():g}")
    return values


def blendshape_row(values: dict[str, float]) -> np.ndarray:
    """Return {ARKit name: value} as (52,) float32; names left out are 0, `_neutral` is ignored.

    Raises ValueError for an unknown name.
    """
    row = np.zeros(len(BLENDSHAPE_NAMES), np.float32)
    for name, value in values.items():
        if name == "_neutral":
            continue
        if name not in BLENDSHAPE_INDEX:
            raise ValueError(f"unknown blendshape {name!r}; the names are {', '.join(BLENDSHAPE_NAMES)}")
        row[BLENDSHAPE_INDEX[name]] = value
    return row


def read_landmarks(path: str | Path) -> FaceLandmarks:
    """Read landmarks from JSON: what `write_landmarks` writes, or a bare list of [x, y, z].

    Raises OSError when the file cannot be read, ValueError when it does not hold landmarks.
    """
    text = Path(path).read_bytes()
    try:
        content = json.loads(text)
        if isinstance(content, list):
            return FaceLandmarks(content)
        if not isinstance(content, dict) or "landmarks" not in content:
            raise ValueError("expected a list of [x, y, z] or an object with the key 'landmarks'")
        return _from_json(content)
    except (ValueError, TypeError) as error:  # json.JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise ValueError(f"cannot read face landmarks from {path}: {error}") from error


def _from_json(content: dict) -> FaceLandmarks:
    blendshapes = content.get("blendshapes")
    size = content.get("picture_size")
    presence = float(content.get("presence", 1.0))
    if blendshapes is not None and not isinstance(blendshapes, dict):
        raise ValueError("blendshapes must be an object of ARKit names and values")
    if not (math.isfinite(presence) and 0 <= presence <= 1):
        raise ValueError(f"presence is {presence}, expected 0..1")
    if size is not None and (len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size)):
        raise ValueError(f"picture_size is {size}, expected [width, height] in pixels")
    return FaceLandmarks(
        landmarks=content["landmarks"],
        blendshapes=blendshape_row(blendshapes) if blendshapes is not None else None,
        presence=presence,
        picture_size=tuple(size) if size is not None else None,
    )


def write_landmarks(face: FaceLandmarks, path: str | Path) -> None:
    """Write landmarks as JSON: points rounded to 0.01 pixel, blendshapes and presence to 0.0001.

    The file appears under its name only when whole. Raises OSError when it cannot be written.
    """
    content: dict = {"format": JSON_FORMAT, "presence": round(float(face.presence), 4)}
    if face.picture_size is not None:
        content["picture_size"] = list(face.picture_size)
    if face.blendshapes is not None:
        rounded = [round(float(value), 4) for value in face.blendshapes]
        content["blendshapes"] = dict(zip(BLENDSHAPE_NAMES, rounded, strict=True))
    header = json.dumps(content, indent=1)[:-2]
    rows = ",\n".join(json.dumps([round(float(value), 2) for value in point]) for point in face.landmarks)
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(f'{header},\n "landmarks": [\n{rows}\n ]\n}}\n', encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
