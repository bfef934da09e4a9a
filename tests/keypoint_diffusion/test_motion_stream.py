"""The pocket model as a stream: nothing depends on how sound is cut, nothing given changes, nothing piles up."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.audio.decode import decode_sound
from talking_portrait.core_models.audio.embedding import embed_audio
from talking_portrait.core_models.audio.frame_clock import frame_count
from talking_portrait.core_models.audio.mel import level_gain, mel_decibels
from talking_portrait.core_models.audio.mel_stream import MelStream, RunningLevel
from talking_portrait.core_models.audio.resample import resample, to_mono
from talking_portrait.core_models.keypoint_diffusion.loading import load_pocket
from talking_portrait.core_models.keypoint_diffusion.motion_stream import (
    PocketStream,
    PocketStreamParameters,
    joined_motion,
    stream_motion,
)
from talking_portrait.core_models.keypoint_diffusion.sampler import SamplingParameters, sample_motion
from talking_portrait.core_models.motion.eye_life_stream import BlinkStream, EyeLifeStream, GazeStream
from talking_portrait.core_models.types import Emotion, FaceMotion

FAST = PocketStreamParameters(SamplingParameters(steps=1))
STILL_EYES = SamplingParameters(blinks_per_minute=0, gaze=False)
TRACKS = ("expression", "rotation", "translation")


@pytest.fixture(scope="module")
def model():
    return load_pocket()


@pytest.fixture(scope="module")
def speech(request):
    sound = decode_sound(request.config.rootpath / "workflows/assets/demo_speech.wav")
    return resample(to_mono(sound), 16000)


@pytest.fixture(scope="module")
def streamed(model, speech):
    stream = PocketStream(model, None, PocketStreamParameters(STILL_EYES))
    return stream_motion(stream, speech.waveform[0], 4000)


@pytest.fixture(scope="module")
def whole(model, speech):
    return sample_motion(model, embed_audio(speech), None, STILL_EYES)


def gap(motion):
    return motion.blendshape("jawOpen") - motion.blendshape("mouthClose")


def closures(motion):
    return np.flatnonzero((gap(motion) < 0.02) & (motion.blendshape("mouthPressLeft") >= 0.35))


def equal(first, second):
    return all((getattr(first, name) == getattr(second, name)).all() for name in TRACKS)


@settings(max_examples=5, deadline=None)
@given(cuts=st.lists(st.integers(0, 24000), max_size=6))
def test_how_sound_is_cut_makes_no_difference(model, speech, cuts):
    sound = speech.waveform[0][:24000]
    at_once = stream_motion(PocketStream(model, None, FAST), sound, 24000)
    stream = PocketStream(model, None, FAST)
    borders = [0, *sorted(cuts), len(sound)]
    pieces = [stream.push(sound[a:b]) for a, b in itertools.pairwise(borders)]
    pieces.append(stream.finish())
    assert equal(joined_motion([piece for piece in pieces if piece is not None]), at_once)


def test_frames_already_given_never_depend_on_what_comes(model, speech):
    sound = speech.waveform[0]
    first = PocketStream(model, None, FAST).push(sound[:32000])
    other = stream_motion(
        PocketStream(model, None, FAST), np.concatenate([sound[:32000], 0.5 * sound[::-1][:16000]]), 700
    )
    assert first.frame_count >= 50 - FAST.look_ahead - FAST.block
    for name in TRACKS:
        assert (getattr(first, name) == getattr(other, name)[: first.frame_count]).all()


@pytest.mark.parametrize("samples", [0, 1, 640, 641, 3200, 10880, 11000, 16001])
def test_length_follows_the_frame_clock(model, samples):
    made = stream_motion(PocketStream(model, None, FAST), np.zeros(samples, np.float32), 500)
    assert made.frame_count == frame_count(samples / 16000, 25)


def test_a_frame_waits_for_no_more_sound_than_promised(model):
    stream = PocketStream(model, None, FAST)
    assert stream.push(np.zeros((1 + stream.frames_ahead) * 640 + 119, np.float32)) is None
    assert stream.push(np.zeros(1, np.float32)).frame_count == FAST.block


def test_the_mouth_agrees_with_the_whole_clip(streamed, whole):
    assert np.corrcoef(gap(streamed), gap(whole))[0, 1] >= 0.95
    distance = np.abs(closures(streamed)[:, None] - closures(whole))
    assert (distance.min(axis=0) <= 1).mean() >= 0.75
    assert (distance.min(axis=1) <= 1).mean() >= 0.7


def test_the_mouth_agrees_on_a_recording(model, shared_data):
    sound = resample(to_mono(decode_sound(shared_data / "speech" / "english_woman_5s.wav")), 16000)
    made = stream_motion(PocketStream(model, None, FAST), sound.waveform[0], 1600)
    clip = sample_motion(model, embed_audio(sound), None, SamplingParameters(steps=1))
    assert np.corrcoef(gap(made), gap(clip))[0, 1] >= 0.9


def test_the_head_has_no_seams(streamed):
    speed = np.linalg.norm(np.diff(streamed.rotation, axis=0), axis=1)
    border = (np.arange(1, streamed.frame_count) % 5) == 0
    assert speed[border].mean() < 1.3 * speed[~border].mean()
    jerk = np.linalg.norm(np.diff(streamed.rotation, 2, axis=0), axis=1)
    assert np.percentile(jerk, 99) < 0.3  # degrees
    assert streamed.rotation.std(axis=0).max() > 0.5


def test_silence_keeps_the_mouth_still(model):
    made = stream_motion(
        PocketStream(model, None, PocketStreamParameters(STILL_EYES)), np.zeros(64000, np.float32), 16000
    )
    assert gap(made).max() < 0.06


def test_seeds(model, speech):
    def made(seed):
        parameters = PocketStreamParameters(SamplingParameters(seed=seed, steps=1))
        return stream_motion(PocketStream(model, None, parameters), speech.waveform[0][:32000], 8000)

    assert equal(made(3), made(3))
    assert np.abs(made(3).rotation - made(4).rotation).max() > 0.1


def test_what_a_stream_keeps_does_not_grow(model):
    stream = PocketStream(model, None, FAST)
    noise = np.random.default_rng(0).normal(0, 0.05, 64000).astype(np.float32)

    def kept():
        ear, head = stream._ear, stream._head
        sizes = [ear.sound._samples, ear._mel, *ear._rows.parts, head._given, head._plan, head._noise]
        return [tuple(values.shape) for values in sizes], len(stream._eyes._blinks._coming) < 4

    stream.push(noise)
    early = kept()
    for _ in range(4):
        stream.push(noise)
    assert kept() == early


def test_bad_inputs(model):
    with pytest.raises(ValueError, match="fearful"):
        PocketStream(model, Emotion.mixed({"fearful": 1.0}))
    for bad in ({"block": 0}, {"look_ahead": 3}, {"look_ahead": 26}, {"block": 8}):
        with pytest.raises(ValueError, match="expected"):
            PocketStreamParameters(**bad)
    with pytest.raises(ValueError, match="one variation"):
        PocketStreamParameters(SamplingParameters(variations=2))
    with pytest.raises(ValueError, match="fps"):
        PocketStreamParameters(SamplingParameters(fps=30))
    stream = PocketStream(model, None, FAST)
    with pytest.raises(ValueError, match="mono"):
        stream.push(np.zeros((2, 100), np.float32))
    with pytest.raises(ValueError, match="NaN"):
        stream.push(np.array([np.nan], np.float32))
    stream.finish()
    with pytest.raises(ValueError, match="finished"):
        stream.push(np.zeros(1, np.float32))
    with pytest.raises(ValueError, match="finished"):
        stream.finish()
    with pytest.raises(ValueError, match="chunk"):
        stream_motion(PocketStream(model, None, FAST), np.zeros(9, np.float32), 0)


def test_mel_columns_are_those_of_the_whole_clip(speech):
    sound = speech.waveform[0][:16000]
    stream = MelStream()
    stream.push(sound[:7000])
    first = stream.take(40)
    stream.push(sound[7000:])
    assert np.array_equal(np.concatenate([first, stream.take(100)]), mel_decibels(sound))


def test_the_level_comes_to_that_of_the_clip_and_pauses_leave_it(speech):
    mel = mel_decibels(speech.waveform[0])
    for shift in (0, -25):
        level = RunningLevel()
        for _ in range(20):
            level.hear(mel + shift)
        assert level.gain == pytest.approx(level_gain(mel + shift), abs=1.5)
        before = level.gain
        level.hear(np.full((6000, 80), -100.0))
        assert level.gain == pytest.approx(before)


def test_blinks_and_gaze_do_not_depend_on_pieces_and_keep_their_rate():
    def taken(kind, sizes, *more):
        stream = kind(25.0, np.random.default_rng(1), *more)
        return np.concatenate([stream.take(size) for size in sizes])

    for kind, more in ((BlinkStream, (15,)), (GazeStream, ())):
        assert np.allclose(taken(kind, [3000], *more), taken(kind, [1] * 1000 + [7] * 285 + [5], *more))
    closed = taken(BlinkStream, [25 * 600], 15) == 1
    assert 120 <= closed.sum() <= 180
    assert (taken(BlinkStream, [100], 0) == 0).all()
    assert np.abs(taken(GazeStream, [5000])).max() <= 0.5
    with pytest.raises(ValueError, match="per_minute"):
        BlinkStream(25.0, np.random.default_rng(0), 99)


def test_eye_life_moves_only_the_eyes():
    still = FaceMotion.at_rest(250, 25.0)
    made = EyeLifeStream(25.0, 0, 15, True).added_to(still)
    changed = np.flatnonzero((made.expression != 0).any(axis=0))
    assert changed.min() >= 5
    assert changed.max() <= 21
    assert made.blendshape("eyeBlinkLeft").max() == 1
