"""`talking-portrait train pocket`: make the data, train the pocket model, measure it, write the weights.

The run is bounded by wall time; the learning rate follows the time used, so a slower machine trains less
but still ends annealed. Seeds fix the data and the order of batches.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..core_models.audio.mel import scale_decibels
from ..core_models.keypoint_diffusion.loading import load_pocket
from ..core_models.keypoint_diffusion.pocket import (
    PocketModel,
    PocketParameters,
    pocket_denoiser_parameters,
    sampled_channels,
)
from ..core_models.keypoint_diffusion.schedule import TRAINING_STEPS, alphas_cumprod
from ..core_models.keypoint_diffusion.speech_encoder import SpeechEncoderParameters
from ..core_models.motion.region_names import LIP_PARTING
from ..core_models.types import BLENDSHAPE_INDEX, EMOTION_NAMES
from .mel_augmentation import augment
from .performance import (
    BROW_SHARES,
    emotion_head_gains,
    emotion_jaw_gains,
    emotion_offsets,
    emotion_rest,
    mouth_to_blendshapes,
)
from .pocket_data import Recording, load_recordings, make_training_recordings, save_recordings
from .visemes import MOUTH_CHANNELS, PHONE_CLASSES

logger = logging.getLogger(__name__)

EDGE_FRAMES = 6  # at each end of a training window, where the encoder lacks context: no mouth loss there
RECORDED_VOICES = ("flite:", "festival:")
PRESS = MOUTH_CHANNELS.index("press")
TOUCHING_PRESS = 0.2  # only p, b, m press the lips, so above this they touch
DENOISER_SHARE = 0.25  # of a batch trains the denoiser; the mouth needs more examples than head and brows
KEY_CHANNELS = ("jawOpen", "mouthClose", "mouthPucker", "mouthFunnel", "mouthPressLeft", "mouthPressRight")


@dataclass(frozen=True)
class TrainingParameters:
    """How to train. minutes: wall time of the optimisation; batch: windows; clean_share: of a batch that is heard
    without augmentation; recorded_voice_weight: how often synthesisers made from recordings are drawn, against
    the rest; the others weigh the losses."""

    minutes: float = 68.0
    batch: int = 32
    learning_rate: float = 1.4e-3
    weight_decay: float = 0.01
    warmup_steps: int = 300
    average_decay: float = 0.9993
    clip_norm: float = 1.0
    velocity_weight: float = 0.5
    closure_weight: float = 0.5
    phone_weight: float = 0.15
    aperture_weight: float = 4.0
    emotion_dropout: float = 0.30
    clean_share: float = 0.35
    recorded_voice_weight: float = 1.0
    previous_noise: float = 0.08
    key_channel_weight: float = 3.0
    prediction: str = "x0"
    schedule: str = "cosine"
    seed: int = 20261121


@dataclass(frozen=True)
class Batch:
    """One batch. mel (B, 4N, 80) decibels; motion (B, N, 58), its sampled channels relative to the emotion's
    rest; emotion (B, 7); phones (B, 2N) long; closed (B, N) float, 1 where p, b or m close the lips."""

    mel: Tensor
    motion: Tensor
    emotion: Tensor
    phones: Tensor
    closed: Tensor


class WindowSampler:
    """Draws training windows: every recording in proportion to its length, and to its voice's weight."""

    def __init__(
        self,
        recordings: list[Recording],
        frames: int,
        rng: np.random.Generator,
        recorded_voice_weight: float = 1.0,
    ) -> None:
        self.frames = frames
        self.rng = rng
        self.recordings = [r for r in recordings if len(r.closed) >= frames]
        if not self.recordings:
            raise ValueError(f"no recording is as long as a training window ({frames} frames)")
        recorded = np.array([r.voice.startswith(RECORDED_VOICES) for r in self.recordings])
        lengths = np.array([len(r.closed) for r in self.recordings], float)
        lengths *= np.where(recorded, recorded_voice_weight, 1.0)
        self.shares = lengths / lengths.sum()
        self.to_blendshapes = mouth_to_blendshapes()
        self.offsets = np.where(sampled_channels()[: len(BLENDSHAPE_INDEX)].numpy(), 0, emotion_offsets())
        self.jaw_gains = emotion_jaw_gains()
        self.head_gains = emotion_head_gains()

    def draw_emotion(self, dropout: float) -> np.ndarray:
        """Return (7,) weights times strength; neutral with the dropout chance; sometimes a mix of two."""
        weights = np.zeros(len(EMOTION_NAMES), np.float32)
        if self.rng.random() < dropout:
            weights[0] = 1.0
            return weights
        names = self.rng.integers(1, 6, size=2)
        share = 1.0 if self.rng.random() < 0.7 else self.rng.uniform(0.3, 1.0)
        strength = self.rng.uniform(0.2, 1.2)
        weights[names[0]] += share * strength
        weights[names[1]] += (1 - share) * strength
        return weights

    def window(self, emotion: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return one window's (mel, motion, phones, closed)."""
        recording = self.recordings[self.rng.choice(len(self.recordings), p=self.shares)]
        start = int(self.rng.integers(0, len(recording.closed) - self.frames + 1))
        inside = slice(start, start + self.frames)
        take = int(self.rng.integers(len(recording.poses)))
        expression = self.expression(recording.mouth[inside].astype(np.float32), emotion, recording.voice)
        raise_height = recording.brows[take, inside].astype(np.float32)
        for name, share in BROW_SHARES:
            expression[:, BLENDSHAPE_INDEX[name]] += share * raise_height
        pose = recording.poses[take, inside].astype(np.float32) * (1 + float(self.head_gains @ emotion))
        motion = np.concatenate([np.clip(expression, 0, 1), pose], axis=1)
        mel = recording.mel_db[4 * start : 4 * (start + self.frames)].astype(np.float32)
        phones = recording.phones[2 * start : 2 * (start + self.frames)].astype(np.int64)
        touching = recording.mouth[inside, PRESS] > TOUCHING_PRESS
        return mel, motion, phones, touching.astype(np.float32)

    def expression(self, mouth: np.ndarray, emotion: np.ndarray, voice: str) -> np.ndarray:
        """Return (N, 52): the mouth's coefficients with the emotion, lips still meeting where they must.

        Sampled coefficients stay at 0: what the emotion adds to them is the model's `emotion_rest`.
        """
        coefficients = mouth @ self.to_blendshapes
        coefficients[:, BLENDSHAPE_INDEX["jawOpen"]] *= 1 + float(self.jaw_gains @ emotion)
        offsets = np.repeat((emotion @ self.offsets)[None], len(mouth), axis=0)
        parted = np.clip(mouth[:, 0] / 0.12, 0, 1)
        for name in LIP_PARTING:
            offsets[:, BLENDSHAPE_INDEX[name]] *= parted
        return coefficients + offsets

    def batch(self, size: int, dropout: float) -> Batch:
        """Return `size` windows."""
        emotions = [self.draw_emotion(dropout) for _ in range(size)]
        mel, motion, phones, closed = (
            np.stack(part) for part in zip(*map(self.window, emotions), strict=True)
        )
        return Batch(
            mel=torch.from_numpy(mel),
            motion=torch.from_numpy(motion),
            emotion=torch.from_numpy(np.stack(emotions)),
            phones=torch.from_numpy(phones),
            closed=torch.from_numpy(closed),
        )


def channel_weights(parameters: TrainingParameters, std: Tensor) -> Tensor:
    """Return (52,): the mouth loss's weight of each coefficient; 0 where it never moves."""
    weights = torch.ones(52)
    for name in KEY_CHANNELS:
        weights[BLENDSHAPE_INDEX[name]] = parameters.key_channel_weight
    weights[std[:52] <= 1e-3] = 0
    weights[sampled_channels()[:52]] = 0
    return weights


def lip_aperture(expression: Tensor) -> Tensor:
    """Return how far the lips are apart, (..., N), for coefficients (..., N, 52): 0 is closed, about 0.6 wide open.

    `sampler.lip_opening` for tensors, without its floor at 0, so that the loss keeps its slope when lips overlap.
    """
    jaw = expression[..., BLENDSHAPE_INDEX["jawOpen"]] - expression[..., BLENDSHAPE_INDEX["mouthClose"]]
    parting = sum(expression[..., BLENDSHAPE_INDEX[name]] for name in LIP_PARTING)
    return jaw + 0.125 * parting


def mouth_loss(
    model: PocketModel, batch: Batch, features: Tensor, target: Tensor, p: TrainingParameters
) -> Tensor:
    """Return the loss of the direct estimate: coefficients, their velocity, the aperture and the closure."""
    inner = slice(EDGE_FRAMES, -EDGE_FRAMES)
    emotion = batch.emotion[:, None].expand(-1, features.shape[1], -1)
    estimate = model.mouth(features, emotion).float()
    weights = channel_weights(p, model.motion_std)
    error = (estimate - target[..., :52])[:, inner]
    loss = (weights * error**2).mean()
    loss = loss + p.velocity_weight * (weights * error.diff(dim=1) ** 2).mean()
    scale, offset = model.motion_std[:52], model.motion_mean[:52]
    aperture = lip_aperture(estimate * scale + offset) - lip_aperture(target[..., :52] * scale + offset)
    loss = loss + p.aperture_weight * F.smooth_l1_loss(
        aperture[:, inner], torch.zeros_like(aperture[:, inner]), beta=0.03
    )
    logits = model.encoder.closure_logits(features).float()[:, inner]
    return loss + p.closure_weight * F.binary_cross_entropy_with_logits(logits, batch.closed[:, inner])


def diffusion_loss(
    model: PocketModel,
    batch: Batch,
    features: Tensor,
    target: Tensor,
    p: TrainingParameters,
    generator: torch.Generator,
) -> Tensor:
    """Return the denoising loss over the window that follows the previous frames."""
    before = model.parameters_used.denoiser.previous_frames
    size = round(DENOISER_SHARE * len(target))
    target, features = target[:size], features[:size]
    window = target[:, before:]
    prefix = target[:, :before] + p.previous_noise * torch.randn(
        target[:, :before].shape, generator=generator
    )
    steps = torch.randint(0, TRAINING_STEPS, (len(window),), generator=generator)
    signal = alphas_cumprod(p.schedule)[steps][:, None, None]
    noise = torch.randn(window.shape, generator=generator)
    noisy = signal.sqrt() * window + (1 - signal).sqrt() * noise
    emotion = batch.emotion[:size, None].expand(-1, window.shape[1], -1)
    prediction = model.denoise(noisy, prefix, steps, features[:, before:], emotion).float()
    goal = window if p.prediction == "x0" else noise
    weights = torch.where(sampled_channels(), 1.0, 0.2) * (model.motion_std > 1e-3)
    error = prediction - goal
    loss = (weights * error**2).mean()
    if p.prediction == "x0":
        loss = loss + p.velocity_weight * (weights * error.diff(dim=1) ** 2).mean() * 4
    return loss


def heard(mel_db: Tensor, clean_share: float, generator: torch.Generator) -> Tensor:
    """Return the batch's mel decibels as the model hears them: augmented, but for `clean_share` of the items."""
    clean = torch.rand(len(mel_db), 1, 1, generator=generator) < clean_share
    return torch.where(clean, mel_db, augment(mel_db, generator))


def training_loss(
    model: PocketModel, batch: Batch, p: TrainingParameters, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Return the whole loss and its parts."""
    features, phone_logits = model.encoder(scale_decibels(heard(batch.mel, p.clean_share, generator)))
    target = model.normalise(batch.motion)
    mouth = mouth_loss(model, batch, features, target, p)
    diffusion = diffusion_loss(model, batch, features.detach(), target, p, generator)
    phones = F.cross_entropy(phone_logits.float().flatten(0, 1), batch.phones.flatten())
    parts = {"mouth": mouth.item(), "diffusion": diffusion.item(), "phones": phones.item()}
    return mouth + diffusion + p.phone_weight * phones, parts


def motion_statistics(sampler: WindowSampler, windows: int = 2000) -> tuple[Tensor, Tensor]:
    """Return each motion channel's mean and spread over random windows; channels that never move get spread 1e-3."""
    batch = sampler.batch(windows, dropout=0.3)
    flat = batch.motion.flatten(0, 1)
    return flat.mean(dim=0), flat.std(dim=0).clamp(min=1e-3)


def learning_rate_at(step: int, progress: float, p: TrainingParameters) -> float:
    """Return the learning rate: a linear warm-up, then a cosine down to zero over the time given."""
    return (
        p.learning_rate
        * min(1.0, (step + 1) / p.warmup_steps)
        * 0.5
        * (1 + math.cos(math.pi * min(1.0, progress)))
    )


@torch.no_grad()
def update_average(average: PocketModel, model: PocketModel, decay: float) -> None:
    """Move the averaged weights a little towards the trained ones."""
    for target, source in zip(average.parameters(), model.parameters(), strict=True):
        target.lerp_(source, 1 - decay)


def new_model(p: TrainingParameters) -> PocketModel:
    """Return an untrained pocket model."""
    torch.manual_seed(p.seed)
    denoiser = pocket_denoiser_parameters()
    if (p.prediction, p.schedule) != (denoiser.prediction, denoiser.schedule):
        denoiser = replace(denoiser, prediction=p.prediction, schedule=p.schedule)
    encoder = SpeechEncoderParameters(phone_classes=len(PHONE_CLASSES))
    return PocketModel(PocketParameters(encoder=encoder, denoiser=denoiser))


def train(
    recordings: list[Recording],
    p: TrainingParameters,
    checkpoint: Path | None = None,
    start: PocketModel | None = None,
) -> PocketModel:
    """Return the averaged model after `p.minutes` of training; `checkpoint` is rewritten every few minutes.

    start: a model to go on from, such as an earlier leg's; None starts anew.
    """
    model, average = new_model(p), new_model(p)
    if start is not None:
        for network in (model, average):
            network.load_state_dict(start.state_dict())
    denoiser = model.parameters_used.denoiser
    sampler = WindowSampler(
        recordings, denoiser.previous_frames + denoiser.window, np.random.default_rng(p.seed)
    )
    mean, std = motion_statistics(sampler) if start is None else (start.motion_mean, start.motion_std)
    for network in (model, average):
        network.motion_mean.copy_(mean)
        network.motion_std.copy_(std)
        network.emotion_rest.copy_(torch.from_numpy(emotion_rest()) * sampled_channels())
    generator = torch.Generator().manual_seed(p.seed)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=p.learning_rate, weight_decay=p.weight_decay, betas=(0.9, 0.98)
    )
    began, step, saved = time.monotonic(), 0, time.monotonic()
    while (progress := (time.monotonic() - began) / (60 * p.minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate_at(step, progress, p)
        batch = sampler.batch(p.batch, p.emotion_dropout)
        with torch.autocast("cpu", torch.bfloat16):
            loss, parts = training_loss(model, batch, p, generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), p.clip_norm)
        optimiser.step()
        warm = 1.0 if start is not None else (step + 1) / (step + 10)
        update_average(average, model, min(p.average_decay, warm))
        if step % 100 == 0:
            logger.info(
                "step %d, %.0f %%, %s", step, 100 * progress, {k: round(v, 4) for k, v in parts.items()}
            )
        if checkpoint is not None and time.monotonic() - saved > 180:
            save_model(average, checkpoint, {"step": step})
            saved = time.monotonic()
        step += 1
    logger.info("trained %d steps", step)
    return average.eval()


def save_model(model: PocketModel, path: Path, facts: dict) -> None:
    """Write the weights as float16 safetensors, with sizes and `facts` in the metadata, through a temporary name."""
    from safetensors.torch import save_file

    shared = {
        name for name in model.state_dict() if name.endswith("rotary_emb.freqs") and ".0.2." not in name
    }
    tensors = {
        name: value.half().contiguous()
        if name not in ("motion_mean", "motion_std", "emotion_rest")
        else value
        for name, value in model.state_dict().items()
        if name not in shared
    }
    metadata = {"parameters": json.dumps(model.parameters_used.to_dict()), "facts": json.dumps(facts)}
    temporary = path.with_suffix(".partial")
    save_file(tensors, str(temporary), metadata)
    temporary.replace(path)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="talking-portrait train pocket", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("pocket.safetensors"), help="weight file to write")
    parser.add_argument(
        "--data", type=Path, help="keep the made data here, and reuse it when it exists (.npz)"
    )
    parser.add_argument("--minutes", type=float, default=TrainingParameters.minutes)
    parser.add_argument("--start-from", type=Path, help="weights to go on from, instead of from nothing")
    parser.add_argument("--learning-rate", type=float, default=TrainingParameters.learning_rate)
    parser.add_argument(
        "--recorded-voice-weight", type=float, default=TrainingParameters.recorded_voice_weight
    )
    parser.add_argument("--seed", type=int, default=TrainingParameters.seed)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the data to make; small for a trial"
    )
    parser.add_argument(
        "--prediction", choices=("x0", "epsilon"), default="x0", help="epsilon: KDTalker's recipe"
    )
    parser.add_argument(
        "--schedule", choices=("cosine", "linear"), default="cosine", help="linear: KDTalker's betas"
    )
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Make or load the data, train, and write the weights; returns the exit code."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    if options.data is not None and options.data.exists():
        recordings = load_recordings(options.data)
    else:
        recordings = make_training_recordings(options.seed, options.scale)
        if options.data is not None:
            save_recordings(recordings, options.data)
    minutes = sum(len(recording.closed) for recording in recordings) / 25 / 60
    logger.info("%d recordings, %.0f minutes", len(recordings), minutes)
    p = TrainingParameters(
        minutes=options.minutes,
        learning_rate=options.learning_rate,
        recorded_voice_weight=options.recorded_voice_weight,
        seed=options.seed,
        prediction=options.prediction,
        schedule=options.schedule,
    )
    start = load_pocket(options.start_from) if options.start_from is not None else None
    model = train(recordings, p, options.out, start)
    facts = {"minutes_of_training": p.minutes, "minutes_of_speech": round(minutes), "seed": p.seed}
    save_model(model, options.out, facts)
    logger.info("wrote %s (%d parameters)", options.out, sum(v.numel() for v in model.parameters()))
    return 0
