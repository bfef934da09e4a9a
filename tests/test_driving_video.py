"""Driving videos: parts, sizes, sound."""

import numpy as np
import pytest
from talking_portrait.core_models.audio.decode import Sound
from talking_portrait.core_models.audio.frame_clock import sample_count
from talking_portrait.core_models.driving_video import read_driving_video
from talking_portrait.core_models.video_file import write_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A second at 25 fps whose frames get brighter; its sound is silent, then loud from 0.5 s on."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    frames = [np.full((96, 128, 3), 10 * index, np.uint8) for index in range(25)]
    wave = np.zeros((1, 48000), np.float32)
    wave[0, 24000:] = 0.5 * np.sin(np.arange(24000) * 0.2)
    write_video(path, frames, 25, Sound(wave, 48000))
    return path


def test_the_whole_clip(clip):
    steps = []
    video = read_driving_video(clip, progress=lambda done, total: steps.append((done, total)))
    assert (len(video.frames), video.fps) == (25, 25)
    assert video.frames[0].shape == (96, 128, 3)
    assert video.sound.sample_count == 48000
    assert steps[-1] == (25, 25)


def test_a_part_has_its_own_frames_and_sound(clip):
    part = read_driving_video(clip, start=0.4, duration=0.2, largest_side=64)
    assert len(part.frames) == 5
    assert part.frames[0].shape == (48, 64, 3)
    assert abs(int(part.frames[0].mean()) - 100) < 4
    assert part.sound.sample_count == sample_count(5, 25, 48000)
    half = part.sound.sample_count // 2
    assert np.abs(part.sound.waveform[:, : half - 200]).max() < 0.05
    assert np.abs(part.sound.waveform[:, half + 200 :]).max() > 0.3


def test_a_silent_video_has_no_sound(tmp_path):
    write_video(tmp_path / "silent.mp4", [np.zeros((64, 64, 3), np.uint8)] * 3, 30)
    assert read_driving_video(tmp_path / "silent.mp4").sound is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0,), "start is -1"),
        ((0.0, 0.0), "more than 0"),
        ((5.0,), "no frames after 5 s"),
        ((0, None, 8), "64"),
    ],
)
def test_impossible_parts_are_refused(clip, arguments, message):
    with pytest.raises(ValueError, match=message):
        read_driving_video(clip, *arguments)


def test_cancelling_ends_the_reading(clip):
    def cancel(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_driving_video(clip, progress=cancel)
