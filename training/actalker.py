"""ACTalker's training: noise, gates, masks, dropped conditions and the loss of one step (arXiv 2504.02542).

What the paper leaves open is ours: gates at a third each; 10 % drops that give each guidance stream its share; EDM's
weight, which for v is the plain squared error; and, for small models, more weight within mouth and eyes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core_models.types import BLENDSHAPE_NAMES
from ..core_models.video_diffusion import edm
from ..core_models.video_diffusion.actalker.blendshape_motion import motion_numbers
from ..core_models.video_diffusion.actalker.clip_conditions import pose_features
from ..core_models.video_diffusion.actalker.controls import ControlSignal, UNetControls
from ..core_models.video_diffusion.actalker.gates import FaceRegions, regions_of_signals
from ..core_models.video_diffusion.actalker.model import ACTalkerModel
from ..core_models.video_types import REGION_MODES, REGIONS
from .actalker_data import FRAME_SIZE, ControlledClip
from .actalker_latents import pictures_of_frames

GATES: tuple[tuple[int, int], ...] = ((1, 1), (1, 0), (0, 1))
"""Audio and motion; drawn evenly."""
MOUTH_COLUMNS = [i for i, name in enumerate(BLENDSHAPE_NAMES) if name.startswith(("jaw", "mouth", "tongue"))]
"""Of a motion signal: what it says of the mouth."""


@dataclass(frozen=True)
class ACTalkerTrainingParameters:
    """How a model is trained.

    steps, batch, frames: updates, clips in each, and frames of a clip. learning_rate: of AdamW, reached after
    warmup_steps and, when annealed, brought down to a tenth of a per cent along a cosine. weight_decay, clip_norm,
    average_decay: usual. sigma_mean, sigma_std: of the logarithm of the noise level. dropped: share of clips that lose
    everything, as many that lose both signals, as many that lose the motion. mouth_weight, eye_weight: added to the
    loss there. regions: "regions" (mask drop) or "full" (without it) when both gates are open. mixed_mouths: whether
    motion then brings another clip's mouth, which is not shown. seed: of all draws.
    Raises ValueError for values out of range.
    """

    steps: int = 4500
    batch: int = 3
    frames: int = 6
    learning_rate: float = 1.2e-3
    warmup_steps: int = 100
    annealed: bool = True
    weight_decay: float = 1e-2
    clip_norm: float = 1.0
    average_decay: float = 0.998
    sigma_mean: float = 0.7
    sigma_std: float = 1.4
    dropped: float = 0.05
    mouth_weight: float = 8.0
    eye_weight: float = 8.0
    regions: str = REGIONS
    mixed_mouths: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("learning_rate", "sigma_std", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a number above 0")
        for name in ("warmup_steps", "weight_decay", "mouth_weight", "eye_weight", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 0")
        if not 0 <= self.dropped <= 1 / 3:
            raise ValueError(
                f"dropped is {self.dropped}, expected 0 to 1/3: three kinds of clips lose something"
            )
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"average_decay is {self.average_decay}, expected 0 to below 1")
        if self.regions not in REGION_MODES:
            raise ValueError(f"regions is {self.regions!r}, expected one of {', '.join(REGION_MODES)}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ACTalkerTrainingParameters:
        """Rebuild from `to_dict`; raises TypeError for fields that do not exist."""
        return cls(**values)


@dataclass(frozen=True)
class TrainingClips:
    """Clips with their latents.

    clips: of one length. latents: (clips, N, C, h, w) float16, scaled. scaling_factor: of the autoencoder; the portrait
    beside the noise is unscaled. Raises ValueError when these do not fit each other.
    """

    clips: Sequence[ControlledClip]
    latents: np.ndarray
    scaling_factor: float

    def __post_init__(self) -> None:
        lengths = {len(clip) for clip in self.clips}
        if len(lengths) != 1 or self.latents.shape[:2] != (len(self.clips), *lengths):
            raise ValueError(
                f"{len(self.clips)} clips of {sorted(lengths)} frames do not fit latents of shape {self.latents.shape}"
            )


class ACTalkerBatch(NamedTuple):
    """What one step is computed from; B clips of F frames.

    clean, noise: (B, F, C, h, w). sigma: (B,). portrait: (B, C, h, w) unscaled latents of another frame. picture: (B,
    3, H, W) that frame in -1..1. heard: (B, F, rows, layers, channels). moved: (B, F, 64). weights: (B, 1, 1, h, w) of
    the loss. regions: of the batch. gates: audio, motion. given: (B, 3) whether identity, audio and motion are given.
    """

    clean: Tensor
    noise: Tensor
    sigma: Tensor
    portrait: Tensor
    picture: Tensor
    heard: Tensor
    moved: Tensor
    weights: Tensor
    regions: FaceRegions
    gates: tuple[int, int]
    given: Tensor


def drawn_batch(data: TrainingClips, recipe: ACTalkerTrainingParameters, step: int) -> ACTalkerBatch:
    """Return the batch of a step: the same for the same recipe, clips and step."""
    rng = np.random.default_rng([recipe.seed, step])
    clips = rng.integers(len(data.clips), size=recipe.batch)
    length = len(data.clips[0])
    frames = min(recipe.frames, length)
    starts = rng.integers(length - frames + 1, size=recipe.batch)
    portraits = rng.integers(length, size=recipe.batch)
    chosen = [data.clips[index] for index in clips]
    spans = [slice(start, start + frames) for start in starts]
    clean = torch.from_numpy(
        np.stack([data.latents[c, s] for c, s in zip(clips, spans, strict=True)])
    ).float()
    portrait = torch.from_numpy(data.latents[clips, portraits]).float() / data.scaling_factor
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    gates, given = GATES[int(rng.integers(len(GATES)))], kept_conditions(rng, recipe)
    moved = np.stack([c.motion[s] for c, s in zip(chosen, spans, strict=True)])
    if recipe.mixed_mouths and gates == (1, 1):
        others = [data.clips[index].motion for index in rng.integers(len(data.clips), size=recipe.batch)]
        moved = with_mouths_of(moved, np.stack([motion[:frames] for motion in others]))
    return ACTalkerBatch(
        clean=clean,
        noise=torch.randn(clean.shape, generator=generator),
        sigma=torch.exp(
            recipe.sigma_mean + recipe.sigma_std * torch.randn(recipe.batch, generator=generator)
        ),
        portrait=portrait,
        picture=pictures_of_frames(
            np.stack([clip.frames[index] for clip, index in zip(chosen, portraits, strict=True)])
        ),
        heard=torch.from_numpy(np.stack([c.audio[s] for c, s in zip(chosen, spans, strict=True)])).float(),
        moved=torch.from_numpy(motion_numbers(moved)),
        weights=torch.stack([loss_weights(clip, clean.shape[-1], recipe) for clip in chosen])[:, None, None],
        regions=shared_regions(chosen),
        gates=gates,
        given=given,
    )


def on_device(batch: ACTalkerBatch, device: torch.device | str) -> ACTalkerBatch:
    """Return the batch on a device."""
    tensors = {name: value.to(device) for name, value in batch._asdict().items() if isinstance(value, Tensor)}
    masks = {one.name: getattr(batch.regions, one.name).to(device) for one in fields(batch.regions)}
    return batch._replace(**tensors, regions=FaceRegions(**masks))


def with_mouths_of(signals: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return motion signals (B, F, 58) with the mouths of others (B, F, 58).

    Of real films such clips do not exist; of made heads it is known what they show: the mouth is the sound's. Nothing
    else in small training teaches that the motion has no say there: through self-attention and convolutions it gets
    past any mask.
    """
    mixed = signals.copy()
    mixed[..., MOUTH_COLUMNS] = others[..., MOUTH_COLUMNS]
    return mixed


def kept_conditions(rng: np.random.Generator, recipe: ACTalkerTrainingParameters) -> Tensor:
    """Return (B, 3) bool, whether identity with portrait, audio and motion are given; rows are the guidance streams.

    Streams 0, 1 and 2 (nothing; the person; the person with sound) get `dropped` each, the rest gets all.
    """
    drawn = rng.random(recipe.batch)
    streams = np.minimum(drawn / recipe.dropped, 3).astype(int) if recipe.dropped else np.full(len(drawn), 3)
    return torch.from_numpy(streams[:, None] > np.arange(3))


def shared_regions(clips: Sequence[ControlledClip]) -> FaceRegions:
    """Return the masks of a batch: the smallest boxes that hold the boxes of all its clips."""
    face, mouth = (union_box([getattr(clip, name) for clip in clips]) for name in ("face_box", "mouth_box"))
    face, mouth = box_mask(face), box_mask(mouth)
    return FaceRegions(face, mouth, face * (1 - mouth))


def union_box(boxes: Sequence[np.ndarray]) -> np.ndarray:
    """Return the smallest box (left, top, right, bottom) that holds all boxes."""
    stacked = np.stack(boxes)
    return np.concatenate([stacked[:, :2].min(axis=0), stacked[:, 2:].max(axis=0)])


def box_mask(box: np.ndarray) -> Tensor:
    """Return (64, 64) float32: 1 within a box of pixels."""
    mask = torch.zeros(FRAME_SIZE, FRAME_SIZE)
    left, top, right, bottom = box.tolist()
    mask[top:bottom, left:right] = 1
    return mask


def loss_weights(clip: ControlledClip, side: int, recipe: ACTalkerTrainingParameters) -> Tensor:
    """Return (side, side) weights of the loss, on average 1: higher in the boxes of mouth and eyes."""
    weights = 1 + recipe.mouth_weight * box_mask(clip.mouth_box) + recipe.eye_weight * box_mask(clip.eye_box)
    weights = torch.nn.functional.adaptive_avg_pool2d(weights[None], side)[0]
    return weights / weights.mean()


def training_loss(model: ACTalkerModel, batch: ACTalkerBatch, regions: str = REGIONS) -> Tensor:
    """Return the weighted squared error of v: EDM's loss with weight (1 + sigma^2) / sigma^2 on the clean latents."""
    sigma = batch.sigma.view(-1, 1, 1, 1, 1)
    noisy = edm.scaled_input(batch.clean + sigma * batch.noise, sigma)
    frames = batch.clean.shape[1]
    portrait = batch.portrait * batch.given[:, 0].view(-1, 1, 1, 1)
    predicted = model.unet(
        torch.cat([noisy, portrait[:, None].expand(-1, frames, -1, -1, -1)], dim=2),
        edm.noise_condition(batch.sigma),
        controls_of(model, batch, regions),
        time_conditions(model).to(batch.clean).expand(len(batch.clean), -1),
        pose_features(model, batch.regions.face).expand(len(batch.clean), frames, -1, -1, -1),
    )
    target = edm.v_target(batch.clean, batch.noise, sigma)
    return torch.mean(batch.weights * torch.square(predicted - target))


def controls_of(model: ACTalkerModel, batch: ACTalkerBatch, regions: str) -> UNetControls:
    """Return the controls of a batch: what is not given is what guidance's streams have in its place."""
    frames = batch.clean.shape[1]
    identity = model.identity_projection(model.portrait_encoder(batch.picture)) * batch.given[:, :1]
    heard = _or_none(
        model.audio_projection(batch.heard), model.audio_projection.unconditional(), batch.given[:, 1]
    )
    moved = _or_none(
        model.motion_projection(batch.moved), model.motion_projection.unconditional(), batch.given[:, 2]
    )
    audio, motion = (torch.full((frames,), float(gate)) for gate in batch.gates)
    audio_regions, motion_regions = regions_of_signals(batch.regions, audio, motion, regions)
    return UNetControls(
        identity[:, None, None].expand(-1, frames, -1, -1),
        ControlSignal(heard, audio_regions),
        ControlSignal(moved[:, :, None], motion_regions),
    )


def _or_none(tokens: Tensor, none: Tensor, given: Tensor) -> Tensor:
    return torch.where(given.view(-1, *[1] * (tokens.ndim - 1)), tokens, none[None])


def time_conditions(model: ACTalkerModel) -> Tensor:
    """Return (3,): frame rate and motion buckets that a model is told; constants in models trained here."""
    defaults = model.parameters_used.defaults
    return torch.tensor([defaults.fps, *defaults.motion_buckets])


def learning_rate_at(step: int, recipe: ACTalkerTrainingParameters) -> float:
    """Return the learning rate of a step, counted from 0."""
    warm = min(1.0, (step + 1) / max(recipe.warmup_steps, 1))
    if not recipe.annealed:
        return recipe.learning_rate * warm
    share = min(step / recipe.steps, 1.0)
    return recipe.learning_rate * warm * (0.001 + 0.999 * (0.5 + 0.5 * math.cos(math.pi * share)))
