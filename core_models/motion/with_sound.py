"""Motion and sound of equal length."""

from __future__ import annotations

import logging

import numpy as np

from ..audio.decode import Sound
from ..audio.frame_clock import frame_count, sample_count
from ..audio.resample import with_length
from ..types import FaceMotion
from .track import map_frames

logger = logging.getLogger(__name__)


def match_motion_to_sound(motion: FaceMotion, sound: Sound) -> tuple[FaceMotion, Sound]:
    """Return both, equally long: silence is appended to the sound, or the last frame of the motion is held.

    Neither is ever cut. The sound has exactly sample_count(N, fps, rate) samples for N frames of motion.
    """
    needed = max(motion.frame_count, frame_count(sound.duration, motion.fps))
    held = needed - motion.frame_count
    if held:
        logger.warning(
            "the sound lasts %.2f s, the motion %.2f s: its last frame is held for %d frames",
            sound.duration,
            motion.duration,
            held,
        )
        motion = _held(motion, held)
    samples = sample_count(needed, motion.fps, sound.sample_rate)
    if samples != sound.sample_count:
        sound = Sound(with_length(sound.waveform, samples), sound.sample_rate)
    return motion, sound


def _held(motion: FaceMotion, frames: int) -> FaceMotion:
    return map_frames(motion, lambda values: np.concatenate([values, np.repeat(values[-1:], frames, axis=0)]))
