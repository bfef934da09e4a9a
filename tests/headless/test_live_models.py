"""What `talking-portrait live --model` can choose: models by name, and Takin-ADA's files."""

import gc
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import save_file
from talking_portrait.core_models.audio.hubert import load_hubert, window_encoder
from talking_portrait.core_models.audio.listening_windows import features_in_blocks
from talking_portrait.core_models.keypoint_diffusion.motion_stream import stream_motion
from talking_portrait.core_models.keypoint_diffusion.takin_ada_loading import exported_tensors, load_takin_ada
from talking_portrait.core_models.keypoint_diffusion.takin_ada_performance import (
    TakinADAOptions,
    speaking_face,
)
from talking_portrait.core_models.types import AudioEmbedding, Emotion, ModelHandle
from talking_portrait.runtime import motion_streams
from talking_portrait.runtime.model_cache import model_cache
from talking_portrait.runtime.motion_streams import (
    HUBERT_WINDOWS,
    LIVE_STEPS,
    motion_stream,
)
from talking_portrait.runtime.weights import WeightNotFoundError

from ..audio.small_hubert import LAYERS, WIDTH, save_hubert, small_network
from ..keypoint_diffusion.takin_ada_models import (
    SMALL,
    SMALL_KEYPOINTS,
    SMALL_LISTENING,
    SMALL_STREAMING,
    takin_ada,
)

HAPPY = Emotion.mixed({"happy": 0.8})
HEARING = replace(SMALL_STREAMING, layers=LAYERS + 1, speech_width=WIDTH)
"""For the small HuBERT."""


def saved(path, sizes):
    """Write a made model of those sizes and return its path."""
    tensors, metadata = exported_tensors(takin_ada(sizes))
    save_file({name: value.float() for name, value in tensors.items()}, path, metadata)
    return path


def sound(seconds):
    return (0.2 * np.random.default_rng(0).standard_normal(round(16000 * seconds))).astype(np.float32)


@pytest.fixture
def hubert(tmp_path, monkeypatch):
    """A small HuBERT in the large one's place; gives its handle."""
    folder = save_hubert(tmp_path / "hubert", small_network())
    handle = ModelHandle("hubert_large", str(folder / "model.safetensors"), device="cpu")
    monkeypatch.setattr(motion_streams, "HUBERT_OF_SIZES", {(LAYERS + 1, WIDTH): "hubert_large"})
    monkeypatch.setattr(motion_streams, "hubert_handle", {"hubert_large": handle}.__getitem__)
    monkeypatch.setattr(motion_streams, "found_files", lambda *_: {})
    return handle


class TestNames:
    def test_the_pocket_model(self):
        assert motion_stream("pocket", look_ahead=6).frames_ahead == 10

    def test_other_names_are_refused(self):
        with pytest.raises(ValueError, match="no live model 'takin_pocket'; known: pocket, or"):
            motion_stream("takin_pocket")


class TestFiles:
    def test_a_model_with_a_listener_of_its_own_below_the_home_folder(self, tmp_path, monkeypatch):
        saved(tmp_path / "m.safetensors", SMALL_LISTENING)
        for variable in ("HOME", "USERPROFILE"):
            monkeypatch.setenv(variable, str(tmp_path))
        tracks = [
            stream_motion(motion_stream("~/m.safetensors", HAPPY, seed), sound(1.0), 640)
            for seed in (0, 0, 1)
        ]
        assert tracks[0].frame_count == 25
        np.testing.assert_array_equal(tracks[0].expression, tracks[1].expression)
        assert np.abs(tracks[0].rotation - tracks[2].rotation).max() > 1e-3

    @pytest.mark.parametrize(
        ("sizes", "message"),
        [
            (SMALL_KEYPOINTS, "makes implicit keypoints, but live draws with the mesh renderer"),
            (SMALL, "needs whole clips and cannot be live: train one with .* speech --streaming"),
            (SMALL_STREAMING, "hears 3 hidden states of width 8.*hubert_large makes 25 of 1024"),
        ],
    )
    def test_models_that_cannot_be_live(self, tmp_path, sizes, message):
        with pytest.raises(ValueError, match=message):
            motion_stream(str(saved(tmp_path / "m.safetensors", sizes)))

    def test_a_look_ahead_and_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(ValueError, match="--look-ahead is 6"):
            motion_stream("m.safetensors", look_ahead=6)
        with pytest.raises(OSError, match="nothing"):
            motion_stream(str(tmp_path / "nothing.safetensors"))


class TestHubert:
    def test_a_stream_is_the_clip_heard_in_the_same_windows(self, tmp_path, hubert):
        path, waveform = saved(tmp_path / "m.safetensors", HEARING), sound(1.5)
        streamed = stream_motion(motion_stream(str(path), HAPPY, seed=3), waveform, 900)
        encoder = window_encoder(load_hubert(hubert.path))
        features = features_in_blocks(encoder, waveform, HUBERT_WINDOWS)
        settings = {"seed": 3, "steps": LIVE_STEPS, "blinks_per_minute": 0.0, "gaze": False}
        whole = speaking_face(
            load_takin_ada(path),
            AudioEmbedding(features, 50.0, 1.5, "hubert"),
            HAPPY,
            TakinADAOptions.of(settings),
        )[0]
        assert streamed.frame_count == whole.frame_count == 38
        for name in ("jawOpen", "browInnerUp"):
            np.testing.assert_allclose(streamed.blendshape(name), whole.blendshape(name), atol=1e-4)
        np.testing.assert_allclose(streamed.rotation, whole.rotation, atol=1e-3)

    def test_the_network_stays_as_long_as_the_stream(self, tmp_path, hubert):
        stream = motion_stream(str(saved(tmp_path / "m.safetensors", HEARING)))
        model_cache().clear("cpu")
        assert hubert in model_cache().loaded_bytes()
        assert stream.push(sound(1.0)) is not None
        del stream
        gc.collect()
        model_cache().clear("cpu")
        assert hubert not in model_cache().loaded_bytes()

    def test_a_hubert_that_is_not_here(self, tmp_path, monkeypatch):
        monkeypatch.setattr(motion_streams, "HUBERT_OF_SIZES", {(LAYERS + 1, WIDTH): "hubert_base"})
        for variable in ("HOME", "XDG_CACHE_HOME", "TALKING_PORTRAIT_MODELS", "HF_HOME"):
            monkeypatch.setenv(variable, str(tmp_path))
        advice = "talking-portrait weights fetch hubert_base.*choose --model pocket"
        with pytest.raises(WeightNotFoundError, match=advice):
            motion_stream(str(saved(tmp_path / "m.safetensors", HEARING)))
