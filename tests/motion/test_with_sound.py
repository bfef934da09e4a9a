"""Motion and sound of equal length."""

import logging

import numpy as np
import pytest
from talking_portrait.core_models.audio.decode import Sound
from talking_portrait.core_models.audio.frame_clock import frame_count, sample_count
from talking_portrait.core_models.motion.with_sound import match_motion_to_sound
from talking_portrait.core_models.types import BLENDSHAPES, FaceMotion


def rising_motion(frames: int, fps: float) -> FaceMotion:
    level = np.linspace(0, 1, frames)
    expression = np.repeat(level[:, None], 52, axis=1)
    return FaceMotion(BLENDSHAPES, fps, expression, np.zeros((frames, 3)), np.zeros((frames, 3)), 1 + level)


@pytest.mark.parametrize("fps", [12.5, 24, 25, 29.97, 30])
@pytest.mark.parametrize("samples", [1, 16000, 44101, 96000])
def test_lengths_agree_exactly(fps, samples):
    motion, sound = match_motion_to_sound(rising_motion(20, fps), Sound(np.ones((2, samples)), 44100))
    assert motion.frame_count == max(20, frame_count(samples / 44100, fps))
    assert sound.sample_count == sample_count(motion.frame_count, fps, 44100)


def test_short_sound_gets_silence():
    motion, sound = match_motion_to_sound(rising_motion(25, 25), Sound(np.ones((1, 8000)), 16000))
    assert motion.frame_count == 25
    assert sound.waveform[0, :8000].all()
    assert not sound.waveform[0, 8000:].any()


def test_short_motion_holds_its_last_frame(caplog):
    with caplog.at_level(logging.WARNING):
        motion, _ = match_motion_to_sound(rising_motion(10, 25), Sound(np.ones((1, 16000)), 16000))
    assert motion.frame_count == 25
    assert (motion.expression[10:] == motion.expression[9]).all()
    assert (motion.scale[10:] == 2).all()
    assert "held for 15 frames" in caplog.text
