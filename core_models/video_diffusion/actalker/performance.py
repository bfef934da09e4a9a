"""A portrait that moves as signals say: from a picture, an identity and controls to a clip's latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ...audio.frame_clock import frame_count, frame_times
from ...motion.row_interpolation import interpolated_rows
from ...types import AudioEmbedding, ProgressCallback, back_and_forth
from ...video_types import EXPRESSION_AND_POSE, Identity, MaskedControl, MotionEmbedding
from ..block_checks import CheckCallback
from .clip_conditions import ClipSignals, clip_conditions, windows_of_frames
from .gates import FaceRegions
from .guidance import GuidanceScales
from .model import ACTalkerModel, ACTalkerParameters
from .prepared_picture import PreparedPicture
from .sampler import PreviewCallback, SamplingOptions, sample_latents

Chosen = TypeVar("Chosen")


@dataclass(frozen=True)
class ACTalkerOptions:
    """What a user chooses; None is the model's own.

    steps, window, shift: as in `SamplingOptions`. overlap: frames shared by windows. identity_guidance: how far the
    result is pushed towards the portrait. motion_buckets: how much head and expression are to move. strength: 0..1.
    frames: of the clip; None lasts as long as what steers it. seed: of the noise. streams_at_once: guidance streams
    evaluated together; fewer need less memory.
    """

    steps: int | None = None
    window: int | None = None
    overlap: int = 0
    shift: int | None = None
    identity_guidance: float | None = None
    motion_buckets: tuple[float, float] | None = None
    strength: float = 1.0
    frames: int | None = None
    seed: int = 0
    streams_at_once: int = 4


def sampling_options(
    parameters: ACTalkerParameters, options: ACTalkerOptions, control: MaskedControl
) -> SamplingOptions:
    """Return the sampler's options of a model, what was chosen, and the control's guidance."""
    own = parameters.defaults
    scales = GuidanceScales(
        identity=_chosen(options.identity_guidance, own.guidance.identity),
        audio=_chosen(control.audio_guidance, own.guidance.audio),
        motion=_chosen(control.motion_guidance, own.guidance.motion),
    )
    return SamplingOptions(
        steps=_chosen(options.steps, own.steps),
        guidance=scales,
        window=_chosen(options.window, own.window),
        overlap=options.overlap,
        shift=_chosen(options.shift, own.shift),
        strength=options.strength,
        sigma_min=own.sigma_min,
        sigma_max=own.sigma_max,
        streams_at_once=options.streams_at_once,
    )


def _chosen(value: Chosen | None, own: Chosen) -> Chosen:
    return own if value is None else value


def clip_frames(control: MaskedControl, fps: float, wanted: int | None = None) -> int:
    """Return how many frames a clip has: those wanted, or those that cover what steers it; nothing is cut.

    Raises ValueError for less than one.
    """
    if wanted is not None and wanted < 1:
        raise ValueError(f"frames is {wanted}, expected at least 1")
    return frame_count(control.duration, fps) if wanted is None else wanted


def clip_signals(
    parameters: ACTalkerParameters, identity: Identity, control: MaskedControl, frames: int
) -> ClipSignals:
    """Return what steers each frame: rows of sound, and motion at the model's rate.

    Motion that ends first goes back and forth; sound that ends first is silence. Raises ValueError for features of
    another encoder than the model's.
    """
    fps = parameters.defaults.fps
    heard = None if control.audio is None else heard_by_frames(control.audio, parameters, frames)
    moved = None if control.motion is None else moved_on_frames(control.motion, parameters, frames)
    return ClipSignals(
        identity=torch.from_numpy(np.array(identity.embedding)),
        heard=heard,
        moved=moved,
        audio_gate=torch.from_numpy(control.audio_gate.on_frames(frames, fps)),
        motion_gate=torch.from_numpy(control.motion_gate.on_frames(frames, fps)),
    )


def heard_by_frames(audio: AudioEmbedding, parameters: ACTalkerParameters, frames: int) -> Tensor:
    """Return (frames, rows, layers, channels): what each frame hears; zeros before the sound and after it."""
    listening, sizes = parameters.listening, parameters.audio
    if audio.encoder != listening.encoder or tuple(audio.features.shape[1:]) != (
        sizes.layers,
        sizes.channels,
    ):
        raise ValueError(
            f"the model listens to {listening.encoder} ({sizes.layers} layers of {sizes.channels}), but the audio "
            f"embedding is {audio.encoder} {tuple(audio.features.shape[1:])}: choose {listening.encoder} in Audio "
            "Embedding, or connect the model there and choose automatic"
        )
    times = np.array(frame_times(frames, parameters.defaults.fps))
    starts = torch.from_numpy(np.rint(times * audio.rate).astype(np.int64))
    return windows_of_frames(audio.features.float(), starts, listening.rows, listening.before)


def moved_on_frames(motion: MotionEmbedding, parameters: ACTalkerParameters, frames: int) -> Tensor:
    """Return (frames, numbers) float32: the motion at the start of each frame, in between linearly.

    Angles go the shorter way round. The last row is held until it ends; then all of it goes back and forth. Raises
    ValueError for motion of another kind than the model's.
    """
    if motion.encoder != parameters.motion_kind or motion.features.shape[1] != parameters.motion.motion_size:
        raise ValueError(
            f"the model takes motion as {parameters.motion_kind} ({parameters.motion.motion_size} numbers), but the "
            f"embedding is {motion.encoder} ({motion.features.shape[1]}): make it with Motion Embedding and this model"
        )
    rate, numbers = parameters.defaults.fps, parameters.motion
    covered = frame_count(motion.duration, rate)
    places = np.array(frame_times(covered, rate)) * motion.fps
    turns = numbers.kept if motion.encoder == EXPRESSION_AND_POSE else 0
    angles = slice(numbers.features, numbers.features + turns)
    rows = interpolated_rows(motion.features, np.arange(len(motion.features)), places, angles)
    return torch.from_numpy(rows[back_and_forth(covered, frames)].astype(np.float32))


@torch.no_grad()
def acting_portrait(
    model: ACTalkerModel,
    portrait: Tensor,
    scaling_factor: float,
    picture: PreparedPicture,
    identity: Identity,
    control: MaskedControl,
    options: ACTalkerOptions = ACTalkerOptions(),
    progress: ProgressCallback | None = None,
    preview: PreviewCallback | None = None,
    check: CheckCallback | None = None,
) -> Tensor:
    """Return the clip's latents, (N, C, h, w) float32, scaled, on the model's device.

    portrait: (C, h, w) latents of the picture, unscaled. scaling_factor: of the autoencoder. picture: whose masks
    count. progress, preview, check: as for `sample_latents`.
    The noise is drawn on the CPU, so a seed is the same clip on any device, but for rounding.
    Raises ValueError for signals that are not the model's, FloatingPointError when half precision overflowed.
    """
    parameters = model.parameters_used
    sampling = sampling_options(parameters, options, control)
    frames = clip_frames(control, parameters.defaults.fps, options.frames)
    device = next(model.parameters()).device
    buckets = options.motion_buckets or parameters.defaults.motion_buckets
    regions = FaceRegions(
        *(torch.from_numpy(mask).to(device) for mask in (picture.face, picture.mouth, picture.motion))
    )
    conditions = clip_conditions(
        model,
        clip_signals(parameters, identity, control, frames),
        portrait.to(device),
        regions,
        torch.tensor([parameters.defaults.fps, *buckets]),
        control.regions,
    )
    total = frames + sampling.window
    generator = torch.Generator().manual_seed(options.seed)
    noise = torch.randn(total, *portrait.shape, generator=generator).to(device)
    start = portrait.to(device).float() * scaling_factor
    latents = sample_latents(model.unet, conditions, start, noise, sampling, progress, preview, check)
    return latents[:frames]
