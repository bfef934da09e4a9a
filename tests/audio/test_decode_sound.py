"""Every kind of sound file, and what is wrong with the ones that cannot be used."""

from fractions import Fraction

import av
import numpy as np
import pytest
from talking_portrait.core_models.audio.decode import (
    Sound,
    decode_sound,
    sound_from_comfy,
    sound_to_comfy,
)
from talking_portrait.core_models.audio.resample import resample, to_mono
from talking_portrait.core_models.video_file import write_video

LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}


def tones(channels, samples, sample_rate, level=0.5):
    """A different tone in each channel, (C, T)."""
    time = np.arange(samples) / sample_rate
    pitches = 200 + 90 * np.arange(channels)
    return (level * np.sin(2 * np.pi * pitches[:, None] * time)).astype(np.float32)


def write_sound(path, waveform, sample_rate, codec):
    """Write (C, T) float32 by PyAV; the codec's name says the sample format."""
    layout = LAYOUTS[len(waveform)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=sample_rate, layout=layout)
        container.start_encoding()
        for start in range(0, waveform.shape[1], 1000):
            block = np.ascontiguousarray(waveform[:, start : start + 1000].T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(block, format="flt", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = sample_rate, start, Fraction(1, sample_rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("codec", "extension", "error"),
    [
        ("pcm_u8", "wav", 1 / 128),
        ("pcm_s16le", "wav", 1 / 32768),
        ("pcm_s24le", "wav", 2e-7),
        ("pcm_s32le", "wav", 1e-7),
        ("pcm_f32le", "wav", 0),
        ("pcm_f64le", "wav", 0),
        ("flac", "flac", 1 / 32768),
    ],
)
@pytest.mark.parametrize(("channels", "sample_rate"), [(1, 8000), (2, 44100), (8, 96000)])
def test_lossless_files_come_back_sample_by_sample(tmp_path, codec, extension, error, channels, sample_rate):
    waveform = tones(channels, 2500, sample_rate)
    sound = decode_sound(write_sound(tmp_path / f"sound.{extension}", waveform, sample_rate, codec))
    assert (sound.sample_rate, sound.waveform.shape) == (sample_rate, (channels, 2500))
    assert sound.waveform.dtype == np.float32
    assert np.abs(sound.waveform - waveform).max() <= error


@pytest.mark.parametrize(("codec", "extension"), [("aac", "m4a"), ("libmp3lame", "mp3"), ("libopus", "ogg")])
def test_lossy_files_sound_the_same(tmp_path, codec, extension):
    waveform = tones(2, 48000, 48000)
    sound = decode_sound(write_sound(tmp_path / f"sound.{extension}", waveform, 48000, codec))
    assert sound.channel_count == 2
    assert sound.sample_count >= 48000
    shared = sound.waveform[:, 2000:46000]
    lags = [
        np.corrcoef(shared[0, 1200:-1200], waveform[0, 3200 + lag : 44800 + lag])[0, 1]
        for lag in range(-3, 4)
    ]
    assert max(lags) > 0.99


def test_eight_planar_channels_do_not_crash(tmp_path):
    """PyAV 18 counts nine planes in an 8-channel planar frame; reading them ended the process."""
    waveform = tones(8, 9600, 48000)
    sound = decode_sound(write_sound(tmp_path / "sound.m4a", waveform, 48000, "aac"))
    assert sound.channel_count == 8


def test_the_sound_of_a_video_file(tmp_path):
    sound = Sound(tones(1, 16000, 16000), 16000)
    path = tmp_path / "video.mp4"
    write_video(path, [np.zeros((32, 32, 3), np.uint8)] * 25, 25, sound)
    decoded = decode_sound(path)
    assert (decoded.sample_rate, decoded.sample_count) == (16000, 16000)
    assert np.corrcoef(decoded.waveform[0], sound.waveform[0])[0, 1] > 0.99


def test_sound_that_starts_after_the_picture_gets_silence_in_front(tmp_path):
    path = tmp_path / "late.mkv"
    waveform = tones(1, 8000, 16000)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for index in range(25):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(video.encode(frame))
        frame = av.AudioFrame.from_ndarray(waveform, format="flt", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, 4000, Fraction(1, 16000)
        container.mux(audio.encode(frame))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    decoded = decode_sound(path)
    assert decoded.sample_count == 12000
    assert not decoded.waveform[0, :3990].any()
    assert np.abs(decoded.waveform[0, 4000:] - waveform[0]).max() < 1e-3


def test_levels_above_full_scale_are_kept(tmp_path):
    waveform = tones(1, 1000, 16000, level=3.0)
    sound = decode_sound(write_sound(tmp_path / "loud.wav", waveform, 16000, "pcm_f32le"))
    assert sound.waveform.max() == pytest.approx(3.0, abs=0.01)


def test_silence_and_ten_milliseconds_are_sounds(tmp_path):
    path = write_sound(tmp_path / "short.wav", np.zeros((1, 80), np.float32), 8000, "pcm_s16le")
    sound = decode_sound(path)
    assert (sound.sample_count, sound.duration) == (80, 0.01)
    assert not sound.waveform.any()


def test_a_file_without_samples(tmp_path):
    path = write_sound(tmp_path / "empty.wav", np.zeros((1, 0), np.float32), 16000, "pcm_s16le")
    with pytest.raises(ValueError, match="0 samples"):
        decode_sound(path)


def test_nan_samples_are_counted_and_placed(tmp_path):
    waveform = tones(2, 4000, 16000)
    waveform[1, 1600:1603] = np.nan
    waveform[0, 2000] = np.inf
    path = write_sound(tmp_path / "nan.wav", waveform, 16000, "pcm_f32le")
    with pytest.raises(
        ValueError, match=r"nan.wav: .* 4 NaN or infinite .* 0\.1000 s \(channel 1, sample 1600\)"
    ):
        decode_sound(path)


def test_not_a_sound(tmp_path):
    text = tmp_path / "words.wav"
    text.write_text("these are words, not samples\n" * 50)
    with pytest.raises(ValueError, match="not a sound or video file"):
        decode_sound(text)
    notes = tmp_path / "notes.txt"
    notes.write_text("these are words, not samples\n" * 50)
    with pytest.raises(ValueError, match="is a text file"):
        decode_sound(notes)
    empty = tmp_path / "empty.mp3"
    empty.write_bytes(b"")
    with pytest.raises(ValueError, match="empty file"):
        decode_sound(empty)


def test_a_video_without_sound(tmp_path):
    write_video(tmp_path / "mute.mp4", [np.zeros((32, 32, 3), np.uint8)] * 3, 25)
    with pytest.raises(ValueError, match="has no sound: its streams are video"):
        decode_sound(tmp_path / "mute.mp4")


def test_paths_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.wav"):
        decode_sound(tmp_path / "missing.wav")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        decode_sound(tmp_path)


def test_a_cut_off_flac_keeps_what_is_whole(tmp_path):
    path = write_sound(tmp_path / "whole.flac", tones(1, 96000, 16000), 16000, "flac")
    cut = tmp_path / "cut.flac"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    sound = decode_sound(cut)
    assert 10_000 < sound.sample_count < 60_000
    assert np.abs(sound.waveform[0] - tones(1, 96000, 16000)[0, : sound.sample_count]).max() < 1e-3


def test_real_speech_files(shared_data):
    durations = {"english_man_11s.flac": 11.0, "silence_4s.wav": 4.0, "long_mixed_64s.mp3": 64.5}
    for name, seconds in durations.items():
        assert decode_sound(shared_data / "speech" / name).duration == pytest.approx(seconds, abs=0.1)


class TestComfyAudio:
    def test_there_and_back(self):
        sound = Sound(tones(2, 400, 16000), 16000)
        audio = sound_to_comfy(sound)
        assert tuple(audio["waveform"].shape) == (1, 2, 400)
        assert audio["sample_rate"] == 16000
        np.testing.assert_array_equal(sound_from_comfy(audio).waveform, sound.waveform)

    def test_the_wire_value_is_not_shared(self):
        import torch

        audio = {"waveform": torch.zeros(1, 1, 10), "sample_rate": 16000}
        sound = sound_from_comfy(audio)
        audio["waveform"] += 1
        assert not sound.waveform.any()
        back = sound_to_comfy(sound)
        back["waveform"] += 1
        assert not sound.waveform.any()

    def test_half_precision(self):
        import torch

        audio = {"waveform": torch.full((1, 1, 10), 0.5, dtype=torch.bfloat16), "sample_rate": 16000}
        assert sound_from_comfy(audio).waveform.dtype == np.float32

    def test_a_batch_needs_an_index(self):
        import torch

        audio = {"waveform": torch.arange(3.0)[:, None, None].expand(3, 1, 10), "sample_rate": 16000}
        with pytest.raises(ValueError, match="holds 3 sounds: choose one by its index, 0 to 2"):
            sound_from_comfy(audio)
        assert sound_from_comfy(audio, 2).waveform.max() == 2
        with pytest.raises(ValueError, match="sound 3 was asked for"):
            sound_from_comfy(audio, 3)

    @pytest.mark.parametrize(
        ("audio", "message"),
        [
            ("a path", "got str"),
            ({"samples": 1}, r"got keys \['samples'\]"),
            ({"waveform": np.zeros((1, 10)), "sample_rate": 16000}, r"shape \(1, 10\)"),
            ({"waveform": np.zeros((1, 1, 0)), "sample_rate": 16000}, "0 samples"),
            ({"waveform": np.zeros((1, 1, 10)), "sample_rate": 0}, "sample rate is 0"),
            ({"waveform": np.full((1, 1, 10), np.nan), "sample_rate": 16000}, "10 NaN"),
        ],
    )
    def test_other_values_are_refused(self, audio, message):
        with pytest.raises(ValueError, match=message):
            sound_from_comfy(audio)


class TestResampling:
    @pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 96000])
    def test_a_tone_keeps_pitch_level_and_length(self, rate):
        sound = resample(Sound(tones(1, 48000, 48000), 48000), rate)
        assert (sound.sample_rate, sound.sample_count) == (rate, rate)
        expected = tones(1, rate, rate)
        inner = slice(rate // 10, -rate // 10)
        assert np.abs(sound.waveform[0, inner] - expected[0, inner]).max() < 1e-3

    def test_what_a_lower_rate_cannot_carry_is_removed_and_not_folded_back(self):
        time = np.arange(48000) / 48000
        high = Sound(np.sin(2 * np.pi * 7000 * time)[None], 48000)
        assert np.abs(resample(high, 8000).waveform[0, 400:-400]).max() < 1e-3

    def test_very_short_sounds(self):
        assert resample(Sound(np.ones((1, 1)), 96000), 8000).sample_count == 1
        assert resample(Sound(np.ones((1, 80)), 8000), 16000).sample_count == 160

    def test_eight_channels_become_their_mean(self):
        waveform = tones(8, 100, 96000)
        mono = to_mono(Sound(waveform, 96000))
        np.testing.assert_allclose(mono.waveform[0], waveform.mean(axis=0), atol=1e-6)

    @pytest.mark.parametrize("rate", [0, -1, 16000.5])
    def test_a_bad_rate_is_refused(self, rate):
        with pytest.raises(ValueError, match="sample rate"):
            resample(Sound(np.ones((1, 10)), 8000), rate)
