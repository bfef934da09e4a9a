"""Motion intensity over a clip: of its latent frames, and by what stands in where no network was trained for it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from talking_portrait.core_models.types import AudioEmbedding
from talking_portrait.core_models.video_diffusion.fantasytalking.guidance import Interval
from talking_portrait.core_models.video_diffusion.fantasytalking.intensity_stand_ins import (
    audio_guidance_factor,
    worded_prompt,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.model import FantasyTalkingParameters
from talking_portrait.core_models.video_diffusion.fantasytalking.parameters import ClipDefaults
from talking_portrait.core_models.video_diffusion.fantasytalking.performance import (
    intensity_of_latents,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.scene_options import (
    FantasyTalkingOptions,
    sampling_options,
)
from talking_portrait.core_models.video_types import Gate
from talking_portrait.core_models.wan_types import MotionIntensity

from .fantasytalking_models import SMALL_MODEL

PUBLISHED = FantasyTalkingParameters()
SMALL = replace(SMALL_MODEL, defaults=ClipDefaults(fps=12.5, window=9, steps=2))


def sound(seconds, rate=50.0, encoder="wav2vec2", layers=1, channels=6, seed=0):
    steps = max(1, round(rate * seconds))
    features = torch.randn(steps, layers, channels, generator=torch.Generator().manual_seed(seed))
    return AudioEmbedding(features, rate, seconds, encoder)


class TestIntensity:
    def test_of_latent_frames_is_the_mean_of_their_frames(self):
        rising = MotionIntensity(Gate(np.array([0.0, 1.0]), np.array([0.0, 2.0])), 0.5)
        found = intensity_of_latents(rising, 3, 4.0)  # frames 0 | 1..4 | 5..8 of 8 to the end
        torch.testing.assert_close(found[:, 0], torch.tensor([0.0, 2.5, 6.5]) / 8)
        assert found[:, 1].tolist() == [0.5] * 3

    @pytest.mark.parametrize(("face", "factor"), [(0.0, 0.6), (0.5, 1.0), (1.0, 1.4)])
    def test_guidance_by_sound_stands_in_where_it_is_chosen(self, face, factor):
        chosen = MotionIntensity(face, 0.5, "audio_guidance")
        options = FantasyTalkingOptions()
        found = audio_guidance_factor(PUBLISHED, chosen, sound(1.0), options, 1.0)
        assert found == pytest.approx(factor)
        assert 3 <= sampling_options(PUBLISHED, options, found).guidance.scales.audio <= 7
        assert audio_guidance_factor(SMALL, chosen, sound(1.0), options, 1.0) == 1  # it has a network for it

    def test_guidance_by_sound_cannot_stand_in_without_it(self):
        chosen = MotionIntensity(stand_in="audio_guidance")
        with pytest.raises(ValueError, match="there is no sound"):
            audio_guidance_factor(PUBLISHED, chosen, None, FantasyTalkingOptions(), 1.0)
        with pytest.raises(ValueError, match="switched off"):
            audio_guidance_factor(
                PUBLISHED, chosen, sound(1.0), FantasyTalkingOptions(guided_by_sound=False), 1.0
            )

    @pytest.mark.parametrize(
        ("chosen", "reason"),
        [
            ({"audio_scale": 0.0}, r"the sound is switched off \(audio_scale is 0\)"),
            ({"audio_guidance": 0.0}, r"switched off \(audio_guidance is 0\)"),
            ({"audio_guidance": 1.0}, r"switched off \(audio_guidance is 1\)"),
            ({"audio_interval": Interval(0.5, 0.5)}, "switched off in all steps"),
            ({"audio_interval": Interval(0.01, 0.02)}, "switched off in all steps"),
        ],
    )
    def test_guidance_by_sound_cannot_stand_in_where_it_does_nothing(self, chosen, reason):
        """At 1 it would do something: bring back the pass that 1 saves, which nobody asked for."""
        intensity = MotionIntensity(0.9, 0.5, "audio_guidance")
        with pytest.raises(ValueError, match=f"{reason}.*choose 'prompt', or leave the intensity out"):
            audio_guidance_factor(PUBLISHED, intensity, sound(1.0), FantasyTalkingOptions(**chosen), 1.0)
        own = replace(PUBLISHED, defaults=replace(PUBLISHED.defaults, audio_guidance=1.0))
        with pytest.raises(ValueError, match="audio_guidance is 1"):
            audio_guidance_factor(own, intensity, sound(1.0), FantasyTalkingOptions(), 1.0)

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            *((value, "moving very little") for value in (0.0, 0.3)),
            *((value, "moving naturally") for value in (0.31, 0.7)),
            *((value, "moving a lot") for value in (0.71, 1.0)),
        ],
    )
    def test_words_change_above_their_limits(self, body, words):
        """0.3 is 0.30000001 in float32, and a mean over time may be off by as much."""
        held = Gate(np.full(3, body), np.array([0.0, 0.7, 2.1]))
        for gate in (body, held):
            said = worded_prompt("A woman.", MotionIntensity(0.5, gate, "prompt"), 3.3)
            assert said.startswith(f"A woman, {words}")

    def test_words_stand_in_where_they_are_chosen(self):
        said = [
            worded_prompt("A woman is talking.", MotionIntensity(0.5, body, "prompt"), 1.0)
            for body in (0.1, 0.5, 1)
        ]
        assert len(set(said)) == 3
        assert all(one.startswith("A woman is talking, ") for one in said)
        assert (
            worded_prompt("  ", MotionIntensity(stand_in="prompt"), 1.0)
            == "A person talking, moving naturally."
        )
        for left_alone in (None, MotionIntensity(1, 1), MotionIntensity(1, 1, "audio_guidance")):
            assert worded_prompt("A woman.", left_alone, 1.0) == "A woman."
        assert (
            audio_guidance_factor(
                PUBLISHED, MotionIntensity(stand_in="prompt"), None, FantasyTalkingOptions(), 1.0
            )
            == 1
        )
