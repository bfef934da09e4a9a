"""From the motion extractor's readings of frames to a motion track, and from a picture to one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..types import FaceMotion
from .driving_picture import LIPS_AT_REST
from .keypoint_driving import motion_between
from .keypoint_geometry import KeypointReadings


def motion_from_readings(
    readings: KeypointReadings, fps: float, rest_frame: int = 0, is_picture: bool | None = None
) -> FaceMotion:
    """Return the driver's motion away from its frame `rest_frame`, as LivePortrait takes it (the first).

    is_picture: whether the single reading is a driving picture, whose expression counts from closed lips and its
        head pose as rest; None says so of every single reading.
    Raises ValueError for a rest frame that does not exist.
    """
    count = readings.frame_count
    if not -count <= rest_frame < count:
        raise ValueError(f"the rest is frame {rest_frame} of a driver with {count} frames")
    if count == 1 if is_picture is None else is_picture:
        return _motion_from_picture(readings, fps)
    rest = readings.rows(np.array([rest_frame % count]))
    return motion_between(rest, readings, fps)


def _motion_from_picture(readings: KeypointReadings, fps: float) -> FaceMotion:
    at_rest = np.array(LIPS_AT_REST).reshape(1, -1, 3)
    lips_closed = replace(readings, expression=at_rest)
    return motion_between(lips_closed, readings, fps)
