"""The embedded model as a user meets it: lips that close on p, b, m, silence that stays still, lengths that agree."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.audio.decode import Sound, decode_sound
from talking_portrait.core_models.audio.embedding import ENCODER_NAMES, embed_audio
from talking_portrait.core_models.audio.frame_clock import frame_count
from talking_portrait.core_models.keypoint_diffusion.loading import load_pocket
from talking_portrait.core_models.keypoint_diffusion.pocket import (
    POCKET_EMOTIONS,
    PocketModel,
    PocketParameters,
)
from talking_portrait.core_models.keypoint_diffusion.sampler import (
    OVERLAP_FRAMES,
    SamplingParameters,
    close_lips,
    encode_in_chunks,
    frame_aligned_mel,
    lip_opening,
    sample_motion,
)
from talking_portrait.core_models.keypoint_diffusion.windows import fade_in
from talking_portrait.core_models.types import BLENDSHAPE_INDEX, AudioEmbedding, Emotion

ROOT_OF_DEMO = "workflows/assets/demo_speech.wav"
STILL_EYES = SamplingParameters(blinks_per_minute=0, gaze=False)
MOUTH = [index for name, index in BLENDSHAPE_INDEX.items() if name.startswith(("mouth", "jaw"))]
TONGUE_AND_LIPS = ("jawOpen", "mouthClose")


@pytest.fixture(scope="module")
def model():
    return load_pocket()


@pytest.fixture(scope="module")
def speech(request):
    return decode_sound(request.config.rootpath / ROOT_OF_DEMO)


@pytest.fixture(scope="module")
def motion(model, speech):
    return sample_motion(model, embed_audio(speech), None, STILL_EYES)


def silence(seconds: float) -> Sound:
    return Sound(np.zeros((1, round(seconds * 16000)), np.float32), 16000)


def pink_noise(seconds: float, seed: int) -> Sound:
    count = round(seconds * 16000)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(count))
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), count)
    return Sound((0.1 * noise / noise.std())[None].astype(np.float32), 16000)


def gap(motion) -> np.ndarray:
    return motion.blendshape("jawOpen") - motion.blendshape("mouthClose")


def test_the_mouth_opens_in_speech_and_rests_in_its_pauses(motion, speech):
    count = speech.sample_count // 640
    loud = np.abs(speech.waveform[0][: count * 640].reshape(count, 640)).max(axis=1)
    assert gap(motion)[:count][loud > 0.2].mean() > 0.12
    assert gap(motion)[:4].max() < 0.05  # the clip begins with a quarter of a second of silence


def test_lips_meet_on_the_bilabials_of_the_demo(motion):
    closed = gap(motion) < 0.06
    starts = np.flatnonzero(closed[1:] & ~closed[:-1])
    assert len(starts) >= 5  # moment, photograph's pause, my, lips, move, ...


def test_silence_keeps_the_mouth_still(model):
    still = sample_motion(model, embed_audio(silence(4)), None, STILL_EYES)
    assert still.expression[:, MOUTH].mean() <= 0.005
    assert gap(still).max() < 0.06


@pytest.mark.parametrize("seed", [0, 1])
def test_noise_does_not_open_the_mouth(model, seed):
    made = sample_motion(model, embed_audio(pink_noise(4, seed)), None, STILL_EYES)
    assert (gap(made) >= 0.06).mean() <= 0.05


@pytest.mark.parametrize("fps", [12.5, 23.976, 25, 29.97, 30, 60])
def test_length_follows_the_frame_clock(model, speech, fps):
    made = sample_motion(model, embed_audio(speech), None, SamplingParameters(fps=fps))
    assert made.fps == fps
    assert made.frame_count == frame_count(speech.duration, fps)


@pytest.mark.parametrize("seconds", [0.01, 0.04, 0.05, 2.559, 2.561, 2.24, 2.9])
def test_any_length_works_around_the_window_borders(model, seconds):
    made = sample_motion(model, embed_audio(silence(seconds)))
    assert made.frame_count == frame_count(round(seconds * 16000) / 16000, 25)


def test_a_seed_repeats_itself_and_another_differs(model, speech):
    first, again, other = (
        sample_motion(model, embed_audio(speech), None, SamplingParameters(seed=seed)) for seed in (3, 3, 4)
    )
    assert (first.expression == again.expression).all()
    assert (first.rotation == again.rotation).all()
    assert np.abs(first.rotation - other.rotation).max() > 0.3
    jaw = BLENDSHAPE_INDEX["jawOpen"]
    assert (first.expression[:, jaw] == other.expression[:, jaw]).all()  # speech decides the mouth


def test_emotions_show_and_leave_the_words_alone(model, speech, motion):
    embedding = embed_audio(speech)
    signs = {
        "happy": "mouthSmileLeft",
        "sad": "browInnerUp",
        "angry": "browDownLeft",
        "disgusted": "noseSneerLeft",
    }
    signs["surprised"] = "browOuterUpLeft"
    for name, coefficient in signs.items():
        made = sample_motion(model, embedding, Emotion.mixed({name: 1.0}), STILL_EYES)
        assert made.blendshape(coefficient).mean() > motion.blendshape(coefficient).mean() + 0.2, name
        assert np.corrcoef(made.blendshape("jawOpen"), motion.blendshape("jawOpen"))[0, 1] >= 0.9


def test_strength_scales_an_emotion(model, speech):
    embedding = embed_audio(speech)
    smiles = [
        sample_motion(model, embedding, Emotion.mixed({"happy": 1.0}, strength), STILL_EYES)
        .blendshape("mouthSmileLeft")
        .mean()
        for strength in (0.0, 0.5, 1.0)
    ]
    assert smiles[0] < smiles[1] - 0.1 < smiles[2] - 0.2


def test_an_emotion_can_come_later(model, speech):
    late = Emotion(weights=np.eye(7)[[0, 1]], strengths=np.array([1.0, 1.0]), times=np.array([3.0, 4.0]))
    smile = sample_motion(model, embed_audio(speech), late, STILL_EYES).blendshape("mouthSmileLeft")
    assert smile[:75].mean() < 0.15 < 0.35 < smile[100:].mean()


def test_blinks_are_as_frequent_as_asked(model):
    embedding = embed_audio(silence(60))
    for asked, low, high in ((0, 0, 0), (14, 8, 20)):
        blink = sample_motion(model, embedding, None, SamplingParameters(blinks_per_minute=asked)).blendshape(
            "eyeBlinkLeft"
        )
        assert low <= ((blink[1:] > 0.5) & (blink[:-1] <= 0.5)).sum() <= high


def test_windows_do_not_show(model, speech):
    sound = Sound(np.tile(speech.waveform, (1, 3)), speech.sample_rate)
    ratios = []
    for seed in range(4):
        made = sample_motion(model, embed_audio(sound), None, dataclasses.replace(STILL_EYES, seed=seed))
        steps = np.abs(np.diff(made.rotation, axis=0))
        border = np.zeros(len(steps), bool)
        advance = model.parameters_used.denoiser.window - OVERLAP_FRAMES
        for start in range(advance, made.frame_count, advance):
            border[start - 1 : start + OVERLAP_FRAMES] = True
        ratios.append(steps[border].mean(axis=0) / steps[~border].mean(axis=0))
    assert (np.mean(ratios, axis=0) <= 1.5).all()


def test_chunked_encoding_equals_encoding_at_once(model):
    mel = torch.randn(1, 4 * 1200, 80, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(encode_in_chunks(model.encoder, mel, None), model.encoder(mel)[0], atol=1e-4)


def test_progress_is_told_and_can_cancel(model, speech):
    told = []
    sample_motion(model, embed_audio(speech), progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]

    class Cancelled(Exception):
        pass

    def cancel(done: int, total: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        sample_motion(model, embed_audio(speech), progress=cancel)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=20), st.floats(0, 1))
def test_closing_never_opens_the_lips(frames, threshold):
    expression = np.zeros((len(frames), 52), np.float32)
    expression[:, BLENDSHAPE_INDEX["jawOpen"]] = [jaw for jaw, _ in frames]
    closed = close_lips(expression, np.array([probability for _, probability in frames]), threshold)
    assert (lip_opening(closed) <= lip_opening(expression) + 1e-6).all()
    assert (closed[:, BLENDSHAPE_INDEX["jawOpen"]] == expression[:, BLENDSHAPE_INDEX["jawOpen"]]).all()


def test_a_sure_closure_closes_one_frame_and_leaves_the_vowels_open():
    expression = np.zeros((7, 52), np.float32)
    expression[:, BLENDSHAPE_INDEX["jawOpen"]] = [0.4, 0.4, 0.3, 0.15, 0.3, 0.4, 0.4]
    closed = close_lips(expression, np.array([0, 0, 0.3, 0.99, 0.3, 0, 0]), 0.3)
    opening = lip_opening(closed)
    assert opening[3] < 0.01
    assert (opening[[1, 2, 4, 5]] > 0.2).all()


@given(st.integers(1, 80), st.integers(0, 20))
def test_fades_rise_from_nothing_to_one(length, overlap):
    weights = fade_in(length, overlap)
    assert (weights.diff(dim=0) >= 0).all()
    assert (weights[overlap:] == 1).all()


@settings(max_examples=20)
@given(st.integers(1, 400), st.integers(1, 120))
def test_mel_is_aligned_to_frames(steps, frames):
    mel = frame_aligned_mel(AudioEmbedding(torch.ones(steps, 1, 80), 100.0, steps / 100, "log_mel"), frames)
    assert mel.shape == (1, 4 * frames, 80)
    assert (mel[0, : min(steps, 4 * frames)] == 1).all()


def test_fearful_is_refused_by_name(model, speech):
    with pytest.raises(ValueError, match="fearful"):
        sample_motion(model, embed_audio(speech), Emotion.mixed({"fearful": 1.0}))
    assert "fearful" not in POCKET_EMOTIONS


def test_other_features_are_refused_by_name(model):
    wav2vec = AudioEmbedding(torch.zeros(50, 13, 768), 50.0, 1.0, "wav2vec2")
    with pytest.raises(ValueError, match="wav2vec2"):
        sample_motion(model, wav2vec)


def test_unknown_encoders_are_refused():
    with pytest.raises(ValueError, match=ENCODER_NAMES[0]):
        embed_audio(silence(1), "clip")


@pytest.mark.parametrize(
    ("name", "value"), [("steps", 0), ("mouth", -1.0), ("temperature", 9.0), ("blinks_per_minute", 99)]
)
def test_parameters_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        SamplingParameters(**{name: value})


class TestLoading:
    def test_a_missing_file_says_what_to_do(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="train pocket"):
            load_pocket(tmp_path / "none.safetensors")

    def test_a_broken_file_is_named(self, tmp_path):
        path = tmp_path / "broken.safetensors"
        path.write_bytes(b"not safetensors at all")
        with pytest.raises(ValueError, match="broken"):
            load_pocket(path)

    def test_all_wrong_keys_are_listed(self, tmp_path, model):
        from safetensors.torch import save_file

        state = {
            k: v.clone() for k, v in PocketModel(PocketParameters()).state_dict().items() if "rotary" not in k
        }
        state.pop("encoder.stem.bias")
        state["encoder.surprise"] = torch.zeros(1)
        state["motion_mean"] = torch.zeros(3)
        import json

        metadata = {"parameters": json.dumps(PocketParameters().to_dict())}
        save_file(state, tmp_path / "wrong.safetensors", metadata)
        with pytest.raises(ValueError, match=r"encoder\.stem\.bias") as caught:
            load_pocket(tmp_path / "wrong.safetensors")
        assert "encoder.surprise" in str(caught.value)
        assert "motion_mean" in str(caught.value)
        assert "rotary_emb.freqs" in str(caught.value)
