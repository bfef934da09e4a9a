"""Decoding in tiles: the release's blend, no seams, frame by frame, and what it saves."""

import pytest
import torch
from talking_portrait.core_models.video_diffusion.wan.autoencoder import (
    WanAutoencoderParameters,
    decode_video,
    decoded_chunks,
    new_wan_autoencoder,
)
from talking_portrait.core_models.video_diffusion.wan.tiled_decoding import (
    RELEASED_TILES,
    TileSizes,
    blended_frames,
    tile_ramp,
    tile_starts,
    tiled_chunks,
)

from .wan_golden import assert_agrees, read_case

SMALL = WanAutoencoderParameters.unmeasured(
    base_dim=4, z_dim=2, dim_mult=(1, 2, 2), num_res_blocks=1, temporal_downsample=(True, True), patch_size=2
)
TILES = TileSizes(4, 6, 2, 3)


@pytest.fixture(scope="module")
def autoencoder():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return new_wan_autoencoder(SMALL).eval().requires_grad_(False)


def noise(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def enlarged(latents):
    return latents.repeat_interleave(8, -2).repeat_interleave(8, -1)


def test_blends_as_the_release(golden_folder):
    case, arrays, inputs = read_case(golden_folder, "vae_tile_blend")

    def decode(_number, tile):
        pixels = enlarged(tile[:3].mean(1, keepdim=True))
        return 0.2 * pixels + 0.001 * torch.arange(pixels.shape[-1])

    blended = blended_frames(decode, inputs["z"][0], TileSizes(12, 16, 6, 8)).clamp(-1, 1)
    assert_agrees(case, arrays, "out", blended[None], 1e-5)


def test_tiles_cover_every_cell_and_stop_at_the_end():
    for cells in range(1, 70):
        for size, stride in ((30, 15), (4, 3), (4, 4), (5, 1)):
            starts = tile_starts(cells, size, stride)
            covered = {cell for start in starts for cell in range(start, min(start + size, cells))}
            assert covered == set(range(cells))
            assert starts[-1] == 0 or starts[-2] + size < cells  # the last was needed
            assert all(cells - start > size - stride for start in starts[1:])  # longer than its ramp
    assert [len(tile_starts(64, 30, 15)), len(tile_starts(64, 52, 26))] == [4, 2]  # 512 x 512: 8 tiles


def test_ramps_of_neighbours_add_to_almost_one():
    """(i + 1) / border rising and falling over the same pixels: their sum is 1 + 1 / border everywhere."""
    rising, falling = tile_ramp(8, 4, True, False), tile_ramp(8, 4, False, True)
    torch.testing.assert_close(rising[:4] + falling[-4:], torch.full((4,), 1.25))
    assert torch.equal(rising[4:], torch.ones(4))
    assert torch.equal(tile_ramp(3, 0, True, True), torch.ones(3))


def test_what_does_not_depend_on_the_tile_has_no_seams():
    latents = noise(3, 1, 11, 17)
    blended = blended_frames(lambda _number, tile: enlarged(tile), latents, TILES)
    torch.testing.assert_close(blended, enlarged(latents))


def test_tiles_are_known_by_their_numbers():
    seen = []
    for _frame in range(2):
        blended_frames(lambda number, tile: seen.append(number) or enlarged(tile), noise(3, 1, 6, 9), TILES)
    assert seen == [0, 1, 2, 3] * 2


def test_one_tile_is_the_plain_decode(autoencoder):
    latents = noise(2, 4, 3, 5)
    plain, tiled = (
        torch.cat(list(chunks(autoencoder, latents)), 1) for chunks in (decoded_chunks, tiled_chunks)
    )
    assert torch.equal(plain, tiled)


@pytest.mark.parametrize("caches_on", [None, "cpu"])
def test_frame_by_frame_is_tile_by_tile(autoencoder, caches_on):
    """The release's order: every tile's whole clip, then the blend."""
    latents = noise(2, 2, 6, 9)
    chunks = list(tiled_chunks(autoencoder, latents, TILES, caches_on=caches_on))
    assert [chunk.shape for chunk in chunks] == [(3, n, 48, 72) for n in (1, 4)]
    whole = blended_frames(lambda _number, tile: decode_video(autoencoder, tile[None])[0], latents, TILES)
    torch.testing.assert_close(torch.cat(chunks, 1), whole.clamp(-1, 1), atol=1e-6, rtol=0)


def test_tiles_are_near_the_plain_decode(autoencoder):
    """Not equal: a tile does not see beyond its edges, and its attention sees the tile only."""
    latents = noise(2, 2, 12, 12) * 0.1
    plain, tiled = (
        torch.cat(list(chunks), 1)
        for chunks in (
            decoded_chunks(autoencoder, latents),
            tiled_chunks(autoencoder, latents, TileSizes(8, 8, 4, 4)),
        )
    )
    assert (plain - tiled).abs().mean() < 0.15 * plain.std()


class Stopped(Exception):
    pass


def test_work_ends_between_tiles(autoencoder):
    calls = []

    def check():
        calls.append(None)
        if len(calls) == 6:
            raise Stopped

    chunks = tiled_chunks(autoencoder, noise(2, 3, 6, 9), TILES, check)
    next(chunks)
    assert len(calls) == 4
    with pytest.raises(Stopped):
        next(chunks)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((4, 6, 5, 3), "row_stride is 5, expected 1 to the tile's height, 4"),
        ((4, 6, 2, 0), "column_stride is 0, expected 1 to the tile's width, 6"),
    ],
)
def test_sizes_that_do_not_fit(sizes, message):
    with pytest.raises(ValueError, match=message):
        TileSizes(*sizes)


def test_latents_that_do_not_fit(autoencoder):
    with pytest.raises(ValueError, match=r"expected \(2, frames, height, width\)"):
        next(tiled_chunks(autoencoder, torch.zeros(4, 1, 2, 2)))


def test_the_release_overlaps_by_half():
    assert TileSizes(30, 52, 15, 26) == RELEASED_TILES
