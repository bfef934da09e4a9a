"""Square face crops anchored on the eyes and the lips, as the LivePortrait networks expect them.

The line from the middle of the eyes to the middle of the lips points down in the crop, which cancels the
head's roll; the square is a multiple of the larger side of the landmarks' box along that line. What is
computed is what the public LivePortrait code computes (MIT; checked against its numbers within 1e-3 pixel).

The reference crops pictures by 106 points and videos by 203, both without the forehead. Of the 478 points of
the face mesh the same places are picked here: the lids' middles and the eyes' corners, the mouth's corners,
and a box over the eyes, brows, nose, lips and the jaw from ear to ear. Its two networks for 106 and 203 points
were not at hand, so the residual was measured against an independent 68-point network (dlib's) on 26 faces, 22
in photographs and paintings and 4 in clips. Mean and standard deviation over the faces, that network's own noise
included: angle 0.05 and 0.7 degrees; centre 0.06 and 0.4 % of the crop's side across, 0.1 and 0.4 % down; side
-0.8 and 2.0 %. A box over all 468 points would make the crop 18 % larger and set it 6.5 % higher.

Coordinates are pixels, x right, y down, integers at pixel centres. The square's centre lands on
(crop_size / 2, crop_size / 2) in the crop, half a pixel right of and below its middle, as the release has it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .topology import EYE_LEFT_CONTOUR, EYE_RIGHT_CONTOUR, FACE_OVAL, LIPS_CONTOUR, MESH_POINT_COUNT

SOURCE_CROP_SCALE = 2.3
SOURCE_CROP_VY_RATIO = -0.125
"""The crop of the face that is animated: its side over the landmarks' box, and the share of the side by which
its centre moves down (negative: up, to take in the hair)."""
CROP_SIZE = 512

JAW_CONTOUR = FACE_OVAL[FACE_OVAL.index(356) : FACE_OVAL.index(127) + 1]
"""From ear to ear at the height of the eyes, over the chin."""
BROWS = (
    *(70, 63, 105, 66, 107, 46, 53, 52, 65, 55),
    *(300, 293, 334, 296, 336, 276, 283, 282, 295, 285),
)
NOSE = (168, 6, 197, 195, 5, 4, 1, 2, 98, 97, 326, 327)

_SHORTEST_AXIS = 1e-3
"""Pixels between the eyes and the lips below which a face counts as upright."""


@dataclass(frozen=True)
class CropAnchors:
    """Which points of a landmark set place the crop.

    left_eye, right_eye, lips: their mean is the eye's or the lips' centre. Left is the viewer's left.
    box: the points whose box the square is a multiple of; None means all.
    """

    left_eye: tuple[int, ...]
    right_eye: tuple[int, ...]
    lips: tuple[int, ...]
    box: tuple[int, ...] | None = None


_MESH_ANCHORS = CropAnchors(
    left_eye=(33, 159, 133, 145),
    right_eye=(362, 386, 263, 374),
    lips=(61, 291),
    box=tuple(sorted({*JAW_CONTOUR, *BROWS, *NOSE, *EYE_LEFT_CONTOUR, *EYE_RIGHT_CONTOUR, *LIPS_CONTOUR})),
)

CROP_ANCHORS: dict[int, CropAnchors] = {
    203: CropAnchors((0, 6, 12, 18), (24, 30, 36, 42), (48, 66)),
    106: CropAnchors((33, 35, 40, 39), (87, 89, 94, 93), (52, 61)),
    101: CropAnchors((39, 42, 45, 48), (51, 54, 57, 60), (75, 81)),
    68: CropAnchors((36, 39), (42, 45), (48, 54)),
    9: CropAnchors((2, 3), (0, 1), (5, 6)),
    5: CropAnchors((0,), (1,), (3, 4)),
    MESH_POINT_COUNT: _MESH_ANCHORS,
    478: _MESH_ANCHORS,
}
"""By number of points: LivePortrait's own sets, and the face mesh without and with the irises."""


@dataclass(frozen=True)
class FaceSquare:
    """A square on a picture, turned with the face.

    centre: (x, y) in pixels. side: pixels, > 0. angle: radians the square's x axis is turned clockwise as
    seen on the picture. Raises ValueError for a side that is not positive, or NaN or infinity.
    """

    centre: tuple[float, float]
    side: float
    angle: float = 0.0

    def __post_init__(self) -> None:
        if not np.isfinite((*self.centre, self.side, self.angle)).all() or self.side <= 0:
            raise ValueError(
                f"a crop needs a finite centre and a positive side, got centre {self.centre}, side "
                f"{self.side} px, angle {self.angle}: the landmarks must span an area"
            )

    def upright(self) -> FaceSquare:
        """Return the same square without its turn."""
        return FaceSquare(self.centre, self.side)

    def corners(self) -> np.ndarray:
        """Return (4, 2) float64: left top, right top, right bottom, left bottom, turned with the square."""
        offsets = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * self.side / 2
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        return offsets @ np.array([[cosine, sine], [-sine, cosine]]) + self.centre

    def frame_to_crop(self, crop_size: int = CROP_SIZE) -> np.ndarray:
        """Return the (2, 3) float32 affine from frame pixels to crop pixels."""
        step = _checked_size(crop_size) / self.side
        cosine, sine = step * math.cos(self.angle), step * math.sin(self.angle)
        linear = np.array([[cosine, sine], [-sine, cosine]])
        shift = crop_size / 2 - linear @ np.asarray(self.centre, np.float64)
        return np.concatenate([linear, shift[:, None]], axis=1).astype(np.float32)

    def crop_to_frame(self, crop_size: int = CROP_SIZE) -> np.ndarray:
        """Return the (2, 3) float32 affine from crop pixels to frame pixels."""
        step = self.side / _checked_size(crop_size)
        cosine, sine = step * math.cos(self.angle), step * math.sin(self.angle)
        linear = np.array([[cosine, -sine], [sine, cosine]])
        shift = np.asarray(self.centre, np.float64) - linear @ np.full(2, crop_size / 2)
        return np.concatenate([linear, shift[:, None]], axis=1).astype(np.float32)


def anchored_square(
    landmarks: np.ndarray, scale: float, vx_ratio: float = 0.0, vy_ratio: float = 0.0
) -> FaceSquare:
    """Return the square around a face, turned so that eyes and lips are upright in it.

    landmarks: (P, 2) or (P, 3) pixels, P one of CROP_ANCHORS; z is not looked at. scale: the square's side
    over the larger side of the landmarks' box. vx_ratio, vy_ratio: shares of the side by which the centre
    moves right and down as the face sees it.
    (The release's own crop never hands its vx_ratio on; it counts here.)
    Raises ValueError for another number of points, NaN, or points that all fall together.
    """
    points, anchors = checked_anchors(landmarks)
    across, down = _face_axes(points, anchors)
    box_points = points if anchors.box is None else points[list(anchors.box)]
    middle = box_points.mean(axis=0)
    turned = (box_points - middle) @ np.stack([across, down], axis=1)
    low, high = turned.min(axis=0), turned.max(axis=0)
    side = scale * float((high - low).max())
    shift = (low + high) / 2 + side * np.array([vx_ratio, vy_ratio])
    centre = middle + shift[0] * across + shift[1] * down
    return FaceSquare((float(centre[0]), float(centre[1])), side, _angle(across))


def checked_anchors(landmarks: np.ndarray) -> tuple[np.ndarray, CropAnchors]:
    """Return (P, 2) float64 landmarks and the points that place a crop on them; ValueError as `anchored_square`."""
    points = np.asarray(landmarks, np.float64)
    if points.ndim != 2 or points.shape[1] not in (2, 3) or len(points) not in CROP_ANCHORS:
        counts = ", ".join(map(str, sorted(CROP_ANCHORS)))
        raise ValueError(
            f"landmarks of shape {points.shape} cannot place a crop: expected (points, 2 or 3) with "
            f"{counts} points"
        )
    points = points[:, :2]
    bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if bad.size:
        raise ValueError(f"landmark {bad[0]} is {points[bad[0]].tolist()}: landmarks must be finite pixels")
    return points, CROP_ANCHORS[len(points)]


def _face_axes(points: np.ndarray, anchors: CropAnchors) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit vectors (2,) to the face's right as the viewer sees it, and down from eyes to lips."""
    eyes = (points[list(anchors.left_eye)].mean(axis=0) + points[list(anchors.right_eye)].mean(axis=0)) / 2
    down = points[list(anchors.lips)].mean(axis=0) - eyes
    length = np.linalg.norm(down)
    down = down / length if length > _SHORTEST_AXIS else np.array([0.0, 1.0])
    across = np.array([down[1], -down[0]], np.float32)  # rounded as in the release, to agree with its crops
    return across.astype(np.float64), down


def _angle(across: np.ndarray) -> float:
    angle = math.acos(min(1.0, max(-1.0, float(across[0]))))
    return -angle if across[1] < 0 else angle


def _checked_size(crop_size: int) -> int:
    if crop_size < 1:
        raise ValueError(f"crop_size is {crop_size}, expected at least 1 pixel")
    return crop_size
