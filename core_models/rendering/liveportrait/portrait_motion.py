"""A driver's motion fitted to one portrait: what LivePortrait's networks are then asked to draw."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ...motion.keypoint_driving import (
    DrivingParameters,
    drive_keypoints,
    motion_between,
    require_drivable,
)
from ...types import FaceMotion, Portrait, PortraitVideo, ProgressCallback
from ..source_video import motion_at_video_rate, video_rows
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

    A film's motion comes at the film's rate; each of its frames is a difference from that frame of the film, so it
    is to be rendered as it is. Opening ratios are not known any more.
    Raises ValueError as `drive_keypoints` does, most of it before the portrait is read.
    """
    require_drivable(motion, parameters)
    readings = read_portrait(portrait, extractor, progress)
    is_video = isinstance(portrait, PortraitVideo)
    if is_video and motion.frame_count > 1:
        motion = motion_at_video_rate(motion, portrait)
        readings = readings.rows(video_rows(motion.frame_count, portrait))
    driven = drive_keypoints(readings, motion, parameters, networks)
    fitted = motion_between(readings, driven, portrait.fps if is_video else motion.fps)
    return replace(fitted, openings=None)  # the portrait's own at rest are not the ratios of what it now does
