"""What a small ACTalker shows on people and sentences it never saw: gates, conflict, sync.

Every clip speaks with its own sound and is moved by the motion of another clip, so that what follows which signal can
be told apart. Readings are those of a `FrameReader`; truths are the made heads' own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..core_models.types import ProgressCallback
from ..core_models.video_diffusion.actalker.blendshape_motion import HEAD_NUMBERS, motion_numbers
from ..core_models.video_diffusion.actalker.clip_conditions import ClipSignals, clip_conditions
from ..core_models.video_diffusion.actalker.model import ACTalkerModel
from ..core_models.video_diffusion.actalker.sampler import SamplingOptions, sample_latents
from ..core_models.video_types import FULL, REGIONS
from .actalker import shared_regions, time_conditions
from .actalker_data import ControlledClip, heard_rows
from .actalker_latents import decode_latents, encode_clips, pictures_of_frames
from .actalker_readers import READINGS, FrameReader, true_readings
from .correlation import correlation

AUDIO, MOTION, JOINT, JOINT_FULL = "audio only", "motion only", "both, by region", "both, everywhere"
SETTINGS: dict[str, tuple[float, float, str]] = {
    AUDIO: (1.0, 0.0, REGIONS),
    MOTION: (0.0, 1.0, REGIONS),
    JOINT: (1.0, 1.0, REGIONS),
    JOINT_FULL: (1.0, 1.0, FULL),
}
"""Gates of audio and motion, and the regions."""


@dataclass(frozen=True)
class Trial:
    """One clip to be made. clip: gives the person, the portrait (its first frame) and the sound. mover: gives the
    motion. other: a clip whose expression stands for another motion signal."""

    clip: ControlledClip
    mover: ControlledClip
    other: ControlledClip


def trials_of(clips: Sequence[ControlledClip], count: int) -> list[Trial]:
    """Return `count` trials: clips spread over all of them, each with the motion of two other people's.

    Raises ValueError for no trial, more trials than clips, or clips of fewer than three people.
    """
    if not 1 <= count <= len(clips):
        raise ValueError(
            f"there are {len(clips)} clips for {count} trials, expected 1 to {len(clips)} trials"
        )
    first = {clip.identity_seed: clip for clip in reversed(clips)}
    if len(first) < 3:
        raise ValueError(
            f"the clips are of {len(first)} people, expected at least 3: who speaks and two who move"
        )
    chosen = [clips[index] for index in np.linspace(0, len(clips) - 1, count).astype(int)]
    return [Trial(clip, *_others(clip, list(first.values()))) for clip in chosen]


def _others(clip: ControlledClip, people: Sequence[ControlledClip]) -> tuple[ControlledClip, ControlledClip]:
    """Return clips of two more people, half and a third of the way round."""
    seeds = [one.identity_seed for one in people]
    others = people[seeds.index(clip.identity_seed) + 1 :] + people[: seeds.index(clip.identity_seed)]
    half = len(others) // 2
    third = len(others) // 3
    return others[half], others[third if third != half else half - 1]


@torch.no_grad()
def made_frames(
    model: ACTalkerModel,
    autoencoder,
    trial: Trial,
    setting: str,
    signal: np.ndarray | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Return (N, 64, 64, 3) uint8 frames of a trial under one of SETTINGS.

    signal: (N, 58) motion in the place of the mover's. The noise depends on the seed alone.
    """
    audio_gate, motion_gate, mode = SETTINGS[setting]
    count = len(trial.clip)
    defaults = model.parameters_used.defaults
    factor = autoencoder.config.scaling_factor
    start = torch.from_numpy(encode_clips(autoencoder, [first_frame(trial.clip)])[0, 0]).float()
    signals = ClipSignals(
        identity=model.portrait_encoder(pictures_of_frames(trial.clip.frames[:1]))[0],
        heard=torch.from_numpy(np.ascontiguousarray(trial.clip.audio)).float(),
        moved=torch.from_numpy(motion_numbers(trial.mover.motion if signal is None else signal)),
        audio_gate=torch.full((count,), audio_gate),
        motion_gate=torch.full((count,), motion_gate),
    )
    conditions = clip_conditions(
        model, signals, start / factor, shared_regions([trial.clip]), time_conditions(model), mode
    )
    options = SamplingOptions(
        steps=steps or defaults.steps,
        guidance=defaults.guidance,
        window=defaults.window,
        shift=defaults.shift,
        sigma_min=defaults.sigma_min,
        sigma_max=defaults.sigma_max,
    )
    noise = torch.randn(count + options.window, *start.shape, generator=torch.Generator().manual_seed(seed))
    latents: Tensor = sample_latents(model.unet, conditions, start, noise, options)[:count]
    return decode_latents(autoencoder, latents.numpy())


def first_frame(clip: ControlledClip) -> ControlledClip:
    """Return the clip's first frame by itself."""
    alone = {
        name: getattr(clip, name)[:1] for name in ("frames", "motion", "mouth_opening", "eye_opening", "turn")
    }
    return replace(clip, heard=clip.heard[: heard_rows(1)], **alone)


def other_expression(trial: Trial) -> np.ndarray:
    """Return (N, 58): the mover's head with the other clip's face, so that only what the face does differs."""
    signal = trial.other.motion.copy()
    signal[:, -HEAD_NUMBERS:] = trial.mover.motion[:, -HEAD_NUMBERS:]
    return signal


def followed(read: np.ndarray, clip: ControlledClip) -> np.ndarray:
    """Return (4,) correlations of the READINGS of made frames with a clip's truth."""
    return correlation(read, true_readings(clip))


def mouth_change(first: np.ndarray, second: np.ndarray, box: np.ndarray) -> float:
    """Return the mean absolute difference, of 255, of two clips' frames within a box of pixels."""
    left, top, right, bottom = box.tolist()
    parts = (frames[:, top:bottom, left:right].astype(np.float32) for frames in (first, second))
    one, other = parts
    return float(np.abs(one - other).mean())


def measured(
    model: ACTalkerModel,
    autoencoder,
    reader: FrameReader,
    trials: Sequence[Trial],
    steps: int | None = None,
    seed: int = 0,
    settings: Sequence[str] = tuple(SETTINGS),
    progress: ProgressCallback | None = None,
) -> dict[str, dict[str, float]]:
    """Return {setting: {measure: mean over trials}}.

    "sound: mouth_opening" is how the mouth follows the sound's own clip, "motion: eye_opening" and so on how a reading
    follows the clip that gives the motion. "mouth changed": mean difference, of 255, of the frames in the mouth's box
    when only the expression of the motion signal is another; "mouth opening changed": of the mouth read there.
    """
    found: dict[str, list[dict[str, float]]] = {setting: [] for setting in settings}
    for number, trial in enumerate(trials):
        for setting in settings:
            frames = made_frames(model, autoencoder, trial, setting, steps=steps, seed=seed)
            read = reader.read(frames)
            values = {f"sound: {READINGS[0]}": float(followed(read, trial.clip)[0])}
            moved = followed(read, trial.mover)
            values |= {f"motion: {name}": float(value) for name, value in zip(READINGS, moved, strict=True)}
            if SETTINGS[setting][1]:
                changed = made_frames(
                    model, autoencoder, trial, setting, other_expression(trial), steps, seed
                )
                values["mouth changed"] = mouth_change(frames, changed, trial.clip.mouth_box)
                values["mouth opening changed"] = float(np.abs(read - reader.read(changed))[:, 0].mean())
            found[setting].append(values)
        if progress is not None:
            progress(number + 1, len(trials))
    return {
        setting: {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        for setting, rows in found.items()
    }
