"""What Wan is given of the first frame: mask, video and CLIP's view, the release's and in meaning."""

import json
import re

import numpy as np
import pytest
import torch
from talking_portrait.core_models.video_diffusion.wan.frame_rules import (
    image_values,
    latent_frames,
    prepared_image,
    stretched,
)
from talking_portrait.core_models.video_diffusion.wan.image_conditions import (
    CLIP_MEAN,
    CLIP_SPREAD,
    clip_vision_pixels,
    condition_video,
    first_frame_mask,
    image_conditions,
)

from .wan_golden import assert_agrees, made_input, weight_tools


@pytest.fixture(scope="module")
def case(golden_folder):
    path = golden_folder / "fantasytalking" / "image_conditioning.json"
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    case = json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as arrays:
        arrays = {key: arrays[key] for key in arrays.files}
    call = re.match(r"(input_for\(.*\))\.astype\(uint8\)", case["inputs"]["image"])[1]
    picture = made_input(weight_tools(golden_folder), call).numpy().astype(np.uint8)
    image = image_values(stretched(picture, case["width"], case["height"]))
    return case, arrays, image


class TestGolden:
    def test_mask(self, case):
        case, arrays, _ = case
        latents = latent_frames(case["num_frames"])
        mask = first_frame_mask(latents, case["height"] // 8, case["width"] // 8)
        assert_agrees(case, arrays, "mask", mask, 0)

    def test_image_and_video(self, case):
        case, arrays, image = case
        video = condition_video(image, case["num_frames"])
        assert_agrees(case, arrays, "image", image[None], 1e-6)
        assert_agrees(case, arrays, "vae_input_first", video[:, 0], 1e-6)
        assert_agrees(case, arrays, "vae_input_rest_absmax", video[:, 1:].abs().max(), 0)
        assert video.shape[1] == case["num_frames"]


def test_the_mask_counts_the_first_frame_for_a_whole_group():
    """4 channels of the first latent frame; one video frame fills them all."""
    mask = first_frame_mask(3, 2, 5)
    assert mask.shape == (4, 3, 2, 5)
    assert (mask[:, 0] == 1).all()
    assert not mask[:, 1:].any()


def test_the_video_is_grey_after_the_image():
    image = torch.rand(3, 16, 32) * 2 - 1
    video = condition_video(image, 9)
    assert video.shape == (3, 9, 16, 32)
    assert torch.equal(video[:, 0], image)
    assert not video[:, 1:].any()
    assert torch.equal(condition_video(image, 1)[:, 0], image)


@pytest.mark.parametrize("batch", [(), (2,)])
def test_conditions_are_the_mask_above_the_latents(batch):
    mask, latents = first_frame_mask(3, 4, 5), torch.randn(*batch, 16, 3, 4, 5, dtype=torch.bfloat16)
    joined = image_conditions(mask, latents)
    assert joined.shape == (*batch, 20, 3, 4, 5)
    assert joined.dtype == torch.bfloat16
    assert torch.equal(joined[..., 4:, :, :, :], latents)
    assert (joined[..., :4, :, :, :] == mask).all()


class TestClipVisionPixels:
    def test_of_one_colour_are_that_colour_by_mean_and_spread(self):
        pixels = clip_vision_pixels(torch.full((3, 40, 72), 0.5))
        assert pixels.shape == (3, 224, 224)
        expected = [(0.75 - mean) / spread for mean, spread in zip(CLIP_MEAN, CLIP_SPREAD, strict=True)]
        torch.testing.assert_close(pixels.mean(dim=(1, 2)), torch.tensor(expected))

    def test_of_their_own_size_are_only_normalised(self):
        image = torch.rand(3, 224, 224) * 2 - 1
        mean, spread = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_SPREAD))
        torch.testing.assert_close(clip_vision_pixels(image) * spread + mean, (image + 1) / 2)

    def test_of_a_wide_picture_show_all_of_it(self):
        """Squashed, not cropped: both ends are seen."""
        image = torch.zeros(3, 32, 320)
        image[..., :32], image[..., -32:] = -1, 1
        pixels = clip_vision_pixels(image)
        assert (pixels[..., 5] < pixels[..., 112]).all()
        assert (pixels[..., 112] < pixels[..., 218]).all()

    def test_of_fine_stripes_are_not_averaged(self):
        image = torch.ones(3, 16, 896)
        image[..., ::2] = -1
        spread = torch.tensor(CLIP_SPREAD)
        seen = clip_vision_pixels(image).std(dim=(1, 2)) * spread
        assert seen.max() < 1e-3  # four source pixels to one: the same two are always met
        assert clip_vision_pixels(image[..., :893]).std() > 0.1  # averaging would leave grey

    def test_of_a_batch_are_those_of_each(self):
        images = torch.rand(2, 3, 30, 50)
        together = clip_vision_pixels(images)
        torch.testing.assert_close(together[1], clip_vision_pixels(images[1]))
        assert together.shape == (2, 3, 224, 224)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: first_frame_mask(0, 8, 8), "0 x 8 x 8 latents is empty"),
        (lambda: condition_video(torch.zeros(1, 8, 8), 5), r"\(1, 8, 8\), expected \(3, H, W\)"),
        (lambda: condition_video(torch.zeros(3, 8, 8), 6), "there are 6 frames"),
        (lambda: image_conditions(first_frame_mask(3, 4, 5), torch.zeros(16, 2, 4, 5)), r"\(16, 2, 4, 5\)"),
        (lambda: image_conditions(torch.zeros(3, 4, 5), torch.zeros(16, 3, 4, 5)), r"\(3, 4, 5\)"),
        (lambda: clip_vision_pixels(torch.zeros(8, 8)), r"\(8, 8\), expected"),
        (lambda: clip_vision_pixels(torch.zeros(1, 4, 8, 8)), r"\(4, 8, 8\), expected"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_prepared_picture_goes_straight_in():
    image = prepared_image(np.zeros((30, 90, 3), np.uint8), 64)
    assert condition_video(image, 5).shape == (3, 5, 32, 64)
