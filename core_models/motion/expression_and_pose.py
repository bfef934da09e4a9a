"""What ACTalker reads of a driving video: two crops of each frame, and the 518 numbers its networks make of them.

The release finds a face by a detector and 256 landmarks of its own; ours are the 478 of the face mesh. Of the 256 the
first 174 (brows, eyes, nose and mouth, no outline of the face) box the expression crop, for which we take the mesh's
points of the same parts. The head crop starts from the detector's box of the face, for which we take the box of all 478
points. Cutting, rounding and resizing are the release's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..face.anchored_crop import BROWS, NOSE
from ..face.landmarks import checked_landmarks
from ..face.topology import EYE_LEFT_CONTOUR, EYE_RIGHT_CONTOUR, LIPS_CONTOUR
from ..key_tables import KEY_TABLES
from ..strict_loading import load_strict
from ..types import ProgressCallback
from .expression_network import ExpressionNetwork, ExpressionNetworkParameters
from .head_pose_network import HeadPoseNetwork, HeadPoseNetworkParameters

CROP_SIZE = 256
"""Side in pixels of both crops."""
HEAD_PICTURE_SIZE = 576
"""Side to which the release first brings the head crop: that of its videos."""
FEATURE_POINTS = tuple(sorted({*BROWS, *NOSE, *EYE_RIGHT_CONTOUR, *EYE_LEFT_CONTOUR, *LIPS_CONTOUR}))
"""Points of the mesh whose box is the expression crop's."""
HEAD_WIDENING = 1.0
"""What is added to the face's box on every side for the head crop, over the box's width or height."""
POSE_SIZE = 6
"""Numbers after those of the expression: three of rotation in degrees, three of translation."""
CPU_CHUNK, ACCELERATOR_CHUNK = 4, 32
"""Frames that the networks look at together."""


class FrameCrops(NamedTuple):
    """What the networks see of a frame, (256, 256, 3) uint8 each.

    expression: the face; black outside the picture. head: the head.
    """

    expression: np.ndarray
    head: np.ndarray


@dataclass(frozen=True)
class DrivingCrops:
    """The two crops of each frame, cut when they are asked for, so that they take no memory.

    frames: (N, H, W, 3) uint8 RGB, or N pictures (H, W, 3), which may be made when they are asked for. landmarks:
    (N, 478, 3) pixels of those. size: (width, height) of all frames. head_square: left, top, right, bottom in pixels of
    the crop for the head pose, the same in all frames.
    """

    frames: Sequence[np.ndarray] | np.ndarray
    landmarks: np.ndarray = field(repr=False)
    size: tuple[int, int]
    head_square: tuple[int, int, int, int]

    def __len__(self) -> int:
        return len(self.frames)

    def of_frame(self, index: int) -> FrameCrops:
        """Return both crops of a frame, which is asked for once. Raises ValueError for one of another kind or size."""
        frame = self.frames[index]
        _require_picture(frame, index, self.size)
        face = _cut(frame, expression_square(self.landmarks[index]))
        head = _resized(_cut(frame, self.head_square), HEAD_PICTURE_SIZE, Image.Resampling.BICUBIC)
        return FrameCrops(
            *(np.array(_resized(crop, CROP_SIZE, Image.Resampling.BILINEAR)) for crop in (face, head))
        )


def driving_crops(
    frames: Sequence[np.ndarray] | np.ndarray, landmarks: Sequence[np.ndarray] | np.ndarray
) -> DrivingCrops:
    """Return the crops of a driving video, or of one picture; of the frames only the first is looked at.

    frames: (N, H, W, 3) uint8 RGB, N > 0. landmarks: (478, 3) pixels for each; a frame without a face must be given
    those of another, as the release takes the last ones it saw.
    Raises ValueError for no frames, other numbers of frames and landmarks, a first frame of another kind, landmarks
    that are not finite or span no area, or a face outside the first frame.
    """
    if len(frames) == 0:
        raise ValueError("the driving video has no frames: give at least one")
    if len(frames) != len(landmarks):
        raise ValueError(
            f"the driving video has {len(frames)} frames but landmarks for {len(landmarks)}: give one set for each"
        )
    first = frames[0]
    size = first.shape[1::-1]
    _require_picture(first, 0, size)
    points = np.stack([_landmarks_of_frame(one, index) for index, one in enumerate(landmarks)])
    return DrivingCrops(frames, points, size, head_square(points[0], size))


def _require_picture(frame: np.ndarray, index: int, size: tuple[int, ...]) -> None:
    if frame.dtype != np.uint8 or frame.shape != (*reversed(size), 3):
        raise ValueError(
            f"frame {index} of the driving video is {frame.dtype} of shape {frame.shape}, expected (height, width, 3) "
            "uint8 RGB, all of one size"
        )


def _landmarks_of_frame(landmarks: np.ndarray, index: int) -> np.ndarray:
    try:
        return checked_landmarks(landmarks)
    except ValueError as error:
        raise ValueError(
            f"frame {index} of the driving video: {error}. Where no face is found, use the landmarks of the frame "
            "before"
        ) from error


def expression_square(landmarks: np.ndarray) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom in pixels of the expression crop; it may reach beyond the picture.

    landmarks: (478, 3) pixels. Half the side is half the larger side of the box over brows, eyes, nose and mouth, and
    the middle is that of the box, both cut to whole pixels.
    """
    points = landmarks[list(FEATURE_POINTS), :2].astype(np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    x, y = (int(value) for value in (low + high) / 2)
    half = max(1, int((high - low).max()) // 2)
    return x - half, y - half, x + half, y + half


def head_square(landmarks: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom in pixels of the head crop, which lies in the picture.

    landmarks: (478, 3) pixels of the first frame; size: (width, height) of it. The face's box is widened by its own
    size on every side and cut at the picture's edges; of that, the square of the shorter side whose middle is nearest
    to the face's. Raises ValueError for a face outside the picture.
    """
    points = landmarks[:, :2].astype(np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    margin = HEAD_WIDENING * (high - low)
    first, last = np.maximum(low - margin, 0), np.minimum(high + margin, size)
    half = (last - first).min() / 2
    if half < 1:
        raise ValueError(
            f"the face from {low.round().tolist()} to {high.round().tolist()} lies outside the first frame of "
            f"{size[0]} x {size[1]} px: give landmarks in that frame's pixels"
        )
    middle = np.clip((low + high) / 2, first + half, last - half)
    left, top, right, bottom = (round(value) for value in (*(middle - half), *(middle + half)))
    return left, top, right, bottom


def _cut(frame: np.ndarray, square: tuple[int, int, int, int]) -> Image.Image:
    return Image.fromarray(frame).crop(square)


def _resized(picture: Image.Image, size: int, filter_used: Image.Resampling) -> Image.Image:
    return picture.resize((size, size), filter_used)


class ExpressionAndPoseNetworks(nn.Module):
    """The two networks of one published file."""

    def __init__(
        self,
        expression: ExpressionNetworkParameters | None = None,
        pose: HeadPoseNetworkParameters | None = None,
    ) -> None:
        super().__init__()
        self.expression = ExpressionNetwork(expression)
        self.pose = HeadPoseNetwork(pose)


def load_expression_and_pose(
    path: str | os.PathLike[str],
    dtype: torch.dtype = torch.float32,
    expression: ExpressionNetworkParameters | None = None,
    pose: HeadPoseNetworkParameters | None = None,
) -> ExpressionAndPoseNetworks:
    """Return the networks of a published MX31c_32k.ckpt, on the CPU, in evaluation mode, gradients off.

    What else the file holds is not read. Raises what `load_strict` raises.
    """
    networks = load_strict(
        lambda: ExpressionAndPoseNetworks(expression, pose), path, KEY_TABLES["actalker_expression"], dtype
    )
    return networks.requires_grad_(False)


def expression_and_pose(
    networks: ExpressionAndPoseNetworks, crops: DrivingCrops, progress: ProgressCallback | None = None
) -> Tensor:
    """Return the motion of each frame, (N, 518) float32 on the CPU, for MotionProjection.

    512 numbers of expression, the head's rotation (3, degrees in -180..180) and its translation (3, in -2..2). A few
    frames are read at a time, so that memory does not grow with the video. progress: called as (frames done, N).
    Raises ValueError for a frame of another kind or size than the first, and when the networks' numbers are not finite.
    """
    chunk = CPU_CHUNK if next(networks.parameters()).device.type == "cpu" else ACCELERATOR_CHUNK
    count = len(crops)
    motion = torch.empty(count, networks.expression.parameters_used.features + POSE_SIZE)
    for first in range(0, count, chunk):
        indices = range(first, min(count, first + chunk))
        motion[first : indices.stop] = _motion_of(networks, crops, indices)
        if progress is not None:
            progress(indices.stop, count)
    return motion


def _motion_of(networks: ExpressionAndPoseNetworks, crops: DrivingCrops, indices: range) -> Tensor:
    weight = next(networks.parameters())
    crops_of_frames = [crops.of_frame(index) for index in indices]
    faces, heads = (_unit_pictures(pictures, weight) for pictures in zip(*crops_of_frames, strict=True))
    with torch.no_grad():
        pose = networks.pose(2 * heads - 1)
        rows = torch.cat([networks.expression(faces), pose.rotation, pose.translation], dim=1).float().cpu()
    if not torch.isfinite(rows).all():
        raise ValueError(
            f"the expression of frames {indices.start} to {indices.stop - 1} is not finite in {weight.dtype}: load the "
            "expression and head pose networks in float32"
        )
    return rows


def _unit_pictures(pictures: Sequence[np.ndarray], weight: Tensor) -> Tensor:
    """Return (B, 3, H, W) in 0..1, where and as `weight` is."""
    stacked = torch.from_numpy(np.stack(pictures)).to(weight.device)
    return stacked.permute(0, 3, 1, 2).to(weight.dtype) / 255
