"""FantasyTalking's training: what a step draws, drops and loses, in two stages (arXiv 2504.04842, section 3.1).

First all latent frames hear the whole clip and the loss is of the whole frame; then each hears the sound around it and
most steps count the lips alone. What the paper leaves open is ours: noise levels, which part of a small model's loss
the lips are, and that clips of the second stage may hear beyond their ends, as windows of long videos do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..core_models.video_diffusion.actalker.prepared_picture import cut_out, face_square
from ..core_models.video_diffusion.fantasytalking.audio_windows import widened, window_ranges
from ..core_models.video_diffusion.fantasytalking.conditions import DenoiserConditions
from ..core_models.video_diffusion.fantasytalking.model import FantasyTalkingModel
from ..core_models.video_diffusion.wan.flow_matching import (
    noisy_latents,
    timesteps,
    training_weight,
    velocity_target,
)
from ..core_models.video_diffusion.wan.frame_rules import video_frames
from ..core_models.video_diffusion.wan.image_conditions import first_frame_mask, image_conditions
from .actalker_data import FACE_BOX_SCALE, FRAME_SIZE
from .actalker_latents import pictures_of_frames
from .fantasytalking_data import HEARD_MARGIN, HEARD_PER_FRAME, TalkingClip, TalkingClips

WHOLE, LOW_RANK, FROZEN = "whole", "lora", "frozen"
BASES = (WHOLE, LOW_RANK, FROZEN)
"""What learns of Wan's own weights: all; additions of low rank to its attention; nothing. What FantasyTalking adds
learns in each."""


@dataclass(frozen=True)
class FantasyTalkingTrainingParameters:
    """How a model is trained.

    steps, batch: updates, and clips in each. clip_level_steps: of them, the first, in which all latent frames hear the
    whole clip; the paper has 80 of 100 thousand, but small models learn little of the sound there. learning_rate: of
    AdamW, reached after warmup_steps and, when annealed, brought down to a tenth of a per cent along a cosine.
    weight_decay, clip_norm, average_decay: usual. shift: of the noise levels; above 1, more of them are high. weighted:
    whether noise levels count as in Wan's training, else alike. lip_share: of the frame-level steps' clips, those whose
    loss is of the lips alone. lip_normalised: whether the lips' loss is brought to the scale of the whole frame's,
    which the paper's is not. dropped: probability with which each of picture, sound and prompt is left out; identity
    goes with the picture. identity_alone: probability with which a clip is shown no picture and still told who it is,
    so that the identity branch has a task that the picture does not do for it. intensity_dropped: share of steps that
    are not told how much is moved. beyond: probability with which a clip hears, at each end, what lies beyond it.
    base: one of BASES. rank: of the additions. seed: of all draws.
    Raises ValueError for values out of range.
    """

    steps: int = 5000
    clip_level_steps: int = 1500
    batch: int = 4
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    annealed: bool = True
    weight_decay: float = 1e-2
    clip_norm: float = 1.0
    average_decay: float = 0.998
    shift: float = 2.0
    weighted: bool = False
    lip_share: float = 0.8
    lip_normalised: bool = True
    dropped: float = 0.1
    identity_alone: float = 0.2
    intensity_dropped: float = 0.1
    beyond: float = 0.5
    base: str = WHOLE
    rank: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("learning_rate", "clip_norm", "shift"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a number above 0")
        for name in ("warmup_steps", "weight_decay", "clip_level_steps", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 0")
        for name in ("lip_share", "dropped", "identity_alone", "intensity_dropped", "beyond"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 to 1")
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"average_decay is {self.average_decay}, expected 0 to below 1")
        if self.base not in BASES:
            raise ValueError(f"base is {self.base!r}, expected one of {', '.join(map(repr, BASES))}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FantasyTalkingTrainingParameters:
        """Rebuild from `to_dict`; raises TypeError for fields that do not exist."""
        return cls(**values)


@dataclass(frozen=True)
class TrainingClips:
    """Clips of N = 4 (F - 1) + 1 frames with what is encoded of them.

    data: the clips and the scale of their movement. latents, starts: (clips, C, F, h, w) float16, normalised, of their
    frames, and of their first frame with grey behind it. prompts: (clips, T, text_dim) float32 with no_prompt (T,
    text_dim) in the place of those that are left out; None for models that read none. pictures: (clips, n, image_dim)
    float32 tokens of the first frames, for models that look at them.
    Raises ValueError when these do not fit each other.
    """

    data: TalkingClips
    latents: np.ndarray
    starts: np.ndarray
    prompts: np.ndarray | None = None
    no_prompt: np.ndarray | None = None
    pictures: np.ndarray | None = None

    def __post_init__(self) -> None:
        count, lengths = len(self.data.clips), sorted({len(clip) for clip in self.data.clips})
        frames = [video_frames(self.latents.shape[2])] if self.latents.ndim == 5 else []
        if self.latents.shape[0] != count or lengths != frames or self.starts.shape != self.latents.shape:
            raise ValueError(
                f"{count} clips of {lengths} frames do not fit latents of shape {self.latents.shape} and first frames "
                f"of {self.starts.shape}"
            )
        if (self.prompts is None) != (self.no_prompt is None):
            raise ValueError("prompts and what stands in their place go together: give both, or neither")

    @property
    def frames(self) -> int:
        """Video frames of each clip."""
        return len(self.data.clips[0])


class FantasyTalkingBatch(NamedTuple):
    """What one step is computed from; B clips of F latent frames.

    clean, noise: (B, C, F, h, w). sigma: (B,). weights: (B, 1, F or 1, h or 1, w or 1) of the squared errors. image:
    (B, 4 + C, F, h, w), 0 where the picture is left out. portrait: (B, 3, H, W) the face of any frame in -1..1.
    known: (B,) whether the identity is given. heard: (B, L, layers, channels). places: (B, F, W) rows of it
    that each latent frame hears; None, all of them. lengths: (B, F) or (B,) how many count; 0 where the sound is left
    out. text: (B, T, text_dim) or None. picture: (B, n, image_dim) or None. intensity: (B, 2) or None.
    """

    clean: Tensor
    noise: Tensor
    sigma: Tensor
    weights: Tensor
    image: Tensor
    portrait: Tensor
    known: Tensor
    heard: Tensor
    places: Tensor | None
    lengths: Tensor
    text: Tensor | None
    picture: Tensor | None
    intensity: Tensor | None

    @property
    def clip_level(self) -> bool:
        """Whether all latent frames hear the whole clip."""
        return self.places is None


def drawn_batch(
    data: TrainingClips, recipe: FantasyTalkingTrainingParameters, step: int
) -> FantasyTalkingBatch:
    """Return the batch of a step: the same for the same recipe, clips and step."""
    rng = np.random.default_rng([recipe.seed, step])
    index = rng.integers(len(data.data.clips), size=recipe.batch)
    clips = [data.data.clips[one] for one in index]
    known, hears, prompted = torch.from_numpy(rng.random((3, recipe.batch)) >= recipe.dropped)
    shown = known & torch.from_numpy(rng.random(recipe.batch) >= recipe.identity_alone)
    clean = torch.from_numpy(data.latents[index]).float()
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    sigma = shifted(torch.rand(recipe.batch, generator=generator), recipe.shift)
    portraits = rng.integers(data.frames, size=recipe.batch)
    heard, places, lengths = drawn_sound(clips, recipe, step, rng)
    told = rng.random() >= recipe.intensity_dropped
    return FantasyTalkingBatch(
        clean=clean,
        noise=torch.randn(clean.shape, generator=generator),
        sigma=sigma,
        weights=drawn_weights(clips, recipe, step, rng, clean.shape[2:]) * _level_weights(sigma, recipe),
        image=_shown_images(torch.from_numpy(data.starts[index]).float(), shown),
        portrait=pictures_of_frames(
            np.stack(
                [
                    face_picture(clip.frames[at], clip.face_box[at])
                    for clip, at in zip(clips, portraits, strict=True)
                ]
            )
        ),
        known=known,
        heard=heard,
        places=places,
        lengths=lengths * hears.reshape(-1, *[1] * (lengths.ndim - 1)),
        text=_prompts(data, index, prompted),
        picture=None if data.pictures is None else _given(torch.from_numpy(data.pictures[index]), shown),
        intensity=torch.tensor([data.data.coefficients(int(one)) for one in index]) if told else None,
    )


def on_device(batch: FantasyTalkingBatch, device: torch.device | str) -> FantasyTalkingBatch:
    """Return the batch on a device."""
    return FantasyTalkingBatch(*(None if value is None else value.to(device) for value in batch))


def clip_level_at(step: int, recipe: FantasyTalkingTrainingParameters) -> bool:
    """Return whether a step, counted from 0, is of the first stage."""
    return step < recipe.clip_level_steps


def shifted(even: Tensor, shift: float) -> Tensor:
    """Return noise levels s u / (1 + (s - 1) u) of numbers u in 0..1, as Wan's sampler spaces its steps."""
    return shift * even / (1 + (shift - 1) * even)


def drawn_sound(
    clips: Sequence[TalkingClip],
    recipe: FantasyTalkingTrainingParameters,
    step: int,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return what is heard, the rows that each latent frame hears, and how many of them count.

    Of a first stage's step that is (B, 4 N, L, C), None and (B,), else (B, 4 N + 40, L, C), (B, F, W) and (B, F).
    """
    if clip_level_at(step, recipe):
        within = np.stack([clip.heard_within for clip in clips])
        return torch.from_numpy(within).float(), None, torch.full((len(clips),), within.shape[1])
    heard = torch.from_numpy(np.stack([clip.heard for clip in clips])).float()
    margins = np.where(rng.random((len(clips), 2)) < recipe.beyond, 0, HEARD_MARGIN)
    return heard, *heard_places(len(clips[0]), margins)


def heard_places(frames: int, margins: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return (B, F, W) rows of what is heard in clips of `frames` frames and (B, F) how many of each window count.

    As `AudioWindows.of` gives them at the sound's own pace: real ones first. margins: (B, 2) rows before and after a
    clip that are not heard.
    """
    rows = HEARD_PER_FRAME * frames
    ranges = widened(window_ranges(rows, frames, HEARD_PER_FRAME))
    first, last = torch.tensor(ranges).T[:, None] + HEARD_MARGIN
    before, after = torch.from_numpy(margins).T[..., None]
    end = rows + 2 * HEARD_MARGIN - 1 - after
    first, last = torch.maximum(first, before), torch.minimum(last, end)
    width = ranges[0][1] - ranges[0][0] + 1
    places = first[..., None] + torch.arange(width)
    return torch.minimum(places, end[..., None]), (last - first + 1).clamp(min=0)


def drawn_weights(
    clips: Sequence[TalkingClip],
    recipe: FantasyTalkingTrainingParameters,
    step: int,
    rng: np.random.Generator,
    size: Sequence[int],
) -> Tensor:
    """Return weights (B, 1, F or 1, h or 1, w or 1) of the squared errors: the paper's equations 2 and 3.

    size: F, h and w. In the first stage, and in a share of the second's clips, all are 1; in the others it is the
    lips' mask, over its mean where the recipe has it normalised.
    """
    if clip_level_at(step, recipe):
        return torch.ones(len(clips), 1, 1, 1, 1)
    of_lips = torch.from_numpy(rng.random(len(clips)) < recipe.lip_share)
    masks = torch.stack([lip_mask(clip.mouth_box, size) for clip in clips])[:, None]
    if recipe.lip_normalised:
        masks = masks / masks.mean(dim=(2, 3, 4), keepdim=True)
    return torch.where(of_lips.reshape(-1, 1, 1, 1, 1), masks, 1.0)


def lip_mask(boxes: np.ndarray, size: Sequence[int]) -> Tensor:
    """Return (F, h, w) float32 in 0..1: how much of each latent cell the lips' box covers.

    boxes: (N, 4) left, top, right, bottom in pixels of each frame. The paper resizes its mask trilinearly; between the
    eight pixels of a cell small lips would fall through, so all of a cell's pixels and frames count here: the first
    latent frame is the first frame's, each other one that of four.
    """
    mask = torch.zeros(1, 1, len(boxes), FRAME_SIZE, FRAME_SIZE)
    for frame, (left, top, right, bottom) in enumerate(boxes.tolist()):
        mask[0, 0, frame, top:bottom, left:right] = 1
    latents, height, width = size
    first, rest = mask[:, :, :1], mask[:, :, 1:]
    pooled = [functional.adaptive_avg_pool3d(first, (1, height, width))]
    if latents > 1:
        pooled.append(functional.adaptive_avg_pool3d(rest, (latents - 1, height, width)))
    return torch.cat(pooled, dim=2)[0, 0]


def _level_weights(sigma: Tensor, recipe: FantasyTalkingTrainingParameters) -> Tensor:
    weights = training_weight(timesteps(sigma), recipe.shift) if recipe.weighted else torch.ones_like(sigma)
    return weights.reshape(-1, 1, 1, 1, 1)


def face_picture(frame: np.ndarray, face_box: np.ndarray) -> np.ndarray:
    """Return (64, 64, 3) uint8: a frame's face, framed as for `portrait_identity.own_identity`.

    face_box: of a clip, widened.
    """
    corners = np.asarray(face_box, np.float64).reshape(2, 2) - 0.5
    middle = corners.mean(axis=0)
    square = cut_out(frame, face_square(middle + (corners - middle) / FACE_BOX_SCALE))
    shrinks = square.shape[0] > FRAME_SIZE
    way = cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4
    return cv2.resize(square, (FRAME_SIZE, FRAME_SIZE), interpolation=way)


def _shown_images(starts: Tensor, shown: Tensor) -> Tensor:
    return _given(image_conditions(first_frame_mask(*starts.shape[2:]), starts), shown)


def _prompts(data: TrainingClips, index: np.ndarray, prompted: Tensor) -> Tensor | None:
    if data.prompts is None or data.no_prompt is None:
        return None
    prompts, none = torch.from_numpy(data.prompts[index]), torch.from_numpy(data.no_prompt)
    return torch.where(prompted[:, None, None], prompts, none).float()


def _given(values: Tensor, given: Tensor) -> Tensor:
    """Return values (B, ...), 0 where they are not given."""
    return values * given.to(values.dtype).reshape(-1, *[1] * (values.ndim - 1))


def training_loss(model: FantasyTalkingModel, batch: FantasyTalkingBatch) -> Tensor:
    """Return the weighted squared error of the velocity: flow matching on the latents."""
    noisy = noisy_latents(batch.clean, batch.noise, batch.sigma)
    predicted = model(noisy, timesteps(batch.sigma), conditions_of(model, batch))
    error = torch.square(predicted - velocity_target(batch.clean, batch.noise))
    return torch.mean(batch.weights * error)


def conditions_of(model: FantasyTalkingModel, batch: FantasyTalkingBatch) -> DenoiserConditions:
    """Return the conditions of a batch; what a model has no branch for is left out.

    Sound that is left out is heard by nobody, and an identity of zeros has values of 0: both are exactly as if they
    had not been given.
    """
    tokens = model.audio_tokens(batch.heard)
    if batch.places is not None:
        rows = torch.arange(len(tokens), device=tokens.device)[:, None, None]
        tokens = tokens[rows, batch.places]
    sizes = model.parameters_used.wan
    text = batch.clean.new_zeros(len(batch.clean), 1, sizes.text_dim) if batch.text is None else batch.text
    return DenoiserConditions(
        image=batch.image,
        text=text,
        picture=batch.picture,
        audio=tokens,
        audio_lengths=batch.lengths,
        identity=_identity(model, batch),
        intensity=batch.intensity if model.intensity is not None else None,
    )


def _identity(model: FantasyTalkingModel, batch: FantasyTalkingBatch) -> Tensor | None:
    if model.identity is None or model.portrait_encoder is None:
        return None
    return _given(model.identity_tokens(model.portrait_encoder(batch.portrait)), batch.known)
