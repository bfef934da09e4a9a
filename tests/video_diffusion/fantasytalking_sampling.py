"""A network that knows the answer, to be sampled with, and a small one of random weights, with all that clips need."""

import torch
from talking_portrait.core_models.video_diffusion.fantasytalking.audio_windows import (
    AudioWindows,
    audio_timeline,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.clip_conditions import (
    ClipConditions,
    FrameAudio,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.guidance import (
    GuidanceScales,
    GuidanceSchedule,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.sampler import (
    SamplingOptions,
    sample_latents,
)
from talking_portrait.core_models.video_diffusion.wan.frame_rules import video_frames
from torch import nn

from .fantasytalking_models import SMALL_MODEL, new_model

CHANNELS, TEXT, HEIGHT, WIDTH = 2, 3, 2, 2
QUICK = SamplingOptions(steps=2, window=5, overlap=1)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Block(nn.Module):
    """A block that the network runs through, to be hooked."""

    def forward(self, values):
        return values


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])


class KnowingNetwork(nn.Module):
    """Gives the velocity that leads to what `clean` says of the conditions: a number for each latent frame."""

    computing_dtype = torch.float32

    def __init__(self, clean):
        super().__init__()
        self.number = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.transformer = Transformer()
        self.clean = clean
        self.evaluations = []

    def forward(self, latents, timesteps, conditions, beginning=None):
        self.evaluations.append((latents, timesteps, conditions))
        for block in self.transformer.blocks:
            latents = block(latents)
        clean = self.clean(conditions).expand(len(latents), latents.shape[2])
        sigma = (timesteps / 1000).view(-1, 1, 1, 1, 1)
        return (latents - clean[:, None, :, None, None]) / sigma


def heard_frames(conditions):
    """The mean of each latent frame's window; 0 without sound."""
    if conditions.audio is None:
        return torch.zeros(1, 1)
    return conditions.audio.mean(dim=(2, 3)) * conditions.audio_scale[:, None]


def read_text(conditions):
    return conditions.text.mean(dim=(1, 2))[:, None]


def clip(latents, options=QUICK, **changed):
    """Conditions of a clip whose latent frame i hears the number i + 1 only, in the mean of its window."""
    window = min(latents, options.window)
    tokens = torch.arange(1.0, latents + 1)[:, None]
    given = {
        "image": drawn(4 + CHANNELS, window, HEIGHT, WIDTH),
        "text": torch.full((2, TEXT), 2.0),
        "negative_text": torch.full((2, TEXT), -1.0),
        "audio": FrameAudio(AudioWindows(tokens, tuple((place, place) for place in range(latents)))),
    }
    return ClipConditions(**given | changed)


def noise_of(latents):
    return drawn(1, CHANNELS, latents, HEIGHT, WIDTH, seed=9)


def sampled(model, conditions, latents, options=QUICK, **callbacks):
    return sample_latents(model, conditions, noise_of(latents), options, **callbacks)


def guided(by_prompt=1.0, by_sound=1.0, **intervals):
    return GuidanceSchedule(GuidanceScales(by_prompt, by_sound), **intervals)


def small_conditions(latents, window):
    p, frames = SMALL_MODEL, min(latents, window)
    tokens = drawn(8 * latents, p.audio.width, seed=4)
    return ClipConditions(
        image=drawn(p.wan.condition_channels, frames, 4, 6, seed=1),
        text=drawn(4, p.wan.text_dim, seed=2),
        negative_text=drawn(4, p.wan.text_dim, seed=3),
        picture=drawn(6, p.wan.image_dim, seed=5),
        audio=FrameAudio(audio_timeline(tokens, video_frames(latents))),
        identity=drawn(p.identity.queries, p.identity.width, seed=6),
        intensity=torch.full((latents, 2), 0.5),
    )


def small_sampler():
    """Samples with the small network, which is its attribute `model`."""
    model = new_model()

    def of(latents, options, **callbacks):
        noise = drawn(1, SMALL_MODEL.wan.out_channels, latents, 4, 6, seed=7)
        return sample_latents(model, small_conditions(latents, options.window), noise, options, **callbacks)

    of.model = model
    return of
