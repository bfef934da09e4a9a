"""Made clips and a tiny model, for the training of the small ACTalker."""

from dataclasses import replace

import numpy as np
import torch
from talking_portrait.core_models.video_diffusion.actalker.blendshape_motion import SIGNAL_SIZE
from talking_portrait.core_models.video_diffusion.actalker.condition_projections import (
    AudioProjectionParameters,
    IdentityProjectionParameters,
    MotionProjectionParameters,
)
from talking_portrait.core_models.video_diffusion.actalker.portrait_encoder import PortraitEncoderParameters
from talking_portrait.core_models.video_diffusion.actalker.pose_guider import PoseGuiderParameters
from talking_portrait.core_models.video_diffusion.actalker.unet import UNetParameters
from talking_portrait.core_models.video_diffusion.autoencoder import (
    VideoAutoencoderParameters,
    new_video_autoencoder,
)
from talking_portrait.training.actalker import ACTalkerTrainingParameters, TrainingClips
from talking_portrait.training.actalker_data import HEARD_STEPS, ControlledClip, heard_rows
from talking_portrait.training.actalker_run import small_parameters

LAYERS, CHANNELS = 2, 3
"""Of what the made clips hear."""
SIDE, FACTOR = 8, 2.0
"""Of their made latents."""
TINY_AUTOENCODER = VideoAutoencoderParameters((32,) * 4, layers_per_block=1, scaling_factor=FACTOR, groups=1)
RECIPE = ACTalkerTrainingParameters(
    mixed_mouths=False, steps=6, batch=2, frames=3, learning_rate=3e-3, warmup_steps=2, seed=5
)


def clip(seed: int, frames: int = 5) -> ControlledClip:
    """Random pictures, sound, motion and truth; the boxes of mouth and eyes lie in the face's."""
    rng = np.random.default_rng(seed)
    return ControlledClip(
        frames=rng.integers(0, 256, (frames, 64, 64, 3), np.uint8),
        heard=rng.normal(0, 1, (heard_rows(frames), LAYERS, CHANNELS)).astype(np.float16),
        motion=rng.normal(0, 0.5, (frames, SIGNAL_SIZE)).astype(np.float32),
        mouth_opening=rng.uniform(0, 0.1, frames).astype(np.float32),
        eye_opening=rng.uniform(0, 0.06, frames).astype(np.float32),
        turn=rng.uniform(-8, 8, (frames, 2)).astype(np.float32),
        face_box=np.int32([8 - seed % 4, 8, 56, 60]),
        mouth_box=np.int32([24, 40 - seed % 3, 40, 48]),
        eye_box=np.int32([16, 16, 48, 24]),
        identity_seed=seed,
    )


def training_clips(count: int = 3, frames: int = 5) -> TrainingClips:
    """Clips with random latents of (4, 8, 8)."""
    rng = np.random.default_rng(count)
    latents = rng.normal(0, 1, (count, frames, 4, SIDE, SIDE)).astype(np.float16)
    return TrainingClips([clip(seed, frames) for seed in range(count)], latents, FACTOR)


def tiny_parameters(
    layers: int = LAYERS, channels: int = CHANNELS, layer: str = "per_frame", stride: int = 8
):
    """Return a model of the small one's kind, tiny. stride: pixels to a latent, 4 or 8."""
    p, width = small_parameters(layers, channels, layer), 24
    strides = (2, 2, 2) if stride == 8 else (2, 2)
    return replace(
        p,
        unet=UNetParameters((32, 32), (1, 1), width, 32, layers=1, layer=layer),
        pose=PoseGuiderParameters(widths=(4,) * (len(strides) + 1), strides=strides, channels=32),
        audio=AudioProjectionParameters(HEARD_STEPS, layers, channels, hidden=16, tokens=2, width=width),
        identity=IdentityProjectionParameters(8, hidden=8, width=width),
        motion=MotionProjectionParameters(p.motion.features, p.motion.kept, p.motion.zeroed, width),
        portrait_encoder=PortraitEncoderParameters((4, 8), features=8),
        defaults=replace(p.defaults, window=4, shift=1, steps=2),
    )


def tiny_autoencoder(seed: int = 0, factor: float = FACTOR):
    """Return an autoencoder with random weights, its latents 8 times smaller than pictures."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return (
            new_video_autoencoder(replace(TINY_AUTOENCODER, scaling_factor=factor))
            .eval()
            .requires_grad_(False)
        )
