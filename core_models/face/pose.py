"""Head pose: a weak-perspective fit of the canonical face to landmarks, and rotations as angles."""

from __future__ import annotations

import numpy as np

from ..types import HeadPose
from .topology import canonical_face

FLIP = np.array([1.0, -1.0, -1.0])
"""Landmarks have y down and z away from the camera; poses have y up and z towards it."""

HEAD_PIVOT = np.array([0.0, -6.0, -5.0], np.float32)
"""Canonical centimetres: the top of the neck, about which heads turn and grow; see `FaceMotion`."""
HEAD_PIVOT.setflags(write=False)


def rotation_matrix(pitch_yaw_roll: np.ndarray) -> np.ndarray:
    """Return Ry(yaw) Rx(pitch) Rz(roll), (..., 3, 3) float64, of (..., 3) degrees (pitch, yaw, roll)."""
    pitch, yaw, roll = np.moveaxis(np.radians(np.asarray(pitch_yaw_roll, np.float64)), -1, 0)
    sin_p, cos_p, sin_y, cos_y = np.sin(pitch), np.cos(pitch), np.sin(yaw), np.cos(yaw)
    sin_r, cos_r = np.sin(roll), np.cos(roll)
    rows = [
        [cos_y * cos_r + sin_y * sin_p * sin_r, -cos_y * sin_r + sin_y * sin_p * cos_r, sin_y * cos_p],
        [cos_p * sin_r, cos_p * cos_r, -sin_p],
        [-sin_y * cos_r + cos_y * sin_p * sin_r, sin_y * sin_r + cos_y * sin_p * cos_r, cos_y * cos_p],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def rotation_angles(matrix: np.ndarray) -> np.ndarray:
    """Return (..., 3) degrees (pitch, yaw, roll) of rotation matrices (..., 3, 3); pitch in -90..90."""
    pitch = np.arcsin(np.clip(-matrix[..., 1, 2], -1, 1))
    yaw = np.arctan2(matrix[..., 0, 2], matrix[..., 2, 2])
    roll = np.arctan2(matrix[..., 1, 0], matrix[..., 1, 1])
    return np.degrees(np.stack([pitch, yaw, roll], axis=-1))


def fit_head_pose(landmarks: np.ndarray) -> HeadPose:
    """Fit the canonical face to landmarks by a weighted similarity transform.

    landmarks: (478, 3) or (468, 3), pixels, x right, y down, z away from the camera at the scale of x.
    Uses the bundle's 33 weighted points, which move little with expression. The scale ignores perspective, so
    absolute pitch is off by a few degrees; differences between poses are good.
    Raises ValueError when the landmarks fall on one point.
    """
    face = canonical_face()
    target = np.asarray(landmarks, np.float64)[face.pose_indices] * FLIP
    rotation, scale, translation = weighted_similarity(
        face.vertices[face.pose_indices], target, face.pose_weights
    )
    return HeadPose(rotation=rotation_angles(rotation), translation=translation, scale=scale)


def pivot_position(pose: HeadPose) -> np.ndarray:
    """Return (3,) where HEAD_PIVOT is: pixels in the flipped frame (x, -y, -z)."""
    return pose.scale * rotation_matrix(pose.rotation) @ HEAD_PIVOT + pose.translation


def weighted_similarity(
    source: np.ndarray, target: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, float, np.ndarray]:
    """Return (R, s, t) minimising sum w |s R source + t - target|^2; points (N, 3), weights (N,) >= 0.

    Umeyama's closed form (1991); R is a proper rotation. Raises ValueError when either set is a single point.
    """
    share = (np.asarray(weights, np.float64) / np.sum(weights))[:, None]
    source_centre, target_centre = (share * source).sum(axis=0), (share * target).sum(axis=0)
    source_offset, target_offset = source - source_centre, target - target_centre
    spread = (share * source_offset**2).sum()
    left, stretch, right = np.linalg.svd((share * target_offset).T @ source_offset)
    if spread <= 0 or stretch[0] <= 1e-9:
        raise ValueError("cannot fit a head pose: all landmarks fall on one point")
    handedness = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    rotation = (left * handedness) @ right
    scale = float((stretch * handedness).sum() / spread)
    return rotation, scale, target_centre - scale * rotation @ source_centre


def canonical_shape(landmarks: np.ndarray, pose: HeadPose) -> np.ndarray:
    """Return the face's own shape: landmarks (N, 3) in canonical centimetres, R^T ((x, -y, -z) - t) / s."""
    flipped = np.asarray(landmarks, np.float64) * FLIP - pose.translation
    return flipped @ rotation_matrix(pose.rotation) / pose.scale


def project_shape(shape: np.ndarray, pose: HeadPose) -> np.ndarray:
    """Return canonical centimetres (N, 3) as landmarks in pixels, (N, 3); undoes `canonical_shape`."""
    turned = np.asarray(shape, np.float64) @ rotation_matrix(pose.rotation).T
    return (pose.scale * turned + pose.translation) * FLIP
