"""A head pose of one's own, put under motion that comes from elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..types import FaceMotion, back_and_forth
from .track import map_frames, resample_motion


def fitted_track(motion: FaceMotion, fps: float, frames: int) -> FaceMotion:
    """Return a track at `fps` with `frames` frames.

    A longer one is cut; a shorter one goes back from its end, and forth again, so that nothing jumps.
    """
    resampled = resample_motion(motion, fps)
    rows = back_and_forth(resampled.frame_count, frames)
    return map_frames(resampled, lambda values: values[rows])


def with_pose_of(motion: FaceMotion, pose: FaceMotion) -> FaceMotion:
    """Return the motion with the head's rotation, translation and scale of another track, brought to its length.

    Of a track in the other space only rotation and scale are taken: translation has other units there.
    """
    pose = fitted_track(pose, motion.fps, motion.frame_count)
    same = pose.space == motion.space
    return replace(
        motion,
        rotation=pose.rotation,
        translation=pose.translation if same else np.zeros((motion.frame_count, 3)),
        scale=pose.scale,
    )


def with_angle_gains(motion: FaceMotion, pitch: float, yaw: float, roll: float) -> FaceMotion:
    """Return the motion with each head angle (degrees away from rest) multiplied by its gain."""
    if pitch == yaw == roll == 1:
        return motion
    return replace(motion, rotation=motion.rotation * np.array([pitch, yaw, roll]))
