"""Faces from ComfyUI's own FACE_LANDMARKS, as its MediaPipe Face Landmarker node puts them on the wire.

The wire holds {"frames": [[face, ...] per frame], "image_size": (height, width), ...}. Of each face these
are used: "landmarks_xy" (478, 2) pixels; "landmarks_3d" (478, 3) in pixels of the network's own crop, whose
z, scaled to the picture, is our z; "blendshapes" {ARKit name: 0..1}; "presence", a logit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .landmarker import DetectedFace, landmarks_box
from .landmarks import blendshape_row, checked_landmarks
from .topology import MESH_POINT_COUNT


def faces_from_comfy(
    face_landmarks: Any, width: int, height: int, frame_index: int = 0
) -> list[DetectedFace]:
    """Return the faces of one frame of a FACE_LANDMARKS value, largest first; empty when the frame has none.

    width, height: the picture's, in pixels; the landmarks must belong to a picture of that size.
    Raises ValueError when the value is not FACE_LANDMARKS, belongs to another size, or has no such frame.
    """
    if not isinstance(face_landmarks, Mapping) or "frames" not in face_landmarks:
        raise ValueError(
            f"expected FACE_LANDMARKS (a dictionary with 'frames'), got {type(face_landmarks).__name__}: "
            "connect the face_landmarks output of a MediaPipe Face Landmarker node"
        )
    size = face_landmarks.get("image_size")
    if size is not None and tuple(int(side) for side in size) != (height, width):
        raise ValueError(
            f"the FACE_LANDMARKS belong to a {size[1]} x {size[0]} px picture, but this one is "
            f"{width} x {height} px: give both nodes the same picture"
        )
    frames = face_landmarks["frames"]
    if not 0 <= frame_index < len(frames):
        raise ValueError(f"frame {frame_index} asked for, but the FACE_LANDMARKS hold {len(frames)} frame(s)")
    faces = [_face_from_comfy(face) for face in frames[frame_index]]
    return sorted(faces, key=lambda face: -face.area)


def _face_from_comfy(face: Mapping[str, Any]) -> DetectedFace:
    missing = [key for key in ("landmarks_xy", "landmarks_3d") if key not in face]
    if missing:
        raise ValueError(
            f"a face in FACE_LANDMARKS lacks {', '.join(missing)}; it has {', '.join(map(str, face))}"
        )
    flat, solid = (np.asarray(face[key], np.float64) for key in ("landmarks_xy", "landmarks_3d"))
    if flat.ndim != 2 or solid.ndim != 2 or flat.shape[1] != 2 or solid.shape != (len(flat), 3):
        raise ValueError(
            f"FACE_LANDMARKS: landmarks_xy {flat.shape} and landmarks_3d {solid.shape} do not match"
        )
    scale = _spread(flat) / max(_spread(solid[:, :2]), 1e-9)
    landmarks = checked_landmarks(np.concatenate([flat, scale * solid[:, 2:]], axis=1))
    logit = float(face.get("presence", 100.0))
    return DetectedFace(
        landmarks=landmarks,
        blendshapes=np.clip(blendshape_row(dict(face.get("blendshapes", {}))), 0, 1),
        presence=1 / (1 + math.exp(-max(-100.0, min(100.0, logit)))),
        box=landmarks_box(landmarks[:MESH_POINT_COUNT]),
    )


def _spread(points: np.ndarray) -> float:
    return float(np.sqrt(((points - points.mean(axis=0)) ** 2).sum()))
