"""A clip of a small model built as the published one is: prompts and CLIP, what is remembered and let go of."""

from dataclasses import replace

import pytest
import torch
from talking_portrait.core_models.types import AudioEmbedding, ModelHandle
from talking_portrait.core_models.video_diffusion.fantasytalking.model import FantasyTalkingModel
from talking_portrait.core_models.video_diffusion.wan import default_prompts, text_encoder
from talking_portrait.core_models.video_diffusion.wan.clip_vision import ClipVisionParameters, new_clip_vision
from talking_portrait.core_models.video_diffusion.wan.prompt_encoder import PromptEncoder
from talking_portrait.core_models.video_diffusion.wan.text_encoder import (
    TextEncoderParameters,
    new_text_encoder,
)
from talking_portrait.core_models.wan_types import FantasyTalkingModels, MotionIntensity, WanModels
from talking_portrait.runtime import fantasytalking_clips, fantasytalking_memory, fantasytalking_models
from talking_portrait.runtime.encoding_memory import encoding_memory
from talking_portrait.runtime.fantasytalking_clips import SceneChoices, sampled_clip
from talking_portrait.runtime.fantasytalking_encodings import encoded_prompts, seen_by_clip
from talking_portrait.runtime.host import WorkCancelledError, host
from talking_portrait.runtime.model_cache import model_cache
from talking_portrait.runtime.progress import PreviewedProgress
from talking_portrait.training.made_heads.identity import made_identity
from talking_portrait.training.made_heads.portrait import draw_portrait

from ..small_fantasytalking import HEARD_CHANNELS, HEARD_LAYERS, HEARING_ONLY, write_small_fantasytalking

TEXT_WIDTH, PICTURE_WIDTH = 8, 16
TEXT, CLIP = ModelHandle("text", "nowhere"), ModelHandle("clip", "nowhere")
PARAMETERS = replace(
    HEARING_ONLY,
    wan=replace(HEARING_ONLY.wan, text_dim=TEXT_WIDTH, image_dim=PICTURE_WIDTH, text_length=512),
    defaults=replace(HEARING_ONLY.defaults, prompt_guidance=5.0, steps=1),
)


def small_prompt_encoder():
    torch.manual_seed(0)
    sizes = TextEncoderParameters(
        vocabulary=300, width=TEXT_WIDTH, layers=1, heads=2, head_width=4, feed_forward=8
    )
    return PromptEncoder(new_text_encoder(sizes), lambda text: [2 + byte for byte in text.encode()])


def small_clip_vision():
    torch.manual_seed(0)
    return new_clip_vision(ClipVisionParameters(PICTURE_WIDTH, 2, 2, 32, 224, 112))


def small_model():
    torch.manual_seed(0)
    model = FantasyTalkingModel(PARAMETERS)
    for value in model.parameters():
        if not value.any():
            torch.nn.init.normal_(value, std=0.2)
    return model


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_small_fantasytalking(folder)
    return ModelHandle("autoencoder", str(folder / "mine_autoencoder.safetensors"))


@pytest.fixture
def loaded(monkeypatch):
    """The names of networks as they are loaded, in order, with those that lie in memory at that time."""
    events = []

    def loader(name, make):
        def load(*_):
            events.append((name, {handle.name for handle in model_cache().loaded_bytes()}))
            return make()

        return load

    from talking_portrait.core_models.video_diffusion.wan import clip_vision

    monkeypatch.setattr(fantasytalking_models, "_loaded_prompt_encoder", loader("text", small_prompt_encoder))
    monkeypatch.setattr(fantasytalking_models, "_loaded_model", loader("model", small_model))
    monkeypatch.setattr(clip_vision, "load_clip_vision", loader("clip", small_clip_vision))
    monkeypatch.setattr(fantasytalking_clips, "parameters_of", lambda models: PARAMETERS)
    encoding_memory().clear()
    yield events
    model_cache().clear()
    encoding_memory().clear()


@pytest.fixture
def models(autoencoder):
    wan = WanModels("wan", ModelHandle("wan", "nowhere"), autoencoder, TEXT, CLIP)
    return FantasyTalkingModels("fantasytalking", wan, ModelHandle("fantasytalking", "nowhere"))


def in_memory():
    return {handle.name for handle in model_cache().loaded_bytes()}


def names(events):
    return [name for name, _ in events]


def sound(encoder="pocket_listener"):
    features = torch.randn(20, HEARD_LAYERS, HEARD_CHANNELS, generator=torch.Generator().manual_seed(0))
    return AudioEmbedding(features, 50.0, 0.4, encoder)


def sampled(
    models,
    prompt="A man talks.",
    negative="blurred",
    intensity=None,
    audio=None,
    image_size=0,
    **settings,
):
    settings = {"frames": 5, **settings}
    choices = SceneChoices(prompt, negative, "whole picture", image_size, "automatic", settings)
    portrait = draw_portrait(made_identity(5), 64)
    progress = PreviewedProgress(host().progress(1))
    return sampled_clip(models, portrait, choices, progress, audio, intensity=intensity)


class TestPrompts:
    def test_are_encoded_once_and_the_encoder_is_let_go_of(self, models, loaded):
        first = encoded_prompts(models.wan, "A man talks.", "blurred")
        again = encoded_prompts(models.wan, "A man talks.", "blurred")
        assert names(loaded) == ["text"]
        assert TEXT.name not in in_memory()
        assert first.prompt.shape == first.negative.shape == (512, TEXT_WIDTH)
        assert torch.equal(first.prompt, again.prompt)
        expected = small_prompt_encoder()("blurred")
        torch.testing.assert_close(first.negative, expected)

    def test_only_new_ones_are_encoded(self, models, loaded):
        encoded_prompts(models.wan, "A man talks.", "blurred")
        encoded_prompts(models.wan, "A man sings.", "blurred")
        assert encoded_prompts(models.wan, "blurred").negative is None
        assert names(loaded) == ["text", "text"]

    def test_cancelled_the_encoder_leaves_memory_all_the_same(self, models, loaded):
        """It is 11 GB, and the next thing a user does needs them."""
        host().cancel()
        try:
            with pytest.raises(WorkCancelledError):
                encoded_prompts(models.wan, "A man talks.", "blurred")
        finally:
            host().allow_work()
        assert names(loaded) == ["text"]
        assert TEXT.name not in in_memory()

    def test_forgotten_meanwhile_the_encoder_leaves_memory_again(self, models, loaded, monkeypatch):
        """Too small a memory forgets one prompt while the other is encoded."""
        encoded_prompts(models.wan, "A man talks.")
        monkeypatch.setattr(encoding_memory(), "_largest", 1)
        encoded_prompts(models.wan, "A man talks.", "blurred")
        assert names(loaded) == ["text"] * 3
        assert TEXT.name not in in_memory()

    def test_a_memory_that_is_too_small_only_costs_time(self, models, loaded, monkeypatch):
        monkeypatch.setattr(encoding_memory(), "_largest", 1)
        pair = encoded_prompts(models.wan, "A man talks.", "blurred")
        assert not torch.equal(pair.prompt, pair.negative)

    def test_nothing_written_and_two_thousand_words(self, models, loaded, caplog):
        pair = encoded_prompts(models.wan, "", "word " * 2000)
        assert not pair.prompt[1:].any()
        assert pair.negative.all(dim=1).all()
        assert "the rest is left out" in caplog.text

    def test_defaults_are_the_release_s(self):
        for name in ("DEFAULT_PROMPT", "DEFAULT_NEGATIVE_PROMPT"):
            assert getattr(default_prompts, name) == getattr(text_encoder, name)


def test_what_sees_the_picture_leaves_memory_when_it_fails(models, loaded, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("talking_portrait.core_models.video_diffusion.wan.clip_vision.picture_tokens", fail)
    with pytest.raises(RuntimeError):
        seen_by_clip(models.wan, torch.zeros(3, 32, 32))
    assert names(loaded) == ["clip"]
    assert CLIP.name not in in_memory()


class TestClip:
    def test_the_text_encoder_is_gone_before_the_model_comes(self, models, loaded):
        clip = sampled(models)
        assert clip.latents.shape == (1, 4, 2, 4, 4)
        assert torch.isfinite(clip.latents).all()
        assert names(loaded) == ["text", "clip", "model"]
        assert dict(loaded)["model"] == {"autoencoder"}

    def test_a_second_clip_of_the_picture_encodes_nothing(self, models, loaded):
        first = sampled(models)
        loaded.clear()
        assert torch.equal(sampled(models).latents, first.latents)
        assert loaded == []

    def test_prompts_and_guidance_count(self, models, loaded):
        plain = sampled(models).latents
        for settings in ({"prompt": "A bear dances."}, {"negative": "sharp"}, {"prompt_guidance": 2.0}):
            assert not torch.equal(sampled(models, **settings).latents, plain), settings

    def test_without_guidance_the_negative_prompt_is_not_encoded(self, models, loaded):
        sampled(models, prompt_guidance=1.0)
        assert encoding_memory().known((TEXT, "A man talks."))
        assert not encoding_memory().known((TEXT, "blurred"))

    def test_words_stand_in_for_motion_intensity(self, models, loaded):
        intensity = MotionIntensity(0.5, 0.1, "prompt")
        worded = sampled(models, intensity=intensity).latents
        assert encoding_memory().known((TEXT, "A man talks, moving very little, calm and still."))
        written = sampled(models, prompt="A man talks, moving very little, calm and still.").latents
        assert torch.equal(worded, written)

    def test_what_does_not_fit_is_said_before_any_network_works(self, models, loaded):
        with pytest.raises(ValueError, match="no trained motion intensity"):
            sampled(models, intensity=MotionIntensity())
        with pytest.raises(ValueError, match="no sound"):
            sampled(models, frames=0)
        assert loaded == []

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"shift": -1.0}, "shift is -1.0"),
            ({"identity_scale": float("nan")}, "identity_scale is nan"),
            ({"first_block_cache": 0.1, "frames": 21}, "make a clip of one window"),
            ({"audio": sound("log_mel")}, "listens to pocket_listener"),
            ({"masked_audio": False, "audio": sound()}, "switch masked_audio on"),
        ],
    )
    def test_so_are_settings_and_sounds(self, models, loaded, monkeypatch, settings, message):
        placed = replace(PARAMETERS, audio=replace(PARAMETERS.audio, places=25))
        monkeypatch.setattr(fantasytalking_clips, "parameters_of", lambda models: placed)
        with pytest.raises(ValueError, match=message):
            sampled(models, **settings)
        assert loaded == []

    def test_so_are_an_attention_that_is_not_here_and_frames_that_do_not_fit(
        self, models, loaded, monkeypatch
    ):
        wan = replace(models.wan, attention="sage")
        with pytest.raises(ValueError, match="attention 'sage' cannot be used on this computer"):
            sampled(replace(models, wan=wan))
        monkeypatch.setattr(fantasytalking_memory, "available_main_memory", lambda: 10**9)
        with pytest.raises(ValueError, match=r"20000 frames of 512x512 take 62\.9 GB"):
            sampled(models, frames=20000, image_size=512)
        assert loaded == []
        assert not encoding_memory()._results

    def test_streams_that_a_stand_in_parts_are_counted(self, models, loaded, monkeypatch):
        """Equal guidance by prompt and sound needs two streams; times 1.4 by sound, three."""
        counted = []
        monkeypatch.setattr(
            fantasytalking_clips,
            "planned_scene",
            lambda models, parameters, size, streams, evaluated, keys: (
                counted.append(evaluated) or (models, 1)
            ),
        )
        settings = {"audio": sound(), "prompt_guidance": 2.0}
        sampled(models, **settings)
        sampled(models, **settings, intensity=MotionIntensity(1.0, 0.5, "audio_guidance"))
        assert counted == [2, 3]
