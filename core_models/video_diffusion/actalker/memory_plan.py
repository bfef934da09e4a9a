"""How much memory ACTalker takes for a clip, and how it is run so that it fits: streams at once, offload, chunks.

Sizes are worked out from the networks' sizes, before anything is loaded. They are of the form without mamba-ssm's
kernel, on an accelerator, with regions that cover the whole picture: the most there can be.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from ...ssm.masked_ssm import DIRECTIONS, EXPANSION, STATE_SIZE, rows_at_once
from ..autoencoder import VideoAutoencoderParameters, new_video_autoencoder
from ..frame_coding import PUBLISHED_CHUNK
from ..memory_sizes import FLOAT32_BYTES, RESERVE_SHARE, STREAMED_PLACES, gigabytes, number_count
from .choices import picture_multiple
from .condition_projections import IDENTITY_TOKENS
from .controlled_transformer import JOINT, NO_LAYER
from .guidance import STREAMS
from .model import ACTalkerModel, ACTalkerParameters
from .unet import ACTalkerUNet, UNetParameters

DECODE_CHUNKS = (PUBLISHED_CHUNK, 5, 2, 1)
"""Frames decoded together, from the fastest to what needs least memory."""
LOOP_COPIES = 6
"""Of a clip's latents in the sampling loop: noise, latents before and after, their sum, and what adds to it."""
FEED_FORWARD_COPIES = 22
"""Of a level's tokens at once in the temporal block's second feed-forward: the gated projection 8, its gate through
GELU 4, their product 4, and residuals and inputs of the blocks around it 6."""
LAYER_COPIES = 2 + 5 * EXPANSION
"""Of a level's tokens around a scan: tokens and the block's input; two branches, the first one's result, the scan's
tokens, and these with the control tokens."""
SCAN_COPIES, SCAN_FLOAT32_COPIES = 4, 6
"""Of a scan's tokens in both directions: sequence and step sizes, each also channels first; then in float32 inputs,
steps, their product, these two in chunks, and outputs."""
SCAN_STATES = 5
"""Of all chunks' states at once."""
RESNET_COPIES = 3
"""Of a ResNet's input beside the result: joined with what was skipped, normalised, and through SiLU."""
DECODER_COPIES, ENCODER_COPIES = 6, 5
"""Of a level's features in its residual blocks: while time is blended in, and in the second convolution."""
DECODER_INPUT_COPIES = 3
"""Of what comes from below, as large as the level: itself, normalised, and through SiLU."""


@dataclass(frozen=True)
class ClipSize:
    """What is made: pixels of the picture, frames of the clip, frames of a window, and bytes of a number.

    Raises ValueError unless all are at least 1.
    """

    height: int
    width: int
    frames: int
    window: int
    number_bytes: int

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.frames, self.window, self.number_bytes) < 1:
            raise ValueError(f"{self}: height, width, frames, window and bytes must be at least 1")


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a clip takes, each part by itself.

    weights: of all of ACTalker's. weights_by_block: of what stays on the device and two places of the UNet's largest
    block. autoencoder: its weights. activations: of one stream of one window. conditions: latents and conditions of the
    clip. encoding: of the picture. decoding: of one frame; they add up.
    """

    weights: int
    weights_by_block: int
    autoencoder: int
    activations: int
    conditions: int
    encoding: int
    decoding: int

    def needed(self, by_block: bool, streams: int, chunk: int) -> int:
        """Return the bytes at the worst moment, with a reserve: everything stays, and one of three works."""
        working = max(streams * self.activations, self.encoding, chunk * self.decoding)
        stays = (self.weights_by_block if by_block else self.weights) + self.autoencoder + self.conditions
        return stays + math.ceil((1 + RESERVE_SHARE) * working)


@dataclass(frozen=True)
class MemoryPlan:
    """How a clip is run.

    by_block: whether the UNet's blocks come to the device one at a time. streams_at_once: guidance streams in one
    evaluation. decode_chunk: frames decoded together.
    """

    size: ClipSize
    dtype: str
    estimate: MemoryEstimate
    free_bytes: int
    by_block: bool
    streams_at_once: int
    decode_chunk: int

    @property
    def needed_bytes(self) -> int:
        """The bytes at the worst moment."""
        return self.estimate.needed(self.by_block, self.streams_at_once, self.decode_chunk)

    def describe(self) -> str:
        """Return one sentence for the log, before a run."""
        e, size = self.estimate, self.size
        kept = (
            f"offloaded by block ({gigabytes(e.weights_by_block)} there)"
            if self.by_block
            else "on the device"
        )
        streams = "1 stream" if self.streams_at_once == 1 else f"{self.streams_at_once} streams"
        chunk = "1 frame" if self.decode_chunk == 1 else f"{self.decode_chunk} frames"
        return (
            f"one window of {size.window} frames at {size.width}x{size.height}: weights {gigabytes(e.weights)} in "
            f"{self.dtype}, {kept}; activations {gigabytes(e.activations)} a stream, {streams} at a time; decoding "
            f"{chunk} at a time; {gigabytes(self.needed_bytes)} of {gigabytes(self.free_bytes)} free"
        )


def plan_for(
    parameters: ACTalkerParameters,
    autoencoder_parameters: VideoAutoencoderParameters,
    size: tuple[int, int],
    frames: int,
    dtype: str,
    free_bytes: int,
    window: int | None = None,
    can_offload: bool = True,
    streams: int | None = None,
) -> MemoryPlan:
    """Return the fastest way to make a clip that fits.

    size: (height, width) of the picture, pixels. frames: of the clip. dtype: such as "float16". free_bytes: of the
    device while neither network is on it. window: frames at once, None for the model's. can_offload: whether blocks
    can be kept elsewhere; not where the device is the CPU. streams: guidance streams at once, 1..4, None for as many
    as fit.
    Weights that stay come first, with as many streams at once as fit, then offload; the most frames that fit are
    decoded together. Raises ValueError when nothing fits, with what to lower and by how much, and for streams out of
    range.
    """
    if streams is not None and not 1 <= streams <= STREAMS:
        raise ValueError(f"streams is {streams}, expected 1..{STREAMS}, or None for as many as fit")
    window = parameters.defaults.window if window is None else window
    clip = ClipSize(*size, frames, window, getattr(torch, dtype).itemsize)
    limits = _Limits(parameters, autoencoder_parameters, free_bytes, can_offload, streams)
    chosen = limits.choice(clip)
    if chosen is None:
        raise ValueError(_refusal(limits, clip, dtype))
    return MemoryPlan(clip, dtype, limits.estimate(clip), free_bytes, *chosen)


@dataclass(frozen=True)
class _Limits:
    """What a clip must fit into, and what may be chosen for it."""

    parameters: ACTalkerParameters
    autoencoder: VideoAutoencoderParameters
    free_bytes: int
    can_offload: bool
    streams: int | None

    def estimate(self, clip: ClipSize) -> MemoryEstimate:
        return memory_estimate(self.parameters, self.autoencoder, clip)

    def choice(self, clip: ClipSize) -> tuple[bool, int, int] | None:
        """Return whether blocks are offloaded, streams and frames decoded at once; None when nothing fits."""
        estimate = self.estimate(clip)
        forms = (False, True) if self.can_offload else (False,)
        counts = range(STREAMS, 0, -1) if self.streams is None else (self.streams,)
        for form in itertools.product(forms, counts, DECODE_CHUNKS):
            if estimate.needed(*form) <= self.free_bytes:
                return form
        return None


def _refusal(limits: _Limits, clip: ClipSize, dtype: str) -> str:
    """Return what is too much, the least that would do, and what to lower."""
    estimate, streams = limits.estimate(clip), limits.streams or 1
    least = estimate.needed(limits.can_offload, streams, DECODE_CHUNKS[-1])
    weights = estimate.weights_by_block if limits.can_offload else estimate.weights
    together = "one stream" if streams == 1 else f"{streams} streams at once"
    return (
        f"one window of {clip.window} frames at {clip.width}x{clip.height} in {dtype} needs at least "
        f"{gigabytes(least)} ({gigabytes(weights + estimate.autoencoder)} of weights, "
        f"{gigabytes(streams * estimate.activations)} for {together}), {gigabytes(limits.free_bytes)} are free: "
        f"{_advice(limits, clip)}"
    )


def _advice(limits: _Limits, clip: ClipSize) -> str:
    """Return the largest values that fit, each by itself, of what can be lowered, and what else can be done."""
    lower = {
        "streams_at_once": next(_fewer_streams(limits, clip), None),
        "image_size": next(_smaller_sides(limits, clip), None),
        "window": next(_shorter_windows(limits, clip), None),
    }
    found = [f"lower {name} to {value}" for name, value in lower.items() if value is not None]
    smaller = "choose float16, " if clip.number_bytes > 2 else ""
    further = f"make the clip shorter, {smaller}free memory, or choose another device"
    return (
        f"{' or '.join(found)}; or {further}" if found else f"no smaller image_size or window fits; {further}"
    )


def _fewer_streams(limits: _Limits, clip: ClipSize) -> Iterator[int]:
    for streams in range((limits.streams or 1) - 1, 0, -1):
        if replace(limits, streams=streams).choice(clip) is not None:
            yield streams


def _smaller_sides(limits: _Limits, clip: ClipSize) -> Iterator[int]:
    """Yield the lower lengths of the shorter side that the model can take and that fit, the largest first."""
    step = picture_multiple(limits.parameters, limits.autoencoder.reduction)
    shorter = min(clip.height, clip.width)
    for side in range((shorter - 1) // step * step, 0, -step):
        height, width = (max(round(s * side / shorter / step), 1) * step for s in (clip.height, clip.width))
        if limits.choice(replace(clip, height=height, width=width)) is not None:
            yield side


def _shorter_windows(limits: _Limits, clip: ClipSize) -> Iterator[int]:
    for window in range(clip.window - 1, 0, -1):
        if limits.choice(replace(clip, window=window)) is not None:
            yield window


def fitting_chunk(parameters: VideoAutoencoderParameters, clip: ClipSize, free_bytes: int) -> int:
    """Return how many frames are decoded together: the most of DECODE_CHUNKS that fit, 1 where none does.

    free_bytes: of the device while the autoencoder is not on it, and nothing else is needed there.
    """
    fits = (chunk for chunk in DECODE_CHUNKS if chunk_bytes(parameters, clip, chunk) <= free_bytes)
    return next(fits, DECODE_CHUNKS[-1])


def chunk_bytes(parameters: VideoAutoencoderParameters, clip: ClipSize, chunk: int) -> int:
    """Return the bytes of the autoencoder and of decoding so many frames of a clip together, with a reserve."""
    working = min(chunk, clip.frames) * decoding_bytes(parameters, clip)
    return autoencoder_count(parameters) * clip.number_bytes + math.ceil((1 + RESERVE_SHARE) * working)


def memory_estimate(
    parameters: ACTalkerParameters, autoencoder_parameters: VideoAutoencoderParameters, clip: ClipSize
) -> MemoryEstimate:
    """Return what a clip takes."""
    whole, by_block = weight_counts(parameters)
    coder = autoencoder_count(autoencoder_parameters)
    reduction = autoencoder_parameters.reduction
    latents = math.ceil(clip.height / reduction), math.ceil(clip.width / reduction)
    tokens = parameters.audio.tokens
    return MemoryEstimate(
        weights=whole * clip.number_bytes,
        weights_by_block=by_block * clip.number_bytes,
        autoencoder=coder * clip.number_bytes,
        activations=activation_bytes(parameters.unet, clip.window, latents, clip.number_bytes, tokens),
        conditions=condition_bytes(parameters, clip, latents),
        encoding=encoding_bytes(autoencoder_parameters, clip),
        decoding=decoding_bytes(autoencoder_parameters, clip),
    )


def offloadable_blocks(unet: ACTalkerUNet) -> list[nn.Module]:
    """Return the parts of the UNet that work one after the other, and hold nearly all of its weights."""
    levels = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    return [part for level in levels for parts in level.children() for part in parts]


@functools.cache
def weight_counts(parameters: ACTalkerParameters) -> tuple[int, int]:
    """Return how many numbers the model holds, and how many of them are on the device when offloaded by block."""
    with torch.device("meta"):
        model = ACTalkerModel(parameters)
    blocks = [number_count(block) for block in offloadable_blocks(model.unet)]
    whole = number_count(model)
    return whole, whole - sum(blocks) + STREAMED_PLACES * max(blocks)


@functools.cache
def autoencoder_count(parameters: VideoAutoencoderParameters) -> int:
    """Return how many numbers the autoencoder holds."""
    with torch.device("meta"):
        return number_count(new_video_autoencoder(parameters))


def activation_bytes(
    parameters: UNetParameters,
    window: int,
    latents: tuple[int, int],
    number_bytes: int,
    control_tokens: int = 32,
) -> int:
    """Return the bytes of the tensors alive at the worst moment of evaluating one stream of one window.

    latents: (rows, columns). control_tokens: of a frame's sound. That moment is on the way up, at a level where the
    scan, a feed-forward network or a ResNet works while all that was skipped waits.
    """
    areas = level_areas(latents, len(parameters.channels))
    below = (*parameters.channels[1:], parameters.channels[-1])
    skipped = _skipped_numbers(parameters, window, areas)
    worst = 0
    for level, (channels, lower, area) in enumerate(zip(parameters.channels, below, areas, strict=True)):
        tokens = window * area
        works = [tokens * (RESNET_COPIES * (channels + lower) + channels) * number_bytes]
        if level < len(parameters.channels) - 1:
            works.append(FEED_FORWARD_COPIES * tokens * channels * number_bytes)
            works.append(_layer_bytes(parameters.layer, channels, window, area, number_bytes, control_tokens))
        worst = max(worst, tokens * lower * number_bytes + max(works))
    controls = 4 * window * (control_tokens + 2 * IDENTITY_TOKENS) * parameters.condition_width
    return worst + (skipped + controls) * number_bytes


def level_areas(latents: tuple[int, int], levels: int) -> list[int]:
    """Return rows times columns at each level; each halves both, rounded up."""
    return [math.prod(math.ceil(side / 2**level) for side in latents) for level in range(levels)]


def _skipped_numbers(parameters: UNetParameters, window: int, areas: list[int]) -> int:
    """Return how many numbers go round by the skips: the first convolution, every ResNet, every reduction."""
    total = areas[0] * parameters.channels[0]
    for level, channels in enumerate(parameters.channels):
        total += parameters.layers * areas[level] * channels
        total += areas[level + 1] * channels if level + 1 < len(areas) else 0
    return window * total


def _layer_bytes(
    layer: str, channels: int, window: int, area: int, number_bytes: int, control_tokens: int
) -> int:
    """Return the bytes of the masked SSM layer at the worst moment, within a scan in chunks over all tokens."""
    if layer == NO_LAYER:
        return 0
    rows, length = window, area + IDENTITY_TOKENS + control_tokens
    if layer == JOINT:
        rows, length = 1, window * (area + control_tokens) + IDENTITY_TOKENS
    rows = min(rows, rows_at_once(length, EXPANSION * channels))
    both = DIRECTIONS * EXPANSION * channels * rows
    chunks = math.ceil(length / max(1, round(math.sqrt(length / 2))))
    around = LAYER_COPIES * window * area * channels * number_bytes
    scan = both * length * (SCAN_COPIES * number_bytes + SCAN_FLOAT32_COPIES * FLOAT32_BYTES)
    return around + scan + SCAN_STATES * chunks * both * STATE_SIZE * FLOAT32_BYTES


def condition_bytes(parameters: ACTalkerParameters, clip: ClipSize, latents: tuple[int, int]) -> int:
    """Return the bytes of what is kept for all frames: latents in the loop, speech features, tokens, masks, pose."""
    audio, area = parameters.audio, math.prod(latents)
    in_loop = LOOP_COPIES * (clip.frames + clip.window) * parameters.unet.latent_channels * area
    heard = clip.frames * audio.rows * audio.layers * audio.channels
    tokens = 2 * clip.frames * (audio.tokens + IDENTITY_TOKENS) * audio.width
    masks = 3 * clip.height * clip.width
    posed = parameters.unet.channels[0] * area + 3 * parameters.pose.widths[0] * clip.height * clip.width
    return FLOAT32_BYTES * (in_loop + heard + masks) + clip.number_bytes * (heard + tokens + posed)


def encoding_bytes(parameters: VideoAutoencoderParameters, clip: ClipSize) -> int:
    """Return the bytes that encoding the picture takes, with what its weights take more where they are raised."""
    number_bytes = FLOAT32_BYTES if parameters.force_upcast else clip.number_bytes
    levels = zip(_pixel_areas(parameters, clip), parameters.block_out_channels, strict=True)
    raised = autoencoder_count(parameters) * (number_bytes - clip.number_bytes)
    return ENCODER_COPIES * number_bytes * max(area * channels for area, channels in levels) + raised


def decoding_bytes(parameters: VideoAutoencoderParameters, clip: ClipSize) -> int:
    """Return the bytes that decoding one frame takes; those of a chunk add up."""
    channels = parameters.block_out_channels
    lower = (*channels[1:], channels[-1])  # what came in from below waits, unless nothing is below
    levels = zip(_pixel_areas(parameters, clip), channels, lower, strict=True)
    return clip.number_bytes * max(
        area * max(DECODER_COPIES * own + below, DECODER_INPUT_COPIES * below) for area, own, below in levels
    )


def _pixel_areas(parameters: VideoAutoencoderParameters, clip: ClipSize) -> list[int]:
    return level_areas((clip.height, clip.width), len(parameters.block_out_channels))
