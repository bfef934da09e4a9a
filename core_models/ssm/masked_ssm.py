"""ACTalker's parallel-control layer: two masked state-space branches, one steered by sound, one by motion.

Each branch scans the tokens its region selects together with the identity and its own control tokens; all others pass
by its scan. Two forms: `MaskedSSMLayer` runs frame by frame, as the released weights need it; `JointMaskedSSMLayer`
runs over frames x height x width with a residual, as the paper has it (arXiv 2504.02542, equations 1 to 7).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .region_tokens import pasted
from .selective_scan import selective_scan

DIRECTIONS = 2
"""Forwards and backwards along the tokens."""
STATE_SIZE = 16
EXPANSION = 2
"""Width of a branch over that of the tokens."""
CHANNELS_PER_STEP_RANK = 16
STEP_RANGE = (1e-3, 0.1)
"""Step sizes a fresh scan begins with; log-uniform."""
SCANNED_NUMBERS = 1 << 25
"""Numbers of both directions' sequences that are scanned together; further rows come after, in the same memory."""


@dataclass(frozen=True)
class RegionPass:
    """One scan of a branch: over which tokens, and how much of its result counts.

    selected: (n,) int64 indices of tokens, increasing. weight: broadcastable to (B, n, 1) in 0..1, of the scan's
    result against the token that was not scanned; None is 1.
    """

    selected: Tensor
    weight: Tensor | None = None


@dataclass(frozen=True)
class BranchSignal:
    """What steers one branch of a layer.

    tokens: (B, T, width of the conditions). passes: where and how much; none where the branch is closed.
    """

    tokens: Tensor
    passes: Sequence[RegionPass] = ()


class BidirectionalScan(nn.Module):
    """The selective scan along a sequence and back, summed; everything it needs is computed from the sequence itself.

    Parameters are laid out direction by direction, under the names of the released weights.
    """

    def __init__(self, width: int, step_rank: int, state_size: int = STATE_SIZE) -> None:
        """width: channels of the sequence. step_rank: of the projection that gives the step sizes."""
        super().__init__()
        self.step_rank, self.state_size = step_rank, state_size
        rows = step_rank + 2 * state_size
        self.x_proj_weight = nn.Parameter(uniform(DIRECTIONS, rows, width, bound=width**-0.5))
        self.dt_projs_weight = nn.Parameter(uniform(DIRECTIONS, width, step_rank, bound=step_rank**-0.5))
        self.dt_projs_bias = nn.Parameter(inverse_softplus(log_uniform(DIRECTIONS, width, STEP_RANGE)))
        decay = torch.arange(1, state_size + 1, dtype=torch.float32)
        self.A_logs = nn.Parameter(decay.log().repeat(DIRECTIONS * width, 1))
        self.Ds = nn.Parameter(torch.ones(DIRECTIONS * width))

    def forward(self, sequence: Tensor) -> Tensor:
        """Return (B, L, width) of a sequence (B, L, width), in its dtype; the scan itself is in float32."""
        rows = rows_at_once(*sequence.shape[1:])
        if len(sequence) <= rows:
            return self._scanned(sequence)
        return torch.cat([self._scanned(part) for part in sequence.split(rows)])

    def _scanned(self, sequence: Tensor) -> Tensor:
        both = torch.stack([sequence, sequence.flip(1)], dim=1)  # (B, directions, L, width)
        rows = both @ self.x_proj_weight.mT
        steps, enter, leave = rows.split([self.step_rank, self.state_size, self.state_size], dim=-1)
        steps = steps @ self.dt_projs_weight.mT
        scanned, _ = selective_scan(
            both.mT.flatten(1, 2),
            steps.mT.flatten(1, 2),
            -torch.exp(self.A_logs.float()),
            enter.mT,
            leave.mT,
            self.Ds.float(),
            self.dt_projs_bias.float().flatten(),
            delta_softplus=True,
        )
        forwards, backwards = scanned.unflatten(1, (DIRECTIONS, -1)).unbind(1)
        return (forwards + backwards.flip(-1)).mT.to(sequence.dtype)


def rows_at_once(length: int, width: int) -> int:
    """Return how many sequences of this length and width are scanned together, at least 1."""
    return max(SCANNED_NUMBERS // max(DIRECTIONS * length * width, 1), 1)


def uniform(*shape: int, bound: float) -> Tensor:
    """Return values drawn evenly from -bound..bound."""
    return torch.empty(shape).uniform_(-bound, bound)


def log_uniform(rows: int, columns: int, limits: tuple[float, float]) -> Tensor:
    """Return (rows, columns) values whose logarithm is drawn evenly between those of the limits."""
    low, high = map(math.log, limits)
    return torch.empty(rows, columns).uniform_(low, high).exp()


def inverse_softplus(values: Tensor) -> Tensor:
    """Return x with softplus(x) = values, for values > 0."""
    return values + torch.log(-torch.expm1(-values))


class _Branches(nn.Module):
    """What both forms share: projections in, one scan for each branch, and the sum's normalisation."""

    def __init__(self, channels: int, condition_width: int) -> None:
        super().__init__()
        width = EXPANSION * channels
        rank = math.ceil(channels / CHANNELS_PER_STEP_RANK)
        self.audio_unit = BidirectionalScan(width, rank)
        self.exp_unit = BidirectionalScan(width, rank)
        self.audio_proj = nn.Linear(condition_width, width, bias=False)
        self.exp_proj = nn.Linear(condition_width, width, bias=False)
        self.id_proj = nn.Linear(condition_width, width, bias=False)
        self.out_norm = nn.LayerNorm(width)

    def mixed(
        self, entered: tuple[Tensor, Tensor], identity: Tensor, audio: BranchSignal, motion: BranchSignal
    ) -> Tensor:
        """Return the normalised sum (B, L, width) of both branches; `entered`: their own views of the tokens."""
        identity = functional.silu(self.id_proj(identity))
        heard = self._branch(entered[0], identity, audio, self.audio_proj, self.audio_unit)
        moved = self._branch(entered[1], identity, motion, self.exp_proj, self.exp_unit)
        return self.out_norm(heard + moved)

    def _branch(
        self,
        entered: Tensor,
        identity: Tensor,
        signal: BranchSignal,
        project: nn.Linear,
        unit: BidirectionalScan,
    ) -> Tensor:
        """Mask drop, scan and mask paste; without a pass over any token the tokens stay as they entered."""
        passes = [region for region in signal.passes if len(region.selected)]
        if not passes:
            return entered
        control = torch.cat([identity, functional.silu(project(signal.tokens))], dim=1)
        if len(passes) == 1 and passes[0].weight is None:
            return pasted(entered, passes[0].selected, self._scanned(entered, control, passes[0], unit))
        result = entered
        for region in passes:
            change = self._scanned(entered, control, region, unit) - entered[:, region.selected]
            change = change if region.weight is None else region.weight * change
            result = result.index_add(1, region.selected, change.to(result.dtype))
        return result

    def _scanned(
        self, entered: Tensor, control: Tensor, region: RegionPass, unit: BidirectionalScan
    ) -> Tensor:
        kept = entered[:, region.selected]
        return unit(torch.cat([kept, control], dim=1))[:, : kept.shape[1]]


class MaskedSSMLayer(_Branches):
    """The released layer: each frame by itself, and its output replaces the tokens (no residual).

    The control tokens come last in the sequence: it is the backward scan that brings them to the image's tokens.
    """

    def __init__(self, channels: int, condition_width: int) -> None:
        """channels: of the tokens. condition_width: of identity and control tokens."""
        super().__init__(channels, condition_width)
        width = EXPANSION * channels
        self.in_proj1 = nn.Linear(channels, width, bias=False)
        self.in_proj2 = nn.Linear(channels, width, bias=False)
        self.out_proj = nn.Linear(width, channels, bias=False)

    def forward(self, tokens: Tensor, identity: Tensor, audio: BranchSignal, motion: BranchSignal) -> Tensor:
        """Return (B, L, channels), B being all frames of all clips.

        tokens: (B, L, channels). identity: (B, 1, condition_width). audio, motion: their tokens are
        (B, T, condition_width).
        """
        entered = self.in_proj1(tokens), self.in_proj2(tokens)
        return self.out_proj(self.mixed(entered, identity, audio, motion))


class JointMaskedSSMLayer(_Branches):
    """The paper's layer: all frames' tokens in one sequence, a residual, and an output that begins at zero.

    Equations 1 to 7 of arXiv 2504.02542; the sum stands where its text says concatenation and its equation 3 adds. In
    a fresh layer the residual alone counts, so a pretrained network is not disturbed.
    """

    def __init__(self, channels: int, condition_width: int) -> None:
        """channels: of the tokens. condition_width: of identity and control tokens."""
        super().__init__(channels, condition_width)
        width = EXPANSION * channels
        self.in_proj1, self.in_proj2 = _two_layers(channels, width), _two_layers(channels, width)
        self.out_proj = _two_layers(width, channels)
        nn.init.zeros_(self.out_proj[-1].weight)
        nn.init.zeros_(self.out_proj[-1].bias)

    def forward(self, tokens: Tensor, identity: Tensor, audio: BranchSignal, motion: BranchSignal) -> Tensor:
        """Return (B, F x L, channels), B being clips; tokens come frame by frame, each row by row.

        The signals' tokens are those of all frames, (B, F x T, condition_width); identity: (B, 1, condition_width);
        `selected` counts along all F x L tokens.
        """
        entered = self.in_proj1(tokens), self.in_proj2(tokens)
        return tokens + self.out_proj(self.mixed(entered, identity, audio, motion))


def _two_layers(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.SiLU(), nn.Linear(outputs, outputs))
