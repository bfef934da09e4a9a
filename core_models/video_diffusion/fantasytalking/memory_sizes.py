"""Bytes of FantasyTalking's network, worked out from its sizes: weights in each storage, and what lives in a pass."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..memory_sizes import FLOAT32_BYTES, NetworkBytes
from .loading import stays_in_float32
from .model import FantasyTalkingModel
from .parameters import FantasyTalkingParameters

AS_COMPUTED, EIGHT_BITS, EIGHT_BIT_FILE = "as computed", "8 bits", "8-bit file"
"""How weights of linear layers lie in memory: in the precision they compute in; all of the blocks' in 8 bits; or those
of Wan in 8 bits because its file has them so, and those for sound not."""
STORAGES = (AS_COMPUTED, EIGHT_BITS, EIGHT_BIT_FILE)
UNPACKING_BYTES = 8
"""Of each weight of a layer while it is unpacked from 8 bits: in float32, before and after it is scaled."""
ROTATED_COPIES = 6.5
"""Of a block's tokens in float32 while keys are given their places: residual, normalised input, queries, keys, the
result, and one and a half of what it is put together from."""
LISTENING_COPIES = 4
"""Of a block's tokens in float32 within cross-attention: residual before and after self-attention, normalised input,
queries."""
LISTENING_HALVES = 5
"""Likewise, of those in the computing precision: self-attention's result, what text gave, and sound's three times."""
FEEDING_COPIES = 3
"""Of a block's tokens in float32 around the feed-forward network: residual before and after, normalised input."""
ADDING_COPIES = 5
"""Of a block's tokens in float32 while the feed-forward network's result is added: as before, scaled, and the sum."""
TOKEN_COPIES = 3
"""Of the tokens of text and picture: as given, as the network has them, and joined."""
CLIP_VISION_TOKENS = 257


@dataclass(frozen=True)
class WindowSize:
    """What one pass works on. frames: latent frames. height, width: of latents. sound: tokens a latent frame hears.

    Raises ValueError unless all are at least 1.
    """

    frames: int
    height: int
    width: int
    sound: int = 32

    def __post_init__(self) -> None:
        if min(self.frames, self.height, self.width, self.sound) < 1:
            raise ValueError(f"{self}: frames, height, width and sound must be at least 1")


@functools.cache
def model_bytes(
    parameters: FantasyTalkingParameters, number_bytes: int, storage: str = AS_COMPUTED
) -> NetworkBytes:
    """Return the bytes of the model's weights. number_bytes: of what the blocks compute in.

    Raises ValueError for a storage that is not one of STORAGES.
    """
    if storage not in STORAGES:
        raise ValueError(f"storage is {storage!r}, expected one of {', '.join(STORAGES)}")
    with torch.device("meta"):
        model = FantasyTalkingModel(replace(parameters, wan=replace(parameters.wan, num_layers=1)))
    (block,) = model.transformer.blocks
    sizes = _sizes(model, number_bytes, storage)
    within = {id(value) for value in (*block.parameters(), *block.buffers())}
    in_block = sum(size for key, size in sizes.items() if key in within)
    between = sum(sizes.values()) - in_block
    return NetworkBytes(between, (in_block,) * parameters.wan.num_layers)


def _sizes(model: nn.Module, number_bytes: int, storage: str) -> dict[int, int]:
    """Return the bytes of each parameter and buffer, by its id."""
    sizes = {id(value): value.numel() * value.element_size() for value in model.buffers()}
    linear = {id(one.weight) for one in model.transformer.blocks.modules() if type(one) is nn.Linear}
    for name, value in model.named_parameters():
        numbers, wide = value.numel(), stays_in_float32(name)
        packed = storage == EIGHT_BITS or (storage == EIGHT_BIT_FILE and ".processor." not in name)
        if packed and id(value) in linear:
            sizes[id(value)] = numbers + FLOAT32_BYTES * value.shape[0]
        else:
            sizes[id(value)] = numbers * (FLOAT32_BYTES if wide else number_bytes)
    return sizes


def activation_bytes(
    parameters: FantasyTalkingParameters,
    window: WindowSize,
    number_bytes: int,
    storage: str = AS_COMPUTED,
) -> int:
    """Return the bytes of the tensors alive at the worst moment of evaluating one stream of one window.

    That moment lies within a block: while keys are rotated, while sound is heard, in the feed-forward network, or while
    its result is added to what runs from block to block in float32.
    """
    wan, tokens = parameters.wan, _tokens(parameters, window)
    half, expanded = number_bytes < FLOAT32_BYTES, 2 * number_bytes * wan.ffn_dim
    rotating = ROTATED_COPIES * FLOAT32_BYTES + number_bytes
    listening = LISTENING_COPIES * FLOAT32_BYTES + LISTENING_HALVES * number_bytes + number_bytes * half
    feeding = FEEDING_COPIES * FLOAT32_BYTES + number_bytes
    adding = (ADDING_COPIES + half) * FLOAT32_BYTES + 2 * number_bytes
    unpacked = 0 if storage == AS_COMPUTED else UNPACKING_BYTES * wan.width * wan.ffn_dim
    worst = max(
        tokens * wan.width * max(rotating, listening, adding),
        tokens * (wan.width * feeding + expanded),
        tokens * wan.width * (feeding + number_bytes) + unpacked,
    )
    return int(worst) + _given_bytes(parameters, window, tokens, number_bytes)


def _tokens(parameters: FantasyTalkingParameters, window: WindowSize) -> int:
    _, high, wide = parameters.wan.patch_size
    return window.frames * (window.height // high) * (window.width // wide)


def _given_bytes(
    parameters: FantasyTalkingParameters, window: WindowSize, tokens: int, number_bytes: int
) -> int:
    """Return the bytes of what a pass is given and what all its blocks share: latents, places, text, picture, sound."""
    wan = parameters.wan
    latents = wan.in_channels * window.frames * window.height * window.width
    places = 2 * tokens * wan.attention_head_dim
    read = TOKEN_COPIES * _read_tokens(parameters) * wan.width
    sound = window.frames * window.sound * (parameters.audio.width + 2 * wan.width)
    return FLOAT32_BYTES * (latents + places) + number_bytes * (read + sound)


def _read_tokens(parameters: FantasyTalkingParameters) -> int:
    wan = parameters.wan
    return wan.text_length + (0 if wan.image_dim is None else CLIP_VISION_TOKENS)


def kept_key_bytes(
    parameters: FantasyTalkingParameters, window: WindowSize, windows: int, number_bytes: int
) -> int:
    """Return the bytes of the keys and values of prompt, negative prompt, picture and each window's sound."""
    sound = min(windows, KEPT_SOUNDS) * window.frames * window.sound
    tokens = 2 * parameters.wan.text_length + _read_tokens(parameters) - parameters.wan.text_length + sound
    return 2 * tokens * parameters.wan.num_layers * parameters.wan.width * number_bytes


KEPT_SOUNDS = 4
"""Windows whose sound is kept, at most."""


def shared_beginning_bytes(
    parameters: FantasyTalkingParameters, window: WindowSize, number_bytes: int
) -> int:
    """Return the bytes of the first block's self-attention, which is kept over a step for its further streams."""
    return _tokens(parameters, window) * parameters.wan.width * number_bytes


def condition_bytes(parameters: FantasyTalkingParameters, window: WindowSize) -> int:
    """Return the bytes of what lies on the device for all windows, and of the latents of the one at work."""
    wan = parameters.wan
    latents = window.frames * window.height * window.width * (wan.condition_channels + 4 * wan.out_channels)
    picture = 0 if wan.image_dim is None else CLIP_VISION_TOKENS * wan.image_dim
    return FLOAT32_BYTES * (latents + 2 * wan.text_length * wan.text_dim + picture)
