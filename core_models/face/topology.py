"""The face mesh: canonical shape, triangles, named contours and the mirror map.

The figures come from the official face landmark bundle `face_landmarker.task` (float16/1, Google, Apache-2.0;
address and checksum are in the weights manifest). Its member `geometry_pipeline_metadata_landmarks.binarypb`
holds the canonical mesh and the 33 weighted points of the rigid pose fit; `canonical_face_from_bundle` reads
them, and a test checks that `canonical_face.npz` equals what it reads. The 146 points the blendshape network
looks at are kLandmarksSubsetIdxs of mediapipe/tasks/cc/vision/face_landmarker/face_blendshapes_graph.cc
(Apache-2.0).

Left and right are the subject's: the subject's left eye is on the picture's right. Rows of lip points run
from the picture's left to its right, rows of eye points from the outer to the inner corner.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ..types import LANDMARK_COUNT

CANONICAL_FACE_FILE = Path(__file__).with_name("canonical_face.npz")
GEOMETRY_MEMBER = "geometry_pipeline_metadata_landmarks.binarypb"
MESH_POINT_COUNT = 468
"""Points of the mesh proper; landmarks 468..477 are the irises (right 468..472, left 473..477)."""

LIPS_UPPER_OUTER = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)
LIPS_UPPER_OUTER_MIDDLE = (76, 184, 74, 73, 72, 11, 302, 303, 304, 408, 306)
LIPS_UPPER_INNER_MIDDLE = (62, 183, 42, 41, 38, 12, 268, 271, 272, 407, 292)
LIPS_UPPER_INNER = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
LIPS_LOWER_OUTER = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291)
LIPS_LOWER_OUTER_MIDDLE = (76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306)
LIPS_LOWER_INNER_MIDDLE = (62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292)
LIPS_LOWER_INNER = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)

LIPS_UPPER = (LIPS_UPPER_OUTER, LIPS_UPPER_OUTER_MIDDLE, LIPS_UPPER_INNER_MIDDLE, LIPS_UPPER_INNER)
"""The upper lip's four rows of 11 points from the skin to the opening; the mouth corners end each row."""
LIPS_LOWER = (LIPS_LOWER_OUTER, LIPS_LOWER_OUTER_MIDDLE, LIPS_LOWER_INNER_MIDDLE, LIPS_LOWER_INNER)

EYE_RIGHT_UPPER = (33, 246, 161, 160, 159, 158, 157, 173, 133)
EYE_RIGHT_LOWER = (33, 7, 163, 144, 145, 153, 154, 155, 133)
EYE_RIGHT_UPPER_RING_1 = (130, 247, 30, 29, 27, 28, 56, 190, 243)
EYE_RIGHT_LOWER_RING_1 = (130, 25, 110, 24, 23, 22, 26, 112, 243)
EYE_RIGHT_UPPER_RING_2 = (226, 113, 225, 224, 223, 222, 221, 189, 244)
IRIS_RIGHT = (468, 469, 470, 471, 472)
"""Centre first, then four points of the rim."""

EYE_LEFT_UPPER = (263, 466, 388, 387, 386, 385, 384, 398, 362)
EYE_LEFT_LOWER = (263, 249, 390, 373, 374, 380, 381, 382, 362)
EYE_LEFT_UPPER_RING_1 = (359, 467, 260, 259, 257, 258, 286, 414, 463)
EYE_LEFT_LOWER_RING_1 = (359, 255, 339, 254, 253, 252, 256, 341, 463)
EYE_LEFT_UPPER_RING_2 = (446, 342, 445, 444, 443, 442, 441, 413, 464)
IRIS_LEFT = (473, 474, 475, 476, 477)

EYE_OUTER_CORNER_RIGHT = 33
EYE_OUTER_CORNER_LEFT = 263
"""The distance between the two outer corners is the face unit of translations."""

FACE_OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)

LIPS_CONTOUR = LIPS_UPPER_OUTER + LIPS_LOWER_OUTER[-2:0:-1]
MOUTH_OPENING_CONTOUR = LIPS_UPPER_INNER + LIPS_LOWER_INNER[-2:0:-1]
EYE_RIGHT_CONTOUR = EYE_RIGHT_UPPER + EYE_RIGHT_LOWER[-2:0:-1]
EYE_LEFT_CONTOUR = EYE_LEFT_UPPER + EYE_LEFT_LOWER[-2:0:-1]

_IRIS_MIRROR = ((468, 473), (469, 476), (470, 475), (471, 474), (472, 477))

BLENDSHAPE_POINTS = (
    *(0, 1, 4, 5, 6, 7, 8, 10, 13, 14, 17, 21, 33, 37, 39, 40, 46, 52),
    *(53, 54, 55, 58, 61, 63, 65, 66, 67, 70, 78, 80, 81, 82, 84, 87, 88, 91),
    *(93, 95, 103, 105, 107, 109, 127, 132, 133, 136, 144, 145, 146, 148, 149, 150, 152, 153),
    *(154, 155, 157, 158, 159, 160, 161, 162, 163, 168, 172, 173, 176, 178, 181, 185, 191, 195),
    *(197, 234, 246, 249, 251, 263, 267, 269, 270, 276, 282, 283, 284, 285, 288, 291, 293, 295),
    *(296, 297, 300, 308, 310, 311, 312, 314, 317, 318, 321, 323, 324, 332, 334, 336, 338, 356),
    *(361, 362, 365, 373, 374, 375, 377, 378, 379, 380, 381, 382, 384, 385, 386, 387, 388, 389),
    *(390, 397, 398, 400, 402, 405, 409, 415, 454, 466, 468, 469, 470, 471, 472, 473, 474, 475),
    *(476, 477),
)
"""The 146 of 478 landmarks that the blendshape network reads, in its order."""


@dataclass(frozen=True)
class CanonicalFace:
    """The mean face that heads are measured against.

    vertices: (468, 3) float32, centimetres; x to the picture's right, y up, z towards the camera.
    triangles: (898, 3) int32, indices into the vertices; eyes and mouth are covered.
    pose_indices: (33,) int32, the points of the rigid pose fit.
    pose_weights: (33,) float32, their weights.
    blendshape_indices: (146,) int32, the landmarks the blendshape network reads.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    pose_indices: np.ndarray
    pose_weights: np.ndarray
    blendshape_indices: np.ndarray


@cache
def canonical_face() -> CanonicalFace:
    """Return the canonical face from the table beside this file; read once, arrays are read-only."""
    with np.load(CANONICAL_FACE_FILE, allow_pickle=False) as table:
        arrays = {name: table[name] for name in CanonicalFace.__dataclass_fields__}
    for array in arrays.values():
        array.setflags(write=False)
    return CanonicalFace(**arrays)


@cache
def mirror_indices() -> np.ndarray:
    """Return (478,) int32: each landmark's partner on the other half of the face (itself on the midline)."""
    vertices = canonical_face().vertices
    mirrored = vertices * np.array([-1, 1, 1], np.float32)
    distances = np.linalg.norm(mirrored[:, None] - vertices[None], axis=2)
    partner = np.arange(LANDMARK_COUNT, dtype=np.int32)
    partner[:MESH_POINT_COUNT] = distances.argmin(axis=1)
    for right, left in _IRIS_MIRROR:
        partner[right], partner[left] = left, right
    partner.setflags(write=False)
    return partner


def canonical_face_from_bundle(bundle: Path) -> CanonicalFace:
    """Read the canonical face from the landmark bundle (a zip file). Used to make and to check the table."""
    with zipfile.ZipFile(bundle) as archive:
        metadata = archive.read(GEOMETRY_MEMBER)
    mesh = b""
    pose: list[tuple[int, float]] = []
    for field, value in _protobuf_fields(metadata):
        if field == 1:
            mesh = value
        elif field == 2:
            landmark = dict(_protobuf_fields(value))
            pose.append((landmark[1], landmark[2]))
    coordinates = [value for field, value in _protobuf_fields(mesh) if field == 3]
    triangles = [value for field, value in _protobuf_fields(mesh) if field == 4]
    return CanonicalFace(
        vertices=np.array(coordinates, np.float32).reshape(MESH_POINT_COUNT, 5)[:, :3],  # the rest is u, v
        triangles=np.array(triangles, np.int32).reshape(-1, 3),
        pose_indices=np.array([index for index, _ in pose], np.int32),
        pose_weights=np.array([weight for _, weight in pose], np.float32),
        blendshape_indices=np.array(BLENDSHAPE_POINTS, np.int32),
    )


def write_canonical_face(bundle: Path, target: Path = CANONICAL_FACE_FILE) -> None:
    """Write the table from the bundle. How `canonical_face.npz` was made."""
    face = canonical_face_from_bundle(bundle)
    np.savez_compressed(target, **{name: getattr(face, name) for name in CanonicalFace.__dataclass_fields__})


def _protobuf_fields(message: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """Yield (field number, value) of one protobuf message: varints, 32-bit floats and byte strings."""
    position = 0
    while position < len(message):
        tag, position = _protobuf_varint(message, position)
        field, kind = tag >> 3, tag & 7
        if kind == 0:
            value, position = _protobuf_varint(message, position)
        elif kind == 5:
            (value,) = struct.unpack_from("<f", message, position)
            position += 4
        elif kind == 2:
            length, position = _protobuf_varint(message, position)
            value = message[position : position + length]
            position += length
        else:
            raise ValueError(f"protobuf wire type {kind} at byte {position} is not one this reader knows")
        yield field, value


def _protobuf_varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position += 1
        shift += 7
        if byte < 0x80:
            return value, position
