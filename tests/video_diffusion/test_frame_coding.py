"""Pictures to latents and back, in chunks."""

import numpy as np
import pytest
import torch
from talking_portrait.core_models.video_diffusion.autoencoder import (
    VideoAutoencoderParameters,
    new_video_autoencoder,
)
from talking_portrait.core_models.video_diffusion.frame_coding import (
    decoded_frames,
    decoded_parts,
    encoded_picture,
)

SIZES = VideoAutoencoderParameters((32, 32), layers_per_block=1, scaling_factor=0.5)


@pytest.fixture(scope="module")
def autoencoder():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return new_video_autoencoder(SIZES).eval().requires_grad_(False)


def latents(count):
    return torch.randn(count, 4, 6, 5, generator=torch.Generator().manual_seed(1))


def test_a_picture_becomes_its_unscaled_mode(autoencoder):
    picture = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)
    found = encoded_picture(autoencoder, picture)
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1
    assert found.shape == (4, 6, 5)
    assert torch.equal(found, autoencoder.encode(pixels).latent_dist.mode()[0])


def test_half_precision_is_left_for_encoding_only(autoencoder):
    half = new_video_autoencoder(SIZES).requires_grad_(False).to(torch.bfloat16)
    assert encoded_picture(half, np.zeros((8, 8, 3), np.uint8)).dtype == torch.float32
    assert half.dtype == torch.bfloat16


def test_memory_that_runs_out_on_the_way_to_float32_leaves_one_precision(monkeypatch):
    half = new_video_autoencoder(SIZES).requires_grad_(False).to(torch.bfloat16)
    convert, calls = half.decoder._apply, []

    def first_fails(*given, **named):
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("no memory for float32")
        return convert(*given, **named)

    monkeypatch.setattr(half.decoder, "_apply", first_fails)
    with pytest.raises(torch.OutOfMemoryError, match="no memory for float32"):
        encoded_picture(half, np.zeros((8, 8, 3), np.uint8))
    assert {value.dtype for value in half.state_dict().values() if value.is_floating_point()} == {
        torch.bfloat16
    }


@pytest.mark.parametrize("count", [1, 4, 5, 9])
def test_chunks_that_do_not_overlap_are_decoded_each_by_itself(autoencoder, count):
    found = decoded_frames(autoencoder, latents(count), chunk=4)
    parts = [autoencoder.decode(part / 0.5, num_frames=len(part)).sample for part in latents(count).split(4)]
    expected = (torch.cat(parts) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    assert found.shape == (count, 12, 10, 3)
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 6, 10, 11])
def test_overlapping_chunks_keep_every_frame_and_fade(autoencoder, count):
    found = decoded_frames(autoencoder, latents(count), chunk=4, overlap=2)
    assert found.shape == (count, 12, 10, 3)
    assert torch.isfinite(found).all()
    first = decoded_frames(autoencoder, latents(count)[:4], chunk=4)
    assert torch.allclose(found[:2], first[:2], atol=1e-6)
    if count > 4:
        following = decoded_frames(autoencoder, latents(count)[2:6], chunk=4)
        assert torch.allclose(found[2], (2 * first[2] + following[0]) / 3, atol=1e-6)
        assert torch.allclose(found[3], (first[3] + 2 * following[1]) / 3, atol=1e-6)


def test_what_is_decoded_at_a_time_is_bounded(autoencoder, monkeypatch):
    seen = []
    decode = autoencoder.decode
    monkeypatch.setattr(
        autoencoder,
        "decode",
        lambda z, num_frames: seen.append(num_frames) or decode(z, num_frames=num_frames),
    )
    decoded_frames(autoencoder, latents(11), chunk=4, overlap=1)
    assert max(seen) == 4


@pytest.mark.parametrize(("count", "overlap"), [(1, 2), (4, 0), (9, 0), (10, 1), (11, 3)])
def test_parts_one_by_one_are_the_whole(autoencoder, monkeypatch, count, overlap):
    whole = decoded_frames(autoencoder, latents(count), chunk=4, overlap=overlap)
    decodings, decode = [], autoencoder.decode
    monkeypatch.setattr(
        autoencoder, "decode", lambda z, num_frames: decodings.append(1) or decode(z, num_frames=num_frames)
    )
    parts = []
    for part in decoded_parts(autoencoder, latents(count), chunk=4, overlap=overlap):
        parts.append(part)
        assert len(decodings) == len(parts), "a chunk is decoded when its part is asked for"
    assert torch.equal(torch.cat(parts), whole)


def test_progress_counts_chunks(autoencoder):
    seen = []
    decoded_frames(autoencoder, latents(9), chunk=4, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(("chunk", "overlap"), [(4, 4), (4, -1), (0, 0)])
def test_bad_chunks_are_refused(autoencoder, chunk, overlap):
    with pytest.raises(ValueError, match="cannot share"):
        decoded_frames(autoencoder, latents(2), chunk, overlap)


def test_an_overflow_of_the_decoder_is_named(autoencoder):
    with pytest.raises(FloatingPointError, match="decoder gave infinity or NaN in float32"):
        decoded_frames(autoencoder, latents(1) * float("inf"))
