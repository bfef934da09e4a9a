"""What a user chooses and sees around the sampler: options, framing, the intensity's report, latents of the graph."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from talking_portrait.core_models.video_diffusion.fantasytalking.choices import chosen_options
from talking_portrait.core_models.video_diffusion.fantasytalking.framing import (
    FACE_HEIGHT,
    framed_image,
    framed_picture,
    roomy_square,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.intensity_report import described_intensity
from talking_portrait.core_models.video_diffusion.fantasytalking.intensity_stand_ins import (
    audio_guidance_factor,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.parameters import PUBLISHED_FANTASYTALKING
from talking_portrait.core_models.video_diffusion.fantasytalking.scene_options import (
    NOTHING_CHOSEN,
    FantasyTalkingOptions,
)
from talking_portrait.core_models.video_diffusion.wan.attention_choice import chosen_attention
from talking_portrait.core_models.video_diffusion.wan.autoencoder import WanAutoencoderParameters
from talking_portrait.core_models.video_diffusion.wan.core_latents import (
    core_latents,
    normalised_core_latents,
)
from talking_portrait.core_models.video_types import Gate
from talking_portrait.core_models.wan_types import MotionIntensity

from .fantasytalking_models import SMALL_MODEL

PUBLISHED = PUBLISHED_FANTASYTALKING


class TestOptions:
    def test_nothing_said_is_nothing_chosen(self):
        assert chosen_options() == NOTHING_CHOSEN

    def test_what_is_said_is_chosen(self):
        options = chosen_options(
            steps=4, shift=2.0, prompt_guidance=0.0, audio_guidance=1.0, window=9, overlap=0, frames=7
        )
        assert (options.steps, options.shift, options.window, options.frames) == (4, 2.0, 9, 7)
        assert (options.prompt_guidance, options.audio_guidance, options.overlap) == (0.0, 1.0, 0)

    def test_intervals_and_caches(self):
        options = chosen_options(prompt_start=0.1, audio_end=0.7, first_block_cache=0.2)
        assert (options.prompt_interval.start, options.prompt_interval.end) == (0.1, 1.0)
        assert (options.audio_interval.end, options.first_block_cache) == (0.7, 0.2)

    @pytest.mark.parametrize("name", ["prompt_guidance", "audio_guidance", "overlap"])
    def test_below_nothing_there_is_nothing(self, name):
        with pytest.raises(ValueError, match=rf"{name} is -3, expected 0 or more, or -1"):
            chosen_options(**{name: -3})


class TestFraming:
    LANDMARKS = np.array([[40.0, 30.0], [60.0, 30.0], [50.0, 70.0]])

    def test_a_face_is_as_high_as_said_and_in_the_middle(self):
        left, top, side = roomy_square(self.LANDMARKS)
        assert 40 / side == pytest.approx(FACE_HEIGHT, abs=0.01)
        assert left + side / 2 == pytest.approx(50.5, abs=1)
        assert top + side / 2 == pytest.approx(50, abs=2)

    def test_outside_of_the_picture_its_edge_goes_on(self):
        frame = np.full((72, 64, 3), 90, np.uint8)
        cut = framed_picture(frame, self.LANDMARKS, "around the face")
        assert cut.shape[0] == cut.shape[1] == roomy_square(self.LANDMARKS)[2]
        assert (cut == 90).all()

    def test_the_whole_picture_keeps_its_form(self):
        frame = np.zeros((72, 64, 3), np.uint8)
        assert framed_picture(frame, self.LANDMARKS, "whole picture") is frame
        image = framed_image(frame, self.LANDMARKS, "whole picture", 48, 8)
        assert image.shape == (3, 48, 48)  # 48 x 42.7, rounded up
        assert (image == -1).all()

    def test_another_framing_is_refused(self):
        with pytest.raises(ValueError, match="framing is 'the moon'"):
            framed_picture(np.zeros((4, 4, 3), np.uint8), self.LANDMARKS, "the moon")


class TestReport:
    CHOSEN = MotionIntensity(0.25, 0.9)

    def test_trained(self):
        report = described_intensity(replace(self.CHOSEN, stand_in="prompt"), SMALL_MODEL)
        assert report.startswith("face 0.25, body 0.9: the model's trained")
        assert "no stand-in is used" in report

    def test_no_model(self):
        assert "connect a model" in described_intensity(self.CHOSEN)

    def test_nothing_stands_in(self):
        assert "the sampler refuses" in described_intensity(self.CHOSEN, PUBLISHED)

    def test_guidance_is_said_as_it_is_done(self):
        stands_in = replace(self.CHOSEN, stand_in="audio_guidance")
        factor = audio_guidance_factor(PUBLISHED, stands_in, object(), FantasyTalkingOptions(), 1.0)
        assert f"times {factor:.2f} stands in" in described_intensity(stands_in, PUBLISHED)

    def test_words_are_said_as_they_are_written(self):
        worded = replace(self.CHOSEN, stand_in="prompt")
        assert "(your prompt), moving a lot" in described_intensity(worded, PUBLISHED)
        assert "reads no prompts" in described_intensity(worded, PUBLISHED, reads_prompts=False)

    def test_over_time_the_mean_counts(self):
        rising = MotionIntensity(Gate(np.array([0.0, 1.0]), np.array([0.0, 2.0])), 0.5)
        assert described_intensity(rising).startswith("face 0.5, body 0.5")


class TestLatentsOfTheGraph:
    def test_are_x_times_spread_plus_mean(self):
        sizes = WanAutoencoderParameters()
        latents = torch.randn(16, 2, 3, 4, generator=torch.Generator().manual_seed(0))
        given = core_latents(latents, sizes)
        assert given.shape == (1, 16, 2, 3, 4)
        torch.testing.assert_close(given[0, 7], latents[7] * 2.0743 + 1.5508)
        torch.testing.assert_close(normalised_core_latents(given, sizes), latents)

    @pytest.mark.parametrize("shape", [(16, 2, 3, 4), (1, 8, 2, 3, 4), (2, 16, 2, 3, 4), (1, 16, 0, 3, 4)])
    def test_others_are_refused(self, shape):
        with pytest.raises(ValueError, match=r"expected \(1, 16, frames, height, width\)"):
            normalised_core_latents(torch.zeros(shape), WanAutoencoderParameters())

    def test_what_is_no_tensor_is_refused(self):
        with pytest.raises(ValueError, match="connect FantasyTalking Sampler"):
            normalised_core_latents(None, WanAutoencoderParameters())


class TestAttention:
    def test_pytorch_s_own_is_the_same_twice(self):
        query = torch.randn(1, 5, 2, 4, generator=torch.Generator().manual_seed(0))
        from diffusers.models.attention_dispatch import dispatch_attention_fn

        with chosen_attention("auto"):
            left = dispatch_attention_fn(query, query, query)
        with chosen_attention("native"):
            chosen = dispatch_attention_fn(query, query, query)
        assert torch.equal(left, chosen)

    def test_another_choice_is_refused(self):
        with pytest.raises(ValueError, match="attention is 'slow'"), chosen_attention("slow"):
            pass

    def test_errors_of_the_work_pass_through(self):
        with pytest.raises(RuntimeError, match="of the work"), chosen_attention("native"):
            raise RuntimeError("of the work")
