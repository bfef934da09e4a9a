"""Motion on a film: at its rate, and which of its frames each frame of the motion is rendered onto."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..motion.track import map_frames, resample_motion
from ..types import FaceMotion, Portrait, PortraitVideo


def motion_at_video_rate(motion: FaceMotion, portrait: Portrait | PortraitVideo) -> FaceMotion:
    """Return the motion at the rate of the film it is to be rendered onto; onto a picture, as it is.

    Motion of a single frame, of a driving picture or a still edit, is held throughout the film.
    """
    if not isinstance(portrait, PortraitVideo):
        return motion
    if motion.frame_count > 1:
        return resample_motion(motion, portrait.fps)
    count = len(portrait.portraits)
    return replace(map_frames(motion, lambda values: np.repeat(values, count, axis=0)), fps=portrait.fps)


def video_rows(frame_count: int, portrait: Portrait | PortraitVideo) -> np.ndarray:
    """Return (frame_count,) which of the portrait's frames each frame is rendered onto."""
    is_video = isinstance(portrait, PortraitVideo)
    return portrait.rows(frame_count) if is_video else np.zeros(frame_count, int)
