"""Made clips and a tiny model, for the training of the small FantasyTalking."""

from dataclasses import replace

import numpy as np
import torch
from talking_portrait.core_models.motion.motion_intensity import EmpiricalDistribution, IntensityScale
from talking_portrait.core_models.video_diffusion.actalker.portrait_encoder import PortraitEncoderParameters
from talking_portrait.core_models.video_diffusion.fantasytalking.audio_projection import (
    AudioProjectionParameters,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.identity_branch import (
    IdentityBranchParameters,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.intensity_network import IntensityParameters
from talking_portrait.core_models.video_diffusion.fantasytalking.model import FantasyTalkingModel
from talking_portrait.core_models.video_diffusion.wan.autoencoder import (
    WanAutoencoderParameters,
    new_wan_autoencoder,
)
from talking_portrait.training.fantasytalking import FantasyTalkingTrainingParameters, TrainingClips
from talking_portrait.training.fantasytalking_data import TalkingClip, TalkingClips, heard_rows
from talking_portrait.training.fantasytalking_run import small_parameters

LAYERS, CHANNELS = 2, 3
"""Of what the made clips hear."""
FRAMES, LATENTS, SIDE, LATENT_CHANNELS = 9, 3, 8, 4
"""Of their clips: video frames, latent frames, and height, width and channels of latents."""
TINY_AUTOENCODER = WanAutoencoderParameters.unmeasured(
    base_dim=4,
    z_dim=LATENT_CHANNELS,
    dim_mult=(1, 1, 1),
    num_res_blocks=1,
    temporal_downsample=(True, True),
    patch_size=2,
)
RECIPE = FantasyTalkingTrainingParameters(
    steps=6, clip_level_steps=2, batch=2, learning_rate=3e-3, warmup_steps=2, rank=2, seed=5
)


def clip(seed: int, frames: int = FRAMES, person: int | None = None) -> TalkingClip:
    """Random pictures, sound and truth; the boxes of mouth and eyes lie in the face's and move by a pixel."""
    rng = np.random.default_rng(seed)
    moved = np.tile(np.arange(frames)[:, None] % 2, (1, 4))
    return TalkingClip(
        frames=rng.integers(0, 256, (frames, 64, 64, 3), np.uint8),
        heard=rng.normal(0, 1, (heard_rows(frames), LAYERS, CHANNELS)).astype(np.float16),
        mouth_opening=rng.uniform(0, 0.1, frames).astype(np.float32),
        eye_opening=rng.uniform(0, 0.06, frames).astype(np.float32),
        turn=rng.uniform(-8, 8, (frames, 2)).astype(np.float32),
        place=rng.uniform(28, 36, (frames, 2)).astype(np.float32),
        face_box=(np.int32([12 - seed % 4, 8, 52, 56]) + moved).astype(np.int32),
        mouth_box=(np.int32([24, 40 - seed % 3, 40, 48]) + moved).astype(np.int32),
        eye_box=(np.int32([16, 16, 48, 24]) + moved).astype(np.int32),
        face_variance=np.array(0.001 * (1 + seed % 5)),
        body_variance=np.array(0.002 * (1 + seed % 7)),
        identity_seed=seed if person is None else person,
    )


SCALE = IntensityScale(
    EmpiricalDistribution((0.0, 0.008), (0.0, 1.0)), EmpiricalDistribution((0.0, 0.016), (0.0, 1.0))
)


def training_clips(count: int = 3, frames: int = FRAMES) -> TrainingClips:
    """Clips with random latents of (4, 8, 8)."""
    rng = np.random.default_rng(count)
    shape = (count, LATENT_CHANNELS, (frames - 1) // 4 + 1, SIDE, SIDE)
    latents, starts = rng.normal(0, 1, (2, *shape)).astype(np.float16)
    return TrainingClips(
        TalkingClips(tuple(clip(seed, frames) for seed in range(count)), SCALE), latents, starts
    )


def tiny_parameters(layers: int = LAYERS, channels: int = CHANNELS, heads: int = 2, blocks: int = 1):
    """Return a model of the small one's kind, tiny."""
    p = small_parameters(layers, channels)
    wan = replace(
        p.wan,
        num_attention_heads=heads,
        attention_head_dim=12,
        in_channels=2 * LATENT_CHANNELS + 4,
        out_channels=LATENT_CHANNELS,
        text_dim=5,
        freq_dim=16,
        ffn_dim=24,
        num_layers=blocks,
    )
    return replace(
        p,
        wan=wan,
        audio=AudioProjectionParameters(channels, width=8, layers=layers),
        identity=IdentityBranchParameters(
            features=6, width=8, queries=2, layers=1, heads=2, hidden=8, tokens=2
        ),
        intensity=IntensityParameters(frequency_dim=8, hidden=8, width=wan.width),
        portrait_encoder=PortraitEncoderParameters((4, 8), features=6),
        defaults=replace(p.defaults, window=FRAMES, steps=2),
    )


def tiny_model(parameters=None) -> FantasyTalkingModel:
    """With random weights, those that begin at 0 among them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = FantasyTalkingModel(tiny_parameters() if parameters is None else parameters)
        for value in model.parameters():
            if not value.any():
                torch.nn.init.normal_(value, std=0.3)
    return model


def tiny_autoencoder(seed: int = 0, parameters=TINY_AUTOENCODER):
    """Return an autoencoder with random weights, its latents 8 times smaller than pictures."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return new_wan_autoencoder(parameters).eval().requires_grad_(False)
