"""Parts of the face: scaling them and mixing two tracks by them. Blendshape space only.

The implicit keypoints of the other space are not tied to single parts; motion in it needs retargeting first.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..types import BLENDSHAPE_NAMES, BLENDSHAPES, FaceMotion
from .region_names import MOTION_REGIONS, expect_known_regions, region_columns
from .rotation import angles_from_quaternions, power, quaternions_from_angles, slerp
from .track import resample_motion

__all__ = ["MOTION_REGIONS", "mix_motion", "region_columns", "scale_motion"]


LARGEST_GAIN = 3.0
END_FADE = 0.2
"""Seconds in which a track that ends early hands over to the base."""


def scale_motion(motion: FaceMotion, gains: Mapping[str, float]) -> FaceMotion:
    """Return the motion with each named region stronger or weaker.

    gains: {region: 0..3}; 0 is rest, 1 leaves it, regions not named stay. Coefficients are clipped to 0..1.
    The pose turns by `gain` times the angle about the same axis, and scale is raised to the power `gain`.
    Raises ValueError for an unknown region, a gain outside 0..3, or motion of the other space.
    """
    motion.require_space(BLENDSHAPES)
    expect_known_regions(gains)
    for region, gain in gains.items():
        if not 0 <= gain <= LARGEST_GAIN:
            raise ValueError(f"the gain of {region!r} is {gain}, expected 0 to {LARGEST_GAIN:g}")
    factors = np.ones(len(BLENDSHAPE_NAMES))
    for region, gain in gains.items():
        factors[region_columns([region])] = gain
    pose = float(gains.get("pose", 1.0))
    turned = power(quaternions_from_angles(motion.rotation), pose)
    return FaceMotion(
        space=motion.space,
        fps=motion.fps,
        expression=np.clip(motion.expression * factors, 0, 1),
        rotation=motion.rotation if pose == 1 else angles_from_quaternions(turned),
        translation=motion.translation * pose,
        scale=motion.scale**pose,
    )


def mix_motion(base: FaceMotion, other: FaceMotion, gates: Mapping[str, float | np.ndarray]) -> FaceMotion:
    """Return `base` with regions taken from `other`: per region base + gate (other - base).

    gates: {region: 0..1, or an (N,) array of them over the base's N frames}; others stay the base's.
    Rotations are mixed along the shortest arc, scale in its logarithm.
    `other` is resampled to the base's rate. The result is as long as the base: what is longer in `other` is
    left out; where it ends earlier, the base takes over within the last 0.2 s before its end.
    Raises ValueError for an unknown region, a gate outside 0..1 or of another length, or the other space.
    """
    base.require_space(BLENDSHAPES)
    other.require_space(BLENDSHAPES)
    expect_known_regions(gates)
    other = resample_motion(other, base.fps)
    present = _presence(other.frame_count, base.frame_count, base.fps)
    rows = np.minimum(np.arange(base.frame_count), other.frame_count - 1)
    weights = {name: _gate(name, value, base.frame_count) * present for name, value in gates.items()}
    share = np.zeros((base.frame_count, len(BLENDSHAPE_NAMES)))
    for region, weight in weights.items():
        share[:, region_columns([region])] = weight[:, None]
    expression = base.expression + share * (other.expression[rows] - base.expression)
    return _with_mixed_pose(base, other, rows, weights.get("pose"), np.clip(expression, 0, 1))


def _with_mixed_pose(
    base: FaceMotion, other: FaceMotion, rows: np.ndarray, weight: np.ndarray | None, expression: np.ndarray
) -> FaceMotion:
    if weight is None:
        rotation, translation, scale = base.rotation, base.translation, base.scale
    else:
        start = quaternions_from_angles(base.rotation)
        turned = slerp(start, quaternions_from_angles(other.rotation[rows]), weight)
        rotation = angles_from_quaternions(turned)
        translation = base.translation + weight[:, None] * (other.translation[rows] - base.translation)
        scale = np.exp(np.log(base.scale) + weight * (np.log(other.scale[rows]) - np.log(base.scale)))
    return FaceMotion(base.space, base.fps, expression, rotation, translation, scale)


def _presence(other_frames: int, base_frames: int, fps: float) -> np.ndarray:
    """Return (base_frames,) weights: 1, and falling to 0 at the end of a track that is shorter."""
    if other_frames >= base_frames:
        return np.ones(base_frames)
    fade_frames = max(1.0, END_FADE * fps)
    left = other_frames - 0.5 - np.arange(base_frames)
    return np.clip(left / fade_frames, 0, 1)


def _gate(region: str, value: float | np.ndarray, frames: int) -> np.ndarray:
    gate = np.asarray(value, np.float64)
    if gate.shape not in ((), (frames,)):
        raise ValueError(
            f"the gate of {region!r} has shape {gate.shape}, expected one number or {frames}, one for each "
            "frame of the base"
        )
    if not ((gate >= 0) & (gate <= 1)).all():
        raise ValueError(
            f"the gate of {region!r} reaches from {gate.min():g} to {gate.max():g}, expected 0 to 1"
        )
    return np.broadcast_to(gate, (frames,))
