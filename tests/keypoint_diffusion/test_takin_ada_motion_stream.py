"""Sound in pieces, motion out: Takin-ADA's stream gives what the whole clip gives, and never changes its mind."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.audio.frame_clock import frame_count
from talking_portrait.core_models.audio.listening_windows import (
    FeatureStream,
    ListeningWindows,
    features_in_blocks,
)
from talking_portrait.core_models.audio.mel import FLOOR_DB, mel_decibels, scale_decibels
from talking_portrait.core_models.audio.mel_stream import RunningLevel, raised_decibels
from talking_portrait.core_models.keypoint_diffusion.motion_stream import stream_motion
from talking_portrait.core_models.keypoint_diffusion.takin_ada_motion_stream import (
    HubertEar,
    face_stream,
    keypoint_stream,
)
from talking_portrait.core_models.keypoint_diffusion.takin_ada_performance import (
    TakinADAOptions,
    speaking_face,
    speaking_keypoints,
)
from talking_portrait.core_models.types import AudioEmbedding, Emotion

from .takin_ada_models import (
    LAYERS,
    SMALL,
    SMALL_KEYPOINTS,
    SMALL_LISTENING,
    SMALL_STREAMING,
    SPEECH_WIDTH,
    takin_ada,
)

HAPPY = Emotion.mixed({"happy": 0.8})
STILL = {"blinks_per_minute": 0.0, "gaze": False}


def options(**changes) -> TakinADAOptions:
    return TakinADAOptions.of({"steps": 3, "seed": 2, **STILL, **changes})


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise whose loudness swells, so that the level has something to follow."""
    rng = np.random.default_rng(seed)
    count = round(seconds * 16000)
    swell = 0.5 + 0.5 * np.sin(np.arange(count) / 3000)
    return (0.2 * swell * rng.standard_normal(count)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return takin_ada(SMALL_LISTENING)


@pytest.fixture(scope="module")
def whole(model):
    return stream_motion(face_stream(model, HAPPY, options()), sound(2.0), 32000)


def heard_at_running_level(model, waveform: np.ndarray) -> AudioEmbedding:
    """What the stream hears, as features of the whole clip: each group of columns at the level known by then."""
    frames = frame_count(len(waveform) / 16000, 25)
    padded = np.pad(waveform, (0, frames * 640 - len(waveform)))
    columns, level, group = mel_decibels(padded), RunningLevel(), 2 * model.parameters_used.listening.block
    rows = []
    whole_groups = (len(waveform) - 120) // 160 // group * group  # the rest comes when the sound has ended
    for first in [*range(0, whole_groups, group), whole_groups]:
        part = columns[first : first + group] if first < whole_groups else columns[first:]
        if len(part):
            level.hear(part)
            rows.append(scale_decibels(raised_decibels(part, level.gain)))
    mel = torch.from_numpy(np.concatenate(rows))[:, None]
    return AudioEmbedding(mel, 100.0, len(waveform) / 16000, "log_mel")


class TestWholeClip:
    @given(st.lists(st.integers(0, 9000), min_size=1, max_size=12))
    @settings(max_examples=12, deadline=None)
    def test_how_the_sound_is_cut_makes_no_difference(self, model, whole, sizes):
        waveform, stream, pieces, start = sound(2.0), face_stream(model, HAPPY, options()), [], 0
        for size in [*sizes, len(waveform)]:
            pieces.append(stream.push(waveform[start : start + size]))
            start += size
        pieces.append(stream.finish())
        pieces = [piece for piece in pieces if piece is not None]
        for name in ("expression", "rotation", "translation"):
            made = np.concatenate([getattr(piece, name) for piece in pieces])
            np.testing.assert_allclose(made, getattr(whole, name), atol=1e-5)

    @pytest.mark.parametrize("seconds", [0.5, 2.0, 3.01])
    def test_it_is_the_clip_heard_at_the_same_level(self, model, seconds):
        waveform = sound(seconds)
        streamed = stream_motion(face_stream(model, HAPPY, options()), waveform, 700)
        heard = heard_at_running_level(model, waveform)
        made = speaking_face(model, heard, HAPPY, options())[0]
        assert streamed.frame_count == made.frame_count == frame_count(seconds, 25)
        np.testing.assert_allclose(streamed.expression, made.expression, atol=1e-4)
        np.testing.assert_allclose(streamed.rotation, made.rotation, atol=1e-3)

    def test_the_emotion_that_is_heard_is_taken_where_none_is_given(self, model):
        waveform = sound(1.0)
        streamed = stream_motion(face_stream(model, None, options()), waveform, 640)
        made = speaking_face(model, heard_at_running_level(model, waveform), None, options())[0]
        np.testing.assert_allclose(streamed.expression, made.expression, atol=1e-4)


class TestTime:
    def test_no_frame_waits_longer_than_it_says(self, model):
        stream, waveform, given_frames = face_stream(model, HAPPY, options()), sound(3.0), 0
        for frame in range(75):
            piece = stream.push(waveform[640 * frame : 640 * (frame + 1)])
            given_frames += 0 if piece is None else piece.frame_count
            assert given_frames >= frame + 1 - stream.frames_ahead - 1  # the mel's window needs 7.5 ms more
        assert given_frames < 75
        last = stream.finish()
        assert given_frames + last.frame_count == 75

    def test_a_frame_does_not_depend_on_what_comes_later_than_that(self, model):
        stream = face_stream(model, HAPPY, options())
        first, other = sound(2.0), sound(2.0)
        other[24000:] = sound(2.0, seed=9)[24000:]
        same = 24000 // 640 - stream.frames_ahead - 1
        tracks = [stream_motion(face_stream(model, HAPPY, options()), one, 640) for one in (first, other)]
        np.testing.assert_array_equal(tracks[0].expression[:same], tracks[1].expression[:same])
        assert np.abs(tracks[0].expression - tracks[1].expression).max() > 1e-3

    def test_what_is_kept_does_not_grow(self, model):
        stream, sizes = face_stream(model, HAPPY, options()), []
        for second in range(12):
            stream.push(sound(1.0, second))
            sizes.append((len(stream._vectors), stream._scores._hidden.shape[2]))
        assert len(set(sizes[4:])) <= 5  # blocks and seconds do not divide
        assert max(size[0] for size in sizes) <= 30
        assert max(size[1] for size in sizes) <= 80

    def test_eyes_live_and_blink_the_same_however_it_is_cut(self, model):
        lively = TakinADAOptions.of({"steps": 2, "seed": 2, "blinks_per_minute": 30.0})
        tracks = [
            stream_motion(face_stream(model, HAPPY, lively), sound(5.0), chunk) for chunk in (640, 7001)
        ]
        assert tracks[0].blendshape("eyeBlinkLeft").max() > 0.8
        np.testing.assert_allclose(tracks[0].expression, tracks[1].expression, atol=1e-4)


class TestKeypoints:
    def test_a_portraits_keypoints_stream_as_the_clip_has_them(self, source_reading):
        sizes = replace(SMALL_LISTENING, layout=SMALL_KEYPOINTS.layout, source_size=63, closes_lips=False)
        model, waveform = takin_ada(sizes), sound(1.5)
        streamed = stream_motion(keypoint_stream(model, source_reading, HAPPY, options()), waveform, 900)
        made = speaking_keypoints(
            model, source_reading, heard_at_running_level(model, waveform), HAPPY, options()
        )[0]
        np.testing.assert_allclose(streamed.expression, made.expression, atol=1e-5)


class TestHubert:
    def test_an_ear_of_windows_stands_where_hubert_does(self):
        model = takin_ada(SMALL_STREAMING)
        p = model.parameters_used

        def encode(waveform: np.ndarray) -> torch.Tensor:
            steps = torch.from_numpy(waveform[: len(waveform) // 320 * 320]).reshape(-1, 320)
            row = steps[:, : p.layers * p.speech_width].reshape(-1, p.layers, p.speech_width)
            return row.float()

        windows, waveform = ListeningWindows(10, 20, 4), sound(1.96)  # ends within a block
        heard = features_in_blocks(encode, waveform, windows, total_frames=49)
        embedding = AudioEmbedding(heard, 50.0, 1.96, "hubert")
        made = speaking_face(model, embedding, HAPPY, options())[0]
        for chunk in (640, 5000):
            ear = HubertEar(FeatureStream(encode, windows), windows.block_steps + 3, model.motion_mean)
            streamed = stream_motion(face_stream(model, HAPPY, options(), ear), waveform, chunk)
            assert streamed.frame_count == made.frame_count == 49
            np.testing.assert_allclose(streamed.expression, made.expression, atol=1e-5)

    def test_the_ear_gives_as_many_steps_as_are_asked_for(self):
        def encode(waveform: np.ndarray) -> torch.Tensor:
            return torch.ones(len(waveform) // 320, LAYERS, SPEECH_WIDTH)

        for seconds in (0.0, 0.5, 1.96):
            ear = HubertEar(FeatureStream(encode, ListeningWindows(10, 20, 4)), 13, torch.zeros(1))
            frames, parts = frame_count(seconds, 25), [ear.push(sound(seconds))]
            parts.append(ear.finish(2 * frames))
            assert sum(0 if part is None else part.shape[2] for part in parts) == 2 * frames

    def test_a_model_that_hears_hubert_needs_an_ear(self):
        with pytest.raises(ValueError, match="give the stream an ear"):
            face_stream(takin_ada(SMALL_STREAMING))


class TestRefused:
    def test_a_model_that_hears_whole_clips(self):
        with pytest.raises(ValueError, match="look_ahead 0, a look_back and causal_convolution"):
            face_stream(takin_ada(replace(SMALL_LISTENING, generator=SMALL.generator)))

    def test_keypoints_where_blendshapes_are_made_and_the_other_way(self, source_reading, model):
        sizes = replace(SMALL_LISTENING, layout=SMALL_KEYPOINTS.layout, source_size=63, closes_lips=False)
        with pytest.raises(ValueError, match="use `keypoint_stream`"):
            face_stream(takin_ada(sizes))
        with pytest.raises(ValueError, match="use `face_stream`"):
            keypoint_stream(model, source_reading)

    def test_several_variations_and_other_rates(self, model):
        with pytest.raises(ValueError, match="one variation, but 3"):
            face_stream(model, None, options(variations=3))
        with pytest.raises(ValueError, match="has 25 fps, not 30"):
            face_stream(model, None, options(fps=30.0))

    def test_sound_after_the_end(self, model):
        stream = face_stream(model, HAPPY, options())
        stream.push(sound(0.2))
        stream.finish()
        for late in (lambda: stream.push(sound(0.1)), stream.finish):
            with pytest.raises(ValueError, match="the stream is finished"):
                late()

    def test_sound_with_holes(self, model):
        with pytest.raises(ValueError, match="NaN or infinite"):
            face_stream(model).push(np.array([0.0, np.nan], np.float32))


def test_silence_alone_is_a_clip_too(model):
    stream = face_stream(model, HAPPY, options())
    assert stream.push(np.zeros(0, np.float32)) is None
    assert stream.finish().frame_count == 1


def test_the_floor_is_what_silence_is():
    """The listener's filling stands for columns at the floor."""
    silent = scale_decibels(mel_decibels(np.zeros(1600, np.float32)))
    np.testing.assert_allclose(silent, scale_decibels(FLOOR_DB), atol=1e-6)
