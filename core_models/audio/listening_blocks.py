"""A network that hears log-mel, block by block: what it hears of the future is bounded, as in a stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .mel import FLOOR_DB, floored_log_mel, scale_decibels

MEL_PER_STEP = 2
"""Log-mel frames (100 Hz) for each step of features (50 Hz)."""
BLOCKS_AT_ONCE = 64


@dataclass(frozen=True)
class ListeningBlocks:
    """How a clip is cut. block: steps made together; behind, ahead: steps heard before and after them."""

    block: int = 10
    behind: int = 40
    ahead: int = 12

    def __post_init__(self) -> None:
        if self.block < 1 or self.behind < 0 or self.ahead < 0:
            raise ValueError(
                f"a block is {self.block} steps with {self.behind} behind and {self.ahead} ahead, "
                "expected at least 1, 0 and 0"
            )

    @property
    def steps(self) -> int:
        """Steps that a block is made from."""
        return self.behind + self.block + self.ahead


def heard_in_blocks(
    listen: Callable[[Tensor], Tensor], mel: Tensor, blocks: ListeningBlocks, silence: float
) -> Tensor:
    """Return hidden states (1, L, T, C) of log-mel (1, 2T, bands).

    listen: (B, 2S, bands) -> (B, L, S, C). Before the clip, and after it, is `silence`. Step t is made in block
    t // block, from `behind` steps before that block to `ahead` after it, whatever else the clip holds.
    """
    p, steps = blocks, mel.shape[1] // MEL_PER_STEP
    count = -(-steps // p.block)
    after = count * p.block + p.ahead - steps
    before = mel.new_full((1, MEL_PER_STEP * p.behind, mel.shape[2]), silence)
    behind = mel.new_full((1, MEL_PER_STEP * after, mel.shape[2]), silence)
    padded = torch.cat([before, mel[:, : MEL_PER_STEP * steps], behind], dim=1)[0]
    windows = padded.unfold(0, MEL_PER_STEP * p.steps, MEL_PER_STEP * p.block).transpose(1, 2)
    made = [
        listen(windows[first : first + BLOCKS_AT_ONCE])[:, :, p.behind : p.behind + p.block]
        for first in range(0, count, BLOCKS_AT_ONCE)
    ]
    return torch.cat(made).transpose(0, 1).flatten(1, 2)[None, :, :steps]


def heard_layers(listener: nn.Module, mel_db: np.ndarray, blocks: ListeningBlocks | None = None) -> Tensor:
    """Return hidden states (T, L, C) at 50 Hz of levelled decibels (2T, bands), heard as a stream hears them.

    listener: as `listen` of `heard_in_blocks`, a MelListener on any device. blocks: None is the usual ones. The states
    are float32, on the CPU, without gradients; what is heard before and after the clip is silence.
    """
    weight = next(listener.parameters())
    mel = torch.from_numpy(floored_log_mel(mel_db.astype(np.float32)))[None].to(weight)
    with torch.no_grad():
        states = heard_in_blocks(listener, mel, blocks or ListeningBlocks(), float(scale_decibels(FLOOR_DB)))
    return states[0].transpose(0, 1).float().cpu().contiguous()


class ListenerStream:
    """`heard_in_blocks` while the clip goes on: log-mel in pieces of any length, blocks out when they are certain."""

    def __init__(self, listen: Callable[[Tensor], Tensor], blocks: ListeningBlocks, silence: float) -> None:
        self._listen, self._blocks, self._silence = listen, blocks, silence
        self._mel: Tensor | None = None
        self._made = 0

    def push(self, mel: Tensor) -> Tensor | None:
        """Return hidden states (1, L, n, C) that have become certain, or None. mel: (T, bands), any T."""
        self._mel = self._silent(mel, self._blocks.behind) if self._mel is None else self._mel
        self._mel = torch.cat([self._mel, mel])
        made = []
        while len(self._mel) >= MEL_PER_STEP * self._blocks.steps:
            made.append(self._block())
        return torch.cat(made, dim=2) if made else None

    def finish(self, steps: int) -> Tensor | None:
        """Return the rest, so that `steps` steps are made in all; after the last log-mel frame is silence.

        Log-mel beyond `steps` is left out, but for what blocks given before have heard.
        """
        missing = steps - self._made
        if missing <= 0 or self._mel is None:
            return None
        self._mel = self._mel[: MEL_PER_STEP * (self._blocks.behind + missing)]
        made = []
        while self._made < steps:
            short = MEL_PER_STEP * self._blocks.steps - len(self._mel)
            if short > 0:
                self._mel = torch.cat(
                    [self._mel, self._mel.new_full((short, self._mel.shape[1]), self._silence)]
                )
            made.append(self._block())
        return torch.cat(made, dim=2)[:, :, :missing]

    def _silent(self, like: Tensor, steps: int) -> Tensor:
        return like.new_full((MEL_PER_STEP * steps, like.shape[1]), self._silence)

    def _block(self) -> Tensor:
        p = self._blocks
        states = self._listen(self._mel[None, : MEL_PER_STEP * p.steps])
        self._mel = self._mel[MEL_PER_STEP * p.block :]
        self._made += p.block
        return states[:, :, p.behind : p.behind + p.block]
