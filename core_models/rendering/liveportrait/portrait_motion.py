"""A driver's motion fitted to one portrait: what LivePortrait's networks are then asked to draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...motion.keypoint_driving import DrivingParameters, drive_keypoints, motion_between
from ...types import FaceMotion, Portrait, PortraitVideo, ProgressCallback
from ..film_motion import film_rows, motion_at_film_rate
from .portrait_reading import read_portrait

if TYPE_CHECKING:
    from ...motion.motion_extractor import MotionExtractor
    from .retargeting import RetargetingNetworks


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
    readings = read_portrait(portrait, extractor, progress)
    if readings.frame_count > 1 and motion.frame_count > 1:
        motion = motion_at_film_rate(motion, portrait)
        readings = readings.rows(film_rows(motion.frame_count, portrait))
    driven = drive_keypoints(readings, motion, parameters, networks)
    fps = portrait.fps if isinstance(portrait, PortraitVideo) else motion.fps
    return motion_between(readings, driven, fps)
