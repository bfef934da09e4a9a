"""Parts of the face: scaling them, and mixing tracks by them, in either motion space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ..types import BLENDSHAPES, FaceMotion
from .region_names import KEYPOINT_REGIONS, MOTION_REGIONS, expect_known_regions, region_columns
from .rotation import angles_from_quaternions, power, quaternions_from_angles, slerp
from .track import resample_motion

__all__ = ["KEYPOINT_REGIONS", "MOTION_REGIONS", "mix_motion", "region_columns", "scale_motion"]


LARGEST_GAIN = 3.0
END_FADE = 0.2
"""Seconds in which a track that ends early hands over to the base."""


def scale_motion(motion: FaceMotion, gains: Mapping[str, float]) -> FaceMotion:
    """Return the motion with each named region stronger or weaker.

    gains: {region: 0..3}; 0 is rest, 1 leaves it, regions not named stay. Blendshapes are clipped to 0..1.
    The pose turns by `gain` times the angle about the same axis, and scale is raised to the power `gain`. Opening
    ratios, which were measured before, are dropped when lips, jaw or eyes change.
    Raises ValueError for an unknown region or a gain outside 0..3.
    """
    expect_known_regions(gains)
    for region, gain in gains.items():
        if not 0 <= gain <= LARGEST_GAIN:
            raise ValueError(f"the gain of {region!r} is {gain}, expected 0 to {LARGEST_GAIN:g}")
    factors = np.ones(motion.expression.shape[1])
    for region, gain in gains.items():
        factors[region_columns([region], motion.space)] = gain
    pose = float(gains.get("pose", 1.0))
    turned = power(quaternions_from_angles(motion.rotation), pose)
    measured = {"lips", "jaw", "eyes"} & {region for region, gain in gains.items() if gain != 1}
    return replace(
        motion,
        openings=None if measured else motion.openings,
        expression=_within_range(motion.expression * factors, motion.space),
        rotation=motion.rotation if pose == 1 else angles_from_quaternions(turned),
        translation=motion.translation * pose,
        scale=motion.scale**pose,
    )


def _within_range(expression: np.ndarray, space: str) -> np.ndarray:
    return np.clip(expression, 0, 1) if space == BLENDSHAPES else expression


def mix_motion(base: FaceMotion, other: FaceMotion, gates: Mapping[str, float | np.ndarray]) -> FaceMotion:
    """Return `base` with regions taken from `other`: per region base + gate (other - base).

    gates: {region: 0..1, or an (N,) array of them over the base's N frames}; others stay the base's.
    Both are movements away from a rest, and so is the mix; what the base's rest reads stays with it. Rotations are
    mixed along the shortest arc, scale in its logarithm, opening ratios where both tracks know them.
    `other` is resampled to the base's rate. The result is as long as the base: what is longer in `other` is
    left out; where it ends earlier, the base takes over within the last 0.2 s before its end. A single frame, of a
    driving picture or a still edit, holds throughout.
    Raises ValueError for an unknown region, a gate outside 0..1 or of another length, or tracks of two spaces.
    """
    if base.space != other.space:
        raise ValueError(
            f"cannot mix motion in the {other.space} space into {base.space}: put a 'Retarget Motion' node behind "
            "the one in blendshapes"
        )
    expect_known_regions(gates)
    is_still = other.frame_count == 1
    other = other if is_still else resample_motion(other, base.fps)
    present = _presence(base.frame_count if is_still else other.frame_count, base.frame_count, base.fps)
    rows = np.minimum(np.arange(base.frame_count), other.frame_count - 1)
    weights = {name: _gate(name, value, base.frame_count) * present for name, value in gates.items()}
    share = np.zeros(base.expression.shape)
    for region, weight in weights.items():
        share[:, region_columns([region], base.space)] = weight[:, None]
    expression = base.expression + share * (other.expression[rows] - base.expression)
    mixed = replace(
        base,
        expression=_within_range(expression, base.space),
        openings=_mixed_openings(base, other, rows, weights),
    )
    return _with_mixed_pose(mixed, other, rows, weights.get("pose"))


def _mixed_openings(
    base: FaceMotion, other: FaceMotion, rows: np.ndarray, weights: Mapping[str, np.ndarray]
) -> np.ndarray | None:
    """Return (N, 3) opening ratios: the eyes' by the gate of the eyes, the lips' by that of the jaw."""
    if base.openings is None or other.openings is None:
        return None
    none = np.zeros(base.frame_count)
    eyes, lips = weights.get("eyes", none), weights.get("jaw", none)
    share = np.stack([eyes, eyes, lips], axis=1)
    return base.openings + share * (other.openings[rows] - base.openings)


def _with_mixed_pose(
    base: FaceMotion, other: FaceMotion, rows: np.ndarray, weight: np.ndarray | None
) -> FaceMotion:
    if weight is None:
        return base
    start = quaternions_from_angles(base.rotation)
    turned = slerp(start, quaternions_from_angles(other.rotation[rows]), weight)
    return replace(
        base,
        rotation=angles_from_quaternions(turned),
        translation=base.translation + weight[:, None] * (other.translation[rows] - base.translation),
        scale=np.exp(np.log(base.scale) + weight * (np.log(other.scale[rows]) - np.log(base.scale))),
    )


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
