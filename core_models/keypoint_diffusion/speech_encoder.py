"""From log-mel to the mouth: the pocket model's own audio encoder.

Dilated ConvNeXt-style blocks at 50 Hz, then at 25 Hz. It gives features for the denoiser, a direct
estimate of the mouth (which speech determines, so nothing is gained by sampling it), the probability that
the lips touch, and, for training, the phone sounding at each moment.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class SpeechEncoderParameters:
    """mel_bands in, width of the features, dilations of the blocks at 50 Hz and at 25 Hz, kernel in steps,
    expression_size coefficients out, emotion_size numbers of the emotion condition, phone_classes."""

    mel_bands: int = 80
    width: int = 192
    dilations_50hz: tuple[int, ...] = (1, 2, 4, 1, 2)
    dilations_25hz: tuple[int, ...] = (1, 2, 1)
    kernel: int = 9
    expansion: int = 3
    expression_size: int = 52
    emotion_size: int = 7
    phone_classes: int = 37


class ConvolutionBlock(nn.Module):
    """x + pointwise(GELU(pointwise(norm(depthwise dilated convolution(x)))))."""

    def __init__(self, width: int, kernel: int, dilation: int, expansion: int) -> None:
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.depthwise = nn.Conv1d(width, width, kernel, padding=padding, dilation=dilation, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, expansion * width)
        self.narrow = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, T) -> (B, C, T)."""
        with torch.autocast(x.device.type, enabled=False):  # depthwise is faster and steadier in float32
            inner = self.depthwise(x.to(self.depthwise.weight.dtype))
        inner = self.norm(inner.transpose(1, 2))
        return x + self.narrow(nn.functional.gelu(self.widen(inner))).transpose(1, 2)


class MouthHead(nn.Module):
    """Features and emotion to expression coefficients in normalised units."""

    def __init__(self, parameters: SpeechEncoderParameters) -> None:
        super().__init__()
        width = parameters.width
        self.features = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.emotion = nn.Linear(parameters.emotion_size, 2 * width)
        self.output = nn.Linear(width, parameters.expression_size)
        self.emotion_output = nn.Linear(parameters.emotion_size, parameters.expression_size, bias=False)

    def forward(self, features: Tensor, emotion: Tensor) -> Tensor:
        """features (B, N, C), emotion (B, N, E) -> (B, N, expression_size)."""
        scale, shift = self.emotion(emotion).chunk(2, dim=-1)
        hidden = nn.functional.gelu(self.norm(self.features(features)) * (1 + scale) + shift)
        return self.output(hidden) + self.emotion_output(emotion)


class SpeechEncoder(nn.Module):
    """Log-mel at 100 Hz to features at 25 Hz."""

    def __init__(self, parameters: SpeechEncoderParameters) -> None:
        super().__init__()
        p = parameters
        self.stem = nn.Conv1d(p.mel_bands, p.width, 4, stride=2, padding=1)
        self.fine = nn.Sequential(
            *(ConvolutionBlock(p.width, p.kernel, d, p.expansion) for d in p.dilations_50hz)
        )
        self.halve = nn.Conv1d(p.width, p.width, 4, stride=2, padding=1)
        self.coarse = nn.Sequential(
            *(ConvolutionBlock(p.width, p.kernel, d, p.expansion) for d in p.dilations_25hz)
        )
        self.norm = nn.LayerNorm(p.width)
        self.mouth = MouthHead(p)
        self.closure = nn.Linear(p.width, 1)
        self.phones = nn.Linear(p.width, p.phone_classes)

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, N, C) at 25 Hz and phone logits (B, 2N, classes) at 50 Hz for mel (B, 4N, bands)."""
        fine = self.fine(self.stem(mel.transpose(1, 2)))
        coarse = self.coarse(self.halve(fine))
        return self.norm(coarse.transpose(1, 2)), self.phones(fine.transpose(1, 2))

    def closure_logits(self, features: Tensor) -> Tensor:
        """Return (B, N): the log-odds that the lips touch for p, b or m."""
        return self.closure(features)[..., 0]


class MelListener(nn.Module):
    """The encoder's first part alone: a speech model whose layers are heard, in HuBERT's place."""

    def __init__(self, parameters: SpeechEncoderParameters) -> None:
        super().__init__()
        p = parameters
        self.stem = nn.Conv1d(p.mel_bands, p.width, 4, stride=2, padding=1)
        self.fine = nn.Sequential(
            *(ConvolutionBlock(p.width, p.kernel, d, p.expansion) for d in p.dilations_50hz)
        )

    def forward(self, mel: Tensor) -> Tensor:
        """Return hidden states (B, L, T, C) at 50 Hz, first what the stem makes, for mel (B, 2T, bands) at 100 Hz."""
        x = self.stem(mel.transpose(1, 2))
        states = [x]
        for block in self.fine:
            x = block(x)
            states.append(x)
        return torch.stack(states, dim=1).transpose(2, 3)


def pad_to_multiple(mel: Tensor, multiple: int = 4) -> Tensor:
    """Repeat the last mel frame until the count divides evenly, (B, T, bands)."""
    missing = -mel.shape[1] % multiple
    return torch.cat([mel, mel[:, -1:].expand(-1, missing, -1)], dim=1) if missing else mel
