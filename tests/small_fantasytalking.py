"""A small FantasyTalking with random weights, as files of a models folder: pictures of 32 pixels."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from talking_portrait.core_models.video_diffusion.actalker.portrait_encoder import PortraitEncoderParameters
from talking_portrait.core_models.video_diffusion.fantasytalking.audio_projection import (
    AudioProjectionParameters,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.identity_branch import (
    IdentityBranchParameters,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.intensity_network import IntensityParameters
from talking_portrait.core_models.video_diffusion.fantasytalking.loading import exported_tensors
from talking_portrait.core_models.video_diffusion.fantasytalking.model import FantasyTalkingModel
from talking_portrait.core_models.video_diffusion.fantasytalking.parameters import (
    ClipDefaults,
    FantasyTalkingParameters,
)
from talking_portrait.core_models.video_diffusion.wan.autoencoder import (
    WanAutoencoderParameters,
    exported_wan_autoencoder,
    new_wan_autoencoder,
)
from talking_portrait.core_models.video_diffusion.wan.transformer import WanParameters

HEARD_LAYERS, HEARD_CHANNELS = 6, 192
"""What the pocket model's ear gives."""
LATENT_CHANNELS = 4
FPS, WINDOW, IMAGE_SIZE = 12.5, 9, 32
AUTOENCODER = WanAutoencoderParameters(
    base_dim=4,
    z_dim=LATENT_CHANNELS,
    dim_mult=(1, 1, 1),
    num_res_blocks=1,
    temporal_downsample=(True, True),
    patch_size=2,
    latents_mean=(0.1, -0.2, 0.3, 0.0),
    latents_std=(1.0, 2.0, 0.5, 1.5),
)
_WAN = WanParameters(
    num_attention_heads=2,
    attention_head_dim=12,
    in_channels=2 * LATENT_CHANNELS + 4,
    out_channels=LATENT_CHANNELS,
    text_dim=8,
    freq_dim=16,
    ffn_dim=32,
    num_layers=2,
    patch_size=(1, 1, 1),
    image_dim=None,
    text_length=1,
)
PARAMETERS = FantasyTalkingParameters(
    wan=_WAN,
    audio=AudioProjectionParameters(HEARD_CHANNELS, width=16, layers=HEARD_LAYERS),
    identity=IdentityBranchParameters(
        features=8, width=16, queries=2, layers=1, heads=2, hidden=16, tokens=2
    ),
    intensity=IntensityParameters(frequency_dim=8, hidden=8, width=_WAN.width),
    listening="pocket_listener",
    portrait_encoder=PortraitEncoderParameters((4, 8), features=8),
    defaults=ClipDefaults(
        fps=FPS,
        window=WINDOW,
        steps=2,
        shift=2.0,
        prompt_guidance=1.0,
        audio_guidance=2.0,
        image_size=IMAGE_SIZE,
        size_multiple=8,
    ),
)
HEARING_ONLY = replace(PARAMETERS, identity=None, intensity=None, portrait_encoder=None)
"""The branches of the release."""


def write_small_fantasytalking(
    folder: Path, name: str = "mine", seed: int = 0, parameters: FantasyTalkingParameters = PARAMETERS
) -> Path:
    """Write NAME.safetensors and NAME_autoencoder.safetensors into a folder and return the first one's path.

    What begins at 0 in training is not 0, so that everything that goes in changes what comes out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FantasyTalkingModel(parameters)
        for value in model.parameters():
            if not value.any():
                torch.nn.init.normal_(value, std=value.shape[-1] ** -0.5)
        autoencoder = new_wan_autoencoder(AUTOENCODER)
    save_file(*_file(folder, name, *exported_tensors(model)))
    save_file(*_file(folder, f"{name}_autoencoder", *exported_wan_autoencoder(autoencoder, AUTOENCODER)))
    return folder / f"{name}.safetensors"


def _file(folder: Path, name: str, tensors: dict, metadata: dict) -> tuple:
    return tensors, folder / f"{name}.safetensors", metadata
