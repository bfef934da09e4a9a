"""Colours out of latents, without the autoencoder."""

import numpy as np
import torch
from talking_portrait.core_models.video_diffusion.latent_preview import LatentColours


def latents_of(colours):
    """Latents that are a linear map of colours (h, w, 3) in 0..255."""
    mix = torch.tensor([[0.02, 0.0, 0.01], [0.0, 0.03, 0.0], [0.01, 0.0, -0.02], [0.01, 0.01, 0.01]])
    return torch.einsum("ck,hwk->chw", mix, torch.from_numpy(colours).float()) - 1.0


def test_a_linear_autoencoder_is_read_exactly():
    colours = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)
    other = np.random.default_rng(1).integers(0, 256, (8, 6, 3), np.uint8)
    found = LatentColours.of_picture(latents_of(colours), colours)
    strip = found.strip(torch.stack([latents_of(other)]))
    assert strip.shape == (128, 96, 3)
    np.testing.assert_array_equal(strip[::16, ::16], other)


def test_a_few_frames_evenly_out_of_the_clip_side_by_side():
    greys = [np.full((4, 4, 3), 10 * level, np.uint8) for level in range(13)]
    ramp = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
    found = LatentColours.of_picture(latents_of(ramp[..., ::-1].copy()), ramp[..., ::-1].copy())
    strip = found.strip(torch.stack([latents_of(grey) for grey in greys]))
    assert strip.shape == (128, 4 * 128, 3)


def test_numbers_that_overflowed_do_not_stop_it():
    colours = np.zeros((4, 4, 3), np.uint8)
    found = LatentColours.of_picture(latents_of(colours), colours)
    assert found.strip(torch.full((1, 4, 4, 4), float("nan"))).max() == 0
