"""Training KDTalker: the released recipe, its loss and one step of it.

Everything random is drawn from generators made anew for each step from (seed, step), so a run has no hidden state:
weights, optimiser state and the number of steps done are all that a continuation needs to be equal to the last bit.
Source: KDTalker (arXiv 2503.12963) section 3 and the published training settings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core_models.keypoint_diffusion.denoiser import DenoiserParameters
from ..core_models.keypoint_diffusion.kdtalker import KDTalkerModel
from ..core_models.keypoint_diffusion.motion_vectors import EXPRESSION, POSE, MotionStatistics
from ..core_models.keypoint_diffusion.schedule import TRAINING_STEPS, alphas_cumprod
from .kdtalker_dataset import ClipWindow

PRECISIONS = ("float32", "bfloat16")
OUTPUT_WEIGHT_SPREAD = 1e-6
"""Standard deviation of the last layer's first weights: an untrained model predicts nothing."""

_NOISE, _FIRST_WEIGHTS = 2, 3
"""Streams of random numbers, beside those of the dataset."""


@dataclass(frozen=True)
class KDTalkerTrainingParameters:
    """How to train; the defaults are the release's. These decide what comes out, and are kept in every checkpoint.

    steps: updates in all, which the learning rate's cosine stretches over. batch: windows per update.
    learning_rate: at its peak (the release: 2e-6 times batch). warmup_steps: of a linear rise from 0.
    betas, weight_decay: AdamW's; biases and norms do not decay. clip_norm: of the gradient.
    noise_probability: how often a batch's sound is heard through noise. held_out_share: of the persons, for validation;
    the release holds out none of its training set. precision: "float32", or "bfloat16" products (autocast).
    seed: of everything random.
    """

    steps: int = 500_000
    batch: int = 256
    learning_rate: float = 5.12e-4
    warmup_steps: int = 2000
    betas: tuple[float, float] = (0.95, 0.999)
    weight_decay: float = 1e-6
    clip_norm: float = 50.0
    noise_probability: float = 0.7
    held_out_share: float = 0.02
    precision: str = "float32"
    seed: int = 42

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        for name, low, high in (
            ("steps", 1, math.inf),
            ("batch", 1, math.inf),
            ("learning_rate", 0, math.inf),
            ("warmup_steps", 0, math.inf),
            ("weight_decay", 0, math.inf),
            ("clip_norm", 1e-12, math.inf),
            ("noise_probability", 0, 1),
            ("held_out_share", 0, 0.9),
            ("seed", 0, 2**63 - 1),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}, expected {low:g} to {high:g}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {self.betas}, expected two numbers from 0 to below 1")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}, expected one of {', '.join(PRECISIONS)}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> KDTalkerTrainingParameters:
        """Return the parameters that `asdict` gave. Raises ValueError for an unknown name."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"unknown training parameters: {', '.join(unknown)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and text by name."""
        return {**asdict(self), "betas": list(self.betas)}


def small_denoiser_parameters() -> DenoiserParameters:
    """Return the sizes of a denoiser (1.3 million parameters) that a processor trains in minutes."""
    return DenoiserParameters(width=128, layers=3, heads=4, head_size=32, time_size=64, rotary_size=16)


def new_model(parameters: DenoiserParameters, statistics: MotionStatistics, seed: int) -> KDTalkerModel:
    """Return an untrained model on the CPU. The global random state is left as it was.

    Raises ValueError for sizes that the sampler cannot use: more than one previous frame.
    """
    if parameters.previous_frames != 1:
        raise ValueError(
            f"previous_frames is {parameters.previous_frames}: KDTalker goes on from 1 frame before the window"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_seed_of(seed, _FIRST_WEIGHTS))
        model = KDTalkerModel(parameters, statistics)
        nn.init.normal_(model.denoiser.output_projection.weight, std=OUTPUT_WEIGHT_SPREAD)
        nn.init.zeros_(model.denoiser.output_projection.bias)
    return model


def _seed_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """Return the generator of all noise of a training step."""
    return torch.Generator(device).manual_seed(_seed_of(seed, _NOISE, step))


def learning_rate_at(step: int, p: KDTalkerTrainingParameters) -> float:
    """Return the learning rate of update `step`, from 0 on: a linear rise from 0, then half a cosine down to 0."""
    if step < p.warmup_steps:
        return p.learning_rate * step / p.warmup_steps
    done = (step - p.warmup_steps) / max(1, p.steps - p.warmup_steps)
    return p.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return AdamW's groups of all trained parameters: those that decay, then biases and norms, which do not."""
    trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    return [
        {"params": [v for n, v in trained if not _is_bias_or_norm(n)], "weight_decay": weight_decay},
        {"params": [v for n, v in trained if _is_bias_or_norm(n)], "weight_decay": 0.0},
    ]


def _is_bias_or_norm(name: str) -> bool:
    """Gains and offsets of norms, biases of layers, and the attention's table of biases."""
    return name.endswith((".gamma", ".beta", ".bias")) or "relative_attention_bias" in name


def new_optimiser(model: nn.Module, p: KDTalkerTrainingParameters) -> torch.optim.AdamW:
    """Return AdamW over the model's parameter groups."""
    return torch.optim.AdamW(parameter_groups(model, p.weight_decay), lr=p.learning_rate, betas=p.betas)


@dataclass(frozen=True)
class TrainingBatch:
    """B windows of L frames as the network takes them, float32 on its device.

    canonical, reference: (B, 70) tokens. motion: (B, L, 70) z-scores. audio: (B, L, 512).
    """

    canonical: Tensor
    reference: Tensor
    motion: Tensor
    audio: Tensor

    def to(self, device: torch.device) -> TrainingBatch:
        """Return the batch on a device."""
        return TrainingBatch(
            *(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self))
        )


def training_batch(windows: ClipWindow, statistics: MotionStatistics) -> TrainingBatch:
    """Return windows (leading axis B) as z-scores, worked out in float64 and rounded once, on the CPU."""
    tokens = np.stack([statistics.canonical_token(canonical) for canonical in windows.canonical])
    scores = (tokens, statistics.normalised(windows.reference), statistics.normalised(windows.motion))
    return TrainingBatch(
        *(torch.from_numpy(values).float() for values in scores), torch.from_numpy(windows.audio).float()
    )


def heard_audio(
    audio: Tensor, prefix_tokens: int, noise_probability: float, generator: torch.Generator
) -> Tensor:
    """Return the context (B, P + L, 512) of a training step: zeros for the clean tokens, then the batch's sound.

    With `noise_probability`, Gaussian noise of the mean and the deviation of that whole tensor, zeros included, is
    added to all of it, as in the release: the clean tokens hear it too, and its mean is not 0.
    """
    context = F.pad(audio, (0, 0, prefix_tokens, 0))
    chance = torch.rand((), generator=generator, device=audio.device)
    noise = torch.randn(context.shape, generator=generator, device=audio.device)
    return torch.where(chance < noise_probability, context + context.mean() + context.std() * noise, context)


class LossParts(NamedTuple):
    """Mean squared error of what is predicted: of everything, of head pose and translation, of the expression."""

    loss: Tensor
    pose: Tensor
    expression: Tensor


def training_loss(
    model: KDTalkerModel,
    batch: TrainingBatch,
    generator: torch.Generator,
    noise_probability: float = 0.0,
    precision: str = "float32",
) -> LossParts:
    """Return the loss at random timesteps: the error of the predicted noise (or motion) over the window's frames.

    Only `loss` counts; its parts are for the eye. All randomness comes from the generator, on the batch's device.
    """
    p = model.parameters_used
    device = batch.motion.device
    steps = torch.randint(0, TRAINING_STEPS, (len(batch.motion),), generator=generator, device=device)
    noise = torch.randn(batch.motion.shape, generator=generator, device=device)
    context = heard_audio(batch.audio, p.prefix_tokens, noise_probability, generator)
    signal = alphas_cumprod(p.schedule).to(device)[steps][:, None, None]
    noisy = signal.sqrt() * batch.motion + (1 - signal).sqrt() * noise
    tokens = torch.cat([model.prefix(batch.canonical, batch.reference), noisy], dim=1)
    with _products(device, precision):
        predicted = model.denoiser(tokens, steps, context)[:, p.prefix_tokens :]
    error = (predicted.float() - (noise if p.prediction == "epsilon" else batch.motion)) ** 2
    return LossParts(error.mean(), error[..., POSE].mean(), error[..., EXPRESSION].mean())


def _products(device: torch.device, precision: str) -> AbstractContextManager:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
