"""What a model and a clip's signals make of each other: the conditions that the sampler takes."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from ...ssm.region_tokens import region_on_tokens
from ...video_types import REGIONS
from .controls import Region
from .gates import FaceRegions, regions_of_signals
from .model import ACTalkerModel
from .sampler import ClipConditions, SignalTokens

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClipSignals:
    """What steers N frames.

    identity: (features,) embedding. heard: (N, rows, layers, channels) or None, no sound. moved: (N, numbers) or None,
    no motion. audio_gate, motion_gate: (N,) in 0..1; of a signal that is not there, 0.
    """

    identity: Tensor
    heard: Tensor | None
    moved: Tensor | None
    audio_gate: Tensor
    motion_gate: Tensor

    @property
    def frame_count(self) -> int:
        """N, frames that are steered."""
        return len(self.audio_gate)


def clip_conditions(
    model: ACTalkerModel,
    signals: ClipSignals,
    portrait: Tensor,
    regions: FaceRegions,
    time_conditions: Tensor,
    mode: str = REGIONS,
) -> ClipConditions:
    """Return the sampler's conditions, on the model's device and in its dtype.

    portrait: (C, H, W) latents as the network sees them, unscaled. regions: masks at the picture's size.
    time_conditions: (3,) frame rate and motion buckets. mode: as for `regions_of_signals`.
    A mask that is used but covers no token of the latents is told in the log.
    """
    weight = model.audio_projection.proj1.weight
    frames = signals.frame_count
    hears = signals.audio_gate if signals.heard is not None else torch.zeros_like(signals.audio_gate)
    moves = signals.motion_gate if signals.moved is not None else torch.zeros_like(signals.motion_gate)
    audio, motion = regions_of_signals(regions, hears, moves, mode)
    _tell_of_empty_masks(regions, (*audio, *motion), tuple(portrait.shape[1:]))
    return ClipConditions(
        identity=model.identity_projection(signals.identity.to(weight))[None],
        audio=_audio(model, signals.heard, frames, audio),
        motion=_motion(model, signals.moved, frames, motion),
        portrait=portrait.to(weight),
        pose=pose_features(model, regions.face.to(weight)),
        time_conditions=time_conditions.to(weight),
    )


def _tell_of_empty_masks(regions: FaceRegions, used: tuple[Region, ...], grid: tuple[int, int]) -> None:
    """Log each mask in use in which nothing is steered, as the clip alone would look like that of a bad model."""
    for name in (one.name for one in fields(regions)):
        mask = getattr(regions, name)
        if not any(region.mask is mask for region in used):
            continue
        _, selected = region_on_tokens(mask, grid[0] * grid[1], grid)
        if not len(selected):
            logger.warning(
                "the %s mask %s, so the face is not steered there: draw it larger, or make the masks of this portrait",
                name,
                f"covers no whole token of the {grid[0]} x {grid[1]}" if mask.any() else "is empty",
            )


def _audio(
    model: ACTalkerModel, heard: Tensor | None, frames: int, regions: tuple[Region, ...]
) -> SignalTokens:
    none = model.audio_projection.unconditional()[0]
    tokens = none.expand(frames, -1, -1) if heard is None else model.audio_projection(heard.to(none))
    return SignalTokens(tokens, none, regions)


def _motion(
    model: ACTalkerModel, moved: Tensor | None, frames: int, regions: tuple[Region, ...]
) -> SignalTokens:
    none = model.motion_projection.unconditional()
    tokens = none.expand(frames, -1) if moved is None else model.motion_projection(moved.to(none))
    return SignalTokens(tokens[:, None], none, regions)


def pose_features(model: ACTalkerModel, face: Tensor) -> Tensor:
    """Return (channels, H, W) of a face mask (height, width), which all frames share."""
    pictures = face.expand(1, 3, 1, *face.shape)
    return model.pose_guider(pictures)[0, :, 0]


def windows_of_frames(features: Tensor, starts: Tensor, rows: int, before: int) -> Tensor:
    """Return (N, rows, layers, channels): rows starts - before .. of features (T, layers, channels); zeros outside.

    starts: (N,) int64, the row at which each frame begins.
    """
    last = int(starts.max()) + rows
    padded = functional.pad(features, (0, 0, 0, 0, before, max(last - len(features), 0)))
    return padded[starts[:, None] + torch.arange(rows)]
