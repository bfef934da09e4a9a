"""Training Takin-ADA's second stage: the recipe, its batches, its losses and one step's randomness.

Source: Takin-ADA (arXiv 2410.14283) equation 3; what it leaves open follows AniTalker (arXiv 2405.03121): loss weights
of 1, Adam at 1e-4, a gradient clipped at 1, averaged weights. Ours: emotion and start are dropped now and then
(guidance, and beginnings), and head control is given in half of the batch, so that what a user gives is obeyed;
AniTalker always uses what it predicts. Everything random comes from generators made anew for each step from (seed,
step): a run has no hidden state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..core_models.keypoint_diffusion.schedule import TRAINING_STEPS, alphas_cumprod
from ..core_models.keypoint_diffusion.takin_ada import Conditions, TakinADAModel, TakinADAParameters
from ..core_models.types import EMOTION_NAMES

SMALLEST_DEVIATION = 1e-3
"""Of a motion number that hardly moves in the training data, so that z-scores stay finite."""
_NOISE, _WINDOWS, _FIRST_WEIGHTS = 1, 2, 3
"""Streams of random numbers."""


@dataclass(frozen=True)
class TakinADASpeechTrainingParameters:
    """How to train; kept in every checkpoint.

    steps: updates. batch: windows each. learning_rate: Adam's at its peak, reached after warmup_steps and led to 0 by a
    cosine if `annealed`. clip_norm: of the gradient. average_decay: of the averaged weights. emotion_dropout,
    start_dropout: chances of leaving those out. heard_emotion_share: chance that the emotion is the one predicted from
    speech instead of the true one. given_share: chance that head control is given instead of predicted.
    pose_weight, emotion_weight, closure_weight: of the predictors' losses beside the denoiser's. precision: "float32"
    or "bfloat16" products.
    """

    steps: int = 200_000
    batch: int = 64
    learning_rate: float = 1e-4
    warmup_steps: int = 0
    annealed: bool = False
    clip_norm: float = 1.0
    average_decay: float = 0.9999
    emotion_dropout: float = 0.1
    heard_emotion_share: float = 0.1
    start_dropout: float = 0.3
    given_share: float = 0.5
    pose_weight: float = 1.0
    emotion_weight: float = 1.0
    closure_weight: float = 1.0
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ValueError(f"steps is {self.steps} and batch {self.batch}, expected at least 1")
        for name in (
            "emotion_dropout",
            "heard_emotion_share",
            "start_dropout",
            "given_share",
            "average_decay",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 to 1")
        for name in ("learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a positive number")
        for name in ("warmup_steps", "pose_weight", "emotion_weight", "closure_weight", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 0")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision is {self.precision!r}, expected 'float32' or 'bfloat16'")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TakinADASpeechTrainingParameters:
        """Rebuild from `to_dict`; unknown fields raise TypeError."""
        names = {one.name for one in fields(cls)}
        if unknown := set(values) - names:
            raise TypeError(f"unknown training settings {sorted(unknown)}")
        return cls(**values)


class HiddenStateSlices(Protocol):
    """Hidden states (2N, L, C), in memory or elsewhere."""

    def __getitem__(self, steps: slice) -> np.ndarray:
        """Return those of the steps, floating."""


class SpeechSource(Protocol):
    """A clip that windows can be cut from, in memory or on disk; what `SpeechClip` holds under the same names."""

    @property
    def name(self) -> str: ...
    @property
    def frames(self) -> int: ...
    @property
    def hidden_states(self) -> HiddenStateSlices: ...
    @property
    def motion(self) -> np.ndarray: ...
    @property
    def source(self) -> np.ndarray: ...
    @property
    def emotion(self) -> np.ndarray | None: ...
    @property
    def closed(self) -> np.ndarray | None: ...


@dataclass(frozen=True)
class SpeechClip:
    """One clip of a person speaking.

    name: unique. hidden_states: (2N, L, C) floating, of the speech model at 50 Hz. motion: (N, size) float32 in the
    layout's units at 25 fps. source: (source size,) float32, whom it shows; empty where the model takes none.
    emotion: (7,) float32, the shown emotions' weights times strength by EMOTION_NAMES, or None where nobody knows.
    closed: (N,) float32, 1 where the lips touch, or None.
    Raises ValueError when lengths do not agree.
    """

    name: str
    hidden_states: np.ndarray
    motion: np.ndarray
    source: np.ndarray
    emotion: np.ndarray | None = None
    closed: np.ndarray | None = None

    def __post_init__(self) -> None:
        frames = len(self.motion)
        if frames < 2 or len(self.hidden_states) != 2 * frames:
            raise ValueError(
                f"clip {self.name!r} has {frames} frames and {len(self.hidden_states)} steps of speech, expected at "
                "least 2 and twice as many"
            )
        if self.closed is not None and len(self.closed) != frames:
            raise ValueError(f"clip {self.name!r} has {frames} frames and {len(self.closed)} of closed lips")

    @property
    def frames(self) -> int:
        return len(self.motion)


class SpeechBatch(NamedTuple):
    """hidden_states (B, L, 2N, C); motion (B, N, size) z-scores; before (B, size) z-scores of the frame before;
    first (B,) bool, where there is none; source (B, source size) z-scores; emotion (B, N, emotion size) averaged;
    closed (B, N); valid (B, N) bool."""

    hidden_states: Tensor
    motion: Tensor
    before: Tensor
    first: Tensor
    source: Tensor
    emotion: Tensor
    closed: Tensor
    valid: Tensor


def averaged_expression(expression: Tensor, frames: int) -> Tensor:
    """Return (..., N, E): each frame's mean over the `frames` frames about it that exist: Takin-ADA's clean expression.

    expression: (..., N, E). An even number of frames reaches one further back than ahead.
    """
    length = expression.shape[-2]
    overall = expression.mean(
        dim=-2, keepdim=True
    )  # without it long sums would grow, and their differences be coarse
    sums = F.pad((expression - overall).cumsum(dim=-2), (0, 0, 1, 0))
    centre = torch.arange(length, device=expression.device)
    low = (centre - frames // 2).clamp(min=0)
    high = (centre + (frames + 1) // 2).clamp(max=length)
    return overall + (sums[..., high, :] - sums[..., low, :]) / (high - low)[:, None]


def step_generator(seed: int, stream: int, step: int) -> np.random.Generator:
    """Return a step's generator of one stream of random numbers."""
    return np.random.default_rng([seed, stream, step])


def set_statistics(model: TakinADAModel, clips: Sequence[SpeechSource]) -> None:
    """Fill the model's buffers from the training clips: means, deviations, neutral emotion, affective vectors.

    The last two are least squares over the labelled clips: mean emotion of a clip ~ neutral + weights @ vectors; an
    emotion that no clip shows keeps zeros, and neutral's own vector is zero.
    """
    motion = np.concatenate([clip.motion for clip in clips])
    _fill(model, "motion", motion)
    if model.parameters_used.source_size:
        _fill(model, "source", np.stack([clip.source for clip in clips]))
    labelled = [clip for clip in clips if clip.emotion is not None]
    if not labelled:
        return
    weights = np.stack([clip.emotion for clip in labelled]).astype(np.float64)
    shown = [i for i in range(1, len(EMOTION_NAMES)) if weights[:, i].any()]
    columns = list(model.parameters_used.layout.expression)
    means = np.stack([clip.motion[:, columns].mean(axis=0) for clip in labelled]).astype(np.float64)
    mean, std = (getattr(model, f"motion_{name}")[columns].cpu().double().numpy() for name in ("mean", "std"))
    design = np.concatenate([np.ones((len(labelled), 1)), weights[:, shown]], axis=1)
    solved = np.linalg.lstsq(design, (means - mean) / std, rcond=None)[0]
    model.neutral_emotion.copy_(torch.from_numpy(solved[0]))
    model.affective_vectors.zero_()
    model.affective_vectors[shown] = torch.from_numpy(solved[1:]).to(model.affective_vectors)


def _fill(model: TakinADAModel, name: str, rows: np.ndarray) -> None:
    rows = rows.astype(np.float64)
    getattr(model, f"{name}_mean").copy_(torch.from_numpy(rows.mean(axis=0)))
    getattr(model, f"{name}_std").copy_(torch.from_numpy(np.maximum(rows.std(axis=0), SMALLEST_DEVIATION)))


def new_model(parameters: TakinADAParameters, clips: Sequence[SpeechSource], seed: int) -> TakinADAModel:
    """Return an untrained model with the clips' statistics; it predicts no noise at first."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(step_generator(seed, _FIRST_WEIGHTS, 0).integers(2**62)))
        model = TakinADAModel(parameters)
    torch.nn.init.zeros_(model.output.weight)
    torch.nn.init.zeros_(model.output.bias)
    set_statistics(model, clips)
    if parameters.listener is not None:
        model.listener.requires_grad_(False)
    return model


def draw_batch(
    model: TakinADAModel, clips: Sequence[SpeechSource], size: int, seed: int, step: int
) -> SpeechBatch:
    """Return a step's windows: clips by their length, beginnings uniformly; what is shorter is filled up."""
    rng = step_generator(seed, _WINDOWS, step)
    window = model.parameters_used.window
    lengths = np.array([clip.frames for clip in clips], float)
    chosen = rng.choice(len(clips), size=size, p=lengths / lengths.sum())
    starts = [int(rng.integers(0, max(0, clips[i].frames - window) + 1)) for i in chosen]
    return batch_of(model, [clips[i] for i in chosen], starts)


def batch_of(model: TakinADAModel, clips: Sequence[SpeechSource], starts: Sequence[int]) -> SpeechBatch:
    """Return the windows of clips that begin at the given frames, on the model's device."""
    p = model.parameters_used
    window = min(p.window, max(clip.frames - start for clip, start in zip(clips, starts, strict=True)))
    columns = list(p.layout.expression)
    rows = [_window(model, clip, start, window, columns) for clip, start in zip(clips, starts, strict=True)]
    return SpeechBatch(*(torch.stack(part) for part in zip(*rows, strict=True)))


def _window(
    model: TakinADAModel, clip: SpeechSource, start: int, window: int, columns: list[int]
) -> tuple[Tensor, ...]:
    device = model.motion_mean.device

    def moved(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(device).float()

    scores = model.normalise(moved(clip.motion))
    emotion = averaged_expression(scores[:, columns], model.parameters_used.emotion_window)
    inside = slice(start, min(start + window, clip.frames))
    length = inside.stop - inside.start
    hidden = moved(clip.hidden_states[2 * inside.start : 2 * inside.stop]).transpose(0, 1)
    closed = torch.zeros(clip.frames, device=device) if clip.closed is None else moved(clip.closed)
    source = moved(clip.source)
    missing = window - length
    return (
        F.pad(hidden, (0, 0, 0, 2 * missing)),
        F.pad(scores[inside], (0, 0, 0, missing)),
        scores[max(0, start - 1)],
        torch.tensor(start == 0, device=device),
        (source - model.source_mean) / model.source_std if len(source) else source,
        F.pad(emotion[inside], (0, 0, 0, missing)),
        F.pad(closed[inside], (0, missing)),
        torch.arange(window, device=device) < length,
    )


class SpeechLosses(NamedTuple):
    """loss: what is minimised. denoiser, pose, emotion, closure: its parts, unweighted."""

    loss: Tensor
    denoiser: Tensor
    pose: Tensor
    emotion: Tensor
    closure: Tensor


def training_loss(
    model: TakinADAModel, batch: SpeechBatch, recipe: TakinADASpeechTrainingParameters, step: int
) -> SpeechLosses:
    """Return the losses of a batch; everything random is drawn from (recipe.seed, step)."""
    rng = step_generator(recipe.seed, _NOISE, step)
    count, device = len(batch.motion), batch.motion.device
    valid = batch.valid

    def drawn(chance: float) -> Tensor:
        return torch.from_numpy(rng.random(count) < chance).to(device)

    speech = model.heard(batch.hidden_states, valid)
    given, heard = drawn(recipe.given_share), drawn(recipe.heard_emotion_share)
    speech_given, predictions, emotion_part = _adapted(model, speech, batch, given, heard)
    without = drawn(recipe.emotion_dropout)
    emotion_part = torch.where(without[:, None, None], model.no_emotion, emotion_part)
    no_start = batch.first | drawn(recipe.start_dropout)
    start = torch.where(no_start[:, None], model.no_start, batch.before)
    timesteps = torch.from_numpy(rng.integers(0, TRAINING_STEPS, count)).to(device)
    noise = torch.from_numpy(rng.standard_normal(batch.motion.shape, np.float32)).to(device)
    signal = alphas_cumprod(model.parameters_used.schedule).to(device)[timesteps][:, None, None]
    noisy = signal.sqrt() * batch.motion + (1 - signal).sqrt() * noise
    goal = noise if model.parameters_used.prediction == "epsilon" else batch.motion
    source = batch.source if model.parameters_used.source_size else None
    conditions = Conditions(speech_given + emotion_part, start, source)
    denoiser = masked_mean((model.predicted(noisy, timesteps, conditions, valid) - goal) ** 2, valid)
    pose = sum(
        masked_mean((predictions[name] - batch.motion[..., list(columns)]) ** 2, valid)
        for name, columns in model.parameters_used.layout.controls.items()
    )
    emotion = masked_mean((predictions["emotion"] - batch.emotion) ** 2, valid)
    closure = speech.new_zeros(())
    if model.parameters_used.closes_lips:
        logits = model.closure_logits(speech).float()
        closure = masked_mean(
            F.binary_cross_entropy_with_logits(logits, batch.closed, reduction="none")[..., None], valid
        )
    loss = denoiser + recipe.pose_weight * pose + recipe.emotion_weight * emotion
    return SpeechLosses(loss + recipe.closure_weight * closure, denoiser, pose, emotion, closure)


def _adapted(
    model: TakinADAModel, speech: Tensor, batch: SpeechBatch, given: Tensor, heard: Tensor
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Return the speech with head control, true where `given` and predicted elsewhere; predictions; emotion's part.

    The emotion is the true one but where it is `heard`: then the generator sees what it will see without a given one.
    """
    predictions: dict[str, Tensor] = {}
    added = speech
    for name, columns in model.parameters_used.layout.controls.items():
        adapter = model.adapters[name]
        predictions[name], _ = adapter.predict(speech)
        values = torch.where(given[:, None, None], batch.motion[..., list(columns)], predictions[name])
        added = added + adapter.encode(values)[0]
    adapter = model.adapters["emotion"]
    predictions["emotion"], _ = adapter.predict(speech)
    emotion = torch.where(
        heard[:, None, None], predictions["emotion"].detach().to(batch.emotion), batch.emotion
    )
    return added, predictions, adapter.encode(emotion)[0]


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Return the mean of values (B, N, C) over the frames that are valid (B, N)."""
    weights = valid[..., None].to(values.dtype)
    return (values.float() * weights).sum() / (weights.sum() * values.shape[-1]).clamp(min=1)


def learning_rate_at(step: int, p: TakinADASpeechTrainingParameters) -> float:
    """Return the learning rate of a step, counted from 0."""
    rate = p.learning_rate * min(1.0, (step + 1) / max(1, p.warmup_steps))
    return rate * 0.5 * (1 + math.cos(math.pi * min(1.0, step / p.steps))) if p.annealed else rate
