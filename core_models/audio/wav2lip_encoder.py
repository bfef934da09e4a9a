"""Wav2Lip's speech encoder: a mel picture around a video frame to 512 numbers."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..key_tables import KEY_TABLES
from ..strict_loading import load_strict
from .wav2lip_mel import frame_windows

FEATURE_SIZE = 512
BATCH_FRAMES = 256
"""Frames encoded at a time: half a second of work on two cores."""

_LAYERS: tuple[tuple[int, int, int, int | tuple[int, int], int], ...] = (
    (1, 32, 3, 1, 1),
    (32, 32, 3, 1, 1),
    (32, 32, 3, 1, 1),
    (32, 64, 3, (3, 1), 1),
    (64, 64, 3, 1, 1),
    (64, 64, 3, 1, 1),
    (64, 128, 3, 3, 1),
    (128, 128, 3, 1, 1),
    (128, 128, 3, 1, 1),
    (128, 256, 3, (3, 2), 1),
    (256, 256, 3, 1, 1),
    (256, 512, 3, 1, 0),
    (512, 512, 1, 1, 0),
)
"""Channels in and out, kernel, stride (down the bands, along time), padding. Same size in and out adds the input."""


class ConvolutionBlock(nn.Module):
    """Convolution and batch norm, plus the input where sizes stay, then ReLU."""

    def __init__(
        self, channels_in: int, channels: int, kernel: int, stride: int | tuple[int, int], padding: int
    ):
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.Conv2d(channels_in, channels, kernel, stride, padding), nn.BatchNorm2d(channels)
        )
        self.adds_input = channels_in == channels and stride == 1 and padding > 0

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, bands, columns)."""
        out = self.conv_block(x)
        return torch.relu(out + x if self.adds_input else out)


class Wav2LipSpeechEncoder(nn.Module):
    """The speech encoder of Wav2Lip (Prajwal et al. 2020), with the keys of its published file."""

    def __init__(self) -> None:
        super().__init__()
        self.audio_encoder = nn.Sequential(*(ConvolutionBlock(*layer) for layer in _LAYERS))

    def forward(self, windows: Tensor) -> Tensor:
        """Return features (B, 512) >= 0 of mel pictures (B, 80, 16)."""
        return self.audio_encoder(windows[:, None].contiguous(memory_format=torch.channels_last)).flatten(1)


def load_wav2lip_encoder(path: str | os.PathLike[str]) -> Wav2LipSpeechEncoder:
    """Return the encoder of a published Wav2Lip file, on the CPU, made quick by `fused`.

    Raises what `load_strict` raises.
    """
    return fused(load_strict(Wav2LipSpeechEncoder, path, KEY_TABLES["wav2lip_pth"], torch.float32))


def fused(encoder: Wav2LipSpeechEncoder) -> Wav2LipSpeechEncoder:
    """Return the encoder with its batch norms folded into the convolutions and channels last in memory.

    The features stay the same up to rounding; on a processor they come sooner.
    """
    quick = copy.deepcopy(encoder).eval()
    for block in quick.audio_encoder:
        block.conv_block = fuse_conv_bn_eval(*block.conv_block)
    return quick.to(memory_format=torch.channels_last).requires_grad_(False)


def encode_frames(
    encoder: Wav2LipSpeechEncoder,
    mel: np.ndarray,
    frames: int,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Return (frames, 512) float32 on the CPU: the features of each video frame of a mel spectrogram (columns, 80)."""
    weight = next(encoder.parameters())
    features = torch.empty(frames, FEATURE_SIZE)
    with torch.inference_mode():
        for start in range(0, frames, BATCH_FRAMES):
            stop = min(frames, start + BATCH_FRAMES)
            windows = torch.from_numpy(frame_windows(mel, start, stop)).to(weight)
            features[start:stop] = encoder(windows).float().cpu()
            if progress is not None:
                progress(stop, frames)
    return features
