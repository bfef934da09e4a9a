"""What steers ACTalker's UNet, and the same brought to the tokens of one of its levels."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...ssm.masked_ssm import BranchSignal, RegionPass
from ...ssm.region_tokens import region_on_tokens
from .control_attention import AttentionContext, SignalContext


@dataclass(frozen=True)
class Region:
    """Where a signal works, and how much it counts there.

    mask: (H, W) in 0..1 at any size of the picture's aspect; the layer scans tokens where it is 1 throughout, the
    attention is scaled by it. weight: (F,) in 0..1 for each frame; None is 1 everywhere.
    """

    mask: Tensor
    weight: Tensor | None = None


@dataclass(frozen=True)
class ControlSignal:
    """Control tokens of every frame and the regions they work in; without a region the signal is closed.

    tokens: (B, F, T, width of the conditions).
    """

    tokens: Tensor
    regions: tuple[Region, ...] = ()


@dataclass(frozen=True)
class UNetControls:
    """All that steers one evaluation of the UNet.

    identity: (B, F, 1, width). audio, motion: the two signals. Raises ValueError when batch or frames differ.
    """

    identity: Tensor
    audio: ControlSignal
    motion: ControlSignal

    def __post_init__(self) -> None:
        leading = {tuple(t.shape[:2]) for t in (self.identity, self.audio.tokens, self.motion.tokens)}
        if len(leading) > 1 or self.identity.ndim != 4:
            shapes = [tuple(t.shape) for t in (self.identity, self.audio.tokens, self.motion.tokens)]
            raise ValueError(
                f"identity, audio and motion have shapes {shapes}, expected (B, F, tokens, width)"
            )
        for signal in (self.audio, self.motion):
            for region in signal.regions:
                if region.weight is not None and region.weight.shape != leading_frames(self.identity):
                    raise ValueError(
                        f"a region's weight has shape {tuple(region.weight.shape)}, "
                        f"expected {tuple(leading_frames(self.identity))}, one for each frame"
                    )

    @property
    def signals(self) -> tuple[ControlSignal, ControlSignal]:
        """Audio, then motion: the order of the adapters."""
        return self.audio, self.motion


def leading_frames(identity: Tensor) -> torch.Size:
    """Return the (F,) of (B, F, 1, width)."""
    return identity.shape[1:2]


@dataclass(frozen=True)
class LevelControls:
    """The controls on the tokens of one level: for its layer frame by frame, and for both of its attentions.

    spatial: context of the (B x F, L) attention. temporal: of the (B x L, F) attention. branches: audio, motion of
    the masked SSM layer, frame by frame.
    """

    spatial: AttentionContext
    temporal: AttentionContext
    branches: tuple[BranchSignal, BranchSignal]


@dataclass(frozen=True)
class PlacedControls:
    """The controls of one evaluation, brought to the levels as they are asked for; each level once."""

    controls: UNetControls
    levels: dict[tuple[int, int], LevelControls] = field(default_factory=dict)

    def at(self, height: int, width: int) -> LevelControls:
        """Return the controls on height x width tokens."""
        grid = height, width
        if grid not in self.levels:
            self.levels[grid] = _placed(self.controls, grid)
        return self.levels[grid]


def _placed(controls: UNetControls, grid: tuple[int, int]) -> LevelControls:
    placed = [_placed_signal(signal, grid) for signal in controls.signals]
    return LevelControls(
        spatial=AttentionContext(controls.identity.flatten(0, 1), tuple(spatial for spatial, _, _ in placed)),
        temporal=AttentionContext(controls.identity.mean(1), tuple(temporal for _, temporal, _ in placed)),
        branches=(placed[0][2], placed[1][2]),
    )


def _placed_signal(
    signal: ControlSignal, grid: tuple[int, int]
) -> tuple[SignalContext | None, SignalContext | None, BranchSignal]:
    """Return a signal for the spatial and temporal attention and for the layer's branch; None where it is closed."""
    batch, frames = signal.tokens.shape[:2]
    count = grid[0] * grid[1]
    tokens = signal.tokens.flatten(0, 1)
    if not signal.regions:
        return None, None, BranchSignal(tokens)
    soft, passes, total = 0.0, [], 0.0
    for region in signal.regions:
        values, selected = region_on_tokens(region.mask.to(tokens.device), count, grid)
        weight = None if region.weight is None else region.weight.to(tokens).repeat(batch)[:, None, None]
        passes.append(RegionPass(selected, weight))
        factor = 1.0 if weight is None else weight
        soft, total = soft + factor * values[:, None].to(tokens.dtype), total + factor
    over_time, over_clip = total, signal.tokens.mean(1)
    if torch.is_tensor(total):
        tokens = tokens * (total > 0)  # the joint layer scans the tokens of all frames, shut ones too
        over_clip = _mean_of_frames(signal.tokens, total.view(batch, frames))
        # A query of the temporal attention is a token in a frame, frames innermost.
        over_time = total.view(batch, 1, frames).expand(-1, count, -1).reshape(batch, -1, 1)
    return (
        SignalContext(tokens, soft),
        SignalContext(over_clip, over_time),
        BranchSignal(tokens, tuple(passes)),
    )


def _mean_of_frames(tokens: Tensor, weights: Tensor) -> Tensor:
    """Return the mean (B, T, width) of tokens (B, F, T, width), each frame counted by its weight (B, F).

    A frame of weight 0 does not count, whatever its tokens are; where all are 0 the mean is 0, which nothing sees.
    """
    weights = weights.float()
    shares = weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    return (tokens * shares[:, :, None, None].to(tokens.dtype)).sum(1)
