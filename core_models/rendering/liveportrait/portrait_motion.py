"""A driver's motion fitted to one portrait: what LivePortrait's networks are then asked to draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...motion.keypoint_driving import DrivingParameters, drive_keypoints, motion_between
from ...motion.track import resample_motion
from ...types import FaceMotion, Portrait, PortraitVideo, ProgressCallback
from .portrait_reading import read_portrait

if TYPE_CHECKING:
    from ...motion.motion_extractor import MotionExtractor
    from .retargeting import RetargetingNetworks


def motion_at_film_rate(motion: FaceMotion, portrait: Portrait | PortraitVideo) -> FaceMotion:
    """Return the motion at the rate of the film it is to be rendered onto; onto a picture, as it is."""
    return resample_motion(motion, portrait.fps) if isinstance(portrait, PortraitVideo) else motion


def film_rows(frame_count: int, portrait: Portrait | PortraitVideo) -> np.ndarray:
    """Return (frame_count,) which of the portrait's frames each frame is rendered onto."""
    is_film = isinstance(portrait, PortraitVideo)
    return portrait.rows(frame_count) if is_film else np.zeros(frame_count, int)


def stitched_motion(
    motion: FaceMotion,
    portrait: Portrait | PortraitVideo,
    parameters: DrivingParameters,
    extractor: MotionExtractor,
    networks: RetargetingNetworks,
    progress: ProgressCallback | None = None,
) -> FaceMotion:
    """Return the motion by which the portrait moves, away from the portrait itself, as `drive_keypoints` says.

    A film's motion comes at the film's rate. Raises ValueError as `drive_keypoints` does.
    """
    motion = motion_at_film_rate(motion, portrait)
    readings = read_portrait(portrait, extractor, progress)
    if readings.frame_count > 1:
        readings = readings.rows(film_rows(motion.frame_count, portrait))
    driven = drive_keypoints(readings, motion, parameters, networks)
    return motion_between(readings, driven, motion.fps)
