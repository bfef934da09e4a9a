"""A scene that talks: how long it is, what it hears, what it is told, and what is refused."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from talking_portrait.core_models.audio.frame_clock import exact_rate
from talking_portrait.core_models.types import AudioEmbedding
from talking_portrait.core_models.video_diffusion.fantasytalking.audio_windows import audio_windows
from talking_portrait.core_models.video_diffusion.fantasytalking.clip_conditions import WholeAudio
from talking_portrait.core_models.video_diffusion.fantasytalking.guidance import GuidanceScales, Interval
from talking_portrait.core_models.video_diffusion.fantasytalking.model import FantasyTalkingParameters
from talking_portrait.core_models.video_diffusion.fantasytalking.parameters import ClipDefaults
from talking_portrait.core_models.video_diffusion.fantasytalking.performance import (
    PROJECTED_AT_ONCE,
    clip_audio,
    prompt_tokens,
    talking_scene,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.scene_options import (
    NOTHING_CHOSEN,
    FantasyTalkingOptions,
    sampling_options,
    scene_length,
)
from talking_portrait.core_models.video_diffusion.wan.frame_rules import video_frames
from talking_portrait.core_models.video_types import Identity
from talking_portrait.core_models.wan_types import MotionIntensity, PromptEmbeddings

from .fantasytalking_models import RELEASE_LIKE, SMALL_MODEL, SMALL_WAN, new_model

PUBLISHED = FantasyTalkingParameters()
SMALL = replace(SMALL_MODEL, defaults=ClipDefaults(fps=12.5, window=9, steps=2))
READS_NOTHING = replace(SMALL, wan=replace(SMALL_WAN, image_dim=None))
PICTURE = torch.randn(6, SMALL_WAN.image_dim, generator=torch.Generator().manual_seed(2))
PROMPTS = PromptEmbeddings(torch.ones(4, SMALL_WAN.text_dim), -torch.ones(6, SMALL_WAN.text_dim))
PERSON = Identity(np.linspace(-1, 1, 5), np.zeros((4, 4, 3)), "arcface")


def sound(seconds, rate=50.0, encoder="wav2vec2", layers=1, channels=6, seed=0):
    steps = max(1, round(rate * seconds))
    features = torch.randn(steps, layers, channels, generator=torch.Generator().manual_seed(seed))
    return AudioEmbedding(features, rate, seconds, encoder)


def image_of(length, parameters=SMALL):
    frames = length.book.windows[0].count
    generator = torch.Generator().manual_seed(1)
    return torch.randn(parameters.wan.condition_channels, frames, 2, 4, generator=generator)


@pytest.fixture(scope="module")
def model():
    return new_model(SMALL)


def made(model, audio=None, options=NOTHING_CHOSEN, **further):
    parameters = model.parameters_used
    given = {"picture": None if parameters.wan.image_dim is None else PICTURE}
    given["prompts"] = None if parameters.wan.image_dim is None else PROMPTS
    length = scene_length(parameters, audio, options)
    return talking_scene(model, image_of(length, parameters), audio=audio, options=options, **given | further)


class TestLength:
    @pytest.mark.parametrize(
        ("seconds", "frames", "kept"),
        [(0.01, 5, 1), (0.2, 5, 5), (2.0, 49, 46), (3.52, 81, 81), (10.0, 233, 230)],
    )
    def test_of_exact_timing_covers_the_sound_and_cuts_nothing(self, seconds, frames, kept):
        length = scene_length(PUBLISHED, sound(seconds))
        assert (length.frames, length.kept) == (frames, kept)
        assert length.frames - length.kept < 5

    @pytest.mark.parametrize(("seconds", "frames"), [(1.0, 25), (2.0, 49), (10.0, 81)])
    def test_of_the_releases_timing_is_the_releases(self, seconds, frames):
        length = scene_length(PUBLISHED, sound(seconds), FantasyTalkingOptions(timing="release"))
        assert (length.frames, length.kept) == (frames, frames)
        longer = FantasyTalkingOptions(timing="release", frames=161)
        assert scene_length(PUBLISHED, sound(10.0), longer).frames == 161

    def test_may_be_chosen_and_must_be_without_sound(self):
        assert scene_length(PUBLISHED, sound(2.0), FantasyTalkingOptions(frames=30)).kept == 30
        silent = scene_length(PUBLISHED, None, FantasyTalkingOptions(frames=30))
        assert (silent.frames, silent.kept) == (33, 30)
        with pytest.raises(ValueError, match="there is no sound to last as long as"):
            scene_length(PUBLISHED)
        with pytest.raises(ValueError, match="frames is 0"):
            scene_length(PUBLISHED, None, FantasyTalkingOptions(frames=0))

    @pytest.mark.parametrize("fps", [23.976, 29.97, 59.94, 23.0, 12.5])
    def test_chosen_frames_are_counted_and_not_timed(self, fps):
        """30000/1001 frames a second and 29.97 differ; 4 frames too many came of that."""
        parameters = replace(PUBLISHED, defaults=replace(PUBLISHED.defaults, fps=fps))
        for frames in (1, 5, 6, 81, 101, 1201):
            length = scene_length(parameters, None, FantasyTalkingOptions(frames=frames))
            assert length.kept == frames
            assert length.frames == max(5, 4 * -(-(frames - 1) // 4) + 1)
        assert scene_length(parameters, sound(float(81 / exact_rate(fps)))).frames == 81

    def test_of_ten_minutes_is_many_windows_of_the_same_length(self):
        length = scene_length(PUBLISHED, sound(600.0))
        assert length.kept == 13800
        assert length.window_frames == 81
        ranges = length.window_ranges()
        assert ranges[0][0] == 0
        assert ranges[-1][1] == 13800
        assert all(before[1] == after[0] for before, after in pairwise(ranges))

    def test_within_a_window_is_one_window(self):
        length = scene_length(PUBLISHED, sound(3.0))
        assert len(length.book.windows) == 1
        assert length.window_frames == length.frames == 69

    def test_windows_may_be_chosen(self):
        length = scene_length(PUBLISHED, sound(10.0), FantasyTalkingOptions(window=41, overlap=2))
        assert length.window_frames == 41
        assert length.book.windows[0].count == 11
        with pytest.raises(ValueError, match=r"Wan's videos have 1, 5, 9"):
            scene_length(PUBLISHED, sound(10.0), FantasyTalkingOptions(window=40))

    def test_small_windows_overlap_by_a_third(self):
        first, second, *_ = scene_length(SMALL, sound(3.0)).book.windows  # three latent frames each
        assert first.end - second.own_first == 0
        assert second.count == 3


class TestSound:
    def heard(self, model, seconds, frames, **options):
        return clip_audio(model, sound(seconds), FantasyTalkingOptions(**options), frames)

    def test_of_exact_timing_goes_at_its_own_pace(self, model):
        found = self.heard(model, 2.0, 33).of_frames(0, 9)
        expected = audio_windows(model.audio_tokens(sound(2.0).features), 33, 50 / 12.5)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)

    def test_of_the_releases_timing_is_stretched_over_its_frames(self, model):
        found = self.heard(model, 2.0, 29, timing="release").of_frames(0, 8)
        tokens = model.audio_tokens(sound(2.0).features[:99])  # wav2vec2 makes 99 steps of two seconds
        for one, other in zip(found, audio_windows(tokens, 29), strict=True):
            assert torch.equal(one, other)

    def test_of_the_releases_timing_is_cut_where_its_frames_end(self, model):
        found = self.heard(model, 4.0, 25, timing="release", hearing="clip")
        assert isinstance(found, WholeAudio)
        assert len(found.tokens) == 99  # 25 frames last two seconds

    def test_may_be_heard_whole(self, model):
        found = self.heard(model, 2.0, 25, hearing="clip")
        assert torch.equal(found.of_frames(0, 7)[0], model.audio_tokens(sound(2.0).features))

    def test_of_ten_minutes_is_projected_in_blocks(self, model, monkeypatch):
        sizes, project = [], model.audio_tokens
        whole = project(sound(600.0).features)

        def counted(features):
            sizes.append(len(features))
            return project(features)

        monkeypatch.setattr(model, "audio_tokens", counted)
        found = self.heard(model, 600.0, 7501, hearing="clip")
        assert sum(sizes) == 30_000
        assert max(sizes) <= PROJECTED_AT_ONCE
        assert found.tokens.device.type == "cpu"
        torch.testing.assert_close(found.tokens, whole)

    def test_may_count_places_without_sound(self, model):
        assert self.heard(model, 2.0, 25).of_frames(0, 3)[1] is not None
        assert self.heard(model, 2.0, 25, masked_audio=False).of_frames(0, 3)[1] is None

    def test_is_masked_where_the_model_tells_places_apart(self):
        placed = new_model(replace(SMALL, audio=replace(SMALL.audio, places=25)))
        assert self.heard(placed, 2.0, 25).masked
        assert isinstance(self.heard(placed, 2.0, 25, masked_audio=False, hearing="clip"), WholeAudio)
        with pytest.raises(ValueError, match=r"tells the places of a window apart.*switch masked_audio on"):
            self.heard(placed, 2.0, 25, masked_audio=False)

    @pytest.mark.parametrize("wrong", [{"encoder": "hubert"}, {"layers": 2}, {"channels": 5}])
    def test_of_another_encoder_is_refused(self, model, wrong):
        with pytest.raises(ValueError, match=r"the model listens to wav2vec2 \(1 layers of 6\)"):
            clip_audio(model, sound(1.0, **wrong), FantasyTalkingOptions(), 13)


class TestScene:
    @pytest.mark.parametrize("seconds", [0.01, 0.3, 0.7, 2.0])
    def test_lasts_as_long_as_its_sound(self, model, seconds):
        scene = made(model, sound(seconds))
        assert scene.latents.shape == (16, scene.length.latents, 2, 4)
        assert video_frames(scene.latents.shape[1]) >= scene.length.kept
        assert scene.latents.dtype == torch.float32
        assert scene.latents.isfinite().all()

    def test_without_sound_is_the_same_as_with_sound_switched_off(self, model):
        silent = made(model, None, FantasyTalkingOptions(frames=9))
        off = made(model, sound(0.7), FantasyTalkingOptions(frames=9, audio_scale=0.0))
        assert torch.equal(silent.latents, off.latents)
        heard = made(model, sound(0.7), FantasyTalkingOptions(frames=9))
        assert not torch.allclose(heard.latents, silent.latents)

    def test_is_the_seeds_alone(self, model):
        first, again = made(model, sound(0.5)), made(model, sound(0.5))
        assert torch.equal(first.latents, again.latents)
        other = made(model, sound(0.5), FantasyTalkingOptions(seed=2))
        assert not torch.allclose(first.latents, other.latents)

    def test_depends_on_identity_and_how_strong_it_is(self, model):
        options = FantasyTalkingOptions(frames=5)
        without = made(model, None, options).latents
        assert not torch.allclose(made(model, None, options, identity=PERSON).latents, without)
        none = made(model, None, replace(options, identity_scale=0.0), identity=PERSON).latents
        torch.testing.assert_close(none, without)

    def test_is_neutral_unless_an_intensity_is_chosen(self, model):
        options = FantasyTalkingOptions(frames=5)
        neutral = made(model, None, options).latents
        chosen = made(model, None, options, intensity=MotionIntensity(0.5, 0.5)).latents
        assert torch.equal(neutral, chosen)
        lively = made(model, None, options, intensity=MotionIntensity(1, 1)).latents
        assert not torch.allclose(neutral, lively)

    def test_of_a_model_that_reads_no_prompt_needs_none(self):
        calls = []
        model = new_model(READS_NOTHING)
        scene = made(
            model, sound(0.4), FantasyTalkingOptions(steps=1), progress=lambda *call: calls.append(call)
        )
        assert scene.latents.isfinite().all()
        assert calls == [(1, 2), (2, 2)]  # with sound and without

    def test_of_the_release_has_neither_identity_nor_intensity(self):
        model = new_model(replace(RELEASE_LIKE, defaults=SMALL.defaults))
        options = FantasyTalkingOptions(frames=5)
        assert made(model, None, options).latents.isfinite().all()
        with pytest.raises(ValueError, match="no identity branch"):
            made(model, None, options, identity=PERSON)
        with pytest.raises(ValueError, match="no trained motion intensity"):
            made(model, None, options, intensity=MotionIntensity())

    def test_is_ended_by_its_callbacks(self, model):
        def check():
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            made(model, sound(0.5), check=check)


class TestBadInput:
    def test_of_prompts(self, model):
        options = FantasyTalkingOptions(frames=5)
        with pytest.raises(ValueError, match="this model reads prompts"):
            made(model, None, options, prompts=None)
        with pytest.raises(ValueError, match="the prompt has 3 channels and the model reads 8"):
            made(model, None, options, prompts=PromptEmbeddings(torch.zeros(4, 3)))
        with pytest.raises(ValueError, match="the prompt has 8 tokens, at most 7 are read"):
            made(model, None, options, prompts=PromptEmbeddings(torch.zeros(8, 8)))

    def test_prompts_are_padded_to_what_the_network_sees(self):
        prompt, negative = prompt_tokens(SMALL, PROMPTS)
        assert prompt.shape == negative.shape == (7, 8)
        assert not prompt[4:].any()
        assert not negative[6:].any()
        assert prompt_tokens(READS_NOTHING, None)[0].tolist() == [[0] * 8]

    def test_of_pictures(self, model):
        options = FantasyTalkingOptions(frames=5)
        with pytest.raises(ValueError, match="connect CLIP vision"):
            made(model, None, options, picture=None)
        with pytest.raises(ValueError, match="no use for CLIP tokens"):
            made(new_model(READS_NOTHING), None, options, picture=PICTURE)

    def test_of_identities(self, model):
        other = Identity(np.zeros(7), np.zeros((4, 4, 3)), "arcface")
        with pytest.raises(ValueError, match=r"the identity has 7 numbers \(arcface\), the model takes 5"):
            made(model, None, FantasyTalkingOptions(frames=5), identity=other)

    @pytest.mark.parametrize("wrong", [{"timing": "loose"}, {"hearing": "words"}])
    def test_of_choices(self, wrong):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*, expected one of"):
            FantasyTalkingOptions(**wrong)

    @pytest.mark.parametrize(
        "wrong",
        [
            *({"shift": value} for value in (-1.0, 0.0, float("inf"), float("nan"))),
            *({name: float("nan")} for name in ("identity_scale", "audio_scale")),
            *({name: float("inf")} for name in ("prompt_guidance", "audio_guidance")),
            *({name: 0} for name in ("steps", "frames", "streams_at_once")),
            *({"first_block_cache": value} for value in (0.0, 1.0, float("nan"))),
            *({"seed": value} for value in (1 << 64, -(1 << 63) - 1, 0.5)),
            {"overlap": -1},
        ],
    )
    def test_of_numbers(self, wrong):
        with pytest.raises(ValueError, match=f"^{next(iter(wrong))} is .*, expected"):
            FantasyTalkingOptions(**wrong)


class TestOptions:
    def test_that_are_not_chosen_are_the_models(self):
        found = sampling_options(PUBLISHED)
        assert (found.steps, found.shift, found.window, found.overlap) == (30, 5.0, 21, 5)
        assert found.guidance.scales == GuidanceScales(5, 5)
        assert found.first_block_cache is None

    def test_that_are_chosen_count(self):
        options = FantasyTalkingOptions(
            steps=4, prompt_guidance=1.0, audio_guidance=3.0, audio_interval=Interval(0, 0.7), keys_kept=True
        )
        found = sampling_options(PUBLISHED, options)
        assert found.steps == 4
        assert found.guidance.scales == GuidanceScales(1, 3)
        assert found.guidance.audio == Interval(0, 0.7)
        assert found.keys_kept

    def test_guidance_by_sound_may_be_left_out(self):
        found = sampling_options(PUBLISHED, FantasyTalkingOptions(guided_by_sound=False))
        assert found.guidance.scales == GuidanceScales(5, None)
