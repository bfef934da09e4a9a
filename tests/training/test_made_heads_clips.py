"""Clips of made heads: sound, motion, landmarks and pictures that say the same."""

import numpy as np
import pytest
from talking_portrait.core_models.motion.emotion_expression import emotion_of_expression
from talking_portrait.core_models.motion.region_names import LIP_PARTING
from talking_portrait.core_models.motion.track import mouth_aperture
from talking_portrait.core_models.types import (
    BLENDSHAPE_INDEX,
    BLENDSHAPES,
    EMOTION_NAMES,
    Emotion,
    FaceMotion,
)
from talking_portrait.training import speech_synthesis
from talking_portrait.training.made_heads.clip import (
    HELD_OUT_IDENTITIES,
    REGIONS,
    TRAINING_IDENTITIES,
    MadeClip,
    made_clip,
    made_clips,
    region_masks,
)
from talking_portrait.training.made_heads.identity import made_identity
from talking_portrait.training.made_heads.performance import (
    MadePerformance,
    made_performances,
    silent_performance,
    spoken_performance,
    wandering_performance,
)
from talking_portrait.training.speech_synthesis import SynthesiserMissingError, Utterance
from talking_portrait.training.visemes import Phone

INNER_LIPS = ((82, 87), (13, 14), (312, 317))
EYELIDS = ((159, 145), (386, 374))


def gap(landmarks: np.ndarray, pairs) -> np.ndarray:
    return np.mean([landmarks[:, low, 1] - landmarks[:, high, 1] for high, low in pairs], axis=0)


@pytest.fixture(scope="module")
def clip() -> MadeClip:
    """Three seconds of movements at random at 96 pixels."""
    return made_clip(made_identity(3), wandering_performance(75, seed=2), 96)


@pytest.fixture(scope="module")
def spoken() -> MadePerformance:
    """A hand-written "apama", with no synthesiser."""
    phones, start = [], 0.0
    for symbol, length in (
        ("sil", 0.2),
        ("a", 0.3),
        ("PP", 0.12),
        ("a", 0.3),
        ("PP", 0.12),
        ("a", 0.3),
        ("sil", 0.3),
    ):
        phones.append(Phone(symbol, start, start + length, symbol == "PP"))
        start += length
    times = np.arange(round(start * 16000)) / 16000
    voiced = np.isin(np.searchsorted([p.end for p in phones], times), [1, 3, 5])
    utterance = Utterance((0.3 * voiced * np.sin(900 * times)).astype(np.float32), tuple(phones), "hand")
    rng = np.random.default_rng(0)
    return spoken_performance(utterance, 40, Emotion.mixed({"disgusted": 1.0}), rng)


def test_everything_in_a_clip_is_equally_long(clip):
    assert clip.frames.shape == (75, 96, 96, 3)
    assert clip.landmarks.shape == (75, 478, 3)
    assert clip.motion.frame_count == 75
    assert clip.motion.fps == 25
    assert clip.sound.sample_rate == 16000
    assert clip.sound.waveform.shape == (1, 75 * 640)
    assert clip.identity_seed == 3
    assert clip.size == 96


def test_lips_open_as_the_motion_says(clip):
    opening = mouth_aperture(clip.motion.expression)
    parting = [BLENDSHAPE_INDEX[name] for name in LIP_PARTING]
    opening = opening + 0.125 * clip.motion.expression[:, parting].sum(axis=1)
    assert np.corrcoef(gap(clip.landmarks, INNER_LIPS), opening)[0, 1] > 0.8


def test_lips_meet_where_mouth_close_says(clip):
    jaw, close = clip.motion.blendshape("jawOpen"), clip.motion.blendshape("mouthClose")
    sealed = (close > 0.12) & (close >= jaw)
    assert sealed.any()
    assert np.abs(gap(clip.landmarks, INNER_LIPS)[sealed]).max() < 0.25


def test_open_mouths_are_drawn_dark_between_the_lips(clip):
    opening = gap(clip.landmarks, INNER_LIPS)
    widest, shut = int(opening.argmax()), int(opening.argmin())
    middles = [(clip.landmarks[frame, 13] + clip.landmarks[frame, 14]) / 2 for frame in (widest, shut)]
    dark, _ = (
        clip.frames[frame][round(float(y)), round(float(x))].mean()
        for frame, (x, y, _) in zip((widest, shut), middles, strict=True)
    )
    x, y = np.rint(clip.landmarks[widest, 17, :2]).astype(int)
    assert opening[widest] > 3
    assert dark < 0.8 * clip.frames[widest][y, x].mean()


def test_lids_follow_blinks(clip):
    blink = clip.motion.blendshape("eyeBlinkLeft")
    opening = gap(clip.landmarks, EYELIDS)
    assert blink.max() > 0.9
    assert opening[blink > 0.9].max() < 0.5 * np.median(opening[blink < 0.05])
    assert np.corrcoef(opening, blink)[0, 1] < -0.6


def test_the_mouth_mask_holds_the_inner_lips(clip):
    mask = clip.region("mouth")
    assert mask.shape == clip.frames.shape[:3]
    assert mask.dtype == np.float32
    for frame, points in zip(mask, clip.landmarks, strict=True):
        x, y = np.rint(points[[82, 13, 312, 87, 14, 317], :2]).astype(int).T
        assert (frame[y, x] > 0.4).all()


def test_regions_lie_within_the_face(clip):
    face, mouth, eyes = (
        region_masks(name, clip.landmarks[::20], clip.size) for name in ("face", "mouth", "eyes")
    )
    assert (mouth <= face + 1e-6).all()
    assert (eyes <= face + 1e-6).all()
    assert (mouth * eyes).max() == 0
    assert 0.15 < face.mean() < 0.35


def test_an_unknown_region_is_refused(clip):
    with pytest.raises(ValueError, match=f"unknown region 'nose'; choose one of {', '.join(REGIONS)}"):
        clip.region("nose")


def test_a_turned_head_moves_the_landmarks():
    motion = FaceMotion(
        BLENDSHAPES, 25, np.zeros((2, 52)), [[0, 0, 0], [0, 10, 0]], np.zeros((2, 3)), np.ones(2)
    )
    still = silent_performance(2, seed=1, emotion=Emotion.mixed({"neutral": 1.0}))
    clip = made_clip(made_identity(3), MadePerformance(still.sound, motion, still.emotion), 128)
    moved = clip.landmarks[1] - clip.landmarks[0]
    assert moved[1, 0] > 3  # the nose, towards the picture's right
    assert moved[1, 0] > moved[[234, 454], 0].max()
    changed = np.abs(clip.frames[1].astype(int) - clip.frames[0]).max(axis=2) > 20
    assert changed.mean() > 0.02


@pytest.mark.parametrize("name", EMOTION_NAMES)
def test_a_silent_face_shows_its_emotion(name):
    performance = silent_performance(50, seed=4, emotion=Emotion.mixed({name: 1.0}))
    read = emotion_of_expression(performance.motion.expression)
    assert EMOTION_NAMES[int((read.weights[0] * read.strengths[0]).argmax())] == name or (
        name == "neutral" and read.strengths[0] < 0.3
    )
    assert not performance.sound.waveform.any()


def test_spoken_lips_meet_on_p_in_any_emotion(spoken):
    clip = made_clip(made_identity(7), spoken, 96)
    opening = gap(clip.landmarks, INNER_LIPS)
    for closure in (0.56, 0.98):
        assert opening[round(closure * 25) - 1 : round(closure * 25) + 2].min() < 0.3
    assert opening.max() > 2
    assert spoken.sound.sample_count == 40 * 640


def test_babble_is_louder_where_the_mouth_is_open():
    performance = wandering_performance(200, seed=6)
    level = np.sqrt((performance.sound.waveform.reshape(200, 640) ** 2).mean(axis=1))
    opening = mouth_aperture(performance.motion.expression)
    assert np.corrcoef(level, opening)[0, 1] > 0.5
    assert level[opening == 0].mean() < 0.25 * level[opening > 0.2].mean()


def test_wandering_reaches_most_of_what_a_face_can_do():
    expression = np.concatenate([wandering_performance(100, seed).motion.expression for seed in range(6)])
    assert (expression.max(axis=0) > 0.2).sum() > 35
    rotation = np.concatenate([wandering_performance(100, seed).motion.rotation for seed in range(6)])
    assert (rotation.std(axis=0) > 3).all()


def test_the_same_seed_gives_the_same_clips():
    arguments = {"seed": 3, "identities": range(4), "clips": 2, "size": 64, "seconds": 0.2, "speaking": False}
    first, again = list(made_clips(**arguments)), list(made_clips(**arguments))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.frames, other.frames)
        np.testing.assert_array_equal(one.sound.waveform, other.sound.waveform)
    other_seed = next(made_clips(**{**arguments, "seed": 4}))
    assert not np.array_equal(other_seed.motion.expression, first[0].motion.expression)


def test_people_take_turns_and_held_out_ones_are_never_seen():
    seen = [clip.identity_seed for clip in made_clips(1, range(5, 8), 6, 64, 0.04, speaking=False)]
    assert sorted(seen[:3]) == sorted(seen[3:]) == [5, 6, 7]
    assert not set(TRAINING_IDENTITIES) & set(HELD_OUT_IDENTITIES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identities": []}, "identities is empty"),
        ({"size": 300}, "size is 300 px"),
        ({"seconds": 0.0}, "seconds is 0.0, expected at least 0.04"),
        ({"seconds": float("nan")}, "seconds is nan"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"seed": 0, "identities": range(2), "clips": 1, "size": 64, "seconds": 0.1, "speaking": False}
    with pytest.raises(ValueError, match=message):
        list(made_clips(**{**arguments, **change}))


def test_a_performance_whose_sound_is_too_short_is_refused():
    performance = silent_performance(4, seed=0)
    with pytest.raises(ValueError, match="2560 samples, but 5 frames last 3200"):
        MadePerformance(performance.sound, FaceMotion.at_rest(5, 25), performance.emotion)


def test_no_frames_are_refused():
    with pytest.raises(ValueError, match="frames is 0"):
        wandering_performance(0, seed=0)


def test_without_a_synthesiser_speech_says_so(monkeypatch):
    def missing(path):
        raise OSError(path)

    monkeypatch.setattr(speech_synthesis.ctypes, "CDLL", missing)
    with pytest.raises(SynthesiserMissingError, match="espeak-ng"):
        next(made_performances(1, 0, 1.0))


def test_spoken_performances_are_exactly_as_long_as_asked():
    try:
        first, second = made_performances(2, seed=8, seconds=1.4)
    except SynthesiserMissingError:
        pytest.skip("espeak-ng is not installed")
    assert first.motion.frame_count == 35
    assert first.sound.sample_count == 35 * 640
    assert not np.array_equal(first.motion.expression, second.motion.expression)
    assert max(mouth_aperture(one.motion.expression).max() for one in (first, second)) > 0.1
