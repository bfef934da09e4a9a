"""Lengths and sizes of Wan's videos: the release's to the frame and pixel, and ours, which cut nothing."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.audio.frame_clock import exact_rate
from talking_portrait.core_models.video_diffusion.wan import frame_rules
from talking_portrait.core_models.video_diffusion.wan.frame_rules import (
    covering_frames,
    image_values,
    latent_frames,
    prepared_image,
    release_frames,
    rendered_size,
    resized_size,
    stretched,
    video_frames,
)

RATES = st.sampled_from([12.5, 23.0, 23.976, 25.0, 29.97, 60.0])


@pytest.fixture(scope="module")
def rules(golden_folder):
    path = golden_folder / "fantasytalking" / "frame_and_size_rules.json"
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    return json.loads(path.read_text())


class TestGolden:
    def test_frames(self, rules):
        largest = rules["max_num_frames"]
        found = [release_frames(row["duration"], rules["fps"], largest) for row in rules["num_frames"]]
        assert found == [row["num_frames"] for row in rules["num_frames"]]

    def test_sizes(self, rules):
        for row in rules["image_sizes"]:
            assert list(resized_size(*row["size"], row["target"])) == row["resized"], row
            assert list(rendered_size(*row["size"], row["target"])) == row["render"], row

    def test_every_number_of_frames_fits_the_latents(self, rules):
        for row in rules["num_frames"]:
            assert video_frames(latent_frames(row["num_frames"])) == row["num_frames"]


class TestFrames:
    @settings(deadline=None)
    @given(st.integers(1, 5000))
    def test_there_and_back(self, latents):
        assert latent_frames(video_frames(latents)) == latents

    @settings(deadline=None)
    @given(duration=st.floats(0, 700), fps=RATES)
    def test_cover_the_sound_with_less_than_a_group_too_much(self, duration, fps):
        frames = covering_frames(duration, fps)
        assert frames == video_frames(latent_frames(frames)) >= 5
        assert frames / exact_rate(fps) >= Fraction(duration) - Fraction(1, 10**5)
        if frames > 5:
            assert (frames - 4) / exact_rate(fps) < duration

    @settings(deadline=None)
    @given(duration=st.floats(0, 700), fps=RATES)
    def test_of_the_release_are_one_to_five_too_many(self, duration, fps):
        frames = release_frames(duration, fps, largest=1_000_001)
        assert 1 - 1e-9 <= frames - duration * fps <= 5 + 1e-9
        assert release_frames(duration, fps) == min(frames, 81)
        assert covering_frames(duration, fps) <= frames

    def test_of_ten_minutes_are_all_there(self):
        assert covering_frames(600, 23) == 13801

    @pytest.mark.parametrize(("frames", "better"), [(0, 1), (-3, 1), (2, 5), (4, 5), (80, 81), (82, 85)])
    def test_that_no_latents_hold_are_refused_with_those_that_would(self, frames, better):
        with pytest.raises(ValueError, match=f"there are {frames} frames.*use {better}$"):
            latent_frames(frames)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: video_frames(0), "0 latent frames"),
            (lambda: covering_frames(-1, 23), "duration is -1"),
            (lambda: covering_frames(1, 0), "fps is 0"),
            (lambda: release_frames(math.nan), "duration is nan"),
            (lambda: release_frames(-0.5), "duration is -0.5"),
            (lambda: release_frames(1, 0), "fps is 0"),
            (lambda: release_frames(1, largest=80), "largest number of frames is 80"),
            (lambda: release_frames(1, largest=1), "largest number of frames is 1"),
        ],
    )
    def test_that_cannot_be_are_refused(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()


class TestSizes:
    @settings(deadline=None)
    @given(
        width=st.integers(1, 9000),
        height=st.integers(1, 9000),
        image_size=st.integers(16, 1280),
        multiple=st.sampled_from([8, 16, 32]),
    )
    def test_keep_the_aspect_to_a_multiple(self, width, height, image_size, multiple):
        across, down = rendered_size(width, height, image_size, multiple)
        assert across % multiple == down % multiple == 0
        assert min(across, down) >= multiple
        scale = image_size / max(width, height)
        assert -1 <= across - width * scale < multiple
        assert -1 <= down - height * scale < multiple
        assert rendered_size(height, width, image_size, multiple) == (down, across)

    def test_of_a_picture_one_pixel_high(self):
        assert resized_size(5000, 1, 512) == (512, 1)
        assert prepared_image(np.zeros((1, 5000, 3), np.uint8), 64).shape == (3, 16, 64)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((0, 9, 512), "no pixels: 0 x 9"),
            ((9, 9, 15), "15 px is below the model's least, 16 px"),
            ((9, 9, 512, 0), "multiples of 0"),
        ],
    )
    def test_that_cannot_be_are_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            rendered_size(*arguments)


class TestPreparedImage:
    def test_is_in_minus_one_to_one(self):
        ends = np.zeros((2, 1, 3), np.uint8)
        ends[1] = 255
        values = image_values(ends)
        assert values.dtype == torch.float32
        assert values.is_contiguous()
        torch.testing.assert_close(values[:, :, 0], torch.tensor([[-1.0, 1.0]] * 3))

    def test_of_its_own_size_is_the_picture(self):
        picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        assert torch.equal(prepared_image(picture, 64), image_values(picture))

    def test_keeps_one_colour_and_the_order_of_sides_and_channels(self):
        picture = np.zeros((30, 90, 3), np.uint8)
        picture[..., 0] = 200
        picture[:15, :, 2] = 100
        before = picture.copy()
        image = prepared_image(picture, 128)
        assert image.shape == (3, 48, 128)
        torch.testing.assert_close(image[0], torch.full((48, 128), 200 * 2 / 255 - 1))
        assert (image[1] == -1).all()
        assert image[2, :16].mean() > image[2, -16:].mean() + 0.7
        assert np.array_equal(picture, before)

    @pytest.mark.parametrize(
        ("width", "height", "said"),
        [
            (400, 5, "400 x 5 px becomes 512 x 16: it is stretched to 2.5 times its height"),
            (5, 400, "its width"),
        ],
    )
    def test_that_is_stretched_much_is_said(self, width, height, said, caplog):
        prepared_image(np.zeros((height, width, 3), np.uint8), 512)
        assert said in caplog.text
        caplog.clear()
        for other in ((500, 333), (333, 500), (512, 80), (64, 64)):
            prepared_image(np.zeros((*other, 3), np.uint8), 512)
        assert not caplog.text

    def test_goes_through_both_resizings(self, monkeypatch):
        calls = []
        whole = stretched
        monkeypatch.setattr(
            frame_rules, "stretched", lambda p, *size: calls.append((p.shape, size)) or whole(p, *size)
        )
        prepared_image(np.zeros((333, 500, 3), np.uint8), 512)
        assert calls == [((340, 512, 3), (512, 352))]

    @pytest.mark.parametrize(
        "picture",
        [
            np.zeros((8, 8), np.uint8),
            np.zeros((8, 8, 4), np.uint8),
            np.zeros((8, 8, 3)),
            np.zeros((0, 8, 3), np.uint8),
        ],
        ids=["grey", "transparent", "float", "empty"],
    )
    @pytest.mark.parametrize(
        "call", [lambda p: prepared_image(p, 64), lambda p: stretched(p, 16, 16), image_values]
    )
    def test_of_anything_else_is_refused(self, picture, call):
        with pytest.raises(ValueError, match=r"the picture is .*expected uint8"):
            call(picture)
