"""From the hidden states of a speech model at 50 Hz to one row of features for each video frame at 25 Hz.

Takin-ADA (arXiv 2410.14283) section 3: a learned weighted sum over all layers of HuBERT, then a down-sampling layer.
Sizes follow AniTalker (arXiv 2405.03121). The speech model itself is not here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .frame_clock import frame_count

HUBERT_LAYERS = 25
"""Hidden states of HuBERT-large: what enters the first of its 24 layers, and what leaves each."""
HUBERT_WIDTH = 1024
"""Numbers of each of them per step."""
HUBERT_RATE = 50
"""Their steps per second."""
SPEECH_WIDTH = 512
"""Numbers per video frame after halving."""
SPEECH_RATE = 25
"""Video frames per second."""
HALVING_KERNEL = 3


class WeightedLayers(nn.Module):
    """A weighted sum over the layers; the weights are the softmax of a learned vector, equal at first."""

    def __init__(self, layers: int = HUBERT_LAYERS) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers is {layers}, expected at least 1")
        self.weights = nn.Parameter(torch.zeros(layers))

    def shares(self) -> Tensor:
        """Return (L,) float32: each layer's share of the sum, which add up to 1."""
        return self.weights.float().softmax(dim=0)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return (B, T, C), in the input's dtype, of hidden states (B, L, T, C).

        Raises ValueError for another shape or number of layers.
        """
        layers = len(self.weights)
        if hidden_states.ndim != 4 or hidden_states.shape[1] != layers:
            raise ValueError(
                f"hidden states have shape {tuple(hidden_states.shape)}, expected (B, {layers}, T, C): "
                "all layers of the speech model that these weights were trained with"
            )
        return torch.einsum("l,bltc->btc", self.shares().to(hidden_states.dtype), hidden_states)


class HalveRate(nn.Module):
    """A convolution of kernel 3 and stride 2: 50 to 25 Hz. Output n is centred on input 2n."""

    def __init__(self, width_in: int = HUBERT_WIDTH, width_out: int = SPEECH_WIDTH) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(
            width_in,
            width_out,
            HALVING_KERNEL,
            stride=HUBERT_RATE // SPEECH_RATE,
            padding=HALVING_KERNEL // 2,
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, ceil(T / 2), width_out) of features (B, T, width_in); past either end there are zeros.

        Raises ValueError for another shape or width, or no steps.
        """
        width = self.convolution.in_channels
        if features.ndim != 3 or features.shape[1] < 1 or features.shape[2] != width:
            raise ValueError(
                f"speech features have shape {tuple(features.shape)}, expected (B, T >= 1, {width}): "
                f"those of a speech model {width} wide"
            )
        return self.convolution(features.transpose(1, 2)).transpose(1, 2)


def fit_to_frames(features: Tensor, duration: float) -> Tensor:
    """Return (B, N, C), N = frame_clock.frame_count(duration, 25): one row for each video frame.

    features: (B, T, C) at 25 Hz, T >= 1, of a sound of `duration` seconds. What is over is cut; what is missing
    (HuBERT's last window ends before the sound does) repeats the last row. Raises ValueError for another shape, and
    for a duration that is negative or not finite.
    """
    if features.ndim != 3 or features.shape[1] < 1:
        raise ValueError(f"speech features have shape {tuple(features.shape)}, expected (B, T >= 1, C)")
    frames = frame_count(duration, SPEECH_RATE)
    missing = max(0, frames - features.shape[1])
    if not missing:
        return features[:, :frames]
    return torch.cat([features, features[:, -1:].expand(-1, missing, -1)], dim=1)
