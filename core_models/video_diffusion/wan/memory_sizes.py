"""Bytes of Wan's networks beside the transformer, worked out from their sizes: weights, and what lives while they work.

The autoencoder works on one latent frame at a time, so its bytes do not depend on how long a clip is.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from ..memory_sizes import FLOAT32_BYTES, NetworkBytes, network_bytes, number_count
from .autoencoder import COLOURS, WanAutoencoderParameters, new_wan_autoencoder
from .clip_vision import clip_vision_blocks, new_clip_vision
from .text_encoder import TextEncoderParameters, may_stay_packed, new_text_encoder
from .tiled_decoding import TileSizes

READING_BYTES, SEEING_BYTES = 350_000_000, 60_000_000
"""The most that lives in half precision while a prompt of 512 tokens is read, and a picture seen by CLIP."""
EIGHT_BIT_READING_BYTES = 400_000_000
"""The most that lives while a prompt is read with weights in 8 bits, of which one layer's is unpacked at a time."""
LOOKED_BACK = 2
"""Frames that a causal convolution keeps of its input."""
NORMALISED_BYTES = 8
"""Of each number while half precision is normalised: as float32, and divided."""
DECODER_COPIES, ENCODER_COPIES = 3, 2
"""Of a level's features beside what is normalised: a residual block's input and first result; in the decoder, also what
came into the level."""
PADDED_COPIES = 2
"""Of a convolution's input and the frames it looks back at: joined, and padded."""
SHOWN_COPIES = 3
"""Of decoded pixels in float32 while tiles are blended: their sum, a tile's share, and the result."""


@functools.cache
def text_encoder_bytes(
    number_bytes: int, eight_bit_file: bool = False, parameters: TextEncoderParameters | None = None
) -> NetworkBytes:
    """Return the bytes of umT5-XXL's weights, or of an encoder of other sizes.

    eight_bit_file: whether its file has weights in 8 bits. Those of linear layers stay so, each row with its scale, but
    for the layers that `text_encoder.may_stay_packed` names; embeddings become numbers of number_bytes.
    """
    with torch.device("meta"):
        encoder = new_text_encoder(parameters)
    plain = network_bytes(encoder, encoder.encoder.block, number_bytes)
    if not eight_bit_file:
        return plain
    saved = (_bytes_saved(block, number_bytes) for block in encoder.encoder.block)
    blocks = tuple(size - less for size, less in zip(plain.blocks, saved, strict=True))
    return NetworkBytes(plain.between, blocks)


def _bytes_saved(block: nn.Module, number_bytes: int) -> int:
    """Return how many bytes a block of the text encoder takes less with linear layers in 8 bits."""
    packed = [
        layer.weight
        for name, layer in block.named_modules()
        if isinstance(layer, nn.Linear) and may_stay_packed(f"{name}.weight")
    ]
    return sum((number_bytes - 1) * one.numel() - FLOAT32_BYTES * len(one) for one in packed)


@functools.cache
def clip_vision_bytes(number_bytes: int) -> NetworkBytes:
    """Return the bytes of ViT-H/14's weights."""
    with torch.device("meta"):
        network = new_clip_vision()
    return network_bytes(network, clip_vision_blocks(network), number_bytes)


@functools.cache
def wan_autoencoder_count(parameters: WanAutoencoderParameters) -> int:
    """Return how many numbers the autoencoder holds."""
    with torch.device("meta"):
        return number_count(new_wan_autoencoder(parameters))


@dataclass(frozen=True)
class _Level:
    """A resolution of the encoder or the decoder.

    area: rows times columns. frames: of a latent frame. channels: within. kept: numbers that its convolutions keep.
    """

    area: int
    frames: int
    channels: int
    kept: int


def decoding_bytes(parameters: WanAutoencoderParameters, height: int, width: int, number_bytes: int) -> int:
    """Return the bytes that live while one latent frame is decoded, with what the decoder looks back at.

    height, width: pixels.
    """
    return _coding_bytes(list(_decoder_levels(parameters, height, width)), number_bytes, DECODER_COPIES)


def tiled_decoding_bytes(
    parameters: WanAutoencoderParameters, height: int, width: int, number_bytes: int, tiles: TileSizes
) -> int:
    """Return the bytes that live while one latent frame is decoded in tiles; those not at work wait elsewhere."""
    side = parameters.pixels_per_latent
    tile = min(height, tiles.height * side), min(width, tiles.width * side)
    shown = SHOWN_COPIES * FLOAT32_BYTES * COLOURS * parameters.frames_per_latent * height * width
    return decoding_bytes(parameters, *tile, number_bytes) + shown


def encoding_bytes(parameters: WanAutoencoderParameters, height: int, width: int, number_bytes: int) -> int:
    """Return the bytes that live while one latent frame is encoded, with what the encoder looks back at."""
    return _coding_bytes(list(_encoder_levels(parameters, height, width)), number_bytes, ENCODER_COPIES)


def _coding_bytes(levels: list[_Level], number_bytes: int, copies: int) -> int:
    """Return all that is kept, and what the level at work takes: normalising, or convolving what is padded."""
    kept = sum(level.kept for level in levels)
    return kept * number_bytes + max(_working_bytes(level, number_bytes, copies) for level in levels)


def _working_bytes(level: _Level, number_bytes: int, copies: int) -> int:
    raised = NORMALISED_BYTES if number_bytes < FLOAT32_BYTES else FLOAT32_BYTES
    normalising = level.frames * (raised + copies * number_bytes)
    joined = PADDED_COPIES * (level.frames + LOOKED_BACK)
    convolving = (joined + copies * level.frames + LOOKED_BACK) * number_bytes
    return level.area * level.channels * max(normalising, convolving)


def _areas(parameters: WanAutoencoderParameters, height: int, width: int) -> list[int]:
    """Return rows times columns of each level, from the pictures' size down."""
    sides = [parameters.patch_size * 2**level for level in range(len(parameters.dim_mult))]
    return [math.ceil(height / side) * math.ceil(width / side) for side in sides]


def _frames(parameters: WanAutoencoderParameters) -> list[int]:
    """Return the frames of a latent frame at each level, from the pictures' size down."""
    halved = itertools.accumulate(parameters.temporal_downsample, initial=0)
    return [parameters.frames_per_latent // 2**times for times in halved]


def _decoder_levels(p: WanAutoencoderParameters, height: int, width: int) -> Iterator[_Level]:
    """Yield the levels from the latents up."""
    base = p.decoder_base_dim or p.base_dim
    channels = [base * times for times in p.dim_mult][::-1]
    coming = channels[0]
    sizes = zip(channels, _areas(p, height, width)[::-1], _frames(p)[::-1], strict=True)
    for number, (own, area, frames) in enumerate(sizes):
        kept = coming + (2 * (p.num_res_blocks + 1) - 1) * own
        if number == 0:  # the first convolution and the middle
            kept += p.z_dim + 4 * own
        last = number == len(channels) - 1
        doubles_time = not last and p.temporal_downsample[::-1][number]
        kept += own * (last or doubles_time)  # the last convolution, or the one that makes two frames of one
        yield _Level(area, frames, own, LOOKED_BACK * area * kept)
        coming = own if p.is_residual else own // 2


def _encoder_levels(p: WanAutoencoderParameters, height: int, width: int) -> Iterator[_Level]:
    """Yield the levels from the pictures down."""
    channels = [p.base_dim * times for times in p.dim_mult]
    coming = p.base_dim
    areas, last = _areas(p, height, width), len(channels) - 1
    for number, (own, area, frames) in enumerate(zip(channels, areas, _frames(p), strict=True)):
        kept = LOOKED_BACK * area * (coming + (2 * p.num_res_blocks - 1) * own)
        if number == 0:
            kept += LOOKED_BACK * area * COLOURS * p.patch_size**2
        if number == last:  # the middle and the last convolution
            kept += LOOKED_BACK * area * 5 * own
        elif p.temporal_downsample[number]:
            kept += areas[number + 1] * own
        yield _Level(area, frames, max(own, coming), kept)
        coming = own
