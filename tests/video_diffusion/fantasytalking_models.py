"""Small FantasyTalkings for tests, of random weights."""

from dataclasses import replace

import torch
from talking_portrait.core_models.video_diffusion.fantasytalking.audio_projection import (
    AudioProjectionParameters,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.identity_branch import (
    IdentityBranchParameters,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.intensity_network import IntensityParameters
from talking_portrait.core_models.video_diffusion.fantasytalking.model import (
    DenoiserConditions,
    FantasyTalkingModel,
    FantasyTalkingParameters,
)
from talking_portrait.core_models.video_diffusion.wan.transformer import WanParameters

SMALL_WAN = WanParameters(
    num_attention_heads=2,
    attention_head_dim=12,
    text_dim=8,
    freq_dim=16,
    ffn_dim=32,
    num_layers=2,
    image_dim=10,
    text_length=7,
)
SMALL_MODEL = FantasyTalkingParameters(
    wan=SMALL_WAN,
    audio=AudioProjectionParameters(channels=6, width=9),
    identity=IdentityBranchParameters(features=5, width=11, queries=3, layers=1, heads=2, hidden=8, tokens=2),
    intensity=IntensityParameters(frequency_dim=8, hidden=8, width=SMALL_WAN.width),
)
RELEASE_LIKE = replace(SMALL_MODEL, identity=None, intensity=None)
"""What published files hold, small."""
FRAMES, HEIGHT, WIDTH, WINDOW = 3, 4, 6, 5


def new_model(parameters=SMALL_MODEL, seed=0, trained=True):
    """A model whose weights depend on the seed alone; trained: what begins at 0 is not 0 any more."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = FantasyTalkingModel(parameters).eval().requires_grad_(False)
        for value in model.parameters() if trained else ():
            if not value.any():
                value.normal_(std=value.shape[-1] ** -0.5)
    return model


def new_inputs(parameters=SMALL_MODEL, batch=2, seed=1, clip_level=False):
    """Latents, timesteps and all conditions that a model takes."""
    p = parameters
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return torch.randn(batch, *shape, generator=generator)

    size = (FRAMES, HEIGHT, WIDTH)
    windows = (4 * WINDOW,) if clip_level else (FRAMES, WINDOW)
    conditions = DenoiserConditions(
        image=drawn(p.wan.condition_channels, *size),
        text=drawn(4, p.wan.text_dim),
        picture=None if p.wan.image_dim is None else drawn(6, p.wan.image_dim),
        audio=drawn(*windows, p.audio.width),
        identity=None if p.identity is None else drawn(p.identity.queries, p.identity.width),
        intensity=None if p.intensity is None else drawn(2).sigmoid(),
    )
    return drawn(p.wan.out_channels, *size), torch.linspace(900.0, 300.0, batch), conditions


def evaluated(model, inputs, cache=None, **changed):
    """The velocity of inputs as `new_inputs` gives them, but for some conditions."""
    latents, timesteps, conditions = inputs
    with torch.no_grad():
        return model(latents, timesteps, replace(conditions, **changed), cache)
